"""`qkv translate`: files, pipes and a person on a terminal."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import qkv
from qkv.cli import chunks
from qkv.cli.main import main

QKV = Path(sys.executable).with_name("qkv")


def test_translate_gives_a_line_for_every_line(run, translator, typed, ok):
    typed(b"ab\n\n  \ncab\r\nbad dab")
    lines = ok("translate", run)
    assert lines == translator.translate(["ab", "", "  ", "cab", "bad dab"])
    assert lines[1] == lines[2] == ""
    assert lines[0]


def test_translate_of_nothing_is_nothing(run, ok):
    assert ok("translate", run) == []


def test_translate_takes_search_options(run, translator, typed, ok):
    typed(b"abcd\n")
    assert ok("translate", run, "--beam", 1, "--threads", 1, "--device", "cpu") == translator.translate(
        ["abcd"], beam=1
    )
    typed(b"abcd\n")
    assert ok("translate", run, "--beam", 4, "--length-penalty", 0, "--checkpoint", "last") == qkv.load(
        run, checkpoint="last"
    ).translate(["abcd"], beam=4, length_penalty=0.0)


def test_translate_takes_a_shortlist(own_run, typed, ok):
    typed(b"abcd\n")
    assert ok("translate", own_run, "--shortlist", 2) == qkv.load(own_run, shortlist=2).translate(["abcd"])
    assert Path(own_run, "shortlist-2.safetensors").is_file()


@pytest.mark.parametrize("penalty", ["nan", "-1", "inf"])
def test_translate_refuses_an_impossible_length_penalty(penalty, run, typed, refused):
    typed(b"ab\n")
    assert refused("translate", run, "--length-penalty", penalty).startswith("length_penalty: must be ")


def test_translate_refuses_a_beam_narrower_than_n_best(run, typed, refused):
    typed(b"ab\n")
    assert "must not be larger than the beam" in refused("translate", run, "--n-best", 3, "--beam", 2)


def test_translate_prints_the_n_best_with_line_number_and_score(run, translator, typed, ok):
    typed(b"ab\n\ncab\n")
    lines = ok("translate", run, "--n-best", 3)
    expected = translator.n_best(["ab", "", "cab"], 3)
    assert lines == [
        f"{number}\t{output.score:.4f}\t{output.text}" + ("" if output.finished else "\tcut off")
        for number, outputs in enumerate(expected, start=1)
        for output in outputs
    ]
    assert {line.split("\t")[0] for line in lines} == {"1", "2", "3"}
    assert "2\t0.0000\t" in lines


def test_translate_reads_and_writes_files(run, data, translator, tmp_path, ok):
    target = tmp_path / "deep" / "out.txt"
    assert ok("translate", run, "--input", data / "test.source", "--output", target) == []
    assert target.read_text("utf-8").splitlines() == translator.translate(["ab", "cab"])
    assert ok("translate", run, "--input", data / "test.source", "--output", target, "--n-best", 1)[:1] == []
    assert target.read_text("utf-8").startswith("1\t-")
    assert list(target.parent.iterdir()) == [target], "no temporary file is left"


def test_what_was_done_before_a_fault_is_written_and_said(run, translator, tmp_path, refused, faulty):
    source = faulty(tmp_path, "source.txt", b"ab\ncab\n\xff\nab\n")
    target = faulty(tmp_path, "out.txt", b"as it was")
    said = refused("translate", run, "--input", source, "--output", target)
    assert said.startswith(f"{source}:3: not valid UTF-8")
    assert said.endswith(f"; what was done before it, 2 lines, is in {target}")
    assert target.read_text("utf-8").splitlines() == translator.translate(["ab", "cab"])
    assert sorted(tmp_path.iterdir()) == [target, source], "no temporary file is left"


def test_where_nothing_was_done_the_output_stays_as_it_was(run, tmp_path, refused, faulty, tree):
    source = faulty(tmp_path, "source.txt", b"\xff\nab\n")
    target = faulty(tmp_path, "out.txt", b"as it was")
    before = tree(tmp_path)
    assert refused("translate", run, "--input", source, "--output", target).startswith(f"{source}:1: not valid UTF-8")
    assert refused("translate", run, "--input", tmp_path / "nowhere", "--output", target).endswith(
        "nowhere: no such file"
    )
    assert tree(tmp_path) == before


def test_an_interruption_keeps_what_was_done(run, data, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        yield "A"
        raise KeyboardInterrupt

    monkeypatch.setattr("qkv.cli.verbs.translate._translated", interrupted)
    target = tmp_path / "out.txt"
    assert main(["translate", run, "--input", str(data / "test.source"), "--output", str(target)]) == 130
    assert target.read_text("utf-8") == "A\n"
    assert capsys.readouterr().err == f"qkv: interrupted; what was done before it, 1 line, is in {target}\n"


def test_translate_refuses_an_output_that_cannot_be_written(run, data, tmp_path, refused):
    (tmp_path / "file").touch()
    arguments = ["translate", run, "--input", data / "test.source", "--output"]
    assert refused(*arguments, tmp_path).startswith(f"{tmp_path}: cannot be written")
    assert refused(*arguments, tmp_path / "file" / "out").startswith(f"{tmp_path}/file/out: cannot be written")


def test_translate_leaves_a_device_a_device(run, data, ok):
    ok("translate", run, "--input", data / "test.source", "--output", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_translate_works_chunk_by_chunk(run, translator, typed, capsys, monkeypatch):
    monkeypatch.setattr(chunks, "ITEMS_AT_ONCE", 2)
    typed(b"ab\nba\nabc\ncab\n\xff\n")
    assert main(["translate", run, "--n-best", "1"]) == 2
    captured = capsys.readouterr()
    # What came before the fault is out already, numbered through.
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == ["1", "2", "3", "4"]
    assert [line.split("\t")[2] for line in captured.out.splitlines()] == translator.translate(
        ["ab", "ba", "abc", "cab"]
    )
    assert captured.err.startswith("qkv: standard input:5: not valid UTF-8")


def test_translate_keeps_an_output_on_its_line(run, typed, ok, monkeypatch):
    monkeypatch.setattr(
        "qkv.translator.Translator.translate", lambda self, sources, **_: ["a\nb\r\nc"] * len(sources.texts)
    )
    typed(b"ab\nab\n")
    assert ok("translate", run) == ["a b  c"] * 2


def test_translate_without_standard_input(run, monkeypatch, refused):
    monkeypatch.setattr(sys, "stdin", None)
    assert refused("translate", run) == "standard input is closed"


def test_translate_in_a_pipe_whose_reader_leaves(run):
    process = subprocess.Popen(
        [QKV, "translate", run, "--threads", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    process.stdin.write(b"ab\n" * 10)
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_translate_answers_a_line_before_the_next_one_comes(run, translator, dialogue):
    with dialogue("translate", run) as process:
        for word in ("cab", "bad", "", "dab"):
            assert process.say(f"{word}\n") == f"{translator.translate(word)}\n"
        assert process.communicate(b"ab") == (f"{translator.translate('ab')}\n".encode(), b"")
        assert process.returncode == 0


def test_translate_waiting_for_a_line_can_be_interrupted(run, dialogue):
    with dialogue("translate", run) as process:
        process.say("cab\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read() == b""


def test_translate_talks_with_a_person_on_a_terminal(run, translator):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([QKV, "translate", run], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    def read_until(text):
        seen = b""
        while text not in seen:
            seen += os.read(ours, 1024)
        return seen.decode()

    assert "Ctrl-D ends" in read_until(b"> ")
    for word in ("cab", ""):
        os.write(ours, f"{word}\n".encode())
        assert read_until(b"> ").replace("\r", "") == f"{word}\n{translator.translate(word)}\n> "
    os.write(ours, b"\x04")
    assert process.wait(timeout=120) == 0
    os.close(ours)


def test_a_checkpoint_of_another_architecture_is_refused(own_run, typed, refused):
    state = Path(own_run, "best").resolve() / "state.json"
    state.write_text(state.read_text().replace('"transformer"', '"recurrent"'))
    (state.parent / "manifest.json").unlink()  # which would say that the file is damaged
    typed(b"ab\n")
    assert "architecture 'recurrent'" in refused("translate", own_run)


LONG = "abcd" * 5
TOO_LONG = "the source has 21 tokens, but the model has learned 8 positions only"


class TestBadLines:
    """Whatever is wrong with one line, the others have their answers."""

    @pytest.fixture
    def mixed(self, short_run, typed, monkeypatch):
        """Lines of which the fourth is too long and the sixth is not UTF-8; the answers to the others."""
        monkeypatch.setattr(chunks, "ITEMS_AT_ONCE", 3)
        typed(f"ab\ncab\n\n{LONG}\nbad\n".encode() + b"\xff\n" + f"{LONG}\ndab\n".encode())
        words = ["ab", "cab", "bad", "dab"]
        return dict(zip(words, qkv.load(short_run).translate(words), strict=True))

    def test_stop_is_the_default_and_keeps_what_is_done(self, short_run, mixed, capsys):
        assert main(["translate", short_run]) == 2
        out, err = capsys.readouterr()
        assert out.splitlines() == [mixed["ab"], mixed["cab"], ""]
        assert err.startswith(f"qkv: standard input:4: {TOO_LONG}")
        assert err.count("\n") == 1

    def test_skip_leaves_an_empty_line(self, short_run, mixed, told):
        out, err = told("translate", short_run, "--on-error", "skip")
        assert out == [mixed["ab"], mixed["cab"], "", "", mixed["bad"], "", "", mixed["dab"]]
        assert len(err) == 1
        assert err[0].startswith(f"qkv: 3 lines were skipped, the first: standard input:4: {TOO_LONG}")

    def test_cut_translates_what_the_model_can_read(self, short_run, mixed, told):
        out, err = told("translate", short_run, "--on-error", "cut")
        beginning = qkv.load(short_run).translate(LONG[:7])
        assert out == [mixed["ab"], mixed["cab"], "", beginning, mixed["bad"], "", beginning, mixed["dab"]]
        assert err == [
            "qkv: 1 line was skipped, the first: standard input:6: not valid UTF-8 (byte 1 of the line, 0xff); "
            "convert it to UTF-8",
            "qkv: 2 sources were cut, the first at standard input:4, from 21 tokens to 8",
        ]

    def test_n_best_lists_keep_their_line_numbers(self, short_run, mixed, told):
        out, _ = told("translate", short_run, "--on-error", "skip", "--n-best", 1)
        assert [line.split("\t")[0] for line in out] == list("12345678")
        assert out[3] == "4\t\t"

    def test_a_file_is_named_with_the_line(self, short_run, tmp_path, refused):
        source, target = tmp_path / "source.txt", tmp_path / "out.txt"
        source.write_text("ab\n" * 10 + LONG + "\nab\n")
        said = refused("translate", short_run, "--input", source, "--output", target)
        assert said.startswith(f"{source}:11: {TOO_LONG}")
        assert said.endswith(f"what was done before it, 10 lines, is in {target}")
        assert len(target.read_text().splitlines()) == 10


class TestUnknownSymbols:
    def test_they_are_counted_once_at_the_end(self, run, translator, typed, told, monkeypatch):
        monkeypatch.setattr(chunks, "ITEMS_AT_ONCE", 2)
        lines = ["ab", "a東b", "cab", "京", "東"]
        typed("\n".join(lines).encode())
        out, err = told("translate", run)
        assert out == translator.translate(lines)
        assert err == ["qkv: 3 symbols that the model does not know on 3 lines, the first at standard input:2: 東 京"]

    def test_a_model_without_attention_cannot_copy(self, recipe, tmp_path, typed, refused):
        path = tmp_path / "gru"
        assert main(["train", recipe, f"run={path}", "--quiet", "model={architecture: gru, d_model: 16}"]) == 0
        typed("東".encode())
        assert refused("translate", path, "--unknown", "copy").startswith(
            "unknown symbols cannot be copied: this model has no attention"
        )

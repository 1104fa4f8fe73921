"""`qkv translate`: files, pipes and a person on a terminal."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import qkv
from qkv.cli import streams
from qkv.cli.main import main
from qkv.errors import UserError

QKV = Path(sys.executable).with_name("qkv")


def test_translate_gives_a_line_for_every_line(run, translator, typed, ok):
    typed("ab\n\n  \ncab\r\nä unknown".encode())
    lines = ok("translate", run)
    assert lines == translator.translate(["ab", "", "  ", "cab", "ä unknown"])
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
        f"{number}\t{output.score:.4f}\t{output.text}"
        for number, outputs in enumerate(expected, start=1)
        for output in outputs
    ]
    assert [line.split("\t")[0] for line in lines] == ["1", "1", "1", "2", "3", "3", "3"]
    assert "2\t0.0000\t" in lines


def test_translate_reads_and_writes_files(run, data, translator, tmp_path, ok):
    target = tmp_path / "deep" / "out.txt"
    assert ok("translate", run, "--input", data / "test.source", "--output", target) == []
    assert target.read_text("utf-8").splitlines() == translator.translate(["ab", "cab"])
    assert ok("translate", run, "--input", data / "test.source", "--output", target, "--n-best", 1)[:1] == []
    assert target.read_text("utf-8").startswith("1\t-")
    assert list(target.parent.iterdir()) == [target], "no temporary file is left"


def test_translate_writes_all_or_nothing(run, tmp_path, refused, faulty, tree):
    source = faulty(tmp_path, "source.txt", b"ab\nab\n\xff\n")
    target = faulty(tmp_path, "out.txt", b"as it was")
    before = tree(tmp_path)
    assert refused("translate", run, "--input", source, "--output", target).startswith(f"{source}:3: not valid UTF-8")
    assert refused("translate", run, "--input", tmp_path / "nowhere", "--output", target).endswith(
        "nowhere: no such file"
    )
    assert tree(tmp_path) == before


def test_translate_refuses_an_output_that_cannot_be_written(run, data, tmp_path, refused):
    (tmp_path / "file").touch()
    arguments = ["translate", run, "--input", data / "test.source", "--output"]
    assert refused(*arguments, tmp_path).startswith(f"{tmp_path}: cannot be written")
    assert refused(*arguments, tmp_path / "file" / "out").startswith(f"{tmp_path}/file/out: cannot be written")


def test_translate_leaves_a_device_a_device(run, data, ok):
    ok("translate", run, "--input", data / "test.source", "--output", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_translate_works_chunk_by_chunk(run, translator, typed, capsys, monkeypatch):
    monkeypatch.setattr(streams, "ITEMS_AT_ONCE", 2)
    typed(b"ab\nba\nabc\ncab\n\xff\n")
    assert main(["translate", run, "--n-best", "1"]) == 2
    captured = capsys.readouterr()
    # What came before the fault is out already, numbered through.
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == ["1", "2", "3", "4"]
    assert [line.split("\t")[2] for line in captured.out.splitlines()] == translator.translate(
        ["ab", "ba", "abc", "cab"]
    )
    assert captured.err.startswith("qkv: standard input:5: not valid UTF-8")


def test_translate_says_in_which_chunk_a_source_is_at_fault(run, typed, capsys, monkeypatch):
    def translate(self, sources, **_):
        if "bad" in sources:
            raise UserError("source 2 is too long")
        return sources

    monkeypatch.setattr("qkv.translator.Translator.translate", translate)
    monkeypatch.setattr(streams, "ITEMS_AT_ONCE", 2)
    typed(b"ab\nab\nab\nbad\n")
    assert main(["translate", run]) == 2
    assert capsys.readouterr() == ("ab\nab\n", "qkv: after 2 lines: source 2 is too long\n")


def test_translate_keeps_an_output_on_its_line(run, typed, ok, monkeypatch):
    monkeypatch.setattr("qkv.translator.Translator.translate", lambda self, sources, **_: ["a\nb\r\nc"] * len(sources))
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
    assert process.wait() == 0


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

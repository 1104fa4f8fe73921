"""`qkv score`."""

import pytest

from qkv.cli import chunks
from qkv.cli.main import main


def test_score_prints_log_probability_and_perplexity(run, translator, typed, data, ok):
    typed("ab\tÄ B\ncab\t\nab\tÄ B\n".encode())
    pairs = [("ab", "Ä B"), ("cab", ""), ("ab", "Ä B")]
    expected = [f"{s.log_probability:.4f}\t{s.perplexity:.4f}" for s in translator.score(pairs)]
    assert ok("score", run) == expected
    lines = ok("score", run, "--source", data / "test.source", "--target", data / "test.target")
    assert len(lines) == 2
    assert lines[0] == expected[0]


def test_score_prints_tokens(run, translator, typed, ok):
    typed("ab\tÄ B\n".encode())
    (line,) = ok("score", run, "--tokens")
    (score,) = translator.score([("ab", "Ä B")])
    tokens = [token.rpartition(":") for token in line.split("\t")[2].split(" ")]
    assert [token for token, _, _ in tokens] == score.tokens
    assert sum(float(value) for _, _, value in tokens) == pytest.approx(score.log_probability, abs=1e-3)


def test_score_works_chunk_by_chunk(run, typed, capsys, monkeypatch):
    monkeypatch.setattr(chunks, "ITEMS_AT_ONCE", 2)
    typed(b"ab\tA\nab\tA\nab\tA\nno tab\n")
    assert main(["score", run]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3, "what stands before it in its chunk is scored, too"
    assert captured.err == "qkv: standard input:4: 2 tab-separated columns needed, found 1\n"


def test_score_answers_a_line_before_the_next_one_comes(run, translator, dialogue):
    with dialogue("score", run) as process:
        for _ in range(3):
            [score] = translator.score([("ab", "Ä B")])
            assert process.say("ab\tÄ B\n") == f"{score.log_probability:.4f}\t{score.perplexity:.4f}\n"
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_score_leaves_out_a_line_that_it_cannot_score(short_run, typed, told, capsys):
    lines = ["ab\tÄ B", "no tab", "ab\t" + "B" * 20, "a" * 20 + "\tB", "cab\tC"]
    typed("\n".join(lines).encode())
    out, err = told("score", short_run, "--on-error", "skip")
    assert [bool(line) for line in out] == [True, False, False, False, True]
    assert err[0] == ("qkv: 3 lines were skipped, the first: standard input:2: 2 tab-separated columns needed, found 1")
    typed("\n".join(lines[2:]).encode())
    assert main(["score", short_run]) == 2
    assert capsys.readouterr().err.startswith("qkv: standard input:1: the target has 21 tokens, but the model has")


def test_score_names_a_pair_of_a_file(short_run, data, tmp_path, capsys):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("ab\tB\n" * 3 + "ab\t" + "B" * 20 + "\n")
    assert main(["score", short_run, "--data", str(pairs)]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3
    assert err.startswith("qkv: pair 4: the target has 21 tokens")

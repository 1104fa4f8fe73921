"""`qkv score`."""

import pytest

from qkv.cli import streams
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
    monkeypatch.setattr(streams, "ITEMS_AT_ONCE", 2)
    typed(b"ab\tA\nab\tA\nab\tA\nno tab\n")
    assert main(["score", run]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert captured.err == "qkv: standard input:4: 2 tab-separated columns needed, found 1\n"

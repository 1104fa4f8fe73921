"""`qkv evaluate`."""

import json
import re
from pathlib import Path

import pytest

from qkv.cli.main import main


def test_evaluate_prints_the_metrics_of_the_recipe_on_its_test_pairs(run, translator, ok):
    ab, dada = translator.translate(["ab", "dada"])
    wrong = (ab not in ("Ä B", "B Ä")) + (dada != "D Ä D Ä")
    lines = ok("evaluate", run)
    assert lines[0] == "3 pairs of 2 different sources"
    assert lines[1] == f"wer {50 * wrong:.2f}"
    assert re.fullmatch(r"per \d+\.\d\d", lines[2])


def test_evaluate_takes_other_pairs_and_metrics(run, data, ok):
    lines = ok(
        "evaluate", run, "--source", data / "test.source", "--target", data / "test.target", "--metrics", "chrf, cer"
    )
    assert lines[0] == "2 pairs of 2 different sources"
    assert re.fullmatch(r"chrf \d+\.\d\d  \(nrefs:1\|.*version:.*\)", lines[1])
    assert lines[2].startswith("cer ")
    assert ok("evaluate", run, "--data", data / "train.tsv", "--beam", 1)[0] == "10 pairs of 10 different sources"


def test_evaluate_says_by_which_words_bleu_counts_and_when_it_cannot(run, data, tmp_path, capsys):
    """On standard error: what is printed is for machines, too."""
    (tmp_path / "zh.tsv").write_text("ab\t一个男人在绿色的椅子上睡觉\n", "utf-8")

    def said(*arguments):
        assert main(["evaluate", run, "--metrics", "bleu", "--json", *map(str, arguments)]) == 0
        captured = capsys.readouterr()
        return json.loads(captured.out)["bleu"]["signature"], captured.err.splitlines()

    signature, (line,) = said(
        "--source", data / "test.source", "--target", data / "test.target", "--bleu-tokenize", "intl"
    )
    assert "tok:intl" in signature
    assert line == "qkv: bleu counts runs of 4 words, and none of 2 references has so many (words by intl): " + (
        "it cannot tell outputs apart; chrf can"
    )
    signature, (line,) = said("--data", tmp_path / "zh.tsv")
    assert "tok:zh" in signature
    assert line.startswith("qkv: bleu counts words by sacreBLEU's zh, for the script of the references")
    assert said("--data", tmp_path / "zh.tsv", "--bleu-tokenize", "char")[1] == []


def test_evaluate_prints_json_for_machines(run, ok):
    found = json.loads("\n".join(ok("evaluate", run, "--json", "--metrics", "chrf,exact_match")))
    assert list(found) == ["chrf", "exact_match"]
    assert found["chrf"]["signature"].startswith("nrefs:1|")
    assert found["exact_match"]["signature"] is None
    assert 0 <= found["exact_match"]["value"] <= 100


def test_evaluate_writes_an_output_for_every_pair(run, translator, tmp_path, ok):
    ok("evaluate", run, "--output", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text("utf-8").splitlines() == translator.translate(["ab", "ab", "dada"])


def test_evaluate_refuses_what_it_cannot_do(run, data, refused):
    assert refused("evaluate", run, "--metrics", "blue") == "unknown metric 'blue'; did you mean bleu?"
    assert refused("evaluate", run, "--data", "nowhere.tsv") == "nowhere.tsv: no such file"
    assert refused("evaluate", run, "--source", data / "test.source").startswith(
        "pairs: give 'path' (one file), or both"
    )
    assert "not both" in refused("evaluate", run, "--data", data / "test.tsv", "--source", data / "test.source")
    assert "suffix does not tell the format" in refused("evaluate", run, "--data", data / "test.source")


def test_evaluate_finds_an_unknown_metric_before_it_translates(run, refused, monkeypatch):
    monkeypatch.setattr("qkv.translator.Translator.translate", lambda *_, **__: pytest.fail("it translates"))
    assert refused("evaluate", run, "--metrics", "bleu,blue").startswith("unknown metric 'blue'")


def test_evaluate_without_test_pairs(own_run, refused):
    config = Path(own_run, "config.yaml")
    config.write_text(re.sub(r"  test:\n(    .*\n)+", "", config.read_text("utf-8")), "utf-8")
    assert refused("evaluate", own_run) == (
        f"{own_run}: its recipe has no data.test; say --data FILE, or --source FILE --target FILE"
    )

"""Several runs opened as one translator: an ensemble, from Python and from the command line."""

import pytest
import torch

import qkv
from qkv.cli.main import main
from qkv.errors import UserError
from qkv.training.trainer import train

SOURCES = ["katomi", "resu", "", "bane kato"]


@pytest.fixture(scope="module")
def runs(make_recipe, tmp_path_factory, without_shape_checks) -> dict[str, str]:
    directory, made = tmp_path_factory.mktemp("ensemble"), {}
    recurrent = {"architecture": "gru-attention", "num_heads": 2, "tie": "all"}
    changes = {"one": {}, "two": {"model": recurrent}, "other": {"tokenizer": {"vocab_size": 30}}}
    for seed, (name, changed) in enumerate(changes.items(), start=1):
        recipe = make_recipe(directory / name, **changed) | {"seed": seed}
        made[name] = str(train(recipe, progress=False).path)
    return made


def test_what_is_scored_is_the_mean_of_what_the_models_say(runs):
    pairs = [("katomi", "mitoka"), ("resu", "sure")]
    alone = [[row.token_log_probabilities for row in qkv.load(runs[name]).score(pairs)] for name in ("one", "two")]
    together = qkv.load([runs["one"], runs["two"]]).score(pairs)
    for i, row in enumerate(together):
        mean = (torch.tensor(alone[0][i]) + torch.tensor(alone[1][i])) / 2
        found = torch.tensor(row.token_log_probabilities)
        assert (found > mean - 1e-3).all(), "renormalised, so never less probable than the mean"
        assert (found < mean + 1.0).all()


def test_a_run_with_itself_finds_what_it_finds(runs):
    alone, twice = (qkv.load(which, engine="torch") for which in (runs["one"], [runs["one"]] * 2))
    for beam in (1, 4):
        assert twice.translate(SOURCES, beam=beam) == alone.translate(SOURCES, beam=beam)


def test_a_company_of_architectures_is_used_from_the_command_line(runs, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(SOURCES) + "\n", "utf-8")
    assert main(["translate", runs["one"], runs["two"], "--input", str(tmp_path / "in.txt"), "--n-best", "2"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert {line.partition("\t")[0] for line in printed} == {"1", "2", "3", "4"}
    expected = qkv.load([runs["one"], runs["two"]]).n_best(SOURCES, 2)
    assert [line.split("\t")[2] for line in printed] == [each.text for row in expected for each in row]


def test_other_vocabularies_are_refused(runs, tmp_path, capsys):
    with pytest.raises(UserError, match=r"other: its source vocabulary is another than the first run's"):
        qkv.load([runs["one"], runs["other"]])
    (tmp_path / "in.txt").write_text("resu\n", "utf-8")
    assert main(["translate", runs["one"], runs["other"], "--input", str(tmp_path / "in.txt")]) == 2
    assert "an ensemble needs one for all" in capsys.readouterr().err


def test_what_an_ensemble_has_not_is_refused(runs):
    both = [runs["one"], runs["two"]]
    with pytest.raises(UserError, match="an ensemble of runs has no engine ctranslate2"):
        qkv.load(both, engine="ctranslate2")
    with pytest.raises(UserError, match="an ensemble of runs has no shortlist"):
        qkv.load(both, shortlist=5)
    with pytest.raises(UserError, match="no run to load"):
        qkv.load([])
    assert qkv.load(both, precision="int8").engine.precision == "int8"

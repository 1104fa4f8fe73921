"""A recipe changes its family by one word: training, resuming, searching, scoring and measuring work as before."""

import json

import pytest

from qkv.cli.main import main
from qkv.loading import load
from qkv.nn.architectures import ARCHITECTURES
from qkv.training.trainer import resume, train

pytestmark = pytest.mark.usefixtures("without_shape_checks")

# Every architecture, and the variants that hold other kinds of weights or state.
MODELS = {
    **{name: {"architecture": name} for name in ARCHITECTURES},
    "gru-attention, fed": {"architecture": "gru-attention", "attention": "general", "input_feeding": True},
    "transformer, batch norm": {"norm": "batch"},
    "transformer, bare": {"norm": "none", "residual": False, "scale_scores": False},
    "transformer, unmasked": {"causal": False, "mask_padding": False},
}
EVERYTHING = {"accumulate": 2, "ema": 0.9, "average_last": 2, "report_every": 3}


@pytest.mark.parametrize("name", MODELS)
def test_trained_in_two_sittings_equals_trained_in_one(recipe, outcome, name):
    whole = train(recipe("whole", model=MODELS[name], training=EVERYTHING | {"steps": 6}), progress=False)
    parts = train(recipe("parts", model=MODELS[name], training=EVERYTHING | {"steps": 4}), progress=False)
    resume(parts.path, ["training.steps=6"], progress=False)
    expected, found = outcome(whole), outcome(parts)
    last = [key for key in expected if key.startswith("step-00000006/")]
    assert len(last) == 3
    assert {key: found[key] for key in last} == {key: expected[key] for key in last}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["rnn", "gru-attention", "lstm", "gru-attention, fed", "convolutional"])
def test_half_precision(recipe, name, precision):
    training = {"steps": 12, "report_every": 6, "precision": precision}
    run = train(recipe(model=MODELS[name], training=training), progress=False)
    losses = [record["loss"] for record in run.metrics() if record["event"] == "train"]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_used_from_the_command_line(recipe, name, tmp_path, capsys):
    settings = recipe(model=MODELS[name], training={"steps": 8}, validation={"every": 4})
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings), "utf-8")  # JSON is YAML
    run, pairs = settings["run"], f"{settings['data']['root']}/validation.tsv"
    assert main(["train", str(tmp_path / "recipe.yaml"), "--quiet"]) == 0
    (tmp_path / "in.txt").write_text("katomi\nresu\n", "utf-8")
    for beam in ("1", "4"):
        assert main(["translate", run, "--input", str(tmp_path / "in.txt"), "--beam", beam]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["translate", run, "--input", str(tmp_path / "in.txt"), "--n-best", "3"]) == 0
    numbers = [line.partition("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert set(numbers) == {"1", "2"}
    assert max(map(numbers.count, numbers)) <= 3
    assert main(["evaluate", run, "--data", pairs, "--metrics", "cer", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"cer"}
    assert main(["score", run, "--data", pairs]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20
    assert main(["average", run, "--last", "2", "--use"]) == 0
    assert main(["info", run]) == 0
    assert MODELS[name].get("architecture", "transformer") in capsys.readouterr().out
    assert load(run).translate("katomi") == load(run).translate(["katomi"])[0]


def test_options_of_other_architectures_are_left_out_and_said_so(recipe, capfd):
    run = train(recipe(model={"architecture": "gru", "d_model": 16, "num_heads": 2, "d_ff": 32}), progress=True)
    assert "gru has no such options, so they do nothing: num_heads, d_ff" in capfd.readouterr().err
    assert set(run.config.model.model_extra) == {*ARCHITECTURES["gru"].option_names()}

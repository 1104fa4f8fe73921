"""The best checkpoint: by the metric, and by the loss where that cannot tell; and what is said when it cannot."""

import dataclasses
import json
import random
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.config.schema import Config
from qkv.metrics import METRICS
from qkv.run.checkpoint import TrainingState, read_state
from qkv.training import trainer as trainer_module
from qkv.training.cautions import STANDING, not_moving
from qkv.training.trainer import resume, train
from qkv.training.validation import Validation, Validator

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def made_up(monkeypatch, metrics, losses):
    """What validations find, one after another."""
    found = iter([Validation(loss, metric) for metric, loss in zip(metrics, losses, strict=True)])
    monkeypatch.setattr(trainer_module.Validator, "__call__", lambda *_: next(found))


def state_of(run):
    return read_state(run.checkpoints()[-1])


@given(
    found=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=12),
    metric=st.sampled_from(["bleu", "wer", "exact_match", "loss"]),
)
@settings(deadline=None)
def test_the_best_is_the_first_of_the_lowest_losses_at_the_best_value(found, metric):
    validator = Validator.__new__(Validator)
    validator.settings = SimpleNamespace(metric=metric)
    results = [Validation(float(loss), float(loss if metric == "loss" else value)) for value, loss in found]
    best = None
    for result in results:
        if validator.is_better(result, best and best.metric, best and best.loss):
            best = result
    sign = -1 if metric != "loss" and METRICS[metric].higher_is_better else 1
    assert best is min(results, key=lambda result: (sign * result.metric, result.loss))


def test_nobody_gets_a_metric_that_may_not_tell_outputs_apart_unasked():
    assert Config().validation.metric == "loss"


def test_ties_go_to_the_lower_loss(recipe, monkeypatch):
    made_up(monkeypatch, [0.0] * 5, [5.0, 3.0, 4.0, 2.0, 2.0])
    settings = recipe(training={"steps": 10}, validation={"every": 2, "metric": "bleu", "patience": 2})
    run = train(settings, progress=False)
    assert run.best_path.resolve().name == "step-00000008"
    state = state_of(run)
    assert (state.best, state.best_loss, state.best_step, state.validations_since_best) == (0.0, 2.0, 8, 1)


def test_patience_goes_by_the_same_rule(recipe, monkeypatch):
    """It lasts while the loss falls, and no longer."""
    made_up(monkeypatch, [0.0] * 6, [5.0, 4.0, 3.0, 2.0, 2.0, 2.5])
    settings = recipe(training={"steps": 100}, validation={"every": 2, "metric": "bleu", "patience": 2})
    assert state_of(train(settings, progress=False)).step == 12


def test_one_word_targets_end_with_the_best_model(tmp_path, capsys):
    """BLEU is 0 from the first validation to the last: the model that has learnt most is used all the same."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefgh", k=chance.randint(2, 6))) for _ in range(650)]
    for name, part in (("train", words[:600]), ("validation", words[600:])):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{word}\t{word.upper()}\n" for word in part))
    settings = {
        "run": str(tmp_path / "run"),
        "threads": 1,
        "data": {"root": str(tmp_path), "train": "train.tsv", "validation": "validation.tsv"},
        "tokenizer": {"kind": "char"},
        "model": {"d_model": 32, "num_heads": 2, "d_ff": 64, "encoder_layers": 1, "decoder_layers": 1},
        "training": {"steps": 90, "batch_tokens": 512, "warmup_steps": 20, "learning_rate": 5e-3},
        "validation": {"metric": "bleu", "every": 15, "samples": 0},
    }
    run = train(settings)
    said = capsys.readouterr().err
    validations = [record for record in run.metrics() if record["event"] == "validation"]
    assert {record["bleu"] for record in validations} == {0.0}
    lowest = min(validations, key=lambda record: record["loss"])
    assert lowest["step"] > 15
    assert run.best_path.resolve().name == f"step-{lowest['step']:08d}"
    assert said.count("bleu counts runs of 4 words, and none of 50 references has so many") == 1
    assert said.count("validation.metric=bleu has been 0.00 at 3 validations") == 1
    assert "validation.metric=chrf may tell more" in said


# What is said of a metric that stands still


@given(st.lists(st.sampled_from([0.0, 50.0, 100.0]), max_size=12))
@settings(deadline=None)
def test_a_metric_that_stands_still_is_told_once_for_each_time(values):
    """And not where it cannot get better."""
    told = [
        number
        for number in range(1, len(values) + 1)
        if not_moving([{"bleu": value} for value in values[:number]], "bleu") is not None
    ]
    stretches, start = [], 0
    for end in range(1, len(values) + 1):
        if end == len(values) or values[end] != values[start]:
            if end - start >= STANDING and values[start] < 100.0:
                stretches.append(start + STANDING)
            start = end
    assert told == stretches


def test_a_metric_that_stands_still_is_told_with_what_to_choose():
    assert not_moving([{"wer": 100.0}] * 3, "wer") == (
        "validation.metric=wer has been 100.00 at 3 validations: while it stands, the lower loss decides which "
        "checkpoint is best; validation.metric=cer may tell more"
    )
    assert not_moving([{"wer": 0.0}] * 3, "wer") is None
    assert not_moving([{"loss": 1.0}] * 3, "loss") is None


@pytest.mark.parametrize("name", METRICS)
def test_what_may_tell_more_is_something_else(name):
    assert METRICS[name].finer != name
    assert METRICS[name].finer in (*METRICS, "loss")


# The best, and what it was chosen by


def test_another_metric_judges_the_best_so_far_anew(recipe, monkeypatch, capsys):
    """A loss is no error rate: no checkpoint would ever have been better than the first sitting's."""
    settings = recipe(training={"steps": 4}, validation={"every": 2, "patience": 5})
    made_up(monkeypatch, [1.0, 1.5], [1.0, 1.5])
    run = train(settings, progress=False)
    assert state_of(run).judged_by == {"metric": "loss"}
    made_up(monkeypatch, [80.0, 60.0, 70.0], [1.0, 1.2, 1.3])
    resume(run.path, ["validation.metric=cer", "training.steps=8"])
    assert "the best checkpoint so far, step-00000002, has cer 80.00" in capsys.readouterr().err
    state = state_of(run)
    assert (state.best, state.best_step, state.validations_since_best) == (60.0, 6, 1)
    assert state.judged_by["metric"] == "cer"
    resume(run.path, ["training.steps=8"], progress=False)  # by the same, nothing is judged: there is nothing to find


@pytest.mark.parametrize("key", ["best_loss", "judged_by"])
def test_an_older_state_knows_its_best_as_well(recipe, key):
    """It is measured once more, which gives what is missing."""
    settings = recipe(training={"steps": 4}, validation={"every": 2, "metric": "cer"})
    run = train(settings, progress=False)
    path = run.checkpoints()[-1] / "state.json"
    whole = json.loads(path.read_text())
    for name in ("best_loss", "judged_by", "batch_tokens", "dealt"):
        del whole["training"][name]
    path.write_text(json.dumps(whole))
    (path.parent / "manifest.json").unlink()
    state = read_state(path.parent)
    assert getattr(state, key) is None
    resume(run.path, ["training.steps=6"], progress=False)
    best = [record for record in run.metrics() if record["step"] == state.best_step and record["event"] == "validation"]
    after = state_of(run)
    if after.best_step == state.best_step:
        assert (after.best, after.best_loss) == (best[0]["cer"], best[0]["loss"])
    assert getattr(after, key) is not None


def test_without_validation_pairs_there_is_no_best_value(recipe):
    """Left out on the way: the value that was, is not that of the newest checkpoint, which is used from now on."""
    run = train(recipe(training={"steps": 4}, validation={"every": 2}), progress=False)
    assert state_of(run).best is not None
    resume(run.path, ["data.validation=null", "training.steps=6"], progress=False)
    state = state_of(run)
    assert (state.best, state.best_loss, state.best_step) == (None, None, 6)
    resume(run.path, ["data.validation=validation.tsv", "training.steps=8"], progress=False)
    assert state_of(run).best_step == 8


def test_the_state_survives_json():
    state = TrainingState(best=0.1, best_loss=2.0, judged_by={"metric": "loss"}, dealt=[[128, 3, 9]])
    assert TrainingState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state

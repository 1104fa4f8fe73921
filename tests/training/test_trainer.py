"""The training loop: what a step is, when it ends, what it keeps, and how it fails."""

import copy
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import qkv
from qkv.config.loading import load_config
from qkv.errors import UserError
from qkv.run.checkpoint import average_weights, load_model, read_state
from qkv.run.directory import Run
from qkv.run.preparation import prepare, training_corpus
from qkv.text.batches import Batch, BatchPlan, collate
from qkv.training import bounds as bounds_module
from qkv.training import trainer as trainer_module
from qkv.training.loss import Loss
from qkv.training.trainer import Trainer, resume, train
from qkv.training.validation import Validation

CPU = torch.device("cpu")


def trainer_of(recipe: dict[str, Any]) -> Trainer:
    return Trainer(prepare(load_config(recipe), resume=False), CPU, progress=False)


def batch_of(trainer: Trainer, indices: list[int]) -> Batch:
    tokenizers = trainer.prepared.tokenizers
    return collate(training_corpus(trainer.prepared, 0), indices, tokenizers)


def steps_saved(run: Run) -> list[int]:
    return [read_state(path).step for path in run.checkpoints()]


def records(run: Run, event: str) -> list[dict[str, Any]]:
    return [record for record in run.metrics() if record["event"] == event]


def content(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# A step


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_accumulated_equals_one_big_batch(recipe, dtype, tolerance):
    """Seven pairs at once, or as three batches of different size, length and padding: the same gradient."""
    trainer = trainer_of(recipe(model={"dropout": 0.0}, training={"clip_norm": None, "label_smoothing": 0.1}))
    trainer.model.to(dtype)
    parts = [batch_of(trainer, indices) for indices in ([0], [1, 2, 3, 4], [5, 6])]
    whole = batch_of(trainer, list(range(7)))
    assert len({part.target_output.shape for part in parts}) == 3
    assert any(part.target_mask is not None for part in parts)
    assert whole.num_target_tokens == sum(part.num_target_tokens for part in parts)

    gradients, losses = [], []
    start = copy.deepcopy(trainer.model.state_dict())
    for batches in ([whole], parts):
        trainer.model.load_state_dict(start)
        trainer.window = trainer_module.Window(CPU)
        trainer._step(batches)
        gradients.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
        losses.append((trainer.window.loss, trainer.window.nll))
    assert len(gradients[0]) == len(list(trainer.model.parameters()))
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients[0] if gradient.dim() == 2)
    for one, many in zip(*gradients, strict=True):
        torch.testing.assert_close(one, many, rtol=0, atol=tolerance)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_gradient_is_that_of_the_mean_over_target_tokens(recipe):
    trainer = trainer_of(recipe(model={"dropout": 0.0}, training={"clip_norm": None, "label_smoothing": 0.2}))
    batch = batch_of(trainer, [0, 1, 2])
    model = copy.deepcopy(trainer.model)
    logits = model(batch.source, batch.target_input, batch.source_mask)
    targets = batch.target_output
    if batch.target_mask is not None:
        targets = targets.masked_fill(~batch.target_mask, -100)
    nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.2).backward()
    trainer._step([batch])
    for ours, plain in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad, rtol=0, atol=1e-6)


def test_an_epoch_sees_every_pair_once_in_an_order_that_its_number_alone_decides(recipe, monkeypatch):
    seen: list[tuple[int, ...]] = []

    def noted(corpus: Any, indices: Any, tokenizers: Any) -> Batch:
        seen.append(tuple(int(index) for index in indices))
        return collate(corpus, indices, tokenizers)

    trainer = trainer_of(recipe(training={"steps": None, "epochs": 3, "accumulate": 3, "batch_tokens": 100}))
    monkeypatch.setattr(trainer_module, "collate", noted)
    groups = [len(batches) for batches in trainer._steps()]
    corpus = training_corpus(trainer.prepared, 0)
    plans = [BatchPlan(corpus.source_lengths, corpus.target_lengths, 100, seed=1, epoch=epoch) for epoch in range(3)]
    assert seen == [tuple(indices.tolist()) for plan in plans for indices in plan]
    ends = list(itertools.accumulate(len(plan) for plan in plans))
    for first, last in zip([0, *ends[:-1]], ends, strict=True):
        assert sorted(index for indices in seen[first:last] for index in indices) == list(range(len(corpus)))
    assert groups == [size for plan in plans for size in [3] * (len(plan) // 3) + [len(plan) % 3] if size]


def test_the_learning_rate_is_the_schedules(recipe):
    run = train(
        recipe(training={"steps": 8, "report_every": 1, "warmup_steps": 4, "cooldown": 0.5, "schedule": "constant"}),
        progress=False,
    )
    rates = [record["learning_rate"] / 3e-3 for record in records(run, "train")]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_the_same_seed_gives_the_same_run_and_another_seed_another(recipe, outcome):
    one, again, other = (
        outcome(train(recipe(name, training={"steps": 6}) | {"seed": seed}, progress=False))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == again
    assert one["metrics"] != other["metrics"]


# Bounds


def test_steps_and_epochs_end_training(recipe):
    assert steps_saved(train(recipe("a", training={"steps": 7}), progress=False))[-1] == 7
    epochs = train(recipe("b", training={"steps": None, "epochs": 2}, validation={"every": None}), progress=False)
    assert len(records(epochs, "validation")) == 2
    state = read_state(epochs.checkpoints()[-1])
    corpus_batches = state.step // 2
    assert steps_saved(epochs) == [corpus_batches, 2 * corpus_batches]


def test_the_first_bound_counts(recipe):
    run = train(recipe(training={"steps": 3, "epochs": 100, "budget": "1h"}), progress=False)
    assert steps_saved(run)[-1] == 3


@pytest.fixture
def own_clock(monkeypatch) -> Callable[[], float]:
    """The trainer goes by the time that this process has computed, so that nobody else's work can fail a test."""
    for module in (trainer_module, bounds_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.process_time))
    return time.process_time


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine"])
def test_a_budget_is_kept_and_used(recipe, own_clock, schedule):
    """Nearly all of it is used, no more than that, and the learning rate comes down to almost nothing."""
    train(recipe("first", training={"steps": 1}, validation={"metric": "cer"}), progress=False)  # imports take time
    budget = 5.0
    settings = {
        "steps": None,
        "budget": budget,
        "schedule": schedule,
        "warmup_steps": 1_000_000,
        "report_every": 1,
        "average_last": 2,
    }
    began = own_clock()
    run = train(recipe(training=settings, validation={"every": 40, "metric": "cer"}), progress=False)
    assert 0.6 * budget < own_clock() - began < budget
    rates = [record["learning_rate"] for record in records(run, "train")]
    assert max(rates) > 0.5 * 3e-3, "a warm-up that is made for a long training does not fill a short one"
    assert rates[-1] < 0.1 * max(rates)


def test_under_a_budget_time_is_set_aside_for_the_last_validation(recipe, own_clock, monkeypatch):
    """How much, only a validation can tell; so there is one at half time, if there has been none before."""
    validate = trainer_module.Validator.__call__

    def slowly(self: Any, model: Any) -> Validation:
        began = own_clock()
        while own_clock() - began < 0.5:
            pass
        return validate(self, model)

    monkeypatch.setattr(trainer_module.Validator, "__call__", slowly)
    began = own_clock()
    settings = recipe(training={"steps": None, "budget": 5.0}, validation={"every": 1_000_000})
    run = train(settings, progress=False)
    assert own_clock() - began < 5.0
    assert len(records(run, "validation")) == 2


def test_training_stops_early_when_nothing_gets_better(recipe):
    settings = recipe(
        training={"steps": 1000, "learning_rate": 1e-15},
        validation={"every": 2, "metric": "exact_match", "patience": 3},
    )
    run = train(settings, progress=False)
    assert [record["step"] for record in records(run, "validation")] == [2, 4, 6, 8]
    assert run.best_path.resolve().name == "step-00000002"


# What is kept


def test_the_best_is_linked_and_kept(recipe, monkeypatch):
    """The metric is made up: it is best at the second validation of six."""
    losses = iter([5.0, 1.0, 3.0, 2.0, 4.0, 1.5])
    monkeypatch.setattr(trainer_module.Validator, "__call__", lambda *_: Validation(loss := next(losses), loss))
    run = train(recipe(training={"steps": 12}, validation={"every": 2}, checkpoints={"keep": 2}), progress=False)
    assert steps_saved(run) == [4, 10, 12]
    assert run.best_path.is_symlink()
    assert run.best_path.readlink() == Path("checkpoints/step-00000004")
    assert run.find_checkpoint() == run.checkpoint_path(4).resolve()
    state = read_state(run.checkpoints()[-1])
    assert (state.best, state.best_step, state.validations_since_best) == (1.0, 4, 4)


@pytest.mark.parametrize("every", [1, 3])
def test_checkpoints_between_validations_do_not_pile_up(recipe, every):
    settings = recipe(training={"steps": 12}, validation={"every": 100}, checkpoints={"every": every, "keep": 2})
    run = train(settings, progress=False)
    assert steps_saved(run) == [12 - every, 12]


def test_the_last_weights_are_validated_even_if_they_have_been_saved_already(recipe):
    settings = recipe(training={"steps": 9}, validation={"every": 5}, checkpoints={"every": 3})
    run = train(settings, progress=False)
    assert [record["step"] for record in records(run, "validation")] == [5, 9]
    assert run.best_path.resolve().name == f"step-{read_state(run.checkpoints()[-1]).best_step:08d}"


def test_without_validation_pairs_the_newest_is_the_best(recipe):
    run = train(recipe(data={"validation": None}, training={"steps": 12}, validation={"every": 5}), progress=False)
    assert steps_saved(run) == [5, 10, 12]
    assert run.best_path.resolve().name == "step-00000012"
    assert records(run, "validation") == []


@pytest.mark.parametrize("better", [True, False])
def test_the_average_is_used_if_it_is_better(recipe, monkeypatch, better):
    losses = iter([5.0, 4.0, 3.0, 2.0 if better else 3.5])
    monkeypatch.setattr(trainer_module.Validator, "__call__", lambda *_: Validation(loss := next(losses), loss))
    settings = recipe(training={"steps": 6, "average_last": 3}, validation={"every": 2}, checkpoints={"keep": 1})
    run = train(settings, progress=False)
    assert steps_saved(run) == [2, 4, 6], "those that are to be averaged are kept"
    assert run.best_path.resolve().name == ("averaged-00000006" if better else "step-00000006")
    averaged = run.checkpoints_path / "averaged-00000006"
    assert averaged.exists() == better, "what has lost is in nobody's way"
    if better:
        weights, expected = load_file(averaged / "model.safetensors"), average_weights(run.checkpoints())
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert len(qkv.load(run.path).translate(["kato"])) == 1


def test_the_averaged_weights_are_those_that_are_measured(recipe, monkeypatch):
    """Both averages: the exponential one at each validation, that of checkpoints at the end."""
    seen: list[dict[str, Tensor]] = []

    def look(self: Any, model: nn.Module) -> Validation:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return Validation(1.0 / len(seen), 1.0 / len(seen))

    monkeypatch.setattr(trainer_module.Validator, "__call__", look)
    settings = recipe(training={"steps": 4, "ema": 0.5, "average_last": 2}, validation={"every": 2})
    run = train(settings, progress=False)
    names = ["step-00000002", "step-00000004", "averaged-00000004"]
    for weights, name in zip(seen, names, strict=True):
        stored = load_file(run.checkpoints_path / name / "model.safetensors")
        assert all(torch.equal(weights[key], stored[key]) for key in stored)
    raw = load_file(run.checkpoint_path(4) / "optimizer.safetensors")
    stored = load_file(run.checkpoint_path(4) / "model.safetensors")
    assert any(not torch.equal(raw[f"weight.{key}"], stored[key]) for key in stored)


def test_the_run_says_what_it_was_made_with(recipe):
    run = train(recipe(training={"steps": 2}), progress=False)
    config = run.config
    assert config.model.model_extra is not None
    assert config.model.model_extra["norm_position"] in ("pre", "post"), "every option of the model is spelled out"
    assert load_model(run.find_checkpoint()).config.d_model == config.model.model_extra["d_model"] == 16
    assert list(run.tensorboard_path.glob("events.*"))
    report = records(run, "train")[0]
    assert report.keys() >= {"step", "epoch", "loss", "nll", "learning_rate", "gradient_norm", "tokens_per_second"}


# What goes wrong


def poison_at(step: int) -> Callable[..., Tensor]:
    """In place of `Optimization.step`: from this step on a weight is not a number."""
    take = trainer_module.Optimization.step

    def poisoned(self: Any, number: int, learning_rate: float) -> Tensor:
        norm = take(self, number, learning_rate)
        if number == step:
            with torch.no_grad():
                next(self._model.parameters())[:] = torch.nan
        return norm

    return poisoned


def test_a_loss_that_is_not_a_number_stops_training(recipe, outcome, monkeypatch):
    settings = {"training": {"steps": 9}, "validation": {"every": 3}}
    monkeypatch.setattr(trainer_module.Optimization, "step", poison_at(7))
    message = r"the loss is not a number at step 8; the last good checkpoint is .*step-00000006\. Lower training"
    with pytest.raises(UserError, match=message):
        train(recipe(**settings), progress=False)
    monkeypatch.undo()
    run = Run(recipe()["run"])
    assert steps_saved(run) == [3, 6]
    assert len(qkv.load(run.path).translate(["kato"])) == 1
    resume(run.path, progress=False)
    assert outcome(run) == outcome(train(recipe("other", **settings), progress=False))


def test_weights_that_are_not_numbers_are_never_saved(recipe, monkeypatch):
    """They are spoilt in the very step after which they would be saved: no loss has shown it yet."""
    monkeypatch.setattr(trainer_module.Optimization, "step", poison_at(6))
    with pytest.raises(UserError, match=r"the validation loss is not a number at step 6; .*step-00000003\."):
        train(recipe(validation={"every": 3}), progress=False)
    assert steps_saved(Run(recipe()["run"])) == [3]


def test_a_gradient_that_is_not_a_number_stops_training(recipe, monkeypatch):
    """The loss may well be fine while its gradient overflows."""
    add, steps = trainer_module.Gradient.add, itertools.count(1)

    def overflowing(self: Any, batches: list[Batch]) -> Loss:
        loss = add(self, batches)
        if next(steps) == 5:
            next(self._model.parameters()).grad[0] = torch.inf
        return loss

    monkeypatch.setattr(trainer_module.Gradient, "add", overflowing)
    with pytest.raises(UserError, match=r"not a number at step 5; the last good checkpoint is .*step-00000004\."):
        train(recipe(validation={"every": 100}, checkpoints={"every": 1}), progress=False)


def test_an_absurd_learning_rate(recipe):
    with pytest.raises(UserError, match=r"not a number at step \d+; no checkpoint had been saved yet\. Lower"):
        train(recipe(training={"learning_rate": 1e38, "warmup_steps": 0}), progress=False)


def test_a_run_that_exists_is_left_alone(recipe):
    run = train(recipe(training={"steps": 2}), progress=False)
    before = content(run.path)
    with pytest.raises(UserError, match=r"run: exists already; go on with `qkv train --resume .*run`"):
        train(recipe(training={"steps": 5}), progress=False)
    assert content(run.path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_when_a_report_is_due(recipe):
    trainer = trainer_of(recipe())
    trainer.records._file = open("/dev/full", "a", encoding="utf-8", buffering=1)  # noqa: SIM115
    message = r"cannot write the records of training \(No space left on device\); checkpoints are intact"
    with pytest.raises(UserError, match=message):
        trainer.run_to_the_end()


# Precision and devices


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_cpu(recipe, precision):
    settings = recipe(training={"precision": precision, "steps": 30, "report_every": 10, "ema": 0.5})
    run = train(settings, progress=False)
    losses = [record["loss"] for record in records(run, "train")]
    assert losses[-1] < losses[0] - 0.5
    weights = load_file(run.checkpoints()[-1] / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    exact = train(recipe("exact", training={"steps": 30, "report_every": 10}), progress=False)
    expected = [record["loss"] for record in records(exact, "train")]
    assert losses != expected
    assert losses == pytest.approx(expected, rel=0.05)


def test_half_precision_goes_on_bit_for_bit(recipe, outcome):
    for precision in ("bf16", "fp16"):
        training = {"precision": precision, "ema": 0.9}
        whole = train(recipe(f"{precision} whole", training=training | {"steps": 8}), progress=False)
        parts = train(recipe(f"{precision} parts", training=training | {"steps": 5}), progress=False)
        resume(parts.path, ["training.steps=8"], progress=False)
        last = "step-00000008/"
        expected, found = outcome(whole), outcome(parts)
        assert [found[key] for key in found if key.startswith(last)] == [
            expected[key] for key in expected if key.startswith(last)
        ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_on_a_gpu(recipe, outcome, precision):
    def settings(name: str, steps: int) -> dict[str, Any]:
        return recipe(name, training={"precision": precision, "steps": steps, "ema": 0.9}) | {"device": "cuda"}

    whole = train(settings("whole", 20), progress=False)
    losses = [record["loss"] for record in records(whole, "train")]
    assert losses[-1] < losses[0]
    parts = train(settings("parts", 12), progress=False)
    resume(parts.path, ["training.steps=20"], progress=False)
    assert records(parts, "train")[-1]["loss"] == pytest.approx(losses[-1], rel=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_bad_loss_on_a_gpu_is_noticed_before_anything_is_kept(recipe, monkeypatch):
    monkeypatch.setattr(trainer_module.Optimization, "step", poison_at(4))
    with pytest.raises(UserError, match="the loss is not a number at step 5"):
        train(recipe(validation={"every": 3}) | {"device": "cuda"}, progress=False)
    assert steps_saved(Run(recipe()["run"])) == [3]

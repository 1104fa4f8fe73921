"""The training loop."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from qkv.config.loading import foreign_options, load_config
from qkv.config.schema import Config, TrainingConfig
from qkv.devices import pick_device, undisturbed
from qkv.errors import UserError
from qkv.files import point, remove_directory, write_text
from qkv.progress import TrainingProgress, spoken_time
from qkv.run.changes import check_average, check_changes, check_effect
from qkv.run.checkpoint import (
    TrainingState,
    average_run,
    averaged_checkpoints,
    prune,
    read_state,
    read_tensors,
    using_weights,
)
from qkv.run.directory import Run
from qkv.run.lock import locked
from qkv.run.preparation import Prepared, losses, prepare, refuse_to_overwrite, training_corpus
from qkv.text.batches import Batch, collate
from qkv.training import snapshot
from qkv.training.bounds import Bounds
from qkv.training.cautions import before_training, not_moving
from qkv.training.gradient import Gradient
from qkv.training.interruption import interruptible
from qkv.training.optimization import Optimization
from qkv.training.position import rest_of_epoch
from qkv.training.records import Records, Window
from qkv.training.schedule import Schedule
from qkv.training.validation import Validation, Validator, judge_anew
from qkv.training.watch import Watch


def train(
    recipe: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = (), *, progress: bool = True
) -> Run:
    """Train a model as the recipe says and return its run.

    Args:
        recipe: a YAML file, a mapping, or a configuration.
        overrides: "key.key=value" strings that change the recipe.
        progress: whether to show a progress bar and sample outputs on standard error.

    Raises:
        UserError: if the recipe, the data or the run directory is at fault, the disk is full, or the loss turns NaN.
        KeyboardInterrupt: if it was interrupted; a checkpoint was saved before.
    """
    began = time.monotonic()
    config = load_config(recipe, overrides)
    refuse_to_overwrite(Run(config.run))
    return _train(config, None, began, progress)


def resume(run: str | Path, overrides: Sequence[str] = (), *, progress: bool = True) -> Run:
    """Go on with a run from its newest checkpoint, bit for bit as if it had never stopped.

    Args:
        run: a run directory, or the recipe that it was made by.
        overrides: changes to the run's own configuration (a larger `training.steps`, say).
        progress: as for `train`.

    Raises:
        UserError: as for `train`, or if there is no such run, or if what it was made from would change.
        KeyboardInterrupt: as for `train`.
    """
    began = time.monotonic()
    path = Path(run)
    if path.is_file():
        path = Path(load_config(path, overrides).run)
    before, config = (load_config(Run.open(path).config_path, said) for said in ((), overrides))
    if Path(run).is_dir() and config.run != before.run and Path(config.run).resolve() != path.resolve():
        raise UserError(f"run is {path}, which is to be resumed, and cannot become {config.run}; to move it: mv")
    here = {"run": str(path)}  # the run may have been moved
    before, config = (settings.model_copy(update=here) for settings in (before, config))
    return _train(config, before, began, progress)


def _train(config: Config, before: Config | None, began: float, progress: bool) -> Run:
    """Train from the beginning, or go on with a run that had the configuration `before` until now."""
    run = Run(config.run)
    device = pick_device(config.device)
    check_average(config, before)
    with locked(run), undisturbed(config.threads):
        if before is not None:
            state = read_state(run.checkpoints()[-1]) if run.checkpoints() else TrainingState()
            check_changes(before, config, state)
            if Bounds(config, state, began).are_reached():
                check_effect(before, config)
        prepared = prepare(config, resume=before is not None)
        trainer = Trainer(prepared, device, began=began, progress=progress)
        # Not earlier: overrides that do not fit the checkpoint must not spoil the run's configuration.
        write_text(run.config_path, prepared.config.to_yaml())
        for notice in prepared.notices:
            trainer.progress.say(notice)
        if foreign := foreign_options(config.model):
            trainer.progress.say(
                f"{config.model.architecture} has no such options, so they do nothing: {', '.join(foreign)}"
            )
        trainer.run_to_the_end()
    return run


class Trainer:
    """One sitting of training: from the newest checkpoint, or from nothing, to the end.

    `began` is `time.monotonic()` of the moment from which a wall-clock budget counts; now by default.

    Raises:
        UserError: if there is a checkpoint, but it is damaged or does not fit.
    """

    def __init__(self, prepared: Prepared, device: torch.device, *, began: float | None = None, progress: bool = True):
        self.prepared, self.run, self.config = prepared, prepared.run, prepared.config
        self.settings: TrainingConfig = prepared.config.training
        self.device = device
        torch.manual_seed(self.config.seed)
        self.model = prepared.build_model().to(device).train()
        self.optimization = Optimization(self.model, self.settings, device)
        source = prepared.tokenizers.source
        self.gradient = Gradient(self.model, self.optimization, self.settings, device, source)
        self.state = TrainingState()
        if self.run.checkpoints():
            self.state = snapshot.restore(prepared, self.model, self.optimization, self.run.checkpoints()[-1])
        self.bounds = Bounds(self.config, self.state, time.monotonic() if began is None else began)
        self.window = Window(device, self.state.window)
        self.schedule = Schedule.of(self.settings, d_model=self.model.output.in_features)
        self.watch = Watch(self.run, device)
        self.validator = Validator(prepared, device)
        self.records = Records(self.run, self.state.step)
        self.progress = TrainingProgress(progress, self.bounds.share())
        self._saved_at = self.state.step if self.run.checkpoints() else -1

    # The loop

    def run_to_the_end(self) -> None:
        """Train until a bound is reached or nothing gets better, then choose the best weights.

        Raises:
            UserError: if the disk is full or the loss is not a number; checkpoints are intact.
            KeyboardInterrupt: if a signal asked to stop; a checkpoint was saved before.
        """
        try:
            with interruptible() as interruption:
                self._announce()
                if remark := judge_anew(self.validator, self.model, self.run, self.state):
                    self.progress.say(remark)
                for batches in self._steps():
                    self._step(batches)
                    self._report_and_save()
                    if interruption.is_set():
                        self._stop()
            self._finish()
        finally:
            self.gradient.close()
            self.progress.close()
            self.records.close()

    def _steps(self) -> Iterator[list[Batch]]:
        """The batches of one step after another, from where training stands until a bound is reached."""
        tokenizers = self.prepared.tokenizers
        while not self.bounds.are_reached():
            if 0 < self.state.batches_per_epoch <= self.state.batch:
                self.state.epoch, self.state.batch, self.state.dealt = self.state.epoch + 1, 0, []
            corpus = training_corpus(self.prepared, self.state.epoch)
            plan = rest_of_epoch(self.state, corpus, self.settings.batch_tokens, self.config.seed)
            while self.state.batch < len(plan):
                group = plan[self.state.batch : self.state.batch + self.settings.accumulate]
                self.state.batch += len(group)
                batches = [collate(corpus, indices, tokenizers) for indices in group]
                yield [batch.to(self.device, non_blocking=True) for batch in batches]
                if self.bounds.are_reached():
                    return

    def _step(self, batches: list[Batch]) -> None:
        """One step: losses are summed, and divided once by all target tokens of the step."""
        self.optimization.zero_grad()
        loss = self.gradient.add(batches)
        self.state.step += 1
        self._learning_rate = self.schedule.learning_rate(self.state.step, self.bounds.share())
        self._gradient_norm = self.optimization.step(self.state.step, self._learning_rate)
        # In fp16 a gradient may well overflow: that step was left out, and the loss is scaled less from now on.
        may_overflow = self.settings.precision == "fp16"
        self.watch.look(self.state.step, loss.smoothed if may_overflow else loss.smoothed + self._gradient_norm)
        self.state.target_tokens += loss.tokens
        self.window.add(loss)

    def _stop(self) -> NoReturn:
        if self._saved_at != self.state.step:
            self._save(stopgap=True)
        self.progress.say(f"stopped at step {self.state.step}; go on with `qkv train --resume {self.run.path}`")
        raise KeyboardInterrupt

    # Reports

    def _report_and_save(self) -> None:
        """Whatever is due after a step."""
        every = self.config.checkpoints.every
        if self.state.step % self.settings.report_every == 0:
            self._report()
        if self.bounds.validation_is_due():
            self._validate_and_save()
        elif every is not None and self.state.step % every == 0:
            self._save()

    def _report(self) -> None:
        self.watch.check()
        loss, speed = self.window.loss, self.window.tokens_per_second
        self.records.add(
            "train",
            self.state.step,
            epoch=self.state.epoch,
            loss=loss,
            nll=self.window.nll,
            learning_rate=self._learning_rate,
            gradient_norm=self._gradient_norm.item(),
            tokens_per_second=speed,
            target_tokens=self.state.target_tokens,
            seconds=self.bounds.seconds(),
        )
        self.progress.update(self.bounds.share(), self.state.step, loss, speed)
        self.window = Window(self.device)

    def _announce(self) -> None:
        parameters = sum(p.numel() for p in self.model.parameters())
        verb = f"resuming at step {self.state.step:,}" if self.state.step else "training"
        corpus = training_corpus(self.prepared, self.state.epoch)
        self.progress.say(
            f"{verb}: {self.config.model.architecture}, {parameters:,} parameters, {len(corpus):,} pairs, on "
            f"{self.device} in {self.settings.precision}; the run is {self.run.path}"
        )
        for line in (*losses(self.prepared, self.state.epoch), *self.validator.remarks):
            self.progress.say(line)
        if not self.bounds.are_reached():
            for line in before_training(self.prepared, corpus, parameters, is_new=self.state.step == 0):
                self.progress.say(line)

    # Validation and checkpoints

    def _validate_and_save(self) -> None:
        """Validate the weights to use (the average if there is one). Without pairs the newest count as the best."""
        began = time.monotonic()
        is_best = not self.validator.possible or self._is_best(self.optimization.average)
        if not self.validator.possible:
            self.state.best = self.state.best_loss = None
        elif caution := not_moving(self.records.validations, self.config.validation.metric):
            self.progress.say(caution)
        if is_best:
            self.state.best_step = self.state.step
            self.state.validations_since_best = 0
        else:
            self.state.validations_since_best += 1
        self.state.validated_step = self.state.step
        self._save(is_best)
        self.state.longest_validation = max(self.state.longest_validation, time.monotonic() - began)

    def _is_best(self, weights: Mapping[str, Tensor] | None, *remarks: str) -> bool:
        """Validate with these weights (None: the model's own) and write down what came of it."""
        self.watch.check()
        with using_weights(self.model, weights):
            result = self.validator(self.model)
        if not math.isfinite(result.loss):
            raise self.watch.error(self.state.step, "the validation loss is not a number")
        is_best = self.validator.is_better(result, self.state.best, self.state.best_loss)
        if is_best:
            self.state.best, self.state.best_loss = result.metric, result.loss
        self._record(result, [*remarks, "best"] if is_best else remarks)
        return is_best

    def _record(self, result: Validation, remarks: Sequence[str]) -> None:
        metric = self.config.validation.metric
        scored = {} if metric == "loss" else {metric: result.metric}
        sides = "source", "reference", "output"
        self.records.add(
            "validation",
            self.state.step,
            epoch=self.state.epoch,
            loss=result.loss,
            perplexity=result.perplexity,
            **scored,
            seconds=self.bounds.seconds(),
            samples=[dict(zip(sides, sample, strict=True)) for sample in result.samples],
        )
        text = "".join(f"  {name} {value:.2f}" for name, value in scored.items())
        text += f"  ({', '.join(remarks)})" if remarks else ""
        self.progress.say(
            f"step {self.state.step:,}, epoch {self.state.epoch + 1}, {spoken_time(self.bounds.seconds())}: "
            f"validation loss {result.loss:.3f}  perplexity {result.perplexity:.2f}{text}"
        )
        for source, reference, output in result.samples:
            self.progress.say(f"    source    {source}\n    reference {reference}\n    output    {output}")

    def _save(self, is_best: bool = False, stopgap: bool = False) -> None:
        self.watch.check()
        self.state.stopgap = stopgap
        self.state.seconds = self.bounds.seconds()
        self.state.window = self.window.saved()
        snapshot.save(self.prepared, self.model, self.optimization, self.state)
        self._saved_at = self.state.step
        if is_best:
            point(self.run.best_path, self.run.checkpoint_path(self.state.step))
        if not stopgap:
            prune(self.run, max(self.config.checkpoints.keep, self.settings.average_last))

    def _finish(self) -> None:
        """Validate what has not been, and average the last checkpoints if that is better."""
        if self.bounds.has_stalled():
            patience = self.config.validation.patience
            self.progress.say(f"no better for {patience} validations: stopped early")
        if self.state.validated_step != self.state.step:
            self._validate_and_save()
        last, there_are = self.settings.average_last, len(self.run.checkpoints())
        if last and min(last, there_are) < 2:
            self.progress.say(
                f"training.average_last is {last}, but there is {there_are} checkpoint: none was averaged"
            )
        elif last:
            averaged = average_run(self.run, last)
            weights = read_tensors(averaged / "model.safetensors")
            of = len(averaged_checkpoints(averaged))
            remark = f"average of {of}" if of == last else f"average of {of}, all that there are"
            if not self.validator.possible or self._is_best(weights, remark):
                point(self.run.best_path, averaged)
            elif self.run.best_path.resolve() != averaged.resolve():
                remove_directory(averaged)
        metric, best = self.config.validation.metric, self.state.best
        self.progress.say(
            f"done: {self.state.step:,} steps, {self.state.target_tokens:,} target tokens in "
            f"{spoken_time(self.bounds.seconds())}{'' if best is None else f', best {metric} {best:.2f}'}; "
            f"try `qkv translate {self.run.path}`"
        )

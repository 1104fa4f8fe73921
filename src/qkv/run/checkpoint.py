"""Checkpoints: written whole or not at all, and enough to go on bit for bit.

A checkpoint is a directory: `model.safetensors` (the weights to use), `optimizer.safetensors` (what else it takes to
resume: moments, random state, and the raw weights where an average is used), `state.json` (where training stood, and
which architecture this is) and `manifest.json` (their checksums, which reading verifies).
"""

import dataclasses
import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qkv.errors import UserError
from qkv.files import new_directory, remove_directory, remove_leftovers, to_json
from qkv.nn.architectures import ARCHITECTURES
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checksums import verify, write_manifest
from qkv.run.directory import Run

FORMAT = 1


@dataclass
class TrainingState:
    """Where training stands.

    Attributes:
        step: steps of the optimizer done; so are `epoch`, passes over the data, and `batch`, batches of this epoch.
        batches_per_epoch: how many this epoch has; 0 before that is known.
        batch_tokens: the budget by which these are counted; 0: the checkpoint is of before it was written down.
        dealt: budgets that this epoch began with, each with how many of how many batches were done by it; `batch` and
            `batches_per_epoch` are of what it left.
        seconds: wall-clock time spent so far, over all sittings.
        target_tokens: real target tokens learnt from so far.
        best: best value of the validation metric, reached at `best_step` with the loss `best_loss`.
        judged_by: what the best was chosen by: the metric, and how outputs for it were searched for.
        validations_since_best: for early stopping.
        validated_step: step of the last validation.
        longest_validation: seconds that one took, checkpoint included; a wall-clock budget sets as much aside.
        stopgap: this checkpoint was not due; a signal had asked to stop. The next one takes its place.
        window: sums since the last report.
        loss_scale: state of the fp16 gradient scaler.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    batches_per_epoch: int = 0
    batch_tokens: int = 0
    dealt: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    target_tokens: int = 0
    best: float | None = None
    best_loss: float | None = None
    best_step: int = 0
    judged_by: dict[str, Any] | None = None
    validations_since_best: int = 0
    validated_step: int = -1
    longest_validation: float = 0.0
    stopgap: bool = False
    window: dict[str, float] = field(default_factory=dict)
    loss_scale: dict[str, Any] = field(default_factory=dict)

    @property
    def passes(self) -> float:
        """Passes over the data, the share of the present one that is done included."""
        within = 0.0
        for done, batches in [*(given[1:] for given in self.dealt), (self.batch, self.batches_per_epoch)]:
            within += (1.0 - within) * (done / batches if batches else 0.0)
        return self.epoch + within


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tied matrix appears once, under its first name."""
    seen: set[int] = set()
    weights = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            weights[name] = tensor.detach()
    return weights


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: str | Path = "these weights") -> None:
    """Copy weights into a model of the same shape; or a `UserError` names `origin`, and the model is as it was."""
    own = weights_of(model)
    missing, extra = own.keys() - weights.keys(), weights.keys() - own.keys()
    if missing or extra:
        fault = f"{min(missing)} is missing" if missing else f"{min(extra)} is not part of this model"
        raise UserError(f"{origin}: of another architecture: {fault}")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            theirs, ours = tuple(weights[name].shape), tuple(tensor.shape)
            raise UserError(f"{origin}: of another shape: {name} is {theirs}, this model has {ours}")
    for name, tensor in own.items():
        tensor.copy_(weights[name])


@contextmanager
def using_weights(model: nn.Module, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
    """For a while, the model has other weights (None: its own)."""
    if weights is None:
        yield
        return
    own = {name: tensor.clone() for name, tensor in weights_of(model).items()}
    set_weights(model, weights)
    try:
        yield
    finally:
        set_weights(model, own)


def save_checkpoint(
    directory: Path,
    model: Seq2Seq,
    model_options: Any,
    architecture: str,
    state: TrainingState,
    *,
    weights: Mapping[str, Tensor] | None = None,
    resume: Mapping[str, Tensor] | None = None,
    average_of: Sequence[str] = (),
) -> None:
    """Write a checkpoint; it appears under its name only when it is complete.

    `weights` are to be used in place of the model's own (an average); `resume` are the tensors of
    `optimizer.safetensors`, none for a checkpoint that is for use only; `average_of` names the checkpoints that it is
    the mean of, if it is one.

    Raises:
        UserError: if the disk is full or not writable; older checkpoints stay as they are.
    """
    described = {"model": dataclasses.asdict(model_options), "training": dataclasses.asdict(state)}
    description = {"format": FORMAT, "architecture": architecture, **described}
    if average_of:
        description["average_of"] = list(average_of)
    try:
        with new_directory(directory) as new:
            save_file(_for_saving(weights or weights_of(model)), new / "model.safetensors")
            if resume is not None:
                save_file(_for_saving(resume), new / "optimizer.safetensors")
            (new / "state.json").write_text(to_json(description, indent=1), encoding="utf-8")
            write_manifest(new)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or error
        raise UserError(
            f"{directory}: cannot save the checkpoint of step {state.step}: {reason}. Earlier checkpoints are intact: "
            "put that right and resume"
        ) from None


def _for_saving(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def read_description(directory: Path) -> dict[str, Any]:
    """`state.json` of a checkpoint; `UserError` if it is missing, damaged or of a later format."""
    path = directory / "state.json"
    try:
        verify(path)
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{directory}: not a checkpoint (no readable state.json)") from None
    if not isinstance(description, dict) or not {"format", "architecture", "model", "training"} <= set(description):
        raise UserError(f"{path}: does not describe a checkpoint; the file is damaged")
    if description["format"] != FORMAT:
        raise UserError(f"{path}: this qkv reads checkpoint format {FORMAT}, not {description['format']!r}")
    return description


def read_state(directory: Path) -> TrainingState:
    """Where training stood at the checkpoint; `UserError` if it does not say, or not as this version understands it."""
    try:
        return TrainingState(**read_description(directory)["training"])
    except TypeError as error:
        raise UserError(f"{directory}/state.json: does not say where training stood: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file from anywhere, checked against its checksum; `UserError` if it is missing or damaged."""
    try:
        verify(path)
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def load_model(directory: Path, architecture: str | None = None) -> Seq2Seq:
    """The model that a checkpoint describes; `UserError` if it is unreadable or not of the expected architecture."""
    description = read_description(directory)
    found = description["architecture"]
    if architecture is not None and found != architecture:
        raise UserError(f"{directory}: a checkpoint of architecture {found!r}, this run is {architecture!r}")
    try:
        kind = ARCHITECTURES.find(found)
        model = kind.build(kind.config(**description["model"]))
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{directory}/state.json: does not describe a {found}: {error}") from None
    set_weights(model, read_tensors(directory / "model.safetensors"), directory)
    return model


def average_weights(checkpoints: Sequence[Path]) -> dict[str, Tensor]:
    """The mean of checkpoints' weights (Vaswani et al. 2017, section 6.1); `UserError` if none, or not of one shape."""
    if not checkpoints:
        raise UserError("there are no checkpoints to average")
    total: dict[str, Tensor] = {}
    for checkpoint in checkpoints:
        weights = read_tensors(checkpoint / "model.safetensors")
        if total and {n: t.shape for n, t in total.items()} != {n: t.shape for n, t in weights.items()}:
            raise UserError(f"{checkpoint}: of another shape than {checkpoints[0]}; they cannot be averaged")
        total = {name: tensor.double() + total.get(name, 0.0) for name, tensor in weights.items()}
    return {name: (total[name] / len(checkpoints)).to(tensor.dtype) for name, tensor in weights.items()}


def average_run(run: Run, last: int) -> Path:
    """Average a run's last checkpoints into a new one, for use only, which says of which (`average_of`).

    If there are fewer than `last`, all are averaged; `UserError` if that are fewer than 2.
    """
    if last < 2:
        raise UserError(f"averaging takes at least 2 checkpoints, not {last}")
    checkpoints = run.checkpoints()[-last:]
    if len(checkpoints) < 2:
        raise UserError(f"{run.path}: averaging takes at least 2 checkpoints, and it has {len(checkpoints)}")
    weights = average_weights(checkpoints)
    model, state = load_model(checkpoints[-1]), read_state(checkpoints[-1])
    destination = run.checkpoints_path / f"averaged-{state.step:08d}"
    architecture = read_description(checkpoints[-1])["architecture"]
    names = [path.name for path in checkpoints]
    save_checkpoint(destination, model, model.config, architecture, state, weights=weights, average_of=names)
    return destination


def averaged_checkpoints(checkpoint: Path) -> list[str]:
    """The names of those that a checkpoint is the average of; none if it is no average, or too old to say."""
    return list(read_description(checkpoint).get("average_of", []))


def prune(run: Run, keep: int) -> None:
    """Remove old checkpoints: the newest `keep` and the best stay.

    So that an interrupted run comes to the same end as an uninterrupted one, a stopgap goes as soon as there is a
    newer checkpoint. Left-overs of killed writes go, too.
    """
    remove_leftovers(run.checkpoints_path, "step-*", "averaged-*")
    checkpoints = run.checkpoints()
    due = [path for path in checkpoints if path == checkpoints[-1] or not _is_stopgap(path)]
    for checkpoint in checkpoints:
        if checkpoint not in due[-keep:] and checkpoint.name != run.best_path.resolve().name:
            remove_directory(checkpoint)


def _is_stopgap(checkpoint: Path) -> bool:
    try:
        return read_state(checkpoint).stopgap
    except UserError:  # damaged; that is for whoever wants to use it to say
        return False

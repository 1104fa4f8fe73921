"""What of a run may change when it is gone on with: its end and its use, but not what it was made from.

Files of pairs may move, but not change: what was prepared keeps a stamp of the files that it was made from.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qkv.config.loading import foreign_options
from qkv.config.schema import Config
from qkv.errors import UserError
from qkv.files import digest, to_json
from qkv.run.checkpoint import TrainingState
from qkv.text.corpus import PairFiles

_PLACES = (
    *("data.root", "data.test", "data.train.path", "data.train.source", "data.train.target"),
    *("data.validation.path", "data.validation.source", "data.validation.target"),
)

MAY_CHANGE = (
    *("version", "run", "device", "threads", *_PLACES),
    *("training", "validation", "checkpoints", "decoding", "evaluation"),
    *("model.dropout", "model.attention_dropout", "model.activation_dropout"),
)
"""Sections and keys; whatever is not declared here stays. That the content of files has not changed, stamps tell."""

WITHOUT_STEPS = (
    *("version", "run", "device", "threads", *_PLACES, "decoding", "evaluation"),
    *("training.steps", "training.epochs", "training.budget", "training.average_last", "validation.patience"),
)
"""Those of them that mean something where no step is left to be done."""


def check_changes(before: Config, now: Config, state: TrainingState) -> None:
    """Refuse to go on by `now` with a run that was made by `before`, when training stands where `state` says.

    The `UserError` names the first key that may not change, its old and its new value.
    """
    done = {"training.steps": state.step, "training.epochs": state.passes, "training.budget": state.seconds}
    for key, (old, new) in _changes(before, now).items():
        change = f"{key} is {to_json(old)} in {before.run} and cannot become {to_json(new)}"
        if key == "training.batch_tokens" and 0 < state.batch < state.batches_per_epoch and not state.batch_tokens:
            raise UserError(
                f"{change} in the middle of this epoch (batch {state.batch:,} of {state.batches_per_epoch:,}): the "
                "checkpoint was written by an older qkv, and does not say which pairs are done; go on without this "
                "change at first"
            )
        if key in done and new is not None and new < done[key]:
            raise UserError(f"{change}: training has come to {round(done[key], 2):,} already; leave it as it is")
        # Validation pairs may come later, and go; what they were is told by their stamp.
        comes_or_goes = key.startswith("data.validation") and None in (before.data.validation, now.data.validation)
        if not comes_or_goes and not _is_one_of(key, MAY_CHANGE):
            raise UserError(f"{change}: it was made with that; go on without this change, or train another run")


def check_average(now: Config, before: Config | None) -> None:
    """Refuse an average of one checkpoint, unless the run said so before, when it was let pass and did nothing."""
    if now.training.average_last == 1 and (before is None or before.training.average_last != 1):
        raise UserError("training.average_last is 1: an average takes at least 2 checkpoints; say 0 for none")


def check_effect(before: Config, now: Config) -> None:
    """Refuse, naming the key, what only a step to come could obey, when none is: config.yaml would not be true."""
    for key, (old, new) in _changes(before, now).items():
        if not _is_one_of(key, WITHOUT_STEPS):
            raise UserError(
                f"{key} is {to_json(old)} in {before.run} and cannot become {to_json(new)}: its training is over; "
                "raise training.steps (or epochs, budget, validation.patience) as well, or go on without this change"
            )


def _changes(before: Config, now: Config) -> dict[str, tuple[Any, Any]]:
    """Old and new value of every key in which they differ, but for options that only other architectures know."""
    old, new = (dict(flat(config.model_dump(mode="json"))) for config in (before, now))
    keys = dict.fromkeys([*old, *new, "data.validation"])
    for config, values in ((before, old), (now, new)):  # a section that is there, as such
        values.setdefault("data.validation", config.data.validation is not None or None)
    foreign = {f"model.{name}" for name in foreign_options(now.model)}
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key) and key not in foreign}


def _is_one_of(key: str, declared: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in declared)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def stamp(files: PairFiles) -> list[dict[str, Any]]:
    """What tells these files from others: for each its path, size, time of change, checksum, and how it is read."""
    how = _how_read(files)
    return [{"path": str(path), **_status(path), "sha256": digest(path), "read": how} for path in _paths(files)]


def check_stamp(made_from: Sequence[Mapping[str, Any]], files: PairFiles, key: str) -> None:
    """Refuse, by `UserError`, files of other content than the stamp's, or read in another way.

    Files that are gone are not missed. Stamps of before they said how files are read are held against content alone.
    """
    paths, how = list(_paths(files)), _how_read(files)
    if len(paths) != len(made_from):
        raise UserError(f"{key}: this run was made from {len(made_from)} file(s), not from {len(paths)}")
    for path, then in zip(paths, made_from, strict=True):
        read = then.get("read", how)
        for name in dict.fromkeys([*read, *how]):
            if read.get(name) != how.get(name):
                old, new = to_json(read.get(name)), to_json(how.get(name))
                raise UserError(f"{key}.{name}: this run was made with {old}, not with {new}; put back what was said")
        if not path.exists():
            if str(path) == then["path"]:
                continue
            raise UserError(f"{key}: {path}: no such file; this run was made from {then['path']}")
        now = _status(path)
        if now["bytes"] == then["bytes"] and (now["modified"] == then["modified"] or digest(path) == then["sha256"]):
            continue
        raise UserError(
            f"{key}: this run was made from {then['path']} ({then['bytes']:,} bytes, sha256 {then['sha256'][:12]}…), "
            f"but {path} ({now['bytes']:,} bytes) has another content; put the old one there, or train another run"
        )


def _how_read(files: PairFiles) -> dict[str, Any]:
    """What is said of a file beside its path: format, columns."""
    return files.model_dump(mode="json", exclude={"path", "source", "target"}, exclude_none=True)


def _paths(files: PairFiles) -> Iterator[Path]:
    return (Path(path) for path in (files.path, files.source, files.target) if path is not None)


def _status(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}

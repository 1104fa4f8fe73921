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

MAY_CHANGE = (
    *("version", "run", "device", "threads"),
    *("training", "validation", "checkpoints", "decoding", "evaluation"),
    *("model.dropout", "model.attention_dropout", "model.activation_dropout"),
    *("data.root", "data.test", "data.validation"),
    *("data.train.path", "data.train.source", "data.train.target"),
)
"""Sections and keys; whatever is not declared here stays. That the content of files has not changed, stamps tell."""

BETWEEN_EPOCHS = ("training.batch_tokens", "training.accumulate")
"""They decide which batches an epoch has, so that in the middle of one they must stay."""


def check_changes(before: Config, now: Config, state: TrainingState) -> None:
    """Refuse to go on by `now` with a run that was made by `before`, when training stands where `state` says.

    The `UserError` names the first key that may not change, its old and its new value.
    """
    old, new = (dict(flat(config.model_dump(mode="json"))) for config in (before, now))
    foreign = {f"model.{name}" for name in foreign_options(now.model)}
    within_epoch = 0 < state.batch < state.batches_per_epoch
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) == new.get(key) or key in foreign:
            continue
        change = f"{key} is {to_json(old.get(key))} in {before.run} and cannot become {to_json(new.get(key))}"
        if key in BETWEEN_EPOCHS and within_epoch:
            raise UserError(
                f"{change} in the middle of an epoch (batch {state.batch:,} of {state.batches_per_epoch:,}): the rest "
                "of its batches would be other ones; go on without this change, or train another run"
            )
        if not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
            raise UserError(f"{change}: it was made with that; go on without this change, or train another run")


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def stamp(files: PairFiles) -> list[dict[str, Any]]:
    """What tells these files from others: for each its path, size, time of change and checksum."""
    return [{"path": str(path), **_status(path), "sha256": digest(path)} for path in _paths(files)]


def check_stamp(made_from: Sequence[Mapping[str, Any]], files: PairFiles, key: str) -> None:
    """Refuse, by `UserError`, files of other content than the stamp's; those that are gone are not missed."""
    paths = list(_paths(files))
    if len(paths) != len(made_from):
        raise UserError(f"{key}: this run was made from {len(made_from)} file(s), not from {len(paths)}")
    for path, then in zip(paths, made_from, strict=True):
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


def _paths(files: PairFiles) -> Iterator[Path]:
    return (Path(path) for path in (files.path, files.source, files.target) if path is not None)


def _status(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"bytes": status.st_size, "modified": status.st_mtime_ns}

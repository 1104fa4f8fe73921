"""A run directory: what lies in it and where."""

import json
import os
import re
import reprlib
import unicodedata
from pathlib import Path
from typing import Any

from qkv.config.loading import load_config
from qkv.config.schema import Config
from qkv.errors import UserError
from qkv.run.checksums import verify
from qkv.text.tokenizer import Tokenizers

_STEP = re.compile(r"step-\d{8,}")
_INSIDE = 128  # bytes for the names of what lies in a run


def check_name(path: Path) -> None:
    """Refuse, by `UserError`, a name that no directory can have, or that could not be shown and written down."""
    shown = reprlib.repr(str(path))
    for character in str(path):
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise UserError(f"run={shown}: {character!r} cannot stand in the name of a run; choose another")
    there = next(parent for parent in path.absolute().parents if os.path.isdir(parent))
    names = {"PC_NAME_MAX": [*path.parts], "PC_PATH_MAX": [f"{path.absolute()}{'/' * _INSIDE}"]}
    for limit, parts in names.items():
        most, length = os.pathconf(there, limit), max((len(os.fsencode(part)) for part in parts), default=0)
        if 0 < most < length:
            raise UserError(f"run={shown}: a name of {length:,} bytes, and {most:,} is the most here; choose a shorter")


class Run:
    """Paths of a run, and its parts read back.

    Attributes:
        path: its directory.
        config_path: the resolved configuration, every default spelled out.
        lock_path: it is there while somebody trains the run; see `qkv.run.lock`.
        tokenizer_path: the tokenizers' directory.
        checkpoints_path: the directory of all checkpoints.
        best_path: a symbolic link to the checkpoint that is used.
        metrics_path: one JSON object a line for each report and validation.
        tensorboard_path: TensorBoard's event files.
        report_path: the page that shows what training came to.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_path = self.path / "config.yaml"
        self.lock_path = self.path / "lock"
        self.tokenizer_path = self.path / "tokenizer"
        self.checkpoints_path = self.path / "checkpoints"
        self.best_path = self.path / "best"
        self.metrics_path = self.path / "metrics.jsonl"
        self.tensorboard_path = self.path / "tensorboard"
        self.report_path = self.path / "report.html"

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run; `UserError` if `path` is not a run directory."""
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"{path}: no such run directory; `qkv train RECIPE.yaml run={path}` makes one")
        if not run.config_path.is_file():
            raise UserError(f"{path}: not a run directory (it has no config.yaml)")
        return run

    def encoded_path(self, name: str) -> Path:
        """The tokenised pairs called `train`, `validation`, …"""
        return self.path / "encoded" / name

    def shortlist_path(self, count: int) -> Path:
        """The shortlist of so many target tokens for each source token."""
        return self.path / f"shortlist-{count}.safetensors"

    def checkpoint_path(self, step: int) -> Path:
        """Where the checkpoint of a step is or will be."""
        return self.checkpoints_path / f"step-{step:08d}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints that training can resume from, oldest first."""
        found = [path for path in self.checkpoints_path.glob("step-*") if _STEP.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))

    @property
    def config(self) -> Config:
        """The configuration, read from config.yaml."""
        return load_config(self.config_path)

    def tokenizers(self) -> Tokenizers:
        """The tokenizers; `UserError` if they have not been learnt yet, or are damaged."""
        if not self.tokenizer_path.is_dir():
            raise UserError(
                f"{self.path}: has no tokenizer yet; resume its training with `qkv train --resume {self.path}`"
            )
        for path in (*self.tokenizer_path.glob("settings.json"), *self.tokenizer_path.glob("*.model")):
            verify(path)
        return Tokenizers.load(self.tokenizer_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, oldest first, but one cut off by a crash; `UserError` if another is damaged."""
        if not self.metrics_path.is_file():
            return []
        records = []
        for number, line in enumerate(self.metrics_path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                record = json.loads(line) if line else {}
            except ValueError:
                record = None
            if line and not (isinstance(record, dict) and {"event", "step"} <= record.keys()):
                raise UserError(f"{self.metrics_path}:{number}: damaged; mend or remove this line")
            records.append(record)
        return [record for record in records if record]

    def find_checkpoint(self, checkpoint: str | Path | None = None) -> Path:
        """A checkpoint by path, name in this run, "best" (the default) or "last"; `UserError` if there is none."""
        if checkpoint is None or str(checkpoint) == "best":
            if self.best_path.exists():
                return self.best_path.resolve()
            checkpoint = "last"
        if str(checkpoint) == "last":
            if not self.checkpoints():
                raise UserError(f"{self.path}: has no checkpoint yet")
            return self.checkpoints()[-1]
        for candidate in (Path(checkpoint), self.checkpoints_path / str(checkpoint)):
            if (candidate / "model.safetensors").is_file():
                return candidate
        names = ", ".join(p.name for p in self.checkpoints()) or "none"
        raise UserError(f"{checkpoint}: no such checkpoint; {self.path} has {names}")

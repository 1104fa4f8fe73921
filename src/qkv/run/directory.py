"""A run directory: what lies in it and where."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.errors import UserError
from qkv.run.checksums import verify

if TYPE_CHECKING:
    from qkv.config.schema import Config
    from qkv.text.tokenizer import Tokenizers

_STEP = re.compile(r"step-(\d{8,})")


class Run:
    """Paths of a run, and its parts read back.

    config.yaml, tokenizer/, encoded/, checkpoints/step-NNNNNNNN/, best -> checkpoints/…, metrics.jsonl, tensorboard/,
    report.html
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run.

        Raises:
            UserError: if `path` is not a run directory.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"{path}: no such run directory; `qkv train RECIPE.yaml run={path}` makes one")
        if not run.config_path.is_file():
            raise UserError(f"{path}: not a run directory (it has no config.yaml)")
        return run

    @property
    def config_path(self) -> Path:
        """The resolved configuration, every default spelled out."""
        return self.path / "config.yaml"

    @property
    def lock_path(self) -> Path:
        """It is there while somebody trains the run; see `qkv.run.lock`."""
        return self.path / "lock"

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizers' directory."""
        return self.path / "tokenizer"

    @property
    def checkpoints_path(self) -> Path:
        """The directory of all checkpoints."""
        return self.path / "checkpoints"

    @property
    def best_path(self) -> Path:
        """A symbolic link to the checkpoint that is used."""
        return self.path / "best"

    @property
    def metrics_path(self) -> Path:
        """One JSON object a line for each report and validation."""
        return self.path / "metrics.jsonl"

    @property
    def report_path(self) -> Path:
        """The page that shows what training came to."""
        return self.path / "report.html"

    @property
    def tensorboard_path(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

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
        if not self.checkpoints_path.is_dir():
            return []
        return sorted((p for p in self.checkpoints_path.iterdir() if _STEP.fullmatch(p.name)), key=_step_of)

    @property
    def config(self) -> "Config":
        """The configuration, read from config.yaml."""
        from qkv.config.loading import load_config

        return load_config(self.config_path)

    def tokenizers(self) -> "Tokenizers":
        """The tokenizers; `UserError` if they have not been learnt yet, or are damaged."""
        from qkv.text.tokenizer import Tokenizers

        if not self.tokenizer_path.is_dir():
            raise UserError(
                f"{self.path}: has no tokenizer yet; resume its training with `qkv train --resume {self.path}`"
            )
        for path in (*self.tokenizer_path.glob("settings.json"), *self.tokenizer_path.glob("*.model")):
            verify(path)
        return Tokenizers.load(self.tokenizer_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, oldest first; a last line that was cut off by a crash is left out.

        Raises:
            UserError: if a line is damaged.
        """
        if not self.metrics_path.is_file():
            return []
        lines = self.metrics_path.read_bytes().split(b"\n")
        return [self._record(number, line) for number, line in enumerate(lines[:-1], start=1) if line]

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {"event", "step"} <= record.keys():
            raise UserError(f"{self.metrics_path}:{number}: damaged; mend or remove this line") from None
        return record

    def find_checkpoint(self, checkpoint: str | Path | None = None) -> Path:
        """A checkpoint directory by path, by name in this run, or by "best" (the default) or "last".

        Raises:
            UserError: if there is none.
        """
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


def _step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])

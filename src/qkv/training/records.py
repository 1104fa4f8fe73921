"""What a run writes down about itself: metrics.jsonl, and TensorBoard events beside it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from qkv.errors import UserError
from qkv.files import to_json, write_text
from qkv.run.directory import Run
from qkv.training.loss import Loss


class Records:
    """One JSON object a line, and the numbers in it as TensorBoard scalars. What is not finite is null in JSON.

    Args:
        run: whose records.
        step: where training stands; what an interrupted sitting wrote beyond it is taken back.

    Attributes:
        validations: the lines of validations, of earlier sittings too.

    Raises:
        UserError: if the disk is full or not writable; so do the methods.
    """

    def __init__(self, run: Run, step: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        self._run = run
        kept = [record for record in run.metrics() if record["step"] <= step]
        self.validations = [record for record in kept if record["event"] == "validation"]
        write_text(run.metrics_path, "".join(f"{to_json(record)}\n" for record in kept))
        with self._writing():
            self._file = open(run.metrics_path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
            self._board = SummaryWriter(str(run.tensorboard_path), purge_step=step + 1 if step else None)

    def add(self, event: str, step: int, **values: Any) -> None:
        """Write a line {"event": …, "step": …, **values}."""
        record = {"event": event, "step": step, **values}
        if event == "validation":
            self.validations.append(record)
        with self._writing():
            self._file.write(to_json(record) + "\n")
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Write what is waiting. A disk that is full by now has been, or will be, complained about elsewhere."""
        for written in (self._file, self._board):
            with suppress(OSError):
                written.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self._run.path}: cannot write the records of training ({error.strerror or error}); checkpoints are "
                "intact, so make room and resume"
            ) from None


class Window:
    """Sums since the last report. They stay on the device, so that a GPU is not waited for at every step."""

    def __init__(self, device: torch.device, saved: Mapping[str, float] | None = None):
        saved = saved or {}
        self._sums = {
            name: torch.tensor(saved.get(name, 0.0), dtype=torch.float64, device=device) for name in Loss._fields
        }
        self._began = time.monotonic()
        self._tokens_here = 0

    def add(self, loss: Loss) -> None:
        """Add one step's."""
        for name, value in loss._asdict().items():
            self._sums[name] += value
        self._tokens_here += loss.tokens

    def saved(self) -> dict[str, float]:
        """The sums as numbers, to go on with after resuming."""
        return {name: value.item() for name, value in self._sums.items()}

    @property
    def loss(self) -> float:
        """Label-smoothed loss per target token."""
        return self._per_token("smoothed")

    @property
    def nll(self) -> float:
        """Negative log-likelihood per target token, in nats."""
        return self._per_token("nll")

    @property
    def tokens_per_second(self) -> float:
        """Real target tokens a second in this sitting, since the last report."""
        return self._tokens_here / max(1e-9, time.monotonic() - self._began)

    def _per_token(self, name: str) -> float:
        return (self._sums[name] / self._sums["tokens"].clamp(min=1)).item()

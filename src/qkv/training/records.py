"""What a run writes down about itself: metrics.jsonl, and TensorBoard events beside it."""

import json
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qkv.files import write_text
from qkv.run import Run


class Records:
    """One JSON object a line, and the numbers in it as TensorBoard scalars.

    Args:
        run: whose records.
        step: where training stands; what an interrupted sitting wrote beyond it is taken back.
    """

    def __init__(self, run: Run, step: int):
        from torch.utils.tensorboard.writer import SummaryWriter

        kept = [json.dumps(line) + "\n" for line in run.metrics() if line["step"] <= step]
        write_text(run.metrics_path, "".join(kept))
        self._file = open(run.metrics_path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._board = SummaryWriter(str(run.tensorboard_path), purge_step=step + 1 if step else None)

    def add(self, event: str, step: int, **values: Any) -> None:
        """Write a line {"event": …, "step": …, **values}."""
        self._file.write(json.dumps({"event": event, "step": step, **values}, ensure_ascii=False) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the files."""
        self._file.close()
        self._board.close()


class Window:
    """Sums since the last report. They stay on the device, so that a GPU is not waited for at every step."""

    _SUMS = ("smoothed", "nll", "tokens", "steps")

    def __init__(self, device: torch.device, saved: Mapping[str, float] | None = None):
        saved = saved or {}
        self._sums = {n: torch.tensor(saved.get(n, 0.0), dtype=torch.float64, device=device) for n in self._SUMS}
        self._began = time.monotonic()
        self._tokens_here = 0

    def add(self, *, smoothed: Tensor, nll: Tensor, tokens: int) -> None:
        """Add one step's summed losses and its number of target tokens."""
        for name, value in (("smoothed", smoothed), ("nll", nll), ("tokens", tokens), ("steps", 1)):
            self._sums[name] += value
        self._tokens_here += tokens

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

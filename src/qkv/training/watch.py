"""Training that goes wrong stops at once, with its last good checkpoint untouched."""

import math

import torch
from torch import Tensor

from qkv.errors import UserError
from qkv.run.directory import Run


class Watch:
    """Notices the first step whose numbers are not finite, without making the CPU wait for a GPU at every step."""

    def __init__(self, run: Run, device: torch.device):
        self._run = run
        self._first_bad_step = torch.full((), torch.inf, dtype=torch.float64, device=device)

    def look(self, step: int, number: Tensor) -> None:
        """Look at a number of this step. On a CPU a bad one raises at once, elsewhere when `check` is called."""
        bad = torch.where(torch.isfinite(number), torch.inf, float(step))
        self._first_bad_step = torch.minimum(self._first_bad_step, bad.to(self._first_bad_step.dtype))
        if self._first_bad_step.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Call it before anything is kept; `UserError` if some number was not finite."""
        step = self._first_bad_step.item()
        if math.isfinite(step):
            raise self.error(int(step), "the loss is not a number")

    def error(self, step: int, what: str) -> UserError:
        """Says what happened, when, and what is left."""
        kept = self._run.checkpoints()
        good = f"the last good checkpoint is {kept[-1]}" if kept else "no checkpoint had been saved yet"
        return UserError(
            f"{what} at step {step}; {good}. Lower training.learning_rate, raise training.warmup_steps or lower "
            "training.clip_norm"
        )

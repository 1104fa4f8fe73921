"""How the learning rate rises and falls."""

import math
from dataclasses import dataclass
from typing import Literal

from qkv.config.schema import TrainingConfig

_LONGEST_WARMUP = 0.1  # of a wall-clock budget
_COOLDOWN = 0.3  # of a wall-clock budget


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step and of the share of the run that is over.

    Attributes:
        kind: `paper` is d_model^-0.5 · min(step^-0.5, step · warmup^-1.5) (Vaswani et al. 2017, equation 3), whatever
            `peak` says; `inverse_sqrt` has its form and the peak that is given; `cosine` falls along half a cosine to
            zero (Loshchilov & Hutter 2017); `constant` stays.
        peak: learning rate at the end of warm-up.
        warmup_steps: steps over which it rises linearly.
        d_model: width of the model, for `paper`.
        cooldown: last share of the run, over which whatever the kind says is brought to zero linearly.
        timed: the run is bounded by time, so that warm-up ends after a tenth of it at the latest.
    """

    kind: Literal["paper", "inverse_sqrt", "cosine", "constant"]
    peak: float
    warmup_steps: int
    d_model: int = 512
    cooldown: float = 0.0
    timed: bool = False

    @classmethod
    def of(cls, settings: TrainingConfig, d_model: int) -> "Schedule":
        """What the recipe's training section says."""
        timed = settings.budget is not None
        cooldown = settings.cooldown
        if cooldown is None:
            cooldown = _COOLDOWN if timed and settings.schedule != "cosine" else 0.0
        return cls(settings.schedule, settings.learning_rate, settings.warmup_steps, d_model, cooldown, timed)

    @property
    def top(self) -> float:
        """The highest learning rate there will be."""
        warmup = max(1, self.warmup_steps)
        return self.d_model**-0.5 * warmup**-0.5 if self.kind == "paper" else self.peak

    def learning_rate(self, step: int, share: float) -> float:
        """For step 1, 2, … when `share` (0 … 1) of the run is over."""
        warmup = max(1, self.warmup_steps)
        risen = max(step / warmup, share / _LONGEST_WARMUP if self.timed else 0.0)
        if self.kind == "cosine":
            fallen = 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        else:
            fallen = 1.0 if self.kind == "constant" else min(1.0, math.sqrt(warmup / step))
        cooled = min(1.0, max(0.0, 1.0 - share) / self.cooldown) if self.cooldown else 1.0
        return self.top * min(1.0, risen) * fallen * cooled

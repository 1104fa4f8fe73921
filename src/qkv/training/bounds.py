"""When training ends: after so many steps, epochs or seconds, or when nothing gets better."""

import time

from qkv.config.schema import Config
from qkv.run.checkpoint import TrainingState

_STEPS_IF_UNBOUNDED = 50_000


class Bounds:
    """How much of a run is over: `state` is looked at anew each time.

    `began` is `time.monotonic()` of the moment from which this sitting counts.
    """

    def __init__(self, config: Config, state: TrainingState, began: float):
        self._settings, self._validation, self._state = config.training, config.validation, state
        self._began, self._seconds_before = began, state.seconds

    def seconds(self) -> float:
        """Wall-clock time spent on this run, over all sittings."""
        return self._seconds_before + time.monotonic() - self._began

    def share(self) -> float:
        """From 0 (nothing done) to 1 (a bound is reached)."""
        shares = [0.0]
        steps, epochs, budget = self._settings.steps, self._settings.epochs, self._settings.budget
        if steps is None and epochs is None and budget is None:
            steps = _STEPS_IF_UNBOUNDED
        if steps is not None:
            shares.append(self._state.step / steps)
        if epochs is not None:
            shares.append(self._state.passes / epochs)
        if budget is not None:
            validations = 2 if self._settings.average_last else 1  # that come after the last step
            reserve = min(0.5 * budget, 0.02 * budget + 1.5 * validations * self._state.longest_validation)
            shares.append(self.seconds() / (budget - reserve))
        return min(1.0, max(shares))

    def are_reached(self) -> bool:
        """Whether training is over."""
        return self.share() >= 1.0 or self.has_stalled()

    def has_stalled(self) -> bool:
        """Whether nothing has got better for as long as the recipe's patience lasts."""
        patience = self._validation.patience
        return patience is not None and self._state.validations_since_best >= patience

    def validation_is_due(self) -> bool:
        """Whether it is time to validate, after a step."""
        every = self._validation.every
        untold = self._settings.budget is not None and not self._state.longest_validation
        if untold and self.share() >= 0.5:  # how much of the budget the last validation and checkpoint will need
            return True
        return self._state.batch >= self._state.batches_per_epoch if every is None else self._state.step % every == 0

"""Dropout (Srivastava et al. 2014): while training, each element is left out with some probability."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Float
from torch import Tensor, nn

Mask = Callable[[Tensor, float], Tensor]
"""From a tensor and a probability, 0 where to drop and 1/(1 − probability) where to keep: same shape and dtype."""

_drawn_by: ContextVar[Mask | None] = ContextVar("dropout masks", default=None)


@contextmanager
def masks_drawn_by(draw: Mask) -> Iterator[None]:
    """Within the block, and in this thread, dropout takes its masks from here rather than from torch."""
    token = _drawn_by.set(draw)
    try:
        yield
    finally:
        _drawn_by.reset(token)


def dropout(x: Float[Tensor, "..."], probability: float, training: bool = True) -> Float[Tensor, "..."]:
    """Zero each element with the given probability and scale the rest, so that the expectation stays."""
    if not training or probability == 0.0:
        return x
    draw = _drawn_by.get()
    return nn.functional.dropout(x, probability) if draw is None else x * draw(x, probability)


class Dropout(nn.Module):
    """`dropout` as a module: active in training mode only; `ValueError` if the probability is outside [0, 1)."""

    def __init__(self, probability: float):
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout probability must be in [0, 1), got {probability}")
        self.probability = probability

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Drop elements while training, else return `x` as it is."""
        return dropout(x, self.probability, self.training)

    def extra_repr(self) -> str:
        """The probability, for printing."""
        return f"{self.probability}"

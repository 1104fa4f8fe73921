"""Dropout (Srivastava et al. 2014) whose mask does not cost more than the layer it regularises."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

_LEVELS = 2**16
_of_thread = threading.local()


@contextmanager
def drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let dropout on a CPU draw from this generator, in this thread, in place of torch's, which all threads share."""
    before = getattr(_of_thread, "generator", None)
    _of_thread.generator = generator
    try:
        yield
    finally:
        _of_thread.generator = before


def dropout(x: Float[Tensor, "..."], probability: float, training: bool = True) -> Float[Tensor, "..."]:
    """Zero each element with the given probability and scale the rest, so that the expectation stays.

    On a CPU torch draws one serial random number per element, which takes as long as four matrix products of
    width 256. There we draw 64 bits at a time and cut them into four 16-bit numbers; the probability is met
    to 1/65536.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return nn.functional.dropout(x, probability)
    return x * _scaled_keep_mask(x, probability)


def _scaled_keep_mask(x: Tensor, probability: float) -> Tensor:
    """0 where dropped, 1/(1 - probability) where kept: same shape and dtype as `x`."""
    dropped_levels = round(probability * _LEVELS)
    if dropped_levels >= _LEVELS:
        return torch.zeros_like(x)
    count = x.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=x.device)
    bits.random_(-(2**63), None, generator=getattr(_of_thread, "generator", None))
    uniform = bits.view(torch.int16)[:count].view(x.shape)
    keep = uniform >= dropped_levels - _LEVELS // 2
    return keep.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped_levels))


class Dropout(nn.Module):
    """`dropout` as a module: active in training mode only.

    Raises:
        ValueError: if the probability is outside [0, 1).
    """

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

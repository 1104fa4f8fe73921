"""Dropout masks that do not cost more on a CPU than the layers they regularise."""

from contextlib import AbstractContextManager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.nn.dropout import masks_drawn_by

_LEVELS = 2**16


def drawing_from(generator: torch.Generator | None = None) -> AbstractContextManager[None]:
    """Within the block, dropout in this thread takes its masks from `keep_mask`: of this generator, or else torch's."""
    return masks_drawn_by(partial(keep_mask, generator=generator))


def keep_mask(
    x: Float[Tensor, "..."], probability: float, generator: torch.Generator | None = None
) -> Float[Tensor, "..."]:
    """0 where dropped, 1/(1 − probability) where kept: same shape and dtype as `x`.

    torch draws one serial random number per element on a CPU, which takes as long as four matrix products of width
    256. Here 64 bits are drawn at a time and cut into four 16-bit numbers; the probability is met to 1/65536.
    """
    dropped_levels = round(probability * _LEVELS)
    if dropped_levels >= _LEVELS:
        return torch.zeros_like(x)
    count = x.numel()
    bits = torch.empty((count + 3) // 4, dtype=torch.int64, device=x.device)
    bits.random_(-(2**63), None, generator=generator)
    uniform = bits.view(torch.int16)[:count].view(x.shape)
    keep = uniform >= dropped_levels - _LEVELS // 2
    return keep.to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped_levels))

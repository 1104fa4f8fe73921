"""Tokens × √d_model, plus position (Vaswani et al. 2017, sections 3.4 and 3.5)."""

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.nn.dropout import Dropout

PositionKind = Literal["sinusoidal", "learned", "rotary", "none"]


class TokenEmbedding(nn.Embedding):
    """A learnt vector per token, scaled by √d_model so that it is as large as the position added to it."""

    def __init__(self, vocab_size: int, d_model: int):
        super().__init__(vocab_size, d_model)
        nn.init.normal_(self.weight, std=d_model**-0.5)

    def forward(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length d_model"]:
        """Look the tokens up and scale them."""
        return super().forward(tokens) * math.sqrt(self.embedding_dim)


def sinusoidal_position(length: int, d_model: int) -> Float[Tensor, "length d_model"]:
    """The paper's table in float64: sine in even columns, cosine in odd ones, wavelengths 2π to 10000·2π."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    wavelength = 10_000.0 ** (torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    table = torch.empty(length, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position / wavelength)
    table[:, 1::2] = torch.cos(position / wavelength[: d_model // 2])
    return table


class _GrowingTable(nn.Module):
    """A constant table with a row per position, computed when first needed and doubled when outgrown."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self._table: Tensor | None = None

    def rows(self, first: int, last: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        table = self._table
        if table is None or table.shape[0] < last or table.device != device or table.dtype != dtype:
            # Not an inference tensor, even if first needed while translating: training may use it later.
            with torch.inference_mode(False):
                capacity = max(256, 1 << (last - 1).bit_length())
                table = self._compute(capacity).to(device=device, dtype=dtype)
            self._table = table
        return table[first:last]

    def _compute(self, length: int) -> Tensor:
        return sinusoidal_position(length, self.width)


class SinusoidalPosition(_GrowingTable):
    """Adds the paper's sinusoids (section 3.5): any length, nothing to learn."""

    def forward(
        self, x: Float[Tensor, "batch length d_model"], offset: int = 0
    ) -> Float[Tensor, "batch length d_model"]:
        """Add the positions that begin at `offset`."""
        return x + self.rows(offset, offset + x.shape[1], x.device, x.dtype)


class LearnedPosition(nn.Module):
    """Adds a learnt vector per position (Gehring et al. 2017); none exists beyond `max_length`."""

    def __init__(self, max_length: int, d_model: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_length, d_model))
        nn.init.normal_(self.weight, std=d_model**-0.5)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], offset: int = 0
    ) -> Float[Tensor, "batch length d_model"]:
        """Add the positions that begin at `offset`; a ValueError says so if there are not that many."""
        last = offset + x.shape[1]
        if last > self.weight.shape[0]:
            raise ValueError(
                f"a sequence of {last} tokens is longer than the {self.weight.shape[0]} learned positions; "
                "raise max_length, or use sinusoidal or rotary positions"
            )
        return x + self.weight[offset:last]


class RotaryPosition(_GrowingTable):
    """Rotates each pair of channels of a query or key by an angle proportional to its position.

    Su et al. 2021 ("RoFormer"), section 3.2.2: the score of a rotated query and key depends on their distance
    alone. `ValueError` if the head's width is odd.
    """

    def __init__(self, d_head: int):
        super().__init__(d_head)
        if d_head % 2 != 0:
            raise ValueError(f"rotary positions need heads of even width, got {d_head}")

    def forward(
        self, x: Float[Tensor, "batch head length d_head"], first: int = 0, last: int | None = None
    ) -> Float[Tensor, "batch head length d_head"]:
        """Rotate by the positions from `first` to `last` (excluded), again and again if `x` holds several such runs.

        A pair of channels is a complex number, and turning it is one multiplication by e^(i·angle).
        """
        last = first + x.shape[2] if last is None else last
        precise = torch.promote_types(x.dtype, torch.float32)
        turns = self.rows(first, last, x.device, precise.to_complex())
        pairs = torch.view_as_complex(x.to(precise).unflatten(-1, (-1, 2))).unflatten(2, (-1, last - first))
        return torch.view_as_real(pairs * turns).flatten(start_dim=-2).flatten(2, 3).to(x.dtype)

    def _compute(self, length: int) -> Tensor:
        angles = sinusoidal_position(length, self.width)
        return torch.complex(angles[:, 1::2], angles[:, 0::2])


class Embedding(nn.Module):
    """What enters the first layer: scaled tokens plus position, then dropout (section 5.4).

    Args:
        tokens: the token embedding; pass the same one twice to tie source and target.
        position: how the order of tokens is told; "rotary" acts inside the attention and adds nothing here.
        dropout: on the sum.
        max_length: number of learned positions.
    """

    def __init__(self, tokens: TokenEmbedding, position: PositionKind, dropout: float = 0.0, max_length: int = 1024):
        super().__init__()
        self.tokens = tokens
        self.position: SinusoidalPosition | LearnedPosition | None = None
        if position == "sinusoidal":
            self.position = SinusoidalPosition(tokens.embedding_dim)
        elif position == "learned":
            self.position = LearnedPosition(max_length, tokens.embedding_dim)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Int[Tensor, "batch length"], offset: int = 0) -> Float[Tensor, "batch length d_model"]:
        """Embed tokens whose first position is `offset` (more than 0 when decoding step by step)."""
        x = self.tokens(tokens)
        if self.position is not None:
            x = self.position(x, offset)
        return self.dropout(x)

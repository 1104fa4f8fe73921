"""Masks: which positions may be attended to. Boolean, `True` = may attend, everywhere in qkv."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def padding_mask(lengths: Int[Tensor, " batch"], max_length: int | None = None) -> Bool[Tensor, "batch source"]:
    """Mark the real tokens, so many in each row, of sequences right-padded to `max_length`, or else to the longest."""
    if max_length is None:
        max_length = int(lengths.max())
    positions = torch.arange(max_length, device=lengths.device)
    return positions < lengths[:, None]


def causal_mask(
    query_length: int, key_length: int | None = None, device: torch.device | str | None = None
) -> Bool[Tensor, "query key"]:
    """Let each position see itself and what came before ("Attention Is All You Need", section 3.2.3).

    With more keys than queries the queries are the last positions, as when decoding with a cache.
    """
    key_length = query_length if key_length is None else key_length
    everything = torch.ones(query_length, key_length, dtype=torch.bool, device=device)
    return everything.tril(diagonal=key_length - query_length)


def combine_masks(*masks: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """Allow what every given mask allows; `None` allows all, and all `None` needs no mask at all."""
    combined: Tensor | None = None
    for mask in masks:
        if mask is not None:
            combined = mask if combined is None else combined & mask
    return combined

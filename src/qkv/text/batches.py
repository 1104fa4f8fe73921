"""Which pairs share a batch, and the batch as tensors.

A batch is limited by its tokens, padding included, not by its rows. Sources of one length go together wherever there
are enough of them: then the encoder needs no padding and no mask. Resuming in mid-epoch is exact.
"""

from bisect import bisect_right
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.errors import UserError
from qkv.text.encoded import EncodedCorpus, Rows
from qkv.text.tokenizer import Tokenizers

PAIRS_OF_BLOCK = 1 << 20  # planned at a time
PAIRS_OF_RUN = 64  # neighbours in the corpus that stay in one block

Indices = npt.NDArray[np.int64]
Padded = tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"] | None]
"""Ids, and a mask that is True where one is real, or None if nothing was filled up."""
Lengths = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Batch:
    """Pairs as tensors, padded on the right.

    Attributes:
        source: tokens and eos.
        source_mask: True where a token is real; None if no source is padded.
        target_input: what the decoder reads: bos and tokens.
        target_output: what it shall predict: tokens and eos, `target_input` shifted by one.
        target_mask: True where a token of `target_output` is real; None if no target is padded.
        num_target_tokens: real tokens in `target_output`; what a summed loss is divided by.
    """

    source: Int[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"] | None
    target_input: Int[Tensor, "batch target"]
    target_output: Int[Tensor, "batch target"]
    target_mask: Bool[Tensor, "batch target"] | None
    num_target_tokens: int

    def to(self, device: str | torch.device, non_blocking: bool = False) -> "Batch":
        """The same batch on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def repeated(self, times: int) -> "Batch":
        """All rows once, then all of them again, and so on."""
        several: dict[str, Any] = {
            name: value.repeat(times, 1) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, num_target_tokens=times * self.num_target_tokens, **several)

    def split(self, parts: int) -> "list[Batch]":
        """The same rows in so many batches that take about as long as each other, none wider than it must be.

        There are fewer parts if there are fewer rows.
        """
        rows = len(self.source)
        parts = min(parts, rows)
        if parts < 2:
            return [self]
        mask = torch.ones_like(self.target_output) if self.target_mask is None else self.target_mask
        # Decoder and output projection do about twice as much for a token as the encoder.
        work = (self.source.shape[1] + 2 * mask.sum(dim=1)).cumsum(dim=0)
        shares = work[-1] * torch.arange(1, parts) / parts
        cuts = torch.searchsorted(work.double(), shares.double()).tolist()
        edges = [0]
        for number, cut in enumerate(cuts, start=1):
            edges.append(min(max(cut, edges[-1] + 1), rows - parts + number))
        return [self._rows(slice(*edge)) for edge in pairwise((*edges, rows))]

    def _rows(self, rows: slice) -> "Batch":
        source, source_mask = _trimmed(self.source, self.source_mask, rows)
        target, target_mask = _trimmed(self.target_output, self.target_mask, rows)
        target_input = self.target_input[rows, : target.shape[1]]
        tokens = target.numel() if target_mask is None else int(target_mask.sum())
        return Batch(source, source_mask, target_input, target, target_mask, tokens)


def _trimmed(tokens: Tensor, mask: Tensor | None, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Some rows, as wide as the longest of them; no mask if all are."""
    if mask is None:
        return tokens[rows], None
    width = int(mask[rows].sum(dim=1).max())
    mask = mask[rows, :width]
    return tokens[rows, :width], None if mask.all() else mask


class BatchPlan(Sequence[Indices]):
    """The pairs of one epoch shared out among batches, which are arrays of indices in the order of training.

    Every pair stands in exactly one batch. In each, rows × max(longest source, longest target) <= max_tokens,
    save that a single pair longer than that is a batch of its own. Batches have one source length each; the
    rest of a length that would fill less than half a batch is gathered with its neighbours' rests.

    A corpus of more than `PAIRS_OF_BLOCK` pairs is shared out block by block. In every epoch a block is made of other
    runs of neighbouring pairs, drawn from the whole corpus. Only how many batches each block has is known from the
    start; which pairs they hold is worked out when a batch of the block is asked for, and kept until one of another
    block is. So the memory taken does not grow with the corpus, but for one number for each run of pairs.

    Args:
        source_lengths, target_lengths: tokens of each.
        max_tokens: budget of a batch, for each side.
        seed: with `epoch` the only origin of chance, which says which of the pairs alike in both lengths go
            together, and the order of the batches.
        epoch: counted from 0.

    Raises:
        UserError: max_tokens is not positive.
    """

    def __init__(
        self, source_lengths: Lengths, target_lengths: Lengths, max_tokens: int, *, seed: int, epoch: int
    ) -> None:
        if max_tokens < 1:
            raise UserError(f"max_tokens is {max_tokens}; a batch needs room for at least one token")
        self._lengths = source_lengths, target_lengths
        self._origin = seed, epoch
        self._blocks = -(-len(source_lengths) // PAIRS_OF_BLOCK)
        self._runs = np.arange(-(-len(source_lengths) // PAIRS_OF_RUN))
        if self._blocks > 1:  # the blocks' own chance is numbered below this
            np.random.default_rng((*self._origin, self._blocks)).shuffle(self._runs)
        self._share_out(max_tokens, first=0, left=None)

    def _share_out(self, max_tokens: int, first: int, left: Indices | None) -> None:
        """From the block `first` on, of which only the pairs in `left` remain (None: all)."""
        self._max_tokens, self._first, self._left = max_tokens, first, left
        blocks = (self._lengths_of(self._members(block)) for block in range(first, self._blocks))
        self._starts = [0, *accumulate(len(_deal(*lengths, max_tokens)) for lengths in blocks)]
        self._plan = lru_cache(1)(self._planned)

    def rest(self, done: int, max_tokens: int) -> "BatchPlan":
        """A plan by another budget for the pairs that are not in the first `done` batches of this one."""
        block, before = self._place(range(len(self) + 1)[done])
        left = np.sort(np.concatenate(self._plan(block)[before:])) if block < self._blocks else None
        rest = copy(self)
        rest._share_out(max_tokens, block, left)
        return rest

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Indices: ...

    @overload
    def __getitem__(self, index: slice) -> list[Indices]: ...

    def __getitem__(self, index: int | slice) -> Indices | list[Indices]:
        """One batch, or a list of some."""
        if isinstance(index, slice):
            return [self._batch(number) for number in range(*index.indices(len(self)))]
        return self._batch(range(len(self))[index])

    def _batch(self, number: int) -> Indices:
        block, within = self._place(number)
        return self._plan(block)[within]

    def _place(self, number: int) -> tuple[int, int]:
        """The block that a batch is of, and how many of its batches come before."""
        after = bisect_right(self._starts, number) - 1
        return self._first + after, number - self._starts[after]

    def _planned(self, block: int) -> list[Indices]:
        generator = np.random.default_rng((*self._origin, block))
        pairs = generator.permutation(self._members(block))
        batches = _deal(*self._lengths_of(pairs), self._max_tokens)
        return [pairs[batches[i]] for i in generator.permutation(len(batches))]

    def _members(self, block: int) -> Indices:
        """The pairs of a block, in the order of the corpus, so that they are read from the disk in one sweep."""
        if block == self._first and self._left is not None:
            return self._left
        first, last = (edge * len(self._runs) // self._blocks for edge in (block, block + 1))
        starts = PAIRS_OF_RUN * np.sort(self._runs[first:last])
        pairs = (starts[:, None] + np.arange(PAIRS_OF_RUN)).ravel()
        return pairs[pairs < len(self._lengths[0])]

    def _lengths_of(self, pairs: Indices) -> tuple[Lengths, Lengths]:
        return self._lengths[0][pairs], self._lengths[1][pairs]


def _deal(source_lengths: Lengths, target_lengths: Lengths, max_tokens: int) -> list[Indices]:
    """Share out pairs among batches, by length; where two are alike, in the order given.

    How many batches there are does not depend on that order.
    """
    order = np.argsort(_narrow(target_lengths), kind="stable")
    order = order[np.argsort(_narrow(source_lengths)[order], kind="stable")]
    sources = source_lengths[order]
    longest = np.maximum(sources, target_lengths[order]).astype(np.int64)

    batches: list[Indices] = []
    left_over: list[Indices] = []
    borders = np.flatnonzero(np.diff(sources)) + 1
    for start, stop in zip([0, *borders.tolist()], [*borders.tolist(), len(order)], strict=True):
        cuts = _cut(longest[start:stop], max_tokens)
        parts = np.split(order[start:stop], cuts)
        last = len(parts[-1]) * int(longest[stop - 1])
        (batches if 2 * last >= max_tokens else left_over).append(parts.pop())
        batches.extend(parts)
    if left_over:
        rest = np.concatenate(left_over)
        both = np.maximum(source_lengths[rest], target_lengths[rest]).astype(np.int64)
        batches.extend(np.split(rest, _cut(both, max_tokens)))
    return batches


def _narrow(lengths: Lengths) -> Lengths:
    """The same lengths as 16-bit numbers if they fit: NumPy sorts these in linear time."""
    return lengths.astype(np.uint16) if lengths.max() < 1 << 16 else lengths


def _cut(lengths: Indices, max_tokens: int) -> list[int]:
    """Where to cut a run of pairs, in this order, so that every batch is as large as the budget allows."""
    cuts: list[int] = []
    start = 0
    while True:
        most = max(1, max_tokens // max(1, int(lengths[start])))
        longest = np.maximum.accumulate(lengths[start : start + most])
        tokens = longest * np.arange(1, len(longest) + 1)
        start += max(1, int(np.searchsorted(tokens, max_tokens, side="right")))
        if start >= len(lengths):
            return cuts
        cuts.append(start)


def collate(corpus: EncodedCorpus, indices: Indices | Sequence[int], tokenizers: Tokenizers) -> Batch:
    """The pairs at `indices` as a batch on the CPU."""
    return _forced(*corpus.rows(np.asarray(indices, np.int64)), tokenizers)


def forced_batch(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], tokenizers: Tokenizers) -> Batch:
    """Pairs of ids, each with its end of sentence, as a batch on the CPU: it leads a model along the targets."""
    return _forced(_end_to_end(sources), _end_to_end(targets), tokenizers)


def _forced(source: Rows, target: Rows, tokenizers: Tokenizers) -> Batch:
    source_ids, source_mask = _fill(*source, tokenizers.source.pad)
    pad, bos = tokenizers.target.pad, tokenizers.target.bos
    target_output, target_mask = _fill(*target, pad)
    target_input = torch.full_like(target_output, bos)
    target_input[:, 1:] = target_output[:, :-1]
    if target_mask is not None:  # where a row's eos has moved to
        target_input[~target_mask] = pad
    return Batch(source_ids, source_mask, target_input, target_output, target_mask, len(target[0]))


def pad(sequences: Sequence[npt.NDArray[np.integer] | Sequence[int]], value: int) -> Padded:
    """Sequences of ids as one tensor (int64), filled up with `value` on the right, and its mask."""
    return _fill(*_end_to_end(sequences), value)


def _end_to_end(sequences: Sequence[npt.NDArray[np.integer] | Sequence[int]]) -> Rows:
    lengths = np.array([len(sequence) for sequence in sequences])
    return np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences]), lengths


def _fill(ids: npt.NDArray[np.integer], lengths: Lengths, value: int) -> Padded:
    """`pad` for sequences that lie end to end in one array."""
    shape = (len(lengths), int(lengths.max()))
    if ids.size == shape[0] * shape[1]:
        return torch.from_numpy(ids.astype(np.int64).reshape(shape)), None
    real = np.arange(shape[1]) < lengths[:, None]
    padded = np.full(shape, value, np.int64)
    padded[real] = ids  # both run row by row
    return torch.from_numpy(padded), torch.from_numpy(real)

"""Which pairs share a batch, and the batch as tensors.

A batch is limited by its tokens, padding included, not by its rows: many short pairs, or few long ones. Pairs
whose sources have the same length go together wherever there are enough of them: then the encoder needs no
padding and no mask. The order is a pure function of (seed, epoch), so resuming in mid-epoch is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.errors import UserError
from qkv.text.encoded import EncodedCorpus
from qkv.text.tokenizer import Tokenizer

Indices = npt.NDArray[np.int64]


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

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            source=move(self.source),
            source_mask=None if self.source_mask is None else move(self.source_mask),
            target_input=move(self.target_input),
            target_output=move(self.target_output),
            target_mask=None if self.target_mask is None else move(self.target_mask),
            num_target_tokens=self.num_target_tokens,
        )


def plan_batches(
    source_lengths: npt.NDArray[np.integer],
    target_lengths: npt.NDArray[np.integer],
    max_tokens: int,
    *,
    seed: int,
    epoch: int,
) -> list[Indices]:
    """Share out the pairs of one epoch among batches: arrays of indices, in the order of training.

    Every pair stands in exactly one batch. In each, rows × max(longest source, longest target) <= max_tokens,
    save that a single pair longer than that is a batch of its own. Batches have one source length each; the
    rest of a length that would fill less than half a batch is gathered with its neighbours' rests.

    Args:
        source_lengths: tokens of each source.
        target_lengths: tokens of each target.
        max_tokens: budget of a batch, for each side.
        seed: with `epoch` the only origin of chance, which says which of the pairs alike in both lengths go
            together, and the order of the batches.
        epoch: counted from 0.

    Raises:
        UserError: max_tokens is not positive.
    """
    if max_tokens < 1:
        raise UserError(f"max_tokens is {max_tokens}; a batch needs room for at least one token")
    if len(source_lengths) == 0:
        return []
    generator = np.random.default_rng((seed, epoch))
    shuffled = generator.permutation(len(source_lengths))
    # One sort key for (source, target); a stable sort keeps the shuffled order among equals.
    key = source_lengths.astype(np.int64) * (int(target_lengths.max()) + 1) + target_lengths
    order = shuffled[np.argsort(key[shuffled], kind="stable")]
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
    return [batches[i] for i in generator.permutation(len(batches))]


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


def collate(
    corpus: EncodedCorpus,
    indices: Indices | Sequence[int],
    source_tokenizer: Tokenizer,
    target_tokenizer: Tokenizer,
) -> Batch:
    """The pairs at `indices` as a batch on the CPU."""
    targets = [corpus.target(index) for index in indices]
    source, source_mask = pad([corpus.source(index) for index in indices], source_tokenizer.pad)
    target_output, target_mask = pad(targets, target_tokenizer.pad)
    bos = np.array([target_tokenizer.bos])
    target_input, _ = pad([np.concatenate((bos, target[:-1])) for target in targets], target_tokenizer.pad)
    return Batch(source, source_mask, target_input, target_output, target_mask, sum(map(len, targets)))


def pad(
    sequences: Sequence[npt.NDArray[np.integer] | list[int]], value: int
) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"] | None]:
    """Sequences of ids as one tensor, filled up with `value` on the right.

    Returns:
        the tensor (int64), and a mask that is True where a token is real, or None if nothing was filled up.
    """
    lengths = np.array([len(sequence) for sequence in sequences])
    flat = np.concatenate([np.asarray(sequence, np.int64) for sequence in sequences])
    shape = (len(lengths), int(lengths.max()))
    if flat.size == shape[0] * shape[1]:
        return torch.from_numpy(flat.reshape(shape)), None
    real = np.arange(shape[1]) < lengths[:, None]
    padded = np.full(shape, value, np.int64)
    padded[real] = flat  # both run row by row
    return torch.from_numpy(padded), torch.from_numpy(real)

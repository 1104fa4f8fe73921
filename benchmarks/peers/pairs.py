"""The encoded training pairs as a peer reads them, and batches of them where the peer has no batching of its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PAD, BOS, EOS = 0, 1, 2  # as the shared tokenizer has them
POOL = 50  # batches whose pairs are sorted together, as in Hugging Face's LengthGroupedSampler


class Pairs:
    """The pairs of `material.py`: ids of each source and each target, both with the end of sentence last."""

    def __init__(self, path: str | Path) -> None:
        arrays = np.load(path)
        self._ids = {side: arrays[f"{side}_ids"].astype(np.int64) for side in ("source", "target")}
        self._offsets = {side: arrays[f"{side}_offsets"] for side in ("source", "target")}

    def __len__(self) -> int:
        return len(self._offsets["source"]) - 1

    def sequence(self, side: str, index: int) -> npt.NDArray[np.int64]:
        """Ids of one source or target."""
        offsets = self._offsets[side]
        return self._ids[side][offsets[index] : offsets[index + 1]]

    def lengths(self, side: str) -> npt.NDArray[np.int64]:
        """Tokens of each source or target."""
        return np.diff(self._offsets[side])

    def tensor(self, side: str, indices: npt.NDArray[np.int64], begin: bool = False) -> Tensor:
        """The sequences padded to the longest; with `begin`, shifted right behind the begin of sentence."""
        rows = [self.sequence(side, index) for index in indices]
        padded = np.full((len(rows), max(map(len, rows))), PAD)
        for number, row in enumerate(rows):
            if begin:
                padded[number, 0], padded[number, 1 : len(row)] = BOS, row[:-1]
            else:
                padded[number, : len(row)] = row
        return torch.from_numpy(padded)


def shuffled(pairs: Pairs, tokens: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """For ever: as many pairs in random order as make about `tokens` real tokens on the longer side."""
    generator = np.random.default_rng(seed)
    rows = int(tokens / np.maximum(pairs.lengths("source"), pairs.lengths("target")).mean())
    while True:
        order = generator.permutation(len(pairs))
        yield from (order[first : first + rows] for first in range(0, len(order) - rows + 1, rows))


def sorted_pools(pairs: Pairs, tokens: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """For ever: pools of shuffled pairs are sorted by length, cut so that rows × longest <= tokens, and shuffled."""
    generator = np.random.default_rng(seed)
    source, target = pairs.lengths("source"), pairs.lengths("target")
    longest = np.maximum(source, target)
    pool = POOL * int(tokens / longest.mean())
    while True:
        order = generator.permutation(len(pairs))
        for first in range(0, len(order), pool):
            some = order[first : first + pool]
            some = some[np.lexsort((source[some], target[some]))]
            cuts, begin, most = [], 0, 0
            for place, length in enumerate(longest[some].tolist()):
                most = max(most, length)
                if most * (place - begin + 1) > tokens and place > begin:
                    cuts.append(place)
                    begin, most = place, length
            batches = np.split(some, cuts)
            yield from (batches[number] for number in generator.permutation(len(batches)))

"""Many sources at once: in batches of like length, as many as a machine's threads are best busied with."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Row = TypeVar("Row")

_ENOUGH_ROWS = 32
_BATCHES_A_THREAD = 2


def tokens_at_once(lengths: Sequence[int], most: int, threads: int) -> int:
    """What a batch may hold, so that each of several threads has some batches, but none of a few rows only."""
    if threads == 1 or not lengths:
        return most
    return min(most, max(_ENOUGH_ROWS * max(lengths), sum(lengths) // (_BATCHES_A_THREAD * threads)))


def length_sorted_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in batches of like length, longest first, so that memory is at its peak at once if it is to run out.

    A batch that has rows enough to keep a processor busy ends where more than a quarter of the next row would be
    padding.
    """
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        full = not batches or (len(batches[-1]) + 1) * longest > max_tokens
        if full or (len(batches[-1]) >= _ENOUGH_ROWS and 4 * lengths[index] < 3 * longest):
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


def in_order(
    batches: Sequence[Sequence[int]],
    found: Iterable[Sequence[Row]],
    on_progress: Callable[[int], object] | None = None,
) -> list[Row]:
    """What was found for each batch of indices, one after the other, as rows in the order of their indices.

    `on_progress` is called with the size of each batch as it comes.
    """
    rows: dict[int, Row] = {}
    for indices, results in zip(batches, found, strict=True):
        rows.update(zip(indices, results, strict=True))
        if on_progress is not None:
            on_progress(len(indices))
    return [rows[index] for index in range(len(rows))]

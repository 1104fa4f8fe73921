"""Batches side by side: on a CPU, a thread for each batch serves decoding better than all threads for one.

A step's matrix products are too small to be worth sharing out, and while one thread is in Python, another is in a
product, which needs no interpreter.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from qkv.devices import limit_this_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """The results of `work` on each item, in order, as they come.

    Args:
        work: computes with torch on the CPU; calls must not depend on each other.
        items: what to work on; those that take longest first.
        threads: so many items are worked on at once, with one thread each. A single item gets them all.

    Raises:
        Exception: what `work` raises; items that have not been begun are left.
    """
    if threads == 1 or len(items) < 2:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(min(threads, len(items)), initializer=limit_this_thread, initargs=(1,))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)

"""Lines in, answers out, chunk by chunk: what waits on a pipe is answered at once, and one bad line spoils no other."""

import io
import os
import stat
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, TypeVar

from qkv.cli.streams import complain, flush
from qkv.errors import FaultyItems, UserError
from qkv.text.lines import check_readable, text_of

Raw = TypeVar("Raw")
Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_AT_ONCE = 2_000
"""Enough for good batches, and memory stays bounded."""

_SYMBOLS_SHOWN = 10


class Lines:
    """The lines of a file, or of standard input, as bytes, in chunks that are not empty.

    A chunk of a file has `ITEMS_AT_ONCE` lines. Of a pipe, or a person's terminal, it has what is waiting, at most as
    many: a thread reads ahead, so that a fast writer's lines are worked on together, and a slow one's as they come.

    Args:
        path: of a file; None for standard input.

    Attributes:
        name: what a fault is reported under.
        waits: whether lines are still to come, so that nobody knows how many there are.

    Raises:
        UserError: if there is nothing to read from.
    """

    def __init__(self, path: str | None):
        self.name = "standard input" if path is None else path
        if path is None and sys.stdin is None:
            raise UserError("standard input is closed")
        self.waits = _waits(sys.stdin.buffer) if path is None else Path(path).is_fifo()
        if path is not None:
            file = Path(path)
            if self.waits:  # whose writer may go away if it is opened more than once
                self._chunks = _waiting(_bytes(file))
            else:
                check_readable(file)
                self._chunks = in_chunks(_bytes(file))
        elif self.waits:
            # A stream of its own: Python closes sys.stdin at its end, which must not wait for a line that never comes.
            self._chunks = _waiting(open(os.dup(sys.stdin.fileno()), "rb"))  # noqa: SIM115
        else:
            self._chunks = in_chunks(sys.stdin.buffer)

    def __iter__(self) -> Iterator[list[bytes]]:
        return self._chunks

    def place(self, number: int) -> str:
        """What a line is called."""
        return f"{self.name}:{number}"

    def text(self, number: int, line: bytes) -> str:
        """A line as text; `UserError` if it is not UTF-8."""
        return text_of(line, number, self.name)


def in_chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items, `ITEMS_AT_ONCE` at a time; where they end in an error, those before it come first."""
    items, fault = iter(items), None
    while fault is None:
        chunk: list[Item] = []
        try:
            for item in islice(items, ITEMS_AT_ONCE):
                chunk.append(item)
        except UserError as error:
            fault = error
        if chunk:
            yield chunk
        elif fault is None:
            return
    raise fault


def _bytes(path: Path) -> Iterator[bytes]:
    from qkv.text.compression import opened

    with opened(path) as file:
        yield from file


def _waits(stream: Any) -> bool:
    """Whether a stream is no file on a disk, where all lines are there from the start."""
    try:
        return not stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, io.UnsupportedOperation):
        return False


def _waiting(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Lines of a pipe in chunks of all that is waiting, but of at least one."""
    ahead: Queue[bytes | BaseException | None] = Queue(ITEMS_AT_ONCE)

    def read() -> None:
        try:
            for line in lines:
                ahead.put(line)
            ahead.put(None)
        except BaseException as error:  # whoever waits for lines is told
            ahead.put(error)

    Thread(target=read, daemon=True).start()

    def chunks() -> Iterator[list[bytes]]:
        last: bytes | BaseException | None = b""
        while isinstance(last, bytes):
            last, chunk = ahead.get(), []
            with suppress(Empty):
                while isinstance(last, bytes):
                    chunk.append(last)
                    if len(chunk) == ITEMS_AT_ONCE:
                        break
                    last = ahead.get_nowait()
            if chunk:
                yield chunk
        if last is not None:
            raise last

    return chunks()


class Tally:
    """What did not go in as it stood: counted, and told in a line each.

    Args:
        place: what the line of a number is called.
    """

    def __init__(self, place: Callable[[int], str]):
        self.place = place
        self._skipped, self._cut, self._unknown = list[str](), list[str](), list[int]()
        self._symbols = Counter[str]()

    def skip(self, fault: str) -> None:
        """A line had no answer, because of this."""
        self._skipped.append(fault)

    def cut(self, number: int, tokens: int, kept: int) -> None:
        """A source of so many tokens was cut."""
        self._cut.append(f"{self.place(number)}, from {tokens} tokens to {kept}")

    def unknown(self, number: int, symbols: Iterable[str]) -> None:
        """A source held what was never seen in training."""
        self._unknown.append(number)
        self._symbols.update(symbols)

    def tell(self) -> None:
        """Say what there was, if anything."""
        if self._skipped:
            complain(f"{_counted(self._skipped, 'line')} skipped, the first: {self._skipped[0]}")
        if self._cut:
            complain(f"{_counted(self._cut, 'source')} cut, the first at {self._cut[0]}")
        if self._unknown:
            total, lines = self._symbols.total(), len(self._unknown)
            shown = [_printable(symbol) for symbol, _ in self._symbols.most_common(_SYMBOLS_SHOWN)]
            shown += ["…"] * (len(self._symbols) > _SYMBOLS_SHOWN)
            complain(
                f"{total:,} symbol{'s' * (total > 1)} that the model does not know on {lines:,} "
                f"line{'s' * (lines > 1)}, the first at {self.place(self._unknown[0])}: {' '.join(shown)}"
            )


def _counted(what: Sequence[object], name: str) -> str:
    return f"{len(what):,} {name}{'s were' if len(what) > 1 else ' was'}"


def _printable(symbol: str) -> str:
    return symbol if symbol.isprintable() else ascii(symbol)[1:-1]


def add_on_error(parser: ArgumentParser, cut: str = "") -> None:
    """What becomes of a line that cannot be worked on; see `answers`."""
    kinds = ["stop", "skip", *["cut"] * bool(cut)]
    does = f"stop (default) after the answers before it; skip: an empty line in its place{cut}"
    parser.add_argument("--on-error", choices=kinds, default="stop", help=f"at a bad line: {does}")


def answers(
    chunks: Iterable[Sequence[Raw]],
    read: Callable[[int, Raw], Item | None],
    work: Callable[[list[int], list[Item]], list[Result]],
    tally: Tally,
    *,
    skip: bool = False,
) -> Iterator[Result | None]:
    """The answer to each line, in order, handed on as soon as its chunk is done; None where there is none.

    Args:
        chunks: what was read.
        read: makes of a line and its number, which counts from 1, what is worked on; None if there is nothing.
        work: answers several such; it is given their numbers, too.
        tally: is told of what is skipped.
        skip: go on after a bad line. Otherwise what comes before it is answered, then its error is raised.

    Raises:
        UserError: that of a bad line, with its place: what `read` says, or `work`, by `FaultyItems`.
    """
    first = 1
    for chunk in chunks:
        items: dict[int, Item] = {}  # by number
        faults: dict[int, UserError] = {}
        for number, raw in enumerate(chunk, first):
            try:
                if (item := read(number, raw)) is not None:
                    items[number] = item
            except UserError as error:
                faults[number] = error
                if not skip:
                    break
        found: dict[int, Result] = {}
        while items and not found:
            try:
                found = dict(zip(items, work(list(items), list(items.values())), strict=True))
            except FaultyItems as error:
                numbers = list(items)
                for index, reason in error.reasons.items():
                    place = tally.place(numbers[index])
                    faults[numbers[index]] = UserError(f"{place}: the {error.what} {reason}")
                bad = set(faults) if skip else range(min(faults), first + len(chunk))
                items = {number: item for number, item in items.items() if number not in bad}
        end = first + len(chunk) if skip or not faults else min(faults)
        yield from map(found.get, range(first, end))
        flush()
        if faults and not skip:
            raise faults[end]
        for number in sorted(faults):
            tally.skip(str(faults[number]))
        first = end

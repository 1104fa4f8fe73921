"""How verbs read and write: lines in, lines out, on files and standard streams."""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from qkv.errors import UserError
from qkv.files import write_lines

Item = TypeVar("Item")
Result = TypeVar("Result")

ITEMS_AT_ONCE = 2_000


def is_terminal(*streams: Any) -> bool:
    """Whether a person is at all of these streams."""
    return all(stream is not None and stream.isatty() for stream in streams)  # None: closed


def input_lines(path: str | None) -> Iterator[str]:
    """Lines of a file, or of standard input."""
    from qkv.text.corpus import read_lines

    if path is None and sys.stdin is None:
        raise UserError("standard input is closed")
    return read_lines(sys.stdin.buffer if path is None else path)


def in_chunks(items: Iterator[Item], function: Callable[[list[Item]], list[Result]]) -> Iterator[Result]:
    """Apply `function` to a few thousand items at a time: enough for good batches, and memory stays bounded."""
    before = 0
    while chunk := list(islice(items, ITEMS_AT_ONCE)):
        try:
            yield from function(chunk)
        except UserError as error:
            raise UserError(f"after {before:,} lines: {error}" if before else str(error)) from None
        before += len(chunk)
        flush()


def one_line(text: str) -> str:
    """An output may hold line ends (JSONL and Parquet can), but takes one line."""
    return text.replace("\r", " ").replace("\n", " ")


def put(lines: Iterable[str], path: str | None = None) -> None:
    """Print each line as it comes; or write all of them to a file, or no file."""
    if path is None:
        for line in lines:
            print(line)
    else:
        write_lines(Path(path), lines)


def complain(message: str) -> None:
    """Tell of a mistake, in one line on standard error."""
    print(f"qkv: {' '.join(message.splitlines())}", file=sys.stderr)


def flush() -> None:
    """Hand on what was printed."""
    if sys.stdout is not None:
        sys.stdout.flush()

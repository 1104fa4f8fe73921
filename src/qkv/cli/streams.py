"""How verbs read and write: lines in, lines out, on files and standard streams."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from qkv.errors import UserError
from qkv.files import write_lines


def is_terminal(*streams: Any) -> bool:
    """Whether a person is at all of these streams."""
    return all(stream is not None and stream.isatty() for stream in streams)  # None: closed


def one_line(text: str) -> str:
    """An output may hold line ends (JSONL and Parquet can), but takes one line."""
    return text.replace("\r", " ").replace("\n", " ")


def put(lines: Iterable[str], path: str | None = None) -> None:
    """Print each line as it comes; or write all of them to a file, or no file.

    Where they end in a mistake of the user's, or are interrupted, what there is by then is written, and said.
    """
    if path is None:
        for line in lines:
            print(line)
        return
    ended: BaseException | None = None
    count = 0

    def until_the_end() -> Iterator[str]:
        nonlocal ended, count
        try:
            for line in lines:
                yield line
                count += 1
        except (UserError, KeyboardInterrupt) as error:
            if count == 0:  # nothing to keep: the file stays as it was
                raise
            ended = error

    write_lines(Path(path), until_the_end())
    if ended is not None:
        kept = f"what was done before it, {count:,} line{'s' * (count > 1)}, is in {path}"
        if isinstance(ended, UserError):
            raise UserError(f"{ended}; {kept}")
        complain(f"interrupted; {kept}")
        raise ended


def complain(message: str) -> None:
    """Tell of a mistake, or what else a person should know, in one line on standard error, if anybody reads it."""
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"qkv: {' '.join(message.splitlines())}", file=sys.stderr)


def flush() -> None:
    """Hand on what was printed."""
    if sys.stdout is not None:
        sys.stdout.flush()

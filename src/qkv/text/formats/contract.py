"""What a file format has to say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Format:
    """A format of files that hold both sides of their pairs.

    Attributes:
        suffixes: of file names, in lower case, that tell it: `(".tsv",)`.
        read: the pairs, source and target, one at a time, of the file at a path, given the columns of source and target
            as a recipe writes them. It raises `UserError` naming file and line.
        columns: where the recipe does not say.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, str, str], Iterator[tuple[str, str]]]
    columns: tuple[str, str] = ("source", "target")

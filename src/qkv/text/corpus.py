"""Pairs of strings, read from files one at a time, so that a corpus may be larger than memory.

A fault in a file is a `UserError` that names the file and, where there is one, the line.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, zip_longest
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from qkv.errors import UserError
from qkv.settings import OneOf, Section
from qkv.text.compression import plain_suffix
from qkv.text.formats import FORMATS
from qkv.text.formats.contract import Say, unsaid
from qkv.text.lines import check_readable, decoded, lines_of


class Pair(NamedTuple):
    """One example: what the model reads and what it shall write."""

    source: str
    target: str


Column = Annotated[str, Field(coerce_numbers_to_str=True)]
READ_AS = ("format", "source_column", "target_column", "header")


class PairFiles(Section):
    """Pairs on disk: two aligned text files, or one file that holds both sides."""

    path: str | None = Field(None, description="one file with both sides; its suffix tells the format")
    source: str | None = Field(None, description="a text file, one source sequence a line")
    target: str | None = Field(None, description="a text file, one target sequence a line, aligned with the source")
    format: Annotated[str, OneOf("format", FORMATS)] | None = Field(None, description="if the suffix does not tell")
    source_column: Column | None = Field(
        None, description="TSV: a number from 0, or a name in the header (0); JSONL, Parquet: a name (source)"
    )
    target_column: Column | None = Field(
        None, description="TSV: a number from 0, or a name in the header (1); JSONL, Parquet: a name (target)"
    )
    header: bool | None = Field(
        None, description="TSV: whether the first line names the columns; null: if it can hardly be a pair"
    )

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, said: Any) -> Any:
        return {"path": said} if isinstance(said, str | os.PathLike) else said

    @model_validator(mode="after")
    def _fit_together(self) -> "PairFiles":
        if self.path is not None and (self.source is not None or self.target is not None):
            raise ValueError("pairs: give either 'path' (one file) or 'source' and 'target' (two), not both")
        if self.path is None and (self.source is None or self.target is None):
            raise ValueError("pairs: give 'path' (one file), or both 'source' and 'target' (two aligned files)")
        if self.path is None and self.read_as():
            raise ValueError("pairs: 'format', 'header' and columns belong to 'path'; aligned text files have none")
        return self

    @property
    def format_name(self) -> str | None:
        """The format of the one file, said or told by its suffix, below that of a compression."""
        if self.format is not None or self.path is None:
            return self.format
        suffix = plain_suffix(self.path)
        for name in FORMATS:
            with suppress(UserError):  # another package's that does not load is no fault of this file
                if suffix in FORMATS[name].suffixes:
                    return name
        return None

    def read_as(self) -> dict[str, Any]:
        """What is said of how one file is to be read: format, columns, header."""
        return {name: value for name in READ_AS if (value := getattr(self, name)) is not None}

    def below(self, root: str) -> "PairFiles":
        """The same files, their paths taken from a directory."""
        paths = {name: getattr(self, name) for name in ("path", "source", "target")}
        return self.changed(**{name: os.path.join(root, path) for name, path in paths.items() if path is not None})


def read_pairs(files: PairFiles | dict[str, Any] | str | Path, say: Say = unsaid) -> Iterator[Pair]:
    """The pairs in `files`, in order, one at a time. Only line ends are stripped; empty lines are kept as "".

    Args:
        files: or a mapping of what `PairFiles` takes, or the path of one file. Compressed ones are unpacked.
        say: told what the user should know of them: a header that was left out, columns that nobody chose, …

    Raises:
        UserError: at once, if a file is missing or its format unknown; while reading, if two files differ in
            length, a line is not UTF-8, a column or key is missing, or there is no pair at all.
    """
    files = PairFiles.of(files)
    paths = [Path(path) for path in (files.path, files.source, files.target) if path is not None]
    pairs = _aligned(*paths) if files.path is None else _of_one_file(paths[0], files, say)
    for path in paths:
        check_readable(path)
    return _not_empty(map(Pair._make, pairs), paths)


def read_lines(file: str | Path | Iterable[bytes]) -> Iterator[str]:
    """The lines of UTF-8 text, in a file or in a stream such as `sys.stdin.buffer`, without their line ends.

    A file may be compressed.

    Raises:
        UserError: at once, if the file is missing; while reading, if a line is not UTF-8.
    """
    if not isinstance(file, str | Path):
        return decoded(file, "standard input")
    check_readable(Path(file))
    return lines_of(Path(file), lone_cr=True)


def group_references(pairs: Iterable[tuple[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Sources without repetition, in order of first appearance, and for each one all its targets.

    A word with several pronunciations stands in several pairs; any of them is a right answer.
    """
    references: dict[str, list[str]] = {}
    for source, target in pairs:
        references.setdefault(source, []).append(target)
    return list(references), list(references.values())


def _aligned(source_path: Path, target_path: Path) -> Iterator[tuple[str, str]]:
    """Line n of the one file belongs to line n of the other."""
    sources, targets = lines_of(source_path), lines_of(target_path)
    for count, (source, target) in enumerate(zip_longest(sources, targets)):
        if source is None or target is None:
            longest = count + 1 + sum(1 for _ in chain(sources, targets))
            lines = (count, longest) if source is None else (longest, count)
            raise UserError(
                f"{source_path} has {lines[0]} lines but {target_path} has {lines[1]}; "
                "aligned files need the same number of lines"
            )
        yield source, target


def _of_one_file(path: Path, files: PairFiles, say: Say) -> Iterator[tuple[str, str]]:
    name = files.format_name
    if name is None:
        raise UserError(f"{path}: the suffix does not tell the format; set 'format' to {', '.join(FORMATS)}")
    columns = files.source_column, files.target_column
    if FORMATS[name].numbered:
        return FORMATS[name].read(path, *columns, files.header, say)
    if files.header is not None:
        raise UserError(f"{path}: {name} names its columns itself, so that 'header' does not belong to it")
    said = zip(columns, FORMATS[name].columns, strict=True)
    return FORMATS[name].read(path, *(default if column is None else column for column, default in said))


def _not_empty(pairs: Iterator[Pair], paths: list[Path]) -> Iterator[Pair]:
    first = next(pairs, None)
    if first is None:
        raise UserError(f"{' and '.join(map(str, paths))}: no pairs in it; the corpus is empty")
    yield from chain([first], pairs)

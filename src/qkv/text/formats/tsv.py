"""Tab-separated columns, found by their numbers."""

from collections.abc import Iterator
from pathlib import Path

from qkv.errors import UserError
from qkv.text.formats.contract import Format
from qkv.text.lines import lines_of


def _read(path: Path, source: str, target: str) -> Iterator[tuple[str, str]]:
    for column in (source, target):
        if not column.isdecimal():
            raise UserError(f"pairs: a TSV column is a number counted from 0, not {column!r}")
    return _pairs(path, int(source), int(target))


def _pairs(path: Path, source: int, target: int) -> Iterator[tuple[str, str]]:
    needed = max(source, target) + 1
    for number, line in enumerate(lines_of(path), start=1):
        columns = line.split("\t")
        if len(columns) < needed:
            raise UserError(f"{path}:{number}: {needed} tab-separated columns needed, found {len(columns)}")
        yield columns[source], columns[target]


TSV = Format((".tsv",), _read, columns=("0", "1"))

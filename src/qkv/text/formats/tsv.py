"""Tab-separated columns, found by their numbers, or by their names in a header line."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, tee
from pathlib import Path
from typing import Any

from qkv.errors import UserError
from qkv.text.formats.contract import Format, Say, unsaid
from qkv.text.formats.headers import are_languages, may_be_names, roles
from qkv.text.lines import lines_of

_AHEAD = 20
_LONGEST_CODE = 3


def _read(
    path: Path, source: str | None, target: str | None, header: bool | None, say: Say
) -> Iterator[tuple[str, str]]:
    return pairs_of(lines_of(path), str(path), source, target, header, say)


def pairs_of(lines: Iterator[str], name: str, *how: Any, ahead: int = _AHEAD) -> Iterator[tuple[str, str]]:
    """The pairs in lines of tab-separated columns; for what is told and raised, and the arguments, see `Table`."""
    rows, following = tee(line.split("\t") for line in lines)
    if (first := next(following, None)) is None:
        return
    table = Table(first, name, *how, ahead=islice(following, ahead))
    del following  # which would keep all rows
    for number, row in enumerate(rows, start=1):
        if number > table.header:
            yield table.pair(number, row)
    table.tell()


class Table:
    """Which columns of the rows of a TSV are source and target, found out from its first row.

    Args:
        first: the first row.
        name: of what it comes from, for messages.
        source: the source's column: its number, counted from 0, or its name in the header. If neither side's is said,
            those that the header calls so, or else 0 and 1.
        target: the target's.
        header: whether the first row names the columns; None: if it can hardly be a pair.
        say: told of a header that was found, of columns that nobody chose, and of rows unlike the first.
        ahead: some rows after it, read if it takes them to tell a header of two languages.

    Attributes:
        header: how many rows are a header: 1 or 0.

    Raises:
        UserError: if the header has no such name.
    """

    def __init__(
        self,
        first: Sequence[str],
        name: str,
        source: str | None = None,
        target: str | None = None,
        header: bool | None = None,
        say: Say = unsaid,
        *,
        ahead: Iterable[Sequence[str]] = (),
    ) -> None:
        self._name, self._usual, self._say = name, len(first), say
        self._unlike, self._first_unlike = 0, (0, 0)
        said = [column for column in (source, target) if column is not None]
        told = roles(first) if header is not False and not said else None
        self._columns = told or (self._place(source or "0", first, header), self._place(target or "1", first, header))
        if header is None:
            header = not all(map(str.isdecimal, said)) or self._found(first, ahead)
        self.header = int(header)
        if len(first) > 2 and not said and told is None:
            say(
                f"{name}: {len(first)} columns, of which only 0 (source) and 1 (target) are read; "
                "choose by source_column and target_column"
            )

    def pair(self, number: int, row: Sequence[str]) -> tuple[str, str]:
        """Source and target of a row; `UserError` if it has too few columns."""
        source, target = self._columns
        if (needed := max(self._columns) + 1) > len(row):
            raise UserError(f"{self._name}:{number}: {needed} tab-separated columns needed, found {len(row)}")
        if len(row) != self._usual:
            self._first_unlike = self._first_unlike if self._unlike else (number, len(row))
            self._unlike += 1
        return row[source], row[target]

    def tell(self) -> None:
        """Say how many rows had another number of columns, if any had."""
        if self._unlike:
            number, length = self._first_unlike
            self._say(
                f"{self._name}: rows with another number of columns than the first line's {self._usual}: "
                f"{self._unlike:,}, the first of them line {number} with {length}; columns {self._columns[0]} and "
                f"{self._columns[1]} are read of all"
            )

    def _place(self, column: str, first: Sequence[str], header: bool | None) -> int:
        """Where a column is, which is a number or a name in the header."""
        if column.isdecimal():
            return int(column)
        names = [field.strip() for field in first]
        if header is False or column not in names:
            found = "there is no header" if header is False else f"the first has no such: {', '.join(names)[:100]}"
            raise UserError(
                f"{self._name}: a TSV column is a number counted from 0, or a name in the header line, not {column!r} "
                f"({found})"
            )
        return names.index(column)

    def _found(self, first: Sequence[str], ahead: Iterable[Sequence[str]]) -> bool:
        """Whether the first row is a header by the look of it; what may be either is read, and asked about."""
        names = self._texts(first)
        longest = (max(map(len, self._texts(row)), default=0) for row in ahead)
        if roles(first) or (are_languages(names) and min(longest, default=0) > _LONGEST_CODE):
            pair = " → ".join(map(repr, names))
            self._say(f"{self._name}:1: left out as a header line ({pair}); if it is a pair, say header: false")
            return True
        if may_be_names(first):
            self._say(
                f"{self._name}:1: a pair, or a header line? It is read as a pair; say header: true or header: false"
            )
        return False

    def _texts(self, row: Sequence[str]) -> list[str]:
        return [row[column] for column in self._columns if column < len(row)]


TSV = Format((".tsv",), _read, numbered=True)

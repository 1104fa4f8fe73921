"""Tables of text, written as Markdown, as HTML and for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qkv.pages.escaping import in_html, in_markdown

_WIDEST = 120  # a Markdown table beyond this is not padded: nobody could read it as it is

STYLE = """\
.qkv-table { overflow-x: auto; margin: 1.25rem 0; }
.qkv-table table { border-collapse: collapse; font-size: .9rem; }
.qkv-table caption { text-align: left; padding: 0 .75rem .5rem 0; position: sticky; left: 0;
  width: min(65ch, calc(100vw - 2rem)); opacity: .8; }
.qkv-table th, .qkv-table td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #8886; text-align: left;
  vertical-align: top; font-weight: normal; max-width: 22rem; }
.qkv-table thead th, .qkv-table tfoot th { font-weight: 600; vertical-align: bottom; }
.qkv-table .number { text-align: right; font-variant-numeric: tabular-nums; }
"""


@dataclass(frozen=True)
class Table:
    """Cells as text.

    Attributes:
        header: a name for each column.
        rows: the cells, as many in each row as in the header; the first names the row.
        caption: one or several lines.
        numbers: so many columns at the end hold numbers, which are aligned to the right.
        total: a last row that is set apart.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: int = 0
    total: Sequence[str] | None = None

    def to_markdown(self) -> str:
        """The caption as a paragraph; the table, padded so that it can be read as it is where lines are not too long.

        A total is a row like any other.
        """
        rows = [[in_markdown(cell) for cell in row] for row in self._all()]
        widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
        if sum(widths) + 3 * len(widths) > _WIDEST:
            widths = [3] * len(widths)
        rule = ["-" * (width - 1) + (":" if self._is_number(i) else "-") for i, width in enumerate(widths)]
        lines = [f"| {' | '.join(self._padded(row, widths))} |" for row in (rows[0], rule, *rows[1:])]
        return "\n".join([*([in_markdown(self.caption), ""] if self.caption else []), *lines])

    def to_text(self) -> str:
        """For a terminal: the caption, then columns as wide as their longest cell."""
        rows = list(self._all())
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(self._padded(row, widths)).rstrip() for row in rows]
        rule = "  ".join("-" * width for width in widths)
        lines.insert(1, rule)
        if self.total is not None:
            lines.insert(-1, rule)
        return "\n".join([*([self.caption, ""] if self.caption else []), *lines])

    def __html__(self) -> str:
        """A part of a page, which scrolls by itself if it is wide; `STYLE` says what it looks like."""
        head, *rows = map(self._row, self._all())
        foot = "" if self.total is None else f"<tfoot>{rows.pop()}</tfoot>\n"
        lines = "<br>".join(f"<bdi>{in_html(line)}</bdi>" for line in self.caption.splitlines())
        caption = f"<caption>{lines}</caption>\n" if lines else ""
        body = "\n".join(rows)
        return (
            f'<div class="qkv-table" role="region" tabindex="0" aria-label="{in_html(self.caption) or "Table"}"><table>'
            f"\n{caption}<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n{foot}</table></div>"
        )

    def _all(self) -> Iterator[Sequence[str]]:
        yield self.header
        yield from self.rows
        if self.total is not None:
            yield self.total

    def _is_number(self, column: int) -> bool:
        return column >= len(self.header) - self.numbers

    def _padded(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        return [
            cell.rjust(width) if self._is_number(column) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]

    def _row(self, row: Sequence[str]) -> str:
        apart = row is self.header or row is self.total
        cells = []
        for column, cell in enumerate(row):
            tag = "th" if apart or column == 0 else "td"
            scope = ' scope="col"' if row is self.header else ' scope="row"' if column == 0 else ""
            # Words among numbers stand on the left.
            number = ' class="number"' if self._is_number(column) and (apart or " " not in cell) else ""
            cells.append(f'<{tag}{scope}{number} dir="auto">{in_html(cell)}</{tag}>')
        return f"<tr>{''.join(cells)}</tr>"

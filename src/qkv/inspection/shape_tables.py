"""A shape analysis as text, Markdown and HTML."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qkv.inspection.shapes import Shapes, Step

_HEADER = ("step", "what happens", "formula", "shape", "parameters", "multiply–adds")
_NUMBERS = 2  # the last so many columns hold numbers
_LEGEND = (
    "Parameters are counted where they are used first. Multiply–adds are those of matrix products; what runs along "
    "with them (sums, norms, softmax) is not counted."
)

_STYLE = """
.qkv-shapes { overflow-x: auto; }
.qkv-shapes table { border-collapse: collapse; font-size: .9rem; }
.qkv-shapes caption { text-align: left; padding-bottom: .5rem; }
.qkv-shapes th, .qkv-shapes td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886; text-align: left;
  vertical-align: top; font-weight: normal; }
.qkv-shapes thead th, .qkv-shapes tfoot th { font-weight: 600; }
.qkv-shapes .number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def to_text(shapes: "Shapes") -> str:
    """For a terminal: columns as wide as their longest cell."""
    rows = [_HEADER, *map(_cells, shapes.steps), _totals(shapes)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(_padded(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines.insert(-1, lines[1])
    return "\n".join([shapes.title, *_sides(shapes), "", *lines, "", _LEGEND])


def to_markdown(shapes: "Shapes") -> str:
    """A Markdown table with a heading."""
    ruler = ["---"] * (len(_HEADER) - _NUMBERS) + ["--:"] * _NUMBERS
    rows = [_HEADER, ruler, *(list(map(_plain, _cells(step))) for step in shapes.steps), _totals(shapes)]
    sides = "\n".join(f"- {_plain(side)}" for side in _sides(shapes))
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# {_plain(shapes.title)}\n\n{sides}\n\n{lines}\n\n{_LEGEND}\n"


def to_html(shapes: "Shapes") -> str:
    """A page: no script, no request to any host, light and dark."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{html.escape(shapes.title)}</title>
<style>:root {{ color-scheme: light dark; }} body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 1rem; }}</style>
</head>
<body>
<main>
<h1>{html.escape(shapes.title)}</h1>
{table(shapes)}
</main>
</body>
</html>
"""


def table(shapes: "Shapes") -> str:
    """The table alone, to be put into a page or shown in a notebook."""
    head = _row(_HEADER, "th", ' scope="col"')
    body = "\n".join(_row(_cells(step), "td") for step in shapes.steps)
    sides = "<br>".join(map(html.escape, _sides(shapes)))
    return (
        f"<style>{_STYLE}</style>\n"
        f'<div class="qkv-shapes" role="region" tabindex="0" aria-label="{html.escape(shapes.title)}"><table>\n'
        f"<caption>{sides}</caption>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n"
        f"<tfoot>{_row(_totals(shapes), 'th')}</tfoot>\n</table>\n<p>{_LEGEND}</p></div>"
    )


def spelled(step: "Step") -> str:
    """(batch 1, source 7, d_model 128); an axis without a name is its size alone."""
    named = zip(step.axes, step.shape, strict=True)
    axes = [name if name == str(size) else f"{name} {size}" for name, size in named]
    return f"({', '.join(axes)})" if axes else ""


def _cells(step: "Step") -> Sequence[str]:
    times = f" × {step.times}" if step.times > 1 else ""
    parameters = "shared" if step.shared else f"{step.parameters:,}" if step.parameters else ""
    multiply_adds = f"{step.multiply_adds:,}" if step.multiply_adds else ""
    return step.path or "(the model)", step.what, step.formula, spelled(step) + times, parameters, multiply_adds


def _totals(shapes: "Shapes") -> Sequence[str]:
    return "all", "", "", "", f"{shapes.parameters:,}", f"{shapes.multiply_adds:,}"


def _sides(shapes: "Shapes") -> list[str]:
    sides = {"source": shapes.source_tokens, "target": shapes.target_tokens}
    return [f"{name}, {len(tokens)} tokens: {' '.join(tokens)}" for name, tokens in sides.items()]


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first_number = len(row) - _NUMBERS
    return [
        cell.rjust(width) if column >= first_number else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _row(cells: Sequence[str], tag: str, more: str = "") -> str:
    first_number = len(cells) - _NUMBERS
    shown = []
    for column, cell in enumerate(cells):
        number = ' class="number"' if column >= first_number else ""
        if column == 0 and tag == "td":
            shown.append(f'<th scope="row">{html.escape(cell)}</th>')
        else:
            shown.append(f"<{tag}{more}{number}>{html.escape(cell)}</{tag}>")
    return f"<tr>{''.join(shown)}</tr>"


def _plain(text: str) -> str:
    """On one line, so that it is neither markup nor the end of a cell."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    for character in "\\`*_[]|":
        text = text.replace(character, f"\\{character}")
    return text

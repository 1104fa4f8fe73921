"""Attention maps as HTML that needs nothing beside itself: one small drawing per head, light or dark as the page is.

The cells are an image of one pixel each, whose opacity is the weight: a hundred tokens cost no more elements than ten.
"""

import base64
import html
import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qkv.pages.charts import COLORS, DARK_COLORS

if TYPE_CHECKING:
    from qkv.inspection.attention_maps import AttentionMap, Inspection

_CELL = 14  # units of a drawing per token
_LONGEST_LABEL = 12
_WIDTH_OF_LETTER = 6.2
_MEANING = {
    "encoder": "Each row is a source token, and what it gathers from the source.",
    "decoder": "Each row is a token that the decoder read, and what it gathers from those it read so far.",
    "cross": "Each row is a token that is predicted, and what is gathered from the source to predict it.",
}
STYLE = f"""\
.qkv-maps {{ color-scheme: light dark; font-family: system-ui, sans-serif; --map: {COLORS[0]}; --less: {COLORS[1]}; }}
@media (prefers-color-scheme: dark) {{ .qkv-maps {{ --map: {DARK_COLORS[0]}; --less: {DARK_COLORS[1]}; }} }}
.qkv-maps .grid {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }}
.qkv-maps figure {{ margin: 0; }}
.qkv-maps figcaption {{ font-size: .85rem; }}
.qkv-maps svg {{ width: 100%; height: auto; max-height: 80vh; }}
.qkv-maps text {{ fill: currentColor; font-size: 10px; }}
"""


def page(inspection: "Inspection", maps: Sequence["AttentionMap"]) -> str:
    """A whole page."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Attention: {html.escape(inspection.source)}</title>\n"
        "<style>:root { color-scheme: light dark; } body { margin: 1rem; }</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Attention</h1>\n{fragment(inspection, maps)}\n</main>\n</body>\n</html>\n"
    )


def fragment(inspection: "Inspection", maps: Sequence["AttentionMap"]) -> str:
    """A part of a page, as notebooks show it: texts, and the maps of each kind in a grid."""
    parts = [
        f"<p><strong>Source:</strong> {html.escape(inspection.source)}<br>"
        f"<strong>Translation:</strong> {html.escape(inspection.translation)} (score {inspection.score:.4f})</p>"
    ]
    kinds = list(dict.fromkeys(one.kind for one in maps))
    for kind in kinds:
        figures = [
            f"<figure>{drawing(one.weights, one.rows, one.columns, title=one.title)}"
            f"<figcaption>layer {one.layer}, head {one.head}</figcaption></figure>"
            for one in maps
            if one.kind == kind
        ]
        opened = " open" if kind == kinds[-1] else ""
        parts.append(
            f"<details{opened}><summary>{kind} attention</summary><p>{_MEANING[kind]} The fuller the colour, the "
            f'larger the weight.</p>\n<div class="grid">\n{chr(10).join(figures)}\n</div></details>'
        )
    if not kinds:
        parts.append("<p>This model has no attention.</p>")
    return f'<div class="qkv-maps"><style>{STYLE}</style>\n{chr(10).join(parts)}\n</div>'


def grid(matrices: Iterable[tuple[str, np.ndarray, Sequence[str], Sequence[str]]], caption: str) -> str:
    """A part of a page: matrices side by side, under a caption.

    Args:
        matrices: of each the title, the values, and labels of rows and columns; see `drawing`.
        caption: what they show.
    """
    figures = "\n".join(
        f"<figure>{drawing(values, rows, columns, title=title)}<figcaption>{html.escape(title)}</figcaption></figure>"
        for title, values, rows, columns in matrices
    )
    return (
        f'<div class="qkv-maps"><style>{STYLE}</style>\n<p>{html.escape(caption)}</p>\n'
        f'<div class="grid">\n{figures}\n</div>\n</div>'
    )


def drawing(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], *, title: str) -> str:
    """A matrix as an `<svg>` element with its tokens beside it.

    Args:
        values: (row, column), between −1 and 1: opacity, in one colour above zero and another below.
        rows: a label for each.
        columns: a label for each.
        title: its name for those who do not see it.
    """
    rows, columns = [_short(label) for label in rows], [_short(label) for label in columns]
    left = _WIDTH_OF_LETTER * max(map(len, rows), default=0) + 6
    top = _WIDTH_OF_LETTER * max(map(len, columns), default=0) + 6
    width, height = _CELL * len(columns), _CELL * len(rows)
    labels = [
        f'<text x="{left - 4:.0f}" y="{top + _CELL * (i + 0.75):.1f}" text-anchor="end">{html.escape(label)}</text>'
        for i, label in enumerate(rows)
    ]
    for j, label in enumerate(columns):
        x, y = left + _CELL * (j + 0.75), top - 4
        labels.append(f'<text transform="translate({x:.1f} {y:.0f}) rotate(-90)">{html.escape(label)}</text>')
    cells = [
        f'<foreignObject x="{left:.0f}" y="{top:.0f}" width="{width}" height="{height}">'
        f'<div style="width:100%;height:100%;background:var(--{color});'
        f"mask:url({image}) 0 0/100% 100%;-webkit-mask:url({image}) 0 0/100% 100%;"
        'image-rendering:pixelated"></div></foreignObject>'
        for color, image in (("map", _image(values)), ("less", _image(-values)))
        if color == "map" or (values < 0).any()
    ]
    frame = f'<rect x="{left:.0f}" y="{top:.0f}" width="{width}" height="{height}" fill="none" stroke="#8888"/>'
    box = f"0 0 {left + width + 2:.0f} {top + height + 2:.0f}"
    name = html.escape(title, quote=True)
    return f'<svg viewBox="{box}" role="img" aria-label="{name}">{"".join([*cells, frame, *labels])}</svg>'


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _image(values: np.ndarray) -> str:
    """A PNG of one pixel per value, black with the value as opacity, as a data URI."""
    height, width = values.shape
    pixels = np.zeros((height, width, 2), dtype=np.uint8)
    pixels[:, :, 1] = np.rint(values.clip(0.0, 1.0) * 255)
    lines = b"".join(b"\x00" + line.tobytes() for line in pixels)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 4, 0, 0, 0)  # 8 bits of grey and of opacity
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"

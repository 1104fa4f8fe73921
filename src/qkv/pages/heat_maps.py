"""Heat maps as HTML that needs nothing beside itself: a small drawing each, light or dark as the page is.

The cells are an image of one pixel each, whose opacity is the value: a hundred tokens cost no more elements than ten.
"""

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from qkv.pages.escaping import in_html
from qkv.pages.style import COLORS, DARK_COLORS

_CELL = 14  # units of a drawing per token
_LONGEST_LABEL = 12
_WIDTH_OF_LETTER = 6.2
_STYLE = f"""\
.qkv-maps {{ color-scheme: light dark; font-family: system-ui, sans-serif; --map: {COLORS[0]}; --less: {COLORS[1]}; }}
@media (prefers-color-scheme: dark) {{ .qkv-maps {{ --map: {DARK_COLORS[0]}; --less: {DARK_COLORS[1]}; }} }}
.qkv-maps .grid {{ display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); }}
.qkv-maps figure {{ margin: 0; }}
.qkv-maps figcaption {{ font-size: .85rem; }}
.qkv-maps svg {{ width: 100%; height: auto; max-height: 80vh; }}
.qkv-maps text {{ fill: currentColor; font-size: 10px; }}
"""


@dataclass(frozen=True)
class HeatMap:
    """A matrix with a name for each row and column.

    Attributes:
        title: what a reader calls it.
        weights: (row, column), between −1 and 1.
        rows: a label for each.
        columns: a label for each.
    """

    title: str
    weights: np.ndarray = field(repr=False)
    rows: Sequence[str]
    columns: Sequence[str]


def fragment(parts: Iterable[str]) -> str:
    """A part of a page, as notebooks show it: paragraphs, and what `grid` gives."""
    content = "\n".join(parts)
    return f'<div class="qkv-maps"><style>{_STYLE}</style>\n{content}\n</div>'


def grid(maps: Iterable[HeatMap]) -> str:
    """Maps side by side, each under its title; for `fragment`."""
    figures = "\n".join(f"<figure>{drawing(one)}<figcaption>{in_html(one.title)}</figcaption></figure>" for one in maps)
    return f'<div class="grid">\n{figures}\n</div>'


def drawing(heat_map: HeatMap) -> str:
    """A map as an `<svg>` element with its labels beside it: opacity is the value, in one colour above zero and another
    below.
    """
    values = np.asarray(heat_map.weights)
    rows, columns = ([_short(label) for label in labels] for labels in (heat_map.rows, heat_map.columns))
    left = _WIDTH_OF_LETTER * max(map(len, rows), default=0) + 6
    top = _WIDTH_OF_LETTER * max(map(len, columns), default=0) + 6
    width, height = _CELL * len(columns), _CELL * len(rows)
    labels = [
        f'<text x="{left - 4:.0f}" y="{top + _CELL * (i + 0.75):.1f}" text-anchor="end">{in_html(label)}</text>'
        for i, label in enumerate(rows)
    ]
    for j, label in enumerate(columns):
        x, y = left + _CELL * (j + 0.75), top - 4
        labels.append(f'<text transform="translate({x:.1f} {y:.0f}) rotate(-90)">{in_html(label)}</text>')
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
    name = in_html(heat_map.title)
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

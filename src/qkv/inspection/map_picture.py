"""Attention maps as one PNG picture for print, a panel per head."""

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qkv.errors import UserError

if TYPE_CHECKING:
    from qkv.inspection.attention_maps import AttentionMap, Inspection

_INCHES_PER_TOKEN = 0.17
_LARGEST = 12_000  # pixels on a side
_DPI = 150
_MOST_LABELS = 60


def picture(inspection: "Inspection", maps: Sequence["AttentionMap"]) -> bytes:
    """A PNG with a panel for each map; darker is more, also in print and for the colour-blind.

    Raises:
        UserError: if there are no maps.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not maps:
        raise UserError("this model has no attention to draw")
    columns = min(len(maps), max(one.head for one in maps) if len(maps) > 1 else 1)
    rows = -(-len(maps) // columns)
    width = columns * (1.2 + _INCHES_PER_TOKEN * max(len(one.columns) for one in maps))
    height = rows * (1.4 + _INCHES_PER_TOKEN * max(len(one.rows) for one in maps)) + 0.6
    figure = Figure(figsize=(max(3.0, width), max(2.5, height)), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, one in zip(panels, maps, strict=False):
        panel.imshow(one.weights, cmap="cividis_r", vmin=0.0, vmax=1.0, interpolation="nearest")
        panel.set_title(one.title, fontsize=8)
        _label(panel.set_xticks, one.columns, rotation=90)
        _label(panel.set_yticks, one.rows)
    for panel in panels[len(maps) :]:
        panel.set_visible(False)
    figure.suptitle(f"{inspection.source}\n{inspection.translation}", fontsize=9, parse_math=False)
    written = io.BytesIO()
    dpi = min(_DPI, _LARGEST / max(figure.get_size_inches()))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        FigureCanvasAgg(figure)
        figure.savefig(written, format="png", dpi=dpi)
    return written.getvalue()


def _label(set_ticks: Any, labels: Sequence[str], **options: Any) -> None:
    every = -(-len(labels) // _MOST_LABELS)
    places = range(0, len(labels), every)
    set_ticks(list(places), [labels[i] for i in places], fontsize=6, parse_math=False, **options)

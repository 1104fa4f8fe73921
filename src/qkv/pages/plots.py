"""Pictures for paper and screen: attention, masks, positions, learning curves, schedules, quality by length.

Each function returns a matplotlib figure; `save` writes it as SVG, PNG or PDF. Maps go from white to dark in one hue,
so that they can be read in grey and by the colour-blind; lines differ in dashes and markers beside their colours.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike

from qkv.errors import UserError
from qkv.files import write_bytes
from qkv.pages.heat_maps import HeatMap
from qkv.pages.style import (
    CHART_SIZE,
    COLORS,
    SMALL_SIZE,
    TITLE_SIZE,
    Series,
    draw_lines,
    new_figure,
    open_frame,
    writing,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_WEIGHTS = "Blues"  # one hue, light to dark
_SIGNED = "PuOr"  # orange below zero, purple above: apart for every kind of colour blindness
_FORMATS = ("svg", "png", "pdf")
_MOST_LABELS = 60
_MOST_NUMBERS = 12
_MOST_CROSSES = 2_500
_DPI = 160
_MOST_PIXELS = 12_000  # on a side of a PNG


def heat_map(
    weights: ArrayLike, rows: Sequence[str], columns: Sequence[str], *, title: str = "", numbers: bool | None = None
) -> "Figure":
    """One head's attention: a row per query, a column per key, dark where it looks.

    Args:
        weights: (query, key), from 0 to 1.
        rows: the queries' tokens.
        columns: the keys' tokens.
        title: above the map.
        numbers: whether cells show their weights; by default if there are at most 12 × 12.

    Raises:
        ValueError: if there are not as many tokens as rows and columns.
    """
    matrix = _matrix(weights, rows, columns)
    figure, axes = _panel(title, 1.6 + 0.36 * min(40, len(columns)), 1.4 + 0.3 * min(40, len(rows)))
    image = _show(axes, matrix, aspect="auto")
    _label_tokens(axes, rows, columns)
    if max(matrix.shape) <= _MOST_NUMBERS if numbers is None else numbers:
        for (row, column), weight in np.ndenumerate(matrix):
            ink = "white" if weight > 0.55 else "black"
            axes.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=6, color=ink)
    figure.colorbar(image, ax=axes, label="weight", fraction=0.05)
    return figure


def head_grid(weights: ArrayLike, rows: Sequence[str], columns: Sequence[str], *, title: str = "") -> "Figure":
    """All heads on one page: a row of maps per layer, a column per head. Tokens stand at the outer edges if they fit.

    `weights` are (layer, head, query, key); all else is as for `heat_map`.
    """
    maps = np.asarray(weights, dtype=float)
    if maps.ndim != 4 or 0 in maps.shape:
        raise ValueError(f"weights must have the axes (layer, head, query, key), none of them empty; got {maps.shape}")
    layers, heads = maps.shape[:2]
    figure = new_figure(width=1.0 + 2.0 * heads, height=1.2 + 2.0 * layers)
    panels = figure.subplots(layers, heads, squeeze=False)
    labelled = max(maps.shape[2:]) <= _MOST_LABELS // 2
    for layer, head in np.ndindex(layers, heads):
        axes = cast("Axes", panels[layer, head])
        matrix = _matrix(maps[layer, head], rows, columns)
        _show(axes, matrix, aspect="auto")
        below, left = layer == layers - 1 and labelled, head == 0 and labelled
        _label_tokens(axes, rows if left else [], columns if below else [], size=5)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=SMALL_SIZE)
    figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    return figure


def map_page(rows: Sequence[Sequence[HeatMap]], *, title: str = "") -> "Figure":
    """Any maps on one page, row by row, each with its own tokens and as large as they need.

    Args:
        rows: what stands beside each other.
        title: above the page.

    Raises:
        UserError: if there are no maps.
    """
    maps = [one for row in rows for one in row]
    if not maps:
        raise UserError("nothing to draw: there are no maps")
    columns = max(map(len, rows))
    wide, high = max(len(one.columns) for one in maps), max(len(one.rows) for one in maps)
    figure = new_figure(width=max(3.0, columns * (1.2 + 0.17 * wide)), height=0.6 + len(rows) * (1.4 + 0.17 * high))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(panels, rows, strict=True):
        for axes, one in zip(line, row, strict=False):
            _show(axes, _matrix(one.weights, one.rows, one.columns))
            axes.set_title(one.title, fontsize=SMALL_SIZE, parse_math=False)
            _label_tokens(axes, one.rows, one.columns, size=SMALL_SIZE - 1)
        for axes in line[len(row) :]:
            axes.set_visible(False)
    figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    return figure


def mask_picture(
    mask: ArrayLike, rows: Sequence[str] | None = None, columns: Sequence[str] | None = None, *, title: str = "Mask"
) -> "Figure":
    """What may attend (dark) to what; a cross stands where it may not, for prints in which colours are lost.

    Args:
        mask: (query, key), True = may attend; one axis, of a padding mask (key), is a single row.
        rows: names of the queries; numbers by default.
        columns: names of the keys; numbers by default.
        title: above the picture.
    """
    allowed = np.atleast_2d(np.asarray(mask, dtype=bool))
    rows, columns = (
        [str(number + 1) for number in range(size)] if names is None else names
        for names, size in zip((rows, columns), allowed.shape, strict=True)
    )
    matrix = _matrix(allowed, rows, columns)
    figure, axes = _panel(title, 1.4 + 0.3 * min(40, len(columns)), 1.2 + 0.3 * min(40, len(rows)))
    _show(axes, matrix * 0.8)
    if allowed.size <= _MOST_CROSSES:
        hidden = np.argwhere(~allowed)
        axes.scatter(hidden[:, 1], hidden[:, 0], marker="x", s=14, color=COLORS[6], linewidths=0.8)
    _label_tokens(axes, rows, columns)
    axes.set_ylabel("query")
    axes.set_xlabel("key: dark may be\nattended to, × may not")
    return figure


def position_picture(table: ArrayLike, *, title: str = "Position encoding") -> "Figure":
    """A table of position encodings: one row per position, orange below zero and purple above.

    Args:
        table: (position, channel), as `qkv.nn.sinusoidal_position` or a learnt one.
        title: above the picture.
    """
    values = np.asarray(table, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"a table has the axes (position, channel); got {values.shape}")
    limit = float(np.abs(values).max()) or 1.0
    figure, axes = _panel(title, 6.4, 3.6)
    image = axes.imshow(values, cmap=_SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_xlabel("channel")
    axes.set_ylabel("position")
    figure.colorbar(image, ax=axes, label="value")
    return figure


def learning_curves(metrics: Sequence[Mapping[str, Any]], *, title: str = "Learning curves") -> "Figure":
    """Loss on training and validation pairs over the steps; beside it the validation metric, if there is another.

    Args:
        metrics: lines of metrics.jsonl, as `Run.metrics` reads them.
        title: above the picture.

    Raises:
        UserError: if nothing has been reported yet.
    """
    training = [record for record in metrics if record["event"] == "train"]
    validation = [record for record in metrics if record["event"] == "validation"]
    if not training and not validation:
        raise UserError("nothing to draw: the run has no reports yet")
    losses = [curve("training", training, "nll"), curve("validation", validation, "loss")]
    panels = [([loss for loss in losses if loss.x], "nats per target token")]
    if metric := validation_metric(validation):
        panels.append(([curve(f"validation {metric}", validation, metric)], metric))
    figure = new_figure(width=CHART_SIZE[0] * len(panels))
    for axes, (curves, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, curves, "step", label)
    figure.suptitle(title, fontsize=TITLE_SIZE, parse_math=False)
    return figure


def curve(label: str, records: Sequence[Mapping[str, Any]], name: str) -> Series:
    """What the records say of `name` over the steps, where they say it in a finite number."""
    found = [(one["step"], one[name]) for one in records if one.get(name) is not None and math.isfinite(one[name])]
    return Series(label, [step for step, _ in found], [value for _, value in found])


def validation_metric(validation: Sequence[Mapping[str, Any]]) -> str | None:
    """The metric that the last of the validations reports beside the loss, or None; before it may have been another."""
    known = {"event", "step", "epoch", "loss", "perplexity", "seconds", "samples"}
    return next((name for record in validation[-1:] for name in record if name not in known), None)


def schedule_picture(
    schedules: Mapping[str, Callable[[int], float]], steps: int, *, title: str = "Learning-rate schedule"
) -> "Figure":
    """How the learning rate rises and falls over so many steps.

    Args:
        schedules: by the name that the legend shows, the learning rate of each step, counted from 1.
        steps: length of the run.
        title: above the picture.
    """
    at = np.unique(np.linspace(1, steps, num=min(steps, 400), dtype=int)).tolist()
    figure, axes = _panel(title)
    curves = [Series(name, at, [rate(step) for step in at]) for name, rate in schedules.items()]
    _draw(axes, curves, "step", "learning rate")
    return figure


def quality_picture(
    buckets: Sequence[tuple[int, int, int, float]], *, metric: str, unit: str, title: str = "Quality by length"
) -> "Figure":
    """A bar per range of source lengths, with the number of pairs that it stands for.

    Args:
        buckets: (shortest, longest, pairs, value of the metric).
        metric: its name.
        unit: of the lengths: words or characters.
        title: above the picture.
    """
    if not buckets:
        raise UserError("nothing to draw: there are no pairs")
    figure, axes = _panel(title)
    bars = axes.bar([f"{low}–{high}" for low, high, *_ in buckets], [value for *_, value in buckets], color=COLORS[0])
    axes.bar_label(bars, [f"{value:.1f}\n({pairs:,})" for *_, pairs, value in buckets], fontsize=SMALL_SIZE, padding=2)
    axes.margins(y=0.18)
    axes.set_xlabel(f"{unit} of the source (pairs in brackets)")
    axes.set_ylabel(metric, parse_math=False)
    open_frame(axes)
    return figure


# Files


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure, whole or not at all; the file's name says how.

    Raises:
        UserError: if the name ends in none of .svg, .png and .pdf, or cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise UserError(f"{path}: a picture's name ends in .svg, .png or .pdf")
    write_bytes(path, drawn(figure, kind))


def drawn(figure: "Figure", kind: str = "png") -> bytes:
    """A figure as the content of a file: png, svg or pdf. The same data gives the same bytes."""
    written = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    dpi = min(_DPI, _MOST_PIXELS / max(figure.get_size_inches()))
    with writing():
        figure.savefig(written, format=kind, dpi=dpi, metadata=metadata)
    return written.getvalue()


# What the pictures share


def _panel(title: str, width: float = CHART_SIZE[0], height: float = CHART_SIZE[1]) -> "tuple[Figure, Axes]":
    """A figure with one picture in it."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=TITLE_SIZE, parse_math=False)
    return figure, axes


def _matrix(weights: ArrayLike, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    matrix = np.asarray(weights, dtype=float)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns have names, but the map is {matrix.shape}")
    return matrix


def _show(axes: "Axes", matrix: np.ndarray, aspect: Literal["equal", "auto"] = "equal") -> "AxesImage":
    """All maps on one scale, so that they can be compared."""
    return axes.imshow(matrix, cmap=_WEIGHTS, vmin=0.0, vmax=1.0, aspect=aspect, interpolation="nearest")


def _label_tokens(axes: "Axes", rows: Sequence[str], columns: Sequence[str], size: int = SMALL_SIZE) -> None:
    """Names at both axes: every one, or every second, third, … of many."""
    for axis, names, turn in ((axes.xaxis, columns, 90), (axes.yaxis, rows, 0)):
        every = -(-len(names) // _MOST_LABELS) or 1
        shown = range(0, len(names), every)
        axis.set_ticks(list(shown), [names[place] for place in shown], rotation=turn, fontsize=size, parse_math=False)


def _draw(axes: "Axes", curves: Sequence[Series], x_label: str, y_label: str) -> None:
    draw_lines(axes, curves)
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label, parse_math=False)

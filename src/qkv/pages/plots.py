"""Pictures for paper and screen: attention, masks, positions, learning curves, schedules, quality by length.

Each function returns a matplotlib figure; `save` writes it as SVG, PNG or PDF. Maps go from white to dark in one hue,
so that they can be read in grey and by the colour-blind; lines differ in dashes and markers beside their colours.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike

from qkv.errors import UserError
from qkv.files import write_bytes
from qkv.pages.charts import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qkv.inspection.attention_maps import AttentionMap
    from qkv.training.schedule import Schedule

_WEIGHTS = "Blues"  # one hue, light to dark
_SIGNED = "PuOr"  # orange below zero, purple above: apart for every kind of colour blindness
_FORMATS = ("svg", "png", "pdf")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_MOST_LABELS = 60
_MOST_NUMBERS = 12
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
    small = max(matrix.shape) <= _MOST_NUMBERS
    figure = _figure(width=1.6 + 0.36 * min(40, len(columns)), height=1.4 + 0.3 * min(40, len(rows)))
    axes = figure.add_subplot()
    image = axes.imshow(matrix, cmap=_WEIGHTS, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    _label_tokens(axes, rows, columns)
    if small if numbers is None else numbers:
        for (row, column), weight in np.ndenumerate(matrix):
            ink = "white" if weight > 0.55 else "black"
            axes.text(column, row, f"{weight:.2f}", ha="center", va="center", fontsize=6, color=ink)
    axes.set_title(title, fontsize="medium", parse_math=False)
    figure.colorbar(image, ax=axes, label="weight", fraction=0.05)
    return figure


def head_grid(weights: ArrayLike, rows: Sequence[str], columns: Sequence[str], *, title: str = "") -> "Figure":
    """All heads on one page: a row of maps per layer, a column per head. Tokens stand at the outer edges if they fit.

    Args:
        weights: (layer, head, query, key).
        rows: the queries' tokens.
        columns: the keys' tokens.
        title: above the page.

    Raises:
        ValueError: if there are not as many tokens as rows and columns.
    """
    maps = np.asarray(weights, dtype=float)
    if maps.ndim != 4 or 0 in maps.shape:
        raise ValueError(f"weights must have the axes (layer, head, query, key), none of them empty; got {maps.shape}")
    layers, heads = maps.shape[:2]
    figure = _figure(width=1.0 + 2.0 * heads, height=1.2 + 2.0 * layers)
    panels = figure.subplots(layers, heads, squeeze=False)
    labelled = max(maps.shape[2:]) <= _MOST_LABELS // 2
    for layer, head in np.ndindex(layers, heads):
        axes = cast("Axes", panels[layer, head])
        matrix = _matrix(maps[layer, head], rows, columns)
        axes.imshow(matrix, cmap=_WEIGHTS, vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
        below, left = layer == layers - 1 and labelled, head == 0 and labelled
        _label_tokens(axes, rows if left else [], columns if below else [], size=5)
        axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure


def map_page(maps: Sequence["AttentionMap"], *, title: str = "") -> "Figure":
    """Any maps on one page, each with its own tokens and as large as they need: a row per layer of a kind.

    Args:
        maps: as `Inspection.maps` chooses them.
        title: above the page.

    Raises:
        UserError: if there are no maps.
    """
    if not maps:
        raise UserError("nothing to draw: this model has no attention")
    rows: dict[tuple[str, int], list[AttentionMap]] = {}
    for one in maps:
        rows.setdefault((one.kind, one.layer), []).append(one)
    columns = max(map(len, rows.values()))
    wide, high = max(len(one.columns) for one in maps), max(len(one.rows) for one in maps)
    figure = _figure(width=max(3.0, columns * (1.2 + 0.17 * wide)), height=0.6 + len(rows) * (1.4 + 0.17 * high))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, row in zip(panels, rows.values(), strict=True):
        for axes, one in zip(line, row, strict=False):
            matrix = _matrix(one.weights, one.rows, one.columns)
            axes.imshow(matrix, cmap=_WEIGHTS, vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set_title(one.title, fontsize=7)
            _label_tokens(axes, one.rows, one.columns, size=6)
        for axes in line[len(row) :]:
            axes.set_visible(False)
    figure.suptitle(title, fontsize="medium", parse_math=False)
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
    rows = [str(number + 1) for number in range(allowed.shape[0])] if rows is None else rows
    columns = [str(number + 1) for number in range(allowed.shape[1])] if columns is None else columns
    matrix = _matrix(allowed, rows, columns)
    figure = _figure(width=1.4 + 0.3 * min(40, len(columns)), height=1.2 + 0.3 * min(40, len(rows)))
    axes = figure.add_subplot()
    axes.imshow(matrix * 0.8, cmap=_WEIGHTS, vmin=0.0, vmax=1.0, interpolation="nearest")
    if allowed.size <= 2_500:
        hidden = np.argwhere(~allowed)
        axes.scatter(hidden[:, 1], hidden[:, 0], marker="x", s=14, color="#7f7f7f", linewidths=0.8)
    _label_tokens(axes, rows, columns)
    axes.set_ylabel("query")
    axes.set_xlabel("key: dark may be\nattended to, × may not")
    axes.set_title(title, fontsize="medium", parse_math=False)
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
    figure = _figure(width=6.4, height=3.6)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap=_SIGNED, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_xlabel("channel")
    axes.set_ylabel("position")
    axes.set_title(title, fontsize="medium", parse_math=False)
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
    metric = validation_metric(validation)
    figure = _figure(width=4.8 if metric is None else 9.0, height=3.4)
    panels = figure.subplots(1, 1 if metric is None else 2, squeeze=False)[0]
    curves = {"training": _points(training, "nll"), "validation": _points(validation, "loss")}
    _lines(panels[0], {name: points for name, points in curves.items() if points[0]})
    panels[0].set_ylabel("nats per target token")
    if metric is not None:
        _lines(panels[1], {f"validation {metric}": _points(validation, metric)})
        panels[1].set_ylabel(metric)
    for axes in panels:
        axes.set_xlabel("step")
    figure.suptitle(title, fontsize="medium", parse_math=False)
    return figure


def validation_metric(validation: Sequence[Mapping[str, Any]]) -> str | None:
    """The metric that validations report beside the loss, or None."""
    known = {"event", "step", "epoch", "loss", "perplexity", "seconds", "samples"}
    return next((name for record in validation for name in record if name not in known), None)


def schedule_picture(
    schedules: Mapping[str, "Schedule"], steps: int, *, title: str = "Learning-rate schedule"
) -> "Figure":
    """How the learning rate rises and falls over so many steps.

    Args:
        schedules: by the name that the legend shows.
        steps: length of the run.
        title: above the picture.
    """
    at = np.unique(np.linspace(1, steps, num=min(steps, 400), dtype=int)).tolist()
    curves = {
        name: (at, [schedule.learning_rate(step, step / steps) for step in at]) for name, schedule in schedules.items()
    }
    figure = _figure(width=4.8, height=3.4)
    axes = figure.add_subplot()
    _lines(axes, curves)
    axes.set_xlabel("step")
    axes.set_ylabel("learning rate")
    axes.set_title(title, fontsize="medium", parse_math=False)
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
    figure = _figure(width=4.8, height=3.4)
    axes = figure.add_subplot()
    bars = axes.bar([f"{low}–{high}" for low, high, *_ in buckets], [value for *_, value in buckets], color=COLORS[0])
    axes.bar_label(bars, [f"{value:.1f}\n({pairs:,})" for *_, pairs, value in buckets], fontsize=7, padding=2)
    axes.margins(y=0.18)
    axes.set_xlabel(f"{unit} of the source (pairs in brackets)")
    axes.set_ylabel(metric, parse_math=False)
    axes.set_title(title, fontsize="medium", parse_math=False)
    _bare(axes)
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
    import matplotlib

    written = io.BytesIO()
    # SVG keeps text as text; it needs names that do not change from one drawing to the next, and no date.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "qkv"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        dpi = min(_DPI, _MOST_PIXELS / max(figure.get_size_inches()))
        figure.savefig(written, format=kind, dpi=dpi, metadata=metadata)
    return written.getvalue()


# What the pictures share


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _matrix(weights: ArrayLike, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    matrix = np.asarray(weights, dtype=float)
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} rows and {len(columns)} columns have names, but the map is {matrix.shape}")
    return matrix


def _label_tokens(axes: "Axes", rows: Sequence[str], columns: Sequence[str], size: int = 7) -> None:
    """Names at both axes: every one, or every second, third, … of many."""
    for axis, names, turn in ((axes.xaxis, columns, 90), (axes.yaxis, rows, 0)):
        every = -(-len(names) // _MOST_LABELS) or 1
        shown = range(0, len(names), every)
        axis.set_ticks(list(shown), [names[place] for place in shown], rotation=turn, fontsize=size, parse_math=False)


def _points(records: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(record["step"], record[name]) for record in records if name in record]
    return [step for step, _ in found], [value for _, value in found]


def _lines(axes: "Axes", curves: Mapping[str, tuple[Sequence[int | float], Sequence[int | float]]]) -> None:
    for number, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(
            x,
            y,
            label=name.lstrip("_") or "–",  # a label that begins with "_" would not be shown
            color=COLORS[number % len(COLORS)],
            linestyle=_DASHES[number % len(_DASHES)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            markevery=max(1, len(x) // 8),
            linewidth=1.6,
        )
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)
    axes.grid(linewidth=0.4, alpha=0.5)
    _bare(axes)


def _bare(axes: "Axes") -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)

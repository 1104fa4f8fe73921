"""What all charts have in common, on pages and in files: colours, dashes, markers, sizes, and how a line is drawn.

Colours are those of Okabe and Ito (2008), which the colour-blind can tell apart; lines differ in dashes and markers,
too. A page may set `--series-1` … `--series-8` to other colours.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7f7f7f", "#b8a900")
DARK_COLORS = ("#4ca6e0", "#f08a3c", "#2fc99b", "#e39cc4", "#8fd0f5", "#f2b93b", "#b5b5b5", "#f0e442")
CHART_SIZE = (4.8, 3.4)  # inches
TITLE_SIZE = "medium"
SMALL_SIZE = 7  # points: names of tokens, numbers at bars

_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_FEW_POINTS = 30
_MARKED = 8  # of many points


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    x: Sequence[int | float]
    y: Sequence[int | float]


def style_sheet() -> str:
    """CSS that gives the lines their colours on a dark page; on a light one they have them without."""
    variables = " ".join(f"--series-{number}: {color};" for number, color in enumerate(DARK_COLORS, start=1))
    return f"@media (prefers-color-scheme: dark) {{ :root {{ {variables} }} }}"


def new_figure(width: float = CHART_SIZE[0], height: float = CHART_SIZE[1]) -> "Figure":
    """An empty figure, in inches; not one of pyplot's, which would stay in memory."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def draw_lines(axes: "Axes", lines: Sequence[Series]) -> None:
    """A line in each colour, with its dashes and markers, on axes without a frame."""
    for number, line in enumerate(lines):
        axes.plot(
            line.x,
            line.y,
            # A label that begins with "_" would not be shown.
            label=line.label.lstrip("_") or "–",
            color=COLORS[number % len(COLORS)],
            linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.6,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=4,
            markevery=1 if len(line.x) <= _FEW_POINTS else len(line.x) // _MARKED,
        )
    axes.grid(linewidth=0.5, alpha=0.5)
    open_frame(axes)


def open_frame(axes: "Axes") -> None:
    """Leave the axes' own lines alone."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


@contextmanager
def writing() -> Iterator[None]:
    """Figures are written within: text stays text, and the same data gives the same bytes."""
    import matplotlib

    options = {"svg.fonttype": "none", "svg.hashsalt": "qkv", "axes.unicode_minus": True}
    with matplotlib.rc_context(options), warnings.catch_warnings():  # type: ignore[arg-type]
        # The reader's fonts draw the text, so it is no matter what matplotlib's lack.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield

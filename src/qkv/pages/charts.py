"""Line charts as SVG for a page of one's own: they follow its colours, light or dark, and ask for nothing else.

Text and axes take the page's text colour, lines those of `qkv.pages.style`.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkv.pages.escaping import in_html
from qkv.pages.style import COLORS, TITLE_SIZE, Series, draw_lines, new_figure, writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_POINTS = 200
_INK = "#010203"  # stands for the page's text colour until the drawing is done
_FAINT = "#030201"  # the grid


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    description: str | None = None,
    x_ticks: Sequence[tuple[int | float, str]] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> str:
    """A chart as an `<svg>` element to be put into HTML as it is.

    Args:
        series: lines, up to eight of which differ in colour and marker.
        title: short; also the element's name for those who do not see it.
        x_label: with its unit.
        y_label: with its unit.
        description: in words, what the chart shows; by default where each line begins and ends.
        x_ticks: places and texts, if not numbers chosen by matplotlib.
        log_x: a logarithmic axis (to base 2).
        log_y: a logarithmic axis.
    """
    if description is None:
        ends = "; ".join(f"{line.label}: from {line.y[0]:.4g} to {line.y[-1]:.4g}" for line in series)
        description = f"{y_label} over {x_label}, from the first point to the last. {ends}."
    salt = "c" + hashlib.sha256(repr((title, x_label, y_label, series)).encode("utf-8")).hexdigest()[:10]
    figure = new_figure()
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    draw_lines(axes, [thinned(line) for line in series])
    axes.set_title(title, color=_INK, fontsize=TITLE_SIZE, loc="left", parse_math=False)
    axes.set_xlabel(x_label, color=_INK, parse_math=False)
    axes.set_ylabel(y_label, color=_INK, parse_math=False)
    _scale(axes, x_ticks, log_x=log_x, log_y=log_y)
    axes.tick_params(colors=_INK, which="both")
    axes.grid(color=_FAINT, alpha=1.0)
    for spine in axes.spines.values():
        spine.set_color(_INK)
    legend = figure.legend(loc="outside lower center", ncols=2, frameon=False, labelcolor=_INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    written = io.StringIO()
    with writing():
        figure.savefig(written, format="svg", metadata={"Date": None})
    return _for_html(written.getvalue(), salt, title, description)


def thinned(series: Series) -> Series:
    """At most 200 points, evenly chosen, the last one among them."""
    every = max(1, -(-len(series.x) // _MOST_POINTS))
    last = len(series.x) - 1
    kept = [i for i in range(len(series.x)) if (last - i) % every == 0]
    return Series(series.label, [series.x[i] for i in kept], [series.y[i] for i in kept])


def _scale(axes: "Axes", x_ticks: Sequence[tuple[int | float, str]] | None, *, log_x: bool, log_y: bool) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator

    if log_x:
        axes.set_xscale("log", base=2)
    if log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if x_ticks is not None:
        axes.set_xticks([place for place, _ in x_ticks], [text for _, text in x_ticks])
    axes.minorticks_off()


def _for_html(svg: str, salt: str, title: str, description: str) -> str:
    """The drawing without what only a file of its own needs, with a text alternative and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    names = {name for pair in used for name in pair if name}
    # Names are the page's, not the drawing's: those that are needed are made unique, the others go.
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{salt}-{found[1]}"' if found[1] in names else "", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    for number, color in enumerate(COLORS, start=1):
        svg = svg.replace(color, f"var(--series-{number}, {color})")
    svg = svg.replace(_INK, "currentColor").replace(_FAINT, "var(--grid, #8884)")
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    head = (
        f'<svg class="chart" viewBox="{box[1]}" role="img" aria-labelledby="{salt}-title {salt}-text" '
        'stroke-linejoin="round" stroke-linecap="butt">'
        f'<title id="{salt}-title">{in_html(title)}</title><desc id="{salt}-text">{in_html(description)}</desc>'
    )
    return head + svg[svg.index(">") + 1 :].strip()

"""Charts: drawn from data, in the page's colours, with all that is needed inside."""

import re
import xml.etree.ElementTree as ET

from qkv.pages.charts import line_chart, thinned
from qkv.pages.style import COLORS, DARK_COLORS, Series, style_sheet

TEXTS = {"title": "A title", "x_label": "x", "y_label": "y", "description": "A <description>"}


def test_every_line_is_drawn_in_a_colour_of_its_own():
    series = [Series(f"line {number}", [0, 1, 2], [number, 1, 2]) for number in range(8)]
    svg = line_chart(series, **TEXTS)
    for number, color in enumerate(COLORS, start=1):
        assert f"var(--series-{number}, {color})" in svg
        assert f"line {number - 1}" in svg
    assert len(set(re.findall(r"stroke-dasharray: [\d., ]+", svg))) >= 3, "and dashes, for the colour-blind"


def test_the_drawing_is_xml_with_title_and_description():
    root = ET.fromstring(line_chart([Series("a", [1, 2], [3, 4])], **TEXTS))
    assert root.find("title").text == "A title"
    assert root.find("desc").text == "A <description>"
    assert "A title" in "".join(text for text in root.itertext())


def test_text_and_axes_take_the_colour_of_the_page():
    svg = line_chart([Series("a", [1, 2], [3, 4])], **TEXTS)
    assert "currentColor" in svg
    assert "#ffffff" not in svg
    assert "#000000" not in svg


def test_the_same_data_gives_the_same_drawing_and_other_data_other_names():
    one, again = (line_chart([Series("a", [1, 2], [3, 4])], **TEXTS) for _ in range(2))
    other = line_chart([Series("a", [1, 2], [3, 5])], **TEXTS)
    assert one == again
    assert not set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', other))


def test_logarithmic_axes_with_ticks():
    ticks = [(8, "eight"), (16, "sixteen")]
    svg = line_chart([Series("a", [8, 16], [1, 100])], **TEXTS, x_ticks=ticks, log_x=True, log_y=True)
    assert "eight" in svg
    assert "sixteen" in svg


def test_long_lines_are_thinned_and_keep_their_end():
    kept = thinned(Series("a", range(1001), range(1001)))
    assert len(kept.x) <= 200
    assert kept.x[-1] == kept.y[-1] == 1000
    short = Series("a", [1, 2], [3, 4])
    assert thinned(short) == short


def test_dark_pages_have_their_own_colours():
    assert all(color in style_sheet() for color in DARK_COLORS)
    assert len(set(DARK_COLORS)) == len(COLORS) == len(set(COLORS))

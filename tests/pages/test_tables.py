"""Tables: the same cells as Markdown, as HTML and for a terminal; text stays text."""

import re

from qkv.pages.frame import page
from qkv.pages.tables import Table

ROWS = [["a|b", "1", "no time"], ["<i>c</i>", "1,000", "2.5"]]
TABLE = Table(["name", "n", "took"], ROWS, "All\n<of> it", numbers=2, total=["all", "1,001", ""])


def test_markdown_is_padded_and_no_text_ends_a_cell():
    caption, empty, *lines = TABLE.to_markdown().splitlines()
    assert (caption, empty) == ("All &lt;of> it", "")
    assert len({len(line) for line in lines}) == 1
    assert [line.count("|") - line.count(r"\|") for line in lines] == [4] * 5
    assert re.fullmatch(r"\| -+ \| -+: \| -+: \|", lines[1])
    assert lines[2] == r"| a\|b           |     1 | no time |"


def test_what_is_too_wide_to_be_read_is_not_padded():
    lines = Table(["a", "b"], [["x" * 200, "y"], ["z", "y"]]).to_markdown().splitlines()
    assert lines[1] == "| --- | --- |"
    assert len(lines[-1]) < 20


def test_a_terminal_sees_columns_and_a_rule_above_the_total():
    lines = TABLE.to_text().splitlines()
    header, rule, first, _, again, total = lines[-6:]
    assert rule == again == "--------  -----  -------"
    assert header.startswith("name")
    assert first == "a|b           1  no time"
    assert total == "all       1,001"


def test_html_has_names_for_rows_and_columns():
    html = TABLE.__html__()
    assert html.count('scope="col"') == 3
    assert html.count('scope="row"') == 3
    assert "<tfoot>" in html
    assert "<bdi>All</bdi><br><bdi>&lt;of&gt; it</bdi>" in html
    assert "<i>" not in html
    assert '<td class="number" dir="auto">1,000</td>' in html
    assert '<td dir="auto">no time</td>' in html, "words among numbers stand on the left"


def test_a_page_escapes_its_title_and_takes_its_body_as_it_is():
    found = page("<t>", "<p>b</p>")
    assert found.count("&lt;t&gt;") == 2
    assert "<p>b</p>" in found
    assert "default-src 'none'" in found

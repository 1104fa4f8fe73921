"""The report: tables that parse, text that stays text, a page that needs nothing beside itself."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from qkv.comparison.results import Row
from qkv.evaluation.by_length import LengthBucket
from qkv.measuring.environment import Environment
from qkv.measuring.speed import DecodingSpeed, LengthTime

EVIL = "<script>alert(1)</script>"


class Reader(HTMLParser):
    """Collects elements and visible text, and notices what is not closed."""

    VOID = ("meta", "br", "link", "img", "path", "use", "rect")

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def two(comparison, measurement):
    other = measurement(architecture="lstm", parameters=99, times=[LengthTime(8, 0.5, 0.5)])
    return comparison(
        Row("architecture=transformer", {"model.architecture": "transformer"}, measurement()),
        Row("architecture=lstm", {"model.architecture": "lstm"}, other),
        Row("architecture=rnn", {"model.architecture": "rnn"}, failure="the loss is not a number"),
    )


@pytest.fixture(scope="module")
def pages():
    """A page is drawn once for all tests that only look at it."""
    return {}


@pytest.fixture
def page(two, pages):
    if not pages:
        pages["two"] = two.to_html()
    return pages["two"]


def markdown_tables(text):
    """Every table as a list of rows of cells."""
    tables = []
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE):
        rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        tables.append([[cell.strip() for cell in row] for row in rows])
    return tables


def test_markdown_tables_parse(two):
    tables = markdown_tables(two.to_markdown())
    assert len(tables) == 5
    for header, alignment, *rows in tables:
        assert all(re.fullmatch(r"--+[-:]", cell) for cell in alignment)
        assert {len(row) for row in rows} == {len(header)} == {len(alignment)}
    overview, quality, training, decoding, outputs = tables
    assert [row[0] for row in overview[2:]] == ["transformer", "lstm", "rnn"]
    by_name = dict(zip(overview[0], overview[2], strict=True))
    assert by_name["parameters"] == "1,234"
    assert by_name["bleu"] == "25.50"
    assert by_name["training tokens/s"] == "321"
    assert by_name["minutes"] == "1.5"
    assert overview[4][1] == "failed: the loss is not a number"
    assert quality[0] == ["variant", "1–10 (25 pairs)", "11–30 (25 pairs)"]
    assert quality[2] == ["transformer", "30.00", "20.00"]
    assert training[2] == ["transformer", "10.0", "20.0"]
    assert training[3] == ["lstm", "500.0", "–"]
    assert decoding[2] == ["transformer", "100.0", "200.0"]
    assert outputs[2][0] == r"a \| b"


def test_text_is_no_markup_in_markdown(comparison, measurement):
    text = comparison(Row("a", {"k": "*a*\n| b | <i>"}, measurement())).to_markdown()
    assert r"| \*a\* \| b \| &lt;i> |" in text
    assert "<script" not in text


def test_the_page_is_well_formed_and_has_every_row(page):
    reader = Reader(page)
    assert reader.open == []
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("table") == tags.count("caption") == 5
    assert tags.count("svg") == 8
    text = "".join(reader.text)
    for expected in ("transformer", "lstm", "failed: the loss is not a number", "nrefs:1|tok:13a", "a machine"):
        assert expected in text


def test_the_page_needs_nothing_beside_itself(page):
    assert not re.search(r"https?://|//\w|@import|<script|<link|<img|<iframe|javascript:", page)
    for _, attributes in Reader(page).elements:
        assert attributes.get("href", "#").startswith("#")
        assert "src" not in attributes
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_names_on_the_page_are_unique_and_found(page):
    names = [attributes["id"] for _, attributes in Reader(page).elements if "id" in attributes]
    assert len(set(names)) == len(names) > 0
    wanted = {name for pair in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page) for name in pair if name}
    assert wanted <= set(names)


def test_charts_have_text_alternatives(page):
    reader = Reader(page)
    names = {attributes["id"] for tag, attributes in reader.elements if tag in ("title", "desc") and attributes}
    for tag, attributes in reader.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert set(attributes["aria-labelledby"].split()) <= names
    assert "lstm: from 2 to 1" in "".join(reader.text)


def test_text_is_no_markup_on_the_page(comparison, measurement):
    made = comparison(
        Row(EVIL, {EVIL: EVIL}, measurement()),
        Row("b", {"k": "b"}, failure=EVIL),
        recipe=EVIL,
        command=EVIL,
        vary={EVIL: [EVIL]},
        config={EVIL: EVIL},
    )
    page = made.to_html()
    assert "<script" not in page
    reader = Reader(page)
    assert "<script>alert('x')</script>" in reader.text, "the output is there, as text"
    assert reader.text.count(EVIL) > 3


def test_any_value_can_be_a_label(comparison, measurement):
    labels = ["$x_1$", "_hidden", "a & b", "%s {0}", "", "日本語"]
    page = comparison(*(Row(str(i), {"k": label}, measurement()) for i, label in enumerate(labels))).to_html()
    reader = Reader(page)
    assert reader.open == []
    assert [label for label in labels if label not in reader.text] == [""]


def test_a_report_of_failures_alone(comparison):
    made = comparison(Row("a", {"k": "a"}, failure="no"))
    assert "failed: no" in made.to_markdown()
    assert "svg" not in [tag for tag, _ in Reader(made.to_html()).elements]


def test_a_report_without_curves_and_speeds(comparison, measurement):
    bare = measurement(training=[], validation=[], times=[], tokens_per_second=None, validation_metric="loss")
    made = comparison(Row("a", {"k": "a"}, bare))
    assert re.search(r"\| +– \|", made.to_markdown())
    assert Reader(made.to_html()).open == []


def test_variants_with_other_buckets_and_examples_stand_side_by_side(comparison, measurement):
    other = measurement(by_length=[LengthBucket(1, 30, 50, 1.0)], examples=[])
    text = comparison(Row("a", {"k": "a"}, measurement()), Row("b", {"k": "b"}, other)).to_markdown()
    quality = markdown_tables(text)[1]
    assert quality[0] == ["variant", "1–10 (25 pairs)", "1–30 (50 pairs)", "11–30 (25 pairs)"]
    assert quality[3] == ["b", "–", "1.00", "–"]


def test_different_conditions_are_told(comparison, measurement):
    elsewhere = measurement(environment=Environment("0.1", "2.13", "3.11", "another", "cpu", 64, 64))
    alike = comparison(Row("a", {"k": "a"}, measurement()), Row("b", {"k": "b"}, measurement()))
    unlike = comparison(Row("a", {"k": "a"}, measurement()), Row("b", {"k": "b"}, elsewhere))
    assert "cannot be compared" not in alike.to_markdown()
    assert "cannot be compared" in unlike.to_markdown()
    assert "another" in unlike.to_html()


def test_json_holds_everything(two):
    assert json.loads(two.to_json()) == json.loads(json.dumps(dataclasses.asdict(two)))


def test_json_is_strict(comparison, measurement, tmp_path):
    odd = measurement(times=[LengthTime(8, float("nan"), float("inf"))])
    odd.save(tmp_path / "measurement.json")
    made = comparison(Row("a", {"k": "a"}, odd)).to_json()
    for text in (made, (tmp_path / "measurement.json").read_text("utf-8")):
        assert "NaN" not in text
        assert "Infinity" not in text
    assert json.loads(made)["rows"][0]["measurement"]["times"][0]["training_seconds"] is None


def test_engines_are_told(comparison, measurement):
    other = measurement(decoding=DecodingSpeed("ctranslate2 int8", 50, 5, 2.0, 25.0, 250.0))
    alike = comparison(Row("a", {"k": "a"}, measurement()), Row("b", {"k": "b"}, measurement())).to_markdown()
    unlike = comparison(Row("a", {"k": "a"}, measurement()), Row("b", {"k": "b"}, other)).to_markdown()
    assert "in batches, by torch float32, with" in alike
    assert "in batches, by torch float32 (a), ctranslate2 int8 (b), with" in unlike

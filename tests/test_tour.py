"""The tour keeps its word: its code prints what the pages say, and draws the pictures that they show."""

import base64
import importlib.util
import io
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.image import imread, imsave

pytestmark = pytest.mark.usefixtures("without_shape_checks")

TOUR = Path(__file__).parents[1] / "docs" / "tour"
PAGES = sorted(path.name for path in TOUR.glob("[0-9]*.md"))
LEARNT = {"reversal.svg"}  # shows trained weights: those of another processor are others
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
PNG = "data:image/png;base64,"


def load_script():
    spec = importlib.util.spec_from_file_location("tour_draw", TOUR / "draw.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


draw = load_script()


def shown(page):
    """Names of the pictures on a page."""
    return re.findall(r"!\[[^\]]*\]\((?:\.\./)?pictures/([^)]+)\)", page.read_text("utf-8"))


def without_comments(page):
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [re.sub(r"\s+#.*", "", code) for code in blocks]


@pytest.mark.parametrize("name", PAGES)
def test_page_prints_and_draws_what_it_says(name, tmp_path):
    examples = draw.run(TOUR / name, tmp_path)
    assert [example.printed for example in examples] == [example.shown for example in examples]
    assert any(example.shown for example in examples)
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    assert drawn == set(shown(TOUR / name))
    for picture in drawn:
        assert_alike(tmp_path / picture, TOUR / "pictures" / picture, learnt=picture in LEARNT)


def assert_alike(one, other, *, learnt):
    """The same elements in the same order; numbers and pixels up to what float32 loses on another processor.

    Not the same bytes: a last digit may turn a rounding, a pixel's shade, and with it the compressed image; names of
    clips are hashes of what they clip. What is learnt differs by more, so its weights are left out.
    """
    drawn, committed = (ElementTree.parse(path).getroot() for path in (one, other))
    for root in (drawn, committed):
        for element in root.findall(".//{*}metadata"):  # names the version of matplotlib
            element.clear()
    elements = list(zip(drawn.iter(), committed.iter(), strict=True))
    for new, old in elements:
        assert new.tag == old.tag
        assert set(new.attrib) == set(old.attrib)
        if learnt:
            continue
        assert_numbers_alike(new.text or "", old.text or "", tolerance=0.0101)
        for key, value in new.attrib.items():
            if value.startswith(PNG):
                assert np.abs(pixels(value) - pixels(old.attrib[key])).max() < 0.03
            elif key == "id" or "url(" in value or value.startswith("#"):
                continue
            else:
                assert_numbers_alike(value, old.attrib[key], tolerance=0.5)
    assert len(elements) > 30


def pixels(image):
    return imread(io.BytesIO(base64.b64decode(image.removeprefix(PNG))), format="png")


def assert_numbers_alike(new, old, *, tolerance):
    assert NUMBER.sub("", new) == NUMBER.sub("", old)
    for one, other in zip(NUMBER.findall(new), NUMBER.findall(old), strict=True):
        assert abs(float(one) - float(other)) <= tolerance


def test_a_changed_picture_is_noticed(tmp_path):
    """Guards the comparison above: one label, one shade, one cross less."""
    committed = TOUR / "pictures" / "causal-mask.svg"
    assert_alike(committed, committed, learnt=False)
    text = committed.read_text("utf-8")
    start = text.index(PNG) + len(PNG)
    white = io.BytesIO()
    image = pixels(text[start - len(PNG) : text.index('"', start)])
    imsave(white, np.ones_like(image), format="png")
    cross = re.search(r"<use [^>]*/>\n", text[text.index("PathCollection") :])
    changes = {
        "label": text.replace(">dogs<", ">cats<"),
        "shade": text[:start] + base64.b64encode(white.getvalue()).decode() + text[text.index('"', start) :],
        "cross": text.replace(cross[0], "", 1),
    }
    for name, changed in changes.items():
        assert changed != text
        (tmp_path / f"{name}.svg").write_text(changed, "utf-8")
        with pytest.raises((AssertionError, ValueError)):
            assert_alike(tmp_path / f"{name}.svg", committed, learnt=False)


def test_every_picture_is_shown():
    pictures = {path.name for path in (TOUR / "pictures").iterdir()}
    assert pictures == {name for page in PAGES for name in shown(TOUR / page)}
    assert pictures >= LEARNT


@pytest.mark.parametrize("name", ["README.md", *PAGES])
def test_both_languages_show_the_same(name):
    """The same code but for its comments, the same output, commands, pictures and sources."""
    english, chinese = ((TOUR / part / name).read_text("utf-8") for part in ("", "zh"))
    assert without_comments(english) == without_comments(chinese)
    for pattern in (r"^```(?:text|sh)\n.*?^```", r"pictures/[^)]+", r"https?://[^)]+", r"\w+\.py"):
        found = [re.findall(pattern, page, re.DOTALL | re.MULTILINE) for page in (english, chinese)]
        assert sorted(found[0]) == sorted(found[1])


@pytest.mark.parametrize("folder", ["", "zh"])
def test_pages_lead_on_and_back(folder):
    contents = (TOUR / folder / "README.md").read_text("utf-8")
    assert len(PAGES) == 8
    for number, name in enumerate(PAGES):
        page = (TOUR / folder / name).read_text("utf-8")
        assert f"({name})" in contents
        neighbours = [PAGES[place] for place in (number - 1, number + 1) if 0 <= place < len(PAGES)]
        other = f"../{name}" if folder else f"zh/{name}"
        for link in (*neighbours, "README.md", other):
            assert f"]({link})" in page.splitlines()[-2] + page.splitlines()[-1]

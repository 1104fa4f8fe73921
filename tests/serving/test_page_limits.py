"""The inspector's page at its limits: markup, refusals, long input, two runs, and models that lack attention."""

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi")

pytestmark = pytest.mark.usefixtures("without_shape_checks")

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WORD = "decaf"


def test_markup_is_text(open_page, served, make_untrained, tmp_path):
    from qkv.serving.examination import Subject
    from qkv.text.corpus import Pair
    from qkv.text.tokenizer import Tokenizers
    from qkv.text.tokenizer_settings import TokenizerSettings

    markup = "<img/src=x/onerror=alert(1)>"  # one word, hence one token
    tokenizers = Tokenizers.learn([Pair(markup, f"{markup} ab")], tmp_path, TokenizerSettings(kind="word"))
    with served(Subject(markup, make_untrained("transformer", tokenizers))) as address:
        page = open_page(address)
        page.translate(f"{markup} ab")
        page.get_by_label("Begin with").fill(markup)
        page.button("Force").click()
        page.settle()
        for name in ("Attention", "Search", "Words", "Shapes"):
            page.tab(name)
        assert page.locator("h2").inner_text() == markup
        assert page.shown().startswith(markup)
        assert page.locator(".prefix-chips .chip").all_text_contents() == [f"·{markup} ×"]
        assert page.locator(".looked button").first.text_content() == f"·{markup}"
        assert page.locator("img").count() == 0


def test_what_the_server_refuses_is_said_in_place(page):
    page.get_by_label("Begin with").fill("ab" * 200)
    page.button("Force").click()
    page.settle()
    assert re.match(r"the prefix has \d+ tokens; at most 256", page.locator(".run [role=alert]").inner_text())
    page.complaints.clear()  # the browser itself notes that the answer was a 400
    page.get_by_label("Begin with").fill("")
    page.button("Force").click()
    page.settle()
    assert page.locator(".run [role=alert]").is_hidden()
    page.translate("  ")
    assert page.locator("header [role=alert]").inner_text().startswith("The source is blank")


def test_a_hundred_tokens_stay_fluid(page):
    page.translate("abcdef" * 17)
    page.button("Encoder").click()
    count = page.locator(".looking button").count()
    assert count >= 100
    milliseconds = page.evaluate(
        """() => {
          const times = [...document.querySelectorAll(".looking button")].map((button) => {
            const start = performance.now();
            button.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
            void button.offsetHeight; // layout is part of it
            return performance.now() - start;
          });
          times.sort((one, other) => one - other);
          return [times[times.length >> 1], times.at(-1)];
        }"""
    )
    nodes = page.evaluate("document.querySelector('.attention').querySelectorAll('*').length")
    print(
        f"{count} tokens: hover takes {milliseconds[0]:.1f} ms (median), {milliseconds[1]:.1f} at most; {nodes} nodes"
    )
    assert nodes < 10 * count, "lines and cells are drawn, not built of elements"
    page.tab("Search")
    assert page.locator("svg *").count() < 4 * page.locator("g.node").count() + 1000


def test_two_runs_answer_the_same_question(open_page, served, translator, make_untrained):
    from qkv.serving.examination import Subject

    other = make_untrained("gru-attention")
    with served(Subject("reverse", translator), Subject("other", other)) as address:
        page = open_page(address)
        page.translate(WORD)
        assert page.locator("h2").all_inner_texts() == ["reverse", "other"]
        assert page.locator(".translation").all_inner_texts() == [
            model.translate(WORD, beam=5) or "(empty)" for model in (translator, other)
        ]
        left, right = (page.locator(".run").nth(i).bounding_box() for i in (0, 1))
        assert left["y"] == right["y"]
        assert left["x"] + left["width"] <= right["x"]
        second = page.locator(".run").nth(1)
        assert second.locator("[data-kind]").all_inner_texts() == ["Cross"]
        second.locator(".looking button").first.hover()
        assert second.locator(".weights tr").count() == 1
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / "two-1280-light.png")
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_model_without_attention_says_so(open_page, served, make_untrained):
    from qkv.serving.examination import Subject

    translator = make_untrained("gru")
    with served(Subject("gru", translator)) as address:
        page = open_page(address)
        page.translate(WORD)
        assert page.shown() == (translator.translate(WORD) or "(empty)")
        assert page.locator(".attention .empty").inner_text().startswith("This model has no attention")
        page.tab("Words")
        page.button("Occlusion").click()
        page.settle()
        assert page.locator(".words .empty").inner_text() == "This model has none to compare with."

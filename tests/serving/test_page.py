"""The inspector's page in a browser: what it shows is what the library computes, and all of it can be operated."""

import re

import pytest

pytest.importorskip("fastapi")

import qkv
from qkv.inspection.attribution import attribute

pytestmark = pytest.mark.usefixtures("without_shape_checks")

WORD = "decaf"


def weights_shown(page):
    """What the list beside the head view says: {head: {column: weight}}, heads and columns from 0."""
    cells = page.eval_on_selector_all(
        ".weights tr",
        "rows => rows.map(row => [+row.dataset.head, [...row.querySelectorAll('td')].map("
        "cell => [+cell.dataset.index, +cell.querySelector('b').textContent])])",
    )
    return {head: dict(found) for head, found in cells}


def assert_weights(page, expected):
    """expected: (head, column). The list holds the largest, rounded to two places."""
    found = weights_shown(page)
    assert list(found) == list(range(len(expected)))
    for head, weights in found.items():
        assert weights == {column: pytest.approx(expected[head][column], abs=0.0051) for column in weights}
        assert max(weights.values()) == pytest.approx(expected[head].max(), abs=0.0051)


def test_the_translation_and_the_n_best_are_those_of_the_library(page, translator):
    [expected] = translator.n_best([WORD], 5)
    assert page.shown() == translator.translate(WORD) == expected[0].text
    assert page.locator(".n-best .text").all_inner_texts() == [found.text for found in expected]
    numbers = page.locator(".n-best .numbers").all_inner_texts()
    for found, shown in zip(expected, numbers, strict=True):
        score, log_probability = re.findall(r"−?\d+\.\d{3}", shown)
        assert float(score.replace("−", "-")) == pytest.approx(found.score, abs=6e-4)
        assert float(log_probability.replace("−", "-")) == pytest.approx(found.log_probability, abs=6e-4)


def test_where_another_engine_translates_the_page_names_both(run, served, open_page):
    from qkv.serving.examination import Subject

    whole, small = (qkv.load(run, engine="torch", precision=precision) for precision in ("float32", "int8"))
    with served(Subject("float32", whole), Subject("int8", small)) as address:
        page = open_page(address)
        page.translate(WORD)
        assert page.locator(".translation").all_inner_texts() == [whole.translate(WORD), small.translate(WORD)]
        notes = page.locator(".engines")
        assert [notes.nth(number).is_visible() for number in (0, 1)] == [False, True]
        said = notes.nth(1).inner_text()
        assert said == "Translated by torch int8; tree, probabilities and maps are those of torch float32."


def test_one_of_the_n_best_is_shown_everywhere(page):
    page.locator(".n-best button").nth(2).click()
    page.settle()
    expected = page.api(show=2)
    assert page.shown() == expected["n_best"][2]["text"]
    assert page.locator(".looking button").count() == len(expected["target"])
    assert page.locator("g.node.path").count() == len(expected["tree"]["path"])
    assert page.locator(".n-best [aria-pressed=true]").count() == 1


def test_a_token_shows_the_weights_that_the_library_has(page, translator):
    attention = qkv.attention_maps(translator, WORD).attention
    page.locator(".looking button").nth(1).hover()
    assert_weights(page, attention["cross"][-1, :, 1])
    page.locator(".looked button").nth(2).focus()
    page.mouse.move(0, 0)
    assert_weights(page, attention["cross"][-1, :, :, 2])


def test_kind_layer_and_heads_are_chosen(page, translator):
    attention = qkv.attention_maps(translator, WORD).attention
    for kind in ("Encoder", "Decoder", "Cross"):
        page.button(kind).click()
        page.locator(".looking button").nth(2).hover()
        assert_weights(page, attention[kind.lower()][0, :, 2])
    page.get_by_label("Layer", exact=True).select_option("2")
    page.locator(".looking button").nth(2).hover()
    assert_weights(page, attention["cross"][1, :, 2])
    page.button("head 1").click()
    page.locator(".looking button").nth(2).hover()
    assert list(weights_shown(page)) == [1, 2, 3]
    page.button("only 1").click()
    page.locator(".looking button").nth(2).hover()
    assert list(weights_shown(page)) == [0]


def test_the_matrix_of_a_head_is_read_with_the_arrow_keys(page, translator):
    weights = qkv.attention_maps(translator, WORD).attention["cross"][0, 3]
    page.button("Show layer 1, head 4").click()
    assert page.locator(".matrix-title").inner_text() == "Cross, layer 1, head 4"
    assert "view0=cross.1.4" in page.url
    page.locator(".attention .matrix").focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):  # the first one enters at the corner
        page.keyboard.press(key)
    shown = page.locator(".attention .matrix-area .readout b").inner_text()
    assert float(shown) == pytest.approx(weights[1, 1], abs=1e-4)


def test_an_edited_beginning_is_what_the_output_begins_with(page):
    page.get_by_label("Begin with").fill("ba")
    page.button("Force").click()
    page.settle()
    expected = page.api(prefix="ba")
    assert page.shown() == expected["n_best"][0]["text"]
    assert page.shown().startswith("ba")
    chips = page.locator(".prefix-chips .chip")
    assert chips.count() == len(expected["prefix"])
    chips.last.click()
    page.settle()
    ids = [one["token"] for one in expected["prefix"][:-1]]
    assert page.shown() == page.api(prefix=ids)["n_best"][0]["text"]
    assert chips.count() == len(ids)
    page.locator(".prefix-chips").get_by_text("none", exact=True).click()
    page.settle()
    assert (page.shown(), chips.count()) == (page.api()["n_best"][0]["text"], 0)


def test_a_candidate_forces_itself(page):
    before = page.api()
    page.tab("Search")
    page.button("Next token").click()
    chosen = next(one for one in before["candidates"][1][1:] if not one["special"] and one["piece"] in "abcdef")
    page.locator(f".candidates [data-token='{chosen['token']}']").click()
    page.settle()
    ids = [before["target"][0]["token"], chosen["token"]]
    expected = page.api(prefix=ids)
    assert [one["token"] for one in expected["target"][:2]] == ids
    assert page.shown() == expected["n_best"][0]["text"] != before["n_best"][0]["text"]
    assert page.locator(".candidates button:disabled").count() > 0, "special tokens cannot be forced"


def test_the_tree_is_the_record_of_the_search(page):
    tree = page.api()["tree"]
    page.tab("Search")
    nodes = page.locator("g.node[data-index]")
    assert nodes.count() == len(tree["candidates"])
    for fate in ("kept", "finished", "outranked", "abandoned"):
        of_this_fate = [one for one in tree["candidates"] if one["fate"] == fate]
        assert page.locator(f"g.node.{fate}[data-index]").count() == len(of_this_fate)
    path = page.eval_on_selector_all("g.node.path", "nodes => nodes.map(node => +node.dataset.index)")
    assert path == tree["path"]
    assert page.locator("svg:not(.key) > .edge.path, svg:not(.key) g > .edge.path").count() == len(path)
    nodes.nth(path[1]).focus()
    assert page.locator(".search .readout").first.inner_text().count("On the winner's path") == 1
    page.keyboard.press("ArrowRight")
    assert page.evaluate("+document.activeElement.dataset.index") == path[2]
    page.button("Force this beginning").click()
    page.settle()
    assert page.locator(".prefix-chips .chip").count() == 3


def test_a_node_that_was_chosen_can_be_forced_with_the_pointer(page):
    page.tab("Search")
    chosen = next(
        index
        for index, one in enumerate(page.api()["tree"]["candidates"])
        if one["step"] == 0 and one["rank"] == 1 and not one["special"]
    )
    page.locator(f"g.node[data-index='{chosen}']").click()
    told = page.locator(".search .readout").first.inner_text()
    page.locator("g.node[data-index='4']").hover()
    assert page.locator(".search .readout").first.inner_text() != told
    page.button("Force this beginning").hover()
    assert page.locator(".search .readout").first.inner_text() == told
    page.button("Force this beginning").click()
    page.settle()
    token = page.api()["tree"]["candidates"][chosen]["token"]
    assert page.shown() == page.api(prefix=[token])["n_best"][0]["text"]


def test_the_focus_stays_close_when_the_answer_comes(page):
    switch = page.button("H2 off, layer 1")
    switch.focus()
    page.keyboard.press("Enter")
    page.settle()
    assert switch.evaluate("button => button === document.activeElement")
    page.button("All on").focus()
    page.keyboard.press("Enter")
    page.settle()
    assert page.evaluate("document.activeElement.matches('.n-best [aria-pressed=true]')")
    page.locator(".n-best button").nth(1).focus()
    page.keyboard.press("Enter")
    page.settle()
    assert page.locator(".n-best button").nth(1).evaluate("button => button === document.activeElement")


def test_heads_that_are_off_are_set_beside_the_intact_model(page, translator):
    intact = page.shown()
    off = [{"kind": "cross", "layer": 2, "head": head} for head in range(1, 5)]
    for head in range(4):
        page.button(f"H{head + 1} off, layer 2").click()
        page.settle()
    expected = page.api(off=off)
    assert page.shown() == expected["n_best"][0]["text"]
    without = page.locator(".ablation .without .pieces").inner_text().strip()
    assert without == expected["n_best"][0]["text"]
    assert page.locator(".ablation .with .pieces").inner_text().strip() == intact == expected["intact"]["text"]
    assert (page.locator(".ablation mark").count() > 0) == (without != intact)
    page.button("All on").click()
    page.settle()
    assert page.shown() == intact
    assert page.locator(".ablation").is_hidden()


def test_attribution_and_shapes_come_when_asked(page, translator):
    page.tab("Words")
    page.button("Occlusion").click()
    page.settle()
    scores = attribute(translator, WORD, method="occlusion").scores
    matrix = page.locator(".words .matrix").first
    matrix.focus()
    page.keyboard.press("ArrowDown")
    shown = page.locator(".words .readout b").first.inner_text()
    assert float(shown.replace("−", "-")) == pytest.approx(scores[0, 0], abs=6e-4)
    page.tab("Shapes")
    page.button("Analyse this pass").click()
    page.settle()
    expected = page.api("shapes")
    assert page.locator(".shapes tbody tr").count() == len(expected["steps"])
    assert f"{expected['multiply_adds']:,}" in page.locator(".shapes tfoot").inner_text()


def test_a_link_shows_the_same(page, open_page):
    page.button("Decoder").click()
    page.get_by_label("Begin with").fill("ca")
    page.button("Force").click()
    page.settle()
    other = open_page(page.url)
    other.address = page.address
    other.settle()
    assert other.input_value("#source") == WORD
    assert other.shown() == page.shown()
    assert other.button("Decoder").get_attribute("aria-pressed") == "true"


def test_the_keyboard_is_enough(open_page, address):
    page = open_page(address)
    assert page.evaluate("document.activeElement.id") == "source"
    page.keyboard.type(WORD)
    page.keyboard.press("Enter")
    page.settle()

    def tab_to(selector):
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                assert page.evaluate(
                    "['outlineStyle', 'stroke'].some(name => "
                    "!['none', ''].includes(getComputedStyle(document.activeElement)[name]))"
                ) or page.evaluate("document.activeElement.matches('g')")
                return
        pytest.fail(f"Tab does not reach {selector}")

    tab_to(".n-best button")
    tab_to("[role=tab]")
    tab_to("[data-kind=cross]")
    tab_to(".looking button")
    page.keyboard.press("ArrowDown")
    assert page.locator(".weights").inner_text().split(",")[1].startswith(" 2 of ")
    tab_to(".grid .pick")
    tab_to(".grid .switch")
    tab_to(".matrix")
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("[role=tab][aria-selected=true]").inner_text() == "Search"
    tab_to("g.node")
    tab_to("[aria-label='Next token']")
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    assert page.locator(".steps-title").inner_text().startswith("Token 3 of ")
    tab_to(".candidates button:not(.chosen)")
    page.keyboard.press("Enter")
    page.settle()
    assert page.locator(".prefix-chips .chip").count() == 3

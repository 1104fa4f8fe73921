"""Every area of the inspector's page, at two widths, light and dark: axe-core finds no serious fault, and all fits.

Pictures of them are left in build/screenshots.
"""

from pathlib import Path

import pytest

pytest.importorskip("fastapi")

pytestmark = pytest.mark.usefixtures("without_shape_checks")

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
AREAS = {
    "Attention": None,
    "Search": None,
    "Words": "Occlusion",
    "Shapes": "Analyse this pass",
}


def faults(page):
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{fault['id']}: {fault['help']}: {[node['html'][:160] for node in fault['nodes'][:3]]}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


@pytest.fixture
def audited(browser, address, axe):
    """A page with axe-core in it, for which alone the page's own content policy is set aside."""
    opened = []

    def open_page(width, scheme):
        context = browser.new_context(
            bypass_csp=True,
            viewport={"width": width, "height": 844},
            color_scheme=scheme,
            reduced_motion="reduce",  # a colour in transition is none that could be judged
        )
        context.set_default_timeout(120_000)  # a busy machine is no fault
        opened.append(context)
        context.add_init_script(path=axe)
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector(".run")
        page.fill("#source", "decaf")
        page.press("#source", "Enter")
        page.wait_for_selector(".content:not([hidden])")
        return page

    yield open_page
    for context in opened:
        context.close()


def settle(page):
    page.wait_for_selector(".run[aria-busy=true], .asking", state="detached")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_keeps_anyone_out(audited, width, scheme):
    page = audited(width, scheme)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.get_by_role("button", name="H1 off, layer 2", exact=True).click()
    page.get_by_label("Begin with").fill("fa")
    page.get_by_role("button", name="Force", exact=True).click()
    settle(page)
    for area, button in AREAS.items():
        page.get_by_role("tab", name=area, exact=True).click()
        if button is not None:
            page.get_by_role("button", name=button, exact=True).click()
            settle(page)
        if area == "Attention":
            page.locator(".looking button").nth(1).focus()
        if area == "Search":
            page.locator("g.node").nth(3).focus()
        page.screenshot(path=SCREENSHOTS / f"{area.lower()}-{width}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert faults(page) == [], f"{area}, {width} px, {scheme}"


def test_a_fault_would_be_found(audited):
    page = audited(1280, "light")
    page.evaluate("document.querySelector('#source').labels[0].remove()")
    assert any(fault.startswith("label: ") for fault in faults(page))

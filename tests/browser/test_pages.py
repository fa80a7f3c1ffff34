"""Every page, of a real run and of one whose texts attack: light, dark, on a phone, printed, and as it is heard."""

from __future__ import annotations

import base64
import re
from itertools import pairwise
from typing import Any

import pytest
from conftest import forgive, screenshot
from selenium.webdriver import Chrome
from serving import Server, until, visit

PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
PAGES = {
    "runs": "/",
    "grid": "/grid",
    "member": "/grid/1",
    "features": "/features",
    "filtered": "/features?sort=max&desc=1&density_min=0.01&dead=no",
    "feature": "/features/{feature}",
    "dead": "/features/{dead}",
    "token": "/token?q=e",
    "search": "/search?text=Once+upon+a+time",
    "compare": "/compare",
    "mcs": "/mcs",
    "splitting": "/splitting{later}",
    "atlas": "/atlas",
    "circuits": "/circuits{later}",
    "review": "/review",
    "session": "/review/{session}",
    "missing": "/features/999999",
}
NAMED = {
    "button", "link", "textbox", "searchbox", "combobox", "listbox", "spinbutton", "slider", "checkbox", "radio",
    "image", "img", "dialog", "region", "navigation", "progressbar",
}  # fmt: skip
LUMINANCE = """
const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).map(Number);
return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
"""


@pytest.fixture(scope="session", params=["lab", "hostile"])
def served(request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(request.param)
    return server


def address(server: Server, page: str) -> str:
    """Where a page is in this run."""
    features = server.features
    if page == "session" and not server.json("/review.json")["sessions"]:
        index = server.json("/features.json")["index"]
        settings = {"name": "<b>first</b> look", "index": index, "rule": "random", "count": 5, "seed": 0, "blind": "no"}
        server.json("/api/reviews/sessions", settings)
    later = "?grid=later" if server.run.parent.name.startswith("lab") else ""
    return server.address + PAGES[page].format(feature=features[0], dead=features[-1], session=1, later=later)


@pytest.mark.parametrize("page", PAGES)
def test_a_page(browser: Chrome, served: Server, page: str) -> None:
    """All that is asked of every page; one load shows it light, dark and printed, another on a phone."""
    name = f"{served.run.parent.name.rstrip('0')}-{page}"
    there = address(served, page)
    visit(browser, there)
    screenshot(browser, f"{name}-light")
    assert float(browser.execute_script(LUMINANCE)) > 0.9
    headings_are_in_order(browser)
    everything_has_a_name(browser)
    nothing_became_markup(browser)

    media(browser, prefers_color_scheme="dark")
    until(browser, f"{LUMINANCE.replace('return', 'return 0.1 >')}")
    screenshot(browser, f"{name}-dark")

    media(browser, "print", prefers_color_scheme="dark")
    controls = "header, footer, .filters, #lab-text, .lab-actions"
    shown = f"return [...document.querySelectorAll('{controls}')].some((it) => it.checkVisibility())"
    assert not browser.execute_script(shown)
    assert float(browser.execute_script(LUMINANCE)) > 0.99  # paper is white, also of a dark page
    screenshot(browser, f"{name}-print")
    assert base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]).startswith(b"%PDF")

    media(browser)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    visit(browser, there)
    screenshot(browser, f"{name}-phone")
    assert browser.execute_script("return innerWidth") == PHONE["width"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"], overhanging(browser)
    if page == "missing":
        forgive(browser, "404")


def media(browser: Chrome, kind: str = "", **features: str) -> None:
    """Let the browser say that it is a printer, or prefers dark pages."""
    said = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": kind, "features": said})


def headings_are_in_order(browser: Chrome) -> None:
    """One h1, first; no level is left out."""
    script = (
        "return [...document.querySelectorAll('main :is(h1,h2,h3,h4,h5,h6)')].map((each) => Number(each.tagName[1]))"
    )
    levels: list[int] = browser.execute_script(script)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels


def everything_has_a_name(browser: Chrome) -> None:
    """In the tree that a screen reader is given, every control, link, image and landmark is called something."""
    nodes: list[dict[str, Any]] = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = [node for node in nodes if not node["ignored"] and node["role"]["value"] in NAMED]
    assert len(found) > 5
    nameless = [node["role"]["value"] for node in found if not re.search(r"\w", node["name"]["value"])]
    assert not nameless


def nothing_became_markup(browser: Chrome) -> None:
    """The run's texts are texts: no element of theirs is on the page, none of their scripts has run."""
    assert "owned" not in browser.title
    alien = "return [...document.querySelectorAll('img, iframe, object, main script:not([type=\"application/json\"])')]"
    assert not browser.execute_script(alien + ".map((each) => each.outerHTML)")
    assert not re.search(
        r"\b49\b", browser.execute_script("return document.querySelector('h1').textContent")
    )  # {{7*7}}


def overhanging(browser: Chrome) -> list[str]:
    """What reaches beyond the right edge and does not scroll by itself."""
    script = """
    const scrolls = (node) => node && (getComputedStyle(node).overflowX !== "visible" || scrolls(node.parentElement));
    return [...document.querySelectorAll("body *")]
      .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !scrolls(each))
      .slice(0, 9).map((each) => each.outerHTML.slice(0, 120));
    """
    found: list[str] = browser.execute_script(script)
    return found

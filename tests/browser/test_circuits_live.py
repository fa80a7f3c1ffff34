"""Circuits: parents and children found live, by a link, by keyboard; a job is cancelled, another outlives a reload."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from conftest import screenshot
from laboratory import occupied, press, result, said
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit

BUSY = 360_000  # tokens: another number than other tests ask for


@pytest.fixture(scope="module")
def feature(lab: Server) -> int:
    """The feature of the later site that fires most."""
    rows = lab.json("/features.json?index=features-later&sort=density&desc=1")["rows"]
    return int(rows[0]["id"])


def place(server: Server, feature: int, grid: str = "later", **asked: Any) -> str:
    """The circuit's page of a feature, with a request in its address."""
    page = urlencode({"grid": grid, "member": 0, "feature": feature})
    return f"{server.address}/circuits?{page}" + (f"#{urlencode(asked)}" if asked else "")


def fields(browser: Chrome, **values: int) -> None:
    """Write into the form."""
    for name, value in values.items():
        field = browser.find_element(By.ID, f"circuit-{name}")
        field.clear()
        field.send_keys(str(value))


def nodes(browser: Chrome) -> list[str]:
    """The names of the drawing's nodes."""
    found: list[str] = until(
        browser, "return [...document.querySelectorAll('.circuit text')].map((e) => e.textContent)"
    )
    return found


def test_parents(browser: Chrome, lab: Server, feature: int) -> None:
    """Pressed, they are drawn and tabled as the server found them; the address repeats it; a node leads on."""
    visit(browser, place(lab, feature))
    fields(browser, top=5, rows=4)
    press(browser, "Find parents")
    found = result(browser)
    screenshot(browser, "circuit-parents")
    edges = lab.json(found["csv"].removeprefix(lab.address).removesuffix("/table.csv"))["done"]["edges"]
    assert_drawn(browser, edges)
    assert [row.split()[0] for row in texts(browser, "#circuit-parents-result tbody th")] == [
        str(edge["feature"]) for edge in edges
    ]
    assert sorted(name.split()[0] for name in nodes(browser)) == sorted(
        [str(feature), *(str(edge["feature"]) for edge in edges)]
    )
    assert not browser.execute_script("return document.getElementById('circuit-legend').hidden")
    assert f"parents(lab, {feature}, " in found["python"]
    assert browser.current_url == found["link"]

    browser.switch_to.new_window("tab")
    visit(browser, found["link"])
    again = result(browser)
    assert (again["rows"], again["link"]) == (found["rows"], found["link"])
    assert browser.find_element(By.ID, "circuit-rows").get_property("value") == "4"
    browser.find_element(By.CSS_SELECTOR, ".circuit a:not(.middle)").click()
    until(browser, "return location.search.includes('grid=dictionaries') && document.querySelector('#circuit-form')")
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith(f"Circuit of feature {edges[0]['feature']}")


DRAWN = """
return [...document.querySelectorAll(".circuit g")].map((edge) => [
  edge.classList.contains("unclear"), Number(edge.querySelector(".measured").getAttribute("stroke-width"))]);
"""


def assert_drawn(browser: Chrome, edges: list[dict[str, Any]]) -> None:
    """Lines are as wide as what was measured in total, and faint where the interval does not say which way it goes."""
    most = max(abs(edge[part] or 0) * edge["firings"] for edge in edges for part in ("attribution", "ablation"))
    told = [row.split()[-1] for row in texts(browser, "#circuit-parents-result tbody td:nth-of-type(2)")]
    for edge, (unclear, width), how in zip(edges, browser.execute_script(DRAWN), told, strict=True):
        assert width == pytest.approx(max(0.5, 7 * abs(edge["ablation"]) * edge["firings"] / most), abs=0.01)
        holds_0 = edge["low"] is None or edge["low"] <= 0 <= edge["high"]
        assert unclear == (holds_0 and not edge["silent"])
        assert (how == "unclear") == unclear
    assert len({edge["firings"] for edge in edges}) > 1


def texts(browser: Chrome, selector: str) -> list[str]:
    """The texts of what a selector finds."""
    return [each.text for each in browser.find_elements(By.CSS_SELECTOR, selector)]


def test_children(browser: Chrome, lab: Server) -> None:
    """Of an early feature, by keyboard alone: the fields, the button, then the rows of the table."""
    visit(browser, place(lab, lab.features[0], "dictionaries"))
    browser.execute_script("document.getElementById('circuit-children').focus()")
    ActionChains(browser).send_keys(Keys.TAB, Keys.TAB, "3", Keys.TAB).perform()
    assert browser.switch_to.active_element.get_attribute("id") == "circuit-rows"
    fields(browser, top=3, rows=4)
    browser.find_element(By.CSS_SELECTOR, "button[data-side=children]").send_keys(Keys.ENTER)
    assert result(browser)["title"] == "Children in member 0 of later"
    screenshot(browser, "circuit-children")
    browser.execute_script("document.activeElement.blur()")
    ActionChains(browser).send_keys("j").perform()
    row = "return document.activeElement.closest('#circuit-children-result tr') && document.activeElement.textContent"
    first = until(browser, row)
    assert first == texts(browser, "#circuit-children-result tbody th")[0]
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    until(browser, "return location.pathname === `/features/${arguments[0]}`", first)


def test_cancelled_in_the_middle(browser: Chrome, lab: Server, feature: int) -> None:
    """It stops, says so, draws nothing, and the next one is answered."""
    visit(browser, place(lab, feature))
    fields(browser, top=100, rows=500)
    press(browser, "Find parents")
    until(browser, "return document.querySelector('.lab-result progress')?.value > 0")
    press(browser, "Cancel")
    said(browser, "cancelled")
    assert not browser.find_elements(By.CSS_SELECTOR, ".circuit, .lab-result table")
    fields(browser, top=2, rows=2)
    press(browser, "Find parents")
    result(browser)


def test_a_reload_while_it_waits(browser: Chrome, lab: Server, feature: int) -> None:
    """The page asks for the same again, waits again, and shows it when its turn has come; cancelled, it ends."""
    with occupied(lab, BUSY):
        visit(browser, place(lab, feature, parents="dictionaries/0", top=3, rows=3))
        said(browser, "waiting")
        browser.refresh()
        said(browser, "waiting")
    result(browser)
    assert nodes(browser)
    with occupied(lab, BUSY + 1):
        visit(browser, place(lab, feature, parents="dictionaries/1", top=3, rows=3))
        said(browser, "waiting")
        press(browser, "Cancel")
        said(browser, "cancelled")


def test_the_form_leads_to_another_feature(browser: Chrome, lab: Server, feature: int) -> None:
    """And what is not a feature is refused in words."""
    visit(browser, place(lab, feature))
    field = browser.find_element(By.NAME, "feature")
    field.clear()
    field.send_keys("3", Keys.ENTER)
    until(browser, "return document.querySelector('h1').textContent.includes('feature 3')")
    before = browser.current_url
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    until(
        browser,
        "return location.href !== arguments[0] && document.querySelector('h1').textContent.includes('feature 4')",
        before,
    )
    browser.back()
    until(browser, "return document.querySelector('h1').textContent.includes('feature 3')")

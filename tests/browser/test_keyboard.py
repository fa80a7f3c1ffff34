"""The pages without a mouse: rows and features by j and k, search, help, theme, and a focus that is always seen."""

from __future__ import annotations

import pytest
from conftest import screenshot
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit

FOCUSED = "return document.activeElement.textContent.trim()"


def press(browser: Chrome, *keys: str) -> None:
    """Keys, one after the other, to whatever has the focus."""
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def arrived(browser: Chrome, server: Server, place: str) -> None:
    """Wait until the browser is at an address that begins so, and the page listens to keys."""
    until(
        browser,
        "return location.href.startsWith(arguments[0]) && document.readyState === 'complete'",
        server.address + place,
    )


def test_through_the_features(browser: Chrome, lab: Server) -> None:
    """j and k mark rows, Enter opens one; there j and k, or the arrows, go to the next of the same list and back."""
    visit(browser, f"{lab.address}/features?sort=density&desc=1")
    order = [str(each) for each in lab.features]
    press(browser, "j", "j", "j")
    assert browser.execute_script(FOCUSED) == order[2]
    press(browser, "k")
    assert browser.execute_script(FOCUSED) == order[1]
    screenshot(browser, "keyboard-row")
    press(browser, Keys.ENTER)
    arrived(browser, lab, f"/features/{order[1]}?")
    for key, at in (("j", 2), (Keys.ARROW_RIGHT, 3), ("k", 2), (Keys.ARROW_LEFT, 1)):
        press(browser, key)
        arrived(browser, lab, f"/features/{order[at]}?")


def test_from_page_to_page(browser: Chrome, lab: Server) -> None:
    """g and a letter."""
    visit(browser, f"{lab.address}/")
    for key, place in (
        ("g", "/grid"),
        ("f", "/features"),
        ("c", "/compare"),
        ("i", "/circuits"),
        ("v", "/review"),
        ("r", "/"),
    ):
        press(browser, "g", key)
        arrived(browser, lab, place)
        heading = browser.find_element(By.CSS_SELECTOR, "nav [aria-current=page]")
        assert heading.get_attribute("href") == lab.address + place


@pytest.mark.parametrize(("wanted", "place"), [("7", "/features/7?"), (" the", "/token?"), ("zzz", "/features?")])
def test_search(browser: Chrome, lab: Server, wanted: str, place: str) -> None:
    """`/` goes to the field; a number opens a feature, a token what fires on it, another text a list."""
    visit(browser, f"{lab.address}/grid")
    press(browser, "/")
    assert browser.switch_to.active_element.get_attribute("id") == "search"
    press(browser, wanted, Keys.ENTER)
    arrived(browser, lab, place)


def test_help(browser: Chrome, lab: Server) -> None:
    """? opens it, Escape closes it, and the focus is where it was."""
    visit(browser, f"{lab.address}/features")
    press(browser, "j")
    before = browser.execute_script(FOCUSED)
    press(browser, "?")
    until(browser, "return document.getElementById('help').open")
    screenshot(browser, "keyboard-help")
    press(browser, Keys.ESCAPE)
    until(browser, "return !document.getElementById('help').open")
    assert browser.execute_script(FOCUSED) == before


def test_theme(browser: Chrome, lab: Server) -> None:
    """t turns light to dark for this and every later page, and back."""
    colour = "return getComputedStyle(document.body).backgroundColor"
    visit(browser, f"{lab.address}/grid")
    light = browser.execute_script(colour)
    press(browser, "t")
    dark = browser.execute_script(colour)
    assert dark != light
    visit(browser, f"{lab.address}/features")
    assert browser.execute_script(colour) == dark
    press(browser, "t")
    assert browser.execute_script(colour) == light


def test_letters_typed_into_a_field_are_letters(browser: Chrome, lab: Server) -> None:
    """No key of a page takes what is typed into the lab's text, the note or the search."""
    visit(browser, f"{lab.address}/features/{lab.features[0]}")
    browser.find_element(By.ID, "lab-text").send_keys("j/k?tg")
    assert browser.find_element(By.ID, "lab-text").get_property("value") == "j/k?tg"
    assert not browser.execute_script("return document.documentElement.dataset.theme")


def test_an_example_is_read_token_by_token(browser: Chrome, lab: Server) -> None:
    """The arrows of a marked example move over its tokens, and the line below tells each one's activation."""
    visit(browser, f"{lab.address}/features/{lab.features[0]}")
    strip = browser.find_element(By.CSS_SELECTOR, "#examples .strip")
    browser.execute_script("arguments[0].focus({focusVisible: true})", strip)
    place = "return [...arguments[0].querySelectorAll('.t')].findIndex((each) => each.matches('.cursor'))"
    at = browser.execute_script(place, strip)
    press(browser, Keys.ARROW_LEFT if at else Keys.ARROW_RIGHT)
    moved = browser.execute_script(place, strip)
    assert abs(moved - at) == 1
    token = browser.execute_script("return arguments[0].querySelectorAll('.t')[arguments[1]].title", strip, moved)
    assert token in browser.find_element(By.ID, "readout").text
    screenshot(browser, "keyboard-token")


@pytest.mark.parametrize(
    "page",
    [
        "/",
        "/grid",
        "/features",
        "/compare",
        "/splitting?grid=later",
        "/atlas",
        "/circuits",
        "/search",
        "/review",
        "/features/3",
    ],
)
def test_the_focus_is_seen(browser: Chrome, lab: Server, page: str) -> None:
    """Tab reaches every control and link, first the one that skips the header; each is marked where it lies."""
    visit(browser, lab.address + page)
    script = """
    const node = document.activeElement, style = getComputedStyle(node), box = node.getBoundingClientRect();
    const hidden = document.elementsFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    return [node.textContent.trim() || node.id, style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1,
      hidden.includes(node) || node.matches(".strip")];
    """
    press(browser, Keys.TAB)
    name, *_ = browser.execute_script(script)
    assert name == "Skip to the content"
    for _ in range(25):
        press(browser, Keys.TAB)
        if browser.execute_script("return document.activeElement === document.body"):
            return  # past the last
        name, marked, _ = browser.execute_script(script)
        assert marked, name
        until(browser, f"return (() => {{{script}}})()[2]")  # the page may still be scrolling to it

"""Lines that run to the left, marks that are not seen, and a text that outlives a reload and is printed."""

from __future__ import annotations

from conftest import screenshot
from laboratory import page_of, press, result, said
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit

ARABIC = "كان يا ما كان"
JAPANESE = "むかしむかし、あるところに\nおじいさんがいました。"
UNSEEN = "a\u202eb\u200bc\u0007"
DIRECTIONS = """
const strips = [...document.querySelectorAll(arguments[0])];
return strips.length && strips.map((strip) => [strip.firstChild.textContent, getComputedStyle(strip).direction]);
"""


def test_a_line_runs_as_its_text_does(browser: Chrome, lab: Server) -> None:
    """A special token before a text, `<s>`, does not tell the line's direction, typed or in a result."""
    for feature, text, direction in zip(lab.features, (ARABIC, JAPANESE), ("rtl", "ltr"), strict=False):
        visit(browser, page_of(lab, feature, lab="ablation", prompt=text))
        result(browser)
        assert until(browser, DIRECTIONS, ".lab-typed .strip") == [["<s>", direction]]
        assert {tuple(each) for each in until(browser, DIRECTIONS, ".lab-result .strip")} == {("<s>", direction)}
        screenshot(browser, f"script-{direction}")


def test_an_axis_shows_what_is_not_seen(browser: Chrome, lab: Server) -> None:
    """Control characters and marks of direction stand on a chart's axis as they do in a line of text."""
    visit(browser, page_of(lab, lab.features[0], lab="context", prompt=UNSEEN))
    result(browser)
    axis = browser.execute_script("return [...document.querySelectorAll('.xtick')].map((it) => it.textContent).join()")
    strip = browser.execute_script("return document.querySelector('.lab-typed .strip').textContent")
    for mark in ("‹U+202E›", "‹U+200B›", "‹U+0007›"):
        assert mark in axis
        assert mark in strip
    assert not set("\u202e\u200b\u0007") & set(axis + strip)
    screenshot(browser, "script-unseen")


def test_a_text_outlives_a_reload(browser: Chrome, lab: Server) -> None:
    """Typed, and then something asked for that takes no text: both are there again, and so they are in the link."""
    visit(browser, page_of(lab, lab.features[0]))
    browser.find_element(By.ID, "lab-text").send_keys("Tom & Sue")
    until(browser, "return location.hash === '#prompt=Tom+%26+Sue'")
    press(browser, "Logits")
    link = result(browser)["link"]
    assert browser.current_url == link
    browser.refresh()
    said(browser, "done")
    assert browser.find_element(By.ID, "lab-text").get_property("value") == "Tom & Sue"
    browser.find_element(By.ID, "lab-text").send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE)
    until(browser, "return location.hash === '#lab=logits'")


def test_a_live_result_is_printed(browser: Chrome, lab: Server) -> None:
    """On paper the line that was typed and the results stay; what can only be pressed goes."""
    visit(browser, page_of(lab, lab.features[0], lab="context", prompt="Once upon"))
    result(browser)
    until(browser, "return document.querySelector('.lab-typed .strip')")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "return [...document.querySelectorAll(arguments[0])].map((each) => each.checkVisibility())"
    assert set(browser.execute_script(shown, ".lab-typed, .lab-words, .lab-result .chart")) == {True}
    pressed = "#lab textarea, #lab button, .lab-tools, .lab-progress"
    assert set(browser.execute_script(shown, pressed)) == {False}
    screenshot(browser, "live-print")

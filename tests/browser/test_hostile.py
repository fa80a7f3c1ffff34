"""Texts that attack, in the places where a person, a link or a corpus can put them: they are shown, and do nothing."""

from __future__ import annotations

from urllib.parse import quote

from app_run import HOSTILE, NAME
from conftest import forgive, screenshot
from laboratory import page_of, result, said, typed
from reviewing import begin, session, shown, status
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit


def nothing_happened(browser: Chrome) -> None:
    """No script of a text has run, and none of its elements is there; an alert would have failed the test before."""
    assert "owned" not in browser.title
    assert not browser.find_elements(By.CSS_SELECTOR, "img, iframe, #lab b, #examples b")


def test_a_corpus(browser: Chrome, hostile: Server) -> None:
    """Every feature's examples are shown with their every character."""
    texts = ""
    for feature in hostile.features[:4]:
        visit(browser, page_of(hostile, feature))
        nothing_happened(browser)
        texts += browser.find_element(By.ID, "examples").text
    assert "<img src" in texts.replace("·", " ")
    assert NAME in str(browser.find_element(By.CSS_SELECTOR, ".example .source").get_attribute("title"))


def test_a_prompt(browser: Chrome, lab: Server) -> None:
    """Typed, in a link, in the tables and charts of a result, and in the Python."""
    visit(browser, page_of(lab, lab.features[0], lab="context", prompt=HOSTILE))
    found = result(browser)
    nothing_happened(browser)
    assert HOSTILE in found["python"].replace("\\'", "'")
    strip = browser.execute_script("return document.querySelector('.lab-typed .strip').textContent")
    assert "<script>document.title='owned'" in strip.replace("\u00b7", " ")
    assert browser.execute_script("return document.querySelectorAll('.xtick').length") > 10  # its tokens, on an axis
    screenshot(browser, "hostile-prompt")


def test_a_model_that_is_gone(browser: Chrome, hostile: Server) -> None:
    """The live lab says that it cannot, and the page goes on."""
    visit(browser, page_of(hostile, hostile.features[0], lab="logits"))
    words = said(browser, "nowhere")
    assert "nowhere" in words
    typed(browser, "Once")
    until(browser, "return document.getElementById('lab').querySelector('p.dim').textContent.includes('nowhere')")
    nothing_happened(browser)
    screenshot(browser, "hostile-no-model")


def test_an_address(browser: Chrome, hostile: Server) -> None:
    """What an address asks for is repeated as text, also where it cannot be met."""
    for place in ("/features?q=", "/token?q=", "/features?index=", "/grid?grid=", "/compare?grid=", "/search?q="):
        visit(browser, hostile.address + place + quote(HOSTILE))
        nothing_happened(browser)
    browser.get(f"{hostile.address}/features/3#lab={quote(HOSTILE)}&prompt={quote(HOSTILE)}")
    until(browser, "return document.getElementById('lab-text').value.includes('owned')")
    nothing_happened(browser)
    forgive(browser, "404", "400")


def test_a_review(browser: Chrome, hostile: Server) -> None:
    """A session's name, a reviewer's and a note."""
    number = session(hostile, NAME, 1)
    begin(browser, hostile, number, NAME)
    feature = shown(browser)
    browser.switch_to.active_element.send_keys("1n")
    browser.switch_to.active_element.send_keys(HOSTILE, Keys.ENTER)
    status(browser, f"Saved: feature {feature}")
    visit(browser, f"{hostile.address}/review")
    nothing_happened(browser)
    assert NAME in browser.find_element(By.CSS_SELECTOR, "main table").text
    assert HOSTILE in hostile.json(f"/review/{number}.json?reviewer={quote(NAME)}")["said"][0]["note"]

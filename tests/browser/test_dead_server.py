"""The server is killed under the page: the page says so, keeps what was written, and goes on when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import forgive, screenshot
from laboratory import LONG, progress, result, said, start_slow
from reviewing import begin, session, shown, status
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit

BROKEN = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE")


@pytest.fixture(scope="module")
def mortal(lab_folder: Path) -> Iterator[Server]:
    """A server of its own on the lab's run."""
    with Server(lab_folder) as server:
        yield server


def test_in_the_middle_of_a_scan(browser: Chrome, mortal: Server) -> None:
    """The page waits, asks again when the server is back, and shows the result without being touched."""
    start_slow(browser, mortal, LONG)
    mortal.kill()
    said(browser, "The connection is lost; waiting for the server.")
    screenshot(browser, "dead-scan")
    mortal.back()
    progress(browser)
    found = result(browser)
    assert found["rows"]
    # The new server knows nothing of the old one's job, which is how the page learns to ask anew.
    forgive(browser, *BROKEN, "404")


def test_in_the_middle_of_a_review(browser: Chrome, mortal: Server) -> None:
    """No verdict is lost: those that were kept are there, the one under way is sent until it is taken."""
    number = session(mortal, "killed", 4, seed=5)
    begin(browser, mortal, number, "Ada")
    browser.switch_to.active_element.send_keys("1", Keys.ENTER)
    status(browser, "Saved")
    reviewing = browser.current_window_handle
    browser.switch_to.new_window("tab")
    visit(browser, f"{mortal.address}/review/{number}")
    beginning = browser.current_window_handle
    mortal.kill()
    browser.find_element(By.CSS_SELECTOR, "#review-who button").click()
    until(browser, "return document.getElementById('review-said').textContent.startsWith('The server does not answer')")
    browser.switch_to.window(reviewing)
    browser.switch_to.active_element.send_keys("3n")
    browser.switch_to.active_element.send_keys("brackets", Keys.ENTER)
    status(browser, "Not saved: the server does not answer; trying again.")
    screenshot(browser, "dead-review")
    mortal.back()
    status(browser, "Saved")
    table = mortal.text(f"/api/reviews/{number}/table.csv?reviewer=Ada")
    assert table.count("Ada") == 2
    assert "monosemantic" in table
    assert "brackets" in table
    shown(browser)
    browser.switch_to.window(beginning)
    browser.find_element(By.CSS_SELECTOR, "#review-who button").click()
    shown(browser)
    forgive(browser, *BROKEN)

"""A live analysis that takes its time: cancelled, waiting, reloaded in the middle, and watched from two tabs."""

from __future__ import annotations

from contextlib import suppress
from urllib.error import HTTPError

import pytest
from conftest import screenshot
from laboratory import LONG, SLOW, ask_slow, page_of, press, progress, result, said, start_slow, typed
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from serving import Server, until, visit


def state_of(lab: Server, tokens: int) -> str:
    """The state of the slow analysis; asking joins the job that is there."""
    asked = {"dictionaries": "dictionaries", "member": 0, "feature": lab.features[0], "max_tokens": tokens}
    return str(lab.json("/api/live/neurons", asked)["state"])


def test_a_cancelled_scan(browser: Chrome, lab: Server) -> None:
    """It stops in the middle and says so, and the one worker is free for the next analysis at once."""
    start_slow(browser, lab, SLOW + 1)
    said(browser, "%")
    screenshot(browser, "live-progress")
    press(browser, "Cancel")
    said(browser, "cancelled")
    screenshot(browser, "live-cancelled")
    assert not browser.find_elements(By.CSS_SELECTOR, ".lab-result :is(progress, table, figure)")
    press(browser, "Logits")
    assert result(browser)["title"] == "Logits"
    assert said(browser, "cancelled", 1) == "cancelled"
    browser.refresh()  # asks again for what the address says: the newest request
    assert result(browser)["title"] == "Logits"


def test_a_waiting_scan_is_cancelled_at_once(browser: Chrome, lab: Server) -> None:
    """What waits behind another does not hold it up, nor wait for it to stop."""
    start_slow(browser, lab, SLOW + 2)
    press(browser, "Every token alone")
    said(browser, "waiting")
    before = progress_of(browser, 1)
    browser.find_element(By.XPATH, "(//button[.='Cancel'])[1]").click()
    said(browser, "cancelled")
    until(browser, "return document.querySelectorAll('.lab-result progress')[0].value > arguments[0]", before)
    press(browser, "Cancel")
    said(browser, "cancelled", 1)


def test_a_reload_in_the_middle(browser: Chrome, lab: Server) -> None:
    """The page finds the same job again, as far as it has come, and its result."""
    before = start_slow(browser, lab, LONG + 3)
    browser.refresh()
    after = progress(browser)
    assert after >= before
    assert state_of(lab, LONG + 3) == "running"
    assert result(browser)["rows"]
    assert state_of(lab, LONG + 3) == "done"


def test_two_tabs(browser: Chrome, lab: Server) -> None:
    """Both see the one job's progress and its result; who cancels leaves it to the other, and the last one stops it."""
    first = browser.current_window_handle
    visit(browser, page_of(lab, lab.features[0]))
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    visit(browser, page_of(lab, lab.features[0]))
    before = ask_slow(browser, LONG + 4)
    browser.switch_to.window(first)
    assert ask_slow(browser, LONG + 4) >= before
    found = result(browser)
    browser.switch_to.window(second)
    assert result(browser) == found

    ask_slow(browser, SLOW + 5)
    browser.switch_to.window(first)
    ask_slow(browser, SLOW + 5)
    press(browser, "Cancel")
    said(browser, "another page waits for it")
    browser.switch_to.window(second)
    assert progress(browser)
    assert state_of(lab, SLOW + 5) == "running"
    press(browser, "Cancel")
    said(browser, "cancelled")


def test_typing_is_answered_while_slow_ones_fill_the_queue(browser: Chrome, lab: Server) -> None:
    """And a text that is dropped by the next letters leaves the slow one alone."""
    start_slow(browser, lab, SLOW + 6)
    for number in range(10):
        with suppress(HTTPError):  # 503 in the end
            state_of(lab, SLOW + 7 + number)
    with pytest.raises(HTTPError, match="503"):
        state_of(lab, SLOW + 20)
    for text in ("Once upon", " a time", " there was"):
        typed(browser, text)
        until(
            browser, "return document.querySelector('.lab-typed').textContent.includes(arguments[0])", text.split()[-1]
        )
    assert state_of(lab, SLOW + 6) == "running"


def progress_of(browser: Chrome, panel: int) -> float:
    """How much a panel's bar says is done."""
    script = "return document.querySelectorAll('.lab-result')[arguments[0]].querySelector('progress').value"
    return float(browser.execute_script(script, panel))

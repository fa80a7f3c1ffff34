"""A live analysis that takes its time: cancelled, waiting, reloaded in the middle, and watched from two tabs."""

from __future__ import annotations

import pytest
from conftest import screenshot
from laboratory import SLOW, press, progress, result, said, start_slow
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from serving import Server, until

# Each test asks about another feature, so that none finds another's answer.


@pytest.fixture(scope="module")
def features(lab: Server) -> list[int]:
    return lab.features


def jobs_of(lab: Server, feature: int) -> str:
    """The state of the slow analysis of a feature; asking joins the job that is there."""
    asked = {"dictionaries": "dictionaries", "member": 0, "feature": feature, "max_tokens": int(SLOW["max_tokens"])}
    return str(lab.json("/api/live/neurons", asked)["state"])


def test_a_cancelled_scan(browser: Chrome, lab: Server, features: list[int]) -> None:
    """It stops in the middle and says so, and the one worker is free for the next analysis at once."""
    start_slow(browser, lab, features[1])
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


def test_a_waiting_scan_is_cancelled_at_once(browser: Chrome, lab: Server, features: list[int]) -> None:
    """What waits behind another does not hold it up, nor wait for it to stop."""
    start_slow(browser, lab, features[2])
    press(browser, "Every token alone")
    said(browser, "waiting")
    before = progress_of(browser, 1)
    browser.find_element(By.XPATH, "(//button[.='Cancel'])[1]").click()
    said(browser, "cancelled")
    until(browser, "return document.querySelectorAll('.lab-result progress')[0].value > arguments[0]", before)
    press(browser, "Cancel")
    said(browser, "cancelled", 1)


def test_a_reload_in_the_middle(browser: Chrome, lab: Server, features: list[int]) -> None:
    """The page finds the same job again, as far as it has come, and its result."""
    before = start_slow(browser, lab, features[3])
    browser.refresh()
    after = progress(browser)
    assert after >= before
    assert jobs_of(lab, features[3]) == "running"
    assert result(browser)["rows"]
    assert jobs_of(lab, features[3]) == "done"


def test_two_tabs(browser: Chrome, lab: Server, features: list[int]) -> None:
    """Both see the one job's progress and its result; what one cancels, the other is told of."""
    first = browser.current_window_handle
    visit(browser, page_of(lab, features[4]))
    browser.switch_to.new_window("tab")
    second = browser.current_window_handle
    visit(browser, page_of(lab, features[4]))
    before = ask_slow(browser)
    browser.switch_to.window(first)
    assert ask_slow(browser) >= before
    found = result(browser)
    browser.switch_to.window(second)
    assert result(browser) == found

    visit(browser, page_of(lab, features[5]))
    browser.switch_to.window(first)
    start_slow(browser, lab, features[5])
    browser.switch_to.window(second)
    ask_slow(browser)
    press(browser, "Cancel")
    said(browser, "cancelled")
    browser.switch_to.window(first)
    said(browser, "cancelled")


def progress_of(browser: Chrome, panel: int) -> float:
    """How much a panel's bar says is done."""
    script = "return document.querySelectorAll('.lab-result')[arguments[0]].querySelector('progress').value"
    return float(browser.execute_script(script, panel))

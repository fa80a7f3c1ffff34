"""The review mode by keyboard alone: starting a session, verdicts, notes, taking back, coming back, and agreement."""

from __future__ import annotations

import csv
import io

from conftest import screenshot
from reviewing import begin, session, shown, status
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select
from serving import Server, until, visit


def press(browser: Chrome, *keys: str) -> None:
    """Keys, one after the other, to whatever has the focus."""
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def verdicts(server: Server, number: int) -> list[dict[str, str]]:
    """The verdicts that stand, from the file that anyone can take away."""
    return list(csv.DictReader(io.StringIO(server.text(f"/api/reviews/{number}/table.csv"))))


def test_a_session_is_started(browser: Chrome, lab: Server) -> None:
    """The form makes a queue of what was asked for, and goes there."""
    visit(browser, f"{lab.address}/review")
    name = browser.find_element(By.NAME, "name")
    name.clear()
    name.send_keys("from the form")
    count = browser.find_element(By.NAME, "count")
    count.clear()
    Select(browser.find_element(By.NAME, "rule")).select_by_visible_text("random")
    count.send_keys("3", Keys.ENTER)
    until(browser, "return /^.review.\\d+$/.test(location.pathname) && document.querySelector('#reviewer')")
    made = lab.json(browser.current_url.removeprefix(lab.address) + ".json")
    assert made["session"]["name"] == "from the form"
    assert len(made["queue"]) == 3
    visit(browser, f"{lab.address}/review")
    assert "from the form" in browser.find_element(By.CSS_SELECTOR, "main table").text
    screenshot(browser, "review-sessions")


def test_by_keyboard(browser: Chrome, lab: Server) -> None:
    """1 to 5, Enter, n, u: what is pressed is what is kept, with the note and the time; a reload loses nothing."""
    number = session(lab, "by keyboard", 3, seed=1, blind="no")
    begin(browser, lab, number, "Ada")
    first = shown(browser)
    press(browser, Keys.ENTER)
    status(browser, "Choose a verdict first")
    press(browser, "2", "n")
    assert browser.switch_to.active_element.get_attribute("id") == "review-note"
    press(browser, "12 <b>names</b>")
    screenshot(browser, "review-feature")
    press(browser, Keys.ENTER)
    status(browser, f"Saved: feature {first}, mostly.")
    second = shown(browser)
    assert second != first
    (kept,) = verdicts(lab, number)
    assert (kept["feature"], kept["verdict"], kept["note"]) == (str(first), "mostly", "12 <b>names</b>")
    assert 0 < float(kept["seconds"]) < 120

    press(browser, "5", Keys.ENTER)
    status(browser, f"Saved: feature {second}, dead.")
    press(browser, "u")
    status(browser, f"Taken back: feature {second}, dead.")
    assert shown(browser) == second
    assert len(verdicts(lab, number)) == 1

    press(browser, "n", "half a thou")
    browser.refresh()
    press(browser, Keys.TAB)  # somewhere on the page
    begin(browser, lab, number, "Ada")
    assert shown(browser) == second
    assert browser.find_element(By.ID, "review-note").get_property("value") == "half a thou"
    press(browser, "1", Keys.ENTER)
    status(browser, f"Saved: feature {second}, monosemantic.")
    press(browser, "4", Keys.ENTER)
    status(browser, "nothing seen")
    until(browser, "return document.querySelector('.review-place').textContent.startsWith('All 3 features')")
    assert len(verdicts(lab, number)) == 3


def test_the_clock_runs(browser: Chrome, lab: Server) -> None:
    """It counts two minutes down."""
    begin(browser, lab, session(lab, "clock", 1), "Ada")
    clock = "return document.querySelector('.review-clock').textContent"
    before = browser.execute_script(clock)
    assert before.startswith(("2:00", "1:5"))
    until(browser, f"{clock} < arguments[0]", before)


def test_blind(browser: Chrome, lab: Server) -> None:
    """No score is on the page of a blind session, and no link to a page that has them; an open one has them."""
    numbers = "return [...document.querySelectorAll('.review-feature dt')].map((each) => each.textContent)"
    begin(browser, lab, session(lab, "blind", 1, blind="yes"), "Ada")
    assert browser.execute_script(numbers) == []
    assert not browser.find_elements(By.CSS_SELECTOR, "#review a")
    screenshot(browser, "review-blind")
    begin(browser, lab, session(lab, "open", 1, blind="no"), "Ada")
    assert browser.execute_script(numbers) == ["density", "max", "mcs other seed"]


def test_two_reviewers_agree(browser: Chrome, lab: Server) -> None:
    """Another name goes through the same queue from its start; then the page tells how far the two agree."""
    number = session(lab, "two", 2, seed=2)
    for reviewer, keys in (("Ada", "13"), ("Bob", "14")):
        begin(browser, lab, number, reviewer)
        for place, key in enumerate(keys):
            press(browser, key, Keys.ENTER)
            until(
                browser,
                "return document.querySelector('.review-place').textContent.includes(arguments[0])",
                f"{place + 2} of 2" if place + 1 < len(keys) else "All 2",
            )
    visit(browser, f"{lab.address}/review/{number}")
    browser.find_element(By.CSS_SELECTOR, "#agreement button").click()
    script = "return document.querySelector('#agreement [role=status]').textContent"
    said = until(browser, script)
    assert "2 features judged by both. The same verdict: 0.5" in said
    assert "They differ on features" in said
    screenshot(browser, "review-agreement")

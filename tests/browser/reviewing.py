"""The review mode, as a person uses it."""

from __future__ import annotations

from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit


def session(server: Server, name: str, count: int, *, seed: int = 0, blind: str = "yes") -> int:
    """Start a session; its number."""
    index = server.json("/features.json")["index"]
    asked = {"name": name, "index": index, "rule": "random", "count": count, "seed": seed, "blind": blind}
    return int(server.json("/api/reviews/sessions", asked)["session"]["id"])


def begin(browser: Chrome, server: Server, number: int, reviewer: str) -> None:
    """Open a session under a name, by keyboard, and see its first feature."""
    visit(browser, f"{server.address}/review/{number}")
    name = browser.find_element(By.ID, "reviewer")
    name.clear()
    name.send_keys(reviewer, Keys.ENTER)
    shown(browser)


def shown(browser: Chrome) -> int:
    """Wait for the examples of the feature under review; its number."""
    place = until(
        browser,
        "return document.querySelector('.review-feature').children.length"
        " && document.querySelector('.review-place').textContent",
    )
    return int(place.split("feature ")[1].split()[0])


def status(browser: Chrome, words: str) -> str:
    """Wait until the page says these words."""
    script = "const said = document.querySelector('#review > [role=status]').textContent;"
    found: str = until(browser, f"{script} return said.includes(arguments[0]) && said", words)
    return found

"""The live lab of a feature's page, as a person uses it: a text, buttons, panels."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from serving import Server, until, visit

SLOW = 400_000  # tokens for "neurons" to read, nearly the whole corpus: seconds, while it tells how far it is


def page_of(server: Server, feature: int, **request: str) -> str:
    """A feature's page, with a request for an analysis in its address."""
    return f"{server.address}/features/{feature}" + (f"#{urlencode(request)}" if request else "")


def typed(browser: Chrome, text: str) -> None:
    """Type into the lab's text."""
    browser.find_element(By.ID, "lab-text").send_keys(text)


def press(browser: Chrome, label: str) -> None:
    """The button of an analysis, or one in a panel."""
    button = browser.find_element(By.XPATH, f"//button[normalize-space()='{label}']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def said(browser: Chrome, words: str, panel: int = 0) -> str:
    """Wait until a panel's status, the newest panel's first, has these words in it."""
    script = """
    const status = document.querySelectorAll(".lab-result [role=status]")[arguments[1]].textContent;
    return status.includes(arguments[0]) && status;
    """
    found: str = until(browser, script, words, panel)
    return found


def progress(browser: Chrome) -> float:
    """Wait for a sign of progress in the newest panel, of tokens and not of files checked; the share that is done."""
    script = """
    const bar = document.querySelector(".lab-result progress");
    return bar.max > 1000 && bar.value > 0 && bar.value / bar.max;
    """
    return float(until(browser, script))


def start_slow(browser: Chrome, server: Server, tokens: int) -> float:
    """Open a page, ask for the slow analysis, and wait until it is under way; the share that is done.

    The server keeps what it gathered over so many tokens: a test that asks for another number than all others waits.
    """
    visit(browser, page_of(server, server.features[0]))
    return ask_slow(browser, tokens)


def ask_slow(browser: Chrome, tokens: int) -> float:
    """The same on a page that is open."""
    browser.execute_script("location.hash = arguments[0]", urlencode({"lab": "neurons", "max_tokens": tokens}))
    return progress(browser)


def result(browser: Chrome, panel: int = 0) -> dict[str, Any]:
    """What a finished panel shows: its facts, table, strips and charts, all as text."""
    said(browser, "done", panel)
    script = """
    const panel = document.querySelectorAll(".lab-result")[arguments[0]];
    const charts = [...panel.querySelectorAll("figure")];
    if (!charts.every((each) => each.querySelector(".main-svg"))) return null;
    const texts = (selector) => [...panel.querySelectorAll(selector)].map((each) => each.textContent);
    return {
      title: panel.querySelector("h3").textContent, facts: texts("dl.numbers > div"), rows: texts("tbody tr"),
      strips: texts(".strip"), charts: charts.map((each) => each.querySelector("figcaption").textContent),
      link: panel.querySelector(".lab-tools a").href, python: panel.querySelector(".lab-tools button").title,
      csv: panel.querySelector(".lab-tools a[download]").href,
    };
    """
    found: dict[str, Any] = until(browser, script, panel)
    return found

"""Live analyses as a person uses them: a text, buttons, panels, charts; and a server that has something else to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from serving import WAIT_S, Server, until, visit

SLOW = 400_000  # tokens for "neurons" to read, nearly the whole corpus: seconds, while it tells how far it is
LONG = 150_000  # as many as last for a reload or a change of tabs, where its result is waited for


def page_of(server: Server, feature: int, **request: str) -> str:
    """A feature's page, with a request for an analysis in its address."""
    return f"{server.address}/features/{feature}" + (f"#{urlencode(request)}" if request else "")


def typed(browser: Chrome, text: str) -> None:
    """Type into the lab's text."""
    browser.find_element(By.ID, "lab-text").send_keys(text)


def press(browser: Chrome, label: str) -> None:
    """The button of an analysis, or one in a panel."""
    button = browser.find_element(By.XPATH, f"//button[normalize-space()='{label}']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
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
    """What a finished panel shows: its words, table, strips and charts, all as text."""
    said(browser, "done", panel)
    script = """
    const panel = document.querySelectorAll(".lab-result")[arguments[0]];
    const charts = [...panel.querySelectorAll("figure")];
    if (!charts.every((each) => each.querySelector(".main-svg"))) return null;
    const texts = (selector) => [...panel.querySelectorAll(selector)].map((each) => each.textContent);
    return {
      title: panel.querySelector(":is(h2, h3)").textContent, words: texts(".lab-words"), rows: texts("tbody tr"),
      strips: texts(".strip"), charts: charts.map((each) => each.querySelector("figcaption").textContent),
      link: panel.querySelector(".lab-tools a").href, python: panel.querySelector(".lab-tools button").title,
      csv: panel.querySelector(".lab-tools a[download]").href,
    };
    """
    found: dict[str, Any] = until(browser, script, panel)
    return found


@contextmanager
def occupied(server: Server, tokens: int) -> Iterator[None]:
    """The one worker of long analyses has something else to do meanwhile, over another number of tokens than others."""
    asked = {"dictionaries": "dictionaries", "member": 0, "feature": server.features[0], "max_tokens": tokens}
    job = f"{server.address}/api/jobs/{server.json('/api/live/neurons', asked)['job']}"
    with urlopen(f"{job}/events", timeout=WAIT_S):  # a job that nobody listens to is given up
        try:
            yield
        finally:
            server.json(job.removeprefix(server.address), method="DELETE")


def click_point(browser: Chrome, chart: int, x: float, y: float) -> None:
    """Click into a chart where its axes have these values, as a hand would: there, then down and up."""
    script = """
    const place = document.querySelectorAll(".chart")[arguments[0]], { xaxis, yaxis } = place._fullLayout;
    place.scrollIntoView({ block: "center", behavior: "instant" });
    const box = place.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.c2p(arguments[1]), box.y + yaxis._offset + yaxis.c2p(arguments[2])];
    """
    left, top = (round(value) for value in browser.execute_script(script, chart, x, y))
    actions = ActionChains(browser)
    actions.w3c_actions.pointer_action.move_to_location(left - 3, top)
    actions.w3c_actions.pointer_action.move_to_location(left, top)
    actions.w3c_actions.pointer_action.click()
    actions.perform()

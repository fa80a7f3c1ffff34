"""The pictures of docs/lab.md: the app over a run, driven as a reader would.

    python docs/screenshots.py runs/demo [--feature 12] [--out docs/figures]

Needs Debian's chromium and chromium-driver (`make test-browser` installs them). The feature is the living one with the
largest MCS whose strongest example has text before it, unless it is named; the prompt is that example up to its peak.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from monosemy.analysis.feature import FeatureIndex

WAIT_S = 300
FINISHED = """
const panels = document.querySelectorAll(".lab-result");
return panels.length === arguments[0] && panels[0].querySelector(".lab-body .chart svg, .lab-body .strip, .lab-body p");
"""
ACTIONS = {"context": "Ablate context", "append": "Scan append", "steer": "Steer"}


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--feature", type=int)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    said = parser.parse_args()
    index = FeatureIndex.open(said.run / "features")
    feature = said.feature if said.feature is not None else chosen(index)
    server = subprocess.Popen(
        [sys.executable, "-m", "monosemy.cli", "serve", str(said.run), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip().rstrip("/")
        browser = opened()
        try:
            take(browser, address, feature, prompt_of(index, feature), said.out)
        finally:
            browser.quit()
    finally:
        server.terminate()


def take(browser: Chrome, address: str, feature: int, prompt: str, out: Path) -> None:
    """The pictures, page by page."""
    for name, path, height in (
        ("runs", "/", 700),
        ("grid", "/grid", 900),
        ("features", "/features?sort=mcs_other_seed&desc=1", 800),
        ("feature", f"/features/{feature}", 1500),
        ("compare", "/compare?a=0&b=1", 1000),
    ):
        browser.set_window_size(1200, height)
        browser.get(address + path)
        browser.execute_async_script("setTimeout(arguments[0], 1500)")  # plots draw themselves
        browser.save_screenshot(str(out / f"lab-{name}.png"))
    browser.get(f"{address}/features/{feature}")
    waiting = WebDriverWait(browser, WAIT_S)
    box = waiting.until(lambda page: page.find_element(By.ID, "lab-text"))
    box.send_keys(prompt)
    for number, (name, label) in enumerate(ACTIONS.items(), 1):
        press(browser, label)
        waiting.until(lambda page, n=number: page.execute_script(FINISHED, n))
        section = browser.find_element(By.CSS_SELECTOR, ".lab-result")
        browser.execute_script("arguments[0].scrollIntoView()", section)
        browser.execute_async_script("setTimeout(arguments[0], 1500)")
        section.screenshot(str(out / f"lab-{name}.png"))


def press(browser: Chrome, label: str) -> None:
    """Press the button that is called so."""
    (button,) = [each for each in browser.find_elements(By.TAG_NAME, "button") if each.text == label]
    button.parent.execute_script("arguments[0].click()", button)  # wherever the page is scrolled to


def chosen(index: FeatureIndex) -> int:
    """The feature to show."""
    rows, _ = index.page(sort="mcs_other_seed", descending=True, limit=50, dead=False)
    return next(int(row["id"]) for row in rows if len(prompt_of(index, int(row["id"]))) > 20)


def prompt_of(index: FeatureIndex, feature: int) -> str:
    """The text of the strongest example up to its peak, ten tokens at most."""
    example = index.feature(feature).examples["top"][0]
    return "".join(example.tokens[max(0, example.peak - 9) : example.peak + 1])


def opened() -> Chrome:
    """A headless Chromium."""
    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    arguments = ["--headless", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    for argument in arguments + (["--no-sandbox"] if os.geteuid() == 0 else []):
        options.add_argument(argument)
    return Chrome(options=options, service=Service(shutil.which("chromedriver")))


if __name__ == "__main__":
    main()

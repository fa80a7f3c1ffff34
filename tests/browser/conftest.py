"""A headless Chromium, a served run, and screenshots of what was seen.

Chromium and its driver are Debian's (`make test-browser` installs them); nothing is fetched from a network.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

SCREENSHOTS = Path(__file__).parents[2] / "test-artifacts" / "screenshots"
ARGUMENTS = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1280,900",
)


def new_browser(*arguments: str) -> Chrome:
    """A headless Chromium whose console is kept."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.fail("chromium and chromedriver are needed: run `make test-browser`")
    options = Options()
    options.binary_location = binary
    for argument in (*ARGUMENTS, *arguments):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(driver))


@pytest.fixture
def browser() -> Iterator[Chrome]:
    """A browser; the test fails if a page logged an error."""
    found = new_browser()
    try:
        yield found
        severe = [entry["message"] for entry in found.get_log("browser") if entry["level"] == "SEVERE"]
        assert not severe, severe
    finally:
        found.quit()


def screenshot(browser: Chrome, name: str) -> Path:
    """Keep what the browser shows, as `test-artifacts/screenshots/NAME.png`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    browser.save_screenshot(str(path))
    return path

"""A headless Chromium, two served runs, and screenshots of what was seen.

Chromium and its driver are Debian's (`make test-browser` installs them); nothing is fetched from a network. One browser
serves all tests, each in windows of its own with nothing stored; after each, its console must be without errors and
every address that it asked for the server's own.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_run import app_run
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from serving import Server

SCREENSHOTS = Path(__file__).parents[2] / "test-artifacts" / "screenshots"
TALLEST = 4000  # pixels of a screenshot
ARGUMENTS = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--window-size=1280,900",
)
OWN = ("http://127.0.0.1:", "file:///", "data:", "blob:")  # addresses on this machine
BUILDER = Path(__file__).parents[1] / "lab_sites.py"


def new_browser(*arguments: str) -> Chrome:
    """A headless Chromium whose console and requests are kept."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.fail("chromium and chromedriver are needed: run `make test-browser`")
    options = Options()
    options.binary_location = binary
    for argument in (*ARGUMENTS, *arguments):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium refuses to run as root with it
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    found = new_browser()
    try:
        yield found
    finally:
        found.quit()


@pytest.fixture
def browser(chromium: Chrome) -> Iterator[Chrome]:
    """A new window of a browser that remembers nothing; the test fails if a page logs an error or asks elsewhere."""
    first = chromium.current_window_handle
    chromium.switch_to.new_window("window")
    chromium.execute_cdp_cmd("Page.enable", {})
    chromium.set_window_size(1280, 900)
    try:
        yield chromium
        severe = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
        assert not severe, severe
        asked = requests(chromium)
        assert asked
        assert all(address.startswith(OWN) for address in asked), asked
    finally:
        for window in chromium.window_handles:
            if window != first:
                chromium.switch_to.window(window)
                origin = chromium.execute_script("return location.origin")
                if origin.startswith("http"):
                    chromium.execute_cdp_cmd(
                        "Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "local_storage,cookies"}
                    )
                chromium.close()
        chromium.switch_to.window(first)
        chromium.get_log("browser")
        chromium.get_log("performance")


def requests(browser: Chrome) -> set[str]:
    """Every address that the browser asked for since the last call."""
    found = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
    return found


def forgive(browser: Chrome, *expected: str) -> None:
    """Take the console's errors so far, each of which must hold one of these texts."""
    for entry in browser.get_log("browser"):
        assert entry["level"] != "SEVERE" or any(text in entry["message"] for text in expected), entry["message"]


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a real model, for live analyses; the tests that need it are skipped where the model is absent.

    Made once; each of several workers serves a copy of its own.
    """
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "lab-made"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make_lab(made)
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(made / "run", folder / "run")
    return folder / "run"


def make_lab(folder: Path) -> None:
    """Into that folder, whole or not at all."""
    part = folder.with_suffix(".part")
    part.mkdir(exist_ok=True)
    made = subprocess.run([sys.executable, str(BUILDER), str(part)], capture_output=True, text=True)
    if "Skipped" in made.stderr:
        pytest.skip(made.stderr.strip().splitlines()[-1])
    assert made.returncode == 0, made.stderr
    part.rename(folder)


@pytest.fixture(scope="session")
def lab(lab_folder: Path) -> Iterator[Server]:
    """The server of that run."""
    with Server(lab_folder) as server:
        yield server


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of a run whose every text attacks the page; its model is gone."""
    with Server(app_run(tmp_path_factory.mktemp("hostile"))) as server:
        yield server


def screenshot(browser: Chrome, name: str) -> Path:
    """Keep the whole page as the browser shows it, as `test-artifacts/screenshots/NAME.png`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = SCREENSHOTS / f"{name}.png"
    down = browser.execute_script("const down = scrollY; scrollTo({ top: 0, behavior: 'instant' }); return down")
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], TALLEST), "scale": 1}
    asked = {"captureBeyondViewport": True, "clip": clip, "optimizeForSpeed": True}
    seen = browser.execute_cdp_cmd("Page.captureScreenshot", asked)
    browser.execute_script("scrollTo({ top: arguments[0], behavior: 'instant' })", down)
    path.write_bytes(base64.b64decode(seen["data"]))
    return path

"""The pictures of docs/lab.md: the app over a run, driven as a reader would.

    python docs/screenshots.py runs/demo [--feature 12] [--only steer mcs] [--out docs/figures]

Needs Debian's chromium and chromium-driver (`make test-browser` installs them), and for the column of verdicts
`monosemy verdicts runs/demo/features`. The feature is the one that docs/lab.md follows, by its rule, unless another is
named. What the lab shows live is asked for by its link, as a reader would repeat it. Pages end with their last whole
row, and panels where their content ends. A review session stays in the run.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image, ImageChops
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.search import features_of_token

WAIT_S = 400
WIDTH, TALLEST, MARGIN = 1200, 1500, 12  # of a picture, in pixels
TOKEN, MCS, DENSITY = " raise", 0.9, 0.01  # the rule: see `chosen`
PROMPT = "        if not value:\n            raise"
TEXTS = "\n".join(["def open(path):", "    if not path:", "        raise ValueError(path)"])
LIST = {"sort": "mcs_other_seed", "desc": 1, "mcs_other_seed_min": MCS, "density_max": DENSITY}
LIVE: dict[str, dict[str, Any]] = {
    "context": {"prompt": PROMPT},
    "alone": {},
    "neurons": {"max_tokens": 200_000},
    "curves": {"directions": 50, "max_tokens": 200_000},
    "probe": {"max_tokens": 200_000},
    "logits": {},
    "ablation": {"prompt": PROMPT},
    "steer": {"prompt": "    def read(self, size):\n", "strength": 0.5, "new_tokens": 30},
}
FINISHED = """
const panel = document.querySelector(".lab-result");
return panel && !panel.querySelector("progress") && panel.querySelector(".lab-body").childElementCount > 0;
"""

LAST_ROW = """
const rows = [...document.querySelectorAll("main tr, main .example, main .artifact, main section, main figure")];
return Math.max(...rows.map((row) => row.getBoundingClientRect().bottom).filter((bottom) => bottom <= innerHeight));
"""


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--feature", type=int)
    parser.add_argument("--only", nargs="*", help="pictures to take, by their names; all without")
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
        camera = Camera(address, said.out, said.only)
        try:
            take(camera, index, feature, json.loads((said.run / "scores" / "scores.json").read_text()))
        finally:
            camera.browser.quit()
    finally:
        server.terminate()


def chosen(index: FeatureIndex) -> int:
    """Of the features with an MCS of at least 0.9 and a density below 1 %, the one that tells ` raise` best by F1."""
    telling = [row for row in features_of_token(index, TOKEN).table().rows if row[0] == "telling"]
    rows, _ = index.page(sort="id", limit=index.n_features, dead=False)
    eligible = {row["id"] for row in rows if (row["mcs_other_seed"] or 0) >= MCS and row["density"] <= DENSITY}
    return next(int(row[1]) for row in telling if row[1] in eligible)


class Camera:
    """A browser, and where its pictures go."""

    def __init__(self, address: str, out: Path, only: list[str] | None) -> None:
        self.address, self.out, self.only = address, out, only
        self.browser = headless()
        self.waiting = WebDriverWait(self.browser, WAIT_S)

    def wanted(self, name: str) -> bool:
        """Whether this picture was asked for."""
        return self.only is None or name in self.only

    def visit(self, path: str, height: int = TALLEST, width: int = WIDTH) -> None:
        """Open a page and let its plots draw themselves."""
        self.browser.get("about:blank")  # an address that differs behind # alone loads nothing anew
        self.browser.set_window_size(width, height)
        self.browser.get(self.address + path)
        self.rest()

    def rest(self) -> None:
        self.browser.execute_async_script("setTimeout(arguments[0], 1500)")

    def page(self, name: str, path: str, height: int, ready: str = "main h1", width: int = WIDTH) -> None:
        """The top of a page, once `ready` is on it."""
        if not self.wanted(name):
            return
        self.visit(path, height, width)
        self.waiting.until(lambda page: page.find_elements(By.CSS_SELECTOR, ready))
        self.rest()
        self.top(name)

    def top(self, name: str) -> None:
        """What the window shows, up to its last whole row."""
        picture = opened(self.browser.get_screenshot_as_png())
        self.keep(name, picture.crop((0, 0, picture.width, round(self.browser.execute_script(LAST_ROW)))))

    def keep(self, name: str, picture: Image.Image) -> None:
        """Write it in the 256 colours that cover it best."""
        picture.quantize(256, Image.Quantize.MAXCOVERAGE).save(self.out / f"lab-{name}.png", optimize=True)

    def panel(self, name: str, path: str) -> None:
        """The result of a live analysis."""
        if not self.wanted(name):
            return
        self.visit(path, 3 * TALLEST)  # so that the whole panel is in the window
        self.waiting.until(lambda page: page.execute_script(FINISHED))
        self.rest()
        section = self.browser.find_element(By.CSS_SELECTOR, ".lab-result")
        self.browser.execute_script("arguments[0].scrollIntoView()", section)
        picture = opened(section.screenshot_as_png)
        empty = Image.new("RGB", picture.size, "white")
        _, _, right, bottom = ImageChops.difference(picture, empty).getbbox() or (0, 0, *picture.size)
        self.keep(name, picture.crop((0, 0, min(picture.width, right + MARGIN), bottom)))


def take(camera: Camera, index: FeatureIndex, feature: int, scores: list[dict[str, Any]]) -> None:
    """The pictures, page by page."""
    member, sibling = index.artifact.config["member"], index.artifact.info["mcs_sibling"]
    camera.page("runs", "/", 700)
    camera.page("features", f"/features?{urlencode(LIST)}", 640, width=860)
    camera.page("search", f"/search#{urlencode({'prompt': TEXTS, 'n': 10})}", 760, ".lab-body .example")
    camera.page("feature", f"/features/{feature}", 1540)
    for name, values in LIVE.items():
        camera.panel(name, f"/features/{feature}#{urlencode({'lab': name, **values})}")
    ready = "table.data tbody tr"
    camera.page("mcs", f"/mcs?{urlencode({'a': member, 'others': sibling})}", 900, ready, 1040)
    alike = [row for row in scores if row["l1"] == scores[member]["l1"]]  # other seeds and widths
    members = ",".join(str(row["member"]) for row in alike)
    path = f"/atlas?{urlencode({'members': members, 'codes': 'yes'})}"
    camera.page("atlas", path, 900, "[aria-label=Clusters]", 900)
    members = ",".join(str(row["member"]) for row in alike if row["seed"] == scores[member]["seed"])
    camera.page("splitting", f"/splitting?{urlencode({'members': members, 'feature': feature})}", 900, "#tree", 940)
    review(camera)


def review(camera: Camera) -> None:
    """A blind session at its first feature."""
    if not camera.wanted("review"):
        return
    camera.visit("/review")
    camera.browser.find_element(By.CSS_SELECTOR, "#review-new button").click()
    camera.waiting.until(lambda page: page.find_elements(By.ID, "reviewer"))
    path = camera.browser.current_url.removeprefix(camera.address)
    camera.visit(path, 800)
    camera.browser.find_element(By.ID, "reviewer").send_keys("Ann")
    camera.browser.find_element(By.CSS_SELECTOR, "#review-who button").click()
    camera.waiting.until(lambda page: page.find_elements(By.CSS_SELECTOR, ".review-feature .example"))
    camera.rest()
    camera.top("review")


def opened(png: bytes) -> Image.Image:
    """A picture out of a browser."""
    return Image.open(io.BytesIO(png)).convert("RGB")


def headless() -> Chrome:
    """A headless Chromium."""
    options = Options()
    options.binary_location = shutil.which("chromium") or "chromium"
    arguments = ["--headless", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    for argument in arguments + (["--no-sandbox"] if os.geteuid() == 0 else []):
        options.add_argument(argument)
    return Chrome(options=options, service=Service(shutil.which("chromedriver")))


if __name__ == "__main__":
    main()

"""The run in one file, opened from disk: every page, every list, no request and no error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import pytest
import torch
from app_run import HOSTILE, WIDTH, app_run
from conftest import forgive, new_browser, requests, screenshot
from feature_worlds import TableModel, grid, whole_number_dictionary
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from serving import until
from starlette.testclient import TestClient

from monosemy.analysis.splitting import FATES
from monosemy.analysis.verdict_store import verdicts
from monosemy.app.compare_page import SORTS
from monosemy.app.export import export
from monosemy.app.review_queue import Queued, QueueSettings
from monosemy.app.reviews import FILE, Reviews
from monosemy.app.server import make_app
from monosemy.app.state import State
from monosemy.models.language_model import LanguageModel

DRAWN = """
return document.querySelector("main h1")
  && [...document.querySelectorAll(".chart")].every((chart) => chart.querySelector(".main-svg"))
  && (!document.getElementById("neighbours") || document.querySelector("#neighbours table"));
"""
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
ROWS = """
return [...document.querySelectorAll("table.data tbody tr")].map((row) => Number(row.cells[0].textContent));
"""
QUERIES: tuple[dict[str, Any], ...] = (
    {},
    *({"sort": column, "desc": turned} for column in ("top_token", "density", "mcs_other_seed") for turned in (0, 1)),
    {"sort": "dead", "desc": 1},
    {"dead": "yes"},
    {"dead": "no", "q": "E", "sort": "max", "desc": 1},
    {"q": " "},
    {"density_min": 0.01, "density_max": "5e-2", "sort": "mean"},
    {"mcs_other_seed_max": 0.5, "index": "features-1"},
    {"max_min": 1e9},
    {"sort": "verdict", "desc": 1, "dead": "no"},
    {"verdict": "dead", "sort": "density"},
)
WIDTHS = (8, 16, 120)  # of a second grid
PAIR = {"grid": "widths", "a": 2, "b": 1}
COMPARISONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/compare", {}),
    ("/compare", {"grid": "dictionaries", "a": 1, "b": 0, "sort": "density"}),
    *(("/compare", {**PAIR, "sort": column, "desc": turned}) for column in SORTS for turned in (0, 1)),
    ("/compare", {**PAIR, "sort": "one_to_one", "desc": 1, "at": 100}),
    ("/mcs", {}),
    ("/mcs", {"grid": "dictionaries", "a": 0, "sort": "max", "desc": 0}),
    ("/mcs", {"grid": "widths", "a": 0, "others": "all", "at": 100}),
    *(
        ("/mcs", {"grid": "dictionaries", "a": 1, "sort": column, "desc": turned})
        for column in ("id", "mcs-0", "nearest-0", "one_to_one-0", "partner-0", "count", "dead", "density")
        for turned in (0, 1)
    ),
    ("/atlas", {}),
    *(("/atlas", {"grid": "widths", "tag": tag}) for tag in ("orphan", "shared", "universal")),
    ("/atlas", {"grid": "widths", "of": 2, "at": 100}),
    ("/atlas", {"grid": "widths", "members": "all", "codes": "no", "tag": "orphan", "of": 1}),
    ("/splitting", {}),
    *(("/splitting", {"grid": "widths", "level": level, "fate": fate}) for level in (0, 1) for fate in ("any", *FATES)),
    *(("/splitting", {"grid": "widths", "level": level, "feature": 5}) for level in (0, 1)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = app_run(tmp_path_factory.mktemp("export"))
    grid(made / "widths", [whole_number_dictionary(width, width) for width in WIDTHS])
    verdicts(made / "features", model=cast(LanguageModel, TableModel()), out=made / "told")
    parent = State(made).indexes["features-1"].artifact.parent("dictionaries")
    reviews = Reviews(made / FILE)
    session = reviews.create("look", parent.id, 1, QueueSettings(count=1), [Queued(3, "top", 0.5)])
    reviews.record(session.id, 3, "ann", "mostly", HOSTILE, 60.0)
    return made


@pytest.fixture(scope="module")
def place(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the file, which holds the pages of few features, so that not all links lead somewhere."""
    return export(run, tmp_path_factory.mktemp("mailed") / "run.html", features=6).as_uri()


@pytest.fixture(scope="module")
def chromium_of_files() -> Iterator[Chrome]:
    found = new_browser()
    try:
        yield found
    finally:
        found.quit()


@pytest.fixture
def browser(chromium_of_files: Chrome, place: str) -> Iterator[Chrome]:
    """The test fails if a page logged an error, or if anything but the file itself was asked for."""
    chromium_of_files.get("about:blank")
    requests(chromium_of_files)
    yield chromium_of_files
    forgive(chromium_of_files)
    asked = {address.partition("#")[0] for address in requests(chromium_of_files)}
    assert place in asked
    assert all(address == place or address.startswith(("data:", "about:")) for address in asked), asked
    assert chromium_of_files.title != "owned"


def visit(browser: Chrome, address: str) -> None:
    """Open a page of the file anew, and wait until all of it is drawn."""
    browser.get("about:blank")
    browser.get(address)
    until(browser, DRAWN)


def turn(browser: Chrome, hash: str) -> None:
    """Go to another page of the file, as a link does, and wait until all of it is drawn."""
    browser.execute_script("document.querySelector('main h1').id = 'before'; location.hash = arguments[0]", hash)
    until(browser, "return !document.getElementById('before')")
    until(browser, DRAWN)


def heading(browser: Chrome, text: str) -> None:
    """Wait for the page with this heading."""
    until(browser, "return document.querySelector('main h1')?.textContent.includes(arguments[0])", text)
    until(browser, DRAWN)


@pytest.mark.parametrize(
    ("name", "hash"),
    [
        ("runs", ""),
        ("grid", "#/grid"),
        ("member", "#/grid/1?grid=dictionaries"),
        ("features", "#/features?index=features-1"),
        ("feature", "#/features/3?index=features-1"),
        ("token", "#/token?index=features&q=e"),
        ("compare", "#/compare"),
        ("mcs", "#/mcs"),
        ("splitting", "#/splitting?grid=widths&feature=2#tree"),
        ("atlas", "#/atlas?grid=widths"),
        ("circuits", "#/circuits"),
        ("search", "#/search"),
        ("review", "#/review"),
        ("missing", "#/features/99999"),
    ],
)
def test_every_page(browser: Chrome, place: str, name: str, hash: str) -> None:
    visit(browser, place + hash)
    screenshot(browser, f"export-{name}")
    current = browser.find_elements(By.CSS_SELECTOR, "nav [aria-current]")
    assert len(current) == (name not in ("token", "mcs", "splitting", "atlas", "search"))
    for link in browser.find_elements(By.CSS_SELECTOR, "main a[href]"):
        target = link.get_dom_attribute("href")
        assert target.startswith("#/")
        found = browser.execute_script(
            "return [...document.querySelectorAll('script[data-page]')].map((pack) => pack.dataset.page)"
        )
        path = target[1:].partition("?")[0]
        assert any(page.split(" ")[0] == path for page in found), target


def test_the_table_is_the_apps_in_every_order(browser: Chrome, place: str, run: Path) -> None:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765") as client:
        for query in QUERIES:
            its = client.get("/features.json", params=query).json()
            visit(browser, f"{place}#/features?{urlencode(query)}")
            assert browser.execute_script(ROWS) == [row["id"] for row in its["rows"]], query
            page = client.get("/features", params=query).text
            texts = browser.execute_script(
                """const page = new DOMParser().parseFromString(arguments[0], "text/html");
                const cells = (root) => [...root.querySelectorAll("table.data tr > :not(:nth-child(2))")];
                const said = (root) => cells(root).map((cell) => [cell.textContent.trim(), cell.ariaSort]);
                const fields = (root) => [...root.querySelector(".filters").elements].map((field) => field.value);
                const pager = (root) => root.querySelector(".pager").textContent.replace(/\\s+/g, "");
                return [page, document].map((root) => JSON.stringify([said(root), fields(root), pager(root)]));""",
                page,
            )
            assert texts[0] == texts[1], query


def test_comparisons_are_the_apps_in_every_order(browser: Chrome, place: str, run: Path) -> None:
    script = """
    const page = new DOMParser().parseFromString(arguments[0], "text/html");
    const words = (node) => {
      const copy = node.cloneNode(true);
      for (const token of copy.querySelectorAll("[data-token]")) token.textContent = token.dataset.token;
      return copy.textContent.replace(/\\s+/g, "");
    };
    const every = (root, selector, told) => [...root.querySelectorAll(`main ${selector}`)].map(told);
    return [page, document].map((root) => JSON.stringify([
      every(root, "table.data tr > *", (cell) => [words(cell), cell.ariaSort]), every(root, ".pager, #tree", words),
      every(root, "p:not(.note, .step, .pager, .lab-tools)", words),
      arguments[1] === "/mcs" ? [] : every(root, ".filters :is(input, select)", (field) => field.value),
      every(root, "h1, h2", words)]));
    """
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765") as client:
        visit(browser, place)
        for path, query in COMPARISONS:
            address = f"{path}?{urlencode(query)}"
            its = client.get(address)
            assert its.status_code == 200, its.text
            turn(browser, address)
            texts = browser.execute_script(script, its.text, path)
            assert texts[1] == texts[0], address
            assert len(texts[0]) > (50 if path == "/splitting" and not query else 500)


def test_comparing_by_clicks(browser: Chrome, place: str) -> None:
    visit(browser, f"{place}#/compare?{urlencode(PAIR)}")
    assert "All 6 pairs" in browser.find_element(By.CSS_SELECTOR, ".note").text
    rows = """return [...document.querySelectorAll("[aria-label='Pairs of features'] tbody tr")]
      .map((row) => Number(row.cells[0].textContent))"""
    browser.find_element(By.CSS_SELECTOR, "th.id a").click()
    until(browser, "return document.querySelector('th.id[aria-sort=ascending]')")
    assert browser.execute_script(rows) == list(range(100))
    browser.find_element(By.CSS_SELECTOR, ".pager a[rel=next]").click()
    until(browser, "return document.querySelector('.pager a[rel=prev]')")
    assert browser.execute_script(rows) == list(range(100, 120))
    browser.find_element(By.LINK_TEXT, "swap").click()
    until(browser, "return location.hash.includes('a=1&b=2')")
    heading(browser, "Compare")
    browser.find_element(By.LINK_TEXT, "Splitting").click()
    heading(browser, "Splitting")
    counts = browser.find_elements(By.CSS_SELECTOR, "[aria-label='What features become'] tbody tr:nth-child(2) td a")
    count = next(each for each in counts if each.text != "0")
    many = int(count.text)
    count.click()
    features = "return document.querySelectorAll('[aria-label=\"Features and their children\"] tbody tr').length"
    until(browser, f"return location.hash.includes('level=1') && ({features[7:]}) === arguments[0]", many)
    browser.find_element(By.CSS_SELECTOR, "a[href$='#tree']").click()
    until(browser, "return document.querySelector('#tree li')")
    Select(browser.find_element(By.NAME, "fate")).select_by_visible_text("lost")
    browser.find_element(By.XPATH, "//button[.='Filter']").click()
    until(browser, "return location.hash.includes('fate=lost') && !document.querySelector('#tree')")
    browser.find_element(By.LINK_TEXT, "Atlas").click()
    heading(browser, "Atlas")
    members = browser.find_element(By.NAME, "members")
    members.clear()
    members.send_keys("0,1", Keys.ENTER)
    heading(browser, "Not found")
    assert "monosemy serve run" in browser.find_element(By.TAG_NAME, "main").text


def test_rows_lead_to_their_features_whatever_the_order(browser: Chrome, place: str) -> None:
    """A heading's link sorts; a row's, which is a heading too, leads to its feature, where that is in the file."""
    rows = """return [...document.querySelectorAll("table.data tbody th a")]
      .map((link) => [Number(link.textContent), link.hash])"""
    for path, of in (("/mcs", {"a": 1}), ("/compare", {"a": 1, "b": 0})):
        visit(browser, f"{place}#{path}?{urlencode({'grid': 'dictionaries', **of})}")
        for _ in range(2):
            browser.find_element(By.CSS_SELECTOR, "th.density a").click()
            until(browser, "return document.querySelector('th.density[aria-sort]')")
            found = browser.execute_script(rows)
            assert found
            assert found == [[feature, f"#/features/{feature}?index=features-1"] for feature, _ in found]
    browser.find_element(By.LINK_TEXT, "MCS table").click()
    heading(browser, "MCS table")
    browser.find_element(By.LINK_TEXT, "widths").click()
    until(browser, "return location.hash.includes('grid=widths')")
    assert "beside all others" in browser.find_element(By.CSS_SELECTOR, ".note").text


def test_what_fires_on_a_token(browser: Chrome, place: str, run: Path) -> None:
    visit(browser, place)
    browser.find_element(By.ID, "search").send_keys("e", Keys.ENTER)
    heading(browser, "Features on e")
    assert browser.current_url.partition("#")[2].startswith("/token?")
    rows = "return [...document.querySelectorAll('table.data tbody th')].map((cell) => Number(cell.textContent))"
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765") as client:
        for text in ("e", " "):
            visit(browser, f"{place}#/token?{urlencode({'index': 'features', 'q': text})}")
            lists = client.get("/token.json", params={"index": "features", "q": text}).json()["lists"]
            assert browser.execute_script(rows) == [use["feature"] for each in lists for use in each["features"]]
    visit(browser, f"{place}#/token?{urlencode({'index': 'features', 'q': 'no such token'})}")
    heading(browser, "Not found")


def test_lists_have_pages(browser: Chrome, place: str) -> None:
    visit(browser, f"{place}#/features?sort=max&at=20")
    assert len(browser.execute_script(ROWS)) == WIDTH - 20
    browser.find_element(By.CSS_SELECTOR, ".pager a[rel=prev]").click()
    until(browser, "return document.querySelectorAll('table.data tbody tr').length === arguments[0]", WIDTH)
    assert not browser.find_elements(By.CSS_SELECTOR, ".pager a")


def test_clicking_through(browser: Chrome, place: str, run: Path) -> None:
    visit(browser, place)
    browser.find_element(By.CSS_SELECTOR, "a.card[href*=features-1]").click()
    heading(browser, "Features of member 1")
    browser.find_element(By.CSS_SELECTOR, "th.density a").click()
    until(browser, "return location.hash.includes('sort=density') && document.querySelector('th.density[aria-sort]')")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('table.data tbody a')].map((link) => Number(link.textContent))"
    )
    assert 6 <= len(shown) < WIDTH
    browser.find_element(By.CSS_SELECTOR, "table.data tbody a").click()
    heading(browser, f"Feature {shown[0]}")
    for feature in shown[1:]:  # along the list that one came from, by keyboard, over those without a page
        browser.find_element(By.TAG_NAME, "body").send_keys("j")
        heading(browser, f"Feature {feature}")
    assert not browser.find_elements(By.CSS_SELECTOR, ".step a[rel=next]")
    browser.find_element(By.CSS_SELECTOR, ".step a[rel=prev]").click()
    heading(browser, f"Feature {shown[-2]}")
    browser.back()
    heading(browser, f"Feature {shown[-1]}")
    assert "sort=density" in browser.current_url
    browser.refresh()
    heading(browser, f"Feature {shown[-1]}")
    browser.find_element(By.ID, "share").click()
    until(browser, "return document.getElementById('readout').textContent.includes(arguments[0])", place)
    browser.find_element(By.TAG_NAME, "body").send_keys("gg")
    heading(browser, "Grid")
    browser.execute_script(
        "document.querySelector('.chart').emit('plotly_click', {points: [{pointNumber: 1, curveNumber: 0}]})"
    )
    heading(browser, State(run).grids["dictionaries"].rows[1]["variant"])


def test_searching_and_filtering(browser: Chrome, place: str) -> None:
    visit(browser, f"{place}#/features/3?index=features-1")
    browser.find_element(By.ID, "search").send_keys("#3", Keys.ENTER)
    until(browser, "return location.hash === '#/features/3?index=features-1'")
    browser.find_element(By.ID, "search").clear()
    browser.find_element(By.ID, "search").send_keys("<img", Keys.ENTER)
    heading(browser, "Features of member 1")
    assert "q=%3Cimg" in browser.current_url
    browser.find_element(By.LINK_TEXT, "clear").click()
    until(browser, "return document.querySelectorAll('table.data tbody tr').length === arguments[0]", WIDTH)
    field = browser.find_element(By.NAME, "density_min")
    field.send_keys("much", Keys.ENTER)
    assert browser.execute_script("return arguments[0].validationMessage", field).startswith("must be a number")
    field.clear()
    field.send_keys("0.01", Keys.ENTER)
    until(browser, "return location.hash.includes('density_min=0.01')")
    assert browser.find_element(By.NAME, "density_min").get_property("value") == "0.01"


def test_hostile_text_is_shown_as_it_is(browser: Chrome, place: str) -> None:
    visit(browser, f"{place}#/features/3?index=features-1")
    assert HOSTILE in browser.find_element(By.TAG_NAME, "main").text
    visit(browser, f"{place}#/features?{urlencode({'q': HOSTILE, 'index': HOSTILE})}")
    visit(browser, f"{place}#/{HOSTILE}")
    heading(browser, "Not found")
    assert browser.execute_script("return document.querySelectorAll('main img, main script:not([type])').length") == 0


@pytest.mark.parametrize(
    ("name", "hash"),
    [("feature", "#/features/3?index=features-1"), ("compare", "#/compare"), ("atlas", "#/atlas?grid=widths")],
)
def test_dark_and_on_a_phone(browser: Chrome, place: str, name: str, hash: str) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        visit(browser, f"{place}{hash}")
        browser.find_element(By.ID, "theme").click()
        until(browser, "return document.documentElement.dataset.theme === 'dark'")
        screenshot(browser, f"export-{name}-phone-dark")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    finally:
        browser.find_element(By.ID, "theme").click()
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_what_no_script_runs(browser: Chrome, place: str) -> None:
    """The policy holds against a script, a handler and a request that were put into the page."""
    visit(browser, place)
    browser.execute_script(
        """window.blocked = [];
        document.addEventListener("securitypolicyviolation", (event) => window.blocked.push(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "document.title = 'owned'";
        document.body.append(script);
        document.body.setAttribute("onclick", "document.title = 'owned'");
        document.body.click();"""
    )
    blocked = browser.execute_async_script(
        "const done = arguments[0]; fetch('https://example.org/').then(() => done('fetched'), () => done('blocked'));"
    )
    assert blocked == "blocked"
    assert browser.title != "owned"
    assert set(until(browser, "return blocked.length > 2 && blocked")) == {
        "script-src-elem",
        "script-src-attr",
        "connect-src",
    }
    forgive(browser, "Content Security Policy")

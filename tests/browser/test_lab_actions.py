"""Every live action of a feature's page and of a member's: what it shows, the link that repeats it, and its Python."""

from __future__ import annotations

import csv
import io
import re
import urllib.request
import zipfile
from typing import Any

import pytest
from conftest import screenshot
from laboratory import page_of, press, result, said, typed
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from serving import TEXT, WAIT_S, Server, until, visit

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab

# analysis: (its button, the fields that are changed, what its result shows besides words and a table)
ACTIONS = {
    "context": ("Ablate context", {}, ("charts",)),
    "prepend": ("Scan prepend", {}, ("charts",)),
    "append": ("Scan append", {"plausible": "0.001"}, ("charts",)),
    "replace": ("Replace", {"position": "2"}, ("charts",)),
    "alone": ("Every token alone", {}, ("charts",)),
    "logits": ("Logits", {}, ("charts",)),
    "attribution": ("Attribution", {"target": ",", "n_features": "4"}, ("charts", "links")),
    "ablation": ("Ablation effect", {}, ("strips", "charts")),
    "ablation-examples": ("Ablation effect on examples", {"examples": "2"}, ("strips", "charts")),
    "steer": ("Steer", {"how": "clamp", "new_tokens": "12", "seed": "3"}, ("strips",)),
    "steering-agreement": ("Steering agreement", {"texts": "2", "new_tokens": "8"}, ("charts", "links")),
    "neurons": ("Neurons", {"max_tokens": "20000"}, ("charts",)),
    "curves": ("Neuron curves", {"max_tokens": "20000", "directions": "5"}, ("charts",)),
    "probe": ("Sparse probes", {"max_tokens": "20000", "choose": "difference"}, ("charts",)),
}
TEXTLESS = ("alone", "ablation-examples", "neurons", "logits", "curves", "probe")
LINES = "\n".join(
    f"{label}\tThe {label} {verb} on the {place}."
    for label in ("dog", "cat")
    for verb in ("sat", "ran", "lay", "ate")
    for place in ("mat", "bed", "box", "big red box")
)
OF_MEMBER = {
    "agreement": ("Input–output agreement", {"examples": "6", "controls": "20"}, ("charts", "links")),
    "leading-curves": ("Neuron curves", {"max_tokens": "20000"}, ("charts",)),
    "labels": ("Probe labelled text", {"lines": LINES, "pooling": "mean"}, ("charts",)),
}
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
LINKS = """return [...document.querySelectorAll(".lab-result:first-child td a")]
  .map((link) => [link.textContent, link.href])"""
STRIP = """[...document.querySelectorAll(".lab-typed .t")]
  .map((token) => [token.dataset.text, token.title, Number(token.style.getPropertyValue("--a"))])"""


@pytest.fixture(scope="module")
def feature(lab: Server) -> int:
    return lab.features[0]


def fill(browser: Chrome, name: str, fields: dict[str, str]) -> None:
    """Write into an analysis' fields."""
    for key, value in fields.items():
        field = browser.find_element(By.ID, f"lab-{name}-{key}")
        if field.tag_name == "input":
            field.clear()
        field.send_keys(value)


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action(browser: Chrome, lab: Server, feature: int, name: str) -> None:
    """Pressed, it shows a result; its link shows the same; its table is the file's; its Python asks for the same."""
    label, fields, shown = ACTIONS[name]
    visit(browser, page_of(lab, feature))
    takes_text = name not in TEXTLESS
    if takes_text:
        typed(browser, TEXT)
    found = pressed(browser, lab, name, label, fields, shown)
    assert re.search(rf"\(lab, \[?({feature}\b|{re.escape(repr(TEXT))})", found["python"])
    assert not takes_text or repr(TEXT) in found["python"]
    again(browser, name, fields, found)
    if takes_text:
        assert browser.find_element(By.ID, "lab-text").get_property("value") == TEXT


@pytest.mark.parametrize("name", OF_MEMBER)
def test_an_action_of_a_member(browser: Chrome, lab: Server, name: str) -> None:
    """The same on the page of a dictionary."""
    visit(browser, f"{lab.address}/grid/0")
    found = pressed(browser, lab, name, *OF_MEMBER[name])
    again(browser, name, OF_MEMBER[name][1], found)


def test_a_link_says_what_it_cannot_hold(browser: Chrome, lab: Server) -> None:
    """Labelled lines may be longer than an address: the link has the other fields, and asks for nothing by itself."""
    visit(browser, f"{lab.address}/grid/0")
    lines = "\n".join(f"{line} {number}" for number in range(20) for line in LINES.splitlines())
    script = "const field = document.getElementById('lab-labels-lines'); field.value = arguments[0];"
    browser.execute_script(script, lines)
    fill(browser, "labels", {"pooling": "mean"})
    press(browser, "Probe labelled text")
    found = result(browser)
    assert browser.find_elements(By.LINK_TEXT, "link without lines")
    browser.switch_to.new_window("tab")
    visit(browser, found["link"])
    assert browser.find_element(By.ID, "lab-labels-pooling").get_property("value") == "mean"
    assert not browser.find_elements(By.CLASS_NAME, "lab-result")


def pressed(
    browser: Chrome, lab: Server, name: str, label: str, fields: dict[str, str], shown: tuple[str, ...]
) -> dict[str, Any]:
    """Fill in an action's fields and press it; what it shows, which is what it should."""
    fill(browser, name, fields)
    press(browser, label)
    found = result(browser)
    screenshot(browser, f"live-{name}")
    found["links"] = browser.execute_script(LINKS)
    assert found["title"] == label
    assert all(found[part] for part in ("words", "rows", *shown)), found
    rows = list(csv.reader(io.StringIO(lab.text(found["csv"].removeprefix(lab.address)))))
    assert len(rows) - 1 >= len(found["rows"])
    for feature, href in found["links"]:
        assert href.endswith(f"/features/{feature}?index=features")
    compile(found["python"], "copied", "exec")
    return found


def again(browser: Chrome, name: str, fields: dict[str, str], found: dict[str, Any]) -> None:
    """The link of a result shows it again, in a tab of its own, with the fields as they were."""
    link = found["link"]
    assert browser.current_url == link  # the address of the page repeats it as well
    browser.switch_to.new_window("tab")
    visit(browser, link)
    assert {**result(browser), "links": browser.execute_script(LINKS)} == found
    for key, value in fields.items():
        assert browser.find_element(By.ID, f"lab-{name}-{key}").get_property("value") == value


WHISKERS = """
const count = (selector) => document.querySelectorAll(`.charts ${selector}`).length;
return count(".bars .point") > 0 && count(".errorbar .yerror") === count(".bars .point");
"""


def test_the_mcs_table(browser: Chrome, lab: Server) -> None:
    """A heading sorts it, what looks meaningful comes by a job, and both files hold the whole table in that order."""
    visit(browser, f"{lab.address}/mcs?others=1")
    browser.find_element(By.LINK_TEXT, "density").click()
    until(browser, "return document.querySelector('th.density').ariaSort === 'descending'")
    assert browser.find_elements(By.CSS_SELECTOR, "td.example-text")[0].text
    browser.find_element(By.NAME, "meaningful").send_keys("yes")
    browser.find_element(By.XPATH, "//main//button[.='Show']").click()
    until(browser, "return document.querySelector('main').textContent.includes('Look meaningful: ')")
    visit(browser, browser.current_url)
    until(browser, WHISKERS)
    screenshot(browser, "mcs-table")
    ids = browser.execute_script("return [...document.querySelectorAll('tbody th')].map((cell) => cell.textContent)")
    files = {each.text: str(each.get_attribute("href")) for each in browser.find_elements(By.CSS_SELECTOR, "#tools a")}
    rows = list(csv.DictReader(io.StringIO(lab.text(files["CSV"].removeprefix(lab.address)))))
    assert [row["feature"] for row in rows] == ids
    assert {row["meaningful"] for row in rows} <= {"True", "False"}
    with (
        urllib.request.urlopen(files["XLSX"], timeout=WAIT_S) as answer,
        zipfile.ZipFile(io.BytesIO(answer.read())) as archive,
    ):
        assert archive.testzip() is None
        assert archive.read("xl/worksheets/sheet1.xml").count(b"<row ") == len(rows) + 1
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    visit(browser, browser.current_url)
    press(browser, "Copy as Python")
    until(browser, "return !document.querySelector('#tools').textContent.includes('Copy as Python')")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    screenshot(browser, "mcs-table-phone")


def test_activations_follow_the_typing(browser: Chrome, lab: Server, feature: int) -> None:
    """Each token is shaded by its own code, as the library computes it, whatever was typed before."""
    visit(browser, page_of(lab, feature))
    index = lab.run / "features"
    model = FeatureIndex.open(index).artifact.parent("model").path
    opened = Lab.open(lab.run / "dictionaries", member=0, model=model, tokens=lab.run / "tokens", index=index)
    whole = ""
    for more in ("Tom and Sue", " had a big red ball.", '\n<b>"Lily"</b> & co'):
        whole += more
        typed(browser, more)
        tokens = opened.texts.sequence(opened.ids(whole))
        codes = opened.codes(opened.batch([whole]))[0, :, feature].tolist()
        until(browser, f"return JSON.stringify({STRIP}.map(([text]) => text)) === JSON.stringify(arguments[0])", tokens)
        shown = browser.execute_script(f"return {STRIP}")
        assert [float(title) for _, title, _ in shown] == pytest.approx(codes, rel=1e-4, abs=1e-5)
        shades = [min(1, code / opened.maximum(feature)) for code in codes]
        assert [shade for _, _, shade in shown] == pytest.approx(shades, abs=1e-3)
        assert any(shades)
    screenshot(browser, "live-activations")


def test_a_text_is_needed(browser: Chrome, lab: Server, feature: int) -> None:
    """A button that needs a text says so, and asks for nothing."""
    visit(browser, page_of(lab, feature))
    press(browser, "Scan prepend")
    until(browser, "return document.getElementById('lab').textContent.includes('“Scan prepend” needs a text.')")
    assert browser.switch_to.active_element.get_attribute("id") == "lab-text"
    assert not browser.find_elements(By.CLASS_NAME, "lab-result")


def test_what_cannot_be_met_is_said(browser: Chrome, lab: Server, feature: int) -> None:
    """The server's own words are shown where the result would be."""
    visit(browser, page_of(lab, feature, lab="replace", prompt="Tom", position="99"))
    assert "`position` (=99)" in said(browser, "position")
    assert browser.find_elements(By.CSS_SELECTOR, ".lab-failed")
    screenshot(browser, "live-refused")


def test_copy_as_python(browser: Chrome, lab: Server, feature: int) -> None:
    """The program is on the clipboard, or, where a browser forbids that, in a field with its text marked."""
    visit(browser, page_of(lab, feature, lab="logits"))
    program = result(browser)["python"]
    press(browser, "Copy as Python")
    script = (
        "return document.querySelector('.lab-tools textarea')?.value ?? document.querySelector('.lab-tools button')"
    )
    shown = until(browser, f"{script}.textContent.replace('Copy as Python', '')")
    if shown == "Copied":
        permit = {"permissions": ["clipboardReadWrite"], "origin": lab.address}
        browser.execute_cdp_cmd("Browser.grantPermissions", permit)
        shown = browser.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert shown == program

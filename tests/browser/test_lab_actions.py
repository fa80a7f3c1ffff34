"""Every live action of a feature's page: what it shows, the link that repeats it, and its Python."""

from __future__ import annotations

import csv
import io

import pytest
from conftest import screenshot
from laboratory import page_of, press, result, said, typed
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from serving import TEXT, Server, until, visit

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab

# analysis: (its button, the fields that are changed, what its result shows)
ACTIONS = {
    "context": ("Ablate context", {}, ("charts",)),
    "prepend": ("Scan prepend", {}, ("charts",)),
    "append": ("Scan append", {"plausible": "0.001"}, ("charts",)),
    "replace": ("Replace", {"position": "2"}, ("charts",)),
    "alone": ("Every token alone", {}, ("charts",)),
    "steer": ("Steer", {"how": "clamp", "new_tokens": "12", "seed": "3"}, ("strips",)),
    "ablation": ("Ablation effect", {}, ("strips", "charts")),
    "ablation-examples": ("Ablation effect on examples", {"examples": "2"}, ("strips", "charts")),
    "neurons": ("Neurons", {"max_tokens": "20000"}, ("charts", "facts")),
    "logits": ("Logits", {}, ("charts",)),
}
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
    takes_text = name not in ("alone", "ablation-examples", "neurons", "logits")
    if takes_text:
        typed(browser, TEXT)
    fill(browser, name, fields)
    press(browser, label)
    found = result(browser)
    screenshot(browser, f"live-{name}")
    assert found["title"] == label
    assert all(found[part] for part in shown), found
    assert found["rows"]
    rows = list(csv.reader(io.StringIO(lab.text(found["csv"].removeprefix(lab.address)))))
    assert len(rows) - 1 >= len(found["rows"])
    assert f"(lab, {feature}" in found["python"]
    assert not takes_text or repr(TEXT) in found["python"]
    compile(found["python"], "copied", "exec")

    link = found["link"]
    assert browser.current_url == link  # the address of the page repeats it as well
    browser.switch_to.new_window("tab")
    visit(browser, link)
    assert result(browser) == found
    if takes_text:
        assert browser.find_element(By.ID, "lab-text").get_property("value") == TEXT
    for key, value in fields.items():
        assert browser.find_element(By.ID, f"lab-{name}-{key}").get_property("value") == value


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

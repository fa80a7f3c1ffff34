"""Finding features: by a text, live; by a token; and beside a feature, those of like direction."""

from __future__ import annotations

from urllib.parse import urlencode

from conftest import screenshot
from laboratory import occupied, press, result, said
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from serving import TEXT, Server, until, visit

BUSY = 320_000  # tokens: another number than other tests ask for


def lines(browser: Chrome) -> list[str]:
    """The features of the result, strongest first."""
    return [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#search-results .example a")]


def test_by_a_text(browser: Chrome, lab: Server) -> None:
    """From the list's form to a result that is the server's; another text; the address repeats it, and a reload."""
    visit(browser, f"{lab.address}/features?index=features")
    field = browser.find_element(By.NAME, "text")
    field.send_keys(TEXT, Keys.ENTER)
    until(browser, "return location.pathname === '/search' && document.getElementById('search-text').value", TEXT)
    found = result(browser)
    screenshot(browser, "search-text")
    done = lab.json(found["csv"].removeprefix(lab.address).removesuffix("/table.csv"))["done"]
    assert lines(browser) == [str(each["feature"]) for each in done["features"]]
    assert found["strips"] == ["".join(done["tokens"])] * len(done["features"])
    assert f"features_of_prompt(lab, {TEXT!r}" in found["python"]

    text = browser.find_element(By.ID, "search-text")
    text.clear()
    text.send_keys("Lily and Ben")
    count = browser.find_element(By.ID, "search-n")
    count.clear()
    count.send_keys("3", Keys.ENTER)
    until(browser, "return document.querySelectorAll('#search-results .example').length === 3")
    first, link = lines(browser), result(browser)["link"]
    assert browser.current_url == link
    browser.refresh()
    result(browser)
    assert lines(browser) == first
    browser.find_element(By.CSS_SELECTOR, "#search-results .example a").click()
    until(browser, "return location.pathname === arguments[0]", f"/features/{first[0]}")


def test_by_a_text_while_a_long_analysis_runs(browser: Chrome, lab: Server) -> None:
    """What is asked goes between two pieces of it; asked anew at once, only the last is shown."""
    with occupied(lab, BUSY):
        visit(browser, f"{lab.address}/search?index=features")
        text = browser.find_element(By.ID, "search-text")
        assert not browser.find_elements(By.CLASS_NAME, "lab-result")
        for words in ("The cat", " sat down", " and slept"):
            text.send_keys(words)
            press(browser, "Search")
        found = result(browser)
        assert "The cat sat down and slept" in found["python"]
        assert len(browser.find_elements(By.CLASS_NAME, "lab-result")) == 1


def test_a_result_is_read_by_keyboard(browser: Chrome, lab: Server) -> None:
    """The arrows go over the tokens of a line, and the last line tells each one's code."""
    visit(browser, f"{lab.address}/search?index=features#{urlencode({'prompt': TEXT, 'n': 2})}")
    result(browser)
    strip = browser.find_element(By.CSS_SELECTOR, "#search-results .strip")
    browser.execute_script("arguments[0].focus({focusVisible: true})", strip)
    peak = "return [...arguments[0].querySelectorAll('.t')].findIndex((each) => each.matches('.cursor'))"
    at = browser.execute_script(peak, strip)
    ActionChains(browser).send_keys(Keys.ARROW_LEFT if at else Keys.ARROW_RIGHT).perform()
    assert abs(browser.execute_script(peak, strip) - at) == 1


def test_what_cannot_be_searched_is_said(browser: Chrome, lab: Server, hostile: Server) -> None:
    """A text that is too long, in the server's words; a run whose model is gone."""
    visit(browser, f"{lab.address}/search?index=features#{urlencode({'prompt': 'one two three ' * 250, 'n': 5})}")
    assert "tokens" in said(browser, "tokens")
    visit(browser, f"{hostile.address}/search?index=features#{urlencode({'prompt': 'Once', 'n': 5})}")
    assert "nowhere" in said(browser, "nowhere")


def test_by_a_token(browser: Chrome, lab: Server) -> None:
    """Both lists are the twin's, and a row opens by keyboard."""
    visit(browser, f"{lab.address}/token?q=+the&index=features")
    lists = lab.json("/token.json?q=+the&index=features")["lists"]
    for table, expected in zip(browser.find_elements(By.CSS_SELECTOR, "table.data"), lists, strict=True):
        rows = [each.text for each in table.find_elements(By.CSS_SELECTOR, "tbody th")]
        assert rows == [str(use["feature"]) for use in expected["features"]]
        assert rows
    screenshot(browser, "search-token")
    ActionChains(browser).send_keys("j", "j", Keys.ENTER).perform()
    until(browser, "return location.pathname === arguments[0]", f"/features/{lists[0]['features'][1]['feature']}")


def test_by_direction(browser: Chrome, lab: Server) -> None:
    """A feature's page has its neighbours, nearest first, each a link."""
    feature = lab.features[0]
    visit(browser, f"{lab.address}/features/{feature}")
    near = lab.json(f"/features/{feature}/neighbours.json")["neighbours"]
    links = browser.find_elements(By.CSS_SELECTOR, "#neighbours a")
    assert [each.text for each in links] == [str(each["feature"]) for each in near]
    assert [each["cosine"] for each in near] == sorted((each["cosine"] for each in near), reverse=True)
    links[0].click()
    until(browser, "return location.pathname === arguments[0]", f"/features/{near[0]['feature']}")

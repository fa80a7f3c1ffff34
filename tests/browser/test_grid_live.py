"""The grid with heat maps, and one dictionary: a cell opens it, tables sort, keys go from one to the next."""

from __future__ import annotations

from conftest import screenshot
from laboratory import click_point
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from serving import Server, until, visit


def test_a_cell_of_a_heat_map_opens_its_dictionary(browser: Chrome, lab: Server) -> None:
    charts = lab.json("/grid.json?grid=later")["charts"]
    names = [each["chart"]["name"] for each in charts]
    assert {"front", "topk-fvu", "topk-l0", "topk-dead_share"} <= set(names)
    visit(browser, f"{lab.address}/grid?grid=later")
    screenshot(browser, "grid-heat")
    place = names.index("topk-fvu")
    ((heat,), (links,)) = charts[place]["chart"]["marks"], charts[place]["links"]
    assert len(links) == len(heat["rows"]) == 2
    click_point(browser, place, 1, 0)
    until(browser, "return location.pathname + location.search === arguments[0]", links[0][1])
    assert lab.json(links[0][1].replace("?", ".json?"))["member"] == 1


def test_a_point_of_the_front_opens_its_dictionary(browser: Chrome, lab: Server) -> None:
    visit(browser, f"{lab.address}/grid?grid=later")
    front = lab.json("/grid.json?grid=later")["charts"][0]
    mark, links = front["chart"]["marks"][1], front["links"][1]
    click_point(browser, 0, mark["x"][0], mark["y"][0])
    until(browser, "return location.pathname + location.search === arguments[0]", links[0])


PLOT = """
const [figure] = document.querySelectorAll("figure"), plot = figure.querySelector(".nsewdrag");
return plot && {
  names: [...figure.querySelectorAll(".entries button")].map((entry) => entry.textContent),
  height: plot.getBoundingClientRect().height,
  shown: figure.querySelector(".chart").data.map((trace) => trace.visible),
};
"""


def test_a_legend_takes_no_room_from_its_plot(browser: Chrome, lab: Server) -> None:
    """It stands above; an entry hides its mark, by keyboard, and shows it again."""
    visit(browser, f"{lab.address}/grid?grid=later")
    marks = lab.json("/grid.json?grid=later")["charts"][0]["chart"]["marks"]
    found = until(browser, PLOT)
    assert found["names"] == [mark["name"] for mark in marks]
    assert len(marks) > 2
    assert found["height"] > 180  # of 260, with the labels of its axis
    entry = browser.find_element(By.CSS_SELECTOR, ".entries button")
    for shown in (False, True):
        entry.send_keys(Keys.ENTER)
        until(browser, "return document.querySelector('.chart').data[0].visible === arguments[0]", shown)
        after = until(browser, PLOT)
        assert entry.get_attribute("aria-pressed") == str(shown).lower()
        assert after == {**found, "shown": [shown, *[True] * (len(found["shown"]) - 1)]}


def test_scores_sort(browser: Chrome, lab: Server) -> None:
    """By a click on a heading, and by keyboard, down and up; a row opens by Enter."""
    visit(browser, f"{lab.address}/grid?grid=later")
    values = """return [...document.querySelectorAll("table.sorts tbody tr")]
      .map((row) => Number(row.cells[arguments[0]].dataset.value))"""
    headings = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "table.sorts th button")]
    column = headings.index("FVU")
    button = browser.find_elements(By.CSS_SELECTOR, "table.sorts th button")[column]
    button.click()
    falling = browser.execute_script(values, column)
    assert falling == sorted(falling, reverse=True)
    button.send_keys(Keys.ENTER)
    assert browser.execute_script(values, column) == sorted(falling)
    ActionChains(browser).send_keys("j").perform()
    chosen = browser.execute_script("return document.activeElement.getAttribute('href')")
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    until(browser, "return location.pathname + location.search === arguments[0]", chosen)


def test_from_one_dictionary_to_the_next(browser: Chrome, lab: Server) -> None:
    """By the arrows; its scores are the grid's, its features and its comparisons are a link away."""
    visit(browser, f"{lab.address}/grid/0?grid=later")
    scores = lab.json("/grid/0.json?grid=later")["scores"]
    told = {row.find_element(By.TAG_NAME, "th").text: row.find_element(By.TAG_NAME, "td").text
            for row in browser.find_elements(By.CSS_SELECTOR, ".columns section:first-child tr")}  # fmt: skip
    assert told == {score["heading"]: score["shown"] for score in scores}
    assert browser.find_element(By.CSS_SELECTOR, "a.card").text.split()[-1] == "features-later"
    for key, member in ((Keys.ARROW_RIGHT, 1), (Keys.ARROW_RIGHT, 2), (Keys.ARROW_LEFT, 1)):
        ActionChains(browser).send_keys(key).perform()
        until(
            browser,
            "return location.pathname === arguments[0] && document.readyState === 'complete'",
            f"/grid/{member}",
        )
    browser.find_element(By.CSS_SELECTOR, "ul.plain a").click()
    until(browser, "return location.pathname === '/compare' && location.search.includes('a=1&b=0')")

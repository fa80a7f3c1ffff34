"""Dictionaries compared: pairs, splitting and atlas by link, click and key; a comparison that a job makes first."""

from __future__ import annotations

from typing import Any

from conftest import screenshot
from laboratory import click_point, occupied, press, said
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select
from serving import Server, until, visit

BUSY = 340_000  # tokens: another number than other tests ask for
FIRST_CELLS = """
const table = [...document.querySelectorAll("main table.data")].at(-1);
return [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.trim());
"""


def shown(browser: Chrome, server: Server, ids: str = "id") -> list[dict[str, Any]]:
    """The rows of the page's last table, held against its twin's."""
    twin = browser.find_element(By.CSS_SELECTOR, "link[type='application/json']").get_property("href")
    rows: list[dict[str, Any]] = server.json(str(twin).removeprefix(server.address))["rows"]
    expected = ["" if row[ids] is None else str(row[ids]) for row in rows]
    cells = browser.execute_script(FIRST_CELLS)
    assert [" ".join(cell.split()[:1]) for cell in cells] == expected  # a token may stand beside the number
    return rows


def test_pairs(browser: Chrome, lab: Server) -> None:
    """Every order is the server's; a point of the scatter, a row by keyboard, and the swap lead where they say."""
    visit(browser, f"{lab.address}/compare?grid=dictionaries&a=0&b=1")
    shown(browser, lab)
    for column in ("density", "density", "one_to_one"):
        before = browser.current_url
        browser.find_element(By.CSS_SELECTOR, f"th.{column} a").click()
        until(browser, "return location.href !== arguments[0] && document.readyState === 'complete'", before)
        rows = shown(browser, lab)
    assert browser.find_element(By.CSS_SELECTOR, "th.one_to_one").get_attribute("aria-sort") == "descending"
    screenshot(browser, "compare-sorted")
    ActionChains(browser).send_keys("j", "j", Keys.ENTER).perform()
    until(browser, "return location.pathname === arguments[0]", f"/features/{rows[1]['id']}")
    visit(browser, f"{lab.address}/compare?grid=dictionaries&a=0&b=1")
    data = lab.json("/compare.json?grid=dictionaries&a=0&b=1")["charts"][0]
    (mark,), (links,) = data["chart"]["marks"], data["links"]
    far = max(range(len(mark["x"])), key=lambda i: mark["x"][i])
    click_point(browser, 0, mark["x"][far], mark["y"][far])
    until(browser, "return location.pathname + location.search === arguments[0]", links[far])
    browser.back()
    until(browser, "return location.pathname === '/compare'")
    browser.find_element(By.LINK_TEXT, "swap").click()
    until(browser, "return location.search.includes('a=1&b=0') && document.querySelector('main table')")


def test_splitting(browser: Chrome, lab: Server) -> None:
    """A count leads to its features, a filter narrows them, and an arrow shows one feature's tree."""
    visit(browser, f"{lab.address}/splitting?grid=later")
    rows = shown(browser, lab, "feature")
    screenshot(browser, "splitting")
    fates = {row["fate"] for row in rows}
    fate = sorted(fates)[0]
    Select(browser.find_element(By.NAME, "fate")).select_by_visible_text(fate)
    browser.find_element(By.XPATH, "//button[.='Filter']").click()
    until(
        browser, "return location.search.includes(`fate=${arguments[0]}`) && document.readyState === 'complete'", fate
    )
    assert {row["fate"] for row in shown(browser, lab, "feature")} == {fate}
    visit(browser, f"{lab.address}/splitting?grid=later")
    parent = next(row for row in rows if row["children"])
    browser.find_element(By.CSS_SELECTOR, f"[aria-label='tree of feature {parent['feature']}']").click()
    until(browser, "return location.hash === '#tree' && document.querySelector('#tree li')")
    told = browser.find_element(By.ID, "tree").text
    assert f"Feature {parent['feature']} and what it becomes" in told
    for child in parent["children"]:
        assert f"{child['feature']} member" in told
        assert f"cosine {child['cosine']:.3f}" in told
    screenshot(browser, "splitting-tree")


def test_the_atlas(browser: Chrome, lab: Server) -> None:
    """Tags lead to their features, and are filtered by the form as well; rows by keyboard."""
    visit(browser, f"{lab.address}/atlas?grid=dictionaries")
    shown(browser, lab, "cluster")
    screenshot(browser, "atlas")
    link = browser.find_element(By.CSS_SELECTOR, "[aria-label='Tags of each dictionary'] td a")
    said, count = str(link.get_attribute("aria-label")), int(link.text)
    link.click()
    until(browser, "return location.search.includes('tag=') && document.readyState === 'complete'")
    assert len(shown(browser, lab, "cluster")) == min(count, 100)
    tag, member = said.split()[1], said.split()[-1]
    assert Select(browser.find_element(By.NAME, "tag")).first_selected_option.text == tag
    assert Select(browser.find_element(By.NAME, "of")).first_selected_option.get_attribute("value") == member
    ActionChains(browser).send_keys("j").perform()
    until(browser, "return document.activeElement.closest('tr[data-row]') !== null")


def test_what_a_job_makes(browser: Chrome, lab: Server) -> None:
    """With codes the atlas waits: cancelled, it says so; after a reload it waits again, and shows itself in the end."""
    with occupied(lab, BUSY):
        visit(browser, f"{lab.address}/atlas?grid=dictionaries")
        Select(browser.find_element(By.NAME, "codes")).select_by_visible_text("directions and codes")
        browser.find_element(By.XPATH, "//button[.='Compare']").click()
        said(browser, "waiting")
        screenshot(browser, "atlas-waiting")
        press(browser, "Cancel")
        said(browser, "cancelled")
        browser.refresh()
        said(browser, "waiting")
    until(browser, "return document.querySelector('[aria-label=Clusters]')")
    rows = lab.json("/atlas.json?grid=dictionaries&members=all&codes=yes")["n_rows"]
    assert f"Codes were compared on {rows:,} rows." in browser.find_element(By.TAG_NAME, "main").text
    screenshot(browser, "atlas-codes")

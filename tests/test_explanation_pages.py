"""Explanations in the app: the list shows, sorts and filters by them, a feature's page has them on top, and whoever
reviews blind does not see them."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from app_run import HOSTILE, WIDTH, app_run
from starlette.testclient import TestClient
from test_export import File

from monosemy.app.export import export
from monosemy.app.server import make_app
from monosemy.explain.store import explanations

ROWS = [
    {"feature": 3, "text": "Months of the year", "author": "ann", "score": 0.5},
    {"feature": 3, "text": "March", "author": "gpt-x", "score": 0.75},
    {"feature": 7, "text": f"a 100 % {HOSTILE}", "author": "<b>bo</b>"},
    {"feature": 9, "text": "month_names", "score": 0.25},
    {"feature": 10, "text": "وقال"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two indexes; the first has explanations."""
    made = app_run(tmp_path_factory.mktemp("explained"))
    source = made.parent / "explanations.jsonl"
    source.write_text("\n".join(map(json.dumps, ROWS)))
    explanations(made / "features", source, out=made / "said")
    return made


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765") as opened:
        yield opened


def listed(client: TestClient, **query: Any) -> dict[str, Any]:
    return cast(dict[str, Any], client.get("/features.json", params=query).json())


def ids(client: TestClient, **query: Any) -> list[int]:
    return [row["id"] for row in listed(client, **query)["rows"]]


def test_the_list_has_a_column_of_them(client: TestClient) -> None:
    data = listed(client)
    assert data["explained"] == 4
    assert {"explanation", "explanation_score"} <= data["columns"].keys()
    told = {row["id"]: (row["explanation"], row["explanation_score"]) for row in data["rows"]}
    assert told[3] == ("March\nMonths of the year", 0.75)
    assert told[10] == ("وقال", None)
    assert told[0] == (None, None)
    page = client.get("/features").text
    assert '<td class="word said" title="March\nMonths of the year"><bdi>March</bdi></td>' in page
    assert f"{WIDTH} features, 4 explained" in page
    assert HOSTILE not in page
    assert HOSTILE in html.unescape(page)


@pytest.mark.parametrize(
    ("text", "found"),
    [("MONTH", [3, 9]), ("march", [3]), ("%", [7]), ("_", [9]), ("وقا", [10]), ("'; DROP TABLE explained; --", [])],
)
def test_it_is_filtered_by_what_they_say(client: TestClient, text: str, found: list[int]) -> None:
    """Capitals or not; no sign of a search pattern means more than itself."""
    assert ids(client, explanation=text) == found
    assert listed(client, explanation=text)["total"] == len(found)


def test_it_is_sorted_and_links_keep_to_the_list(client: TestClient) -> None:
    assert ids(client, sort="explanation_score", desc="1")[:2] == [3, 9]
    assert ids(client, sort="explanation", desc="1")[0] == 10
    rows = listed(client, explanation="month", sort="id", desc="1")["rows"]
    assert [row["id"] for row in rows] == [9, 3]
    first = client.get(rows[0]["href"].replace("?", ".json?", 1)).json()
    assert (first["previous"], first["next"]) == (None, rows[1]["href"])
    page = client.get("/features", params={"explanation": '"month'}).text
    assert 'name="explanation" size="16" maxlength="200" dir="auto" value="&#34;month"' in page


def test_the_page_of_a_feature_has_them_on_top(client: TestClient) -> None:
    assert client.get("/features/3.json").json()["explanations"] == [
        {"text": "March", "author": "gpt-x", "score": 0.75},
        {"text": "Months of the year", "author": "ann", "score": 0.5},
    ]
    page = client.get("/features/3").text
    (block,) = re.findall(r'<ul id="explanations".*?</ul>', page, re.DOTALL)
    assert re.sub(r"<[^>]*>", "", block).split("\n")[1:3] == [
        "  March · gpt-x, score 0.75",
        "  Months of the year · ann, score 0.5",
    ]
    assert page.index("explanations") < page.index('class="numbers"')
    hostile = client.get("/features/7").text
    assert "<b>bo</b>" not in hostile
    assert HOSTILE not in hostile
    assert client.get("/features/0.json").json()["explanations"] == []
    assert 'id="explanations"' not in client.get("/features/0").text


def test_an_index_without_any_has_no_column(client: TestClient) -> None:
    data = listed(client, index="features-1")
    assert data["explained"] is None
    assert "explanation" not in data["columns"]
    assert 'name="explanation"' not in client.get("/features?index=features-1").text
    assert client.get("/features/3.json?index=features-1").json()["explanations"] == []
    for query, said in (
        ("index=features-1&explanation=a", "bring some with `monosemy explanations`"),
        ("index=features-1&sort=explanation", "`sort`"),
        (f"explanation={'a' * 201}", "`explanation` has 201 characters"),
    ):
        answer = client.get(f"/features.json?{query}")
        assert answer.status_code == 400
        assert said in answer.json()["error"]


# --- several stores of one index -----------------------------------------------------

OTHERS = [
    {"feature": feature, "text": f"later {feature}", "author": f"<i>a{feature}</i>"} for feature in (3, 5, 6, 8, 9)
]


@pytest.fixture(scope="module")
def run_of_several(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a second store of the first index, without scores, of more authors than are named."""
    copy = tmp_path_factory.mktemp("several") / "run"
    shutil.copytree(run, copy)
    source = copy.parent / "more.jsonl"
    source.write_text("\n".join(map(json.dumps, OTHERS)))
    explanations(copy / "features", source, out=copy / "said-2")
    return copy


@pytest.fixture(scope="module")
def several(run_of_several: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run_of_several), base_url="http://127.0.0.1:8765") as opened:
        yield opened


def links(page: str) -> dict[str, str]:
    """The names of the stores in a page's line of them, each with where it leads; nowhere: the one that is shown."""
    found = re.findall(r'<p class="dim" id="stores">(.*?)</p>', page, re.DOTALL)
    each = (
        re.findall(r'(?:<a href="([^"]*)">|<b aria-current="true">)<bdi>([^<]*)</bdi></(?:a|b)>', found[0])
        if found
        else []
    )
    return {name: html.unescape(href) for href, name in each}


def test_one_store_leaves_nothing_to_choose(client: TestClient) -> None:
    for address in ("/features", "/features/3", "/features?index=features-1"):
        assert links(client.get(address).text) == {}
    assert [each["name"] for each in listed(client)["stores"]] == ["said"]
    assert listed(client, index="features-1")["stores"] == []
    for query in ({"by": "said-2"}, {"by": "said", "index": "features-1"}, {"by": "../said"}):
        for path in ("/features.json", "/features/3.json"):
            answer = client.get(path, params=query)
            assert (answer.status_code, "`by`" in answer.json()["error"]) == (404, True)


def test_the_list_is_of_the_store_that_its_address_names(several: TestClient) -> None:
    first, second = listed(several)["stores"]
    assert (first["name"], first["shown"], first["authors"], first["more"]) == (
        "said",
        True,
        ["ann", "gpt-x", "<b>bo</b>"],
        0,
    )
    assert (second["name"], second["shown"], second["explained"], second["more"]) == ("said-2", False, 5, 2)
    assert [row["explanation"] for row in listed(several)["rows"]][3] == "March\nMonths of the year"
    other = several.get(second["href"].replace("?", ".json?")).json()
    assert other["explained"] == 5
    assert {row["id"]: row["explanation"] for row in other["rows"] if row["explanation"]} == {
        each["feature"]: each["text"] for each in OTHERS
    }
    assert "explanation_score" not in other["columns"]
    assert ids(several, by="said-2", explanation="later", sort="id", desc="1") == [9, 8, 6, 5, 3]
    page = several.get("/features?dead=no").text
    assert links(page) == {"said": "", "said-2": "/features?index=features&dead=no&by=said-2"}
    assert "<i>a3</i>" not in page
    assert "&lt;i&gt;a3&lt;/i&gt;" in page
    assert "and 2 more" in page
    page = several.get("/features?by=said-2").text
    assert links(page) == {"said": "/features?index=features&by=said", "said-2": ""}
    assert '<input type="hidden" name="by" value="said-2">' in page


def test_what_a_store_lacks_is_left_out_of_the_way_to_it(several: TestClient) -> None:
    """A list in the order of scores leads to a store without any: in its own order."""
    page = several.get("/features?sort=explanation_score&desc=1&explanation=m").text
    assert links(page)["said-2"] == "/features?index=features&explanation=m&by=said-2"
    for href in links(page).values():
        assert several.get(href or "/features").status_code == 200


def test_a_features_page_keeps_the_store(several: TestClient) -> None:
    row = listed(several, by="said-2", explanation="later")["rows"][1]
    data = several.get(row["href"].replace("?", ".json?", 1)).json()
    assert [each["text"] for each in data["explanations"]] == ["later 5"]
    for side, feature in (("previous", 3), ("next", 6)):
        beside = several.get(data[side].replace("?", ".json?", 1)).json()
        assert [each["text"] for each in beside["explanations"]] == [f"later {feature}"]
    page = several.get("/features/3?index=features&by=said-2").text
    assert "later 3" in page
    assert "March" not in page
    assert links(page) == {"said": "/features/3?index=features&by=said", "said-2": ""}
    addresses = {html.unescape(each) for each in re.findall(r'(?:href|data-link|data-source)="(/features[^"]*)"', page)}
    kept = {each for each in addresses if "by=said-2" in each}
    assert {each.split("?")[0] for each in kept} == {
        f"/features{path}" for path in ("", "/2", "/3", "/4", "/3.json", "/3/neighbours.json")
    }
    near = several.get("/features/3/neighbours.json?index=features&by=said-2").json()["neighbours"]
    assert near
    assert all(each["href"].endswith("&by=said-2") for each in near)
    plain = html.unescape(several.get("/features/3").text)
    assert "March" in plain
    assert links(plain)["said-2"] == "/features/3?index=features&by=said-2"


def test_one_file_has_the_first_store_and_names_the_others(run_of_several: Path, tmp_path: Path) -> None:
    file = File(export(run_of_several, tmp_path / "run.html", features=WIDTH))
    for name in ("/features features", "/features/3 features"):
        assert links(file.pages[name]) == {"said": ""}
        assert "<bdi>said-2</bdi>" in file.pages[name]
        assert "/features?index=features&by" not in html.unescape(file.pages[name])


def test_they_are_among_the_runs_artifacts(client: TestClient) -> None:
    entry = next(each for each in client.get("/runs.json").json()["artifacts"] if each["name"] == "said")
    assert (entry["kind"], [parent["here"] for parent in entry["parents"]]) == ("explanations", ["features"])


def test_a_blind_reviewer_does_not_see_them(client: TestClient) -> None:
    for blind in ("yes", "no"):
        asked = {"name": "look", "index": "features", "rule": "random", "count": WIDTH, "seed": 0, "blind": blind}
        headers = {"origin": "http://127.0.0.1:8765"}
        session = client.post("/api/reviews/sessions", json=asked, headers=headers).json()["session"]["id"]
        seen = client.get(f"/api/reviews/{session}/features/3").json()
        assert ("explanations" in seen) == (blind == "no")
        assert ("March" in json.dumps(seen)) == (blind == "no")


def test_they_are_in_the_one_file(run: Path, tmp_path: Path) -> None:
    file = File(export(run, tmp_path / "run.html", features=WIDTH))
    assert file.lists["features"]["explanation"][3] == "March\nMonths of the year"
    assert file.lists["features"]["explanation_score"][9] == 0.25
    assert "explanation" not in file.lists["features-1"]
    assert 'name="explanation"' in file.pages["/features features"]
    assert "<bdi>March</bdi>" in file.pages["/features/3 features"]

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


def test_a_second_store_of_an_index_is_named_as_not_shown(run: Path, client: TestClient, tmp_path: Path) -> None:
    assert [listed(client, index=name)["unshown"] for name in ("features", "features-1")] == [[], []]
    assert "Not shown" not in client.get("/features").text
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    source = tmp_path / "more.jsonl"
    source.write_text(json.dumps({"feature": 5, "text": "later"}))
    explanations(copy / "features", source, out=copy / "said-2")
    with TestClient(make_app(copy), base_url="http://127.0.0.1:8765") as opened:
        assert listed(opened)["unshown"] == ["said-2"]
        assert listed(opened)["explained"] == 4
        assert "Not shown: the explanations in <bdi>said-2</bdi>." in opened.get("/features").text
        assert listed(opened, index="features-1")["unshown"] == []


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

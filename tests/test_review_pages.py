"""The review mode over HTTP: a session from start to end, blindness, what is refused, hostile names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_run import WIDTH, app_run
from starlette.applications import Starlette
from starlette.testclient import TestClient

from monosemy.app import pages, review_pages
from monosemy.app.review_pages import SEEN_BLIND, blinded
from monosemy.app.reviews import VERDICTS
from monosemy.app.state import State

NO_NOTES: tuple[Any, ...] = (3, 0, False, None, [], {})
HOSTILE = "<script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return app_run(tmp_path_factory.mktemp("reviews"))


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    state = State(run)
    yield TestClient(Starlette(routes=review_pages.routes(state), exception_handlers=pages.errors(state)))
    for file in run.glob("reviews.sqlite*"):
        file.unlink()


def started(client: TestClient, **changes: Any) -> int:
    request = {"name": "first look", "index": "features", "rule": "random", "count": 5, "seed": 1, **changes}
    answer = client.post("/api/reviews/sessions", json=request)
    assert answer.status_code == 200, answer.text
    number = answer.json()["session"]["id"]
    assert answer.json()["href"] == f"/review/{number}"
    return int(number)


def test_a_session_from_start_to_end(client: TestClient) -> None:
    assert client.get("/review.json").json()["sessions"] == []
    number = started(client)
    session = client.get(f"/review/{number}.json").json()
    queue = session["queue"]
    assert len(set(queue)) == 5
    assert session["verdicts"] == list(VERDICTS)
    for place, feature in enumerate(queue):
        for reviewer, verdict in (("Ada", VERDICTS[place]), ("Bo", VERDICTS[min(place, 3)])):
            given = {"session": number, "feature": feature, "reviewer": reviewer, "verdict": verdict, "seconds": 1.5}
            answer = client.post("/api/reviews", json={**given, "note": f"note {place}"})
            assert answer.json()["review"]["verdict"] == verdict
    undone = client.post("/api/reviews/undo", json={"session": number, "reviewer": "Ada"}).json()["undone"]
    assert (undone["feature"], undone["note"]) == (queue[4], "note 4")
    mine = client.get(f"/review/{number}.json", params={"reviewer": "Ada"}).json()
    assert [review["feature"] for review in mine["said"]] == queue[:4]
    assert mine["reviewers"] == {"Ada": 4, "Bo": 5}
    found = client.get(f"/api/reviews/{number}/agreement", params={"a": "Ada", "b": "Bo"}).json()
    assert (found["count"], found["share"], found["kappa"]) == (4, 1.0, 1.0)
    file = client.get(f"/api/reviews/{number}/table.csv", params={"reviewer": "Bo"})
    rows = list(csv.DictReader(io.StringIO(file.text)))
    assert [int(row["feature"]) for row in rows if row["reviewer"] == "Bo"] == queue
    assert file.headers["content-disposition"] == f'attachment; filename="reviews-{number}.csv"'
    assert client.get("/review.json").json()["sessions"][0]["reviewers"] == {"Ada": 4, "Bo": 5}


def test_what_one_said_is_not_told_to_another(client: TestClient) -> None:
    number = started(client)
    feature = client.get(f"/review/{number}.json").json()["queue"][0]
    given = {
        "session": number,
        "feature": feature,
        "reviewer": "Ada",
        "verdict": "mixed",
        "note": "a secret",
        "seconds": 0,
    }
    client.post("/api/reviews", json=given)
    for query in ("", "?reviewer=Bo"):
        told = client.get(f"/review/{number}.json{query}")
        assert told.json()["said"] == []
        assert "a secret" not in told.text
    assert "a secret" not in client.get(f"/review/{number}").text


def test_a_blind_session_hides_scores_and_another_shows_them(client: TestClient) -> None:
    blind, seeing = started(client, blind="yes"), started(client, blind="no", count=WIDTH)
    queue = client.get(f"/review/{blind}.json").json()["queue"]
    hidden = [client.get(f"/api/reviews/{blind}/features/{i}").json() for i in queue]
    shown = [client.get(f"/api/reviews/{seeing}/features/{i}").json() for i in queue]
    assert any(feature["groups"] for feature in shown)
    for blinded_one, full in zip(hidden, shown, strict=True):
        assert blinded_one.keys() == {*SEEN_BLIND, "groups", "max"}
        assert blinded_one["max"] == 1.0
        assert "density" in full
        for group, whole in zip(blinded_one["groups"], full["groups"], strict=True):
            assert not group.keys() & {"low", "high"}
            for example, original in zip(group["examples"], whole["examples"], strict=True):
                assert example["tokens"] == original["tokens"]
                expected = [value / (full["max"] or 1) for value in original["values"]]
                assert example["values"] == pytest.approx(expected, abs=1e-4)


def test_a_blind_table_tells_no_more_than_the_asker_said_until_all_is_judged(client: TestClient) -> None:
    number = started(client, blind="yes", count=3)
    queue = client.get(f"/review/{number}.json").json()["queue"]

    def says(reviewer: str, feature: int) -> None:
        given = {"session": number, "feature": feature, "reviewer": reviewer, "verdict": "mixed", "note": reviewer}
        assert client.post("/api/reviews", json=given).status_code == 200

    def table(**asked: str) -> list[dict[str, str]]:
        text = client.get(f"/api/reviews/{number}/table.csv", params=asked).text
        return list(csv.DictReader(io.StringIO(text)))

    for feature in queue:
        says("Ada", feature)
    for feature in queue[:-1]:
        says("Bo", feature)
    assert table() == table(reviewer="Cy") == []
    mine = table(reviewer="Bo")
    assert [int(row["feature"]) for row in mine] == queue[:-1]
    assert {row["reviewer"] for row in mine} == {"Bo"}
    assert not mine[0].keys() & {"chosen", "mcs"}
    whole = table(reviewer="Ada")
    assert len(whole) == 5
    assert whole[0].keys() >= {"chosen", "mcs"}
    says("Bo", queue[-1])
    assert len(table(reviewer="Bo")) == 6
    assert '<span id="review-table" hidden>' in client.get(f"/review/{number}").text
    seeing = started(client, blind="no")
    assert '<span id="review-table">' in client.get(f"/review/{seeing}").text


def test_a_dead_feature_can_be_blinded() -> None:
    seen = dict.fromkeys(SEEN_BLIND)
    assert blinded({**seen, "max": 0.0, "density": 0.0, "dead": True, "groups": []}) == {
        **seen,
        "groups": [],
        "max": 1.0,
    }


def test_requests_that_cannot_be_met(client: TestClient) -> None:
    number = started(client)
    feature = client.get(f"/review/{number}.json").json()["queue"][0]
    outside = next(i for i in range(WIDTH) if i not in client.get(f"/review/{number}.json").json()["queue"])
    right = {"session": number, "feature": feature, "reviewer": "Ada", "verdict": "dead", "seconds": 3}
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"verdict": "fine"}, "`verdict`"),
        ({"feature": outside}, "not in the queue"),
        ({"session": 99}, "`session` (=99)"),
        ({"reviewer": " "}, "reviewer"),
        ({"reviewer": "x" * 101}, "reviewer"),
        ({"note": "x" * 10_001}, "`note`"),
        *(({"note": wrong}, "`note`") for wrong in NO_NOTES),
        ({"seconds": -1}, "`seconds`"),
        ({"more": 1}, "unknown `more`"),
    )
    for changes, said in refused:
        answer = client.post("/api/reviews", json={**right, **changes})
        assert answer.status_code == 400, changes
        assert said in answer.json()["error"]
    assert client.post("/api/reviews", content=b"[]").status_code == 400
    for path in ("/review/99.json", "/api/reviews/99/table.csv", f"/api/reviews/{number}/features/{outside}",
                 f"/api/reviews/{number}/agreement?a=Ada&b=Bo", "/api/reviews/99/features/0"):  # fmt: skip
        assert client.get(path).status_code == 404, path
    for large in (2**63 - 1, 2**63, 10**20 - 1):  # the second is more than SQLite takes
        for path in (f"/review/{large}", f"/review/{large}.json", f"/api/reviews/{large}/table.csv",
                     f"/api/reviews/{large}/agreement", f"/api/reviews/{large}/features/0"):  # fmt: skip
            assert client.get(path).status_code == 404, path
    for changes in (
        {"index": "../../etc"},
        {"rule": "best"},
        {"count": 0},
        {"count": 10**6},
        {"name": ""},
        {"rule": "top"},
    ):
        request = {"name": "n", "index": "features", "rule": "random", "count": 5, "seed": 1, **changes}
        expected = 404 if "index" in changes else 200 if changes == {"rule": "top"} and has_mcs(client) else 400
        assert client.post("/api/reviews/sessions", json=request).status_code == expected, changes
    assert client.post("/api/reviews", json=right).status_code == 200


def has_mcs(client: TestClient) -> bool:
    number = started(client, blind="no", count=WIDTH)
    return any(
        client.get(f"/api/reviews/{number}/features/{i}").json()["mcs_other_seed"] is not None for i in range(WIDTH)
    )


def test_pages_agree_with_their_twins_and_names_are_never_markup(client: TestClient) -> None:
    number = started(client, name=HOSTILE)
    feature = client.get(f"/review/{number}.json").json()["queue"][0]
    given = {"session": number, "feature": feature, "verdict": "mixed", "note": HOSTILE, "seconds": 0}
    for reviewer in (HOSTILE, "Bo"):
        assert client.post("/api/reviews", json={**given, "reviewer": reviewer}).status_code == 200
    for path in ("/review", f"/review/{number}"):
        page = client.get(path)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "<script>document" not in page.text
        assert "&lt;script&gt;document" in page.text
    assert client.get("/review.json").json()["sessions"][0]["name"] == HOSTILE
    assert f'data-session="{number}"' in client.get(f"/review/{number}").text


def test_a_session_outlives_the_server_and_says_where_its_index_is_gone(client: TestClient, run: Path) -> None:
    number = started(client, index="features-1")
    again = State(run)
    other = TestClient(Starlette(routes=review_pages.routes(again), exception_handlers=pages.errors(again)))
    feature = other.get(f"/review/{number}.json").json()["queue"][0]
    assert other.get(f"/api/reviews/{number}/features/{feature}").json()["index"] == "features-1"
    del again.indexes["features-1"]
    gone = other.get(f"/api/reviews/{number}/features/{feature}")
    assert gone.status_code == 404
    assert "copy it back" in gone.json()["error"]

"""Neuron verdicts in the app: the list sorted and filtered by them, their line on a feature's page, kept moments."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from app_run import WIDTH, app_run
from feature_worlds import TableModel
from starlette.applications import Starlette
from starlette.testclient import TestClient

from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import feature_moments
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.verdict import VERDICTS
from monosemy.analysis.verdict_store import VerdictStore, verdicts
from monosemy.app import live, pages, state
from monosemy.app.jobs import Jobs
from monosemy.app.server import make_app
from monosemy.app.state import Grid, State
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import listening

MODEL = cast(LanguageModel, TableModel())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two indexes; the first has verdicts."""
    made = app_run(tmp_path_factory.mktemp("verdicts"))
    verdicts(made / "features", model=MODEL, out=made / "told")
    return made


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765") as opened:
        yield opened


@pytest.fixture(scope="module")
def told(run: Path) -> VerdictStore:
    return VerdictStore.open(run / "told")


def listed(client: TestClient, **query: Any) -> dict[str, Any]:
    return cast(dict[str, Any], client.get("/features.json", params=query).json())


def test_the_list_shows_sorts_and_filters_by_verdict(client: TestClient, told: VerdictStore) -> None:
    by_id = {i: told.evidence(i) for i in range(WIDTH)}
    data = listed(client)
    assert data["verdicts"] == told.counts
    assert "verdict" in data["columns"]
    assert {row["id"]: (row["verdict"], row["neuron"]) for row in data["rows"]} == {
        i: (each.verdict, each.neuron) for i, each in by_id.items()
    }
    present = {each.verdict for each in by_id.values()}
    assert len(present) > 1
    for verdict in VERDICTS:
        found = listed(client, verdict=verdict, sort="density", desc="1")
        mine = sorted((row for row in data["rows"] if row["verdict"] == verdict), key=lambda row: -row["density"])
        assert [row["density"] for row in found["rows"]] == [row["density"] for row in mine]
        assert found["total"] == told.counts[verdict]
    down = listed(client, sort="verdict", desc="1")
    assert [row["verdict"] for row in down["rows"]] == sorted((e.verdict for e in by_id.values()), reverse=True)
    said = {row["id"] for row in data["rows"] if row["verdict"] == "dead"}
    assert said == {row["id"] for row in data["rows"] if row["dead"]}
    assert said == {row["id"] for row in data["rows"] if row["count"] == 0}
    assert [row["id"] for row in listed(client, verdict="dead", dead="yes", q="")["rows"]] == sorted(said)
    assert listed(client, verdict="dead", dead="no")["total"] == 0
    assert listed(client, verdict="too rare", dead="yes")["total"] == 0


def test_the_page_of_the_list_offers_the_verdicts(client: TestClient, told: VerdictStore) -> None:
    page = html.unescape(client.get("/features?verdict=dead&sort=verdict").text)
    assert re.search(r'<option value="dead" selected>dead \(\d+\)</option>', page)
    assert all(f'<option value="{verdict}"' in page for verdict in told.counts)
    assert page.count('<td class="word" title="most like neuron') == sum(
        told.evidence(i).neuron >= 0 for i in range(WIDTH) if told.evidence(i).verdict == "dead"
    )
    assert 'aria-sort="ascending"><a href="/features?index=features&sort=verdict' in page


def test_links_keep_to_the_list(client: TestClient) -> None:
    kept = next(verdict for verdict in VERDICTS if listed(client, verdict=verdict)["total"] > 2)
    rows = listed(client, verdict=kept, sort="max")["rows"]
    middle = client.get(rows[1]["href"].replace("?", ".json?", 1)).json()
    assert middle["feature"] == rows[1]["id"]
    assert (middle["previous"], middle["next"]) == (rows[0]["href"], rows[2]["href"])


def test_the_page_of_a_feature_says_the_verdict_with_its_evidence(client: TestClient, told: VerdictStore) -> None:
    for i in range(WIDTH):
        evidence = told.evidence(i)
        data, page = client.get(f"/features/{i}.json").json()["neurons"], client.get(f"/features/{i}").text
        assert data["verdict"] == evidence.verdict
        assert data["share_few"] == evidence.share_few
        assert data["tokens"] == told.tokens
        (line,) = re.findall(r'<p id="neurons">(.*?)</p>', page, re.DOTALL)
        assert f"<b>{evidence.verdict}</b>" in line
        untold = evidence.verdict in ("dead", "too rare")
        assert (f"most like number {evidence.neuron} " in line) == (not untold and evidence.neuron >= 0)
        assert (f"fires on {evidence.count:,} of" in line) == untold
        if not untold and evidence.share_few is not None:
            assert f"the best 8 tell {100 * evidence.share_few:.0f} %" in line
        assert f"of {told.tokens:,} tokens" in line or f"{told.tokens:,} tokens" in line


def test_an_index_without_verdicts_has_none(client: TestClient) -> None:
    data = listed(client, index="features-1")
    assert data["verdicts"] is None
    assert "verdict" not in data["columns"]
    page = client.get("/features?index=features-1").text
    assert 'name="verdict"' not in page
    assert client.get("/features/3.json?index=features-1").json()["neurons"] is None
    assert 'id="neurons"' not in client.get("/features/3?index=features-1").text
    for query, said in (
        ("index=features-1&verdict=few", "make some with `monosemy verdicts`"),
        ("index=features-1&sort=verdict", "`sort`"),
        ("verdict=perhaps", "`verdict` (='perhaps') must be one of any, a single neuron"),
    ):
        answer = client.get(f"/features.json?{query}")
        assert answer.status_code == 400
        assert said in answer.json()["error"]


def test_they_are_among_the_runs_artifacts(client: TestClient) -> None:
    data = client.get("/runs.json").json()
    entry = next(each for each in data["artifacts"] if each["name"] == "told")
    assert entry["kind"] == "verdicts"
    assert [parent["here"] for parent in entry["parents"]] == ["features"]


# ---- moments, kept for the live comparison with neurons ------------------------------------------------------------


@pytest.fixture
def opened(run: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """The run with the table for its model, which lies nowhere."""

    def lab(self: State, grid: Grid, member: int) -> Lab:
        index = self.indexes[self.indexed(grid)[member]]
        return Lab.open(grid.artifact.path, member=member, model=MODEL, tokens=run / "tokens", index=index)

    monkeypatch.setattr(State, "_open_lab", lab)
    return State(run)


def ended(client: TestClient, feature: int, max_tokens: int = 20_000, member: int = 0) -> dict[str, Any]:
    asked = {"dictionaries": "dictionaries", "member": member, "feature": feature, "max_tokens": max_tokens}
    job = client.post("/api/live/neurons", json=asked).json()["job"]
    end = time.monotonic() + 60
    while (found := client.get(f"/api/jobs/{job}").json())["state"] not in ("done", "failed", "cancelled"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return cast(dict[str, Any], found)


def test_one_pass_serves_every_feature_of_a_dictionary(opened: State, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = []

    def counted(lab: Lab, **options: Any) -> Any:
        gathered.append(options)
        return feature_moments(lab, **options)

    monkeypatch.setattr(state, "feature_moments", counted)
    jobs = Jobs()
    client = TestClient(Starlette(routes=live.routes(opened, jobs), exception_handlers=pages.errors(opened)))
    try:
        lab = opened.lab("dictionaries", 0)
        moments = feature_moments(lab, max_tokens=20_000)
        alive = [row["id"] for row in opened.indexes["features"].table() if row["count"] > 10][:3]
        for feature in alive:
            found = ended(client, feature)
            assert found["state"] == "done", found
            alone = neuron_comparison(lab, feature, moments=moments)
            assert found["done"]["facts"] == live.facts(alone)
            assert f"neuron_comparison(lab, {feature}, moments=moments)" in found["done"]["python"]
            assert "moments = feature_moments(lab, max_tokens=20000)" in found["done"]["python"]
        assert gathered == [{"max_tokens": 20_000}]
        assert ended(client, 0)["state"] == "failed"  # it never fires
        assert ended(client, alive[0], member=1)["state"] == "done"
        assert ended(client, alive[0], max_tokens=10_000)["state"] == "done"
        assert len(gathered) == 3
        assert len(opened._moments) == state.MOMENTS == 2
    finally:
        jobs.close()


def test_a_stopped_pass_keeps_nothing(opened: State) -> None:
    class Cancelled(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Cancelled

    with listening(stop), pytest.raises(Cancelled):
        opened.moments("dictionaries", 0, 20_000)
    assert len(opened._moments) == 0
    first = opened.moments("dictionaries", 0, 20_000)
    assert opened.moments("dictionaries", 0, 20_000) is first

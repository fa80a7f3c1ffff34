"""The app's reading pages: twins, hostile text, who may ask, sorting against brute force, and a real server."""

from __future__ import annotations

import html
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from app_run import HOSTILE, NAME, WIDTH, app_run
from feature_worlds import grid, whole_number_dictionary
from starlette.testclient import TestClient

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.verdict import VERDICTS
from monosemy.app import security
from monosemy.app.compare_page import compare_data, first_member, partner_of
from monosemy.app.feature_list import COLUMNS, feature_list
from monosemy.app.feature_page import feature_data
from monosemy.app.grid_page import heatmaps, undominated
from monosemy.app.lineage import lineage
from monosemy.app.mcs_page import mcs_data
from monosemy.app.pages import PAGES, rendered
from monosemy.app.recent import Recent
from monosemy.app.server import address_of, check_access, make_app, serve
from monosemy.app.state import Grid, State
from monosemy.artifact import Artifact
from monosemy.dictionaries.store import DictionaryStore
from monosemy.runtime import UsageError

ADDRESSES = (
    "/",
    "/grid",
    "/grid/1",
    "/grid/0?grid=dictionaries",
    "/features",
    "/features?index=features-1&sort=max&desc=1&density_min=0.01&dead=no&q=e",
    "/features/0",
    "/features/3",
    "/features/5?index=features-1&sort=density&desc=1&at=3",
    "/token?q=e",
    "/compare",
    "/compare?a=1&b=0&sort=density&desc=0",
    "/compare?a=1&b=1",
    "/mcs",
    "/mcs?a=1&others=0&sort=density&desc=0&low=0.5",
    "/splitting",
    "/atlas",
    "/atlas?members=1,0&tag=orphan&of=0",
    "/circuits",
    "/circuits?grid=dictionaries&member=1&feature=5",
    "/search",
    "/search?index=features-1&text=once",
)
TOKEN = "a-token_that.is~long"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return app_run(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765", follow_redirects=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def index(run: Path) -> FeatureIndex:
    return FeatureIndex.open(run / "features")


def twin_of(text: str) -> str:
    found = re.search(r'<link rel="alternate" type="application/json" href="([^"]*)">', text)
    assert found is not None
    return html.unescape(found[1])


def block(text: str, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# --- pages and their twins ----------------------------------------------------


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_page_and_its_twin_hold_the_same(client: TestClient, address: str) -> None:
    page = client.get(address)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    twin = client.get(twin_of(page.text))
    assert twin.status_code == 200
    assert twin.headers["content-type"] == "application/json"
    data = twin.json()
    text = html.unescape(page.text)
    for row in data.get("rows", []):
        assert row["href"] is None or row["href"] in text
    if "groups" in data:
        assert block(page.text, "feature-data") == data
    if "charts" in data:
        assert block(page.text, "charts-data") == data["charts"]


def test_every_page_is_among_the_addresses() -> None:
    """So that a new page is tested as the others are."""
    for page in PAGES:
        pattern = re.sub(r"\{\w+:int\}", r"\\d+", page.path)
        assert page.template is None or any(re.fullmatch(pattern, each.split("?")[0]) for each in ADDRESSES)


def test_the_feature_page_holds_what_the_index_says(client: TestClient, index: FeatureIndex) -> None:
    for i in range(WIDTH):
        data, feature = client.get(f"/features/{i}.json").json(), index.feature(i)
        for name in ("density", "count", "max", "mean", "dead", "mcs_other_seed", "top_token"):
            assert data[name] == getattr(feature, name)
        assert [tuple(pair) for pair in data["top_logits"]] == feature.top_logits
        assert [tuple(pair) for pair in data["bottom_logits"]] == feature.bottom_logits
        groups = {"top": "top", "uniform": "uniform", "quantile": "quantile", "silent": "random"}
        for kind, name in groups.items():
            mine = [each for group in data["groups"] if group["kind"] == kind for each in group["examples"]]
            key = "tokens", "values", "document", "peak", "position"
            expected = [tuple(getattr(each, field) for field in key) for each in feature.examples[name]]
            found = [tuple(each[field] for field in key) for each in mine]
            assert sorted(found, key=repr) == sorted(expected, key=repr)  # codes are whole numbers here
        quantiles = [group for group in data["groups"] if group["kind"] == "quantile"]
        highs = [group["high"] for group in quantiles]
        assert highs == sorted(highs, reverse=True)
        (mark,) = data["histogram"]["marks"]
        assert sum(mark["counts"]) == feature.count
        if not feature.dead:
            assert len(mark["edges"]) == len(mark["counts"]) + 1
            assert mark["counts"][0] > 0 < mark["counts"][-1]
        assert all(share <= 1 for _, share in data["fires_on"])


def test_a_dead_feature_says_so(client: TestClient) -> None:
    data, page = client.get("/features/0.json").json(), client.get("/features/0").text
    assert data["dead"]
    assert data["density"] == 0
    assert "Dead: it fires on none" in page
    assert 'id="histogram"' not in page
    assert {group["kind"] for group in data["groups"]} <= {"silent"}


def test_neighbours_are_those_of_largest_cosine(client: TestClient, run: Path) -> None:
    W_ND = State(run).directions(State(run).grid(), 0).double()
    cosine_NN = torch.nn.functional.normalize(W_ND, dim=1) @ torch.nn.functional.normalize(W_ND, dim=1).T
    cosine_NN.fill_diagonal_(-9)
    for i in (0, 7, WIDTH - 1):
        found = client.get(f"/features/{i}/neighbours.json").json()["neighbours"]
        best = cosine_NN[i].topk(10)
        assert [each["feature"] for each in found] == best.indices.tolist()
        assert [each["cosine"] for each in found] == pytest.approx(best.values.tolist(), abs=1e-6)


def test_directions_that_were_altered_are_refused_by_the_name_of_their_file(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    file = copy / "dictionaries" / "member-0001.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with TestClient(make_app(copy), base_url="http://localhost") as client:
        answer = client.get("/features/0/neighbours.json?index=features-1")
        assert answer.status_code == 400
        assert "member-0001.safetensors: its checksum is not" in answer.json()["error"]
        assert client.get("/features/0/neighbours.json?index=features").status_code == 200  # of the other member


# --- lists --------------------------------------------------------------------


@pytest.mark.parametrize("sort", COLUMNS)
@pytest.mark.parametrize("desc", [0, 1])
def test_sorting_is_that_of_brute_force(client: TestClient, index: FeatureIndex, sort: str, desc: int) -> None:
    rows = [row for row in index.table() if row["top_token"] is not None and row["mcs_other_seed"] is not None]
    data = client.get(f"/features.json?sort={sort}&desc={desc}&dead=no").json()
    expected = sorted((row for row in rows if not row["dead"]), key=lambda row: row[sort], reverse=bool(desc))
    assert [row[sort] for row in data["rows"]] == [row[sort] for row in expected]
    assert data["total"] == len(expected)


def test_filters_are_those_of_brute_force(client: TestClient, index: FeatureIndex) -> None:
    rows = index.table()
    middle = sorted(row["density"] for row in rows)[WIDTH // 2]
    largest = sorted(row["max"] for row in rows)[3 * WIDTH // 4]
    query = f"density_min={middle}&max_max={largest}&dead=no"
    expected = [row["id"] for row in rows if row["density"] >= middle and row["max"] <= largest and not row["dead"]]
    assert 0 < len(expected) < WIDTH
    assert [row["id"] for row in client.get(f"/features.json?{query}").json()["rows"]] == expected
    dead = [row["id"] for row in rows if row["dead"]]
    assert [row["id"] for row in client.get("/features.json?dead=yes").json()["rows"]] == dead
    token = next(row["top_token"] for row in rows if row["top_token"])
    found = client.get("/features.json", params={"q": token.upper()}).json()["rows"]
    assert [row["id"] for row in found] == [
        row["id"] for row in rows if row["top_token"] and token.lower() in row["top_token"].lower()
    ]


def test_lists_come_in_pages(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.feature_list.ROWS", 10)
    seen, address = [], "/features.json?sort=max&desc=1&index=features-1&dead=any&q="
    while address:
        data = client.get(address).json()
        seen += [row["id"] for row in data["rows"]]
        address = data["next"] and data["next"].replace("/features?", "/features.json?")
    assert sorted(seen) == list(range(WIDTH))
    assert data["previous"] is not None


@pytest.mark.parametrize("page", ["/features", "/compare", "/mcs", "/atlas"])
def test_behind_the_end_of_a_list_is_its_last_page(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    for module in ("feature_list", "compare_page", "mcs_page", "atlas_page"):
        monkeypatch.setattr(f"monosemy.app.{module}.ROWS", 10)
    data = client.get(f"{page}.json?at=99999999999").json()
    first = (data["total"] - 1) // 10 * 10
    assert data["total"] > 10
    assert (data["first"], len(data["rows"]), data["next"]) == (first, data["total"] - first, None)
    assert data["previous"].endswith(f"at={first - 10}")
    none = client.get("/features.json?density_min=2&at=5").json()
    assert (none["total"], none["first"], none["previous"], none["next"]) == (0, 0, None, None)


def test_previous_and_next_follow_the_list(client: TestClient) -> None:
    rows = client.get("/features.json?sort=density&desc=1&index=features-1").json()["rows"]
    for place, row in enumerate(rows):
        data = client.get(row["href"].replace("?", ".json?", 1)).json()
        assert data["feature"] == row["id"]
        assert data["previous"] == (rows[place - 1]["href"] if place else None)
        assert data["next"] == (rows[place + 1]["href"] if place + 1 < len(rows) else None)
    stale = client.get("/features/3.json?sort=density&desc=1&at=23").json()  # of a list that it is elsewhere in
    assert (stale["previous"], stale["next"]) == ("/features/2", "/features/4")
    assert client.get("/features/0.json").json()["previous"] is None
    assert client.get(f"/features/{WIDTH - 1}.json").json()["next"] is None


def test_the_search_box_knows_numbers_tokens_and_texts(client: TestClient) -> None:
    def leads_to(text: str) -> str:
        answer = client.get("/search", params={"q": text, "index": "features-1"})
        assert answer.status_code == 303
        return answer.headers["location"]

    assert leads_to(" #7 ") == "/features/7?index=features-1"
    assert leads_to("e") == "/token?index=features-1&q=e"
    assert leads_to("no such").startswith("/features?index=features-1&q=no+such")
    assert leads_to("٧").startswith("/features?")  # a digit, but no number of ours
    assert client.get("/search", params={"q": "x" * 300}).status_code == 400


# --- the grid, members, comparison ----------------------------------------------


def test_the_grid_leads_to_its_members_and_their_features(client: TestClient) -> None:
    data = client.get("/grid.json").json()
    assert [row["member"] for row in data["rows"]] == [0, 1]
    assert [row["features"] for row in data["rows"]] == ["features", "features-1"]
    front = data["charts"][0]
    assert front["chart"]["marks"][0]["x"] == [3.0, 4.0]
    both = ["/grid/0?grid=dictionaries", "/grid/1?grid=dictionaries"]
    assert front["links"] == [both, both, both[1:]]
    joined, chosen = front["chart"]["marks"][1:]
    assert (joined["mark"], joined["x"], joined["y"]) == ("curve", [3.0, 4.0], [0.25, 0.125])
    assert (chosen["ring"], chosen["x"], chosen["y"]) == (True, [4.0], [0.125])
    member = client.get("/grid/1.json").json()
    assert member["chosen"]
    assert member["others"][0]["href"] == "/compare?grid=dictionaries&a=1&b=0"
    assert (member["previous"], member["next"]) == ("/grid/0?grid=dictionaries", None)


def test_the_undominated_are_those_that_no_other_is_better_than_in_both() -> None:
    rows = [
        {"l0": l0, "fvu": fvu} for l0, fvu in ((9, 0.1), (2, 0.5), (2, 0.4), (3, 0.4), (5, 0.2), (4, 0.3), (12, 0.2))
    ]
    best = [(row["l0"], row["fvu"]) for row in undominated(rows)]
    assert best == [(2, 0.4), (4, 0.3), (5, 0.2), (9, 0.1)]


def test_heatmaps_are_means_of_the_cells_and_lead_to_a_member() -> None:
    rows = [
        {"member": m, "variant": "relu", "width": width, "l1": l1, "seed": seed, "fvu": width * l1 + seed}
        for m, (width, l1, seed) in enumerate((w, level, s) for w in (8, 16) for level in (0.1, 0.2) for s in (0, 1))
        if (width, l1) != (16, 0.2)
    ]
    grid = Grid("g", Artifact(Path("g"), {}), rows, None, "")
    (found,) = heatmaps(grid, "fvu")
    (heat,) = found["chart"]["marks"]
    assert (heat["rows"], heat["columns"]) == (["8", "16"], ["0.1", "0.2"])
    assert heat["values"] == [pytest.approx([1.3, 2.1]), [pytest.approx(2.1), None]]
    assert found["links"] == [[["/grid/0?grid=g", "/grid/2?grid=g"], ["/grid/4?grid=g", None]]]
    assert heatmaps(grid, "l0") == []


def test_a_comparison_is_that_of_all_cosines(run: Path) -> None:
    state = State(run)
    a_ND, b_LD = (torch.nn.functional.normalize(state.directions(state.grid(), m).double(), dim=1) for m in (0, 1))
    cosine_NL = a_ND @ b_LD.T
    data = compare_data(state, {"a": "0", "b": "1", "sort": "id", "desc": "0"})
    for i, row in enumerate(data["rows"]):
        best = int(cosine_NL[i].argmax())
        assert row["id"] == i
        assert row["partner"] == best
        assert row["mcs"] == pytest.approx(float(cosine_NL[i, best]), abs=1e-6)
        assert row["mutual"] == (int(cosine_NL[:, best].argmax()) == i)
        assert row["href"] == f"/features/{i}?index=features"
        assert row["partner_href"] == f"/features/{best}?index=features-1"
    density = [row["density"] for row in state.indexes["features"].table()]
    assert [row["density"] for row in data["rows"]] == density
    scatter, histogram = (entry["chart"]["marks"][0] for entry in data["charts"])
    alive = [i for i in range(WIDTH) if density[i] > 0]
    assert scatter["x"] == [density[i] for i in alive]
    assert scatter["y"] == pytest.approx([data["rows"][i]["mcs"] for i in alive])
    assert sum(histogram["counts"]) == WIDTH
    ordered = compare_data(state, {"a": "0", "b": "1"})["rows"]
    assert [row["mcs"] for row in ordered] == sorted((row["mcs"] for row in data["rows"]), reverse=True)


def test_a_comparison_begins_with_the_chosen_one_and_its_equal_of_another_seed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(run)
    beginning = compare_data(state, {})
    assert (beginning["a"], beginning["b"]) == (1, 0)  # member 1 is chosen
    assert mcs_data(state, {})["a"] == 1
    of_three = DictionaryStore.open(grid(tmp_path / "three", [whole_number_dictionary(8, seed) for seed in range(3)]))
    members = [{**member, "seed": int(place > 1)} for place, member in enumerate(of_three.members)]
    members[1]["l1"] = 7.0  # so 0 and 2 differ by their seeds alone
    monkeypatch.setitem(of_three.artifact.manifest["info"], "members", members)
    three = Grid(
        "three", of_three.artifact, [{**member, "member": place} for place, member in enumerate(members)], 2, ""
    )
    assert [partner_of(three, member) for member in range(3)] == [2, 0, 0]
    assert first_member(state, three) == 2  # chosen, and none is indexed
    monkeypatch.setattr(State, "indexed", lambda *_: {1: "features"})
    assert first_member(state, three) == 1


def test_an_older_index_says_what_it_has_not(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State(run)
    assert feature_data(state, {}, 3)["not_kept"] == []
    artifact = state.indexes["features"].artifact
    monkeypatch.delitem(artifact.manifest["config"], "uniform")
    monkeypatch.delitem(artifact.manifest["files"], "tokens.safetensors")
    data = feature_data(state, {}, 3)
    page = rendered("feature.html", state, data, "/features", None).decode()
    said = "made before examples at equal steps of activation and the tokens that features fire on were kept"
    assert said in page


def test_the_pages_say_what_is_not_made_and_how(client: TestClient, run: Path) -> None:
    page = client.get("/features?index=features-1").text
    assert f"<code>monosemy verdicts {run}/features-1</code>" in page
    assert f"<code>monosemy explanations {run}/features-1 --from FILE</code>" in page
    state = State(run)
    data = {**feature_list(state, {}), "explained": 0}
    page = rendered("features.html", state, data, "/features", None).decode()
    assert "monosemy verdicts" in page
    assert "monosemy explanations" not in page
    verdicts = dict.fromkeys(VERDICTS, 0)
    assert b"not-made" not in rendered("features.html", state, {**data, "verdicts": verdicts}, "/features", None)
    assert "what the folder held when the server was started" in client.get("/").text


def test_a_comparison_too_large_for_a_page_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.compare_page.MOST_COSINES", WIDTH * WIDTH - 1)
    answer = client.get("/compare.json?a=0&b=1&sort=partner")
    assert answer.status_code == 400
    assert "24 × 24 cosines" in answer.json()["error"]


def test_the_lineage_leaves_out_what_a_longer_way_implies(run: Path) -> None:
    found = lineage(State(run).artifacts)
    assert [each["name"] for each in found["artifacts"]] == [
        "tokens",
        "dictionaries",
        "scores",
        "features",
        "features-1",
    ]
    boxes = {box["name"]: box for box in found["graph"]["boxes"]}
    assert not boxes["nowhere"]["here"]  # the model
    assert len(found["graph"]["links"]) == 7  # scores of dictionaries; features twice of dictionaries, model, tokens

    def made(name: str, *parents: Artifact) -> Artifact:
        entries = {each.path.name: {"kind": each.kind, "id": each.id, "path": str(each.path)} for each in parents}
        manifest = {
            "kind": name,
            "config": {"of": name},
            "parents": entries,
            "files": {},
            "versions": {},
            "created": "",
        }
        return Artifact(Path(name), manifest)

    tokens = made("tokens")
    activations = made("activations", tokens)
    features = made("features", activations, tokens)
    graph = lineage({"tokens": tokens, "activations": activations, "features": features})["graph"]
    assert len(graph["links"]) == 2
    assert [box["x"] for box in graph["boxes"]] == sorted({box["x"] for box in graph["boxes"]})


# --- hostile text and wrong requests ---------------------------------------------


WRONG = ("/features/9?index=%3Cscript%3E", "/nope%3Cscript%3Ealert(1)", "/token?q=%3Cimg%20src=x%3E", "/review")


@pytest.mark.parametrize("address", [*ADDRESSES, *WRONG])
def test_text_is_never_markup(client: TestClient, address: str) -> None:
    page = client.get(address)
    assert "<img" not in page.text
    scripts = re.findall(r"<script([^>]*)>", page.text)
    assert all(' src="/static/' in each or 'type="application/json"' in each for each in scripts)
    assert not re.search(r"<[^>]+\son\w+=", page.text)  # no handler in an attribute


def test_hostile_names_and_settings_are_shown_as_they_are(client: TestClient) -> None:
    assert HOSTILE in client.get("/grid.json").json()["why"]
    assert HOSTILE in html.unescape(client.get("/").text)
    assert html.escape(HOSTILE, quote=False).split("'")[0] in client.get("/grid").text
    documents = {
        example["document"]
        for i in range(WIDTH)
        for group in client.get(f"/features/{i}.json").json()["groups"]
        for example in group["examples"]
    }
    assert any(NAME.replace("/", "_") in document for document in documents)


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/features/24.json", 404, "`feature` (=24) must be from 0 to 23"),
        (f"/features/{10**30}.json", 404, "must be from 0 to 23"),
        ("/features/99999/neighbours.json", 404, "`feature` (=99999)"),
        ("/features/1.json?index=other", 404, "`index` (='other') must be one of features, features-1"),
        ("/features/1.json?index=../features", 404, "`index`"),
        ("/grid.json?grid=/etc", 404, "`grid` (='/etc') must be one of dictionaries"),
        ("/grid/2.json", 404, "`member` (=2) must be from 0 to 1"),
        ("/compare.json?a=5", 404, "`member` (=5)"),
        ("/compare.json?a=-1", 400, "`a` (='-1') must be a whole number"),
        ("/compare.json?sort=x", 400, "`sort` (='x') must be one of id, mcs, density, partner"),
        ("/features.json?sort=id;DROP TABLE feature", 400, "`sort`"),
        ("/features.json?density_min=nan", 400, "`density_min` (='nan') must be a number"),
        ("/features.json?at=1e9", 400, "`at`"),
        ("/features.json?q=" + "x" * 300, 400, "300 characters"),
        ("/features.json?dead=maybe", 400, "`dead`"),
        ("/token.json?q=no such token", 404, "no single token"),
        ("/nope.json", 404, "no such page"),
        ("/static/../server.py", 404, "no such page"),
        ("/api/nope", 404, "no such page"),
    ],
)
def test_what_cannot_be_met_is_said(client: TestClient, address: str, status: int, said: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    if address.startswith("/static"):
        return
    assert said in answer.json()["error"]
    page = client.get(address.replace(".json", "", 1))
    if not address.startswith(("/api", "/features/99999")):
        assert page.status_code == status
        assert said in html.unescape(page.text)


@pytest.mark.parametrize(
    "path",
    [
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/%00",
        "/static//etc/passwd",
        "/static/server.py",
        "/static/app.css/",
        "/..%2f..%2fetc/passwd",
        "/features/..%2f..%2fmanifest.json",
    ],
)
def test_no_path_reaches_the_files(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_query_of_any_length_is_answered_or_refused(client: TestClient) -> None:
    assert client.get("/features?q=" + "x" * 200).status_code == 200
    assert client.get("/features?q=" + "x" * 300).status_code == 400
    assert client.get("/features?q=" + "x" * 5000).status_code == 414
    assert client.get("/features/" + "9" * 5000).status_code == 414


def test_a_failure_is_a_page_and_tells_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr(State, "member_of", broken)
    with TestClient(make_app(run), base_url="http://localhost", raise_server_exceptions=False) as client:
        answer = client.get("/features/1")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


# --- who may ask ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost:9", 200),
        ("[::1]:80", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[", 421),
        ("10.0.0.1", 421),
    ],
)
def test_only_names_of_this_machine_are_answered_to(client: TestClient, host: str, status: int) -> None:
    assert client.get("/", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://127.0.0.1:8765", 200),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://127.0.0.1:1", 403),
        ("", 403),
    ],
)
def test_only_its_own_pages_may_ask(client: TestClient, origin: str, status: int) -> None:
    assert client.get("/grid.json", headers={"origin": origin}).status_code == status


def test_the_answers_bind_the_browser(client: TestClient) -> None:
    for address in ("/", "/grid.json", "/static/app.js", "/nope", "/features/99"):
        headers = client.get(address).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert re.search(r"script-src 'self';", policy)
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_bodies_are_bounded(client: TestClient) -> None:
    big = b"x" * (security.MAX_BODY + 1)
    assert client.post("/api/live/none", content=big).status_code == 413
    pieces = (big[start : start + 65536] for start in range(0, len(big), 65536))
    assert client.post("/api/reviews", content=pieces).status_code == 413  # its length unsaid
    assert client.post("/api/reviews", headers={"content-length": "-1"}).status_code == 413
    assert client.post("/grid").status_code == 405


def test_a_token_is_asked_for_and_kept_in_a_cookie(run: Path) -> None:
    app = make_app(run, host="0.0.0.0", token=TOKEN)
    with TestClient(app, base_url="http://192.168.1.5:8000", follow_redirects=False) as client:
        assert client.get("/").status_code == 401
        assert client.get("/grid.json?token=wrong").status_code == 401
        assert client.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/", headers={b"authorization": "Bearer é".encode()}).status_code == 401
        assert client.get("/", headers={"cookie": "monosemy_token=wrong; ="}).status_code == 401
        assert client.get("/", headers={"authorization": f"bearer {TOKEN}"}).status_code == 200
        assert client.post(f"/api/reviews?token={TOKEN}").status_code == 401
        answer = client.get(f"/%2Fevil.example?q=a%26b&token={TOKEN}")
        assert answer.headers["location"] == "/evil.example?q=a%26b"
        client.cookies.clear()
        answer = client.get(f"/features?sort=max&token={TOKEN}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/features?sort=max")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=lax" in answer.headers["set-cookie"]
        assert client.get("/features?sort=max").status_code == 200  # the cookie
        assert client.get("/", headers={"host": "evil.example"}).status_code == 421


def test_others_come_in_with_a_token_only() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match=r"a token is needed; for instance --token \S{16,}"):
            check_access(host, None)
        check_access(host, TOKEN)
    check_access("127.0.0.1", None)
    for token in ("", "short", "with spaces in it, long", "päßwörter-sind-lang"):
        with pytest.raises(UsageError, match="at least 16"):
            check_access("127.0.0.1", token)
    assert address_of("::1", 80, None) == "http://[::1]:80/"
    assert address_of("0.0.0.0", 80, TOKEN) == f"http://0.0.0.0:80/?token={TOKEN}"


def test_where_it_listens_everywhere_others_are_told_what_to_open(run: Path) -> None:
    arguments = "sys.argv[1], port=0, host='0.0.0.0', token=sys.argv[2]"
    program = f"import sys; from monosemy.app.server import serve; serve({arguments})"
    server = subprocess.Popen([sys.executable, "-c", program, str(run), TOKEN], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        own, others = (server.stdout.readline().strip() for _ in range(2))
        port = own.split(":")[2].split("/")[0]
        said, *found = others.removeprefix("from other machines: ").split(" or ")
        assert said == f"http://{socket.gethostname()}:{port}/?token={TOKEN}"
        for address in found:  # where there is a way to the outside
            assert "0.0.0.0" not in address
            asked = address.removesuffix(f"?token={TOKEN}") + "features/3.json"
            known = urllib.request.Request(asked, headers={"Authorization": f"Bearer {TOKEN}"})
            with urllib.request.urlopen(known, timeout=30) as answer:
                assert json.loads(answer.read())["feature"] == 3
    finally:
        server.terminate()
        server.wait(timeout=30)
        assert server.stdout is not None
        server.stdout.close()


# --- static files, caches, the state -----------------------------------------------


def test_scripts_and_plotly_are_served_and_known_again(client: TestClient) -> None:
    for name in ("app.css", "app.js", "charts.js", "tokens.js", "theme.js", "lab.js", "plotly.min.js"):
        answer = client.get(f"/static/{name}")
        assert answer.status_code == 200
        again = client.get(f"/static/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_pages_load_nothing_from_elsewhere() -> None:
    folder = Path(security.__file__).parent
    for path in [*folder.glob("static/*"), *folder.glob("templates/*")]:
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), path
        assert "innerHTML" not in text
        assert "|safe" not in text.replace(" ", "")


def test_text_on_every_shade_can_be_read() -> None:
    """The contrast of ink on the whole activation scale, at least 4.5 in light and dark (WCAG AA)."""
    css = (Path(security.__file__).parent / "static" / "app.css").read_text()
    pairs = dict(re.findall(r"--(page|ink|heat): light-dark\((#\w{6}), #\w{6}\)", css))
    dark = dict(re.findall(r"--(page|ink|heat): light-dark\(#\w{6}, (#\w{6})\)", css))
    for colours in (pairs, dark):
        for step in range(11):
            shade = mixed(colours["heat"], colours["page"], step / 10)
            light = sorted((luminance(shade), luminance(linear(colours["ink"]))))
            assert (light[1] + 0.05) / (light[0] + 0.05) >= 4.5


TO_LMS = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)


def linear(colour: str) -> torch.Tensor:
    value = torch.tensor([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]).double()
    return torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def mixed(a: str, b: str, share: float) -> torch.Tensor:
    """As CSS mixes in OKLab, linear RGB; the second matrix of OKLab is linear and cancels out."""
    roots = [(TO_LMS @ linear(colour)) ** (1 / 3) for colour in (a, b)]
    rgb: torch.Tensor = torch.linalg.solve(TO_LMS, (share * roots[0] + (1 - share) * roots[1]) ** 3)
    return rgb.clamp(0, 1)


def luminance(rgb: torch.Tensor) -> float:
    return float(rgb @ torch.tensor([0.2126, 0.7152, 0.0722]).double())


def test_a_cache_stays_within_its_bound() -> None:
    kept: Recent[bytes] = Recent(10, len)
    for key in "abc":
        kept.put(key, b"xxxx")
    assert (kept.get("a"), kept.get("b"), kept.total) == (None, b"xxxx", 8)
    kept.put("d", b"xxxx")  # b was used since c
    assert (kept.get("c"), kept.get("b")) == (None, b"xxxx")
    kept.put("b", b"x")
    assert kept.total == 5
    assert kept.put("e", b"x" * 11) == b"x" * 11
    assert kept.get("e") is None
    assert len(kept) == 2


def test_many_threads_read_at_once(client: TestClient) -> None:
    expected = {i: client.get(f"/features/{i}.json?index=features-1").content for i in range(WIDTH)}
    wrong: list[int] = []

    def read(first: int) -> None:
        for i in range(first, first + WIDTH):
            path = f"/features/{i % WIDTH}.json?index=features-1&n={first}"  # another address: not kept
            data = json.loads(client.get(path).content)
            if data["groups"] != json.loads(expected[i % WIDTH])["groups"]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        State(tmp_path / "none")
    with pytest.raises(UsageError, match="nothing to show"):
        State(tmp_path)


def test_a_run_with_dictionaries_alone_is_shown(run: Path, tmp_path: Path) -> None:
    (tmp_path / "dictionaries").symlink_to(run / "dictionaries")
    with TestClient(make_app(tmp_path), base_url="http://localhost") as client:
        for address in ("/", "/grid", "/grid/0", "/compare"):
            assert client.get(address).status_code == 200
        assert client.get("/grid.json").json()["chosen"] is None
        answer = client.get("/features.json")
        assert answer.status_code == 404
        assert "make one with `monosemy features`" in answer.json()["error"]
        assert client.get("/compare.json").json()["rows"][0]["href"] is None


def test_a_lab_needs_a_model_that_is_there(run: Path) -> None:
    state = State(run)
    with pytest.raises(UsageError, match="nowhere"):  # the small run's model is a table, and not on the disk
        state.lab("dictionaries", 0)
    with pytest.raises(UsageError, match="`grid`"):
        state.lab("../dictionaries", 0)


def test_the_first_line_is_the_address(run: Path) -> None:
    program = "import sys; from monosemy.app.server import serve; serve(sys.argv[1], port=0)"
    server = subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        with urllib.request.urlopen(f"{address}features/3.json", timeout=30) as answer:
            assert json.loads(answer.read())["feature"] == 3
            assert answer.headers["server"] is None
        taken = int(address.rsplit(":", 1)[1].strip("/"))
        with pytest.raises(UsageError, match="cannot be listened on"):
            serve(run, port=taken)
    finally:
        server.terminate()
        assert server.wait(timeout=30) in (0, -15)
        assert server.stdout is not None
        server.stdout.close()

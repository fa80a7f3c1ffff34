"""Circuits and search by text in the app: what is offered, what the live answers hold, refusals, hostile names."""

from __future__ import annotations

import html
import io
import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from app_run import NAME
from feature_worlds import VOCAB, grid
from network_labs import EARLY, LATE, WIDTH, network_lab, random_dictionary, two_site_run
from networks import save_network
from starlette.testclient import TestClient

from monosemy import cli
from monosemy.analysis.circuits import CircuitSettings, children, parents
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.search import features_of_prompt
from monosemy.app.circuits_page import circuits_data, place_of
from monosemy.app.server import make_app
from monosemy.app.state import Grid, NotFound, State
from monosemy.artifact import Artifact
from monosemy.models.language_model import LanguageModel

ASKED = {"member": 0, "feature": 1, "other_member": 0, "top": 5, "rows": 6}


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Lab]:
    """Beside the two grids lies a third of hostile name, at the early site."""
    folder = tmp_path_factory.mktemp("circuits")
    early, late = two_site_run(folder)
    other = grid(folder / NAME, [random_dictionary(early.model.width_of(EARLY), seed=3)], site=EARLY)
    features(other, member=0, model=early.model, tokens=early.tokens, out=folder / "features-other")
    return early, late


@pytest.fixture(scope="module")
def early(labs: tuple[Lab, Lab]) -> Lab:
    return labs[0]


@pytest.fixture(scope="module")
def late(labs: tuple[Lab, Lab]) -> Lab:
    return labs[1]


@pytest.fixture(scope="module")
def run(early: Lab) -> Path:
    return early.tokens.artifact.path.parent


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765", follow_redirects=False) as opened:
        yield opened


def end_of(client: TestClient, name: str, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Ask for an analysis; its job and how it ended."""
    answer = client.post(f"/api/live/{name}", json=request)
    assert answer.status_code == 202, answer.text
    job, end = answer.json()["job"], time.monotonic() + 60
    while (found := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return job, found


# ---- what is offered -----------------------------------------------------------------------------------------------


def test_a_feature_is_offered_the_dictionaries_before_and_after_it(client: TestClient) -> None:
    for name, before, after in (("late", {"dictionaries", NAME}, set()), ("dictionaries", set(), {"late"})):
        page = client.get("/circuits", params={"grid": name, "feature": 1})
        data = client.get("/circuits.json", params={"grid": name, "feature": 1}).json()
        assert {each["grid"] for each in data["early"]} == before
        assert {each["grid"] for each in data["late"]} == after
        held = re.search(r'id="circuits-data">(.*?)</script>', page.text, re.DOTALL)
        assert held is not None
        assert json.loads(held[1]) == data
        offered = set(re.findall(r'<option value="([^"]*/\d+)"', page.text))
        expected = {
            f"{each['grid']}/{row['member']}" for each in data["early"] + data["late"] for row in each["members"]
        }
        assert {html.unescape(value) for value in offered} == expected
    assert "late/1" in expected  # not indexed, and offered all the same
    first = client.get("/circuits.json").json()
    assert (first["grid"], first["feature"], first["previous"]) == ("dictionaries", 0, None)
    assert first["dead"]  # feature 0 never fires
    last = client.get("/circuits.json", params={"grid": "late", "feature": WIDTH - 1}).json()
    assert last["next"] is None
    assert last["previous"] == f"/circuits?grid=late&member=0&feature={WIDTH - 2}"


def test_the_form_asks_for_every_setting_with_its_default(client: TestClient) -> None:
    page = client.get("/circuits", params={"grid": "late"}).text
    form = page.split('id="circuit-form"')[1].split("</form>")[0]
    inputs = re.findall(
        r'<input id="circuit-(\w+)" type="number" min="(\d+)" max="(\d+)" value="(\d+)" required>', form
    )
    settings = CircuitSettings()
    assert [(name, int(value)) for name, _, _, value in inputs] == [
        (name, getattr(settings, name)) for name in ("top", "rows", "silent")
    ]
    told = client.get("/api/live").json()["parents"]["parameters"]
    bounds = {name: (told[name]["low"], told[name]["high"]) for name in ("top", "rows", "silent")}
    assert bounds == {name: (int(low), int(high)) for name, low, high, _ in inputs}
    fields = client.get("/circuits.json", params={"grid": "late"}).json()["fields"]
    assert [field["name"] for field in fields] == list(bounds)


def test_a_hostile_name_is_text(client: TestClient) -> None:
    page = client.get("/circuits", params={"grid": "late"}).text
    assert html.escape(NAME) in page
    assert "<img" not in page


def test_what_is_not_there_is_refused(client: TestClient) -> None:
    for query, status, said in (
        ("grid=nothing", 404, "must be one of"),
        ("grid=late&member=2", 404, "`member` (=2)"),
        (f"grid=late&feature={WIDTH}", 404, f"from 0 to {WIDTH - 1}"),
        ("grid=late&feature=-1", 400, "`feature` (='-1')"),
    ):
        answer = client.get(f"/circuits.json?{query}")
        assert answer.status_code == status
        assert said in answer.json()["error"]


def test_sites_are_put_in_order() -> None:
    def at(**info: Any) -> tuple[Any, Any]:
        made = Grid("g", Artifact(Path("g"), {"info": info}), [], None, "")
        return place_of(made, "reads"), place_of(made, "acts")

    sites = ["embed", "layers.0.resid_pre", "layers.0.mlp_act", "layers.0.resid_post", "layers.10.mlp_in", "final"]
    places = [at(site=site)[0] for site in sites]
    assert places == sorted(places)
    assert len(set(places)) == len(places)
    reads, acts = at(site="layers.1.mlp_in", target_site="layers.1.mlp_out")
    assert reads < acts == at(site="layers.1.mlp_out")[0]
    assert at(sites=["layers.0.mlp_in", "layers.1.mlp_in"]) == (None, None)  # several at once
    assert at() == (None, None)  # a world's


def held(name: str, place: Path) -> Grid:
    rows = [{"member": 0, "variant": "relu", "width": WIDTH}]
    return Grid(name, Artifact(place, json.loads((place / "manifest.json").read_text())), rows, None, "")


def test_other_models_and_sites_that_do_not_come_before_are_not_offered(run: Path, tmp_path: Path) -> None:
    state = State(run)
    other = LanguageModel.load(save_network("llama", tmp_path / "model", seed=1, vocab_size=VOCAB + 2), device="cpu")
    place = grid(tmp_path / "other", [random_dictionary(other.width_of(LATE), seed=5)], site=LATE)
    tokens = state.artifacts["tokens"].path
    index = FeatureIndex.open(
        features(place, member=0, model=other, tokens=tokens, out=tmp_path / "index").artifact.path
    )
    state.grids["other"], state.indexes["index"] = held("other", place), index
    assert {each["grid"] for each in circuits_data(state, {"grid": "dictionaries"})["late"]} == {"late"}
    assert not circuits_data(state, {"grid": "other"})["early"]
    del state.grids["late"]
    data = circuits_data(state, {"grid": "dictionaries"})
    assert (data["early"], data["late"], data["same_model"]) == ([], [], [NAME])
    nowhere = grid(tmp_path / "nowhere", [random_dictionary(6)], site=None)
    state.grids["nowhere"] = held("nowhere", nowhere)
    assert not circuits_data(state, {"grid": "nowhere"})["known"]
    with pytest.raises(NotFound):
        circuits_data(state, {"grid": "nowhere", "member": "1"})


def test_a_run_of_one_site_says_how_to_make_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    lab = network_lab(tmp_path, site=LATE, indexed=True)
    with TestClient(make_app(tmp_path), base_url="http://127.0.0.1") as client:
        data, page = client.get("/circuits.json").json(), html.unescape(client.get("/circuits").text)
    assert not data["early"] + data["late"]
    assert "need dictionaries of a second site" in page
    assert len(data["commands"]) == 3
    for command in data["commands"]:
        assert command in page
        program, *words = shlex.split(command)
        assert program == "monosemy"
        cli.main([*words, "--steps", "5"] if words[0] == "train" else words)
    capsys.readouterr()
    with TestClient(make_app(tmp_path), base_url="http://127.0.0.1") as client:
        data = client.get("/circuits.json").json()
        assert [each["grid"] for each in data["early"]] == ["dictionaries-layers.0.mlp_act"]
        other = {"dictionaries": "dictionaries", "other": "dictionaries-layers.0.mlp_act"}
        _, found = end_of(client, "parents", {**ASKED, **other})
    assert found["state"] == "done", found
    assert found["done"]["facts"]["site"] == lab.site


# ---- live ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["parents", "children"])
def test_connections_are_those_of_the_analysis(client: TestClient, early: Lab, late: Lab, side: str) -> None:
    of, other = ("late", "dictionaries") if side == "parents" else ("dictionaries", "late")
    job, found = end_of(client, side, {**ASKED, "dictionaries": of, "other": other})
    assert found["state"] == "done", found
    done = found["done"]
    options: dict[str, Any] = {"top": ASKED["top"], "rows": ASKED["rows"]}
    expected = parents(late, 1, early, **options) if side == "parents" else children(early, 1, late, **options)
    table = client.get(f"/api/jobs/{job}/table.csv").text
    assert table == expected.table().csv()
    assert done["edges"] == json.loads(json.dumps(expected.data()["edges"]))
    assert done["edges"]
    assert done["direction"] == side
    assert done["facts"]["rows"] == expected.rows
    assert done["facts"].get("correlation") == pytest.approx(expected.correlation)
    index = (early if side == "parents" else late).index
    assert index is not None
    for edge, end in zip(done["edges"], done["ends"], strict=True):
        assert end["top_token"] == index.summary(edge["feature"]).top_token
        assert client.get(end["href"]).status_code == 200
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(done["python"], "<copied>", "exec"), {})
    assert out.getvalue().splitlines()[:-1] == table.splitlines()


def test_those_kept_silent_are_as_many_as_were_asked_for(client: TestClient, early: Lab, late: Lab) -> None:
    request, counts = {**ASKED, "dictionaries": "dictionaries", "other": "late"}, []
    for silent in (0, 1, 100):
        _, found = end_of(client, "children", {**request, "silent": silent})
        assert found["state"] == "done", found
        assert f"silent={silent}" in found["done"]["python"]
        expected = children(early, 1, late, top=ASKED["top"], rows=ASKED["rows"], silent=silent)
        assert [edge["feature"] for edge in found["done"]["edges"]] == [edge.feature for edge in expected.edges]
        assert [end["how"] for end in found["done"]["ends"]] == [edge.how for edge in expected.edges]
        counts.append(sum(edge.silent for edge in expected.edges))
    assert counts[:2] == [0, 1]
    assert counts[2] > 1
    refused = client.post("/api/live/children", json={**request, "silent": -1})
    assert (refused.status_code, "`silent` (=-1)" in refused.json()["error"]) == (400, True)


def test_a_member_without_an_index_has_no_links(client: TestClient) -> None:
    request = {**ASKED, "dictionaries": "dictionaries", "other": "late", "other_member": 1}
    _, found = end_of(client, "children", request)
    assert {(end["href"], end["top_token"]) for end in found["done"]["ends"]} == {(None, None)}


def test_impossible_connections_end_with_their_reason(client: TestClient) -> None:
    for name, changes, said in (
        ("parents", {"dictionaries": "dictionaries", "other": "late"}, "exchange them"),
        ("parents", {"dictionaries": "late", "other": "nothing"}, "must be one of"),
        ("parents", {"dictionaries": "late", "other": "dictionaries", "other_member": 9}, "`member` (=9)"),
        ("parents", {"dictionaries": "late", "other": "dictionaries", "feature": WIDTH}, f"from 0 to {WIDTH - 1}"),
        ("parents", {"dictionaries": "late", "other": "dictionaries", "feature": 0}, "fires in none"),
    ):
        _, found = end_of(client, name, {**ASKED, **changes})
        assert found["state"] == "failed"
        assert said in found["failed"]["text"]
    for changes, status, said in (
        ({"other": ""}, 400, "`other`"),
        ({"other": "late", "top": 101}, 400, "`top`"),
        ({"other": "late", "dictionaries": "nothing"}, 404, "must be one of"),
    ):
        answer = client.post("/api/live/children", json={**ASKED, "dictionaries": "dictionaries", **changes})
        assert answer.status_code == status
        assert said in answer.json()["error"]


def test_the_feature_page_does_not_offer_what_other_pages_do(client: TestClient) -> None:
    offered = client.get("/api/live").json()
    assert {name for name, each in offered.items() if each["page"] == "/circuits"} == {"parents", "children"}
    assert offered["context"]["page"] == "/features"
    assert offered["search"]["page"] == "/search"


# ---- search by a text ----------------------------------------------------------------------------------------------

TEXT = "abcabd </script>é"


def test_a_search_by_text_is_that_of_the_analysis(client: TestClient, late: Lab) -> None:
    request = {"dictionaries": "late", "member": 0, "prompt": TEXT, "n": 4}
    job, found = end_of(client, "search", request)
    assert found["state"] == "done", found
    done, expected = found["done"], features_of_prompt(late, TEXT, 4)
    assert client.get(f"/api/jobs/{job}/table.csv").text == expected.table().csv()
    assert done["tokens"] == expected.tokens
    assert "".join(done["tokens"]) == TEXT
    assert len(done["features"]) == 4
    index = late.index
    assert index is not None
    for each, own in zip(done["features"], expected.features, strict=True):
        assert (each["feature"], each["strength"], each["code"]) == (own.feature, own.strength, own.code)
        assert len(each["values"]) == len(done["tokens"])
        assert max(each["values"]) == each["values"][each["place"]] == each["code"]
        assert each["max"] == index.summary(own.feature).max
        assert each["href"] == f"/features/{own.feature}?index=features-late"


def test_a_search_needs_an_index_and_a_text(client: TestClient) -> None:
    _, found = end_of(client, "search", {"dictionaries": "late", "member": 1, "prompt": "a", "n": 4})
    assert (found["state"], "monosemy features" in found["failed"]["text"]) == ("failed", True)
    answer = client.post("/api/live/search", json={"dictionaries": "late", "member": 0, "prompt": ""})
    assert answer.status_code == 400
    long = {"dictionaries": "late", "member": 0, "prompt": "a" * 300}
    assert "has 300 tokens" in end_of(client, "search", long)[1]["failed"]["text"]


def test_the_search_page_keeps_its_text_as_text(client: TestClient) -> None:
    hostile = "</textarea><script>1</script>"
    page = client.get("/search", params={"index": "features-late", "text": hostile}).text
    assert hostile not in page
    assert html.escape(hostile) in page
    data = client.get("/search.json", params={"index": "features-late", "text": hostile}).json()
    assert (data["grid"], data["member"], data["text"]) == ("late", 0, hostile)
    assert client.get("/search", params={"text": "x" * 201}).status_code == 400
    assert client.get("/search", params={"q": "3"}).headers["location"].startswith("/features/3")
    assert 'action="/search" aria-label="Search by text"' in client.get("/features").text

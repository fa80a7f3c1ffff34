"""The pages that compare dictionaries: atlas, splitting, one-to-one pairs; computed at once, or by a job first."""

from __future__ import annotations

import html
import io
import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from network_labs import network_lab
from scipy.optimize import linear_sum_assignment
from starlette.testclient import TestClient

from monosemy.analysis.atlas import TAGS, Atlas, atlas
from monosemy.analysis.atlas_rules import Split, Twins
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.pairs import feature_pairs
from monosemy.analysis.result import as_plain
from monosemy.analysis.splitting import FATES, splitting_tree
from monosemy.app.atlas_page import Asked, _reasons
from monosemy.app.server import make_app
from monosemy.app.state import RESULTS, State
from monosemy.data.activations import ActivationStore
from monosemy.dictionaries.store import DictionaryStore
from monosemy.models.harvest import harvest
from monosemy.training.sweep import train

WIDTHS = (8, 8, 16, 16)  # of the members; seeds 0, 1, 0, 1
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Activations of a random network, a grid of two widths and two seeds on them, member 0 and 2 indexed."""
    folder = tmp_path_factory.mktemp("atlas")
    lab = network_lab(folder, site="layers.0.mlp_act")
    rows = harvest(lab.model, lab.tokens, site=lab.site, out=folder / "activations")
    settings: dict[str, Any] = {"width": (8, 16), "seed": (0, 1), "variant": "topk", "k": 3, "steps": 120}
    made = train(rows, **settings, out=folder / "dictionaries")
    train(rows, width=8, seed=0, variant="topk", k=3, steps=5, out=folder / HOSTILE)
    for member, name in ((0, "features"), (2, "features-2")):
        features(made, member=member, model=lab.model, tokens=lab.tokens, out=folder / name)
    return folder


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765", follow_redirects=False) as opened:
        yield opened


@pytest.fixture
def fresh(run: Path) -> Iterator[TestClient]:
    """A server that has computed nothing yet."""
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765", follow_redirects=False) as opened:
        yield opened


def all_rows(client: TestClient, address: str) -> list[dict[str, Any]]:
    """The rows of every page of a list."""
    found, path = [], address.split("?")[0]
    while address:
        data = client.get(address.replace(path, f"{path}.json", 1)).json()
        found += data["rows"]
        address = data["next"]
    assert len(found) == data["total"]
    return found


def wait(client: TestClient, pending: dict[str, Any]) -> dict[str, Any]:
    """Ask for the job that a page waits for, as its script does; how it ended."""
    job = client.post(f"/api/live/{pending['analysis']}", json=pending["values"]).json()["job"]
    end = time.monotonic() + 60
    while (found := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.01)
    return {"job": job, **found}


# ---- the atlas -----------------------------------------------------------------------------------------------------


def check_token(run: Path, name: str | None, cell: dict[str, Any]) -> None:
    """Beside a feature's number is the token of its index."""
    expected = None if name is None else FeatureIndex.open(run / name).table()[cell["feature"]]["top_token"]
    assert cell["top_token"] == expected


def check_rows(run: Path, rows: list[dict[str, Any]], found: Atlas, members: list[int]) -> None:
    """Every feature is in one row, beside those of its cluster; indexed ones show their tokens, and lead to pages."""
    seen, grid = Counter[tuple[int, int]](), DictionaryStore.open(run / "dictionaries")
    for row in rows:
        held = [each for each in row["features"] if each]
        for each in held:
            number = members.index(each["member"])
            seen[each["member"], each["feature"]] += 1
            assert each["tag"] == found.tags[number][each["feature"]]
            cluster = int(found.clusters[number][each["feature"]])
            assert row["cluster"] == (None if cluster < 0 else cluster)
            name = {0: "features", 2: "features-2"}.get(each["member"])
            assert each["href"] == (f"/features/{each['feature']}?index={name}" if name else None)
            check_token(run, name, each)
        if row["cluster"] is None:
            assert (len(held), row["cosine"]) == (1, None)
        else:
            ends = [(members.index(each["member"]), each["feature"]) for each in held]
            assert sorted(ends) == sorted(found.members(row["cluster"]))
            directions = [grid.directions(each["member"])[each["feature"]] for each in held]
            cosines = [float(torch.cosine_similarity(*pair, dim=0)) for pair in combinations(directions, 2)]
            assert row["cosine"] == pytest.approx(min(cosines), abs=1e-6)
    widths = {member: WIDTHS[member] for member in members}
    assert seen == Counter((member, feature) for member in members for feature in range(widths[member]))


def test_reasons_name_twins_of_other_rows_and_call_no_universal_feature_a_part() -> None:
    clusters, tags = (torch.tensor([-1, 0]), torch.tensor([0, -1])), (("split", "universal"), ("universal", "split"))
    twins = (Twins((0, 1), (1, 0), 0.99, None), Twins((0, 1), (0, 1), 0.98, None))
    splits = (Split(0, 0, 1, (0, 1), (0.99, 0.7), 0.85),)
    found = Atlas(("a", "b"), tags, (TAGS, TAGS), clusters, torch.tensor([0.99]), twins, splits, (), 9)
    assert _reasons(Asked(cast(Any, None), [4, 7], "yes", "4,7", "any", None), found) == {
        (0, 0): ["feature 0 of member 4 is a twin of feature 1 of member 7, in another row",
                 "feature 0 of member 4 splits into 0, 1 of member 7 (their sum correlates at 0.85)"],
        (1, 1): ["feature 1 of member 7 is a twin of feature 0 of member 4, in another row",
                 "feature 1 of member 7 is a part of feature 0 of member 4"],
    }  # fmt: skip


def indexes(run: Path, members: list[int]) -> list[Path | None]:
    """The indexes of these members, as the page gives them to the atlas."""
    here = {0: run / "features", 2: run / "features-2"}
    return [here.get(member) for member in members]


def test_what_was_not_looked_for_is_a_dash(client: TestClient) -> None:
    """Directions of members of one width, the first of which is indexed."""
    address = "/atlas.json?grid=dictionaries&members=0,1"
    data = client.get(address).json()
    first, second = data["counts"]
    assert (first["counts"]["split"], first["counts"]["absorbed"], second["counts"]["dead"]) == (None, None, None)
    assert first["counts"]["dead"] is not None
    assert set(first["hrefs"]) == {"universal", "shared", "orphan", "dead"}
    assert data["not_looked_for"] == ["split", "absorbed"]
    page = client.get(address.replace(".json", "")).text
    cells = re.findall(r'<td title="not looked for: [^"]*">–</td>', page)
    assert len(cells) == sum(value is None for row in (first, second) for value in row["counts"].values()) == 5
    assert "Not looked for: split, absorbed." in page
    assert "<option disabled>split</option>" in page
    coded = wait(client, client.get(f"{address}&codes=yes").json()["pending"])
    assert coded["state"] == "done"
    counts = client.get(f"{address}&codes=yes").json()["counts"]
    assert [tag for tag in TAGS if counts[1]["counts"][tag] is None] == ["split"]


def test_the_atlas_page_holds_the_atlas(client: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.atlas_page.ROWS", 7)
    found = atlas(run / "dictionaries", indexes=indexes(run, [0, 1, 2, 3]))
    assert any(len(set(of_N.tolist()) - {-1}) for of_N in found.clusters)
    rows = all_rows(client, "/atlas?grid=dictionaries")
    check_rows(run, rows, found, [0, 1, 2, 3])
    sizes = [sum(each is not None for each in row["features"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    data = client.get("/atlas.json?grid=dictionaries").json()
    assert [row["counts"] for row in data["counts"]] == found.counts()
    assert (data["n_rows"], data["pending"], data["charts"]) == (0, None, [])
    page = html.unescape(client.get("/atlas?grid=dictionaries").text)
    for row in data["rows"]:
        assert row["href"] is None or row["href"] in page


def test_a_tag_of_a_member_filters(client: TestClient, run: Path) -> None:
    found = atlas(run / "dictionaries", [1, 2], indexes=indexes(run, [1, 2]))
    for place, member in enumerate((1, 2)):
        for tag in TAGS:
            rows = all_rows(client, f"/atlas?grid=dictionaries&members=1,2&tag={tag}&of={member}")
            numbers = sorted(row["features"][place]["feature"] for row in rows)
            assert numbers == [feature for feature, own in enumerate(found.tags[place]) if own == tag]
    tagged = all_rows(client, "/atlas?grid=dictionaries&members=1,2&tag=orphan")
    assert len(tagged) == sum(tags.count("orphan") for tags in found.tags)
    counts = client.get("/atlas.json?grid=dictionaries&members=1,2").json()["counts"]
    for row in counts:
        for tag in row["hrefs"]:
            assert client.get(row["hrefs"][tag].replace("?", ".json?", 1)).json()["total"] == row["counts"][tag]


def test_with_codes_it_is_a_job_that_the_page_waits_for(fresh: TestClient, run: Path) -> None:
    address = "/atlas.json?grid=dictionaries&members=0,2,3&codes=yes"
    data = fresh.get(address).json()
    assert data["has_rows"]
    assert data["rows"] == []
    page = fresh.get(address.replace(".json", "")).text
    assert 'src="/static/pending.js"' in page
    held = re.search(r'id="pending-data">(.*?)</script>', page, re.DOTALL)
    assert held is not None
    assert json.loads(held[1]) == data["pending"]
    ended = wait(fresh, data["pending"])
    assert ended["state"] == "done", ended
    rows = ActivationStore.open(run / "activations")
    found = atlas(run / "dictionaries", [0, 2, 3], rows=rows, indexes=indexes(run, [0, 2, 3]))
    assert fresh.get(f"/api/jobs/{ended['job']}/table.csv").text == found.table().csv()
    data = fresh.get(address).json()  # what waited was not kept
    assert (data["pending"], data["n_rows"]) == (None, found.n_rows)
    assert found.n_rows > 0
    assert 'src="/static/pending.js"' not in fresh.get(address.replace(".json", "")).text
    check_rows(run, data["rows"], found, [0, 2, 3])
    reasons = [reason for row in data["rows"] for reason in row["why"]]
    assert sum("splits into" in reason for reason in reasons) == len(found.splits)
    assert sum("is silent where" in reason for reason in reasons) == len(found.absorptions)
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(ended["done"]["python"], "<copied>", "exec"), {})
    assert out.getvalue().splitlines()[:-1] == found.table().csv().splitlines()


@pytest.mark.parametrize("page", ["/atlas?", "/splitting?", "/compare?a=0&b=3&"])
def test_what_takes_long_is_a_job_and_a_forgotten_result_is_made_again(
    run: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[State] = []
    real = State.__init__

    def noted(self: State, path: Path) -> None:
        real(self, path)
        made.append(self)

    monkeypatch.setattr(State, "__init__", noted)
    monkeypatch.setattr("monosemy.app.computed.AT_ONCE", 0)
    address = f"{page}grid=dictionaries".replace("?", ".json?", 1)
    with TestClient(make_app(run), base_url="http://127.0.0.1") as client:
        first = client.get(address).json()
        job = wait(client, first["pending"])["job"]
        done = client.get(address).json()
        assert done["rows"]
        result = made[0].results.get(job)
        assert result is not None
        for place in range(RESULTS):  # others come, and this one goes
            made[0].results.put(place, result)
        assert made[0].results.get(job) is None
        other = f"{address}&at=1"
        assert client.get(other).json()["pending"] == first["pending"]
        assert wait(client, first["pending"])["job"] == job
        assert client.get(other).json()["total"] == done["total"]
    monkeypatch.undo()
    with TestClient(make_app(run), base_url="http://127.0.0.1") as client:
        assert client.get(address).json() == done


def test_impossible_comparisons_are_refused(client: TestClient) -> None:
    for address, status, said in (
        ("/atlas.json?grid=nothing", 404, "must be one of"),
        ("/atlas.json?members=0,9", 404, "`member` (=9)"),
        ("/atlas.json?members=0;1", 400, "`members` (='0;1')"),
        ("/atlas.json?members=0,0", 400, "names one twice"),
        ("/atlas.json?tag=good", 400, "`tag` (='good') must be one of any, universal"),
        ("/atlas.json?members=0,1&of=2", 400, "`of` (=2)"),
        ("/atlas.json?codes=perhaps", 400, "`codes`"),
        ("/splitting.json?members=0,1", 400, "each of another width"),
        ("/splitting.json?fate=eaten", 400, "`fate`"),
        ("/splitting.json?level=1", 400, "`level`"),
        ("/splitting.json?feature=8", 400, "`feature` (=8) must be from 0 to 7"),
    ):
        answer = client.get(address)
        assert answer.status_code == status, address
        assert said in answer.json()["error"]
    ended = wait(client, {"analysis": "atlas", "values": {"dictionaries": "dictionaries", "members": "0,9"}})
    assert ended["state"] == "failed"


def test_a_grid_of_one_dictionary_says_what_is_missing(client: TestClient) -> None:
    for path, said in (("/atlas", "needs two dictionaries"), ("/splitting", "two widths or more")):
        page = client.get(path, params={"grid": HOSTILE})
        assert page.status_code == 200
        assert said in page.text
        assert HOSTILE not in page.text
        assert html.escape(HOSTILE) in page.text
        assert client.get(f"{path}.json", params={"grid": HOSTILE}).json()["few"]


# ---- splitting -----------------------------------------------------------------------------------------------------


def test_the_splitting_page_holds_the_tree(client: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.splitting_page.ROWS", 3)
    found = splitting_tree(run / "dictionaries")
    rows = all_rows(client, "/splitting?grid=dictionaries")
    assert [row["feature"] for row in rows] == list(range(8))
    for row in rows:
        feature = row["feature"]
        assert row["fate"] == found.fate(0, feature)
        assert row["href"] == f"/features/{feature}?index=features"
        check_token(run, "features", row)
        assert [child["feature"] for child in row["children"]] == found.children(0, feature)
        for child in row["children"]:
            assert child["cosine"] == float(found.levels[1].cosine[child["feature"]])
            assert child["href"] == f"/features/{child['feature']}?index=features-2"
            check_token(run, "features-2", child)
        tree = client.get(row["tree"].replace("?", ".json?", 1)).json()["tree"]
        assert (tree["feature"], tree["fate"]) == (feature, row["fate"])
        assert [child["feature"] for child in tree["children"]] == found.children(0, feature)
        assert all(child["member"] == 2 for child in tree["children"])
        check_token(run, "features", tree)
    behind = client.get("/splitting.json?grid=dictionaries&at=99999999999").json()
    assert (behind["first"], len(behind["rows"]), behind["next"]) == (6, 2, None)
    data = client.get("/splitting.json?grid=dictionaries").json()
    (counts,) = found.fates()
    assert data["steps"][0]["counts"] == counts
    assert sum(counts[fate] for fate in FATES) == 8
    for fate in FATES:
        assert len(all_rows(client, data["steps"][0]["hrefs"][fate])) == counts[fate]
    other = client.get("/splitting.json?grid=dictionaries&members=3,1").json()
    assert [each["member"] for each in other["members"]] == [1, 3]
    assert other["rows"][0]["href"] is None
    check_token(run, None, other["rows"][0])


# ---- pairs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b"), [(0, 1), (0, 3), (3, 0)])
def test_pairs_are_those_of_all_cosines(run: Path, client: TestClient, a: int, b: int) -> None:
    state = State(run)
    unit = torch.nn.functional.normalize
    a_ND, b_LD = (unit(state.directions(state.grid("dictionaries"), m).double(), dim=1) for m in (a, b))
    cosine_NL = (a_ND @ b_LD.T).numpy()
    found = feature_pairs(run / "dictionaries", a, b)
    np.testing.assert_allclose(found.mcs_N, cosine_NL.max(axis=1), atol=1e-6)
    rows, columns = linear_sum_assignment(-cosine_NL)
    best = cosine_NL[rows, columns].mean()
    assert found.matched == pytest.approx(best, abs=1e-6)
    assert found.gap < 1e-6
    own = [(i, int(j)) for i, j in enumerate(found.partner_N) if j >= 0]
    assert len(own) == len({j for _, j in own}) == min(cosine_NL.shape)
    for i, j in own:
        assert float(found.cosine_N[i]) == pytest.approx(cosine_NL[i, j], abs=1e-6)
    table = found.table().rows
    assert sum(row[5] is None for row in table) == max(0, WIDTHS[a] - WIDTHS[b]) == sum(row[4] is None for row in table)
    counts = [mark["counts"] for mark in as_plain(found.charts()[0].marks)]
    assert [sum(each) for each in counts] == [WIDTHS[a], min(WIDTHS[a], WIDTHS[b])]

    address = f"/compare?grid=dictionaries&a={a}&b={b}&sort=one_to_one"
    shown = all_rows(client, address)
    values = [row["one_to_one"] for row in shown]
    held = [value for value in values if value is not None]
    assert held == sorted(held, reverse=True)
    assert values == held + [None] * (len(values) - len(held))
    assert {row["id"]: row["own"] for row in shown} == {i: j if j >= 0 else None for i, j in enumerate(found.partner_N)}
    data = client.get(address.replace("?", ".json?", 1)).json()
    assert data["matched"] == found.matched
    upwards = all_rows(client, address + "&desc=0")
    assert [row["one_to_one"] for row in upwards][: len(held)] == sorted(held)


def test_two_grids_are_told_of(client: TestClient) -> None:
    names = client.get("/compare.json?grid=dictionaries").json()["grids"]
    assert set(names) == {"dictionaries", HOSTILE}
    page = client.get("/compare?grid=dictionaries").text
    assert all(address in page for address in ("/splitting?grid=dictionaries", "/atlas?grid=dictionaries"))
    assert HOSTILE not in page

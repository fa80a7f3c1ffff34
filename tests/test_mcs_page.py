"""The MCS table in the app: its rows, its order, its downloads, and the job that says what looks meaningful."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from feature_worlds import grid
from network_labs import network_lab, random_dictionary
from starlette.testclient import TestClient

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.mcs_table import Match, McsRow, McsTable, mcs_table
from monosemy.analysis.spreadsheet import xlsx
from monosemy.app.mcs_page import mcs_data
from monosemy.app.server import make_app
from monosemy.app.state import State

SITE, HOSTILE = "layers.1.mlp_act", "<img src=x onerror=alert(1)>"
WIDTHS = (8, 8, 12, 5)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A run of four members of several widths, the first indexed, and a grid of one."""
    folder = tmp_path_factory.mktemp("run")
    found = network_lab(folder, site=SITE)
    wide = found.model.width_of(SITE)
    members = [random_dictionary(wide, seed=seed, width=width) for seed, width in enumerate(WIDTHS)]
    made = grid(folder / "dictionaries", members, site=SITE)
    grid(folder / HOSTILE, members[:1], site=SITE)
    index = features(made, member=0, model=found.model, tokens=found.tokens, out=folder / "features")
    return Lab.open(made, member=0, model=found.model, tokens=found.tokens, index=index)


@pytest.fixture(scope="module")
def run(lab: Lab) -> Path:
    return lab.tokens.artifact.path.parent


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765", follow_redirects=False) as opened:
        yield opened


def table_of(run: Path, others: tuple[int, ...], **options: Any) -> McsTable:
    place = run / "dictionaries"
    index = FeatureIndex.open(run / "features")
    return mcs_table((place, 0), [(place, other) for other in others], **{"index": index, **options})


def all_rows(client: TestClient, address: str) -> list[dict[str, Any]]:
    """The rows of every page of the table."""
    found = []
    while address:
        data = client.get(address.replace("/mcs?", "/mcs.json?")).json()
        found += data["rows"]
        address = data["next"]
    assert len(found) == data["total"]
    return found


def test_the_page_holds_the_table(client: TestClient, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.mcs_page.ROWS", 3)
    found = table_of(run, (1, 2, 3))
    rows = {row["id"]: row for row in all_rows(client, "/mcs?grid=dictionaries&others=all")}
    assert sorted(rows) == list(range(WIDTHS[0]))
    for feature, expected in enumerate(found.rows):
        row = rows[feature]
        assert row["href"] == f"/features/{feature}?index=features"
        for match, told in zip(expected.matches, row["matches"], strict=True):
            assert {name: told[name] for name in vars(match)} == vars(match)
            assert told["nearest_href"] is told["partner_href"] is None  # no other member is indexed
        for name in ("count", "dead", "density", "max", "meaningful", "example"):
            assert row[name] == getattr(expected, name)
    assert any(row["matches"][2]["partner"] is None for row in rows.values())
    data = client.get("/mcs.json?grid=dictionaries&others=all").json()
    living = [row for row in found.rows if not row.dead]
    assert data["words"][0] == (
        f"{found.n_low} of {len(living)} living features of 8 have a low MCS: "
        f"at most 0.9 with any feature of the others."
    )
    assert len(data["words"]) == 1 + len(found.others) + 1
    rare = sum(row["count"] < 10 for row in rows.values())
    assert data["words"][-1] == f"Fire on fewer than 10 of the indexed tokens, which S1 calls dead: {rare}."
    page = html.unescape(client.get("/mcs?grid=dictionaries&others=1&low=0.25").text)
    few = table_of(run, (1,), low=0.25)
    assert f"{few.n_low} of {len(living)} living features" in page
    assert "at most 0.25" in page


def test_it_opens_beside_the_partner_that_compare_has(client: TestClient) -> None:
    """And stays beside that when it is sorted; of a grid of twelve, all others would be forty columns."""
    for a in range(len(WIDTHS)):
        partner = client.get(f"/compare.json?grid=dictionaries&a={a}").json()["b"]
        data = client.get(f"/mcs.json?grid=dictionaries&a={a}").json()
        assert [other["member"] for other in data["others"]] == [partner]
        assert data["sort"] == f"mcs-{partner}"
        assert data["state"]["others"] == str(partner)


@pytest.mark.parametrize("descending", [True, False])
def test_every_column_sorts_and_the_files_are_in_that_order(client: TestClient, run: Path, descending: bool) -> None:
    found = table_of(run, (3, 1))
    columns = found.table().columns
    keys = ["id", *(f"{key}-{other}" for other in (3, 1) for key in ("mcs", "nearest", "one_to_one", "partner"))]
    for place, key in enumerate([*keys, "count", "dead", "density", "max", "meaningful"]):
        address = f"grid=dictionaries&others=3,1&sort={key}&desc={int(descending)}"
        expected = found.sorted_by(str(columns[place]), descending)
        data = client.get(f"/mcs.json?{address}").json()
        assert [row["id"] for row in data["rows"]] == [row[0] for row in expected.rows]
        file = client.get(data["downloads"]["csv"])
        assert file.text == expected.csv()
        assert client.get(data["downloads"]["xlsx"]).content == xlsx(expected, "MCS")


def test_downloads_have_safe_names_and_types(client: TestClient) -> None:
    types = {"csv": "text/csv; charset=utf-8"}
    types["xlsx"] = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    for kind, media_type in types.items():
        answer = client.get(f"/mcs.{kind}?grid=dictionaries&a=2&others=0")
        assert answer.headers["content-disposition"] == f'attachment; filename="mcs-of-member-2.{kind}"'
        assert answer.headers["content-type"] == media_type
        for wrong, status in (
            ({"grid": "../../etc/passwd"}, 404), ({"a": "../0"}, 400), ({"a": "9"}, 404), ({"others": "1/2"}, 400),
            ({"sort": "x"}, 400), ({"grid": HOSTILE}, 400),
        ):  # fmt: skip
            refused = client.get(f"/mcs.{kind}", params=wrong)
            assert refused.status_code == status, wrong
            assert "content-disposition" not in refused.headers


def test_what_looks_meaningful_is_a_job_and_its_python_gives_the_same(client: TestClient, lab: Lab, run: Path) -> None:
    address = "/mcs.json?grid=dictionaries&others=1&meaningful=yes&low=0.5"
    data = client.get(address).json()
    assert data["rows"] == []
    page = client.get(address.replace(".json", "")).text
    assert 'src="/static/pending.js"' in page
    for kind in ("csv", "xlsx"):
        refused = client.get(address.replace("json", kind))
        assert (refused.status_code, "open its page first" in refused.text) == (400, True)
    job = client.post("/api/live/mcs", json=data["pending"]["values"]).json()["job"]
    end = time.monotonic() + 60
    while (state := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert state["state"] == "done", state
    found = table_of(run, (1,), lab=lab, low=0.5)
    assert client.get(f"/api/jobs/{job}/table.csv").text == found.table().csv()
    data = client.get(address).json()
    assert {row["id"]: row["meaningful"] for row in data["rows"]} == {row.feature: row.meaningful for row in found.rows}
    assert found.meaningful_share is not None
    assert found.controls is not None
    assert f"{found.meaningful_share.count} of {found.meaningful_share.total}" in data["words"][1]
    assert f"{found.controls.random.count} of {found.controls.random.total}" in data["words"][1].replace(",", "")
    page = client.get(address.replace(".json", "")).text
    held = re.search(r'id="python-data">(.*?)</script>', page, re.DOTALL)
    assert held is not None
    assert json.loads(held[1]) == data["python"] == state["done"]["python"]
    assert ran(data["python"]) == found.table().csv()


def test_the_python_of_plain_tables(client: TestClient, run: Path) -> None:
    data = client.get("/mcs.json?grid=dictionaries&others=2,1").json()
    assert ran(data["python"]) == table_of(run, (2, 1)).table().csv()
    bare = client.get("/mcs.json?grid=dictionaries&a=3&others=0").json()
    place = run / "dictionaries"
    assert ran(bare["python"]) == mcs_table((place, 3), [(place, 0)]).table().csv()
    assert {row["density"] for row in bare["rows"]} == {None}
    assert "are not indexed" in client.get("/mcs?grid=dictionaries&a=3&others=0").text
    compare = client.get("/compare.json?grid=dictionaries&a=1&b=2").json()
    rows = list(csv.DictReader(io.StringIO(ran(compare["python"]))))
    told = {int(row["feature"]): float(row["mcs"]) for row in rows}
    assert told == {row["id"]: row["mcs"] for row in compare["rows"]}


def ran(source: str) -> str:
    """What a copied program prints, without the line end that print adds."""
    out = io.StringIO(newline="")
    with redirect_stdout(out):
        exec(compile(source, "<copied>", "exec"), {})
    return out.getvalue()[:-1]


def test_a_large_table_is_sorted_at_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16,384 features beside two dictionaries: a page of them, in any order, costs less than 100 ms of computing."""
    state, n = State(run), 16_384
    values = torch.rand(n, 5, generator=torch.Generator().manual_seed(0)).tolist()
    rows = tuple(
        McsRow(i, (Match(a, i, b, i), Match(c, i, None, None)), i % 97, False, d, e, None, "a text")
        for i, (a, b, c, d, e) in enumerate(values)
    )
    found = McsTable("a", ("b", "c"), rows, 0.9, 0, 0, None, None, None, None, ())
    monkeypatch.setattr("monosemy.app.mcs_page._Asked.result", lambda _asked: found)
    query = {"grid": "dictionaries", "others": "1,2", "sort": "mcs-2"}
    taken = []
    for at in ("0", "16000", "300", "8000", "200"):
        start = time.process_time()
        data = mcs_data(state, {**query, "at": at})
        taken.append(time.process_time() - start)
    assert [row["matches"][1]["mcs"] for row in data["rows"]] == sorted((row[2] for row in values), reverse=True)[
        200:300
    ]
    assert min(taken) < 0.1


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        ("/mcs.json?grid=nothing", 404, "must be one of"),
        ("/mcs.json?a=9", 404, "`member` (=9)"),
        ("/mcs.json?others=1,9", 404, "`member` (=9)"),
        ("/mcs.json?others=0,1", 400, "must be members beside 0"),
        ("/mcs.json?others=1,1", 400, "each named once"),
        ("/mcs.json?others=1;2", 400, "`members` (='1;2')"),
        ("/mcs.json?sort=mcs-7", 400, "`sort` (='mcs-7')"),
        ("/mcs.json?low=2", 400, "`low` (=2.0)"),
        ("/mcs.json?low=nan", 400, "`low`"),
        ("/mcs.json?meaningful=perhaps", 400, "`meaningful`"),
    ],
)
def test_impossible_tables_are_refused(client: TestClient, address: str, status: int, said: str) -> None:
    answer = client.get(address)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]


def test_a_job_names_its_members(client: TestClient) -> None:
    given = {"dictionaries": "dictionaries", "a": 0, "others": "all"}
    job = client.post("/api/live/mcs", json=given).json()["job"]
    end = time.monotonic() + 20
    while (state := client.get(f"/api/jobs/{job}").json())["state"] in ("waiting", "running"):
        assert time.monotonic() < end
    assert "`others` must be numbers here" in state["failed"]["text"]


def test_a_table_too_large_for_a_page_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.compare_page.MOST_COSINES", 63)
    answer = client.get("/mcs.json?grid=dictionaries&others=1&sort=max")
    assert answer.status_code == 400
    assert "8 × 8 cosines" in answer.json()["error"]


def test_a_grid_of_one_dictionary_says_what_is_missing(client: TestClient) -> None:
    page = client.get("/mcs", params={"grid": HOSTILE})
    assert page.status_code == 200
    assert "needs two dictionaries" in page.text
    assert HOSTILE not in page.text
    assert html.escape(HOSTILE) in page.text
    assert client.get("/mcs.json", params={"grid": HOSTILE}).json()["few"]


def test_compare_leads_here(client: TestClient) -> None:
    page = html.unescape(client.get("/compare?grid=dictionaries&a=1&b=2").text)
    assert "/mcs?grid=dictionaries&a=1&others=2" in page
    assert 'src="/static/copy.js"' in page

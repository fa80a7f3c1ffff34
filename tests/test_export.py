"""The run in one file: its pages are the app's, nothing runs but its own scripts, and equal runs give equal bytes."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest
import torch
from app_run import HOSTILE, NAME, WIDTH, app_run
from feature_worlds import TableModel, grid, whole_number_dictionary
from starlette.testclient import TestClient

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.verdict_store import verdicts as neuron_verdicts
from monosemy.app.export import export
from monosemy.app.export_across import kept_pairs
from monosemy.app.files import STATIC, plotly
from monosemy.app.one_file import bound, packed, policy
from monosemy.app.query import address
from monosemy.app.review_queue import Queued, QueueSettings
from monosemy.app.reviews import FILE, Reviews
from monosemy.app.server import make_app
from monosemy.cli import main
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

FEATURES = 8
TOKENS = 12
WIDTHS = (8, 16, 32)  # of a second grid
SCRIPT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)


class File:
    """An exported file, unpacked."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_bytes().decode("utf-8")
        self.shell = re.sub(r'(<script type="text/plain"[^>]*>)[^<]*', r"\1", self.text)
        self.pages: dict[str, str] = {}
        self.lists: dict[str, dict[str, list[Any]]] = {}
        for attributes, body in SCRIPT.findall(self.text):
            given = {name: html.unescape(value) for name, value in re.findall(r'([\w-]+)="([^"]*)"', attributes)}
            if "data-page" in given:
                self.pages[given["data-page"]] = unpacked(body)
            elif "data-list" in given:
                self.lists[given["data-list"]] = json.loads(unpacked(body))
            elif given.get("id") == "missing":
                self.missing = unpacked(body)
            elif given.get("id") == "plotly":
                self.plotly = unpacked(body)

    def features(self, index: str) -> list[int]:
        """Those that have their page."""
        found = [re.fullmatch(rf"/features/(\d+) {index}", name) for name in self.pages]
        return [int(each[1]) for each in found if each]

    def tokens(self, index: str) -> list[str]:
        """Those that have their page, as they are called there."""
        return [name.split(" ", 2)[2] for name in self.pages if name.startswith(f"/token {index} ")]


def unpacked(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def block(text: str, attribute: str, value: str) -> Any:
    found = [body for attributes, body in SCRIPT.findall(text) if f'{attribute}="{html.escape(value)}"' in attributes]
    return json.loads(found[0])


def lines_of(text: str) -> set[str]:
    """The lines of a page's main part, without its scripts and the reviews, which the app keeps to those who ask."""
    inside = SCRIPT.sub("", re.split(r"<main[^>]*>|</main>", text)[1])
    inside = re.sub(r"<h2>Reviews</h2>.*?</table>\s*</div>", "", inside, flags=re.DOTALL)
    return {re.sub(r' (href|action)="#/', r' \1="/', line.strip()) for line in inside.splitlines()} - {""}


KEYS = {
    "grid": ("grid",),
    "features": ("index",),
    "token": ("index", "q"),
    "compare": ("grid", "a", "b"),
    "mcs": ("grid", "a"),
    "splitting": ("grid", "members", "level"),
    "atlas": ("grid", "members", "codes"),
}


def of_app(client: TestClient, name: str, twin: bool = False, **more: Any) -> Any:
    """What the app answers for a page of the file."""
    path, *of = name.split(" ")
    query = dict(zip(KEYS.get(path.split("/")[1], ()), map(unquote, of), strict=True))
    query |= {"others": "all"} if path == "/mcs" else {}  # as the file has it
    where = ("/runs" if path == "/" else path) + ".json" if twin else path
    answer = client.get(address(where, **query, **more))
    assert answer.status_code == 200, name
    return answer.json() if twin else answer.text


@pytest.fixture(scope="module", autouse=True)
def few_tokens() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monosemy.app.export_run.MOST_TOKENS", TOKENS)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = app_run(tmp_path_factory.mktemp("export"))
    grid(made / "widths", [whole_number_dictionary(width, width) for width in WIDTHS])
    index = FeatureIndex.open(made / "features-1")
    neuron_verdicts(made / "features", model=cast(LanguageModel, TableModel()), out=made / "told")
    reviews, parent = Reviews(made / FILE), index.artifact.parent("dictionaries")
    queue = [Queued(i, "top", 0.5) for i in range(4)]
    session = reviews.create(f"look {HOSTILE}"[:100], parent.id, 1, QueueSettings(count=4), queue)
    reviews.record(session.id, 0, HOSTILE[:100], "dead", "nothing at all", 3.5)
    reviews.record(session.id, 2, "ann", "mostly", HOSTILE, 60.0)
    gone = reviews.create("of a grid that is gone", "0" * 64, 0, QueueSettings(count=1), queue[:1])
    reviews.record(gone.id, 0, "ann", "mixed")
    reviews.create("nobody has begun", parent.id, 1, QueueSettings(count=1), queue[:1])
    return made


@pytest.fixture(scope="module")
def path(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(run, tmp_path_factory.mktemp("out") / "new" / "run.html", features=FEATURES)


@pytest.fixture(scope="module")
def file(path: Path) -> File:
    return File(path)


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(make_app(run), base_url="http://127.0.0.1:8765") as opened:
        yield opened


# --- the pages -------------------------------------------------------------------


def test_every_page_is_there(file: File) -> None:
    names = ["/", "/circuits", "/search", "/review", "/mcs dictionaries 0", "/mcs dictionaries 1", "/mcs widths 0"]
    for name, members in (("dictionaries", 2), ("widths", 3)):
        names += [f"/grid {name}", *(f"/grid/{member} {name}" for member in range(members)), f"/atlas {name} all no"]
        names += [f"/compare {name} {a} {b}" for a in range(members) for b in range(members) if a != b]
        names += [f"/splitting {name} all {level}" for level in range(max(1, len(WIDTHS) - 1) if members > 2 else 1)]
    for index in ("features", "features-1"):
        names += [f"/features {index}", *(f"/features/{i} {index}" for i in file.features(index))]
        names += [f"/token {index} {text}" for text in file.tokens(index)]
    assert sorted(file.pages) == sorted(names)
    assert len(file.features("features")) == FEATURES
    assert {0, 2} <= set(file.features("features-1"))  # they were reviewed
    menu = re.findall(r'<a href="#(/[^"]*)"', file.shell.split("<nav", 1)[1].split("</nav>")[0])
    assert menu == ["/", "/grid", "/features", "/compare", "/circuits", "/review"]
    also = re.findall(r'data-page="([^"]*)"(?: data-index="[^"]*")? data-also="([^"]*)"', file.text)
    first = {"dictionaries": ("1 0", "1"), "widths": ("0 1", "0")}  # the chosen member, its equal of another seed
    assert also == [
        (f"{path} {name} {place}", f"{path} {name}")
        for name, places in first.items()
        for path, place in zip(("/compare", "/mcs"), places, strict=True)
    ]


# What the app shows and the file does not, and the other way round, by a piece of the line.
ONLY_APP = {
    "/features/": ('<section id="lab"', "/circuits?", "<noscript>"),
    "/features ": ('action="/search"', "strongest in a text", "<button>Search</button>", "not-made", "<code>monosemy"),
    "/grid/": ('<section id="lab"',),
    "/compare ": ('id="tools"', "/mcs?"),
    "/mcs ": ("<form", "</form>", "<label", "</select></label>", "<option", "<button>", 'id="tools"'),
    "/": ("what the folder held when the server was started",),
}
ONLY_FILE = {
    "/features/": ("Live analyses", "member "),
    "/features ": ("have their page in this file",),
    "/grid/": ("need the model",),
    "/compare ": ("are in this file",),
    "/mcs ": ("This file has the MCS table", "also here", '<a href="/mcs?grid=', "features of<b"),
    "/splitting ": ("This file has",),
    "/atlas ": ("This file has",),
}


def test_every_page_is_that_of_the_app(file: File, client: TestClient) -> None:
    for name, text in file.pages.items():
        if name in ("/review", "/circuits", "/search"):
            continue
        mine, its = lines_of(text), lines_of(of_app(client, name))
        assert len(its & mine) > 4
        for told, left_out in ((its - mine, ONLY_APP), (mine - its, ONLY_FILE)):
            known = next((pieces for start, pieces in left_out.items() if name.startswith(start)), ())
            assert not [line for line in told if not any(piece in line for piece in known)], name


def test_their_data_are_the_twins(file: File, client: TestClient) -> None:
    assert block(file.pages["/grid dictionaries"], "id", "charts-data") == client.get("/grid.json").json()["charts"]
    for index in ("features", "features-1"):
        for i in file.features(index):
            text = file.pages[f"/features/{i} {index}"]
            assert block(text, "id", "feature-data") == of_app(client, f"/features/{i} {index}", twin=True)
            asked = address(f"/features/{i}/neighbours.json", index=index)
            assert block(text, "data-twin", asked) == client.get(asked).json()
            assert f'data-source="{html.escape(asked)}"' in text


def test_the_table_has_all_features(file: File, client: TestClient) -> None:
    for index, columns in file.lists.items():
        rows = of_app(client, f"/features {index}", twin=True)["rows"]
        assert len(rows) == WIDTH
        assert columns == {name: [row[name] for row in rows] for name in columns}
        heads = re.findall(r'<th scope="col" class="(\w+)"', file.pages[f"/features {index}"])
        assert list(columns)[: len(heads)] == heads
        assert ("verdict" in columns) == (index == "features")


def test_verdicts_stand_on_the_pages_of_their_features(file: File) -> None:
    overview = html.unescape(file.pages["/review"])
    assert "of a grid that is gone" in overview
    assert "nobody has begun" not in overview
    assert file.pages["/review"].count("<h2>") == 2
    for i, verdict, said in ((0, "dead", "nothing at all"), (2, "mostly", HOSTILE)):
        page = html.unescape(file.pages[f"/features/{i} features-1"])
        assert f'<td class="word">{verdict}</td>' in page
        assert said in page
        assert f'href="#/features/{i}?index=features-1"' in overview
    others = [name for name in file.pages if name.startswith("/features/") and "Reviews" in file.pages[name]]
    assert others == ["/features/0 features-1", "/features/2 features-1"]


def test_which_features_have_their_page(file: File, run: Path) -> None:
    rows = [row for row in FeatureIndex.open(run / "features").table() if not row["dead"]]
    best = sorted(rows, key=lambda row: (-row["mcs_other_seed"], row["id"]))[: FEATURES // 2]
    shown = set(file.features("features"))
    assert {row["id"] for row in best} <= shown <= {row["id"] for row in rows}
    said = f"{FEATURES} of {WIDTH} features have their page in this file: 4 of the highest MCS, 4 drawn at random"
    assert said in file.pages["/features features"]
    assert "2 reviewed" in file.pages["/features features-1"]
    assert "Not found" in file.missing


def test_other_rules(run: Path, tmp_path: Path) -> None:
    found = {
        (rule, seed): File(export(run, tmp_path / "x.html", features=5, rule=rule, seed=seed)).features("features")
        for rule, seed in (("top", 0), ("top", 1), ("random", 0), ("random", 1))
    }
    assert found["top", 0] == found["top", 1]
    assert found["random", 0] != found["random", 1]


def test_more_features_than_there_are(run: Path, tmp_path: Path) -> None:
    alive = [row["id"] for row in FeatureIndex.open(run / "features").table() if not row["dead"]]
    assert File(export(run, tmp_path / "x.html", features=1000)).features("features") == alive


def test_a_table_beyond_its_bound_is_cut_and_says_so(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monosemy.app.export_run.MOST_ROWS", 6)
    file = File(export(run, tmp_path / "x.html", features=2, rule="random"))
    densest, _ = FeatureIndex.open(run / "features").page(sort="density", descending=True, limit=6)
    kept, wanted = file.lists["features"]["id"], {row["id"] for row in densest} | set(file.features("features"))
    assert kept == sorted(wanted)
    assert 6 < len(kept) <= 8
    assert "The table holds the 6 densest and these." in file.pages["/features features"]


# --- comparisons and tokens -------------------------------------------------------


def test_the_most_frequent_tokens_have_their_page(file: File, run: Path) -> None:
    for name in ("features", "features-1"):
        index = FeatureIndex.open(run / name)
        counts: dict[str, int] = {}
        for row in index.rows("SELECT text, count FROM token"):
            counts[row["text"]] = max(row["count"], counts.get(row["text"], 0))
        least = sorted((count for text, count in counts.items() if text), reverse=True)[TOKENS - 1]
        found = [unquote(each) for each in file.tokens(name)]
        assert len(set(found)) == TOKENS
        assert all(counts[text] >= least for text in found)
        assert {text for text, count in counts.items() if text and count > least} <= set(found)
        assert " " in found
        said = f"The search by token knows the {TOKENS} most frequent of {len(counts.keys() - {''})} tokens"
        assert said in file.pages[f"/features {name}"]


def test_rows_of_comparisons_are_all_those_of_the_app(file: File, client: TestClient) -> None:
    for name, text in file.pages.items():
        if not name.startswith(("/compare", "/mcs", "/splitting", "/atlas")):
            continue
        its = of_app(client, name, twin=True)
        if not its["rows"]:
            assert "rows-data" not in text
            continue
        rows = block(text, "id", "rows-data")
        assert f'aria-label="{rows["table"]}"' in text
        assert f"{its['total']} {rows['noun']}" in text
        if name.startswith("/mcs"):
            assert_columns_of_the_table(rows, its, text)
        elif "columns" in rows:
            assert rows["columns"] == {key: [row[key] for row in its["rows"]] for key in rows["columns"]}
            heads = set(re.findall(r'<th scope="col" class="(\w+)"[^>]*><a', text))
            assert heads == set(rows["columns"])
            assert heads >= {rows["sort"], *rows["rising"]}
        elif rows["filters"] == ["fate"]:
            assert rows["marks"] == [[[row["fate"]]] for row in its["rows"]]
        else:
            held = [[[own["tag"], own["member"]] for own in row["features"] if own] for row in its["rows"]]
            assert rows["marks"] == held


def assert_columns_of_the_table(rows: dict[str, Any], its: dict[str, Any], text: str) -> None:
    """Every heading that leads somewhere has the column that it sorts by; numbers of features go up at first."""
    heads = re.findall(r'<th scope="col" class="([^"]+)"[^>]*><a href="([^"]*)"', text)
    assert [head for head, _ in heads] == list(rows["columns"])
    per_other = ("mcs", "nearest", "one_to_one", "partner")
    for place, other in enumerate(its["others"]):
        for key in per_other:
            held = rows["columns"][f"{key}-{other['member']}"]
            assert held == [row["matches"][place][key] for row in its["rows"]]
    for key in ("id", "count", "dead", "density", "max", "meaningful"):
        assert rows["columns"][key] == [row[key] for row in its["rows"]]
    assert rows["sort"] == its["sort"]
    assert set(rows["rising"]) == {head for head, _ in heads if head == "id" or head.startswith(("nearest", "partner"))}
    for head, href in heads:
        if head != its["sort"]:
            assert f"desc={int(head not in rows['rising'])}" in href


def test_an_mcs_table_is_in_the_file_as_in_the_app(file: File, client: TestClient) -> None:
    """With what an index says where there is one, and without what only the server has."""
    page = html.unescape(file.pages["/mcs dictionaries 1"])
    its = client.get("/mcs.json?grid=dictionaries&a=1&others=all").json()
    assert its["words"][0] in page
    row = next(row for row in its["rows"] if row["example"] and row["dead"] is False)
    assert f'title="{row["matches"][0]["mcs"]}"' in page
    assert row["example"] in page
    assert f'href="#/features/{row["id"]}?index=features-1"' in page
    assert "This file has the MCS table of members 0, 1 beside all others." in page
    assert "download" not in page
    assert "<form" not in page
    assert '<a href="#/mcs?grid=widths">' in page
    bare = block(file.pages["/mcs widths 0"], "id", "rows-data")["columns"]
    assert set(bare["density"]) == {None}
    assert {"mcs-1", "partner-2"} <= bare.keys()


def test_mcs_tables_are_bounded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.export_across.BESIDE", 1)
    monkeypatch.setattr("monosemy.app.export_across.TABLES", 1)
    file = File(export(run, tmp_path / "x.html", features=2))
    assert [name for name in file.pages if name.startswith("/mcs")] == ["/mcs dictionaries 1", "/mcs widths 0"]
    rows = block(file.pages["/mcs widths 0"], "id", "rows-data")
    assert {name for name in rows["columns"] if name.startswith("mcs-")} == {"mcs-1"}
    assert "one of 2 others: its equal of another seed, if there is one" in file.pages["/mcs widths 0"]
    monkeypatch.setattr("monosemy.app.export_across.COSINES", 24 * 24 - 1)
    file = File(export(run, tmp_path / "x.html", features=2))
    assert "It takes 576 cosines" in file.pages["/mcs dictionaries"]
    assert "rows-data" in file.pages["/mcs widths 0"]


def test_trees_of_any_depth_can_be_made(file: File, client: TestClient) -> None:
    """What lies beside the table of a step gives every feature's tree, as the app shows it."""
    depths = set()
    for level in range(2):
        name = f"/splitting widths all {level}"
        levels = block(file.pages[name], "id", "rows-data")["levels"]

        def nested(at: int, feature: int, levels: list[dict[str, Any]] = levels) -> dict[str, Any]:
            fates, children = levels[at]["fates"], levels[at]["children"]
            below = children[feature] if children else []
            return {
                "member": levels[at]["member"],
                "feature": feature,
                "fate": fates[feature] if fates else None,
                "children": [(near, nested(at + 1, child)) for child, near in below],
            }

        def its(node: dict[str, Any]) -> dict[str, Any]:
            children = [(child["cosine"], its(child)) for child in node["children"]]
            return {**{key: node[key] for key in ("member", "feature", "fate")}, "children": children}

        for feature in range(WIDTHS[level]):
            tree = of_app(client, name, twin=True, feature=str(feature))["tree"]
            assert nested(level, feature) == its(tree)
            depths.add(level + bool(tree["children"]) + any(child["children"] for child in tree["children"]))
    assert depths >= {0, 2}


def test_long_ones_are_computed_as_jobs_are(
    run: Path, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monosemy.app.computed.AT_ONCE", 0)
    again = export(run, tmp_path / path.name, features=FEATURES)
    assert again.read_bytes() == path.read_bytes()


def test_what_is_left_out_says_so(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.app.export_across.PAIRS", 3)
    monkeypatch.setattr("monosemy.app.export_across.COSINES", 16 * 24)  # of 8 × 16 × 32
    file = File(export(run, tmp_path / "x.html", features=2))
    assert [name for name in file.pages if name.startswith("/compare widths")] == [
        "/compare widths 0 1", "/compare widths 0 2", "/compare widths 1 0",
    ]  # fmt: skip
    said = (
        "3 of 6 pairs of this grid's dictionaries are in this file, those whose features are indexed first; 2 are too"
    )
    assert said in html.unescape(file.pages["/compare widths 0 1"])
    assert "0 of 2 pairs" in file.pages["/compare dictionaries"]
    for page, cosines in (("/splitting widths all 0", 640), ("/atlas widths all no", 896)):
        assert f"It takes {cosines} cosines; of what takes more than 384" in file.pages[page]
    monkeypatch.setattr("monosemy.app.export_across.COSINES", 10**6)
    monkeypatch.setattr("monosemy.app.export_across.MOST_ROWS", 10)
    file = File(export(run, tmp_path / "x.html", features=2))
    assert re.search(r"its table has \d+ rows, more than the 10 that a file takes", file.pages["/atlas widths all no"])
    assert [name for name in file.pages if name.startswith("/compare widths")] == [
        "/compare widths 0 1", "/compare widths 0 2",
    ]  # fmt: skip


def test_pairs_are_told_in_words() -> None:
    assert kept_pairs("r", 0, 0, 0) == "This grid has one dictionary; comparing takes two."
    assert kept_pairs("r", 6, 6, 6) == "All 6 pairs of this grid's dictionaries are in this file."
    assert kept_pairs("r", 20, 132, 132).endswith("in this file, those whose features are indexed first. "
                                                   "monosemy serve r compares any two.")  # fmt: skip


def test_what_needs_the_model_says_so(file: File) -> None:
    for name in ("/circuits", "/search"):
        assert "which is not in this file. With it: monosemy serve run." in file.pages[name]
    assert "Live analyses" in file.pages[f"/features/{file.features('features')[0]} features"]


# --- nothing runs but its own scripts ----------------------------------------------


def test_the_policy_lets_its_own_scripts_run_and_nothing_else(file: File) -> None:
    found = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', file.shell)
    assert found is not None
    rules = dict(rule.strip().split(" ", 1) for rule in html.unescape(found[1]).split(";"))
    assert rules.keys() == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    running = [text for attributes, text in SCRIPT.findall(file.text) if attributes in ("", ' type="module"')]
    assert len(running) == 2
    assert rules["script-src"].split() == policy_hashes([*running, file.plotly])
    assert file.plotly == plotly().read_text()
    assert file.shell.index("Content-Security-Policy") < file.shell.index("<style>") < file.shell.index("<script")
    quiet = [attributes for attributes, _ in SCRIPT.findall(file.text) if attributes not in ("", ' type="module"')]
    assert all(re.match(r' type="(text/plain|application/json)"', attributes) for attributes in quiet)


def policy_hashes(scripts: list[str]) -> list[str]:
    return [f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts]


def test_nothing_is_fetched(file: File) -> None:
    assert not re.search(r"https?://", file.shell)
    for text in (SCRIPT.sub("", file.shell), *file.pages.values(), file.missing):
        assert not re.search(r"https?://", text)
        assert not re.search(r'\b(src|href|action|srcset|poster)="(?!#|data:,")', text)
        assert not re.search(r"url\(|@import", text)


def test_text_of_the_run_is_never_markup(file: File) -> None:
    assert HOSTILE not in file.text
    assert "<img" not in file.text
    held = 0
    for text in (*file.pages.values(), file.missing):
        assert HOSTILE not in text
        assert "<img" not in text
        assert all('type="application/json"' in attributes for attributes, _ in SCRIPT.findall(text))
        assert not re.search(r"<[^>]+\son\w+=", text)
        held += HOSTILE in html.unescape(text)
    assert held >= 4  # the scores' reason, a setting, verdicts
    assert any(json.dumps(NAME.replace("/", "_"))[5:15] in text for text in file.pages.values())


# --- equal runs, other runs, wrong requests ------------------------------------------


def test_equal_runs_give_equal_bytes(run: Path, path: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, copied)
    assert export(copied, features=FEATURES) == copied / "run.html"
    assert (copied / "run.html").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("there", "menu"),
    [
        (("dictionaries",), ["Runs", "Grid", "Compare", "Circuits"]),
        (("dictionaries", "features-1"), ["Runs", "Grid", "Features", "Compare", "Circuits"]),
        (("features",), ["Runs", "Features"]),
        (("scores",), ["Runs"]),
    ],
)
def test_a_run_shows_what_it_has(run: Path, tmp_path: Path, there: tuple[str, ...], menu: list[str]) -> None:
    for name in there:
        (tmp_path / name).symlink_to(run / name)
    file = File(export(tmp_path, features=2))
    assert re.findall(r">(\w+)</a>", file.shell.split("<nav", 1)[1].split("</nav>")[0]) == menu
    assert ("/grid dictionaries" in file.pages) == ("dictionaries" in there)
    assert list(file.lists) == [name for name in there if name.startswith("features")]
    assert ('role="search"' in file.shell) == bool(file.lists)


def test_without_a_second_seed_features_are_drawn_at_random(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(self: FeatureIndex, query: str, *values: Any, read: Any = FeatureIndex.rows) -> list[Any]:
        return [
            {**row, **({"mcs_other_seed": None} if "mcs_other_seed" in row else {})}
            for row in read(self, query, *values)
        ]

    monkeypatch.setattr(FeatureIndex, "rows", without)
    file = File(export(run, tmp_path / "x.html", features=4))
    assert len(file.features("features")) == 4
    assert "in this file: 4 drawn at random" in file.pages["/features features"]
    with pytest.raises(UsageError, match="needs the MCS"):
        export(run, tmp_path / "x.html", features=4, rule="top")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"features": 0}, r"`features` \(=0\) must be from 1 to 1000"),
        ({"features": 1001}, "1001"),
        ({"rule": "best"}, "`rule`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_what_cannot_be_met_is_said(run: Path, tmp_path: Path, given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        export(run, tmp_path / "x.html", **given)
    with pytest.raises(UsageError, match="is a folder; name the file"):
        export(run, tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        export(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(run), "--static", "--features", "3", "--out", str(tmp_path / "mail.html")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "mail.html")
    assert len(File(tmp_path / "mail.html").features("features")) == 3
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--features", "3"])
    assert ended.value.code == 2
    assert "goes with --static" in capsys.readouterr().err


# --- binding modules -----------------------------------------------------------------

MODULES = {
    "a.js": 'import { twice } from "./b.js";\nimport { one } from "./c.js";\ntwice(one);\n',
    "b.js": 'import { one } from "./c.js";\nconst own = 1;\nexport function twice(x) {\n  return x + x + one;\n}\n',
    "c.js": "// export is a word here\nexport const one = 1;\nexport async function two() {}\n",
}


def test_modules_are_bound_in_the_order_of_their_imports() -> None:
    script = bound("a.js", MODULES.__getitem__)
    assert script == (
        "const modules = {};\n"
        "modules['c.js'] = (() => {\n// export is a word here\nconst one = 1;\nasync function two() {}\n"
        "return { one, two };\n})();\n"
        "modules['b.js'] = (() => {\nconst { one } = modules['c.js'];\nconst own = 1;\nfunction twice(x) {\n"
        "  return x + x + one;\n}\nreturn { twice };\n})();\n"
        "modules['a.js'] = (() => {\nconst { twice } = modules['b.js'];\nconst { one } = modules['c.js'];\n"
        "twice(one);\nreturn {  };\n})();\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        'import * as all from "./c.js";',
        'import one from "./c.js";',
        'import {\n  one,\n} from "./c.js";',
        'import "./c.js";',
        "export default 1;",
        "export { one };",
        "export let one = 1;",
        'const later = import("./c.js");',
        'import { a } from "./a.js";',
        "const end = '</SCRIPT>';",
        "x <!--y;",
    ],
)
def test_what_cannot_be_bound_is_refused(text: str) -> None:
    modules = {**MODULES, "b.js": text}
    with pytest.raises(ValueError, match=r"b\.js|a\.js"):
        bound("a.js", modules.__getitem__)


def test_the_apps_modules_can_be_bound() -> None:
    script = bound("offline.js", lambda name: (STATIC / name).read_text())
    assert script.count("modules['dom.js'] = ") == 1
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)


def test_packed_text_is_plain_and_always_the_same() -> None:
    data = bytes(range(256)) * 10
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(data))
    assert gzip.decompress(base64.b64decode(packed(data))) == data
    assert packed(data) == packed(data)
    assert policy(["x"]) != policy(["y"])

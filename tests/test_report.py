"""The report: its data against the index's, its safety against hostile text, and the page in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import random
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from monosemy.analysis.feature import GROUPS, Example, Feature, FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.verdict_store import verdicts
from monosemy.artifact import Artifact, Parent, make
from monosemy.data.tokens import tokenize
from monosemy.explain.store import explanations
from monosemy.figure import svg
from monosemy.metrics.evaluate import evaluate
from monosemy.models.harvest import harvest
from monosemy.models.pretrain import pretrain
from monosemy.report import plots
from monosemy.report.grid_figures import with_derived
from monosemy.report.overview import draw_overview, overview, telling
from monosemy.report.page import render, write_report
from monosemy.report.payload import payload, safe_json
from monosemy.report.run import KINDS, Run, open_run, without_failed
from monosemy.runtime import UsageError
from monosemy.training.sweep import train

CODE = '''def read(self, path):
    """Read <b>all</b> lines; return those that are not blank."""
\twith open(path) as file:
        return [line.rstrip("\\n") for line in file if line.strip() != ""]
'''
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
TEXTS = {
    "Lib/io.py": CODE * 3,
    'hostile & "quoted" <name>.html': f"<p>before</p> {HOSTILE} <!-- after & so on",
    "ar/قراءة.txt": "كان يا ما كان في قديم الزمان ملك عادل يحكم مدينة كبيرة، وكان الناس يحبونه كثيرا.",
    "ja/昔話.txt": "むかしむかし、あるところに、おじいさんとおばあさんが住んでいました。\nおじいさんは山へ行きました。",
    "a/very/long/path/that/goes/on/and/on/" + "deeper/" * 6 + "file.txt": "One \u202etwo\u202c three  four\x1b five.\n"
    * 4,
}


def tokens_of(text: str) -> list[str]:
    return re.findall(r" ?\w{1,6}|\n|\t| +|[^\w\s]|[^\S\n\t ]", text)


class FakeIndex:
    """A FeatureIndex in memory: feature i fires on one token of TEXTS, a bit on the next; every ninth is dead."""

    def __init__(self, n_features: int = 36) -> None:
        self.n_features, self.n_tokens, self.detection_limit = n_features, 200_000, 1 / 200_000
        self.artifact = Artifact(Path("features"), {"config": {"member": 3}, "info": {"n_tokens": 200_000}})
        self.documents = {f"{name}:{copy}": tokens_of(text) for copy in range(4) for name, text in TEXTS.items()}
        self.kinds = sorted({token for tokens in self.documents.values() for token in tokens})
        random.Random(0).shuffle(self.kinds)
        self.kinds.insert(0, "script")
        self.kinds.insert(1, " كان")
        self.kinds.insert(2, "\n")

    def table(self) -> list[dict[str, Any]]:
        names = ("id", "density", "count", "max", "mean", "dead", "mcs_other_seed")
        return [{name: asdict(self.feature(i))[name] for name in names} for i in range(self.n_features)]

    def feature(self, i: int) -> Feature:
        dice = random.Random(i)
        examples = {} if i % 9 == 8 else self._examples(self.kinds[i % len(self.kinds)], dice)
        peaks = [example.values[example.peak] for example in examples.get("top", [])]
        count = int(10 ** dice.uniform(0, 3.5)) if peaks else 0
        counts = [int(count * weight) for weight in (0, 0.02, 0.1, 0.3, 0.33, 0.2, 0.05, 0)]
        return Feature(
            id=i,
            density=count / self.n_tokens,
            count=count,
            max=max(peaks, default=0.0),
            mean=max(peaks, default=0.0) / 3,
            dead=not peaks,
            mcs_other_seed=dice.betavariate(5, 1) if i % 5 else None,
            histogram=([max(peaks, default=1.0) * 2 ** (step / 2 - 3.5) for step in range(9)], counts),
            top_logits=[(dice.choice(self.kinds), 3.2123456 - 0.2 * rank) for rank in range(10)],
            bottom_logits=[(dice.choice(self.kinds), -2.1 + 0.1 * rank) for rank in range(10)],
            examples=examples,
        )

    def _examples(self, kind: str, dice: random.Random) -> dict[str, list[Example]]:
        found = []
        for name, tokens in self.documents.items():
            values = [0.0] * (len(tokens) + 1)
            places = [place for place, token in enumerate(tokens) if token == kind]
            for place in places:
                values[place] = dice.uniform(0.4, 7)
                values[place + 1] = values[place] / 4
            found += [window(name, tokens, values, place) for place in places]
        found.sort(key=lambda example: -example.values[example.peak])
        best = {example.document: example for example in reversed(found)}
        sample = sorted(dice.sample(found, min(15, len(found))), key=lambda example: example.values[example.peak])
        name = dice.choice(list(self.documents))
        return {
            "top": sorted(best.values(), key=lambda example: -example.values[example.peak]),
            "uniform": [replace(example, group=number) for number, example in enumerate(sample[::4])],
            "quantile": [replace(example, group=5 * rank // len(sample)) for rank, example in enumerate(sample)],
            "random": [window(name, self.documents[name], [0.0] * 999, place) for place in (3, 9, 14)],
        }


def window(name: str, tokens: list[str], values: list[float], place: int) -> Example:
    first = max(0, place - 24)
    end = place + 9
    return Example(
        name, 5000 + place, 1000 + place, place - first, tokens[first:end], values[first : min(end, len(tokens))], 0
    )


def grid(seeds: int = 2) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for width in (512, 1024, 2048):
        for l1 in (0.03, 0.1, 0.3):
            for seed in range(seeds):
                l0 = 4 / l1**0.8 * (1 + width / 4096) * (1 + 0.05 * seed)
                fvu = 0.9 / (1 + l0**0.6) * (1 + 300 / width)
                larger = None if width == 2048 else 0.61234567
                rows.append(
                    {"member": len(rows), "variant": "relu", "width": width, "l1": l1, "k": None, "seed": seed}
                    | {"lr": 1e-3, "l0": l0, "fvu": fvu, "explained_variance": 1 - fvu, "cosine": 0.9, "mse": fvu * 3}
                    | {"dead": int(width * l1 / 2), "alive": width - int(width * l1 / 2), "ce_original": 3.1}
                    | {"ce_reconstructed": 3.1 + fvu, "ce_zero": 5.2, "ce_mean": 5.0, "ce_recovered": 1 - fvu / 2}
                    | {"kl": fvu / 2, "perplexity_ratio": 1.2, "shrinkage": 0.93, "mmcs_with_larger": larger}
                    | {"mmcs_other_seed": None if l1 == 0.3 and width == 512 else 0.5 + l1}
                )
    return rows


def write_run(folder: Path, kinds: tuple[str, ...] = ("tokens", "dictionaries", "scores")) -> Path:
    """A run folder with artifacts of these kinds (not features)."""
    parents: dict[str, Parent] = {}
    for kind in kinds:
        made = make(folder / kind, kind, {"source": "a <b> & c", "context": 256}, dict(parents), writers[kind])
        parents[kind] = made.as_parent()
    return folder


def _write_dictionaries(_: Any) -> dict[str, Any]:
    names = ("variant", "width", "l1", "k", "lr", "seed")
    return {"members": [{name: row[name] for name in names} for row in grid()]}


def _write_scores(draft: Any) -> dict[str, Any]:
    draft.file("scores.json").write_text(json.dumps(grid()))
    return {"chosen": 3, "why": "of the 9 with ce_recovered ≥ 0.90, the one", "n_rows": 65536, "n_tokens": 16384}


writers: dict[str, Any] = {
    "tokens": lambda _: {},
    "dictionaries": _write_dictionaries,
    "scores": _write_scores,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a whole run called `my run`."""
    return render(fake_run(tmp_path_factory.mktemp("whole") / "my run"))


def fake_run(folder: Path) -> Run:
    """Real artifacts, and the index in memory."""
    real = open_run(write_run(folder))
    return Run(real.path, real.artifacts, real.notes, real.rows, FakeIndex(), real.chosen, real.why)  # type: ignore[arg-type]


# --- the data ----------------------------------------------------------------------------------------------------


def test_the_data_are_the_index_with_six_digits() -> None:
    index = FakeIndex()
    data = json.loads(safe_json(payload(index, most=2000)))  # type: ignore[arg-type]
    for row in index.table():
        place = data["table"]["id"].index(row["id"])
        assert data["table"]["density"][place] == pytest.approx(row["density"], rel=1e-5)
        assert (data["table"]["mcs_other_seed"][place] is None) == (row["mcs_other_seed"] is None)
        assert (str(row["id"]) in data["features"]) == (not row["dead"])
    feature, packed = index.feature(3), data["features"]["3"]
    expected = [example for kind in GROUPS for example in feature.examples[kind]]
    assert len(packed["examples"]) == len(expected)
    for (_, document, offset, peak, tokens, values), example in zip(packed["examples"], expected, strict=True):
        assert data["documents"][document] == example.document
        assert (offset, peak) == (example.position, example.peak)
        assert [data["tokens"][number] for number in tokens] == example.tokens
        assert values == [float(f"{value:.6g}") for value in example.values]
    assert sum(packed["counts"]) == sum(feature.histogram[1])
    assert len(packed["edges"]) == len(packed["counts"]) + 1
    assert packed["counts"][0] > 0 < packed["counts"][-1]
    assert packed["edges"][0] == pytest.approx(feature.histogram[0][1], rel=1e-5)


def test_a_large_index_stays_small() -> None:
    """1,024 features × 40 examples × 33 tokens, an eighth of the values not zero: below 15 MB."""
    dice = random.Random(0)
    index, share = FakeIndex(), 32

    def example() -> Example:
        values = [dice.uniform(0, 9) if dice.random() < 1 / 8 else 0.0 for _ in range(33)]
        tokens = [f"token{dice.randrange(4096)}" for _ in values]
        return Example(f"Lib/module{dice.randrange(900)}.py", dice.randrange(10**7), 10**5, 24, tokens, values, 0)

    template = index.feature(3)
    examples = {"top": [example() for _ in range(20)], "quantile": [example() for _ in range(15)], "random": []}
    index.feature = lambda i: replace(template, id=i, examples=examples)  # type: ignore[method-assign]
    size = len(safe_json(payload(index, most=share)["features"])) * 1024 / share  # type: ignore[arg-type]
    assert size < 14e6


def test_only_the_densest_are_embedded_and_the_page_says_so(tmp_path: Path, whole: str) -> None:
    index = FakeIndex()
    data = payload(index, most=5)  # type: ignore[arg-type]
    alive = sorted((row for row in index.table() if not row["dead"]), key=lambda row: -row["density"])
    assert set(data["features"]) == {row["id"] for row in alive[:5]}
    assert len(data["table"]["id"]) == index.n_features
    assert f"The 5 densest of {len(alive)} living features" in render(fake_run(tmp_path), most=5)
    assert "densest of" not in whole


# --- the page ----------------------------------------------------------------------------------------------------


def scripts(text: str) -> list[str]:
    return re.findall(r"<script\b[^>]*>(.*?)</script>", text, flags=re.DOTALL)


def test_text_from_a_corpus_is_never_markup(whole: str) -> None:
    text = whole
    data, script = scripts(text)
    assert not set("<>&") & set(data)
    tokens = json.loads(data)["tokens"]
    assert "script" in tokens
    assert "<" in tokens
    assert "owned" not in text.replace(data, "")
    assert "a <b> & c" not in text
    assert html.escape("a <b> & c") in text
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_the_page_names_no_address(whole: str) -> None:
    text = whole
    assert set(re.findall(r"\bhttps?://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a namespace's name
    assert not re.search(r"<(link|iframe|object|embed|base)\b|@import|\bfetch\(|XMLHttpRequest", text)
    assert all(place.startswith("#") for place in re.findall(r'\bhref="([^"]*)"', text) if "data:" not in place)


def test_scores_are_shown_and_undefined_ones_are_blank(whole: str) -> None:
    text = whole
    table = re.search(r"<tbody>(.*?)</tbody>", text, flags=re.DOTALL)
    assert table
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table[1].split("</tr>")[:-1]]
    heads = re.findall(r"<button[^>]*>([^<]*)</button></th>", text)
    assert len(rows) == 18
    assert {len(row) for row in rows} == {len(heads)}
    larger = heads.index("MMCS larger")
    assert [row[larger] for row in rows] == ["0.6123"] * 12 + [""] * 6
    assert rows[0][heads.index("lr")] == "0.001"
    assert "Undefined for every member, and left out: k." in text
    assert "<b>member 3 (relu, width 512, L1 0.1, lr 0.001, seed 1)</b>: of the 9" in text
    assert text.count('class="chosen"') == 1


def test_a_new_field_is_shown(tmp_path: Path) -> None:
    rows = [{**row, "brand_new": 0.25} for row in grid()]
    run = fake_run(tmp_path)
    text = render(Run(run.path, run.artifacts, [], rows, None, 3, ""))
    assert ">brand new</button>" in text
    assert ">0.2500</td>" in text


def test_a_member_that_failed_has_no_scores_and_is_in_no_figure(tmp_path: Path) -> None:
    why = "the loss of <it> was not finite at step 1200, lower its learning rate"
    rows = [{**row, "failed": None, "failure": None} for row in grid()]
    broken = without_failed([*rows[:5], {**rows[5], "failed": 1200, "failure": why}])
    assert broken[:5] == grid()[:5]
    assert broken[5]["failed"] == "failed at step 1,200"
    assert not {"l0", "fvu", "dead"} & broken[5].keys()
    assert without_failed([{**rows[5], "failure": why}])[0]["failed"] == "failed"  # scores of older versions
    assert len(circles(broken)) == len(circles(grid()[:5]))
    assert len(with_derived([*rows[:5], {**rows[5], "failure": why}], grid=False)) == 5
    text = render(replace(fake_run(tmp_path), rows=broken))
    assert f'title="{html.escape(why)}" class="word">failed at step 1,200</td>' in text
    assert text.count(why) == 0
    assert "failed" not in render(replace(fake_run(tmp_path / "sound"), rows=without_failed(rows))).split("<script")[0]


def circles(rows: list[dict[str, Any]]) -> list[Any]:
    """The markers of the front, one a dictionary."""
    drawn = plots.front(rows, "fvu", "FVU", None)
    assert drawn is not None
    return [line for line in drawn.axes[0].lines if line.get_linestyle() == "None"]


def test_features_of_a_failed_member_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a run without scores, the dictionaries themselves say who failed."""
    members = [{**row, "training": {"l0": 3.0, "failed": 70}, "failure": "it overflowed"} for row in grid()[:4]]
    monkeypatch.setattr(FeatureIndex, "open", lambda _: FakeIndex())  # of member 3
    for kind in ("dictionaries", "features"):
        make(tmp_path / kind, kind, {}, {}, lambda _: {"members": members})
    found = open_run(tmp_path)
    assert found.notes[-1] == "The features shown are those of member 3, whose training failed at step 70."
    assert all("l0" not in row and "training" not in row for row in found.rows)


def test_the_page_shows_what_there_is(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "a", ("dictionaries",)))
    assert path == tmp_path / "a" / "report.html"
    text = path.read_text()
    assert "18 dictionaries, not scored yet" in text
    assert "no feature index yet" in text
    other = write_report(write_run(tmp_path / "b"), tmp_path / "new" / "page.html")
    assert other == tmp_path / "new" / "page.html"
    assert "FVU against L0" in other.read_text()


def test_a_run_of_the_real_stages(tmp_path: Path) -> None:
    """Every stage, tiny: what they write is what the page reads."""
    (tmp_path / "text").mkdir()
    for name, text in enumerate(TEXTS.values()):
        (tmp_path / "text" / f"{name}.txt").write_text(text * 5)
    store = tokenize(str(tmp_path / "text"), tokenizer="bpe:300", context=32, out=tmp_path / "run" / "tokens")
    model = pretrain(store, steps=2, layers=1, d_model=16, heads=2, device="cpu", out=tmp_path / "run" / "model")
    rows = harvest(model.path, store, site="layers.0.mlp_act", device="cpu", out=tmp_path / "run" / "activations")
    dictionaries = train(
        rows, width=(32,), seed=(0, 1), steps=3, batch=64, device="cpu", out=tmp_path / "run" / "dictionaries"
    )
    scores = evaluate(dictionaries, rows, model=model.path, device="cpu", out=tmp_path / "run" / "scores")
    index = features(
        dictionaries,
        member=scores.chosen,
        model=model.path,
        tokens=store,
        device="cpu",
        out=tmp_path / "run" / "features",
    )
    verdicts(index, out=tmp_path / "run" / "verdicts", device="cpu")
    (tmp_path / "said.jsonl").write_text('{"feature": 3, "text": "commas"}\n')
    explanations(index, tmp_path / "said.jsonl", out=tmp_path / "run" / "explanations")
    text = write_report(tmp_path / "run").read_text()
    data = json.loads(scripts(text)[0])
    alive = [row["id"] for row in index.table() if not row["dead"]]
    assert [int(number) for number in data["features"]] == alive
    first = index.feature(alive[0]).examples["top"][0]
    _, document, offset, peak, tokens, _ = data["features"][str(alive[0])]["examples"][0]
    assert (data["documents"][document], offset, peak) == (first.document, first.position, first.peak)
    assert [data["tokens"][number] for number in tokens] == first.tokens
    assert all(f"<b>{kind}</b>" in text for kind in KINDS)
    overview(tmp_path / "run").savefig(tmp_path / "overview.png", dpi=50)
    for number in {row["id"] for row in index.table() if row["dead"]}:
        with pytest.raises(UsageError, match="is dead"):
            overview(tmp_path / "run", feature=number)


def test_a_run_with_nothing_to_show_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", ("tokens",))
    with pytest.raises(UsageError, match=r"run: holds no finished dictionaries, scores or features.*train"):
        write_report(tmp_path / "run")
    with pytest.raises(UsageError, match="is not a folder"):
        write_report(tmp_path / "none")
    write_run(tmp_path / "good")
    with pytest.raises(UsageError, match=r"`out` .* is a folder"):
        write_report(tmp_path / "good", tmp_path)
    assert not list(tmp_path.rglob("report.html"))


def test_of_several_of_a_kind_the_named_one_or_the_newest_is_shown(tmp_path: Path) -> None:
    write_run(tmp_path)
    make(tmp_path / "dictionaries-2", "dictionaries", {"l1": 1}, {}, _write_dictionaries)
    found = open_run(tmp_path)
    assert found.artifacts["dictionaries"].path.name == "dictionaries"
    (note,) = found.notes
    assert note == (
        "Several dictionaries here (dictionaries, dictionaries-2); shown: dictionaries, named like its kind."
    )
    (tmp_path / "dictionaries").rename(tmp_path / "dictionaries-1")
    manifest = tmp_path / "dictionaries-2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"created": "2', '"created": "3'))
    newest = open_run(tmp_path)
    assert newest.artifacts["dictionaries"].path.name == "dictionaries-2"
    assert "The scores were made from other dictionaries than the dictionaries shown here." in newest.notes


def test_damaged_scores_are_refused_by_name(tmp_path: Path) -> None:
    write_run(tmp_path)
    (tmp_path / "scores" / "scores.json").write_text("[]")
    with pytest.raises(UsageError, match=r"scores\.json"):
        write_report(tmp_path)


# --- the figures -------------------------------------------------------------------------------------------------


def test_figures_leave_out_what_is_undefined() -> None:
    assert plots.front([{"member": 0, "l0": None, "fvu": 0.1}], "fvu", "FVU") is None
    one_width = [row for row in grid() if row["width"] == 512]
    assert plots.heatmap(one_width, "mmcs_other_seed", "MMCS") is None
    assert plots.heatmap([{**row, "mmcs_other_seed": None} for row in grid()], "mmcs_other_seed", "MMCS") is None
    figure = plots.heatmap(grid(), "mmcs_other_seed", "MMCS")
    assert figure
    assert [text.get_text() for text in figure.axes[0].texts].count("0.80") == 2
    assert len(figure.axes[0].texts) == 8  # of nine cells, one is blank
    assert plots.density_histogram([], 10, 0.1) is None
    assert plots.mcs_histogram([]) is None
    assert plots.mcs_against_density([0.1, 0.2], [None, None]) is None


def test_the_front_has_a_line_a_width_a_marker_a_seed_and_a_circle() -> None:
    figure = plots.front(grid(), "fvu", "FVU", chosen=3)
    assert figure
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["width 512", "width 1,024", "width 2,048", "seed 0", "seed 1", "chosen"]
    (circle,) = [line for line in figure.axes[0].lines if line.get_label() == "chosen"]
    assert list(circle.get_ydata()) == [grid()[3]["fvu"]]  # type: ignore[arg-type]


def test_an_svg_follows_the_page() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    first, second = (plots.front(grid(), "fvu", "FVU") for _ in range(2))
    assert first
    assert second
    text = svg(first, "a", 'L0 & "FVU"')
    assert dict(matplotlib.rcParams) == before
    assert text == svg(second, "a", 'L0 & "FVU"')
    assert 'aria-label="L0 &amp; &quot;FVU&quot;"' in text
    assert "currentColor" in text
    assert "var(--series-0, #" in text
    assert "<style" not in text
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert all(name.startswith("a-") for name in ids)
    assert {name for pair in re.findall(r'url\(#([^)]*)\)|href="#([^"]*)"', text) for name in pair if name} <= set(ids)


def test_the_overview_shows_a_feature_in_plain_text(tmp_path: Path) -> None:
    index = FakeIndex()
    feature = telling(index, index.table())  # type: ignore[arg-type]
    draw_overview(grid(), 3, index.table(), 1e-5, feature).savefig(tmp_path / "overview.png", dpi=50)
    draw_overview(grid(), 3, index.table(), 1e-5, index.feature(1)).savefig(tmp_path / "arabic.png", dpi=50)
    assert (tmp_path / "overview.png").stat().st_size > 5000
    with pytest.raises(UsageError, match="needs scores and features"):
        overview(write_run(tmp_path / "run"))


# --- in a browser ------------------------------------------------------------------------------------------------

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
)
DRIVER = """
const out = [], say = (name, value) => out.push([name, value]), at = (id) => document.getElementById(id);
const press = (key, target) => target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const type = (text) => { at("query").value = text; at("query").dispatchEvent(new Event("input")); };
const ids = () => [...document.querySelectorAll(".list .line > span:first-child")].map((span) => span.textContent);
say("order", ids());
document.querySelector('.columns [data-key="id"]').click();
say("by id", ids());
type("قديم"); say("text", at("found").textContent);
type("#12"); say("id", ids());
type("no such text anywhere"); say("none", at("found").textContent);
type(""); at("living").click(); say("all", at("found").textContent);
const heads = [...document.querySelectorAll("#scores thead button")];
const column = heads.findIndex((head) => head.textContent === "MMCS larger");
heads[column].click(); heads[column].click();
say("sorted", [...document.querySelectorAll("#scores tbody tr")].map((row) => row.cells[column].textContent));
const line = document.querySelector(".text"), tokens = [...line.querySelectorAll(".t")];
tokens[0].dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
say("first", at("readout").textContent);
for (const token of tokens.slice(1, 1 + tokens.findIndex((token) => token.matches(".peak")))) press("ArrowRight", line);
say("peak", at("readout").textContent);
say("fetched", performance.getEntriesByType("resource").map((entry) => entry.name));
addEventListener("hashchange", () => {
  say("next", at("title").textContent);
  document.body.append(Object.assign(document.createElement("pre"), {id: "out", textContent: JSON.stringify(out)}));
});
press("ArrowRight", document.body);
"""


def browser() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((place for name in names if (place := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")
    return found


def visit(tmp_path: Path, text: str, place: str = "") -> tuple[str, str]:
    """The document after its scripts ran, opened from disk, and what the console said."""
    file = tmp_path / "report.html"
    file.write_text(text, encoding="utf-8")
    hermit = ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [browser(), *FLAGS.split(), *hermit, f"{file.as_uri()}{place}"],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if ":CONSOLE" in line)


def test_the_page_in_a_browser(tmp_path: Path, whole: str) -> None:
    """Deep link, exact tooltips, inert text, and a clean console."""
    index = FakeIndex()
    document, console = visit(tmp_path, whole, "#feature-0")
    assert console == ""
    assert "<title>my run · monosemy report</title>" in document
    assert ">Feature 0</a>" in document
    assert "<img" not in document
    (best, *_) = index.feature(0).examples["top"]
    assert f'class="t peak" title="{float(f"{best.values[best.peak]:.6g}")}"' in document
    assert document.count('class="example"') == sum(map(len, index.feature(0).examples.values()))


def test_search_sort_and_keys_in_a_browser(tmp_path: Path, whole: str) -> None:
    index = FakeIndex()
    digest = base64.b64encode(hashlib.sha256(DRIVER.encode()).digest()).decode()
    page = whole.replace("script-src '", f"script-src 'sha256-{digest}' '")
    document, console = visit(tmp_path, page.replace("</body>", f"<script>{DRIVER}</script></body>"), "#feature-3")
    assert console == ""
    found = re.search(r'<pre id="out">(.*?)</pre>', document, flags=re.DOTALL)
    assert found
    said = dict(json.loads(html.unescape(found[1])))

    alive = [row for row in index.table() if not row["dead"]]
    agreement = {str(row["id"]): row["mcs_other_seed"] for row in alive}
    assert said["order"] == sorted(said["order"], key=lambda i: -(agreement[i] or -1))
    assert said["by id"] == [str(row["id"]) for row in alive][: len(said["by id"])]
    assert re.fullmatch(r"[1-9]\d* of 36 features", said["text"])
    assert said["id"] == ["12"]
    assert said["none"] == "0 of 36 features"
    assert said["all"] == "36 of 36 features"
    assert said["sorted"] == ["0.6123"] * 12 + [""] * 6
    best = index.feature(3).examples["top"][0]
    value = float(f"{best.values[best.peak]:.6g}")
    assert said["peak"] == f"{best.tokens[best.peak]}  {value}   {best.document} · token {best.position:,}"
    assert said["first"].endswith(f"{best.document} · token {best.position - best.peak:,}")
    assert said["fetched"] == []
    assert said["next"] == "Feature 4"

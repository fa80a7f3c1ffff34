"""S1's study from start to end on little text: its pages, that its commands make its figures again, what it reuses."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shlex
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import shared

from monosemy import cli
from monosemy.analysis import meaning, meaning_bars, result
from monosemy.analysis.coactivation import blocks_of
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab
from monosemy.app.state import State
from monosemy.dictionaries.store import DictionaryStore
from monosemy.report.study import StudyPage, shown
from monosemy.runtime import UsageError
from monosemy.studies import six_hundred, six_hundred_case
from monosemy.studies.six_hundred import SixHundredSettings, six_hundred_features
from monosemy.studies.six_hundred_pages import by_mcs_in_words, in_words

CASE = (
    "context",
    "vocabulary-prepend",
    "vocabulary-append",
    "vocabulary-alone",
    "created",
    "neurons",
    "probe",
    "logits",
)
SITE = "layers.1.mlp_act"
EACH = 200  # random directions at each density


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study through the command line."""
    folder = tmp_path_factory.mktemp("six")
    cli.main(words(folder))
    return folder / "study"


@pytest.fixture(scope="module")
def lab(study: Path) -> Lab:
    """The lab of the study's first dictionary."""
    model = shared("models/stories260K")
    return Lab.open(study / "dictionaries", member=0, model=model, tokens=study / "tokens", index=study / "features")


def words(folder: Path) -> list[str]:
    """The study's command, on a little of the shared text."""
    source = folder / "text.jsonl"
    if not source.exists():
        with gzip.open(shared("text/tinystories.jsonl.gz"), "rt") as lines:
            source.write_text("".join(next(lines) for _ in range(120)))
    options = {"site": SITE, "width": 32, "steps": 60, "max-tokens": 6000, "l1": 0.1}
    given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    named = ["--model", str(shared("models/stories260K")), "--source", str(source), "--out", str(folder / "study")]
    return ["study", "six-hundred-features", *named, *given]


def kept(study: Path, name: str) -> dict[str, Any]:
    """The data of a measurement."""
    found: dict[str, Any] = json.loads((study / "measurements" / name / "result.json").read_text())["data"]
    return found


def commands(study: Path) -> set[str]:
    """The commands that the pages print."""
    texts = "".join(path.read_text() for path in sorted(study.glob("*.html")))
    return {unescape(line) for line in re.findall(r"<code>(monosemy .*?)</code>", texts, re.DOTALL)}


def test_every_page_is_there_and_every_figure_has_its_data_and_command(study: Path) -> None:
    pages = {path.stem: path.read_text() for path in study.glob("*.html")}
    assert set(pages) == {"index", "table", "case", "basis", "range"}
    figures = {path.stem for path in (study / "figures").glob("*.svg")}
    assert figures == {path.stem for path in (study / "figures").glob("*.json")}
    assert {"distribution", "meaningful", "context-changes", "created-text-0", "curves-maximum"} <= figures
    shown = "".join(pages.values())
    assert all(f"figures/{name}.json" in shown for name in figures)
    assert sum(page.count("<code>monosemy ") for page in pages.values()) == len(figures)


def test_every_printed_command_gives_the_studys_numbers(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(result, "svg_source", lambda _, name: name)  # the pictures are held elsewhere
    monkeypatch.setattr(result, "svg_file", str.encode)
    feature = next(study.glob("measurements/case-*-context")).name.split("-")[1]
    names = {f"case-{feature}-{name}": f"case-{feature}-{name}" for name in (*CASE, "ablation")}
    names |= {"curves": "neuron-curves", "verdicts": "neuron-verdicts"}
    found = {line for line in commands(study) if line.startswith("monosemy analyse")}
    assert len(found) == len(names)
    pictures = list((study / "figures").glob("*.svg"))
    for line in found:
        arguments = shlex.split(line)[1:]
        cli.main(arguments)
        made, prefix = tmp_path / arguments[-1], f"{arguments[-1].removeprefix(f'case-{feature}-')}-"
        (file,) = made.glob("*.json")
        assert json.loads(file.read_text()) == kept(study, names.pop(arguments[-1])), line
        drawn = {path.stem.removeprefix(f"{file.stem}-") for path in made.glob("*.svg")}
        shown = {path.stem.removeprefix(prefix) for path in pictures if path.stem.startswith(prefix)}
        assert shown <= drawn
        left_out = {"append": {"extremes"}, "prepend": {"strongest"}, "alone": {"strongest"}}
        assert drawn - shown == (left_out[prefix.split("-")[1]] if prefix.startswith("vocabulary") else set())
    assert not names


def test_the_case_states_its_figures_in_words_and_a_table(study: Path) -> None:
    page = unescape(re.sub(r"<[^>]*>", " ", (study / "case.html").read_text()))
    name = next(study.glob("measurements/case-*-context")).name.removesuffix("-context")
    scan, probe = kept(study, f"{name}-vocabulary-append"), kept(study, f"{name}-probe")
    assert f"it fires with {scan['n_fires']:,}" in page
    assert six_hundred_case.scan_line(scan) in page
    evidence = kept(study, f"{name}-neurons")["evidence"]
    assert f"Verdict: {evidence['verdict']}." in page
    first = probe["accuracy"][0]
    said = " to ".join(shown(first[end]) for end in ("low", "high"))
    assert f"1 of the neurons: balanced accuracy {shown(first['value'])} ({said})" in page
    ablation = kept(study, f"{name}-ablation")
    rows = six_hundred_case.effect_rows(ablation)
    assert [row["effect"] for row in rows] == [kind for kind, found in ablation["means"].items() if found]
    for row in rows:
        told = [ablation[part][row["effect"]] for part in ("means", "controls", "excess")]
        cells = [each and f"{shown(each['mean'])} ({shown(each['low'])} to {shown(each['high'])})" for each in told]
        assert [row["removal"], row["control"], row["difference"]] == cells
        assert all(cell in page for cell in cells if cell)
    silent = page[page.index("Silent examples") : page.index("Context ablation")]
    assert "«" in page[page.index("Uniform examples") : page.index("Silent examples")]
    assert "«" not in silent


def test_it_counts_with_intervals(study: Path) -> None:
    data = kept(study, "mcs-table")
    living = [row for row in data["rows"] if not row["dead"]]
    high = [row["meaningful"] for row in living if max(match["mcs"] for match in row["matches"]) > data["low"]]
    share = data["meaningful_share_high"]
    assert "random directions are two sets" in (study / "index.html").read_text()
    assert (share["count"], share["total"]) == (sum(high), len(high))
    page = unescape((study / "index.html").read_text())
    for each in (
        share,
        data["meaningful_share"],
        data["meaningful_share_all"],
        data["controls"]["random"],
        data["controls"]["neurons"],
    ):
        assert in_words(each) in page
    assert (
        in_words({"count": 1, "total": 4, "share": 0.25, "low": 0.1, "high": 0.5}) == "1 of 4 (25.0%, 10.0% to 50.0%)"
    )
    assert in_words({"count": 0, "total": 0, "share": None, "low": None, "high": None}) == "none (there are none)"


def test_the_tables_file_is_in_the_pages_order(study: Path) -> None:
    found = list(csv.reader(io.StringIO((study / "table.csv").read_text())))
    dead, count = found[0].index("dead"), found[0].index("count")
    keys = [(row[dead] == "True", -float(row[1])) for row in found[1:]]
    assert keys == sorted(keys)
    assert len(keys) == 32
    rare = sum(int(row[count]) < 10 for row in found[1:])
    assert kept(study, "mcs-table")["n_rare"] == rare
    assert f"{rare} on fewer than 10" in unescape((study / "range.html").read_text())


def test_a_second_run_makes_nothing_anew(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in study.rglob("manifest.json")}
    monkeypatch.setattr(StudyPage, "figure", lambda *_, **__: None)  # drawing takes most of the time
    monkeypatch.setattr(StudyPage, "write", lambda page: page.out / page.name)
    cli.main(words(study.parent))
    assert {path: path.read_bytes() for path in study.rglob("manifest.json")} == before
    assert len(before) > 15


def test_the_case_is_the_first_by_mcs_that_is_no_single_neuron(study: Path, lab: Lab) -> None:
    verdicts = {row["feature"]: row["verdict"] for row in kept(study, "neuron-verdicts")["evidence"]}
    rows = [row for row in kept(study, "mcs-table")["rows"] if not row["dead"]]
    assert lab.index is not None
    by_mcs = sorted(rows, key=lambda row: -row["matches"][0]["mcs"])
    spread = [row["feature"] for row in by_mcs if verdicts[row["feature"]] in six_hundred_case.SPREAD]
    tops = ((feature, lab.index.feature(feature).examples["top"]) for feature in spread)
    first = next(feature for feature, top in tops if six_hundred_case.prompt_of(lab, top) is not None)
    assert (study / "measurements" / f"case-{first}-context").exists()


def test_the_three_dictionaries_are_members_of_one_grid_and_its_commands_compare_them(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = DictionaryStore.open(study / "dictionaries").members
    assert [(each["width"], each["seed"]) for each in members] == [(32, 0), (32, 1), (64, 0), (64, 1)]
    run = str(study)
    cli.main(["analyse", "mcs", run, "--others", "1", "2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [row["matches"][0]["mcs"] for row in told["rows"]] == sorted(
        (row["matches"][0]["mcs"] for row in told["rows"]), reverse=True
    )
    matches = {row["feature"]: row["matches"] for row in told["rows"]}
    assert matches == {row["feature"]: row["matches"] for row in kept(study, "mcs-table")["rows"]}
    cli.main(["analyse", "splitting", run])
    assert len(capsys.readouterr().out.splitlines()) > 32
    cli.main(["analyse", "atlas", run, "--members", "0", "1", "2"])
    assert len(capsys.readouterr().out.splitlines()) > 64
    state = State(study)
    assert [row["member"] for row in state.grid().rows] == [0, 1, 2, 3]
    assert list(state.grids) == ["dictionaries"]


def test_without_a_model_a_small_one_is_trained_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(six_hundred, "OWN_STEPS", 2)
    monkeypatch.setattr(six_hundred, "OWN_VOCABULARY", 300)
    source = tmp_path / "text.jsonl"
    source.write_text(
        "".join(json.dumps({"text": f"def f{i}(x):\n    return x + {i}\n" * 9}) + "\n" for i in range(60))
    )
    said: list[str] = []
    settings = SixHundredSettings(source=str(source), site=SITE, width=8, steps=4, max_tokens=1500)
    stages = six_hundred.made(tmp_path / "study", settings, said.append)
    assert stages.model_name == f"a small GPT trained on {source}"
    assert stages.lab.model.vocab_size <= 300
    assert stages.index.artifact.parent("model").path == str(tmp_path / "study" / "model")
    assert stages.lab.site == SITE
    assert f"activations of {SITE}" in said


def test_prompts_have_the_corpus_tokens(lab: Lab) -> None:
    assert lab.index is not None
    shown = 0
    for row in lab.index.table():
        top = lab.index.feature(row["id"]).examples["top"]
        text = six_hundred_case.prompt_of(lab, top)
        if not top or all(lab.tokens.tokens_T[each.offset] == lab.tokens.edges.bos for each in top):
            assert text is None
            continue
        assert text is not None
        shown += 1
        ids = lab.ids(text)[1:]  # without the BOS
        ends = [lab.tokens.tokens_T[each.offset + 1 - len(ids) : each.offset + 1].tolist() for each in top]
        assert ids in ends
    assert shown > 10


def test_what_cannot_be_shown_is_refused(study: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.index is not None
    model, source = str(shared("models/stories260K")), str(study.parent / "text.jsonl")
    settings = SixHundredSettings(model, source, SITE, width=32, l1=0.1, steps=60, max_tokens=6000, feature=99)
    with pytest.raises(UsageError, match=r"`feature` \(=99\)"):
        six_hundred_features(study, settings)
    monkeypatch.setattr(six_hundred_case, "prompt_of", lambda *_: None)
    with pytest.raises(UsageError, match="name one with --feature"):
        six_hundred_features(study, replace(settings, feature=None))
    living = next(row["id"] for row in lab.index.table() if not row["dead"])
    with pytest.raises(UsageError, match="no text has the tokens"):
        six_hundred_features(study, replace(settings, feature=living))


class Spanning:
    """Stands for an index of features whose densities span two orders of magnitude."""

    def __init__(self, n_tokens: int) -> None:
        self.n_tokens = n_tokens

    def table(self) -> list[dict[str, Any]]:
        """As a feature index's."""
        return [{"density": 0.002 * 150 ** (number / 99), "dead": False} for number in range(100)]


def test_random_directions_of_any_density_pass_about_by_chance(lab: Lab) -> None:
    """A bar that is right at the usual density lets many of the rare ones pass, and no frequent one."""
    index = Spanning(lab.tokens.n_tokens)
    bands, held = meaning.bands_of(lab, cast(FeatureIndex, index))
    densities = [row["density"] for row in index.table()]
    each_N = [densities[first + i % 20] for first in (3, 78) for i in range(EACH)]  # around the 10 % and 90 % quantiles
    x_XD = torch.cat(list(blocks_of(lab, meaning.SAMPLE, "sample")))
    W_ND = torch.randn(2 * EACH, x_XD.shape[1], generator=torch.Generator().manual_seed(9))
    places = meaning.firings(lab, W_ND, x_XD, each_N, index.n_tokens)
    passed = [bands.bar(density).meaningful(own) for density, own in zip(each_N, places, strict=True)]
    by_one_bar = [bands.bars[meaning.BANDS // 2].meaningful(own) for own in places]
    for kind in (passed[:EACH], passed[EACH:]):
        assert 0.2 * meaning_bars.CHANCE < sum(kind) / EACH < 2 * meaning_bars.CHANCE
    assert sum(by_one_bar[:EACH]) / EACH > 3 * meaning_bars.CHANCE
    assert sum(by_one_bar[EACH:]) / EACH < meaning_bars.CHANCE / 2
    assert held.random.low is not None
    assert held.random.high is not None
    assert held.random.low < meaning_bars.CHANCE < held.random.high


def test_how_the_share_goes_with_mcs_is_said_in_words() -> None:
    shares = [{"count": count, "total": 8, "share": count / 8, "low": 0.1, "high": 0.9} for count in (1, 3, 6)]
    groups = [
        {"low": low, "high": low + 0.2, "share": share} for low, share in zip((0, 0.5, 0.75), shares, strict=True)
    ]
    assert by_mcs_in_words(groups) == (
        "In 3 groups of equal number by their larger MCS, the share goes from 1 of 8 (12.5%, 10.0% to 90.0%), "
        "MCS up to 0.200, to 6 of 8 (75.0%, 10.0% to 90.0%), MCS from 0.750."
    )
    assert by_mcs_in_words(groups[:1]) == by_mcs_in_words([]) == ""

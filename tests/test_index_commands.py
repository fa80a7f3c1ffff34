"""Commands over an index of features, and the analyses behind them: examples, tokens, neighbours, labelled texts."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from app_run import WIDTH, app_run

from monosemy import cli, terminal
from monosemy.analysis.chart import visible
from monosemy.analysis.feature import GROUPS, Example, FeatureIndex
from monosemy.analysis.feature_examples import LEFT, RIGHT, FeatureExamples, examples_of_feature, marked
from monosemy.analysis.feature_tokens import tokens_of_feature
from monosemy.analysis.labelled import labelled_texts
from monosemy.analysis.neighbours import nearest_features
from monosemy.analysis.result import as_plain
from monosemy.analysis.search import features_of_token
from monosemy.dictionaries.store import DictionaryStore
from monosemy.runtime import UsageError

DEAD, ALWAYS = 0, 1


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return app_run(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def index(run: Path) -> FeatureIndex:
    return FeatureIndex.open(run / "features")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    cli.main(["analyse", *words])
    return capsys.readouterr().out


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["analyse", *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


# ---- examples -------------------------------------------------------------------------------------------------------


def test_examples_are_those_of_the_index_the_strongest_first(index: FeatureIndex) -> None:
    for feature in range(WIDTH):
        own = index.feature(feature)
        found = examples_of_feature(index, feature)
        assert list(found.examples) == list(GROUPS)
        assert found.maximum == own.max
        for group, examples in found.examples.items():
            kept = own.examples[group]
            assert examples == (kept if group in ("top", "random") else kept[::-1])
            peaks = [each.values[each.peak] for each in examples]
            assert peaks == sorted(peaks, reverse=True)
    two = examples_of_feature(index, ALWAYS, ["quantile", "top"], top=2)
    assert list(two.examples) == ["quantile", "top"]
    assert two.examples["top"] == index.feature(ALWAYS).examples["top"][:2]
    assert len(two.examples["quantile"]) > 2


def test_the_token_that_an_example_was_drawn_for_is_marked(index: FeatureIndex) -> None:
    example = Example("text", 5, 5, 1, ["a", " b", "c"], [0.0, 2.5, 1.0], 0)
    assert marked("top", example) == f"a{LEFT} b{RIGHT}c"
    assert marked("random", example) == "a bc"
    table = FeatureExamples(3, 2.5, {"top": [example], "random": [example]}).table()
    assert table.rows == [
        ("top", "text", 5, " b", 2.5, f"a{LEFT} b{RIGHT}c"),
        ("random", "text", 5, " b", 2.5, "a bc"),
    ]
    for row in examples_of_feature(index, ALWAYS).table().rows:
        assert (f"{LEFT}{row[3]}{RIGHT}" in row[5]) == (row[0] != "random")


def test_examples_on_the_command_line(
    run: Path, index: FeatureIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["examples", str(run), "--feature", str(ALWAYS)]
    assert printed(capsys, *words) == examples_of_feature(index, ALWAYS).table().csv()
    found = printed(capsys, *words, "--groups", "top", "--top", "2", "--json")
    assert json.loads(found) == as_plain(examples_of_feature(index, ALWAYS, ["top"], top=2).data())
    other = FeatureIndex.open(run / "features-1")
    assert printed(capsys, *words, "--member", "1") == examples_of_feature(other, ALWAYS).table().csv()
    printed(capsys, *words, "--out", str(tmp_path / "kept"))
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".json", ".csv", ".svg"}
    printed(capsys, "examples", str(run), "--feature", str(DEAD), "--out", str(tmp_path / "dead"))
    assert {path.suffix for path in (tmp_path / "dead").iterdir()} == {".json", ".csv"}


def test_examples_on_a_terminal(
    run: Path, index: FeatureIndex, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "400")
    own = {feature: index.feature(feature).examples for feature in range(WIDTH)}
    feature = next(feature for feature, examples in own.items() if all(examples.values()))
    shown = re.sub(r"\x1b\[[\d;]*m", "", printed(capsys, "examples", str(run), "--feature", str(feature)))
    lines = [line.strip() for line in shown.splitlines()]
    assert [line for line in lines if line in terminal.WORDS.values()] == list(terminal.WORDS.values())
    assert len(lines) == sum(1 + len(examples) for examples in own[feature].values())
    assert sum(LEFT in line for line in lines) == sum(len(own[feature][group]) for group in GROUPS if group != "random")
    best = own[feature]["top"][0]
    assert lines[1].startswith(f"{best.values[best.peak]:.4g}  ")
    assert lines[1].endswith(f"{visible(best.document)}:{best.position}")
    assert all(character.isprintable() for line in lines for character in line)
    silent = printed(capsys, "examples", str(run), "--feature", str(DEAD), "--groups", "top")
    assert silent == f"feature {DEAD} has no such examples\n"


# ---- tokens and neighbours ------------------------------------------------------------------------------------------


def test_tokens_of_a_feature_and_features_of_a_token(
    run: Path, index: FeatureIndex, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tokens", str(run)]
    own = tokens_of_feature(index, ALWAYS)
    assert printed(capsys, *words, "--feature", str(ALWAYS)) == own.table().csv()
    text = own.frequent[0].text
    found = printed(capsys, *words, "--token", text)
    assert found == features_of_token(index, text).table().csv()
    assert str(ALWAYS) in {row["feature"] for row in csv.DictReader(io.StringIO(found))}
    for more in ([], ["--feature", "1", "--token", "a"]):
        assert "give one of --feature" in fails(capsys, *words, *more)
    assert "is no single token" in fails(capsys, *words, "--token", "no such token")


def test_neighbours(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    W_ND = DictionaryStore.open(run / "dictionaries").directions(1)
    words = ["neighbours", str(run), "--feature", "3", "--n", "4", "--member", "1"]
    assert printed(capsys, *words) == nearest_features(W_ND, 3, 4).table().csv()


def test_mistakes_end_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        (["examples", str(run), "--feature", str(WIDTH)], f"`feature` (={WIDTH})"),
        (["examples", str(run), "--feature", "1", "--top", "0"], "`top` (=0)"),
        (["examples", str(run), "--feature", "1", "--member", "5"], "`member` (=5) of dictionaries has no index"),
        (["examples", str(run), "--feature", "1", "--dictionaries", "others"], "must be one of dictionaries"),
        (["tokens", str(run), "--feature", "-1"], "`feature` (=-1)"),
        (["neighbours", str(run), "--feature", "1", "--n", "0"], "`n` (=0)"),
        (["probe-labels", str(run), "--from", str(tmp_path / "nothing")], "no such file"),
    ):
        assert why in fails(capsys, *words)
    with pytest.raises(UsageError, match=r"`groups` \(=best\)"):
        examples_of_feature(FeatureIndex.open(run / "features"), 1, ["best"])


# ---- labelled texts -------------------------------------------------------------------------------------------------


def test_labelled_texts_are_read_from_lines_and_json(tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_text(
        'good\tA tab\there stays.\n\n bad \tNo.\r\n{"label": 1, "text": "one"}\n{"text": "yes", "label": true}\n',
        encoding="utf-8-sig",
        newline="",
    )
    assert labelled_texts(path) == (["A tab\there stays.", "No.", "one", "yes"], ["good", "bad", "1", "True"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("good", "line 1: has no tab"),
        ("good\tyes\n\t no label", "line 2: has an empty label"),
        ("good\t ", "line 1: has an empty text"),
        ('{"label": "good"}', "line 1: must be as"),
        ('{"label": ["good"], "text": "a"}', "line 1: must be as"),
        ('{"label": ', "line 1: is no JSON"),
        ('{"label": ' + "[" * 100_000, "line 1: is no JSON"),
        ('{"label": "a", "text": "\\ud800"}', "line 1: holds half of a character"),
        (b"\xff\xfe", "is not UTF-8"),
    ],
)
def test_what_is_no_labelled_text_is_refused(text: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "texts"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError, match=words):
        labelled_texts(path)

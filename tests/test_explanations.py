"""Explanations from files of every form, their artifact, what is refused and what is counted."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from monosemy import cli
from monosemy.app.review_queue import Queued, QueueSettings
from monosemy.app.reviews import Reviews
from monosemy.artifact import Artifact, make
from monosemy.explain.rows import LONGEST, Explanation, read_explanations
from monosemy.explain.store import ExplanationStore, explanations
from monosemy.runtime import UsageError

N = 30


def index(folder: Path) -> Artifact:
    """A features artifact, of which explanations need no more than its number of features."""
    return make(folder / "features", "features", {"member": 0}, {}, lambda _: {"n_features": N})


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) if isinstance(row, dict) else row for row in rows), encoding="utf-8")
    return path


OWN = [
    {"feature": 12, "text": "months  of\nthe year", "author": "ann", "score": 0.5},
    {"feature": 3, "text": "قراءة", "author": "gpt-x"},
    {"feature": 12, "text": "March", "score": 2},
]
FOUND = [
    Explanation(12, "months of the year", "ann", 0.5),
    Explanation(3, "قراءة", "gpt-x", None),
    Explanation(12, "March", None, 2.0),
]


def test_json_lines_a_json_array_and_csv_say_the_same(tmp_path: Path) -> None:
    plain = lines(tmp_path / "plain.jsonl", "", *OWN, "")
    array = tmp_path / "array.json"
    array.write_text(json.dumps(OWN, indent=1))
    table = tmp_path / "table.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, ("score", "feature", "explanation", "author", "anything"))
        writer.writeheader()
        writer.writerows({**{k: v for k, v in row.items() if k != "text"}, "explanation": row["text"]} for row in OWN)
    for path in (plain, array, table):
        assert read_explanations(path, N).rows == FOUND
        packed = tmp_path / f"{path.name}.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert read_explanations(packed, N).rows == FOUND


def test_an_author_is_that_of_rows_that_name_none(tmp_path: Path) -> None:
    found = read_explanations(lines(tmp_path / "x.jsonl", *OWN), N, "bo").rows
    assert [each.author for each in found] == ["ann", "gpt-x", "bo"]


def test_neuronpedias_rows(tmp_path: Path) -> None:
    row = {
        "modelId": "gpt2-small", "layer": "6-res-jb", "index": "7", "description": " days of the week",
        "explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair", "authorId": "clk", "scoreV1": 0,
        "embedding": [0.1, 0.2],
    }  # fmt: skip
    path = lines(tmp_path / "batch-0.jsonl", row, {**row, "index": "8", "explanationModelName": None})
    assert read_explanations(path, N, "neuronpedia").rows == [
        Explanation(7, "days of the week", "gpt-4o-mini", None),
        Explanation(8, "days of the week", "neuronpedia", None),
    ]
    mixed = lines(tmp_path / "mixed.jsonl", row, {**row, "layer": "7-res-jb"})
    with pytest.raises(UsageError, match=r"2 sources \(gpt2-small 6-res-jb; gpt2-small 7-res-jb\)"):
        read_explanations(mixed, N)


def test_the_apps_own_reviews(tmp_path: Path) -> None:
    reviews = Reviews(tmp_path / "reviews.sqlite")
    queue = [Queued(i, "top", 0.5) for i in (4, 9, 11)]
    session = reviews.create("look", "0" * 64, 0, QueueSettings(count=3), queue)
    reviews.record(session.id, 4, "ann", "mostly", '- numbers,\nand "dates"')
    reviews.record(session.id, 9, "ann", "nothing seen")
    reviews.record(session.id, 11, "bo", "dead", "=1+1")
    path = tmp_path / "reviews.csv"
    path.write_bytes(reviews.table(session.id).csv().encode())
    found = read_explanations(path, N)
    assert set(found.rows) == {
        Explanation(4, 'mostly: - numbers, and "dates"', "ann", None),
        Explanation(11, "dead: =1+1", "bo", None),
    }
    assert (found.repeated, found.empty) == (0, 1)


def test_repetitions_and_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "x.jsonl", *OWN, {**OWN[0], "text": "months of the year"}, {**OWN[0], "author": "bo"},
        {"feature": 5, "text": " \n"}, {"feature": 5, "text": None}, {"feature": 6},
    )  # fmt: skip
    found = read_explanations(path, N)
    assert found.rows == [*FOUND, Explanation(12, "months of the year", "bo", 0.5)]
    assert (found.repeated, found.empty) == (1, 3)


HALF = '{"feature": 1, "text": "half a character: \\ud83d"}'


def test_text_that_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    found = explanations(SimpleNamespace(artifact=index(tmp_path)), lines(tmp_path / "x", HALF), out=tmp_path / "out")
    assert found.of(1)[0].text == "half a character: ?"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            [{"feature": N, "text": "a"}],
            rf"row 1: `feature` \(={N}\) must be from 0 to {N - 1}; is the file of another",
        ),
        ([OWN[0], {"feature": -1, "text": "a"}], r"row 2: `feature` \(=-1\) must be a whole number"),
        ([{"feature": 1.5, "text": "a"}], r"`feature` \(=1.5\) must be a whole number"),
        ([{"feature": True, "text": "a"}], "must be a whole number"),
        ([{"index": "१२", "text": "a"}], "must be a whole number"),
        ([{"text": "a"}], "row 1: names no feature"),
        ([{"feature": 1, "text": 7}], r"`text` \(=7\) must be a text"),
        ([{"feature": 1, "text": "a" * (LONGEST + 1)}], rf"{LONGEST + 1} characters; at most {LONGEST}"),
        ([{"feature": 1, "text": "a", "author": "b" * 201}], "201 characters; at most 200"),
        ([{"feature": 1, "text": "a", "score": "good"}], r"`score` \(='good'\) must be a number"),
        (['{"feature": 1, "text": "a", "score": NaN}'], r"`score` \(=nan\)"),
        ([{"feature": 1, "text": ""}], r"holds no explanation \(1 rows, 1 of them without a text\)"),
        (["[1, 2]"], "entry 1: is no JSON object"),
        (["[]"], "holds no explanation"),
        (['{"feature": 1'], "cannot be read"),
        ([""], "is neither JSON nor CSV"),
        (["a,b", "1,2"], "whose header names a feature"),
        (["feature,text", "1"], "row 1: has not as many cells as the header"),
        (["feature,text", "1,2,3"], "row 1: has not as many cells"),
    ],
)
def test_what_is_refused(rows: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        read_explanations(lines(tmp_path / "x", *rows), N)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    whole = gzip.compress(lines(tmp_path / "x", *OWN).read_bytes())
    for name, data in (
        ("cut", whole[:-9]),
        ("broken", whole[:12] + b"\xff\xff\xff" + whole[15:]),
        ("latin", b"a,\xe9"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=f"{name}: cannot be read"):
            read_explanations(tmp_path / name, N)
    with pytest.raises(UsageError, match="no such file"):
        read_explanations(tmp_path / "nothing", N)


def test_the_artifact_holds_them_the_best_first(tmp_path: Path) -> None:
    made = index(tmp_path)
    source = lines(
        tmp_path / "x.jsonl", *OWN, {"feature": 12, "text": "spring", "score": 0.9}, {"feature": 4, "text": ""}
    )
    store = explanations(tmp_path / "features", source, author="bo", out=tmp_path / "out")
    assert [(each.text, each.author, each.score) for each in store.of(12)] == [
        ("March", "bo", 2.0), ("spring", "bo", 0.9), ("months of the year", "ann", 0.5),
    ]  # fmt: skip
    assert store.of(3) == [FOUND[1]]
    assert store.of(4) == store.of(N) == []
    assert (store.count, store.explained, store.scored) == (4, 2, 3)
    assert store.authors == {"bo": 2, "ann": 1, "gpt-x": 1}
    assert store.left_out == {"repeated": 0, "without a text": 1}
    assert store.artifact.parent("features").id == made.id
    assert ExplanationStore.open(tmp_path / "out").of(12) == store.of(12)
    assert ExplanationStore.open(store) is store


def test_it_is_reused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    index(tmp_path)
    source, out = lines(tmp_path / "x.jsonl", *OWN), tmp_path / "out"
    first = explanations(tmp_path / "features", source, out=out)
    again = explanations(tmp_path / "features", source, out=out)
    assert again.artifact.manifest == first.artifact.manifest
    lines(source, *OWN[:2])
    with pytest.raises(UsageError, match="made before with `sha256`"):
        explanations(tmp_path / "features", source, out=out)
    with pytest.raises(UsageError, match=r"`author` has 0 characters"):
        explanations(tmp_path / "features", source, author=" ", out=tmp_path / "other")
    with pytest.raises(UsageError, match="must be from 0"):
        explanations(tmp_path / "features", lines(tmp_path / "y", {"feature": N, "text": "a"}), out=tmp_path / "other")
    assert [each.name for each in tmp_path.iterdir() if "other" in each.name] == []


def test_several_files_are_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = str(index(tmp_path) and tmp_path / "features")
    first = lines(tmp_path / "x.jsonl", *OWN, {"feature": 1, "text": ""})
    second = lines(tmp_path / "y.jsonl", OWN[1], {**OWN[0], "score": 0.9}, {"feature": 4, "text": "fish"}, OWN[1])
    cli.main(["explanations", made, "--from", str(first), str(second), "--author", "bo"])
    assert "4 explanations of 3 features" in capsys.readouterr().out
    store = ExplanationStore.open(tmp_path / "explanations")
    assert [store.of(feature)[-1] for feature in (12, 3, 4)] == [*FOUND[:2], Explanation(4, "fish", "bo", None)]
    assert store.left_out == {"repeated": 3, "without a text": 1}  # the first file's score stays
    again = explanations(made, [first, second], author="bo", out=tmp_path / "explanations")
    assert again.artifact.manifest == store.artifact.manifest
    with pytest.raises(UsageError, match="`source` is empty"):
        explanations(made, [], out=tmp_path / "none")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index(tmp_path)
    source = lines(tmp_path / "x.jsonl", *OWN, OWN[1], {"feature": 1, "text": ""})
    cli.main(["explanations", str(tmp_path / "features"), "--from", str(source)])
    place = tmp_path / "explanations"
    assert capsys.readouterr().out == (
        f"{place}: 3 explanations of 2 features (ann: 1, gpt-x: 1, no author: 1); left out: 1 repeated, 1 without a "
        f"text; next: monosemy serve {tmp_path}\n"
    )
    for words, why in (
        (
            [str(tmp_path / "features"), "--from", str(tmp_path / "nothing"), "--out", str(tmp_path / "o")],
            "no such file",
        ),
        ([str(place), "--from", str(source)], "holds explanations, where features are needed"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["explanations", *words])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert why in error
        assert error.count("\n") == 1

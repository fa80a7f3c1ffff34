"""Verdicts kept beside an index: as the analysis gives them, refused where they do not belong, joined to its pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from feature_tables import with_rows
from feature_worlds import SITE, grid, token_store
from neuron_worlds import COPY, D_IN, DEAD, THREE, GaussianModel, known_dictionary

from monosemy.analysis import feature_query, feature_table
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.feature_query import Beside
from monosemy.analysis.feature_table import COLUMNS
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.verdict import FEW, VERDICTS, neuron_verdicts
from monosemy.analysis.verdict_store import VerdictStore, verdicts
from monosemy.files import new_database
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, listening

MODEL = cast(LanguageModel, GaussianModel())


def gaussian_index(folder: Path) -> tuple[FeatureIndex, Lab]:
    store = token_store(folder, [300] * 8, context=64)
    path = grid(folder / "dictionaries", [known_dictionary()])
    index = features(path, member=0, model=MODEL, tokens=store, out=folder / "features")
    return index, Lab.open(path, member=0, model=MODEL, tokens=store, index=index)


def test_a_store_holds_what_the_analysis_says(tmp_path: Path) -> None:
    index, lab = gaussian_index(tmp_path)
    store = verdicts(tmp_path / "features", model=MODEL, out=tmp_path / "verdicts", max_tokens=2000)
    expected = neuron_verdicts(lab, ks=(1, FEW), max_tokens=2000)
    assert [store.evidence(feature) for feature in range(6)] == expected.evidence
    assert store.evidence(DEAD).verdict == "dead"
    assert store.evidence(DEAD).share_few is None
    assert store.evidence(COPY).neuron == 7
    assert store.counts == expected.counts()
    assert list(store.counts) == list(VERDICTS)
    assert (store.tokens, store.coordinates) == (expected.tokens, f"neurons of {SITE}")
    assert store.tokens <= 2000 < index.n_tokens
    assert store.artifact.parent("features").id == index.artifact.id
    with pytest.raises(UsageError, match=r"`feature` \(=6\)"):
        store.evidence(6)


def test_a_store_is_reused_and_another_model_refused(tmp_path: Path) -> None:
    index, _ = gaussian_index(tmp_path)
    out = tmp_path / "verdicts"
    store = verdicts(index, model=MODEL, out=out)
    again = verdicts(index, model=MODEL, out=out)
    assert again.artifact.manifest == store.artifact.manifest
    assert VerdictStore.open(out).counts == store.counts
    assert VerdictStore.open(store) is store
    with pytest.raises(UsageError, match="`max_tokens` = 100000, now 2000"):
        verdicts(index, model=MODEL, out=out, max_tokens=2000)

    class Other(GaussianModel):
        def as_parent(self) -> Any:
            return index.artifact.parent("tokens")

    with pytest.raises(UsageError, match=r"not the one that .* was made with"):
        verdicts(index, model=cast(LanguageModel, Other()), out=tmp_path / "other")
    with pytest.raises(UsageError, match="no such folder"):
        verdicts(index, out=tmp_path / "other")  # the table model is nowhere
    with pytest.raises(UsageError, match=f"more than {2 * D_IN}"):
        verdicts(index, model=MODEL, out=tmp_path / "other", max_tokens=64)
    with pytest.raises(UsageError, match=r"`max_tokens` \(=0\)"):
        verdicts(index, model=MODEL, out=tmp_path / "other", max_tokens=0)
    (tmp_path / "tokens").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="say where with --tokens"):
        verdicts(index, model=MODEL, out=tmp_path / "other")
    moved = verdicts(index, model=MODEL, tokens=tmp_path / "moved", out=tmp_path / "other")
    assert moved.counts == store.counts


def test_a_stopped_stage_leaves_nothing_that_counts_as_finished(tmp_path: Path) -> None:
    index, _ = gaussian_index(tmp_path)

    class Cancelled(Exception):
        pass

    def stop(*_: object) -> None:
        raise Cancelled

    with listening(stop), pytest.raises(Cancelled):
        verdicts(index, model=MODEL, out=tmp_path / "verdicts")
    assert not (tmp_path / "verdicts").exists()
    assert verdicts(index, model=MODEL, out=tmp_path / "verdicts").counts["dead"] == 1


# ---- tables beside an index ------------------------------------------------------------------------------------


WORDS = ("few", "spread", "'; DROP TABLE note; --")
TEXTS = ("Fires on the", "100 % of A_b", None, "وقال", "the end")
NOTE = (("word", "word"), ("score", "number"), ("said", "text"))


def noted(folder: Path, n: int = 300, seed: int = 7) -> tuple[FeatureIndex, list[dict[str, Any]], list[Beside]]:
    """An index of nothing but its table and two tables beside it, with ties and missing values, and their join."""
    index, _ = gaussian_index(folder)
    rows = with_rows(index, n)
    dice = np.random.default_rng(seed)
    tables = []
    for name, columns in (("note", NOTE), ("other", (("rank", "number"),))):
        path = folder / f"{name}'s file?.sqlite"
        with new_database(path) as connection:
            kinds = ", ".join(f"{column} {'REAL' if kind == 'number' else 'TEXT'}" for column, kind in columns)
            connection.execute(f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, {kinds})")
            for row in rows:
                told = {
                    "word": WORDS[dice.integers(3)],
                    "score": None if dice.random() < 0.2 else float(dice.integers(9)),
                    "said": TEXTS[dice.integers(5)],
                    "rank": float(dice.integers(4)),
                }
                own = {column: told[column] for column, _ in columns}
                row |= own
                marks = ", ".join("?" * (1 + len(own)))
                connection.execute(f"INSERT INTO {name} VALUES ({marks})", (row["id"], *own.values()))
            for column, _ in columns:
                connection.execute(f"CREATE INDEX {name}_{column} ON {name} ({column})")
        tables.append(Beside(path, name, columns))
    return index, rows, tables


FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda row: row is not None),
    ({"word": "few"}, lambda row: row["word"] == "few"),
    ({"word": WORDS[2], "dead": False}, lambda row: row["word"] == WORDS[2] and not row["dead"]),
    ({"score_min": 3, "score_max": 6}, lambda row: row["score"] is not None and 3 <= row["score"] <= 6),
    ({"score": None, "density_min": 0.05}, lambda row: row["score"] is None and row["density"] >= 0.05),
    ({"said": "THE"}, lambda row: row["said"] in ("Fires on the", "the end")),
    ({"said": "_"}, lambda row: row["said"] == "100 % of A_b"),
    ({"said": "قال", "rank_max": 2}, lambda row: row["said"] == "وقال" and row["rank"] <= 2),
    ({"top_token": "the", "score_min": 5}, lambda row: row["top_token"] in (" the", "The") and (row["score"] or 0) > 4),
    ({"rank": 1, "score_min": 2}, lambda row: row["rank"] == 1 and row["score"] is not None and row["score"] >= 2),
]  # fmt: skip


@pytest.mark.parametrize("few", [20_000, 40, 0])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_of_joined_tables_equal_sorting_and_filtering_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descending: bool, few: int
) -> None:
    monkeypatch.setattr(feature_query, "FEW", few)
    index, rows, tables = noted(tmp_path)
    for sort in (*COLUMNS, *dict(NOTE), "rank"):

        def key(row: dict[str, Any], sort: str = sort) -> tuple[Any, ...]:
            return (row[sort] is not None, row[sort] if row[sort] is not None else 0, row["id"])

        for filters, holds in FILTERS:
            wanted = sorted((row for row in rows if holds(row)), key=key, reverse=descending)
            assert wanted
            for limit, offset in ((7, 0), (10, 15), (300, 0)):
                found, total = index.page(sort, descending, limit, offset, beside=tables, **filters)
                assert total == len(wanted)
                assert found == wanted[offset : offset + limit]
    alone, _ = index.page(beside=[], limit=1)
    assert alone[0].keys() == COLUMNS.keys()


def test_totals_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, rows, tables = noted(tmp_path, 60)
    asked: list[str] = []
    plain = feature_table.rows_of

    def watched(path: Path, query: str, *values: Any, attached: Any = ()) -> list[dict[str, Any]]:
        asked.append(query)
        return plain(path, query, *values, attached=attached)

    monkeypatch.setattr(feature_query, "rows_of", watched)
    first = index.page(limit=5, beside=tables, word="few", score_min=2)
    counts = sum("COUNT" in query for query in asked)
    assert counts == 4  # the features, each table, and the filter
    for offset in (0, 5, 10):
        assert index.page("density", limit=5, offset=offset, beside=tables, word="few", score_min=2)[1] == first[1]
    assert sum("COUNT" in query for query in asked) == counts
    other = index.page(limit=5, beside=tables, word="few", score_min=3)[1]
    assert other == sum(row["word"] == "few" and (row["score"] or 0) >= 3 for row in rows) < first[1]
    assert sum("COUNT" in query for query in asked) == counts + 1
    monkeypatch.setattr(feature_query, "TOTALS", 2)
    small = FeatureIndex(index.artifact)
    for bound in range(4):
        small.page(score_min=bound, beside=tables[:1])
    assert small._query._count.cache_info().currsize == 2


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    index, rows, (note, other) = noted(tmp_path, 40)
    for options, match in (
        ({"sort": "word"}, r"`sort` \(='word'\) must be one of id"),
        ({"word": "few"}, "`word` is not a filter"),
        ({"beside": [note], "word_min": "a"}, "`word_min` is not a filter"),
        ({"beside": [note], "said_max": "a"}, "`said_max` is not a filter"),
        ({"beside": [note], "score": "x"}, r"`score` \(='x'\) must be a number"),
        ({"beside": [note], "sort": "rank"}, "must be one of id, .* word, score, said"),
        ({"beside": [note, note]}, "column `word` is there already"),
    ):
        with pytest.raises(UsageError, match=match):
            index.page(**cast(Any, options))
    with new_database(tmp_path / "short.sqlite") as connection:
        connection.execute("CREATE TABLE short (id INTEGER PRIMARY KEY, x REAL)")
        connection.executemany("INSERT INTO short VALUES (?, 1.0)", [(row["id"],) for row in rows[1:]])
    with pytest.raises(UsageError, match="has 39 rows for the 40 features"):
        index.page(beside=[Beside(tmp_path / "short.sqlite", "short", (("x", "number"),))])
    for table, columns in (
        ("t; DROP", ()),
        ("T", ()),
        ("t", (("a b", "word"),)),
        ("t", (("density", "number"),)),
        ("t", (("x_min", "number"),)),
    ):
        with pytest.raises(UsageError, match="is no name of a table or column"):
            Beside(tmp_path / "x", table, columns)
    with pytest.raises(UsageError, match="`kind`"):
        Beside(tmp_path / "x", "t", (("x", "REAL"),))
    assert other.columns == (("rank", "number"),)


def test_verdicts_sort_and_filter_the_features(tmp_path: Path) -> None:
    index, _ = gaussian_index(tmp_path)
    store = verdicts(index, model=MODEL, out=tmp_path / "verdicts")
    page = index.page("correlation", descending=True, beside=[store.beside])[0]
    correlations = [store.evidence(feature).correlation for feature in range(6)]
    assert [row["correlation"] for row in page] == sorted(correlations, reverse=True)
    singles = index.page(beside=[store.beside], verdict="a single neuron", share_single_min=0.9)
    mine = [i for i in range(6) if store.evidence(i).verdict == "a single neuron"]
    assert [row["id"] for row in singles[0]] == mine
    assert THREE not in mine
    assert json.loads(json.dumps(singles[0]))[0]["verdict"] == "a single neuron"


def test_examples_in_blocks_are_those_of_each_feature(tmp_path: Path) -> None:
    index, _ = gaussian_index(tmp_path)
    each = [index.feature(i).examples for i in range(6)]
    for group in ("top", "quantile", "random"):
        assert index.examples(group, 0, 6) == [mine[group] for mine in each]
        assert index.examples(group, 2, 4, most=2) == [mine[group][:2] for mine in each[2:4]]
        for i, offset_E in enumerate(index.offsets(group).tolist()):
            assert [offset for offset in offset_E if offset >= 0] == [example.offset for example in each[i][group]]

"""Searching features: the token lists, pages, neighbours and texts, each against a plain computation."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from feature_tables import with_rows
from feature_worlds import SITE, TableModel, grid, token_store, whole_number_dictionary

from monosemy.analysis import feature_query, feature_table, scan, token_table
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.feature_table import COLUMNS
from monosemy.analysis.feature_tokens import tokens_of_feature
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.neighbours import nearest_features
from monosemy.analysis.search import features_of_prompt, features_of_token
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.files import load_tensors
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, generator_for

WIDTH = 24
LENGTHS = [150, 3, 40, 1, 90, 60, 2, 2]


class SmallModel(TableModel):
    """The table with what a lab asks of a model besides."""

    max_context: int | None = 40
    vocab_size = 258


def top_k(width: int) -> Dictionary:
    return TopKDictionary(whole_number_dictionary(width).tensors, {"k": 3})


def index_of(folder: Path, dictionary: Dictionary, **settings: Any) -> tuple[FeatureIndex, TokenStore]:
    store = token_store(folder, LENGTHS, context=16, **settings)
    model = cast(LanguageModel, SmallModel())
    dictionaries = grid(folder / "grid", [dictionary])
    options: dict[str, Any] = {"top": 2, "n_tokens": 4, "n_token_features": 5}
    return features(dictionaries, member=0, model=model, tokens=store, out=folder / "features", **options), store


class Truth:
    """Every firing of the corpus, counted in Python."""

    def __init__(self, store: TokenStore, dictionary: Dictionary) -> None:
        self.on: dict[tuple[int, int], list[float]] = defaultdict(list)
        self.next: dict[tuple[int, int], list[float]] = defaultdict(list)
        self.firings: Counter[int] = Counter()
        self.seen: Counter[int] = Counter()
        for row in range(store.n_rows):
            batch = store.batch(torch.tensor([row]))
            ids = batch.ids_BC[0].tolist()
            codes_CN = dictionary.encode(TableModel().capture(batch.ids_BC, [SITE], batch.mask_BC)[SITE][0])
            self.seen.update(ids)
            for place, feature in (codes_CN > 0).nonzero().tolist():
                code = float(codes_CN[place, feature])
                self.firings[feature] += 1
                self.on[feature, ids[place]].append(code)
                if place + 1 < len(ids):
                    self.next[feature, ids[place + 1]].append(code)

    def tokens(self, feature: int, key: str) -> list[tuple[int, int, float]]:
        """(token, count, mean code) of a list."""
        pairs = self.next if key == "next" else self.on
        mine = {token: codes for (owner, token), codes in pairs.items() if owner == feature}
        if key == "strong":
            mine = {token: codes for token, codes in mine.items() if self.seen[token] >= token_table.SEEN}
        best = {
            token: np.float32(sum(codes) / self.seen[token]) if key == "strong" else len(codes)
            for token, codes in mine.items()
        }
        order = sorted(mine, key=lambda token: (-best[token], token))[:4]
        return [(token, len(mine[token]), sum(mine[token]) / len(mine[token])) for token in order]

    def f1(self, feature: int, token: int) -> float:
        return 2 * len(self.on[feature, token]) / (self.firings[feature] + self.seen[token])

    def features(self, token: int, key: str) -> list[tuple[int, int, float, float]]:
        """(feature, count, mean code, F1) of a list."""
        mine = {owner: codes for (owner, other), codes in self.on.items() if other == token}
        best = {
            owner: np.float32(sum(codes) / self.seen[token] if key == "strong" else self.f1(owner, token))
            for owner, codes in mine.items()
        }
        order = sorted(mine, key=lambda owner: (-best[owner], owner))[:5]
        return [(n, len(mine[n]), sum(mine[n]) / len(mine[n]), self.f1(n, token)) for n in order]


@pytest.mark.parametrize("at_once", [2**22, 50])
@pytest.mark.parametrize("kind", ["relu", "topk"])
@pytest.mark.parametrize("packed", [True, False])
def test_token_lists_equal_a_plain_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, packed: bool, at_once: int
) -> None:
    monkeypatch.setattr(token_table, "FIRINGS_AT_ONCE", at_once)
    monkeypatch.setitem(scan.CODES_AT_ONCE, "cpu", 400)  # many blocks
    dictionary = whole_number_dictionary(WIDTH) if kind == "relu" else top_k(WIDTH)
    index, store = index_of(tmp_path, dictionary, packed=packed)
    truth = Truth(store, dictionary)
    for i, row in enumerate(index.table()):
        found = tokens_of_feature(index, i)
        assert found.count == truth.firings[i] == row["count"]
        for key in ("frequent", "strong", "next"):
            shown = [(use.token, use.count, use.code) for use in getattr(found, key)]
            assert shown == truth.tokens(i, key)
        for use in found.frequent:
            assert (use.share, use.seen) == (use.count / truth.firings[i], truth.seen[use.token])
            assert use.text == index.texts.of(use.token)
        assert row["top_token"] == (found.frequent[0].text if found.frequent else None)
    for token in truth.seen:
        told = features_of_token(index, token)
        assert (told.token, told.text, told.seen) == (token, index.texts.of(token), truth.seen[token])
        for key in ("strong", "telling"):
            assert [(use.feature, use.count, use.code, use.f1) for use in getattr(told, key)] == truth.features(
                token, key
            )
        assert all(use.rate == use.count / truth.seen[token] for use in told.strong)
    assert not (index.artifact.path / "scratch").exists()


def test_a_dictionary_that_never_fires_has_empty_lists(tmp_path: Path) -> None:
    dictionary = whole_number_dictionary(4)
    dictionary.tensors["b_enc"].fill_(-1000)
    index, store = index_of(tmp_path, dictionary)
    found = tokens_of_feature(index, 2)
    assert (found.count, found.frequent, found.strong, found.next) == (0, [], [], [])
    assert index.page(sort="top_token")[0][0]["top_token"] is None
    told = features_of_token(index, int(store.tokens_T[0]))
    assert (told.strong, told.telling) == ([], [])
    assert found.charts() == []


def test_tokens_are_found_by_their_text(tmp_path: Path) -> None:
    index, store = index_of(tmp_path, whole_number_dictionary(WIDTH))
    (token,) = store.tokenizer.encode("c", add_special_tokens=False).ids
    assert features_of_token(index, "c") == features_of_token(index, token)
    with pytest.raises(UsageError, match=r"`token` \(=' C'\) .* like it: \['c'\]"):
        features_of_token(index, " C")
    with pytest.raises(UsageError, match=r"`token` \(='abz'\) .* written \['a', 'b', 'z'\]"):
        features_of_token(index, "abz")
    with pytest.raises(UsageError, match=r"`token` \(=999\) does not occur"):
        features_of_token(index, 999)
    with pytest.raises(UsageError, match=r"`token` \(=''\)|does not occur"):
        features_of_token(index, "")
    with pytest.raises(UsageError, match=r"`feature` \(=24\) must be from 0 to 23"):
        tokens_of_feature(index, 24)


def test_results_tabulate_and_save_themselves(tmp_path: Path) -> None:
    index, _ = index_of(tmp_path, whole_number_dictionary(WIDTH))
    told, found = features_of_token(index, "a"), tokens_of_feature(index, 1)
    assert [row[1] for row in told.table().rows if row[0] == "telling"] == [use.feature for use in told.telling]
    assert len(found.table().rows) == len(found.frequent) + len(found.strong) + len(found.next)
    assert found.data()["frequent"][0]["text"] == found.frequent[0].text
    for result in (told, found):
        names = {file.name for file in result.save(tmp_path / result.name).iterdir()}
        assert {f"{result.name}.csv", f"{result.name}.json", f"{result.name}-{result.charts()[0].name}.svg"} <= names


def test_an_index_without_token_lists_says_so(tmp_path: Path) -> None:
    index, _ = index_of(tmp_path, whole_number_dictionary(4))
    (index.artifact.path / "tokens.safetensors").unlink()
    with pytest.raises(UsageError, match="make it anew with `monosemy features`"):
        features_of_token(FeatureIndex(index.artifact), "a")


def table_index(folder: Path, n: int = 300) -> tuple[FeatureIndex, list[dict[str, Any]]]:
    """An index of nothing but its table."""
    index, _ = index_of(folder, whole_number_dictionary(4))
    return index, with_rows(index, n)


FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda row: row is not None),
    ({"dead": False}, lambda row: not row["dead"]),
    ({"density_min": 0.05, "density_max": 0.2}, lambda row: 0.05 <= row["density"] <= 0.2),
    ({"max_min": 3, "max_max": 5, "dead": 0}, lambda row: 3 <= row["max"] <= 5 and not row["dead"]),
    ({"mcs_other_seed_min": 0.5}, lambda row: row["mcs_other_seed"] is not None and row["mcs_other_seed"] >= 0.5),
    ({"mcs_other_seed": None}, lambda row: row["mcs_other_seed"] is None),
    ({"top_token": "THE"}, lambda row: row["top_token"] in (" the", "The")),
    ({"top_token": "%"}, lambda row: row["top_token"] == "50%"),
    ({"top_token": "'; DROP"}, lambda row: (row["top_token"] or "").startswith("'; DROP")),
    ({"id": 17}, lambda row: row["id"] == 17),
]


@pytest.mark.parametrize(("descending", "few"), [(False, 20_000), (True, 20_000), (True, 20), (False, 0)])
def test_pages_equal_sorting_and_filtering_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descending: bool, few: int
) -> None:
    monkeypatch.setattr(feature_query, "FEW", few)
    index, rows = table_index(tmp_path)
    for sort in COLUMNS:
        for filters, holds in FILTERS:
            wanted = [row for row in rows if holds(row)]
            assert wanted

            def key(row: dict[str, Any], sort: str = sort) -> tuple[Any, ...]:
                return (row[sort] is not None, row[sort] if row[sort] is not None else 0, row["id"])

            wanted.sort(key=key, reverse=descending)
            for limit, offset in ((7, 0), (10, 15), (300, 0), (5, 1000)):
                found, total = index.page(sort, descending, limit, offset, **filters)
                assert total == len(wanted)
                assert found == wanted[offset : offset + limit]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sort": "id; DROP TABLE feature"}, r"`sort` \(='id; DROP TABLE feature'\) must be one of id, density"),
        ({"limit": 0}, r"`limit` \(=0\)"),
        ({"limit": 10**9}, r"`limit` \(=1000000000\)"),
        ({"offset": -1}, r"`offset` \(=-1\)"),
        ({"offset": 2**70}, r"`offset`"),
        ({"nothing": 1}, r"`nothing` is not a filter"),
        ({"_min": 1}, r"`_min` is not a filter"),
        ({"top_token_min": "a"}, r"`top_token_min` is not a filter"),
        ({"density_min": "x"}, r"`density_min` \(='x'\) must be a number"),
        ({"density_min": None}, r"`density_min` \(=None\) must be a number"),
        ({"count_max": float("nan")}, r"`count_max` \(=nan\)"),
        ({"id": 10**400}, r"`id` \(=1000+\) must be a number"),
    ],
)
def test_what_is_no_page_is_refused(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    index, rows = table_index(tmp_path, 5)
    with pytest.raises(UsageError, match=match):
        index.page(**options)
    assert index.page()[1] == len(rows)


def test_connections_stay_open_and_see_a_file_that_took_another_s_place(tmp_path: Path) -> None:
    index, rows = table_index(tmp_path, 30)
    path = index.artifact.path / "features.sqlite"
    assert index.page(limit=50)[0] == rows
    kept = len(feature_table._idle)
    assert [row["id"] for row in index.rows("SELECT id FROM feature ORDER BY id")] == list(range(30))
    assert len(feature_table._idle) == kept  # the same again
    with_rows(index, 12)
    assert index.rows("SELECT COUNT(*) AS n FROM feature") == [{"n": 12}]
    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        index.rows("SELECT no_such FROM feature")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        index.rows("DELETE FROM feature")
    for number in range(feature_table.IDLE + 3):
        other = tmp_path / f"{number}.sqlite"
        other.write_bytes(path.read_bytes())
        assert len(feature_table.rows_of(other, "SELECT id FROM feature")) == 12
    assert len(feature_table._idle) == feature_table.IDLE
    with pytest.raises(FileNotFoundError):
        feature_table.rows_of(tmp_path / "none.sqlite", "SELECT 1")


def test_threads_read_side_by_side(tmp_path: Path) -> None:
    index, rows = table_index(tmp_path, 200)
    together = threading.Barrier(8)

    def read(first: int) -> bool:
        together.wait()
        mine = range(first, 200, 8)
        return all(
            index.rows("SELECT count FROM feature WHERE id = ?", i) == [{"count": rows[i]["count"]}] for i in mine
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


def directions(n: int, d_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d_in, generator=generator_for("directions", seed))


@pytest.mark.parametrize("at_once", [2**13, 7])
def test_nearest_features_are_those_of_largest_cosine(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr("monosemy.analysis.neighbours.FEATURES_AT_ONCE", at_once)
    W_ND = directions(40, 6)
    W_ND[30] = 3 * W_ND[4]
    W_ND[31] = 5 * W_ND[4]
    W_ND[20] = 0
    unit_ND = (W_ND / W_ND.norm(dim=1, keepdim=True)).nan_to_num()
    cosines_NN = unit_ND @ unit_ND.T
    for feature in (0, 4, 39):
        found = nearest_features(W_ND, feature, n=9)
        by_hand = sorted((n for n in range(40) if n != feature), key=lambda n: -float(cosines_NN[feature, n]))[:9]
        assert found.feature == feature
        np.testing.assert_allclose(found.cosines, cosines_NN[feature, by_hand], atol=1e-6)
        assert {*found.ids} == {*by_hand}
    assert nearest_features(W_ND, 4, n=2).ids == [30, 31]
    vector = nearest_features(W_ND, 2.5 * W_ND[30], n=3)
    assert (vector.feature, {*vector.ids}) == (None, {4, 30, 31})
    assert nearest_features(W_ND, W_ND[4].tolist(), n=3).ids == vector.ids
    assert len(nearest_features(W_ND, 3, n=100).ids) == 39
    assert vector.table().rows[0] == (vector.ids[0], vector.cosines[0])
    assert vector.charts()[0].marks[0].values == vector.cosines  # type: ignore[union-attr]


def test_queries_without_a_direction_are_refused() -> None:
    W_ND = directions(5, 3)
    W_ND[2] = 0
    refused: list[tuple[Any, str]] = [
        (2, "length 0"),
        ([0.0, 0, 0], "length 0"),
        ([float("nan"), 0, 0], "not finite"),
        ([1.0, 2], r"shape \(2,\)"),
        (5, r"`feature` \(=5\)"),
        (-1, r"`feature` \(=-1\)"),
    ]
    for query, match in refused:
        with pytest.raises(UsageError, match=match):
            nearest_features(W_ND, query)
    with pytest.raises(UsageError, match=r"`n` \(=0\)"):
        nearest_features(W_ND, 1, n=0)


@pytest.mark.parametrize("kind", ["relu", "topk"])
@pytest.mark.parametrize("bos", ["no", "yes"])
@pytest.mark.parametrize("skip_bos", [False, True])
def test_features_of_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, bos: str, skip_bos: bool
) -> None:
    monkeypatch.setattr("monosemy.analysis.search.CODES_AT_ONCE", 3 * WIDTH)  # three tokens at a time
    dictionary = whole_number_dictionary(WIDTH) if kind == "relu" else top_k(WIDTH)
    index, store = index_of(tmp_path, dictionary, bos=bos)
    lab = Lab(cast(LanguageModel, SmallModel()), dictionary, SITE, store, skip_bos, index=index)
    for text in ("abcahhg", "d"):
        found = features_of_prompt(lab, text, n=6)
        codes_CN = lab.codes(lab.batch([text]))[0]
        code_N = codes_CN.amax(dim=0)
        strength = {n: float(code_N[n] / index.max_N[n]) for n in range(WIDTH) if code_N[n] > 0 and index.max_N[n] > 0}
        unseen = [n for n in range(WIDTH) if code_N[n] > 0 and index.max_N[n] <= 0]
        order = [*sorted(strength, key=lambda n: (-strength[n], n)), *unseen]
        assert found.active == len(order)
        assert [entry.feature for entry in found.features] == order[:6]
        assert found.ids == lab.ids(text)
        for entry in found.features:
            assert entry.strength == strength.get(entry.feature)
            assert entry.values == codes_CN[:, entry.feature].tolist()
            assert entry.code == max(entry.values) == entry.values[entry.place]
        assert [row[0] for row in found.table().rows] == order[:6]


def test_a_feature_that_the_corpus_never_showed_comes_last(tmp_path: Path) -> None:
    dictionary = whole_number_dictionary(4)
    index, store = index_of(tmp_path, dictionary)
    lab = Lab(cast(LanguageModel, SmallModel()), dictionary, SITE, store, index=index)
    dictionary.tensors["b_enc"][0] = 5000  # dead in the index, alive now
    found = features_of_prompt(lab, "abc", n=9)
    assert (found.features[-1].feature, found.features[-1].strength) == (0, None)
    dictionary.tensors["b_enc"].fill_(-1000)
    nothing = features_of_prompt(lab, "abc")
    assert (nothing.features, nothing.active, nothing.charts()) == ([], 0, [])


def test_a_search_by_text_needs_an_index_and_a_text(tmp_path: Path) -> None:
    dictionary = whole_number_dictionary(4)
    index, store = index_of(tmp_path, dictionary)
    model = cast(LanguageModel, SmallModel())
    with pytest.raises(UsageError, match="needs the features' index"):
        features_of_prompt(Lab(model, dictionary, SITE, store), "a")
    lab = Lab(model, dictionary, SITE, store, index=index)
    with pytest.raises(UsageError, match="has no tokens"):
        features_of_prompt(lab, "")
    with pytest.raises(UsageError, match=r"`n` \(=0\)"):
        features_of_prompt(lab, "a", n=0)


def test_token_lists_do_not_depend_on_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, store = index_of(tmp_path, whole_number_dictionary(WIDTH))
    monkeypatch.setitem(scan.CODES_AT_ONCE, "cpu", 1)
    monkeypatch.setattr(token_table, "FIRINGS_AT_ONCE", 9)
    model = cast(LanguageModel, SmallModel())
    options: dict[str, Any] = {"top": 2, "n_tokens": 4, "n_token_features": 5, "batch_rows": 1}
    again = features(tmp_path / "grid", member=0, model=model, tokens=store, out=tmp_path / "again", **options)
    first, second = (load_tensors(found.artifact.path / "tokens.safetensors") for found in (index, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

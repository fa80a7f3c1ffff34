"""The pass over the corpus against a plain computation in Python, and the samples against what chance allows."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conftest import shared
from feature_worlds import D_IN, SITE, TableModel, grid, token_store, whole_number_dictionary
from scipy.stats import chi2

from monosemy.analysis import examples, scan
from monosemy.analysis.examples import Best, Keys, SampledExamples, SilentExamples, into_groups
from monosemy.analysis.feature import GROUPS
from monosemy.analysis.firings import N_BINS, Block, FiringCounts, Window, bin_edges, bins_of
from monosemy.analysis.index import FeatureIndex, FeatureSettings, features
from monosemy.artifact import make
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.baselines import LinearDictionary
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.draft import Draft
from monosemy.files import load_tensors, save_tensors
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, generator_for, seed_for

WIDTH = 24
CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "top": 4,
    "uniform": 3,
    "quantiles": 3,
    "per_quantile": 2,
    "random": 3,
    "before": 5,
    "after": 2,
}

WORLDS: dict[str, tuple[Sequence[int], dict[str, Any]]] = {
    "documents over rows and batches": ([150, 3, 40, 1, 90, 60, 2, 2], {"context": 16}),
    "many short documents": ([1, 2, 3, 4, 5, 6] * 12, {"context": 16}),
    "one document": ([200], {"context": 16}),
    "one document a row, cut": ([150, 3, 40, 1, 90, 60, 2, 2], {"context": 16, "packed": False}),
    "rows shorter than the window": ([30, 4, 9, 1, 5], {"context": 3}),
    "less than a batch": ([2, 1], {"context": 64}),
}


class Truth:
    """Every code of the corpus, one row at a time, and the plain computation of what an index should hold."""

    def __init__(self, store: TokenStore, model: TableModel, dictionary: Dictionary, rows: range) -> None:
        self.store = store
        self.codes: dict[int, np.ndarray] = {}
        self.bounds: dict[int, tuple[int, int]] = {}
        for row in rows:
            batch = store.batch(torch.tensor([row]))
            first, length = int(batch.offset_B[0]), int(batch.mask_BC.sum())
            codes_XN = dictionary.encode(model.capture(batch.ids_BC, [SITE], batch.mask_BC)[SITE][0]).numpy()
            for place in range(length):
                self.codes[first + place] = codes_XN[place]
                self.bounds[first + place] = (first, first + length)

    def document(self, offset: int) -> int:
        return int(np.searchsorted(self.store.doc_starts_D.numpy(), offset, side="right")) - 1

    def window(self, offset: int, before: int, after: int) -> list[int]:
        first, end = self.bounds[offset]
        return [place for place in range(offset - before, offset + after + 1) if first <= place < end]

    def firings(self, feature: int) -> list[int]:
        return [offset for offset, codes_N in self.codes.items() if codes_N[feature] > 0]

    def top(self, feature: int, size: int) -> list[int]:
        best: dict[int, int] = {}
        for offset in self.firings(feature):
            document = self.document(offset)
            if document not in best or self.codes[offset][feature] > self.codes[best[document]][feature]:
                best[document] = offset
        return sorted(best.values(), key=lambda offset: (-self.codes[offset][feature], offset))[:size]

    def uniform(self, feature: int, bins: int) -> dict[int, int]:
        """The firing with the largest key of each bin, by the bin's number."""
        fired = self.firings(feature)
        numbers = bins_between([float(self.codes[offset][feature]) for offset in fired], bins)
        return {
            number: keyed("uniform", [o for o, n in zip(fired, numbers, strict=True) if n == number], feature, 1)[0]
            for number in sorted(set(numbers))
        }

    def silent(self, feature: int, before: int, after: int) -> list[int]:
        return [
            offset
            for offset in self.codes
            if all(self.codes[place][feature] <= 0 for place in self.window(offset, before, after))
        ]


def bins_between(strengths: Sequence[float], bins: int) -> list[int]:
    """Which of the equal bins between the smallest and the largest number each one lies in."""
    low, high = min(strengths, default=0), max(strengths, default=0)
    return [min(bins - 1, int((each - low) / ((high - low) / bins))) if high > low else 0 for each in strengths]


def keyed(purpose: str, offsets: list[int], feature: int, size: int) -> list[int]:
    """The places with the largest keys."""
    if not offsets:
        return []
    keys = Keys(WIDTH, CPU, purpose, seed=0).of(
        torch.tensor(offsets), torch.arange(len(offsets)), torch.full((len(offsets),), feature)
    )
    return [offset for _, offset in sorted(zip((-keys).tolist(), offsets, strict=True))][:size]


def index_of(
    folder: Path, store: TokenStore, dictionaries: Path, out: str = "features", model: Any = None, **options: Any
) -> FeatureIndex:
    network = cast(LanguageModel, model or TableModel())
    return features(dictionaries, member=0, model=network, tokens=store, out=folder / out, **(SMALL | options))


def check(index: FeatureIndex, truth: Truth) -> None:
    """Everything the index says of every feature is the truth."""
    tokens_T = truth.store.tokens_T.tolist()
    names = truth.store.document_names()
    assert index.n_tokens == len(truth.codes)
    for i in range(index.n_features):
        feature = index.feature(i)
        fired = truth.firings(i)
        values = [float(truth.codes[offset][i]) for offset in fired]
        assert (feature.count, feature.dead) == (len(fired), not fired)
        assert feature.density == len(fired) / len(truth.codes)
        assert feature.max == max(values, default=0)
        assert feature.mean == np.float32(np.sum(values) / max(len(values), 1))
        edges, counts = feature.histogram
        assert counts == np.histogram(values, edges)[0].tolist()
        assert sum(counts) == len(fired)

        shown = feature.examples
        assert [example.offset for example in shown["top"]] == truth.top(i, 4)
        sample = keyed("quantile", fired, i, 6)
        assert sorted(example.offset for example in shown["quantile"]) == sorted(sample)
        assert {example.group: example.offset for example in shown["uniform"]} == truth.uniform(i, 3)
        assert [example.offset for example in shown["random"]] == keyed("random", truth.silent(i, 5, 2), i, 3)
        for example in [example for group in GROUPS for example in shown[group]]:
            window = truth.window(example.offset, 5, 2)
            assert example.values == [float(truth.codes[place][i]) for place in window]
            assert example.tokens == [index.texts.of(tokens_T[place]) for place in window]
            assert window[example.peak] == example.offset
            document = truth.document(example.offset)
            assert example.document == names[document]
            assert example.position == example.offset - int(truth.store.doc_starts_D[document])
        check_groups([(example.group, example.values[example.peak]) for example in shown["quantile"]])


def check_groups(grouped: list[tuple[int, float]]) -> None:
    """Groups go up, values go up over all of them, sizes are equal within one."""
    assert grouped == sorted(grouped)
    assert [value for _, value in grouped] == sorted(value for _, value in grouped)
    sizes = [sum(group == number for group, _ in grouped) for number in range(3)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("batch_rows", "block_codes"), [(1, 2**22), (3, 2**22), (None, 2**22), (None, 1)])
@pytest.mark.parametrize("world", WORLDS)
def test_index_equals_a_plain_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str, batch_rows: int | None, block_codes: int
) -> None:
    monkeypatch.setitem(scan.CODES_AT_ONCE, "cpu", block_codes)
    lengths, settings = WORLDS[world]
    store, dictionary = token_store(tmp_path, lengths, **settings), whole_number_dictionary(WIDTH)
    index = index_of(tmp_path, store, grid(tmp_path / "grid", [dictionary]), batch_rows=batch_rows)
    check(index, Truth(store, TableModel(), dictionary, range(store.n_rows)))
    rows = index.table()
    assert (rows[0]["dead"], rows[0]["count"], rows[1]["count"]) == (1, 0, store.count_tokens())
    assert index.feature(1).examples["random"] == []  # it always fires: no window is silent
    assert index.artifact.info["detection_limit"] == 1 / store.count_tokens()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_finds_the_same(tmp_path: Path) -> None:
    store, dictionary = token_store(tmp_path, [150, 3, 40, 1, 90], context=16), whole_number_dictionary(WIDTH)
    index = index_of(tmp_path, store, grid(tmp_path / "grid", [dictionary]), model=TableModel(device="cuda"))
    check(index, Truth(store, TableModel(), dictionary, range(store.n_rows)))


def test_negative_codes_are_shown_and_do_not_fire(tmp_path: Path) -> None:
    store = token_store(tmp_path, [60, 20], context=16)
    dictionary = LinearDictionary({"W_dec": torch.eye(D_IN), "b_dec": torch.zeros(D_IN)})
    index = index_of(tmp_path, store, grid(tmp_path / "grid", [dictionary]))
    truth = Truth(store, TableModel(), dictionary, range(store.n_rows))
    for i in range(D_IN):
        feature = index.feature(i)
        assert feature.count == len(truth.firings(i))
        assert [example.offset for example in feature.examples["top"]] == truth.top(i, 4)
    assert min(min(example.values) for example in index.feature(0).examples["top"]) < 0


def test_an_index_from_before_there_were_uniform_examples_opens(tmp_path: Path) -> None:
    store = token_store(tmp_path, [60, 20], context=16)
    index = index_of(tmp_path, store, grid(tmp_path / "grid", [whole_number_dictionary(WIDTH)]))
    file = index.artifact.path / "examples.safetensors"
    tensors = {name: tensor for name, tensor in load_tensors(file).items() if not name.startswith("uniform")}

    def write(draft: Draft) -> dict[str, Any]:
        shutil.copytree(
            index.artifact.path, draft.path, ignore=shutil.ignore_patterns("manifest.json"), dirs_exist_ok=True
        )
        save_tensors(draft.file("examples.safetensors"), tensors)
        return index.artifact.info

    config = {name: value for name, value in index.artifact.config.items() if name != "uniform"}
    old = FeatureIndex(make(tmp_path / "old", "features", config, {}, write))
    for i in range(WIDTH):
        new, feature = index.feature(i), old.feature(i)
        assert feature == replace(new, examples=new.examples | {"uniform": []})
    assert old.examples("uniform", 0, 2) == [[], []]


def test_max_tokens_takes_whole_rows(tmp_path: Path) -> None:
    store, dictionary = token_store(tmp_path, [100, 50], context=16), whole_number_dictionary(WIDTH)
    dictionaries = grid(tmp_path / "grid", [dictionary])
    index = index_of(tmp_path, store, dictionaries, max_tokens=40)
    check(index, Truth(store, TableModel(), dictionary, range(2)))
    assert index_of(tmp_path, store, dictionaries, "one", max_tokens=1).n_tokens == 16


def test_fewer_candidates_give_fewer_silent_windows_and_never_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "CANDIDATES", 8)
    store, dictionary = token_store(tmp_path, [400], context=16), whole_number_dictionary(WIDTH)
    index = index_of(tmp_path, store, grid(tmp_path / "grid", [dictionary]))
    truth = Truth(store, TableModel(), dictionary, range(store.n_rows))
    assert len(index.feature(0).examples["random"]) == 3
    for i in range(WIDTH):
        assert {example.offset for example in index.feature(i).examples["random"]} <= set(truth.silent(i, 5, 2))


def test_it_is_one_pass_and_a_finished_index_is_reused(tmp_path: Path) -> None:
    store = token_store(tmp_path, [100], context=16)
    dictionaries, model = grid(tmp_path / "grid", [whole_number_dictionary(WIDTH)]), TableModel()
    index_of(tmp_path, store, dictionaries, model=model, batch_rows=2)
    assert model.passes == -(-store.n_rows // 2)
    index_of(tmp_path, store, dictionaries, model=model, batch_rows=1)  # how fast is not what
    assert model.passes == -(-store.n_rows // 2)
    with pytest.raises(UsageError, match=r"`top` = 4, now 5"):
        index_of(tmp_path, store, dictionaries, model=model, top=5)


def test_another_seed_draws_other_samples_and_the_same_one_the_same(tmp_path: Path) -> None:
    store = token_store(tmp_path, [400, 200], context=16)
    dictionaries = grid(tmp_path / "grid", [whole_number_dictionary(WIDTH)])
    first, again, other = (
        load_tensors(index_of(tmp_path, store, dictionaries, out, seed=seed).artifact.path / "examples.safetensors")
        for out, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    for group in ("quantile", "random"):
        assert not torch.equal(first[f"{group}_offset"], other[f"{group}_offset"])
    assert torch.equal(first["top_offset"], other["top_offset"])


def everywhere_block(codes_XN: torch.Tensor, start: int, context: int) -> Block:
    place_X = torch.arange(len(codes_XN)) % context
    return Block.of(codes_XN, torch.arange(len(codes_XN)) + start, place_X, torch.full_like(place_X, context))


@pytest.mark.parametrize("kind", ["quantile", "random"])
def test_samples_are_uniform(kind: str) -> None:
    """12,000 features alike, 4 drawn of 40 places: 48,000 draws.

    A place drawn 15 % too often or too seldom (5.5 standard deviations), or an earlier half that is drawn 1.6 % too
    often (3.5), would be seen. Draws of two features must be as unrelated as those of one with itself.
    """
    n_features, n_places, size, window = 12_000, 40, 4, Window(0, 0)
    codes_XN = torch.full((n_places, n_features), 1.0 if kind == "quantile" else 0.0)
    collector: Any = (
        SampledExamples(n_features, window, CPU, size, seed=0)
        if kind == "quantile"
        else SilentExamples(n_features, window, CPU, size, seed=0, n_tokens=n_places)
    )
    for start in range(0, n_places, 8):
        collector.add(everywhere_block(codes_XN[start : start + 8], start, 8))
    drawn_NX = torch.zeros(n_features, n_places).scatter_(1, collector.best.offset_NE, 1.0)
    assert (drawn_NX.sum(dim=1) == size).all()  # without replacement

    expected = n_features * size / n_places
    spread = (drawn_NX.sum(dim=0) - expected).square().sum() / (expected * (1 - size / n_places))
    assert chi2.sf(float(spread) * (n_places - 1) / n_places, n_places - 1) > 1e-3
    early = float(drawn_NX[:, : n_places // 2].mean()) / (size / n_places)
    assert abs(early - 1) < 0.016
    together = (drawn_NX[0::2] * drawn_NX[1::2]).sum(dim=1).mean()  # places that two features share
    assert float(together) == pytest.approx(size**2 / n_places, abs=0.03)  # five standard errors


def test_candidate_windows_are_uniform_over_the_corpus() -> None:
    """300 corpora of 4,000 tokens: about 1,024 are drawn, and as often early as late, within 4 standard errors."""
    offset_X = torch.arange(4000)
    drawn_X = torch.zeros(4000)
    for seed in range(300):
        silent = SilentExamples(1, Window(0, 0), CPU, 1, seed=seed, n_tokens=4000)
        keys_X = silent._candidates.of(offset_X, offset_X, torch.zeros_like(offset_X))
        drawn_X += keys_X < silent._limit
    assert float(drawn_X.sum()) / 300 == pytest.approx(1024, abs=4 * (1024 * 0.744 / 300) ** 0.5)
    assert float(drawn_X[:2000].sum() / drawn_X.sum()) == pytest.approx(0.5, abs=4 * (0.25 * 0.744 / 307_200) ** 0.5)


@pytest.mark.parametrize("n_firings", range(8))
def test_groups_are_of_equal_size_within_one(n_firings: int) -> None:
    best = Best(1, Window(1, 0), CPU, 6)
    strengths = torch.tensor([5.0, 1.0, 4.0, 2.0, 6.0, 3.0])[:n_firings]
    best.offset_NE[0, : len(strengths)] = torch.arange(len(strengths)) + 10
    best.values_NEW[0, : len(strengths), 1] = strengths
    offset_NE, values_NEW = into_groups(best, 3)
    found = [(slot // 2, float(values_NEW[0, slot, 1])) for slot in range(6) if offset_NE[0, slot] >= 0]
    check_groups(found)
    assert [value for _, value in found] == sorted(strengths.tolist())


def test_bins_hold_what_their_edges_say() -> None:
    edges = bin_edges()
    assert len(edges) == N_BINS + 1
    assert (edges.diff() > 0).all()
    inner = edges[1:-1]
    assert torch.equal(bins_of(inner), torch.arange(1, N_BINS))  # an edge belongs to the bin above it
    below = torch.nextafter(inner, torch.zeros_like(inner))
    assert torch.equal(bins_of(below), torch.arange(0, N_BINS - 1))
    values = torch.exp(60 * torch.rand(10_000, generator=generator_for("bins")) - 30)
    assert torch.equal(bins_of(values), torch.bucketize(values, edges, right=True) - 1)
    assert bins_of(torch.tensor([1e-45, 3e38])).tolist() == [0, N_BINS - 1]


def test_histogram_of_features_that_never_fire() -> None:
    counts = FiringCounts(3, CPU)
    edges, counts_NH = counts.histogram()
    assert counts_NH.shape == (3, len(edges) - 1)
    assert counts_NH.sum() == 0


@pytest.mark.parametrize(
    ("name", "value"), [("top", 0), ("uniform", 0), ("quantiles", 0), ("random", -1), ("before", -1), ("max_tokens", 0)]
)
def test_settings_are_checked(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"`{name}` \(={value}\)"):
        FeatureSettings(**{name: value})


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    store, dictionary = token_store(tmp_path, [40], context=16), whole_number_dictionary(4)
    nowhere, here = grid(tmp_path / "nowhere", [dictionary], site=None), grid(tmp_path / "grid", [dictionary])
    with pytest.raises(UsageError, match="of no single site"):
        index_of(tmp_path, store, nowhere)
    with pytest.raises(UsageError, match=r"d_in = 6, .* is 7 wide"):
        index_of(tmp_path, store, here, model=TableModel(d_in=7))
    with pytest.raises(UsageError, match=r"`member` \(=1\)"):
        features(here, member=1, model=cast(LanguageModel, TableModel()), tokens=store, out=tmp_path / "x")
    with pytest.raises(UsageError, match=r"`feature` \(=4\) must be from 0 to 3"):
        index_of(tmp_path, store, here).feature(4)


def test_nan_from_the_model_is_refused(tmp_path: Path) -> None:
    store, model = token_store(tmp_path, [40], context=16), TableModel()
    model.table_VD[:] = torch.nan
    with pytest.raises(UsageError, match="NaN"):
        index_of(tmp_path, store, grid(tmp_path / "grid", [whole_number_dictionary(4)]), model=model)
    assert not (tmp_path / "features").exists()


def random_dictionary(d_in: int, width: int, seed: int) -> Dictionary:
    W_ND = torch.randn(width, d_in, generator=generator_for("features", seed))
    W_ND /= W_ND.norm(dim=1, keepdim=True)
    return ReluDictionary({"W_enc": W_ND, "b_enc": torch.full((width,), -1.0), "W_dec": W_ND.clone()})


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[..., FeatureIndex]]:
    """A real model and text: tokens, two dictionaries of random directions, and the stage over them."""
    folder = tmp_path_factory.mktemp("stories")
    model, text = shared("models/stories260K"), shared("text/tinystories.jsonl.gz")
    store = tokenize(str(text), out=folder / "tokens", tokenizer=str(model), context=128)
    network = LanguageModel.load(model, "cpu")
    site = "layers.2.resid_post"
    dictionaries = grid(
        folder / "grid", [random_dictionary(network.width_of(site), 96, seed) for seed in range(2)], site=site
    )

    def run(out: str, **options: Any) -> FeatureIndex:
        options = {"max_tokens": 20_000, "device": "cpu"} | options
        return features(dictionaries, member=0, model=model, tokens=store, out=folder / out, **options)

    return folder, run


def test_a_real_model_and_text(stories: tuple[Path, Callable[..., FeatureIndex]]) -> None:
    folder, run = stories
    index = run("features")
    store = TokenStore.open(folder / "tokens")
    model = LanguageModel.load(shared("models/stories260K"), "cpu")
    dictionary = random_dictionary(model.width_of("layers.2.resid_post"), 96, 0)
    rows = scan.rows_within(store, 20_000)
    codes_TN = torch.full((store.n_tokens, 96), torch.nan)
    for batch in store.batches(7, rows):
        x_BCD = model.capture(batch.ids_BC, ["layers.2.resid_post"], batch.mask_BC)["layers.2.resid_post"]
        for offset, mask_C, x_CD in zip(batch.offset_B.tolist(), batch.mask_BC, x_BCD, strict=True):
            codes_TN[offset : offset + int(mask_C.sum())] = dictionary.encode(x_CD[mask_C].clone())

    table = index.table()
    seen_TN = codes_TN[~codes_TN.isnan().any(dim=1)]
    assert index.n_tokens == len(seen_TN)
    count_N = torch.tensor([row["count"] for row in table])
    assert (count_N - (seen_TN > 0).sum(dim=0)).abs().max() <= 1  # a code within rounding of 0 may go either way
    torch.testing.assert_close(torch.tensor([row["max"] for row in table]), seen_TN.amax(dim=0), rtol=1e-4, atol=1e-5)
    assert all(0 < row["mcs_other_seed"] < 1 for row in table)
    for i in (0, 17, 95):
        feature = index.feature(i)
        assert len(feature.top_logits) == len(feature.bottom_logits) == 10
        for group, shown in feature.examples.items():
            for example in shown:
                start = example.offset - example.peak
                true = codes_TN[start : start + len(example.values), i]
                torch.testing.assert_close(torch.tensor(example.values), true, rtol=1e-4, atol=1e-4)
                assert (max(example.values) <= 0) == (group == "random")
        assert len({example.document for example in feature.examples["top"]}) == 20
        assert any(text.startswith(" ") for example in feature.examples["top"] for text in example.tokens)


def test_batch_rows_do_not_change_what_is_found(stories: tuple[Path, Callable[..., FeatureIndex]]) -> None:
    _, run = stories
    many, one = run("many", max_tokens=4000, batch_rows=16), run("one", max_tokens=4000, batch_rows=1)
    for i in range(0, 96, 5):
        a, b = many.feature(i), one.feature(i)
        assert [example.offset for example in a.examples["random"]] == [
            example.offset for example in b.examples["random"]
        ]
        assert a.max == pytest.approx(b.max, rel=1e-4)
        assert abs(a.count - b.count) <= 1


def test_seeds_of_unlike_purposes_are_unrelated() -> None:
    assert seed_for("quantile", "place", 0) != seed_for("random", "place", 0)

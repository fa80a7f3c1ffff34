"""Probes against scikit-learn and plain counting; where the answer is known, what they find."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from feature_worlds import SITE, TableModel, token_store, whole_number_dictionary
from neuron_worlds import COPY, D_IN, DEAD, DENSE, TAIL, THREE, documents, every_token, gaussian_lab, known_dictionary
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_curve

from monosemy.analysis import moments as moments_module
from monosemy.analysis import probes as probes_module
from monosemy.analysis.lab import Lab
from monosemy.analysis.logistic import (
    FEWEST,
    RIDGE,
    Scores,
    f1_cut,
    fitted,
    held_out,
    interval_of,
    rows_of_one,
    telling_columns,
)
from monosemy.analysis.probes import k_sparse_probe
from monosemy.analysis.probing import probe_labels
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.metrics.interval import Share
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError


def rows(count: int = 300, columns: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and a rare class that two of the columns tell, with noise."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, columns)) * np.arange(1, columns + 1) + 3
    return x, x[:, 1] / 2 - x[:, 4] / 5 + 0.5 * random.standard_normal(count) > 2


@pytest.mark.parametrize("separable", [False, True])
def test_a_probe_is_scikit_learns(separable: bool) -> None:
    x, positive = rows()
    positive = x[:, 2] > 5 if separable else positive
    x[:, 3] = 7  # says nothing
    probe = fitted(torch.from_numpy(x), torch.from_numpy(positive))
    z = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), np.inf)
    weight = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    oracle = LogisticRegression(C=1 / RIDGE, tol=1e-10, max_iter=10000).fit(z, positive, weight)
    assert np.allclose(probe.beta_Z, oracle.coef_[0], rtol=1e-3, atol=1e-4)
    assert probe.a == pytest.approx(oracle.intercept_[0], rel=1e-3, abs=1e-4)
    assert probe.beta_Z[3] == 0
    assert probe(torch.from_numpy(x)).tolist() == oracle.predict(z).tolist()


def test_columns_are_chosen_greedily_or_by_their_difference() -> None:
    x, positive = rows()
    x[:, 0] = x[:, 1] + 0.01 * x[:, 2]  # nearly a copy: a difference of means takes both, forward selection does not
    weight = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    centred = x - weight @ x
    spread = np.sqrt(weight @ centred**2)
    by_difference = np.argsort(-np.abs(x[positive].mean(0) - x[~positive].mean(0)) / spread)
    given = (torch.from_numpy(x).float(), torch.from_numpy(positive))
    assert telling_columns(*given, 4, "difference") == by_difference[:4].tolist()
    assert set(by_difference[:2]) == {0, 1}
    taken: list[int] = []
    for _ in range(3):
        error = {}
        for j in set(range(6)) - set(taken):
            columns = [*taken, j]
            fit = LinearRegression().fit(x[:, columns], positive, weight)
            error[j] = weight @ (positive - fit.predict(x[:, columns])) ** 2
        taken.append(min(error, key=lambda j: error[j]))
    assert telling_columns(*given, 3, "forward") == taken
    assert not {0, 1} <= set(taken[:2])
    flat = torch.ones(300, 2)
    assert telling_columns(flat, given[1], 2, "forward") == telling_columns(flat, given[1], 2, "difference") == []
    assert len(telling_columns(*given, 99, "forward")) <= 6


def test_groups_are_held_out_whole_and_alike() -> None:
    group = torch.arange(400) // 10 * 7  # 40 groups
    positive = (torch.arange(400) % 10 == 3) & (group < 7 * 20)  # one in each of the first 20
    test = held_out(group, positive, seed=0, what="document")
    for number in torch.unique(group):
        assert len(torch.unique(test[group == number])) == 1
    assert int(test[positive].sum()) == 6
    assert int(test.sum()) == 120
    assert not torch.equal(test, held_out(group, positive, seed=1, what="document"))
    one = torch.zeros(400, dtype=torch.bool)
    one[3] = True
    with pytest.raises(UsageError, match="1 documents with a positive are left for training and 0 for the test"):
        held_out(group, one, 0, "document")
    with pytest.raises(UsageError, match=r"0 documents with a negative .* give 14 different ones of either kind"):
        held_out(group, torch.ones(400, dtype=torch.bool), 0, "document")
    with pytest.raises(UsageError, match="0 documents with a positive"):
        held_out(group, torch.zeros(400, dtype=torch.bool), 0, "document")
    few = torch.arange(400) % 10 == 3
    with pytest.raises(UsageError, match="8 documents with a positive are left for training and 3 for the test"):
        held_out(group, few & (group < 7 * 11), 0, "document")
    assert int(held_out(group, few & (group < 7 * 12), 0, "document")[few & (group < 7 * 12)].sum()) == FEWEST
    assert Share.of(FEWEST, FEWEST).low > 0.5 > Share.of(FEWEST - 1, FEWEST - 1).low  # type: ignore[operator]


def test_scores_are_scikit_learns_and_intervals_are_of_groups() -> None:
    random = np.random.default_rng(0)
    positive = random.random(600) < 0.2
    said = np.where(random.random(600) < 0.8, positive, ~positive)
    group = np.arange(600) // 3
    scores = Scores(torch.from_numpy(group), torch.from_numpy(positive), weight=5.0)
    told = torch.from_numpy(said)
    weight = np.where(positive, 1.0, 5.0)
    accuracy, f1 = interval_of(scores.balanced_accuracy(told)), interval_of(scores.f1(told))
    assert accuracy.value == pytest.approx(balanced_accuracy_score(positive, said))
    assert f1.value == pytest.approx(f1_score(positive, said, sample_weight=weight))
    # The percentiles of a bootstrap over groups, done by hand.
    by_hand = []
    for _ in range(1000):
        drawn = (3 * random.integers(200, size=200)[:, None] + np.arange(3)).ravel()
        by_hand.append(balanced_accuracy_score(positive[drawn], said[drawn]))
    low, high = np.quantile(by_hand, [0.025, 0.975])
    assert accuracy.low == pytest.approx(low, abs=0.01)
    assert accuracy.high == pytest.approx(high, abs=0.01)
    # Rows of a group that say the same tell less than rows apart.
    copies = Scores(torch.arange(600) // 3, torch.from_numpy(np.repeat(positive[:200], 3)))
    wide = interval_of(copies.balanced_accuracy(torch.from_numpy(np.repeat(said[:200], 3))))
    assert wide.high - wide.low > 1.4 * (accuracy.high - accuracy.low)
    never = torch.zeros(600, dtype=torch.bool)
    assert float(scores.f1(never)[0]) == 0
    assert float(scores.balanced_accuracy(never)[0]) == 0.5


@pytest.mark.parametrize(("n", "right"), [(4, 4), (20, 20), (20, 18), (100, 60)])
def test_intervals_of_independent_texts_are_agresti_and_caffos(n: int, right: int) -> None:
    """Balanced accuracy is (1 + p − q) / 2 of two shares: two successes and failures more than were seen."""
    positive = torch.arange(2 * n) < n
    scores = Scores(torch.arange(2 * n), positive)
    said = torch.where(torch.arange(2 * n) % n < right, positive, ~positive)
    found = interval_of(scores.balanced_accuracy(said))
    share = (right + 1) / (n + 2)
    half = 1.96 * (2 * share * (1 - share) / (n + 2)) ** 0.5 / 2
    assert found.low == pytest.approx(share - half, abs=0.04)
    assert found.high == pytest.approx(min(1, max(share + half, right / n)), abs=0.04)
    assert found.value == right / n
    alike = scores.balanced_accuracy(said) - scores.balanced_accuracy(said, other=True)
    difference = interval_of(alike)  # Bonett and Price: one text more told by each of the two alone
    half = 1.96 * (2 * 2 / (n + 2) / (n + 2)) ** 0.5 / 2
    assert difference.low == pytest.approx(-half, abs=0.06)
    assert difference.high == pytest.approx(half, abs=0.06)


@pytest.mark.parametrize(("n", "truth"), [(4, 0.9), (10, 0.97), (30, 0.9)])
def test_intervals_hold_the_truth_as_often_as_they_say(n: int, truth: float) -> None:
    random, positive = np.random.default_rng(n), torch.arange(2 * n) < n
    scores, held = Scores(torch.arange(2 * n), positive), []
    for _ in range(200):
        said = [torch.from_numpy(random.random(2 * n) < share) == positive for share in (truth, truth - 0.1)]
        own, other = (scores.balanced_accuracy(each, bool(place)) for place, each in enumerate(said))
        intervals = (interval_of(own), truth), (interval_of(own - other), 0.1), (interval_of(scores.f1(said[0])), truth)
        held.append([each.low - 1e-9 <= value <= each.high + 1e-9 for each, value in intervals])
    assert np.mean(held, axis=0).min() > 0.9


def test_rows_of_one_document_count_as_far_as_their_errors_keep_together() -> None:
    whole, none = torch.tensor([5.0, 5, 0, 5]), torch.zeros(4)
    assert rows_of_one(whole, none) == rows_of_one(none, whole) == 5  # a document of another class is none of this one
    assert rows_of_one(torch.tensor([5.0, 5, 0, 0]), torch.tensor([0.0, 0, 5, 5])) == 5
    assert rows_of_one(torch.tensor([4.0, 4, 4, 4]), torch.tensor([1.0, 1, 1, 1])) == 1


def test_probes_of_features_whose_neurons_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = gaussian_lab(tmp_path, [90] * 60)
    copy = k_sparse_probe(lab, COPY, (1, 2))
    assert copy.neurons[0] == 7
    assert copy.accuracy[0].value > 0.97
    three = k_sparse_probe(lab, THREE, (1, 2, 3, 4))
    assert set(three.neurons[:3]) == {1, 2, 3}
    assert [each.value for each in three.accuracy][:3] == sorted(each.value for each in three.accuracy[:3])
    assert three.accuracy[2].value > 0.97 > 0.85 > three.accuracy[0].value
    dense = k_sparse_probe(lab, DENSE, (1, 32), choose="difference")
    assert dense.accuracy[0].value < 0.75 < 0.85 < dense.accuracy[1].value
    for found in (copy, three, dense):
        assert found.random_accuracy[0].value < found.accuracy[0].value
        for each in (*found.accuracy, *found.f1, *found.random_accuracy, *found.random_f1):
            assert 0 <= each.low <= each.value <= each.high <= 1
    x_TD, _ = every_token(lab)
    assert copy.density == float((lab.dictionary.encode(x_TD)[:, COPY] > 0).double().mean())
    assert all(len(row) == len(copy.table().columns) for row in copy.table().rows)
    copy.save(tmp_path / "saved")
    monkeypatch.setattr(moments_module, "TOKENS_AT_ONCE", {"cpu": 130})
    monkeypatch.setattr(moments_module, "NUMBERS_AT_ONCE", {"cpu": 100})
    assert k_sparse_probe(lab, COPY, (1, 2)) == copy


def test_a_sparse_probe_is_the_plain_computation(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [80] * 40)
    found = k_sparse_probe(lab, TAIL, (1,), seed=3)
    x_TD, offset_T = every_token(lab)
    x, document = x_TD.numpy(), np.array(documents(lab.tokens, offset_T))
    fires = lab.dictionary.encode(x_TD)[:, TAIL].numpy() > 0
    test = held_out(torch.from_numpy(document), torch.from_numpy(fires), 3, "document").numpy()
    assert found.n_train == (int(fires[~test].sum()), int((~fires[~test]).sum()))  # a small corpus is taken whole
    assert found.n_test == (int(fires[test].sum()), int((~fires[test]).sum()))
    column, mean, spread = x[:, [20]], x[~test, 20].mean(), x[~test, 20].std()
    oracle = LogisticRegression(C=1 / (RIDGE * (~test).sum()), class_weight="balanced", tol=1e-10)
    said = oracle.fit((column[~test] - mean) / spread, fires[~test]).predict((column[test] - mean) / spread)
    assert found.neurons == [20]
    assert found.accuracy[0].value == pytest.approx(balanced_accuracy_score(fires[test], said), abs=1e-3)
    # F1: at the best of all cuts midway between two training tokens.
    margin = oracle.decision_function((column - mean) / spread)
    precision, recall, cuts = precision_recall_curve(fires[~test], margin[~test])
    best = cuts[(2 * precision * recall / (precision + recall).clip(1e-9))[:-1].argmax()]
    cut = (best + margin[~test][margin[~test] < best].max()) / 2
    assert found.f1[0].value == pytest.approx(f1_score(fires[test], margin[test] > cut), abs=0.005)
    assert found.f1_cut[0] > 0  # it fires seldom
    assert found.f1[0].value > f1_score(fires[test], said) + 0.05, "the balanced cut's is lower"


def test_the_cut_for_f1_is_the_best_of_all_cuts_at_the_rows_weights() -> None:
    random = np.random.default_rng(4)
    positive = random.random(300) < 0.3
    margin = np.round(random.standard_normal(300) + positive, 1)  # many are equal
    given = (torch.from_numpy(margin), torch.from_numpy(positive))
    cuts = []
    for weight in (0.2, 1.0, 30.0):
        rows_weigh = np.where(positive, 1.0, weight)
        values = np.unique(margin)
        every = [-np.inf, *(values[1:] + values[:-1]) / 2]
        cuts.append(f1_cut(*given, weight))
        scores = [f1_score(positive, margin > cut, sample_weight=rows_weigh) for cut in every]
        assert f1_score(positive, margin > cuts[-1], sample_weight=rows_weigh) == pytest.approx(max(scores))
        assert cuts[-1] in np.array(every)
    assert cuts == sorted(cuts)
    assert cuts[0] < cuts[2]
    assert f1_cut(torch.zeros(4), torch.tensor([True, False, True, True])) == -np.inf  # all or nothing
    assert f1_cut(torch.tensor([1.0, 2, 3]), torch.tensor([False, False, True])) == 2.5


def test_f1_of_a_rare_feature_is_not_that_of_the_balanced_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One neuron tells it but for noise: at its frequency, most of what the balanced cut says is wrong."""
    dictionary = known_dictionary()
    dictionary.tensors["W_enc"][TAIL, 21] = 0.2
    dictionary.tensors["b_enc"][TAIL] = -2.5
    lab = gaussian_lab(tmp_path, [90] * 80, dictionary)
    monkeypatch.setattr(probes_module, "PER_CLASS", 10**6)  # nothing is sampled
    found = k_sparse_probe(lab, TAIL, (1,))
    x_TD, offset_T = every_token(lab)
    fires = lab.dictionary.encode(x_TD)[:, TAIL] > 0
    document = torch.tensor(documents(lab.tokens, offset_T))
    test = held_out(document, fires, 0, "document")
    assert found.neurons == [20]
    assert found.density < 0.01
    probe = fitted(x_TD[~test][:, [20]], fires[~test])
    at_zero = f1_score(fires[test], probe(x_TD[test][:, [20]]))
    assert found.accuracy[0].value > 0.95
    assert at_zero < 0.5 < 0.6 < found.f1[0].value


def test_f1_is_that_at_the_features_own_frequency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, given = gaussian_lab(tmp_path, [90] * 80), []

    class Watched(Scores):
        def __init__(self, group_X: torch.Tensor, positive_X: torch.Tensor, weight: float, seed: int) -> None:
            super().__init__(group_X, positive_X, weight, seed)
            given.append(weight)

    monkeypatch.setattr(probes_module, "Scores", Watched)
    whole = k_sparse_probe(lab, TAIL, (1,))
    x_TD, _ = every_token(lab)
    fires = int((lab.dictionary.encode(x_TD)[:, TAIL] > 0).sum())
    assert whole.n_train[0] + whole.n_test[0] == fires
    monkeypatch.setattr(probes_module, "PER_CLASS", 100)
    sampled = k_sparse_probe(lab, TAIL, (1,))
    assert sampled.n_train[0] + sampled.n_test[0] == sampled.n_train[1] + sampled.n_test[1] == 100
    assert sampled.density == whole.density
    # 4096 negatives stand for all, and 100 of each stand for more of the one than of the other.
    silent = len(x_TD) - fires
    assert given == [pytest.approx(silent / 4096), pytest.approx(silent / fires)]


def test_probes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [60] * 40)
    for feature, options, why in (
        (DEAD, {}, "fires never"), (6, {}, "from 0 to 5"), (COPY, {"ks": (0,)}, "from 1 to 40"),
        (COPY, {"ks": (D_IN + 1,)}, "from 1 to 40"), (COPY, {"ks": ()}, "from 1 to 40"),
        (COPY, {"choose": "l1"}, "must be one of forward"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            k_sparse_probe(lab, feature, **cast(Any, options))
    always = known_dictionary()
    always.tensors["b_enc"] += 1000
    with pytest.raises(UsageError, match="fires everywhere"):
        k_sparse_probe(Lab(lab.model, always, SITE, lab.tokens), COPY)
    competing = TopKDictionary(known_dictionary().tensors, {"k": 2})
    found = k_sparse_probe(Lab(lab.model, competing, SITE, lab.tokens), TAIL, (1,))
    assert found.neurons == [20]


class LetterModel(TableModel):
    """A table with what a lab asks of a model besides."""

    max_context: int | None = 40
    vocab_size = 258


def letter_lab(folder: Path, skip_bos: bool = True) -> Lab:
    """Feature 0 sums up all coordinates, and each of them is a little higher at an "h"; noise hides it in each."""
    store, model = token_store(folder, [30, 30], context=32, bos="yes"), LetterModel(d_in=120)
    generator = torch.Generator().manual_seed(1)
    model.table_VD, noise_VD = (torch.randn(258, 120, generator=generator) for _ in range(2))
    model.before_VD = 1.2 * noise_VD
    letter = store.tokenizer.encode("h", add_special_tokens=False).ids[0]
    model.table_VD[letter] += 0.8
    W_ND = torch.cat([torch.ones(1, 120), torch.randn(7, 120, generator=generator)])
    bias_N = torch.tensor([-55.0, *[-2.0] * 7])
    dictionary = ReluDictionary({"W_enc": W_ND, "b_enc": bias_N, "W_dec": W_ND.clone()})
    return Lab(cast(LanguageModel, model), dictionary, SITE, store, skip_bos)


def labelled_texts(count: int = 240) -> tuple[list[str], list[bool]]:
    """Texts with and without an "h"."""
    random = np.random.default_rng(0)
    letters = list("abcdefgijklmnopqrstuvwxyz")
    texts = ["".join(random.choice(letters, size=random.integers(3, 30))) for _ in range(count)]
    labels = [number % 3 == 0 for number in range(count)]
    middle = [len(text) // 2 for text in texts]
    with_h = [text[:m] + "h" + text[m:] for text, m in zip(texts, middle, strict=True)]
    return [h if label else text for text, h, label in zip(texts, with_h, labels, strict=True)], labels


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_one_feature_tells_what_no_neuron_does(tmp_path: Path, pooling: str) -> None:
    lab, (texts, labels) = letter_lab(tmp_path), labelled_texts()
    found = probe_labels(lab, texts, labels, (1, 2), pooling=pooling)
    assert found.chosen["features"][0] == 0
    assert found.accuracy["features"][0].value > 0.85
    assert found.difference[0].low > 0
    assert found.accuracy["neurons"][0].value < found.accuracy["features"][0].value
    assert found.labels == ("False", "True")
    assert sum(found.n_train) + sum(found.n_test) == 240

    # Every text alone, then the same probes by scikit-learn.
    pooled_x: list[np.ndarray] = []
    pooled_codes: list[np.ndarray] = []
    for text in texts:
        ids_1C = torch.tensor([lab.ids(text)])
        x_CD = lab.model.capture(ids_1C, [SITE], torch.ones_like(ids_1C).bool())[SITE][0][1:]  # without BOS
        for each, kept in ((x_CD, pooled_x), (lab.dictionary.encode(x_CD), pooled_codes)):
            kept.append((each.amax(0) if pooling == "max" else each.mean(0)).numpy())
    positive = np.array(labels)
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    group = torch.tensor([distinct[text] for text in texts])
    test = held_out(group, torch.from_numpy(positive), 0, "text").numpy()
    assert (found.n_test[0], found.n_test[1]) == (int(positive[test].sum()), int((~positive[test]).sum()))
    values = {"features": np.stack(pooled_codes), "neurons": np.stack(pooled_x)}
    for basis, x in values.items():
        for place, k in enumerate((1, 2)):
            assert found.accuracy[basis][place].value == pytest.approx(
                by_scikit_learn(x[:, found.chosen[basis][:k]], positive, test), abs=0.02
            )
        given = (torch.from_numpy(x[~test]), torch.from_numpy(positive[~test]))
        assert telling_columns(*given, 2, "forward") == found.chosen[basis]
    assert found.all_accuracy.value == pytest.approx(by_scikit_learn(values["neurons"], positive, test), abs=0.02)
    assert found.difference[1].value == pytest.approx(
        found.accuracy["features"][1].value - found.accuracy["neurons"][1].value
    )
    assert all(len(row) == len(found.table().columns) for row in found.table().rows)
    found.save(tmp_path / "saved")


def by_scikit_learn(x: np.ndarray, positive: np.ndarray, test: np.ndarray) -> float:
    mean, spread = x[~test].mean(0), x[~test].std(0)
    z = (x - mean) / np.where(spread > 0, spread, np.inf)
    oracle = LogisticRegression(C=1 / (RIDGE * (~test).sum()), class_weight="balanced", tol=1e-9, max_iter=5000)
    return float(balanced_accuracy_score(positive[test], oracle.fit(z[~test], positive[~test]).predict(z[test])))


def test_texts_are_pooled_alike_in_any_batch_and_copies_stay_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, (texts, labels) = letter_lab(tmp_path), labelled_texts(90)
    plain = probe_labels(lab, texts, labels, (1, 2))
    monkeypatch.setattr("monosemy.analysis.probing.NUMBERS_AT_ONCE", {"cpu": 50})
    assert probe_labels(lab, texts, labels, (1, 2)) == plain
    assert sum(probe_labels(lab, texts * 2, labels * 2, (1,)).n_test) == 2 * sum(plain.n_test)
    named = ["yes" if label else "no" for label in labels]
    assert probe_labels(lab, texts, named, (1, 2)).accuracy == plain.accuracy


def test_labels_that_cannot_be_probed_are_refused(tmp_path: Path) -> None:
    lab, (texts, labels) = letter_lab(tmp_path), labelled_texts(42)
    bos = lab.tokens.edges.bos
    assert bos is not None
    for given, options, why in (
        ((texts, labels[1:]), {}, "42 `texts` and 41 `labels`"),
        ((texts, [0] * 42), {}, "1 values"),
        ((texts, list(range(42))), {}, "one at a time, with `positive`"),
        ((texts, labels), {"pooling": "last"}, "must be one of max, mean"),
        ((texts, labels), {"ks": (0,)}, "at least 1"),
        (([*texts[:-1], ""], labels), {}, "no tokens"),
        (([*texts[:-1], [bos]], labels), {}, "number 41 is BOS alone"),
        ((texts, [True] + [False] * 41), {}, "0 for the test"),
        ((texts[:8], labels[:8]), {}, "of which a probe needs 4 or more; give 14 different ones of either kind"),
    ):
        with pytest.raises(UsageError, match=why):
            probe_labels(lab, *cast(Any, given), **cast(Any, options))
    competing = TopKDictionary(lab.dictionary.tensors, {"k": 2})
    assert probe_labels(Lab(lab.model, competing, SITE, lab.tokens, True), texts, labels, (1,)).n_test[0] == 4


def test_a_dictionary_of_whole_numbers_with_ties_is_probed(tmp_path: Path) -> None:
    store = token_store(tmp_path, [40] * 30, context=16)
    lab = Lab(cast(LanguageModel, TableModel()), whole_number_dictionary(10), SITE, store)
    found = k_sparse_probe(lab, 5, (1, 6))
    assert found.accuracy[1].value >= found.random_accuracy[1].value - 0.02  # all six neurons, either way
    assert len(found.neurons) <= 6

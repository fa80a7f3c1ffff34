"""Features beside neurons: moments, forward selection, verdicts, S1's counts, all against plain computations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from feature_worlds import SITE, TableModel, grid, token_store, whole_number_dictionary
from networks import save_network
from neuron_worlds import (
    COPY,
    D_IN,
    DEAD,
    DENSE,
    NEGATIVE,
    TAIL,
    THREE,
    documents,
    every_token,
    gaussian_lab,
    known_dictionary,
)
from sklearn.linear_model import LinearRegression

from monosemy.analysis import moments as moments_module
from monosemy.analysis.forward import forward_selection, whitening
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import LEVELS, feature_moments
from monosemy.analysis.neuron_curves import neuron_curves
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.verdict import ENOUGH, FEW, VERDICTS, neuron_verdicts
from monosemy.dictionaries.baselines import LinearDictionary
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, listening


def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "TOKENS_AT_ONCE", {"cpu": 130})
    monkeypatch.setattr(moments_module, "NUMBERS_AT_ONCE", {"cpu": 100})


def whole_numbers(kind: str) -> Dictionary:
    relu = whole_number_dictionary(10)
    if kind == "topk":
        return TopKDictionary(relu.tensors, {"k": 3})
    return relu if kind == "relu" else LinearDictionary({"W_dec": relu.W_dec_ND, "b_dec": torch.ones(6)})


@pytest.mark.parametrize(("kind", "skip_bos"), [("relu", False), ("topk", True), ("linear", False)])
def test_moments_are_those_of_all_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, skip_bos: bool
) -> None:
    small_pieces(monkeypatch)
    store = token_store(tmp_path, [150, 3, 40, 1, 90], context=16, bos="yes")
    lab = Lab(cast(LanguageModel, TableModel()), whole_numbers(kind), SITE, store, skip_bos)
    for chosen, rows in ((None, None), ([4, 1], range(9))):
        found = feature_moments(lab, chosen, None if rows is None else store.count_tokens(rows))
        x_TD, _ = every_token(lab, rows)
        codes_TF = lab.dictionary.encode(x_TD)[:, list(range(10)) if chosen is None else chosen]
        x, c = x_TD.double().numpy(), codes_TF.double().numpy()
        assert found.tokens == len(x)
        assert found.features_F.tolist() == (list(range(10)) if chosen is None else chosen)
        assert found.count_F.tolist() == (c > 0).sum(0).tolist()
        both = np.cov(np.hstack([c, x]).T, bias=True)
        n = c.shape[1]
        assert np.allclose(found.mean_F, c.mean(0))
        assert np.allclose(found.mean_D, x.mean(0), atol=1e-6)
        assert np.allclose(found.variance_F, both.diagonal()[:n], atol=1e-5)
        assert np.allclose(found.covariance_DD, both[n:, n:], atol=1e-5)
        assert np.allclose(found.cross_FD, both[:n, n:], atol=1e-3)
        assert found.max_D.tolist() == x.max(0).tolist()
        order = np.sort(x, axis=0)
        for level, quantile_D in zip(LEVELS, found.quantile_QD, strict=True):
            assert quantile_D.tolist() == order[round(level * (len(x) - 1))].tolist()


def test_a_mean_far_from_zero_costs_no_digits(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [300] * 4)
    plain = feature_moments(lab)
    cast(Any, lab.model).noise_KD += 1000
    lab.dictionary.tensors["b_enc"] -= 1000 * lab.dictionary.tensors["W_enc"].sum(dim=1)
    moved = feature_moments(lab)
    assert torch.allclose(moved.covariance_DD, plain.covariance_DD, atol=1e-3)
    assert torch.allclose(moved.cross_FD[THREE], plain.cross_FD[THREE], atol=1e-3)


def test_quantiles_of_a_long_corpus_come_from_an_even_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments_module, "SAMPLE", 1000)
    lab = gaussian_lab(tmp_path, [200] * 20)
    found = feature_moments(lab, [0])
    x_TD, _ = every_token(lab)
    assert torch.equal(found.quantile_QD[-1], x_TD.amax(dim=0))
    share_QD = (x_TD[None] <= found.quantile_QD[:, None]).double().mean(dim=1)
    assert (share_QD - torch.tensor(LEVELS, dtype=torch.float64)[:, None]).abs().max() < 0.08
    small_pieces(monkeypatch)
    assert torch.equal(feature_moments(lab, [0]).quantile_QD, found.quantile_QD)


def test_forward_selection_is_the_greedy_search_by_least_squares() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((400, 7)) @ random.standard_normal((7, 7))
    x[:, 5] = 0  # no variance
    x[:, 6] = 2 * x[:, 0] - x[:, 1]  # tells nothing beside those two
    y = np.stack([x[:, 2] + 0.3 * x[:, 4], random.standard_normal(400), x[:, 0] - x[:, 1], 0 * x[:, 0]], axis=1)
    y[:, :3] += 0.1 * random.standard_normal((400, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    covariance_DD, cross_FD = torch.from_numpy(x.T @ x / 400), torch.from_numpy(y.T @ x / 400)
    chosen_FK, gain_FK = forward_selection(cross_FD, covariance_DD.diagonal(), covariance_DD.__getitem__, 7)

    def explained(target: np.ndarray, columns: list[int]) -> float:
        fit = LinearRegression().fit(x[:, columns], target)
        return float(target.var() - (target - fit.predict(x[:, columns])).var())

    for f in range(4):
        target, taken, before = y[:, f], list[int](), 0.0
        for step in range(7):
            options = {j: explained(target, [*taken, j]) for j in range(7) if j not in taken}
            most, took = max(options.values()), int(chosen_FK[f, step])
            if most - before < 1e-9:
                assert (chosen_FK[f, step:] == -1).all()
                assert not gain_FK[f, step:].any()
                break
            assert options[took] == pytest.approx(most, abs=1e-9)  # two may tell the same
            assert gain_FK[f, step].item() == pytest.approx(most - before, abs=1e-9)
            taken, before = [*taken, took], most
        else:
            pytest.fail("the collinear and the constant column were taken")
    W_DJ = whitening(covariance_DD)
    assert W_DJ.shape == (7, 5)
    for f in range(3):
        assert (cross_FD[f] @ W_DJ).square().sum().item() == pytest.approx(explained(y[:, f], list(range(7))), rel=1e-6)


def test_verdicts_where_the_answer_is_known(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [400] * 12)
    result = neuron_verdicts(lab)
    found = {e.feature: e for e in result.evidence}
    told = {feature: e.verdict for feature, e in found.items()}
    single, few, spread, rare, dead = VERDICTS
    assert told == {COPY: single, THREE: few, DENSE: spread, DEAD: dead, NEGATIVE: single, TAIL: single}
    assert [found[f].neuron for f in (COPY, NEGATIVE, TAIL)] == [7, 11, 20]
    assert found[NEGATIVE].correlation < -0.7
    assert found[TAIL].r2[0] < 0.3  # a cut-off code is far from linear: the share sees through it
    assert found[THREE].neuron in (1, 2, 3)
    assert found[COPY].participation == pytest.approx(1)
    assert found[THREE].participation == pytest.approx(3)
    assert found[DENSE].participation > 5
    assert found[DEAD].share_single is None
    assert found[DEAD].neuron == -1
    assert result.counts() == {single: 3, few: 1, spread: 1, rare: 0, dead: 1}

    x_TD, _ = every_token(lab)
    x, codes = x_TD.numpy(), lab.dictionary.encode(x_TD).double().numpy()
    tokens = len(x)
    for feature in (COPY, THREE, DENSE, TAIL):
        e, code = found[feature], codes[:, feature]
        correlations = [np.corrcoef(x[:, j], code)[0, 1] for j in range(D_IN)]
        assert e.neuron == int(np.argmax(np.abs(correlations)))
        assert e.correlation == pytest.approx(max(correlations, key=abs), abs=1e-4)
        plain = LinearRegression().fit(x, code).score(x, code)
        assert e.r2_all == pytest.approx(1 - (1 - plain) * (tokens - 1) / (tokens - D_IN - 1), abs=1e-4)
        assert e.r2[0] == pytest.approx(1 - (1 - e.correlation**2) * (tokens - 1) / (tokens - 2), abs=1e-4)
        assert e.r2 == sorted(e.r2)
        assert e.share_few == pytest.approx(min(1, e.r2[result.ks.index(FEW)] / e.r2_all))


def test_a_feature_that_fires_now_and_then_is_too_rare_and_one_that_never_does_is_dead(tmp_path: Path) -> None:
    """TAIL's threshold is raised to its strongest tokens; the index sees all of them, the verdict the first few."""
    first = gaussian_lab(tmp_path, [300] * 12)
    x_TD, _ = every_token(first)
    values = torch.unique(x_TD[:, 20]).sort(descending=True).values[:14]
    thresholds = [values[0] + 1, *((values[:-1] + values[1:]) / 2)]
    verdicts = {}
    for threshold in thresholds:
        dictionary = known_dictionary()
        dictionary.tensors["b_enc"][TAIL] = -threshold
        (evidence,) = neuron_verdicts(replace(first, dictionary=dictionary), [TAIL]).evidence
        assert evidence.count == int((x_TD[:, 20] > threshold).sum())
        assert (evidence.share_single is None) == (evidence.count < ENOUGH)
        verdicts[evidence.count] = evidence.verdict
    assert min(verdicts) == 0 < ENOUGH <= max(verdicts)
    for count, verdict in verdicts.items():
        assert (verdict == "dead") == (count == 0)
        assert (verdict == "too rare") == (0 < count < ENOUGH)


def test_a_feature_that_only_the_index_sees_firing_is_not_dead(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [300] * 12)
    x_TD, _ = every_token(lab)
    first_D, all_D = x_TD[:960].amax(dim=0), x_TD.amax(dim=0)
    late = int((first_D < all_D).nonzero()[0])  # a neuron whose strongest token comes later
    dictionary = known_dictionary()
    dictionary.tensors["W_enc"][TAIL] = torch.eye(D_IN)[late]
    dictionary.tensors["b_enc"][TAIL] = -first_D[late]
    path = grid(tmp_path / "grid", [dictionary])
    index = features(path, member=0, model=lab.model, tokens=lab.tokens, out=tmp_path / "features")
    beside = Lab(lab.model, dictionary, SITE, lab.tokens, index=index)
    short = neuron_verdicts(beside, [TAIL, DEAD], max_tokens=960)
    assert [(each.verdict, each.count) for each in short.evidence] == [("too rare", 0), ("dead", 0)]
    alone = neuron_verdicts(replace(beside, index=None), [TAIL], max_tokens=960)
    assert alone.evidence[0].verdict == "dead"  # nothing else was looked at


def test_verdicts_of_some_features_from_moments_of_all(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [200] * 8)
    moments = feature_moments(lab)
    some = neuron_verdicts(lab, [THREE, COPY], moments=moments, ks=(3, 1))
    assert [e.feature for e in some.evidence] == [THREE, COPY]
    assert some.evidence[0].r2[0] > 2 * some.evidence[0].r2[1]  # k = 3 and 1, as asked
    every = neuron_verdicts(lab, moments=moments, ks=(3, 1))
    assert [every.evidence[f] for f in (THREE, COPY)] == some.evidence
    table = every.table()
    assert len(table.rows) == 6
    assert all(len(row) == len(table.columns) for row in table.rows)
    every.save(tmp_path / "saved")
    with pytest.raises(UsageError, match="do not hold feature 2"):
        neuron_verdicts(lab, [2], moments=moments.of([0]))
    with pytest.raises(UsageError, match="more than 80"):
        neuron_verdicts(lab, max_tokens=64)
    with pytest.raises(UsageError, match="at least 1"):
        neuron_verdicts(lab, ks=(0,))


def test_a_pass_can_be_stopped(tmp_path: Path) -> None:
    lab = gaussian_lab(tmp_path, [200] * 4)

    class Cancelled(Exception):
        pass

    def stop(*_: object) -> None:
        raise Cancelled

    for analysis in (feature_moments, lambda lab: neuron_curves(lab, [0])):
        with listening(stop), pytest.raises(Cancelled):
            analysis(lab)


NETWORK_SITES = {"llama": "layers.1.mlp_act", "gpt2": "layers.1.resid_post", "neox-parallel": "layers.2.mlp_act",
                 "bert": "layers.1.mlp_act"}  # fmt: skip


@pytest.mark.parametrize("name", NETWORK_SITES)
def test_a_feature_beside_the_neurons_of_real_architectures(tmp_path: Path, name: str) -> None:
    site = NETWORK_SITES[name]
    model = LanguageModel.load(save_network(name, tmp_path / "model", vocab_size=300), "cpu")
    width, store = model.width_of(site), token_store(tmp_path, [30] * 14, context=16)
    W_ND = torch.randn(5, width, generator=torch.Generator().manual_seed(1))
    dictionary = ReluDictionary({"W_enc": W_ND, "b_enc": torch.tensor([0, 0, 0, 0, -1e6]), "W_dec": W_ND.clone()})
    path = grid(tmp_path / "grid", [dictionary], site)
    index = features(path, member=0, model=model, tokens=store, out=tmp_path / "features")
    lab = Lab.open(path, member=0, model=model, tokens=store, index=index)
    found = neuron_comparison(lab, 2)

    x_TD, offset_T = every_token(lab)
    x, place = x_TD.numpy(), {offset: row for row, offset in enumerate(offset_T.tolist())}
    codes, document = (x @ W_ND[2].numpy()), documents(store, offset_T)
    best = sorted(({d: max((codes[t], -t) for t in range(len(x)) if document[t] == d) for d in set(document)}).values())
    tops = [-t for _, t in best[::-1][:10]]
    assert found.offsets == [int(offset_T[t]) for t in tops]
    peaks = x[[place[offset] for offset in found.offsets]]
    assert np.allclose(found.lowest_D, peaks.min(0), atol=1e-5)
    largest, order = x.max(0), np.sort(x, axis=0)
    for number, t in enumerate(LEVELS):
        everywhere = peaks > t + 1e-7
        assert found.above["absolute"][number] == everywhere.all(0).sum()
        own = [largest[j] > 0 and (peaks[:, j] > np.float32(t) * largest[j]).all() for j in range(width)]
        assert abs(found.above["maximum"][number] - sum(own)) <= (t == 1)  # at its maximum, to rounding
        if 0 < t < 1:
            limit = order[round(t * (len(x) - 1))]
            assert found.above["quantile"][number] == (peaks > limit + 1e-6).all(0).sum()
    assert torch.allclose(found.written_O, W_ND[2] * float(codes.max()), rtol=1e-4)
    assert found.coordinates == ("coordinates" if "resid" in site else "neurons") + f" of {site}"
    assert found.evidence.verdict in VERDICTS
    assert len(found.table().rows) == width
    found.save(tmp_path / "saved")
    with pytest.raises(UsageError, match="never fires"):
        neuron_comparison(lab, 4)
    with pytest.raises(UsageError, match="from 0 to 4"):
        neuron_comparison(lab, 5)
    with pytest.raises(UsageError, match="needs its index"):
        neuron_comparison(Lab(model, dictionary, site, store), 2)


def test_curves_of_features_and_controls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch)
    lab = gaussian_lab(tmp_path, [70, 5, 130, 64, 1, 90, 200, 33] * 3)
    found = neuron_curves(lab, [DENSE, COPY, DEAD, TAIL], examples=6)
    assert found.directions["features"] == [DENSE, COPY, TAIL]
    assert found.left_out == {"features": 1, "identity": 0, "pca": 0, "random": 0}
    x_TD, offset_T = every_token(lab)
    x, document = x_TD.numpy(), documents(lab.tokens, offset_T)
    largest, order = x.max(0), np.sort(x, axis=0)

    def counts(codes: np.ndarray) -> list[list[int]]:
        best: dict[int, int] = {}
        for t in np.flatnonzero(codes > 0).tolist():
            if document[t] not in best or codes[t] > codes[best[document[t]]]:
                best[document[t]] = t
        peaks = x[sorted(best.values(), key=lambda t: -codes[t])[:6]]
        limits = [[np.float32(t), np.float32(t) * largest, order[round(t * (len(x) - 1))]] for t in LEVELS]
        return [[int((peaks > limit[sense]).all(0).sum()) for limit in limits] for sense in range(3)]

    codes_TN = lab.dictionary.encode(x_TD).numpy()
    assert found.above["features"].tolist() == [counts(codes_TN[:, f]) for f in (DENSE, COPY, TAIL)]
    assert found.above["identity"].tolist() == [counts(x[:, j]) for j in found.directions["identity"]]
    assert (found.above["identity"][:, 1, 3] >= 1).all()  # a neuron is high on its own examples
    assert found.above["features"][0, 1, 6] == 0  # a dense direction has no such neuron
    centred = x - x.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:4]
    for place in range(4):
        either = [counts(centred @ (sign * axes[place])) for sign in (1, -1)]
        assert found.above["pca"][place].tolist() in either
    assert [len(row) for row in found.table().rows] == [8] * (4 * 3 * 11)
    found.save(tmp_path / "saved")


def test_curves_choose_the_features_that_another_seed_has_too(tmp_path: Path) -> None:
    store, model = token_store(tmp_path, [60, 40, 80, 7], context=16), cast(LanguageModel, TableModel())
    members = [whole_number_dictionary(8, seed) for seed in (0, 1)]
    chosen = {}
    for name, several in (("mcs", members), ("density", members[:1])):
        path = grid(tmp_path / name, several)
        index = features(path, member=0, model=model, tokens=store, out=tmp_path / f"features-{name}")
        lab = Lab.open(path, member=0, model=model, tokens=store, index=index)
        chosen[name] = neuron_curves(lab, controls=["identity"], examples=1).directions["features"]
        alive = [row for row in index.table() if not row["dead"]]
        key = "mcs_other_seed" if name == "mcs" else "density"
        assert chosen[name] == [row["id"] for row in sorted(alive, key=lambda row: -row[key])]
    assert chosen["mcs"] != chosen["density"]
    with pytest.raises(UsageError, match="must be of identity"):
        neuron_curves(lab, controls=["neurons"])
    with pytest.raises(UsageError, match="needs their index"):
        neuron_curves(Lab(model, members[0], SITE, store))
    nobody = neuron_curves(lab, [0], controls=[])
    assert nobody.directions == {"features": []}
    nobody.save(tmp_path / "saved")

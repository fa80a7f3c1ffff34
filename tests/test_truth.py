"""Scores against a known truth, by brute force and for dictionaries whose scores are closed forms."""

from __future__ import annotations

import json
import math

import pytest
import torch

from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.baselines import LinearDictionary
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics import truth
from monosemy.metrics.recovery import mcs
from monosemy.metrics.truth import recovery_by_frequency, truth_scores
from monosemy.runtime import UsageError

G, D = 12, 16


class Exact(Dictionary):
    """The least-squares codes on some directions, times a factor; what is below 1e-3 is rounding, and is 0."""

    name = "exact"

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        codes_BN = x_BD @ self.tensors["W_enc"].T
        return torch.where(codes_BN.abs() > 1e-3, codes_BN, 0.0)


@pytest.fixture(scope="module")
def world() -> World:
    """Fewer features than coordinates, so that the codes can be read off; magnitudes well above 0."""
    return World(WorldSettings(d_in=D, features=G, l0=3, decay=0.9, magnitude="log-normal"))


def perfect(world: World) -> Dictionary:
    return Exact({"W_enc": torch.linalg.pinv(world.features_GD).T, "W_dec": world.features_GD})


def of_rows(dictionary: Dictionary, index: torch.Tensor) -> Dictionary:
    return Exact({name: tensor[index] for name, tensor in dictionary.tensors.items()})


PERFECT = {
    "mmcs_truth": 1, "recovered": 1, "uniqueness": 1, "redundancy": 1, "mcc_truth": 1, "mcc_gap": 0,
    "exclusive_mmcs": 1, "precision": 1, "recall": 1, "f1": 1, "code_slope": 1, "rows": 1000, "alive": G,
    "silent": 0, "unmatched": 0,
}  # fmt: skip


def check(dictionary: Dictionary, world: World, **different: float | None) -> None:
    """Scores are those of the perfect dictionary but for these."""
    found = truth_scores(dictionary, world, rows=1000).scores
    assert json.loads(json.dumps(found)) == found
    assert found == {
        name: value if value is None else pytest.approx(value, abs=1e-5)
        for name, value in {**PERFECT, **different}.items()
    }


def test_a_perfect_dictionary_has_all_scores_1(world: World) -> None:
    check(perfect(world), world)
    arrays = truth_scores(perfect(world), world, rows=1000).arrays
    for name in ("mcs", "matched_cosine", "precision", "recall", "f1", "slope"):
        torch.testing.assert_close(arrays[name], torch.ones(G, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(arrays["probability"], world.probabilities_G.double())


def test_the_order_of_features_and_the_scale_of_directions_do_not_count(world: World) -> None:
    shuffled = of_rows(perfect(world), torch.randperm(G))
    check(shuffled, world)
    tensors = shuffled.tensors
    check(Exact({"W_enc": tensors["W_enc"] / 3, "W_dec": tensors["W_dec"] * 3}), world)


def test_copies(world: World) -> None:
    twice = of_rows(perfect(world), torch.arange(G).repeat(2))
    check(twice, world, uniqueness=1 / 2, redundancy=2, exclusive_mmcs=1 / 2, alive=2 * G)


def test_shrinkage(world: World) -> None:
    tensors = perfect(world).tensors
    check(Exact({"W_enc": tensors["W_enc"] / 2, "W_dec": tensors["W_dec"]}), world, code_slope=1 / 2)


def test_missing_features(world: World) -> None:
    """Half of the true features; the MCS of the others is what their nearest relative gives."""
    half = of_rows(perfect(world), torch.arange(G // 2))
    mcs_G = mcs(world.features_GD, world.features_GD[: G // 2])
    assert float(mcs_G[G // 2 :].max()) < 0.9
    different = {"recovered": 1 / 2, "exclusive_mmcs": 1 / 2, "mmcs_truth": float(mcs_G.mean()), "alive": G // 2}
    check(half, world, **different, unmatched=G // 2)
    arrays = truth_scores(half, world, rows=1000).arrays
    assert arrays["f1"].isnan().tolist() == [False] * (G // 2) + [True] * (G // 2)


def test_dead_features_are_no_extras_and_do_not_crash(world: World) -> None:
    tensors = {name: torch.cat([tensor, torch.zeros(5, D)]) for name, tensor in perfect(world).tensors.items()}
    check(Exact(tensors), world, uniqueness=G / (G + 5))  # their nearest true feature is the first, as all are at 0
    nothing = Exact({name: torch.zeros(3, D) for name in ("W_enc", "W_dec")})
    scores = truth_scores(nothing, world, rows=1000).scores
    assert scores["exclusive_mmcs"] == scores["mmcs_truth"] == scores["alive"] == scores["f1"] == 0
    assert scores["precision"] == 0
    assert scores["redundancy"] is scores["code_slope"] is None


def test_true_features_that_never_fire_are_left_out_and_counted(world: World) -> None:
    """One row of a world in which little fires: most true features are silent and left out of the means."""
    found = truth_scores(perfect(world), world, rows=1)
    fires_G = world.sample(1).codes_XG()[0] > 0
    assert found.scores["silent"] == int((~fires_G).sum()) > 0
    assert found.scores["f1"] == 1
    assert torch.equal(found.arrays["recall"].isnan(), ~fires_G)
    assert torch.equal(found.arrays["slope"].isnan(), ~fires_G)


@pytest.mark.parametrize("signed", [False, True])
def test_firing_and_slope_equal_brute_force(signed: bool, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad dictionary, in batches that do not divide the rows; signed codes fire where they are not 0."""
    monkeypatch.setattr(truth, "BATCH", 64)
    g = torch.Generator().manual_seed(2)
    W_ND = world.features_GD.repeat(2, 1) + 0.15 * torch.randn(2 * G, D, generator=g)
    W_ND *= torch.linspace(0.5, 2, 2 * G)[:, None]
    if signed:
        dictionary: Dictionary = LinearDictionary({"W_dec": W_ND, "b_dec": torch.zeros(D)})
    else:
        b_N = -0.3 * torch.rand(2 * G, generator=g)
        dictionary = ReluDictionary({"W_enc": W_ND, "b_enc": b_N, "W_dec": W_ND})
    found = truth_scores(dictionary, world, rows=300)
    sample = world.sample(300)
    true_XG, codes_XN = sample.codes_XG().double(), dictionary.encode(sample.x_XD).double()
    matched = truth.one_to_one(world.features_GD, W_ND)
    slope_parts = []
    for feature, column, cosine in zip(matched.rows_P, matched.columns_P, matched.cosines_P, strict=True):
        t_X, c_X = true_XG[:, feature], codes_XN[:, column]
        both, true, learned = (float(mask.sum()) for mask in ((t_X > 0) & (c_X != 0), t_X > 0, c_X != 0))
        arrays = {name: float(values[feature]) for name, values in found.arrays.items()}
        length = float(W_ND[column].double().norm())
        assert arrays["precision"] == pytest.approx(both / learned)
        assert arrays["recall"] == pytest.approx(both / true)
        assert arrays["f1"] == pytest.approx(2 / (learned / both + true / both))
        assert arrays["slope"] == pytest.approx(float(c_X @ t_X / (t_X @ t_X)) * length)
        assert arrays["matched_cosine"] == pytest.approx(float(cosine))
        if cosine > 0.9:
            slope_parts.append((float(c_X @ t_X) * length, float(t_X @ t_X)))
    assert 0 < len(slope_parts) < G
    top, bottom = (sum(part) for part in zip(*slope_parts, strict=True))
    assert found.scores["code_slope"] == pytest.approx(top / bottom)
    for name in ("precision", "recall", "f1"):
        assert found.scores[name] == pytest.approx(float(found.arrays[name].mean()))
    assert found.scores["precision"] < 0.9  # there are wrong firings to count
    assert found.scores["alive"] == int((codes_XN != 0).any(0).sum())


def test_recovery_by_frequency_goes_from_the_rarest() -> None:
    mcs_G = torch.tensor([0.9, 0.1, 0.5, 0.2, 1.0, 0.4])
    probability_G = torch.tensor([0.5, 0.01, 0.3, 0.02, 0.6, 0.2])
    assert recovery_by_frequency(mcs_G, probability_G, 3) == pytest.approx([0.15, 0.45, 0.95])
    assert recovery_by_frequency(mcs_G, probability_G, 1) == pytest.approx([float(mcs_G.mean())])
    assert not any(math.isnan(value) for value in recovery_by_frequency(mcs_G, probability_G))
    with pytest.raises(UsageError, match="bins"):
        recovery_by_frequency(mcs_G, probability_G, 7)


def test_no_rows(world: World) -> None:
    with pytest.raises(UsageError, match="rows"):
        truth_scores(perfect(world), world, rows=0)

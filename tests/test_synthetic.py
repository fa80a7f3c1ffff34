"""Synthetic worlds: every law against a closed form, with stated power; streams, files and refusals.

Seeds are fixed. A test of a law gives a false alarm with probability below 1e-6 over all that it compares (Bonferroni),
and asserts that it would find the error it is meant to find with probability above 0.99.
"""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import dblquad

from monosemy.data import activations, correlation
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.data.firing import independent, rescaled
from monosemy.data.hierarchy import Hierarchy, uniform_at
from monosemy.data.synthetic import BLOCK_ROWS, GROUP_ROWS, World, WorldSettings
from monosemy.runtime import UsageError

ALARM = 1e-6
SMALL = WorldSettings(d_in=6, features=24, l0=4.0, decay=0.95)
RARE = WorldSettings(d_in=6, features=64, l0=2.0, decay=1.0, rank=2)  # p = 1/32, so that thinning has work to do
N = 98 * BLOCK_ROWS  # 401,408 rows


def limit(comparisons: int) -> float:
    """Two-sided: none of this many standard normal numbers passes it, but with probability ALARM."""
    return float(stats.norm.isf(ALARM / 2 / comparisons))


def assert_found(shift: np.ndarray | float, comparisons: int) -> None:
    """An error that moves a z-score by this much is found with probability above 0.99."""
    assert stats.norm.cdf(np.min(shift) - limit(comparisons)) > 0.99


def codes_of(world: World, rows: int = N, stream: str = "test") -> np.ndarray:
    """Which features fire, bool [rows, G]."""
    sample = world.sample(rows, stream=stream)
    fires_XG = np.zeros((rows, world.settings.features), dtype=bool)
    fires_XG[sample.row_P.numpy(), sample.feature_P.numpy()] = True
    return fires_XG


def z_of(values_XE: np.ndarray, expected_E: np.ndarray | float) -> np.ndarray:
    """How many standard errors the means over rows are from what is expected."""
    return (values_XE.mean(0) - expected_E) / (values_XE.std(0) / len(values_XE) ** 0.5)


def correlation_of(world: World) -> np.ndarray:
    assert world._correlation is not None
    factor = world._correlation.factor.astype(np.float64)
    matrix = factor @ factor.T
    if world.settings.rank:
        np.fill_diagonal(matrix, 1.0)
    return matrix


def both_fire(p_E: np.ndarray, q_E: np.ndarray, rho_E: np.ndarray) -> np.ndarray:
    """P(z₁ < Φ⁻¹(p), z₂ < Φ⁻¹(q)) by Plackett's integral p·q + ∫₀^ρ φ₂ dr, Gauss-Legendre in arcsin r."""
    node, weight = np.polynomial.legendre.leggauss(40)
    top = np.arcsin(rho_E)[:, None]
    angle = top * (node + 1) / 2
    s, t = stats.norm.ppf(p_E)[:, None], stats.norm.ppf(q_E)[:, None]
    density = np.exp(-(s**2 - 2 * s * t * np.sin(angle) + t**2) / (2 * np.cos(angle) ** 2)) / (2 * np.pi)
    return p_E * q_E + (density * weight * top / 2).sum(1)


# ----------------------------------------------------------------------------------------- probabilities


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("l0", [0.01, 3.0, 20.0, 39.5])
def test_rescaling_is_the_clipped_solution(decay: float, l0: float) -> None:
    """Against bisection for s in Σ min(1, s·w)·cost = l0."""
    weight = np.stack([decay ** np.arange(40.0), np.random.default_rng(0).random(40) * decay ** np.arange(40.0)])
    cost = np.linspace(1, 1.5, 40)
    found = rescaled(weight, l0, cost)
    np.testing.assert_allclose(found @ cost, l0, atol=1e-9)
    for w, p in zip(weight, found, strict=True):
        low, high = 0.0, 1e15
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.minimum(1, middle * w) @ cost < l0 else (low, middle)
        np.testing.assert_allclose(p, np.minimum(1, low * w), atol=1e-9)
    assert found.max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"l0": 20.0, "decay": 0.5},  # most are clipped
        {"l0": 24.0},
        {"zipf": 1.5, "l0": 6.0},
        {"correlation": "batch"},
        {"correlation": "batch", "decay": 0.7, "l0": 9.0},
        {"hierarchy": Hierarchy(depth=2, branching=3, share=0.3)},
        {"hierarchy": Hierarchy(depth=2, branching=3, share=0.9, exclusive=False), "l0": 12.0, "decay": 0.5},
    ],
)
def test_probabilities_sum_to_l0_and_rows_have_it(changes: dict[str, Any]) -> None:
    world = World(replace(SMALL, **changes))
    probability_G = world.probabilities_G.numpy()
    assert abs(probability_G.sum() - world.settings.l0) < 1e-6
    assert probability_G.min() >= 0
    assert probability_G.max() <= 1
    count_X = codes_of(world, N // 4).sum(1).astype(float)
    if np.ptp(count_X) == 0:
        assert count_X[0] == world.settings.l0 == world.settings.features
        return
    unit = count_X.reshape(-1, GROUP_ROWS).mean(1)  # the rows of a group are not independent in mode "batch"
    assert abs(z_of(unit, world.settings.l0)) < limit(1)
    assert_found(0.05 * world.settings.l0 / (unit.std() / len(unit) ** 0.5), 1)


def test_decay_and_zipf_are_the_ratios_of_probabilities() -> None:
    world = World(WorldSettings(d_in=4, features=50, l0=2.0, decay=0.97, zipf=0.7, correlation="none"))
    weight = 0.97 ** np.arange(50) * np.arange(1, 51) ** -0.7
    np.testing.assert_allclose(world.probabilities_G.numpy(), 2.0 * weight / weight.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        replace(SMALL, correlation="none"),
        SMALL,
        replace(SMALL, rank=3),
        replace(SMALL, rank=3, strength=0.3, l0=10.0, decay=0.9),
        replace(SMALL, l0=14.0, zipf=0.5),
        replace(RARE, features=24, l0=1.4, zipf=0.0),
        replace(SMALL, hierarchy=Hierarchy(depth=1, branching=3, share=0.33)),
        replace(SMALL, l0=9.0, hierarchy=Hierarchy(depth=2, branching=2, share=0.6, exclusive=False)),
    ],
)
def test_each_feature_fires_at_its_rate(settings: WorldSettings) -> None:
    world = World(settings)
    p = world.probabilities_G.numpy()
    rate = codes_of(world).mean(0)
    assert np.array_equal(rate[p == 1], np.ones((p == 1).sum()))
    p, rate = p[p < 1], rate[p < 1]
    error = np.sqrt(p * (1 - p) / N)
    assert np.abs((rate - p) / error).max() < limit(len(p))
    relative = np.where(p > 0.075, 0.05, 0.1)  # the errors that are found, in all rates above 0.02
    assert_found((relative * p / error)[p > 0.02], len(p))


def test_independent_draws_are_bernoulli_at_any_probability() -> None:
    """Every one of 2⁴ patterns of four features, in two groups of rows, at its product of probabilities."""
    p_SR = np.array([[0.0, 0.03, 0.45, 0.9], [1.0, 0.5, 0.51, 0.2]])
    rows = 200_000
    key_P = independent(p_SR, rows, np.random.Generator(np.random.SFC64(1)))
    assert (np.diff(key_P) > 0).all()
    fires_XR = np.zeros(2 * rows * 4, dtype=bool)
    fires_XR[key_P] = True
    for fires, p in zip(fires_XR.reshape(2, rows, 4), p_SR, strict=True):
        count = np.bincount(fires @ np.array([1, 2, 4, 8]), minlength=16)
        bits = (np.arange(16)[:, None] >> np.arange(4)) & 1
        expected = np.where(bits, p, 1 - p).prod(1)
        assert (count[expected == 0] == 0).all()
        some = expected > 0
        assert stats.chisquare(count[some], rows * expected[some]).pvalue > ALARM / 2


# ------------------------------------------------------------------------------------------- correlation


def test_the_oracle_of_pairs_is_the_bivariate_normal() -> None:
    for p, q, rho in [(0.03, 0.2, 0.5), (0.4, 0.01, -0.9), (0.3, 0.3, 0.0)]:
        s, t = stats.norm.ppf([p, q])
        truth = stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([s, t])
        assert abs(both_fire(np.array([p]), np.array([q]), np.array([rho]))[0] - truth) < 1e-7


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, strength=0.4), replace(SMALL, rank=2), RARE])
def test_pairs_fire_together_as_the_copula_says(settings: WorldSettings) -> None:
    world, fires_XG = World(settings), codes_of(World(settings)).astype(np.float32)
    p, c = world.probabilities_G.numpy(), correlation_of(world)
    np.testing.assert_allclose(np.diagonal(c), 1.0, atol=1e-6)
    i, j = np.triu_indices(len(p), 1)
    expected = both_fire(p[i], p[j], c[i, j])
    together = (fires_XG.T @ fires_XG)[i, j].astype(np.float64) / N
    error = np.sqrt(expected * (1 - expected) / N)
    often = expected * N > 100  # where the normal law holds for a count
    assert np.abs((together - expected) / error)[often].max() < limit(often.sum())
    assert stats.poisson.cdf(together[~often] * N, expected[~often] * N).min(initial=1) > ALARM
    assert stats.poisson.sf(together[~often] * N - 1, expected[~often] * N).min(initial=1) > ALARM
    # power: strong pairs are told from independent ones, and from those of half the correlation
    strong = np.abs(c[i, j]) > np.quantile(np.abs(c[i, j]), 0.8)
    weaker = both_fire(p[i], p[j], c[i, j] / 2)
    assert_found(np.median(np.abs(expected - weaker)[strong] / error[strong]), len(i))


def test_a_low_rank_copula_is_the_full_rank_one_of_the_same_matrix() -> None:
    """Thinning against brute force: the number of firings in a row has the same law, in every tail."""
    low = World(replace(RARE, strength=1.0, l0=3.0, zipf=0.4))
    full = World(replace(low.settings, rank=0), correlation_GG=correlation_of(low))
    assert np.array_equal(low.probabilities_G, full.probabilities_G)
    top = 14
    counts = [np.bincount(np.minimum(codes_of(w, N // 2).sum(1), top), minlength=top + 1) for w in (low, full)]
    assert min(counts[0].min(), counts[1].min()) > 20
    assert stats.chi2_contingency(np.stack(counts)).pvalue > ALARM
    independent_rows = codes_of(World(replace(low.settings, correlation="none")), N // 2).sum(1)
    other = np.bincount(np.minimum(independent_rows, top), minlength=top + 1)
    assert stats.chi2_contingency(np.stack([counts[0], other])).pvalue < 1e-100


def test_thinning_is_exact_whatever_the_rate_of_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hardly any candidates beyond the rate itself, nearly all is drawn entry by entry; the law is the same."""
    world = World(RARE)
    counts = [np.bincount(np.minimum(codes_of(world, N // 4).sum(1), 12), minlength=13)]
    monkeypatch.setattr(correlation, "THINNING", 1.5)
    counts.append(np.bincount(np.minimum(codes_of(world, N // 4, "other").sum(1), 12), minlength=13))
    assert stats.chi2_contingency(np.stack(counts)).pvalue > ALARM


def test_random_correlations_have_the_stated_size_and_strength_scales_them() -> None:
    full = correlation_of(World(replace(SMALL, features=400)))
    low = correlation_of(World(replace(SMALL, features=400, rank=4)))
    off = ~np.eye(400, dtype=bool)
    assert full[off].std() == pytest.approx(400**-0.5, rel=0.05)
    assert low[off].std() == pytest.approx(0.5 * 4**-0.5, rel=0.05)
    for rank, whole in ((0, full), (4, low)):
        half = correlation_of(World(replace(SMALL, features=400, rank=rank, strength=0.5)))
        np.testing.assert_allclose(half[off], whole[off] / 2, atol=2e-6)
        assert np.linalg.eigvalsh(half).min() > 0


def test_batch_mode_is_independent_within_a_group_and_varies_between_groups() -> None:
    rho = np.array([[1, 0.9, -0.9], [0.9, 1, -0.8], [-0.9, -0.8, 1.0]])
    world = World(WorldSettings(d_in=3, features=3, l0=1.0, decay=1.0, correlation="batch"), correlation_GG=rho)
    fires_SXG = codes_of(world).reshape(-1, GROUP_ROWS, 3).astype(np.float64)
    rate_SG = fires_SXG.mean(1)
    within_SG = [((fires_SXG[:, :, i] - rate_SG[:, None, i]) * fires_SXG[:, :, j]).sum(1) / 255 for i, j in PAIRS]
    z = z_of(np.stack(within_SG, 1), 0.0)
    assert np.abs(z).max() < limit(3)
    between = np.corrcoef(rate_SG.T)
    assert between[0, 1] > 0.3
    assert between[0, 2] < -0.5
    binomial = np.sqrt(rate_SG.mean(0) * (1 - rate_SG.mean(0)) / GROUP_ROWS)
    assert (rate_SG.std(0) > 4 * binomial).all()  # the probabilities themselves vary
    halves = fires_SXG.reshape(-1, 2, GROUP_ROWS // 2, 3).mean(2)
    assert np.corrcoef(halves[:, 0, 0], halves[:, 1, 0])[0, 1] > 0.9  # …and are the same throughout a group
    assert abs(np.corrcoef(rate_SG[1:, 0], rate_SG[:-1, 0])[0, 1]) < limit(1) / len(rate_SG) ** 0.5


PAIRS = list(combinations(range(3), 2))


def test_batch_mode_has_the_mean_probabilities_it_states() -> None:
    """Against the double integral, and against the rates over groups; an error of 13 % would be found."""
    settings = WorldSettings(d_in=2, features=2, l0=0.5, decay=0.5, correlation="batch")
    rho = 0.6
    world = World(settings, correlation_GG=np.array([[1, rho], [rho, 1]]))

    def integrand(b: float, a: float) -> float:
        first, second = stats.norm.cdf(a), 0.5 * stats.norm.cdf(rho * a + (1 - rho**2) ** 0.5 * b)
        return float(0.5 * first / (first + second) * np.exp(-(a**2 + b**2) / 2) / (2 * np.pi))

    truth = dblquad(integrand, -7, 7, -7, 7, epsabs=1e-5)[0]
    assert float(world.probabilities_G[0]) == pytest.approx(truth, rel=0.01)
    world = World(replace(SMALL, correlation="batch"))
    rate_SG = codes_of(world).reshape(-1, GROUP_ROWS, 24).mean(1)
    p = world.probabilities_G.numpy()
    assert np.abs(z_of(rate_SG, p)).max() < limit(24)
    assert_found(0.13 * p / (rate_SG.std(0) / len(rate_SG) ** 0.5), 24)


# -------------------------------------------------------------------------------------- codes and rows


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("uniform", stats.uniform()),
        ("exponential", stats.expon()),
        ("folded-normal", stats.halfnorm()),
        ("log-normal", stats.lognorm(0.25)),
    ],
)
def test_magnitudes_follow_their_law(name: Any, law: Any) -> None:
    value_P = World(replace(SMALL, magnitude=name)).sample(25 * BLOCK_ROWS).value_P.double().numpy()
    assert value_P.min() > 0
    assert stats.kstest(value_P, law.cdf).pvalue > ALARM
    assert stats.kstest(value_P * 1.03, law.cdf).pvalue < ALARM  # a scale wrong by 3 % is found
    assert abs(z_of(value_P, law.mean())) < limit(2)
    assert abs(z_of((value_P - law.mean()) ** 2, law.var())) < limit(2)


def test_constant_magnitudes_are_one() -> None:
    assert World(replace(SMALL, magnitude="constant")).sample(5000).value_P.unique().tolist() == [1.0]


def test_magnitudes_of_a_row_are_independent() -> None:
    """Neighbouring rows and features give unrelated hashes."""
    row, feature = np.divmod(np.arange(400_000), 400)
    u = uniform_at(12345, row, feature).reshape(1000, 400) - 0.5
    for other in (
        np.roll(u, 1, 0),
        np.roll(u, 1, 1),
        u.T[:400, :400],
        uniform_at(12346, row, feature).reshape(u.shape),
    ):
        mine = u[: len(other), : other.shape[1]] if other.shape != u.shape else u
        keep = ~np.eye(*other.shape, dtype=bool) if other.shape[0] == other.shape[1] else np.ones(other.shape, bool)
        r = (mine * other)[keep].mean() * 12
        assert abs(r) < limit(4) / keep.sum() ** 0.5 * 1.5  # a symmetric matrix counts each pair twice
    assert stats.kstest(u.ravel() + 0.5, stats.uniform().cdf).pvalue > ALARM


def test_rows_are_the_codes_times_the_features() -> None:
    world = World(WorldSettings(features=300, d_in=64))
    sample = world.sample(5000, start=3000)
    order = sample.row_P * 300 + sample.feature_P
    assert (order.diff() > 0).all()  # sorted, nothing twice
    torch.testing.assert_close(sample.x_XD, sample.codes_XG() @ world.features_GD, atol=1e-5, rtol=0)
    assert sample.target_XD is sample.x_XD
    torch.testing.assert_close(world.features_GD.norm(dim=1), torch.ones(300), atol=1e-6, rtol=0)


def test_norms_are_those_of_the_parameters() -> None:
    """E‖x‖² = Σ p_i E m² + Σ_{i≠j} p_i p_j (E m)² F_i·F_j + D·noise² where firings are independent."""
    world = World(WorldSettings(d_in=16, features=64, l0=4.0, correlation="none", noise=0.05))
    p, cosine_GG = world.probabilities_G, (world.features_GD @ world.features_GD.T).double()
    together_GG = torch.outer(p, p) * cosine_GG / 4
    square = float(p.sum() / 3 + together_GG.sum() - together_GG.diagonal().sum() + 16 * 0.05**2)
    statistics = world.statistics()
    x_XD = next(world._samples("statistics", 0, statistics.count)).x_XD.double()
    assert statistics.mean_square_norm == pytest.approx(float(x_XD.square().sum(1).mean()), rel=1e-9)
    assert abs(z_of(x_XD.square().sum(1).numpy(), square)) < limit(1)
    mean_D = (p[:, None] / 2 * world.features_GD.double()).sum(0)
    assert np.abs(z_of(x_XD.numpy(), mean_D.numpy())).max() < limit(16)
    assert world.statistics() is statistics


def test_rows_without_a_firing_stay() -> None:
    world = World(WorldSettings(d_in=8, features=32, l0=0.1, correlation="none"))
    sample = world.sample(N // 4)
    zero_X = (sample.x_XD == 0).all(1).double().numpy()
    assert abs(z_of(zero_X, float((1 - world.probabilities_G).prod()))) < limit(1)
    assert (np.bincount(sample.row_P, minlength=len(zero_X)) == 0).mean() == zero_X.mean() > 0.85


def test_positive_features_have_no_negative_coordinate() -> None:
    world = World(replace(SMALL, positive=True))
    assert (world.features_GD >= 0).all()
    assert (world.sample(1000).x_XD >= 0).all()
    torch.testing.assert_close(world.features_GD.norm(dim=1), torch.ones(24), atol=1e-6, rtol=0)


def test_directions_are_gaussian() -> None:
    """Cosines of random directions: mean square 1/D, and every coordinate centred."""
    f = World(WorldSettings(d_in=64, features=2000, correlation="none")).features_GD.double()
    cosine = (f @ f.T)[*np.triu_indices(2000, 1)]
    assert float(cosine.square().mean()) == pytest.approx(1 / 64, rel=0.01)
    assert np.abs(z_of(f.numpy(), 0.0)).max() < limit(64)


@pytest.mark.parametrize("on", ["input", "both"])
def test_noise_is_on_the_input_or_on_both(on: Any) -> None:
    clean, world = World(SMALL), World(replace(SMALL, noise=0.2, noise_on=on))
    quiet, noisy = clean.sample(20_000), world.sample(20_000)
    assert torch.equal(quiet.codes_XG(), noisy.codes_XG())
    noise = (noisy.x_XD - quiet.x_XD).double().numpy().ravel()
    assert stats.kstest(noise, stats.norm(0, 0.2).cdf).pvalue > ALARM
    assert_found(0.05 * (2 * len(noise)) ** 0.5, 1)  # 5 % of the standard deviation
    assert abs(z_of(noise**2, 0.04)) < limit(1)
    assert world.paired == (on == "input")
    assert torch.equal(noisy.target_XD, quiet.x_XD if on == "input" else noisy.x_XD)
    x_BD, target_BD = next(world.pairs(64, 0))
    assert torch.equal(x_BD, next(world.batches(64, 0)))
    assert torch.equal(target_BD, next(clean.batches(64, 0)) if on == "input" else x_BD)


def test_jitter_turns_each_firing_by_itself() -> None:
    settings = WorldSettings(d_in=64, features=32, l0=0.3, correlation="none", jitter=0.5)
    world = World(settings)
    sample = world.sample(20_000)
    alone_X = np.flatnonzero(np.bincount(sample.row_P, minlength=20_000) == 1)
    one = np.isin(sample.row_P.numpy(), alone_X)
    unit_XD = sample.x_XD[alone_X] / sample.value_P[one][:, None]
    torch.testing.assert_close(unit_XD.norm(dim=1), torch.ones(len(alone_X)), atol=1e-5, rtol=0)
    truth_XD = world.features_GD[sample.feature_P[one]]
    turned = truth_XD + 0.5 * torch.randn(truth_XD.shape, generator=torch.Generator().manual_seed(1)) / 8
    expected = torch.nn.functional.cosine_similarity(turned, truth_XD).numpy()
    assert stats.ks_2samp((unit_XD * truth_XD).sum(1).numpy(), expected).pvalue > ALARM
    assert len(unit_XD.unique(dim=0)) == len(unit_XD)
    assert torch.equal(world.features_GD, World(replace(settings, jitter=0.0)).features_GD)
    assert torch.equal(sample.codes_XG(), World(replace(settings, jitter=0.0)).sample(20_000).codes_XG())


# ------------------------------------------------------------------------------------------- hierarchy


def test_trees_are_numbered_level_by_level() -> None:
    tree = Hierarchy(depth=2, branching=2, share=0.25)
    assert tree.roots(14) == 2
    assert tree.parents(14).tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert tree.roots(11) == 2
    assert tree.parents(11).tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert tree.tree_sizes(14).tolist() == [1 + 2 / 4 + 4 / 16] * 2
    assert tree.tree_sizes(11).tolist() == [1 + 2 / 4 + 4 / 16, 1 + 2 / 4 + 1 / 16]
    assert tree.spread(np.array([0.8, 0.4]), 11).tolist() == pytest.approx(
        [0.8, 0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025]
    )
    assert Hierarchy().parents(3).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_children_fire_only_with_their_parent(exclusive: bool, scale: bool) -> None:
    tree = Hierarchy(depth=2, branching=3, share=0.3, exclusive=exclusive, scale_by_parent=scale)
    world = World(WorldSettings(d_in=8, features=50, l0=6.0, hierarchy=tree, rank=2))
    sample = world.sample(N // 8)
    value_XG, parent_G = sample.codes_XG(), tree.parents(50)
    fires_XG = (value_XG > 0).numpy()
    child_G = np.flatnonzero(parent_G >= 0)
    assert not (fires_XG[:, child_G] & ~fires_XG[:, parent_G[child_G]]).any()
    siblings = [(i, j) for i, j in combinations(child_G, 2) if parent_G[i] == parent_G[j]]
    for i, j in siblings:
        where = fires_XG[:, parent_G[i]]
        both = (fires_XG[where, i] & fires_XG[where, j]).mean()
        expected = 0.0 if exclusive else 0.09
        error = (0.09 * 0.91 / where.sum()) ** 0.5
        assert both == 0 if exclusive else abs(both - expected) < limit(2 * len(siblings)) * error
    child = value_XG[:, child_G][fires_XG[:, child_G]].double().numpy()
    parent = value_XG[:, parent_G[child_G]][fires_XG[:, child_G]].double().numpy()
    own = child / parent if scale else child
    assert stats.kstest(own, stats.uniform().cdf).pvalue > ALARM


# --------------------------------------------------------------------------------------------- streams


KINDS = {
    "independent": replace(SMALL, correlation="none"),
    "full rank": SMALL,
    "low rank": replace(RARE, noise=0.1),
    "batch": replace(SMALL, correlation="batch", noise=0.1, noise_on="input"),
    "trees, jitter": replace(SMALL, hierarchy=Hierarchy(depth=1), jitter=0.2, rank=1),
}


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_row_depends_on_its_number_alone(settings: WorldSettings) -> None:
    world, again = World(settings), World(settings)
    stream = world.batches(700, seed=3)
    whole_XD = torch.cat([next(stream) for _ in range(20)])
    assert whole_XD.shape == (14_000, 6)
    assert torch.equal(whole_XD[7000:7500], next(again.batches(500, 3, start=14)))
    assert torch.equal(whole_XD[5000:10_000], next(again.batches(5000, 3, start=1)))
    sample = again.sample(9000, start=1000, stream="train 3")
    assert torch.equal(whole_XD[1000:10_000], sample.x_XD)
    cut = again.sample(4000, start=4000, stream="train 3")
    assert torch.equal(sample.codes_XG()[3000:7000], cut.codes_XG())
    assert torch.equal(sample.target_XD[3000:7000], cut.target_XD)


def test_streams_share_no_row() -> None:
    world = World(SMALL)
    streams = [next(world.batches(3000, 0)), next(world.batches(3000, 1)), world.sample(3000).x_XD]
    streams += [next(World(replace(SMALL, seed=1)).batches(3000, 0))]
    rows_XD = torch.cat([x_XD[(x_XD != 0).any(1)] for x_XD in streams])
    assert len(rows_XD.unique(dim=0)) == len(rows_XD)


def test_the_number_of_threads_changes_nothing() -> None:
    threads, samples = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            samples.append(World(replace(RARE, features=700, jitter=0.1)).sample(6000))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(samples[0].codes_XG(), samples[1].codes_XG())
    torch.testing.assert_close(samples[0].x_XD, samples[1].x_XD)


def test_a_hundred_thousand_features_are_cheap() -> None:
    world = World(WorldSettings(d_in=8, features=100_000, l0=10.0, decay=1.0, zipf=0.6, rank=4))
    sample = world.sample(BLOCK_ROWS)
    per_row = np.bincount(sample.row_P, minlength=BLOCK_ROWS).astype(float)
    assert abs(z_of(per_row, 10.0)) < limit(1)


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_a_saved_world_gives_the_same_rows(tmp_path: Path, settings: WorldSettings) -> None:
    world = World(settings)
    assert world.artifact is None
    saved = world.save(tmp_path / "world")
    opened = World.open(tmp_path / "world")
    assert World.open(opened) is opened
    for other in (saved, opened, World(settings).save(tmp_path / "world")):
        assert other.artifact is not None
        assert other.artifact.kind == "world"
        assert other.settings == settings
        assert torch.equal(other.features_GD, world.features_GD)
        assert torch.equal(other.probabilities_G, world.probabilities_G)
        assert torch.equal(other.sample(5000).x_XD, world.sample(5000).x_XD)
    with pytest.raises(UsageError, match="seed"):
        World(replace(settings, seed=9)).save(tmp_path / "world")


def test_a_given_correlation_is_saved(tmp_path: Path) -> None:
    rho = np.full((24, 24), 0.5) + 0.5 * np.eye(24)
    world = World(SMALL, correlation_GG=torch.from_numpy(rho)).save(tmp_path / "world")
    opened = World.open(tmp_path / "world")
    np.testing.assert_allclose(correlation_of(opened), rho, atol=1e-6)
    assert torch.equal(opened.sample(100).x_XD, world.sample(100).x_XD)
    with pytest.raises(UsageError, match="correlation_given"):
        World(SMALL).save(tmp_path / "world")


def test_a_store_of_rows_knows_its_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "SHARD_BYTES", 1000 * 6 * 4)
    world = World(SMALL).save(tmp_path / "world")
    world.store(tmp_path / "rows", 10_000, holdout=0.2)
    store = ActivationStore.open(tmp_path / "rows")
    assert (store.n_rows, store.n_all, store.d_in, store.site) == (8000, 10_000, 6, "world")
    assert World.open(store.artifact.parent("world").path).settings == SMALL
    sample = world.sample(10_000, stream="store")
    rows = np.random.default_rng(0).permutation(10_000)
    assert torch.equal(store.take(rows), sample.x_XD[rows])
    assert store.offsets(rows).tolist() == rows.tolist()
    held_XD = torch.cat(list(store.held_out(512, 2000)))
    assert torch.equal(held_XD, sample.x_XD[8000:])


def test_a_killed_store_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "SHARD_BYTES", 1000 * 6 * 4)
    world, add, calls = World(SMALL).save(tmp_path / "world"), ActivationWriter.add, []

    def dying_add(self: ActivationWriter, x_XD: torch.Tensor, offset_X: torch.Tensor) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(x_XD))
        add(self, x_XD, offset_X)

    with monkeypatch.context() as patch:
        patch.setattr(ActivationWriter, "add", dying_add)
        with pytest.raises(KeyboardInterrupt):
            world.store(tmp_path / "rows", 20_000)
    whole, resumed = world.store(tmp_path / "whole", 20_000), world.store(tmp_path / "rows", 20_000)
    assert resumed.artifact.manifest["files"] == whole.artifact.manifest["files"]


# --------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"l0": 25.0}, "`l0`"),
        ({"l0": 0.0}, "`l0`"),
        ({"l0": float("nan")}, "`l0`"),
        ({"decay": 0.0}, "`decay`"),
        ({"decay": 1.01}, "`decay`"),
        ({"zipf": -1.0}, "`zipf`"),
        ({"noise": -0.1}, "`noise`"),
        ({"jitter": float("inf")}, "`jitter`"),
        ({"features": 0}, "`features`"),
        ({"d_in": 0}, "`d_in`"),
        ({"strength": 1.5}, "`strength`"),
        ({"rank": 25}, "`rank`"),
        ({"rank": -1}, "`rank`"),
        ({"correlation": "row"}, "`correlation`"),
        ({"magnitude": "normal"}, "`magnitude`"),  # could be negative
        ({"noise_on": "target"}, "`noise_on`"),
        ({"features": 2000, "decay": 0.01, "l0": 200.0}, "more than can fire"),  # 0.01**i leaves the numbers there are
        ({"hierarchy": Hierarchy(depth=1, branching=3, share=0.1), "l0": 10.0}, "more than can fire"),
        ({"features": 9000}, "set rank"),
    ],
)
def test_impossible_worlds_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        World(replace(SMALL, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"depth": -1}, "`depth`"),
        ({"branching": 0}, "`branching`"),
        ({"share": 1.2}, "`share`"),
        ({"depth": 1, "branching": 4, "share": 0.3}, "more than 1"),
    ],
)
def test_impossible_trees_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        Hierarchy(**changes)


def test_impossible_correlations_are_refused() -> None:
    settings, eye = replace(SMALL, features=3, l0=1.0), np.eye(3)
    indefinite = eye + 0.9 * np.array([[0, 1, -1], [1, 0, 1], [-1, 1, 0]])
    lopsided, wide, missing = eye.copy(), 2 * eye, eye.copy()
    lopsided[0, 1] = 0.3
    missing[0, 1] = missing[1, 0] = np.nan
    wrong = [(indefinite, "positive definite"), (lopsided, "symmetric"), (wide, "diagonal"), (missing, "finite")]
    for matrix, match in [*wrong, (np.eye(4), r"\(3, 3\)")]:
        with pytest.raises(UsageError, match=match):
            World(settings, correlation_GG=matrix)
    for changes in ({"correlation": "none"}, {"rank": 1}):
        with pytest.raises(UsageError, match="rank 0"):
            World(replace(settings, **changes), correlation_GG=eye)


def test_impossible_requests_are_refused(tmp_path: Path) -> None:
    world = World(SMALL)
    for arguments in ((0,), (5, -1)):
        with pytest.raises(UsageError, match="`count`"):
            world.sample(*arguments)
    with pytest.raises(UsageError, match="saved"):
        world.store(tmp_path / "rows", 100)
    saved = world.save(tmp_path / "world")
    for rows, holdout in ((0, 0.1), (100, 1.0), (100, -0.1)):
        with pytest.raises(UsageError, match="`rows`"):
            saved.store(tmp_path / "rows", rows, holdout)


def test_settings_have_names_of_their_own() -> None:
    """The command line drops the prefixes of nested settings."""
    names = [field.name for kind in (WorldSettings, Hierarchy) for field in fields(kind)]
    assert len(names) == len(set(names))
    assert len(fields(WorldSettings)) <= 15

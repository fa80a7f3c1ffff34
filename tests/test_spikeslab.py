"""Spike and slab: the bound against sampling, the posterior odds against enumeration, presence, export, calibration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.nn.functional import logsigmoid

from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.presence import LEAST_CURVE, log_odds, readout
from monosemy.dictionaries.spikeslab import ANNEAL, SpikeSlab, SpikeSlabDictionary
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, Workspace
from monosemy.metrics.calibration import calibration
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.training.sweep import fit

D, N, B, K = 6, 10, 30, 3
VARIANT = SpikeSlab()
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(B, D, generator=GENERATOR)


def params_of(members: int = 1) -> Params:
    """Uneven parameters: nothing is at a value where terms cancel."""
    params = VARIANT.init(Shape(members, D, N, B), list(range(members)), Centre(torch.full((D,), 0.1), torch.zeros(D)))
    generator = torch.Generator().manual_seed(7)
    for name in ("log_gain", "threshold", "log_slope", "shift", "curve", "b_enc"):
        params[name] += 0.3 * torch.randn(params[name].shape, generator=generator)
    params["rate"] *= torch.linspace(0.3, 3, N)
    return params


def member_of(params: Params, index: int) -> Params:
    return {name: tensor[index] for name, tensor in params.items()}


def hyper_at(progress: float) -> Hyper:
    return Hyper(torch.zeros(1), torch.tensor([K]), progress=progress)


def slab_of(params: Params) -> tuple[float, float]:
    rate, first, second = params["slab"][0].tolist()
    return first / rate, second / rate - (first / rate) ** 2


def test_the_closed_form_is_what_sampling_gives() -> None:
    """E‖x − x̂‖² from 20,000 draws of s and w, within 5 standard errors; KL from torch.distributions."""
    params = params_of()
    one = member_of(params, 0)
    noise, (mean, spread) = float(one["noise"]), slab_of(params)
    reconstruction, penalty = VARIANT.loss(one, X, hyper_at(1.0).member(0))
    z_BN = X @ one["W_enc"].T + one["b_enc"]
    gate_BN = torch.sigmoid(one["log_gain"].exp() * (z_BN - one["threshold"]))
    width = noise * spread / (noise + spread)
    draws = []
    for _ in range(20):
        size = (1000, B, N)
        w = z_BN + math.sqrt(width) * torch.randn(size, generator=GENERATOR)
        s = torch.rand(size, generator=GENERATOR) < gate_BN
        error = X - (s * w) @ one["W_dec"] - one["b_dec"]
        draws.append(error.square().sum(dim=2).mean(dim=1))
    found = torch.cat(draws)
    assert float(reconstruction) == pytest.approx(
        float(found.mean()), abs=5 * float(found.std()) / math.sqrt(len(found))
    )

    kl_s = kl_divergence(Bernoulli(gate_BN), Bernoulli(one["rate"].expand_as(gate_BN)))
    kl_w = kl_divergence(Normal(z_BN, math.sqrt(width)), Normal(mean, math.sqrt(spread)))
    kl = (kl_s + gate_BN * kl_w).sum(dim=1).mean()
    error_BD = (gate_BN * z_BN) @ one["W_dec"] + one["b_dec"] - X
    p_BN = gate_BN * z_BN - error_BD @ one["W_dec"].T
    evidence_on = Normal(mean, math.sqrt(spread + noise)).log_prob(p_BN) + one["rate"].log()
    evidence_off = Normal(0.0, math.sqrt(noise)).log_prob(p_BN) + (1 - one["rate"]).log()
    t_BN = torch.sigmoid(evidence_on - evidence_off)
    odds_BN = log_odds(z_BN, readout(one))
    entropy_BN = -(t_BN * logsigmoid(odds_BN) + (1 - t_BN) * logsigmoid(-odds_BN))
    entropy = entropy_BN.sum(dim=1).mean()
    torch.testing.assert_close(penalty, 2 * noise * (kl + entropy), rtol=1e-4, atol=1e-5)


def test_the_width_of_q_is_the_best_one() -> None:
    """σ² of the docstring minimises the bound's terms in σ²: 2s² · ½(σ²/τ² − log σ²) + σ²."""
    noise, spread = 0.3, 0.07
    sigma2 = torch.linspace(1e-3, 0.3, 100_000)
    best = sigma2[(noise * (sigma2 / spread - sigma2.log()) + sigma2).argmin()]
    assert float(best) == pytest.approx(noise * spread / (noise + spread), rel=1e-3)


def test_with_orthogonal_features_the_target_is_the_exact_posterior() -> None:
    """Features on the axes do not overlap: t must be P(s_n = 1 | x), here by enumerating all 2³ presences."""
    d = 3
    params = VARIANT.init(Shape(1, d, d, B), [0], None)
    params["W_dec"] = torch.eye(d)[None]
    params["rate"] = torch.tensor([[0.05, 0.2, 0.4]])
    params["noise"].fill_(0.02)
    mean, spread = slab_of(params)
    x_BD = 0.4 * torch.randn(B, d, generator=GENERATOR)
    weight_BN, total_B = torch.zeros(B, d), torch.zeros(B)
    for states in itertools.product((0, 1), repeat=d):
        s = torch.tensor(states, dtype=torch.float32)
        prior = (s * params["rate"][0] + (1 - s) * (1 - params["rate"][0])).prod()
        likelihood_B = Normal(s * mean, (0.02 + s * spread).sqrt()).log_prob(x_BD).sum(dim=1).exp()
        weight_BN += prior * likelihood_B[:, None] * s
        total_B += prior * likelihood_B
    exact_BN = weight_BN / total_B[:, None]
    # At presence ½ everywhere (shift = z: slope times 0) the gradient by shift is −slope (½ − t), row by row.
    for row in range(B):
        one = {**params, "W_enc": torch.zeros(1, d, d), "b_enc": params["shift"].clone()}
        work = Workspace.of(Shape(1, d, d, 1), {name: one[name] for name in one if name not in VARIANT.tracked})
        VARIANT.gradients(one, x_BD[row : row + 1], hyper_at(1.0), work)
        t_N = 0.5 + work.grads["shift"][0] / (params["log_slope"][0].exp() * 2 * 0.02)
        torch.testing.assert_close(t_N, exact_BN[row], rtol=1e-3, atol=1e-4)


def test_presence_rises_with_z_and_is_a_half_at_the_shift() -> None:
    readings = {
        "log_slope": torch.tensor([1.0, 2.0, 3.0]),
        "shift": torch.tensor([0.2, 0.0, -0.1]),
        "curve": torch.tensor([0.0, 0.05, 0.4]),
    }
    z_BN = torch.linspace(-3, 3, 1001)[:, None].expand(-1, 3)
    p_BN = torch.sigmoid(log_odds(z_BN, readout(readings)))
    assert (p_BN.diff(dim=0) >= 0).all()
    assert torch.equal(p_BN > 0.5, z_BN > readings["shift"])
    least = torch.sigmoid(-1 / (4 * readings["curve"].clamp_min(LEAST_CURVE)))
    torch.testing.assert_close(p_BN.amin(dim=0)[1:], least[1:])


@pytest.mark.parametrize(
    ("progress", "annealed", "settled"),
    [(0.0, 0.0, 0.0), (ANNEAL / 2, 0.5, 0.0), (0.75 * ANNEAL, 0.75, 0.5), (ANNEAL, 1.0, 1.0), (0.95, 1.0, 1.0)],
)
def test_annealing_goes_from_the_rows_variance_and_k_to_the_estimates(
    progress: float, annealed: float, settled: float
) -> None:
    """The penalty on the way is that of estimates which equal the values on the way. Presence is made flat, so that its
    cross-entropy is log 2 for any target: the target has the rate as it is."""
    params = params_of()
    one = {**member_of(params, 0), "log_slope": torch.full((N,), -100.0), "curve": torch.zeros(N)}
    start = float((X - one["b_dec"]).square().mean())
    noise = start ** (1 - annealed) * float(one["noise"]) ** annealed
    logit_N = torch.lerp(torch.full((N,), math.log(K / (N - K))), torch.logit(one["rate"]), settled)
    there = {**one, "noise": torch.tensor([noise]), "rate": torch.sigmoid(logit_N)}
    _, found = VARIANT.loss(one, X, hyper_at(progress).member(0))
    _, expected = VARIANT.loss(there, X, hyper_at(1.0).member(0))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_running_estimates_move_by_a_hundredth_to_those_of_the_batch() -> None:
    params = params_of(2)
    before = {name: params[name].clone() for name in VARIANT.tracked}
    work = Workspace.of(Shape(2, D, N, B), {name: each for name, each in params.items() if name not in before})
    hyper = Hyper(torch.zeros(2), torch.tensor([K, K]))
    statistics = VARIANT.gradients(params, X, hyper, work)
    VARIANT.track(params, statistics, hyper)
    for m in range(2):
        z_BN = X @ params["W_enc"][m].T + params["b_enc"][m]
        gate_BN = torch.sigmoid(params["log_gain"][m].exp() * (z_BN - params["threshold"][m]))
        rate, first, second = before["slab"][m].tolist()
        noise, spread = float(before["noise"][m]), second / rate - (first / rate) ** 2
        width = noise * spread / (noise + spread)
        sums = [gate_BN.mean(), (gate_BN * z_BN).mean(), (gate_BN * (z_BN.square() + width)).mean()]
        seen = {"rate": gate_BN.mean(dim=0), "slab": torch.stack(sums), "noise": statistics.reconstruction_M[m] / D}
        for name, value in seen.items():
            torch.testing.assert_close(params[name][m], 0.99 * before[name][m] + 0.01 * value, rtol=1e-4, atol=1e-6)


def test_export_changes_neither_presence_nor_what_is_reconstructed() -> None:
    params = member_of(params_of(), 0)
    scaling = Scaling(torch.logspace(-1, 1, D), torch.logspace(-1, 1, D))
    folded = VARIANT.export(params, hyper_at(1.0).member(0), scaling)
    plain = VARIANT.export(params, hyper_at(1.0).member(0), Scaling(torch.ones(D), torch.ones(D)))
    assert isinstance(folded, SpikeSlabDictionary)
    assert isinstance(plain, SpikeSlabDictionary)
    raw_BD = X / scaling.seen_D
    torch.testing.assert_close(folded.W_dec_ND.norm(dim=1), torch.ones(N))
    for name in ("presence", "gate"):
        torch.testing.assert_close(getattr(folded, name)(raw_BD), getattr(plain, name)(X), rtol=0, atol=1e-5)
    rebuilt_BD = plain.reconstruct(X) / scaling.target_E
    torch.testing.assert_close(folded.reconstruct(raw_BD), rebuilt_BD, rtol=1e-4, atol=1e-5)
    codes_BN, z_BN = folded.encode(raw_BD), folded.pre_activations(raw_BD)
    chosen_BN = (folded.gate(raw_BD) > 0.5) & (z_BN > 0)
    assert torch.equal(codes_BN > 0, chosen_BN)
    assert torch.equal(codes_BN[chosen_BN], z_BN[chosen_BN])
    assert 0 < int(chosen_BN.sum()) < chosen_BN.numel()


def test_revived_features_start_anew_and_others_stay() -> None:
    params, fresh = member_of(params_of(), 0), member_of(VARIANT.init(Shape(1, D, N, B), [0], None), 0)
    before, revived = {name: tensor.clone() for name, tensor in params.items()}, torch.tensor([2, 5])
    VARIANT.revive(params, revived)
    others = [n for n in range(N) if n not in (2, 5)]
    for name in ("log_gain", "threshold", "log_slope", "shift", "curve"):
        assert torch.equal(params[name][revived], fresh[name][revived])
        assert torch.equal(params[name][others], before[name][others])


@pytest.fixture(scope="module")
def learned() -> tuple[World, SpikeSlabDictionary]:
    world = World(WorldSettings(d_in=24, features=36, l0=2.0, decay=1.0))
    found = fit(world, variant="spikeslab", width=54, k=3, batch=256, steps=1800, lr=4e-3, device="cpu")
    assert isinstance(found, SpikeSlabDictionary)
    return world, found


def test_a_world_is_recovered_and_presence_is_calibrated_where_the_bound_is_over_confident(
    learned: tuple[World, SpikeSlabDictionary],
) -> None:
    world, found = learned
    assert mmcs_to_truth(world.features_GD, found.W_dec_ND) > 0.95

    class Gate(SpikeSlabDictionary):
        presence = SpikeSlabDictionary.gate

    presence = calibration(found, world, rows=8192)
    gate = calibration(Gate(found.tensors), world, rows=8192)
    assert presence.ece.high < 0.01
    assert presence.ece_unclear.high < 0.1 < gate.ece_unclear.low
    assert presence.ece.high < gate.ece.low
    assert presence.log_loss < 0.8 * gate.log_loss
    assert presence.expected == pytest.approx(world.settings.l0, rel=0.3)

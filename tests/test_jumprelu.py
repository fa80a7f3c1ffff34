"""JumpReLU: golden values, the pseudo-derivatives, L0 that follows its target, and what revived features get."""

from __future__ import annotations

import math

import pytest
import torch

from monosemy.dictionaries.jumprelu import (
    BANDWIDTH,
    EASE,
    EASED,
    EASIEST,
    FARTHEST,
    LOWER,
    RATE,
    JumpRelu,
    JumpReluDictionary,
    target_l0,
)
from monosemy.dictionaries.stacked import member_of
from monosemy.dictionaries.variant import (
    Centre,
    Hyper,
    Params,
    Scaling,
    Shape,
    StepStatistics,
    Workspace,
)
from monosemy.kernels.choose import kernels_for
from monosemy.kernels.firings import Firings
from monosemy.metrics.fidelity import fidelity
from monosemy.training import sparse_step
from monosemy.training.sparse_step import SparseWork
from monosemy.training.sweep import fit, fit_grid

M, B, D, N = 2, 300, 6, 12


def numbers(sparsity: float = 1.0) -> Hyper:
    return Hyper(torch.zeros(M), torch.tensor([2, 4]), sparsity=sparsity)


def some() -> tuple[Params, torch.Tensor, torch.Tensor]:
    """A stack with unequal thresholds and a price, one of them above all entries, one below most; rows, targets."""
    g = torch.Generator().manual_seed(0)
    centre_D = torch.randn(D, generator=g)
    params = JumpRelu().init(Shape(M, D, N, B), [0, 1], Centre(centre_D, centre_D))
    params["b_enc"].zero_()  # the rows below have mean 0
    params["log_threshold"] += 0.4 * torch.randn(M, N, generator=g)
    params["log_threshold"][:, 3:5] = torch.tensor([9.0, -3.0])
    params["multiplier"] += torch.tensor([0.05, 0.2])
    return params, torch.randn(B, D, generator=g), torch.randn(B, D, generator=g)


def test_golden_codes_a_threshold_is_applied_once() -> None:
    tensors = {
        "W_enc": torch.ones(1, 1), "b_enc": torch.zeros(1), "W_dec": torch.ones(1, 1), "threshold": torch.tensor([0.5])
    }  # fmt: skip
    found = JumpReluDictionary(tensors)
    x_BD = torch.tensor([[-1.0], [0.3], [0.5], [0.6], [2.0]])
    assert found.encode(x_BD).flatten().tolist() == pytest.approx([0, 0, 0, 0.6, 2.0])
    assert found.encode_sparse(x_BD)[0].flatten().tolist() == pytest.approx([0, 0, 0, 0.6, 2.0])


def test_threshold_gradients_are_those_of_the_paper() -> None:
    """Brute force over entries: −(θ/ε̃)·[|z−θ| < ε̃/2]·∂L/∂c − (λ/B ε̃)·[…], ε̃ = ε θ, times θ for log θ."""
    params, x_BD, target_BD = some()
    work = Workspace.of(Shape(M, D, N, B), {k: t for k, t in params.items() if k not in JumpRelu.tracked})
    JumpRelu().gradients(params, x_BD, numbers(0.5), work, target_BD)
    for m in range(M):
        one = member_of(params, m)
        z_BN = x_BD @ one["W_enc"].T + one["b_enc"]
        theta_N = (one["level"] + one["log_threshold"]).exp()
        codes_BN = torch.where(z_BN > theta_N, z_BN, 0)
        dcodes_BN = 2 / B * (codes_BN @ one["W_dec"] + one["b_dec"] - target_BD) @ one["W_dec"].T
        near = 0
        for n in range(N):
            theta, grad = float(theta_N[n]), 0.0
            inside = [b for b in range(B) if abs(float(z_BN[b, n]) - theta) < BANDWIDTH * theta / 2]
            for b in inside:
                price = 0.5 * float(one["multiplier"]) / B
                grad += -(theta * float(dcodes_BN[b, n]) + price) / (BANDWIDTH * theta)
            if not (z_BN[:, n] > theta * (1 - BANDWIDTH / 2)).any():
                grad = LOWER * 0.5 * float(one["multiplier"]) / B / (BANDWIDTH * theta)
            near += len(inside)
            assert float(work.grads["log_threshold"][m, n]) == pytest.approx(grad * theta, rel=2e-3, abs=1e-6)
        assert near > 30


def test_the_sparse_step_has_the_gradients_of_the_dense_one() -> None:
    params, x_BD, target_BD = some()
    trained = {name: tensor for name, tensor in params.items() if name not in JumpRelu.tracked}
    work = Workspace.of(Shape(M, D, N, B), trained)
    expected = JumpRelu().gradients(params, x_BD, numbers(), work, target_BD)
    for m in range(M):
        sparse_work = SparseWork(torch.empty(70, N), torch.empty(M, 1, B, D))
        made, found = sparse_step.forward(
            JumpRelu(), member_of(params, m), x_BD, target_BD, numbers().member(m), kernels_for("torch", "cpu"),
            sparse_work, m,
        )  # fmt: skip
        torch.testing.assert_close(found.loss_M[0], expected.loss_M[m])
        assert torch.equal(found.fired_MN[0], expected.fired_MN[m])
        for name in ("l0", "worth"):
            torch.testing.assert_close(found.extra[name][0], expected.extra[name][m])
        torch.testing.assert_close(made.own["log_threshold"], work.grads["log_threshold"][m], rtol=1e-4, atol=1e-6)
        dz_BN = Firings(made.firings.start_B1, made.firings.feature_F, made.dz_F).dense(N)
        torch.testing.assert_close(dz_BN.T @ x_BD, work.grads["W_enc"][m], rtol=1e-4, atol=1e-6)


def test_the_price_makes_the_thresholds_gradients_zero_in_sum() -> None:
    """What `worth` is for: with λ = worth no step of all thresholds together is asked for."""
    params, x_BD, target_BD = some()
    params["log_threshold"][:, 3:5] = 0.0
    work = Workspace.of(Shape(M, D, N, B), {k: t for k, t in params.items() if k not in JumpRelu.tracked})
    statistics = JumpRelu().gradients(params, x_BD, numbers(), work, target_BD)
    params["multiplier"].copy_(statistics.extra["worth"])
    assert (params["multiplier"].abs() > 0.01).all()
    JumpRelu().gradients(params, x_BD, numbers(), work, target_BD)
    sums_M = work.grads["log_threshold"].sum(dim=1)
    assert (sums_M.abs() < 1e-4 * work.grads["log_threshold"].abs().sum(dim=1)).all()


def test_level_and_price_move_as_they_should() -> None:
    params, _, _ = some()
    level_M, price_M = params["level"].clone(), params["multiplier"].clone()
    zeros_M = torch.zeros(M)
    extra = {"l0": torch.tensor([4.0, 0.0]), "worth": torch.tensor([torch.nan, -1.0])}  # k is 2 and 4
    statistics = StepStatistics(zeros_M, zeros_M, torch.zeros(M, N, dtype=torch.bool), extra)
    JumpRelu().track(params, statistics, numbers(0.5))
    moved = [0.5 * RATE * math.log(2), -0.5 * RATE * FARTHEST]  # of log 0 as far as one step may go
    assert (params["level"] - level_M).tolist() == pytest.approx(moved, abs=1e-6)
    assert params["multiplier"][0] == price_M[0]
    assert 0 < params["multiplier"][1] < price_M[1]


def test_the_target_of_l0_falls_evenly_to_k() -> None:
    """In its logarithm, from EASE times k (where that is not too much of the width, or k itself is) to k at EASED."""
    k_M, width = torch.tensor([4, 10, 20]), 60
    firsts = [EASE * 4, EASIEST * width, 20]
    assert target_l0(k_M, width, 0.0).tolist() == pytest.approx(firsts)
    assert target_l0(k_M, width, EASED / 2).tolist() == pytest.approx(
        [math.sqrt(first * k) for first, k in zip(firsts, k_M.tolist(), strict=True)]
    )
    for progress in (EASED, 0.9, 1.0):
        assert torch.equal(target_l0(k_M, width, progress), k_M.float())


def test_the_level_goes_by_the_eased_target() -> None:
    """At the start an L0 of EASE times k is where it should be; at the end it is too high."""
    zeros_M, k_M = torch.zeros(M), torch.tensor([1, 1])
    extra = {"l0": torch.full((M,), EASE), "worth": zeros_M}
    statistics = StepStatistics(zeros_M, zeros_M, torch.zeros(M, N, dtype=torch.bool), extra)
    for progress, moved in ((0.0, 0.0), (1.0, RATE * math.log(EASE))):
        params, _, _ = some()
        level_M = params["level"].clone()
        JumpRelu().track(params, statistics, Hyper(zeros_M, k_M, progress=progress))
        assert (params["level"] - level_M).tolist() == pytest.approx([moved, moved], abs=1e-6)


def test_thresholds_are_folded_with_their_codes() -> None:
    params, x_BD, _ = some()
    one, scale_D = member_of(params, 0), torch.linspace(0.3, 3, D)
    found = JumpRelu().export(one, numbers().member(0), Scaling(scale_D, scale_D))
    z_BN = (x_BD * scale_D) @ one["W_enc"].T + one["b_enc"]
    codes_BN = torch.where(z_BN > (one["level"] + one["log_threshold"]).exp(), z_BN, 0)
    rec_BD = (codes_BN @ one["W_dec"] + one["b_dec"]) / scale_D
    torch.testing.assert_close(found.reconstruct(x_BD), rec_BD, rtol=1e-5, atol=1e-5)
    assert sorted(found.tensors) == ["W_dec", "W_enc", "b_dec", "b_enc", "threshold"]


def test_revived_features_fire_as_often_as_their_encoder_rows_allow() -> None:
    """Thresholds go with the length of encoder rows: a copy of a feature with a fifth of the length fires where it
    does."""
    params, x_BD, _ = some()
    one = member_of(params, 0)
    one["log_threshold"][:] = 0.0
    one["W_enc"][5], one["b_enc"][5] = one["W_enc"][2] / 5, one["b_enc"][2] / 5
    JumpRelu().revive(one, torch.tensor([5]))
    found = JumpRelu().export(one, numbers().member(0), Scaling(torch.ones(D), torch.ones(D)))
    active_BN = found.encode(x_BD) > 0
    assert active_BN[:, 2].any()
    assert torch.equal(active_BN[:, 5], active_BN[:, 2])


@pytest.fixture(scope="module")
def world() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows to train on, and others, of a world with 8 of 128 features a row in 32 dimensions."""
    g = torch.Generator().manual_seed(0)
    features_GD = torch.nn.functional.normalize(torch.randn(128, 32, generator=g), dim=1)
    rate_G = 0.97 ** torch.arange(128)
    codes_XG = (torch.rand(24_000, 128, generator=g) < 8 * rate_G / rate_G.sum()) * torch.rand(24_000, 128, generator=g)
    x_XD = codes_XG @ features_GD
    return x_XD[:20_000], x_XD[20_000:]


@pytest.mark.parametrize("scale", ["unit", "none"])
def test_l0_follows_its_target_on_rows_not_trained_on(world: tuple[torch.Tensor, torch.Tensor], scale: str) -> None:
    """Within 5 % after 600 steps, whatever the rows' scale; 4000 rows give mean L0 to about 1 %."""
    seen, held_out = world
    seen, held_out = (50 * seen, 50 * held_out) if scale == "none" else (seen, held_out)
    options = {"width": 128, "batch": 256, "steps": 600, "scale": scale, "device": "cpu"}
    for member, found in fit_grid(seen, variant="jumprelu", k=(4, 8, 32), **options):
        assert fidelity(found, held_out)["l0"] == pytest.approx(member.k, rel=0.05)


def test_it_reconstructs_as_well_as_topk(world: tuple[torch.Tensor, torch.Tensor]) -> None:
    seen, held_out = world
    options = {"width": 128, "k": 8, "batch": 256, "steps": 600, "device": "cpu"}
    fvu = {name: fidelity(fit(seen, variant=name, **options), held_out)["fvu"] for name in ("topk", "jumprelu")}
    assert fvu["jumprelu"] < 1.02 * fvu["topk"]

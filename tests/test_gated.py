"""Gated dictionaries: golden values, the frozen decoder, shrinkage, and that a trained one is exactly a JumpReLU."""

from __future__ import annotations

import pytest
import torch

from monosemy.dictionaries.gated import Gated
from monosemy.dictionaries.stacked import member_of
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, Workspace
from monosemy.metrics.fidelity import fidelity
from monosemy.training.sweep import fit

B, D, N = 200, 6, 10


def numbers(l1: float, norm_weighted: bool = False) -> Hyper:
    return Hyper(torch.tensor([l1]), torch.tensor([0]), norm_weighted)


def some(seed: int = 0) -> tuple[Params, torch.Tensor]:
    """A stack of one with unequal gates and magnitudes, and rows."""
    g = torch.Generator().manual_seed(seed)
    centre_D = torch.randn(D, generator=g)
    params = Gated().init(Shape(1, D, N, B), [0], Centre(centre_D, centre_D))
    params["log_scale"] += 0.5 * torch.randn(1, N, generator=g)
    params["b_mag"] += 0.3 * torch.randn(1, N, generator=g)
    params["b_enc"] += 0.3 * torch.randn(1, N, generator=g)
    return params, torch.randn(B, D, generator=g)


def test_golden_values_of_one_feature() -> None:
    """x = 2, W_enc = 1: π = 2 − 0.5, c = 2·2 − 1 = 3, x̂ = 3; frozen x̂ = 1.5, so the loss is 1 + 0.1·1.5 + 0.25."""
    params = {
        "W_enc": torch.tensor([[1.0]]), "b_enc": torch.tensor([-0.5]), "W_dec": torch.tensor([[1.0]]),
        "log_scale": torch.tensor([2.0]).log(), "b_mag": torch.tensor([-1.0]),
    }  # fmt: skip
    reconstruction, penalty = Gated().loss(params, torch.tensor([[2.0]]), numbers(0.1).member(0))
    assert reconstruction.item() == pytest.approx(1)
    assert penalty.item() == pytest.approx(0.1 * 1.5 + 0.25)
    found = Gated().export(params, numbers(0.1).member(0), Scaling(torch.ones(1), torch.ones(1)))
    # The gate opens at x = 0.5, where 2x − 1 = 0; both at once, so θ is 0.
    assert found.encode(torch.tensor([[2.0], [0.5], [0.4]])).flatten().tolist() == pytest.approx([3, 0, 0])


def test_the_auxiliary_term_leaves_the_decoder_alone() -> None:
    """Without the term and the penalty, the decoder's gradients are the same; the gate has none at all."""
    params, x_BD = some()
    work = Workspace.of(Shape(1, D, N, B), params)
    Gated().gradients(params, x_BD, numbers(0.3), work)
    one = {name: tensor.clone().requires_grad_() for name, tensor in member_of(params, 0).items()}
    reconstruction, _ = Gated().loss(one, x_BD, numbers(0.3).member(0))
    reconstruction.backward()
    for name in ("W_dec", "b_dec", "b_mag", "log_scale"):
        torch.testing.assert_close(work.grads[name][0], one[name].grad, rtol=1e-4, atol=1e-6)
    assert one["b_enc"].grad is None or not one["b_enc"].grad.any()
    assert work.grads["b_enc"].abs().max() > 0.01


@pytest.mark.parametrize("whitened", [False, True])
def test_a_trained_one_is_a_jumprelu_on_raw_rows(whitened: bool) -> None:
    params, x_BD = some(1)
    scale_D = torch.linspace(0.3, 3, D) if whitened else torch.ones(D)
    found = Gated().export(member_of(params, 0), numbers(0.1).member(0), Scaling(scale_D, scale_D))
    one, seen_BD = member_of(params, 0), x_BD * scale_D
    a_BN = seen_BD @ one["W_enc"].T
    codes_BN = torch.relu(a_BN * one["log_scale"].exp() + one["b_mag"]) * (a_BN + one["b_enc"] > 0)
    assert 0.1 < (codes_BN > 0).float().mean() < 0.9
    assert ((found.encode(x_BD) > 0) == (codes_BN > 0)).all()
    assert (found.tensors["threshold"] > 0).any()
    rec_BD = (codes_BN @ one["W_dec"] + one["b_dec"]) / scale_D
    torch.testing.assert_close(found.reconstruct(x_BD), rec_BD, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.W_dec_ND.norm(dim=1), torch.ones(N))


def test_revived_features_start_as_their_gates() -> None:
    params, _ = some(2)
    one, before = member_of(params, 0), params["b_mag"][0].clone()
    Gated().revive(one, torch.tensor([1, 4]))
    assert torch.equal(one["b_mag"][[1, 4]], one["b_enc"][[1, 4]])
    assert one["log_scale"][[1, 4]].tolist() == [0, 0]
    assert torch.equal(one["b_mag"][[0, 2]], before[[0, 2]])


def test_codes_shrink_less_than_those_of_relu() -> None:
    """‖x̂‖² over ⟨x, x̂⟩ is 1 where codes do not undershoot; both dictionaries pay the same λ."""
    g = torch.Generator().manual_seed(0)
    features_GD = torch.nn.functional.normalize(torch.randn(24, 16, generator=g), dim=1)
    x_XD = ((torch.rand(8000, 24, generator=g) < 0.08) * (0.5 + torch.rand(8000, 24, generator=g))) @ features_GD
    options = {"width": 24, "l1": 0.4, "batch": 256, "steps": 1000, "lr": 3e-3, "device": "cpu"}
    scores = {name: fidelity(fit(x_XD, variant=name, **options), x_XD) for name in ("relu", "gated")}
    assert scores["gated"]["fvu"] < 0.5 * scores["relu"]["fvu"]

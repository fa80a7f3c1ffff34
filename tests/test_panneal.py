"""p-annealing: its schedule, golden values, the penalty's size as p falls, and that codes shrink less."""

from __future__ import annotations

import pytest
import torch

from monosemy.dictionaries.panneal import DELTA, P_END, P_START_AT, PAnneal, exponent
from monosemy.dictionaries.relu import Relu
from monosemy.dictionaries.stacked import member_of
from monosemy.dictionaries.variant import Centre, Hyper, Shape, Workspace
from monosemy.metrics.fidelity import fidelity
from monosemy.training.sweep import fit, fit_grid

B, D, N = 300, 8, 16


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, D, generator=torch.Generator().manual_seed(seed))


def numbers(progress: float, norm_weighted: bool = False) -> Hyper:
    return Hyper(torch.tensor([0.1, 0.4]), torch.tensor([0, 0]), norm_weighted, progress=progress)


def test_p_falls_from_one_in_a_straight_line() -> None:
    middle = (1 + P_START_AT) / 2
    assert [exponent(share) for share in (0, P_START_AT, 1)] == pytest.approx([1, 1, P_END])
    assert exponent(middle) == pytest.approx((1 + P_END) / 2)


@pytest.mark.parametrize("norm_weighted", [False, True])
def test_at_the_start_it_is_relu(norm_weighted: bool) -> None:
    params = PAnneal().init(Shape(2, D, N, B), [0, 1], Centre(rows(1)[0], rows(1)[0]))
    params["W_dec"] *= torch.linspace(0.5, 2, N)[:, None] if norm_weighted else 1
    linear = {name: tensor for name, tensor in params.items() if name not in PAnneal.tracked}
    work, plain = (Workspace.of(Shape(2, D, N, B), linear) for _ in range(2))
    found = PAnneal().gradients(params, rows(), numbers(0.0, norm_weighted), work)
    expected = Relu().gradients(linear, rows(), numbers(0.0, norm_weighted), plain)
    torch.testing.assert_close(found.loss_M, expected.loss_M)
    for name, grad in plain.grads.items():
        torch.testing.assert_close(work.grads[name], grad, rtol=1e-4, atol=1e-6)


def test_golden_penalty() -> None:
    """Codes 0.25 and 0 at p = P_END: λ s ((0.25 + δ)^p − δ^p)."""
    params = {
        "W_enc": torch.tensor([[1.0], [-1.0]]), "b_enc": torch.zeros(2), "W_dec": torch.ones(2, 1),
        "log_strength": torch.tensor(3.0).log(), "p_before": torch.tensor(P_END),
    }  # fmt: skip
    _, penalty = PAnneal().loss(params, torch.tensor([[0.25]]), numbers(1.0).member(1))
    assert penalty.item() == pytest.approx(0.4 * 3 * ((0.25 + DELTA) ** P_END - DELTA**P_END))


def test_the_weight_keeps_the_penaltys_size_as_p_falls() -> None:
    """With weights at rest, the penalty at the end of the run is that of L1 to 2 %, while Σ c^p itself has grown."""
    x_BD = 0.1 * rows()
    params = PAnneal().init(Shape(2, D, N, B), [0, 1], None)
    work = Workspace.of(Shape(2, D, N, B), params)
    penalties = []
    for step in range(201):
        hyper = numbers(step / 200)
        statistics = PAnneal().gradients(params, x_BD, hyper, work)
        penalties.append(statistics.penalty_M)
        PAnneal().track(params, statistics, hyper)
    torch.testing.assert_close(penalties[-1], penalties[0], rtol=0.02, atol=0)
    alone = {**params, "log_strength": torch.zeros(2)}
    for m in range(2):
        _, penalty = PAnneal().loss(member_of(alone, m), x_BD, numbers(1.0).member(m))
        assert penalty > 1.3 * penalties[0][m]


def test_a_member_whose_codes_are_all_zero_keeps_its_weight() -> None:
    params = PAnneal().init(Shape(2, D, N, B), [0, 1], None)
    params["b_enc"][0] = -100.0
    work = Workspace.of(Shape(2, D, N, B), params)
    statistics = PAnneal().gradients(params, rows(), numbers(0.5), work)
    PAnneal().track(params, statistics, numbers(0.5))
    assert params["log_strength"][0] == 0
    assert params["log_strength"][1] != 0


@pytest.fixture(scope="module")
def sparse_rows() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    features_GD = torch.nn.functional.normalize(torch.randn(24, 16, generator=g), dim=1)
    return ((torch.rand(8000, 24, generator=g) < 0.08) * (0.5 + torch.rand(8000, 24, generator=g))) @ features_GD


def test_codes_shrink_less_than_those_of_relu_and_are_fewer(sparse_rows: torch.Tensor) -> None:
    options = {"width": 24, "l1": 0.2, "batch": 256, "steps": 1000, "lr": 3e-3, "device": "cpu"}
    relu, found = (fidelity(fit(sparse_rows, variant=name, **options), sparse_rows) for name in ("relu", "panneal"))
    assert 1 - found["shrinkage"] < 0.6 * (1 - relu["shrinkage"])
    assert found["l0"] < 0.8 * relu["l0"]
    assert found["fvu"] < 1.05 * relu["fvu"]


def test_the_dictionary_has_nothing_of_its_training(sparse_rows: torch.Tensor) -> None:
    found = fit(sparse_rows, variant="panneal", width=24, l1=0.2, batch=128, steps=5, device="cpu")
    assert {name: tuple(tensor.shape) for name, tensor in found.tensors.items()} == {
        "W_enc": (24, 16), "b_enc": (24,), "W_dec": (24, 16), "b_dec": (16,),
    }  # fmt: skip


def test_sparse_and_dense_steps_agree(sparse_rows: torch.Tensor) -> None:
    options = {"variant": "panneal", "width": 32, "l1": (0.05, 0.3), "batch": 128, "steps": 60, "device": "cpu"}
    for penalty in ("sum", "norm-weighted"):
        ways = [
            fit_grid(sparse_rows, way=way, kernels="torch", penalty=penalty, **options) for way in ("dense", "sparse")
        ]
        for (_, dense), (_, sparse) in zip(*ways, strict=True):
            for name, tensor in dense.tensors.items():
                torch.testing.assert_close(sparse.tensors[name], tensor, rtol=1e-3, atol=2e-4)

"""Metrics against closed forms and brute force."""

from __future__ import annotations

import itertools

import pytest
import torch

from monosemy.dictionaries.baselines import LinearDictionary, neuron_basis
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics import recovery
from monosemy.metrics.fidelity import Fidelity, fidelity
from monosemy.metrics.recovery import mcs, mmcs, mmcs_to_truth, one_to_one, uniqueness
from monosemy.metrics.selection import choose


def test_predicting_the_mean_scores_zero() -> None:
    x = torch.randn(500, 6) * torch.arange(1.0, 7) + 5
    mean = LinearDictionary({"W_dec": torch.zeros(3, 6), "b_dec": x.mean(0)})
    scores = fidelity(mean, x)
    assert scores["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert scores["fvu"] == pytest.approx(1, abs=1e-6)


def test_the_identity_scores_perfectly_and_its_counts_are_those_of_the_rows() -> None:
    x = torch.relu(torch.randn(500, 6))
    x[:, 4] = 0
    scores = fidelity(neuron_basis(6), x)
    assert scores["fvu"] == pytest.approx(0, abs=1e-12)
    assert scores["cosine"] == pytest.approx(float((x.norm(dim=1) > 0).float().mean()))
    assert scores["l0"] == pytest.approx(float((x != 0).sum(1).float().mean()))
    assert scores["l1_norm"] == pytest.approx(float(x.sum(1).mean()), rel=1e-5)
    assert scores["dead"] == 1
    assert scores["alive"] == 5
    assert scores["detection_limit"] == 1 / 500


def test_fidelity_equals_a_direct_computation_whatever_the_batches() -> None:
    g = torch.Generator().manual_seed(0)
    W = torch.randn(12, 6, generator=g)
    b_enc, b_dec = torch.randn(12, generator=g), torch.randn(6, generator=g)
    dictionary = ReluDictionary({"W_enc": W / 3, "b_enc": b_enc, "W_dec": W, "b_dec": b_dec})
    x = torch.randn(1000, 6, generator=g)
    codes = torch.relu(x @ (W / 3).T + b_enc)
    xhat = codes @ W + b_dec
    error = (x - xhat).square().sum(1).mean()
    expected = {
        "mse": (x - xhat).square().mean(),
        "fvu": error / (x - x.mean(0)).square().sum(1).mean(),
        "cosine": torch.cosine_similarity(x, xhat).mean(),
        "l0": (codes > 0).sum(1).float().mean(),
        "shrinkage": xhat.square().sum(1).mean() / (x * xhat).sum(1).mean(),
        "norm_ratio": (xhat.norm(dim=1) / x.norm(dim=1)).mean(),
    }
    for batch in (1000, 7):
        scores = fidelity(dictionary, x, batch)
        for name, value in expected.items():
            assert scores[name] == pytest.approx(float(value), rel=1e-4), name
    collector = Fidelity(dictionary)
    collector.add(x)
    torch.testing.assert_close(collector.density(), (codes > 0).double().mean(0))


def test_constant_rows_have_no_explained_variance() -> None:
    assert fidelity(neuron_basis(3), torch.ones(10, 3))["fvu"] is None


def test_mcs_equals_brute_force_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.randn(23, 5), torch.randn(31, 5)
    brute = torch.tensor([max(float(torch.cosine_similarity(u, v, dim=0)) for v in b) for u in a])
    for block in (1, 4, 100):
        monkeypatch.setattr(recovery, "BLOCK", block)
        torch.testing.assert_close(mcs(a, b), brute)


def test_mmcs_closed_forms() -> None:
    eye = torch.eye(4)
    assert mmcs(eye, eye) == 1
    assert mmcs(3 * eye, eye.flip(0)) == 1  # neither length nor order counts
    assert mmcs_to_truth(eye, eye[:2]) == pytest.approx(0.5)  # two found, two orthogonal to all
    assert mmcs(eye, eye[:2]) == 1  # the smaller is the reference, whichever comes first
    assert mmcs_to_truth(eye, -eye) == 0  # an opposite direction is not the feature: the others are at 0
    diagonal = torch.tensor([[1.0, 1.0]])
    assert mmcs(torch.eye(2), diagonal) == pytest.approx(2**-0.5)
    assert mcs(torch.zeros(1, 4), eye).item() == 0


def test_one_to_one_is_the_best_assignment() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(5, 4, generator=g), torch.randn(6, 4, generator=g)
    cosines = torch.cosine_similarity(a[:, None], b[None], dim=2)
    best = max(
        sum(float(cosines[row, column]) for row, column in enumerate(columns)) / 5
        for columns in itertools.permutations(range(6), 5)
    )
    matching = one_to_one(a, b)
    assert matching.mcc == pytest.approx(best)
    assert len(set(matching.columns_P.tolist())) == 5
    assert matching.mcc <= mmcs_to_truth(a, b) + 1e-6  # sharing is allowed there


def test_uniqueness_sees_copies() -> None:
    assert uniqueness(torch.eye(4), torch.eye(4)) == 1
    assert uniqueness(torch.eye(4), torch.ones(1, 4)) == 0.25


def row(member: int, **values: float | None) -> dict[str, float | int | None]:
    blank = {"ce_recovered": None, "explained_variance": 0.5, "mmcs_other_seed": None, "l0": 10.0}
    return {"member": member, **blank, **values}


def test_the_choice_weighs_agreement_among_those_that_keep_the_loss() -> None:
    rows = [
        row(0, ce_recovered=0.99, mmcs_other_seed=0.5),
        row(1, ce_recovered=0.95, mmcs_other_seed=0.8),
        row(2, ce_recovered=0.3, mmcs_other_seed=0.9),
    ]
    assert choose(rows)[0] == 1
    assert choose(rows[2:])[0] == 2  # none keeps it: those near the best
    near = [row(0, ce_recovered=0.5, mmcs_other_seed=0.1), row(1, ce_recovered=0.47, mmcs_other_seed=0.9)]
    assert choose(near)[0] == 1
    assert "none reaches 0.9" in choose(near)[1]
    assert choose([row(0, l0=30.0), row(1, l0=20.0)])[0] == 1  # no model, one seed: the sparser one

"""Metrics against closed forms and brute force."""

from __future__ import annotations

import itertools

import pytest
import torch

from monosemy.dictionaries.baselines import LinearDictionary, neuron_basis
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics import matching, recovery
from monosemy.metrics.fidelity import Fidelity, fidelity
from monosemy.metrics.matching import exclusive_mmcs, one_to_one
from monosemy.metrics.recovery import mcs, mmcs, mmcs_to_truth, nearest, redundancy, uniqueness
from monosemy.metrics.selection import choose
from monosemy.runtime import UsageError


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
        cosine_N, index_N = nearest(a, b)
        torch.testing.assert_close(cosine_N, brute)
        torch.testing.assert_close(torch.cosine_similarity(a, b[index_N]), brute)


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
    assert nearest(eye, torch.cat([eye, eye]))[1].tolist() == [0, 1, 2, 3]  # the first of equals


def test_directions_of_other_precision_and_none_at_all() -> None:
    a, b = torch.randn(9, 5), torch.randn(7, 5)
    torch.testing.assert_close(mcs(a.half(), b), mcs(a, b), atol=1e-3, rtol=0)
    assert mcs(a.double(), b).dtype == torch.float64
    with pytest.raises(UsageError, match="d_in"):
        mcs(a, b[:, :4])
    with pytest.raises(UsageError, match="0 rows"):
        mcs(a, b[:0])


def test_large_comparisons_need_one_block_and_no_copy_of_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every allocation of the comparison is at most a block of cosines or of directions."""
    n, d, block = 512, 256, 32
    monkeypatch.setattr(recovery, "BLOCK", block)
    a, b = torch.randn(n, d), torch.randn(n, d)
    with torch.profiler.profile(profile_memory=True) as seen:
        nearest(a, b)
    allocated = [event.self_cpu_memory_usage for event in seen.events()]
    assert max(allocated) >= block * d * 4  # the profiler does see a block of directions
    assert max(allocated) < n * d * 4


def test_one_to_one_is_the_best_assignment() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(5, 4, generator=g), torch.randn(6, 4, generator=g)
    cosines = torch.cosine_similarity(a[:, None], b[None], dim=2)
    best = max(
        sum(float(cosines[row, column]) for row, column in enumerate(columns)) / 5
        for columns in itertools.permutations(range(6), 5)
    )
    for found in (one_to_one(a, b), one_to_one(b, a)):
        assert found.mcc == pytest.approx(best)
        assert found.gap == 0
        assert found.rows_P.tolist() == sorted(set(found.rows_P.tolist()))
        assert len(set(found.columns_P.tolist())) == 5
        assert found.mcc <= mmcs_to_truth(a, b) + 1e-6  # sharing is allowed there
    ahead, back = one_to_one(a, b), one_to_one(b, a)
    assert {*zip(ahead.rows_P.tolist(), ahead.columns_P.tolist(), strict=True)} == {
        *zip(back.columns_P.tolist(), back.rows_P.tolist(), strict=True)
    }


def directions(kind: str, n: int, d: int, g: torch.Generator) -> torch.Tensor:
    """Rows without structure, in clusters, or copies of few directions."""
    if kind == "random":
        return torch.randn(n, d, generator=g)
    centres_CD = torch.randn(20, d, generator=torch.Generator().manual_seed(5))
    spread = 0.5 if kind == "clustered" else 0.0
    return centres_CD[torch.randint(20, (n,), generator=g)] + spread * torch.randn(n, d, generator=g)


@pytest.mark.parametrize("kind", ["random", "clustered", "copies"])
@pytest.mark.parametrize(("n", "wide"), [(300, 300), (200, 400), (400, 200)])
def test_the_sparse_matching_is_within_its_gap_of_the_optimum(
    kind: str, n: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = torch.Generator().manual_seed(n)
    a, b = directions(kind, n, 24, g), directions(kind, wide, 24, g)
    best = one_to_one(a, b).mcc
    for candidates, group in ((2, 7), (8, 4096), (64, 50), (500, 4096)):
        monkeypatch.setattr(matching, "CANDIDATES", candidates)
        monkeypatch.setattr(matching, "LEFT_OVER", group)
        monkeypatch.setattr(recovery, "BLOCK", 150)
        found = one_to_one(a, b, exact_up_to=0)
        assert (
            len(found.rows_P) == len(set(found.rows_P.tolist())) == len(set(found.columns_P.tolist())) == min(n, wide)
        )
        torch.testing.assert_close(found.cosines_P, torch.cosine_similarity(a[found.rows_P], b[found.columns_P]))
        assert found.mcc <= best + 1e-6
        assert found.bound >= best - 1e-6
        assert found.gap == pytest.approx(found.bound - found.mcc, abs=1e-6)
        assert candidates < 500 or found.gap < 1e-6  # every column is a candidate: proven to be the optimum


def test_the_sparse_matching_states_a_gap_where_its_candidates_do_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows want the one near column: with one candidate each, three are thought to get what one does."""
    monkeypatch.setattr(matching, "CANDIDATES", 1)
    found = one_to_one(torch.eye(4)[:1].repeat(4, 1), torch.eye(4), exact_up_to=0)
    assert found.mcc == pytest.approx(0.25)  # the optimum
    assert found.bound == pytest.approx(1, abs=1e-6)


def test_uniqueness_and_redundancy_see_copies() -> None:
    eye = torch.eye(4)
    assert uniqueness(eye, eye) == 1
    assert uniqueness(eye, torch.ones(1, 4)) == 0.25
    assert redundancy(eye, eye) == 1
    assert redundancy(eye, eye.repeat(3, 1)) == 3
    assert redundancy(eye, torch.cat([eye[:2], eye[:1], torch.ones(5, 4)])) == 1.5  # 2 of one, 1 of another
    assert redundancy(eye, torch.ones(3, 4)) is None
    assert redundancy(eye, torch.ones(3, 4), threshold=0.4) == 3  # cosine 0.5 with all: the first


def test_exclusive_mmcs_closed_forms() -> None:
    eye = torch.eye(6)
    assert exclusive_mmcs(eye, 2 * eye.flip(0)) == 1
    assert exclusive_mmcs(eye, eye.repeat(2, 1)) == pytest.approx(1 / 2)  # MMCS is 1
    assert exclusive_mmcs(eye, eye[:2]) == pytest.approx(1 / 3)
    assert exclusive_mmcs(eye, eye[:1].repeat(6, 1)) == pytest.approx(1 / 6)
    assert exclusive_mmcs(eye[:5], eye) == pytest.approx(5 / 6)  # one beyond the truth
    assert exclusive_mmcs(eye, torch.cat([eye, torch.zeros(9, 6)])) == 1  # directions of length 0 are not there
    assert exclusive_mmcs(eye, torch.zeros(9, 6)) == 0


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

"""The two ways of a step agree: codes treated as dense, and as sparse, with every kernel that runs here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from dials import taken

from monosemy.data.rows import ArrayRows
from monosemy.dictionaries.batchtopk import UNSET, BatchTopK, largest
from monosemy.dictionaries.sparse import Encoder, SparseVariant
from monosemy.dictionaries.store import VARIANTS
from monosemy.dictionaries.variant import Hyper, StepStatistics
from monosemy.kernels.choose import kernels_for
from monosemy.kernels.firings import Firings
from monosemy.runtime import UsageError
from monosemy.training import compute
from monosemy.training.ensemble import Ensemble
from monosemy.training.frame import framed
from monosemy.training.settings import grid
from monosemy.training.sweep import fit, settings_from

D, N, B = 12, 40, 50
SPARSE = [name for name, variant in VARIANTS.items() if isinstance(variant, SparseVariant)]
X = torch.randn(4000, D, generator=torch.Generator().manual_seed(0)) + 0.3


def stack(name: str, **options: Any) -> Ensemble:
    dials = {"width": N, "k": (3, 5), "l1": (0.1, 0.3), "noise": 0.1, "lr": (3e-3, 1e-2), "batch": B, "device": "cpu"}
    settings = settings_from(**taken(name, **{**dials, **options}))
    return Ensemble(grid(settings, D), settings, framed(ArrayRows(X), settings.frame), torch.device("cpu"), B)


def steps(made: Ensemble, count: int, pairs: bool = False) -> list[Any]:
    stream = ArrayRows(X).batches(B, 0)
    found = []
    for step in range(count):
        x_BD = next(stream)
        target_BE = x_BD.roll(1, dims=1) if pairs else None
        found.append(made.step(x_BD, 0.5 + step / 40, 1.0, target_BE, progress=step / count))
    return found


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"b_dec": "none", "scale": "none"},
        {"clip": 0.05},
        {"remedy": "auxk", "dead_after": 3, "aux_k": 4},
        {"remedy": "ghost", "dead_after": 3, "clip": 0.1},
        {"penalty": "norm-weighted"},
        {"scale": "whiten", "ema": 0.9},
    ],
    ids=lambda options: " ".join(map(str, options)) or "plain",
)
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_steps_are_the_dense_ones(name: str, options: dict[str, Any], kernels: str) -> None:
    """Ten steps apart only by rounding, which Adam makes larger where gradients are near 0."""
    pairs = VARIANTS[name].reads == "pairs"
    dense, sparse = (stack(name, way=way, kernels=kernels, **options) for way in ("dense", "sparse"))
    found = zip(steps(dense, 10, pairs), steps(sparse, 10, pairs), strict=True)
    assert (set(dense.sparse_M), set(sparse.sparse_M)) == ({False}, {True})
    for expected, got in found:
        for each in fields(expected):
            if each.name != "extra":
                torch.testing.assert_close(getattr(got, each.name), getattr(expected, each.name), rtol=2e-3, atol=1e-4)
    for group in ("params", "average"):
        for key, tensor in getattr(dense, group).items():
            torch.testing.assert_close(getattr(sparse, group)[key], tensor, rtol=0, atol=3e-4, msg=key)
    for m in range(len(dense)):
        torch.testing.assert_close(sparse.residual_of(m), dense.residual_of(m), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(sparse._l0_M().float(), dense._l0_M().float(), rtol=0.02, atol=0.05)


@pytest.mark.parametrize("name", SPARSE)
def test_one_sparse_step_has_the_gradients_of_the_dense_one(name: str) -> None:
    """After one step from zero moments Adam's running mean is a tenth of the gradient itself."""
    pairs = VARIANTS[name].reads == "pairs"
    dense, sparse = (stack(name, way=way, kernels="numba") for way in ("dense", "sparse"))
    for made in (dense, sparse):
        steps(made, 1, pairs)
    for key, tensor in dense.moments.mean.items():
        torch.testing.assert_close(sparse.moments.mean[key], tensor, rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", SPARSE)
def test_in_bf16_codes_are_chosen_roughly_and_valued_exactly(name: str) -> None:
    """Of the chosen entries nearly all are those of fp32, with their fp32 values."""
    made = stack(name, way="sparse", k=4, l1=0.1, lr=1e-2)
    steps(made, 30, VARIANTS[name].reads == "pairs")
    params = {key: tensor[0] for key, tensor in made.params.items()}
    rows_BD = (X[:B] * made.frame.scaling.seen_D).contiguous()
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        hyper = made.hyper.member(0)
        hyper.dtype = dtype
        encoder = Encoder.of(params, rows_BD, hyper, made.kernels, torch.empty(B, N))
        firings = made.variant.choose(params, encoder, hyper)  # type: ignore[attr-defined]
        found.append(Firings(firings.start_B1, firings.feature_F, firings.value_F).dense(N))
    exact_BN, rough_BN = found
    both_BN = (exact_BN != 0) & (rough_BN != 0)
    assert both_BN.sum() > 0.93 * (exact_BN != 0).sum()
    torch.testing.assert_close(rough_BN[both_BN], exact_BN[both_BN], rtol=1e-4, atol=1e-5)


def test_l1_goes_sparse_when_its_codes_are_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "LEAST_SIZE", 0)
    monkeypatch.setattr(compute, "FULL_SIZE", 1)
    made = stack("relu", l1=1.0, lr=1e-2, kernels="numba")
    seen = []
    stream = ArrayRows(X).batches(B, 0)
    for step in range(400):
        made.step(next(stream), l1_factor=1.0 if step < 200 else 0.0)
        density = float(made._l0_M().mean()) / N
        seen.append((made.sparse_M[0], density))
    assert not seen[0][0]
    assert seen[199] == (True, pytest.approx(0, abs=0.15))
    assert not seen[399][0]
    assert seen[399][1] > 0.15 * compute.DENSE_ABOVE
    changes = [step for step in range(1, 400) if seen[step][0] != seen[step - 1][0]]
    assert all(step % compute.MEASURE_EVERY == 0 for step in changes)


@pytest.mark.parametrize("name", ["relu", "jumprelu", "panneal"])
def test_a_member_goes_its_own_way_whatever_the_grid_around_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One member is sparse soon, the others stay dense; each ends as it would alone."""
    monkeypatch.setattr(compute, "LEAST_SIZE", 0)
    monkeypatch.setattr(compute, "FULL_SIZE", 1)
    dials = {"l1": (0.001, 1.0, 0.01), "k": (30, 3, 20), "lr": 3e-3}
    together = stack(name, **dials)
    alone = [stack(name, **{**dials, "l1": l1, "k": k}) for l1, k in zip(dials["l1"], dials["k"], strict=True)]
    ways = set()
    for x_BD, _ in zip(ArrayRows(X).batches(B, 0), range(180), strict=False):
        for made in (together, *alone):
            made.step(x_BD)
        ways.add(tuple(together.sparse_M))
        assert together.sparse_M == [made.sparse_M[0] for made in alone]
    assert (False, True, False) in ways
    for m, made in enumerate(alone):
        for key, tensor in made.params.items():
            torch.testing.assert_close(together.params[key][m], tensor[0], rtol=0, atol=1e-6, msg=f"{key} {m}")


def test_a_run_goes_on_the_way_it_went_unless_another_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint between the measurement and the step that follows it; the same bits afterwards."""
    monkeypatch.setattr(compute, "LEAST_SIZE", 0)
    monkeypatch.setattr(compute, "FULL_SIZE", 1)
    dials = {"l1": (0.001, 1.0), "lr": 3e-3}
    batches = [x_BD for x_BD, _ in zip(ArrayRows(X).batches(B, 0), range(160), strict=False)]
    whole, first, second = (stack("relu", **dials) for _ in range(3))
    for x_BD in batches:
        whole.step(x_BD)
    assert whole.sparse_M == [False, True]
    for x_BD in batches[:150]:
        first.step(x_BD)
    state = {key: tensor.clone() for key, tensor in first.state().items()}
    second.load_state(state)
    for x_BD in batches[150:]:
        second.step(x_BD)
    for key, tensor in whole.state().items():
        assert torch.equal(second.state()[key], tensor), key
    forced = stack("relu", way="dense", **dials)
    forced.load_state(state)
    forced.step(batches[150])
    assert forced.sparse_M == [False, False]


def test_small_or_dense_steps_stay_dense() -> None:
    large = compute.FULL_SIZE
    assert compute.sparse_pays(0.1, large, "numba", sparse_now=False)
    assert not compute.sparse_pays(0.16, large, "numba", sparse_now=False)
    assert compute.sparse_pays(0.16, large, "numba", sparse_now=True)
    assert not compute.sparse_pays(0.1, large // 4, "numba", sparse_now=False)
    assert not compute.sparse_pays(0.001, compute.LEAST_SIZE - 1, "numba", sparse_now=True)
    assert not compute.sparse_pays(0.1, large, "torch", sparse_now=False)


def test_the_batchs_largest_are_found_whatever_the_guess() -> None:
    """From no threshold, a good one, one far too high and one far too low: always the B·k largest."""
    made = stack("batchtopk", k=4, way="sparse", lr=1e-2)
    steps(made, 30)
    params, hyper = {key: tensor[0] for key, tensor in made.params.items()}, made.hyper.member(0)
    rows_BD = (X[:B] * made.frame.scaling.seen_D).contiguous()
    rows_BD[0] *= 30  # one row that takes more than its share
    z_X = torch.relu(rows_BD @ params["W_enc"].T + params["b_enc"]).flatten()
    brute_X = torch.zeros_like(z_X)
    brute_X[z_X.topk(4 * B).indices] = z_X.topk(4 * B).values
    good = float(params["threshold"])
    assert good > 0
    for guess in (-1.0, good, 100 * good, 1e-6 * good):
        params["threshold"] = torch.tensor([guess])
        encoder = Encoder.of(params, rows_BD, hyper, kernels_for("numba", "cpu"), torch.empty(7, N))
        firings = BatchTopK().choose(params, encoder, hyper)
        torch.testing.assert_close(firings.dense(N), brute_X.view(B, N), rtol=1e-4, atol=1e-5)


def test_ties_and_nan_among_the_largest() -> None:
    start = torch.tensor([0, 3, 3, 6])
    feature = torch.tensor([0, 1, 2, 0, 1, 2])
    tied = Firings(start, feature, torch.tensor([1.0, 2.0, 2.0, 2.0, 0.5, 2.0]))
    kept = largest(tied, 3)
    assert kept.feature_F.tolist() == [1, 2, 0]
    assert kept.start_B1.tolist() == [0, 2, 2, 3]
    assert largest(tied, 6) is tied
    broken = largest(Firings(start, feature, torch.tensor([1.0, float("nan"), 2.0, 3.0, 0.5, 2.0])), 2)
    assert broken.value_F.isnan().tolist() == [True, False]
    assert broken.value_F[1] == 3


def test_what_cannot_be_sparse_is_refused() -> None:
    with pytest.raises(UsageError, match=r"`way`.*dense steps only"):
        fit(X, variant="aligned", way="sparse", width=N, k=3, batch=B, steps=2)


def test_the_threshold_forgets_the_first_batches() -> None:
    """Codes grow from random weights on; after a short run L0 by the threshold must still be k."""
    params = {"threshold": torch.tensor([[UNSET], [0.5]])}
    zeros_M = torch.zeros(2)
    for least in (torch.tensor([3.0, torch.inf]), *[torch.tensor([1.0, 1.0])] * 60):
        statistics = StepStatistics(zeros_M, zeros_M, torch.zeros(2, 1, dtype=torch.bool), {"least": least})
        BatchTopK().track(params, statistics, Hyper(zeros_M, torch.tensor([8, 8])))
    assert params["threshold"].flatten().tolist() == pytest.approx([1.0, 1.0], rel=0.01)

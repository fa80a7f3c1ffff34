"""The kernels: the plain torch reference against brute force, autograd and torch.optim; the others against it."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields, replace

import numba
import pytest
import torch
from kernel_cases import (
    CASES,
    ORACLE,
    SELECTIONS,
    WIDTHS,
    Case,
    check_above,
    check_adam,
    check_broken,
    check_columns,
    check_decode,
    check_dots,
    check_square_norms,
    check_topk,
    check_update,
    counts_of,
    ends_of,
    firings_of,
    gradient_of,
    moved_to,
    normal,
    params_of,
    rates_of,
    same_firings,
    weights,
)

from monosemy.kernels import cpu_compile
from monosemy.kernels.choose import kernels_for
from monosemy.kernels.contract import Kernels
from monosemy.kernels.firings import Firings
from monosemy.kernels.reference import Reference, row_gradients
from monosemy.runtime import UsageError

DOUBLE = moved_to(torch.float64)
NAMES = ("torch", "numba")


@pytest.fixture(params=NAMES)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return kernels_for(request.param, "cpu")


def kept_by_hand(row: list[float], k: int) -> list[int]:
    """NaN first, then by falling value, then by rising place; of the first k what is not at or below 0."""
    order = sorted(range(len(row)), key=lambda j: (not math.isnan(row[j]), 0 if math.isnan(row[j]) else -row[j], j))
    return sorted(j for j in order[:k] if not row[j] <= 0)


@pytest.mark.parametrize("name", list(SELECTIONS))
def test_the_reference_selects_what_brute_force_selects(name: str) -> None:
    for width in WIDTHS:
        z_BN, threshold_N = SELECTIONS[name](4, width), normal(width, seed=5)
        for k in counts_of(width):
            expected = [kept_by_hand(row, k) for row in z_BN.tolist()]
            found = ORACLE.topk(z_BN, k)
            assert [part.tolist() for part in found.feature_F.split(found.start_B1.diff().tolist())] == expected
            same_firings(found, replace(found, value_F=z_BN[found.row_F, found.feature_F]))
        found = ORACLE.above(z_BN, threshold_N)
        pairs = [(b, n) for b in range(4) for n in range(width) if not z_BN[b, n].item() <= threshold_N[n].item()]
        assert list(zip(found.row_F.tolist(), found.feature_F.tolist(), strict=True)) == pairs


@pytest.mark.parametrize("name", list(CASES))
def test_the_reference_decodes_with_autograds_gradients(name: str) -> None:
    case = CASES[name]
    firings, ends, W_NE = DOUBLE(firings_of(case)), ends_of(case), weights(case, 8, case.d_out).double()
    b_E, target_BE = normal(case.d_out, seed=10).double(), normal(case.rows, case.d_out, seed=9).double()
    codes_BN, leaf_NE = firings.dense(case.width).requires_grad_(), W_NE.clone().requires_grad_()
    squares = []
    for end in ends:
        rec_BE = codes_BN[:, :end] @ leaf_NE[:end] + b_E
        squares.append((rec_BE - target_BE).square().sum(dim=1))
    square_B = torch.stack(squares).mean(dim=0)
    square_B.sum().backward()
    residual_GBE = torch.empty(len(ends), case.rows, case.d_out, dtype=torch.float64)
    found_B, dots_F = ORACLE.decode(firings, W_NE, b_E, target_BE, ends, residual_GBE)
    assert codes_BN.grad is not None
    torch.testing.assert_close(found_B, square_B.detach())
    torch.testing.assert_close(2 * dots_F, codes_BN.grad[firings.row_F, firings.feature_F])
    gradient = replace(gradient_of(replace(case, unit=False, tied=False, pull=False, extra=False)), W_dec_NE=W_NE)
    gradient = replace(
        gradient, code_F=firings.value_F, residual_GBE=residual_GBE, columns=ORACLE.columns(firings, case.width)
    )
    torch.testing.assert_close(row_gradients(DOUBLE(gradient))[0], leaf_NE.grad / case.rows)
    dots_F = ORACLE.dots(firings, residual_GBE[0], W_NE)
    torch.testing.assert_close(dots_F, (residual_GBE[0] @ W_NE.T)[firings.row_F, firings.feature_F])


@pytest.mark.parametrize("name", list(CASES))
def test_the_references_row_gradients_are_autograds(name: str) -> None:
    """Of a function that is linear in the decoder's output and in z; unit rows: of the rows' directions."""
    case = CASES[name]
    gradient, firings = DOUBLE(gradient_of(case)), DOUBLE(firings_of(case))
    if case.unit:
        gradient = replace(gradient, W_dec_NE=gradient.W_dec_NE / gradient.W_dec_NE.norm(dim=1, keepdim=True))
    W_dec = gradient.W_dec_NE.clone().requires_grad_()
    W_enc = W_dec if case.tied else weights(case, 30, case.d_in).double().requires_grad_()
    b_enc = torch.zeros(case.width, dtype=torch.float64, requires_grad=True)
    rows_NE = W_dec / W_dec.norm(dim=1, keepdim=True) if case.unit else W_dec
    encoder_ND = rows_NE if case.tied else W_enc
    row_F, feature_F = firings.row_F, firings.feature_F
    level_F = sum((feature_F >= end).long() for end in ends_of(case)[:-1]) + torch.zeros_like(feature_F)
    written_F = (gradient.residual_GBE[level_F, row_F] * rows_NE[feature_F]).sum(dim=1)
    z_F = (gradient.x_BD[row_F] * encoder_ND[feature_F]).sum(dim=1) + b_enc[feature_F]
    loss = 2 / case.rows * (gradient.code_F * written_F).sum() + (gradient.dz_F * z_F).sum()
    if gradient.pull_N is not None:
        loss = loss + (gradient.pull_N * W_dec.square().sum(dim=1)).sum() / 2 * (not case.unit)
    if (extra := gradient.extra) is not None:
        loss = loss + (extra.dec_UE * rows_NE[extra.feature_U]).sum() + (extra.b_U * b_enc[extra.feature_U]).sum()
        loss = loss + (extra.enc_UD * encoder_ND[extra.feature_U]).sum()
    leaves = [W_dec, b_enc] if case.tied else [W_dec, b_enc, W_enc]
    expected = torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True)
    dec_NE, enc_ND, b_N = row_gradients(gradient)
    found = [dec_NE, b_N] if enc_ND is None else [dec_NE, b_N, enc_ND]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ORACLE.square_norms(gradient), sum(b.square().sum() for b in expected))


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])
def test_updates_are_those_of_torch_optim(kernels: Kernels, tied: bool, unit: bool) -> None:
    case = Case(tied=tied, unit=unit, scale=0.5)
    adam, _ = rates_of(case)
    gradient = gradient_of(case)
    params = replace(params_of(case, torch.empty(0)), W_dec_NE=gradient.W_dec_NE)
    pairs = [(params.W_dec_NE, "W_dec_NE"), (params.b_enc_N, "b_enc_N")]
    if params.W_enc_ND is not None:
        pairs.append((params.W_enc_ND, "W_enc_ND"))
    for _, name in pairs:
        for moment in ("m", "v"):
            getattr(params, f"{moment}_{name}").zero_()
    leaves = [tensor.double().requires_grad_() for tensor, _ in pairs]
    optimiser = torch.optim.Adam(leaves, lr=0.01, betas=(adam.beta1, adam.beta2), eps=adam.eps)
    for step in range(1, 6):
        exact = replace(DOUBLE(gradient), W_dec_NE=leaves[0].detach())
        dec_NE, enc_ND, b_N = row_gradients(exact)
        for leaf, grad in zip(leaves, (dec_NE, b_N, enc_ND), strict=False):
            leaf.grad = case.scale * grad
        optimiser.step()
        with torch.no_grad():
            if unit:
                leaves[0] /= leaves[0].norm(dim=1, keepdim=True)
        kernels.update(gradient, params, replace(adam, step=step), torch.full((case.width,), 0.01), case.scale)
    for (tensor, name), leaf in zip(pairs, leaves, strict=True):
        torch.testing.assert_close(
            tensor.double(), leaf.detach(), rtol=1e-4, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}"
        )


@pytest.mark.parametrize("name", list(SELECTIONS))
def test_selection_agrees(kernels: Kernels, name: str) -> None:
    for width in WIDTHS:
        z_BN = SELECTIONS[name](7, width)
        for k in counts_of(width):
            check_topk(kernels, z_BN, k)
        for threshold_N in (torch.zeros(width), normal(width, seed=5), torch.full((width,), float("inf"))):
            check_above(kernels, z_BN, threshold_N)


def test_selection_agrees_on_many_rows(kernels: Kernels) -> None:
    """Wide enough for groups of 64, with few distinct values, and rows of every number of values above 0."""
    z_BN = normal(300, 2100, seed=1).mul(50).round() - torch.linspace(0, 250, 300)[:, None]
    assert (z_BN[-1] > 0).sum() < 2 < (z_BN[0] > 0).sum()
    for k in (1, 2, 40, 1000):
        check_topk(kernels, z_BN, k)
    check_above(kernels, z_BN, normal(2100).square() * 100)


@pytest.mark.parametrize("k", [0, 6])
def test_k_is_at_most_the_width(k: int) -> None:
    with pytest.raises(ValueError, match="must be 1 … 5"):
        kernels_for("numba", "cpu").topk(torch.ones(2, 5), k)


@pytest.mark.parametrize("name", list(CASES))
def test_a_step_agrees(kernels: Kernels, name: str) -> None:
    case = CASES[name]
    check_decode(kernels, case)
    check_dots(kernels, case)
    check_columns(kernels, case)
    check_square_norms(kernels, case)
    check_update(kernels, case)


def test_a_larger_step_agrees(kernels: Kernels) -> None:
    """Enough firings for the sort to use two threads."""
    case = Case(rows=400, width=300, d_in=24, d_out=24, unit=True, ends=(70, 300), codes="common")
    assert len(firings_of(case).feature_F) > 2 * 8192
    check_decode(kernels, case)
    check_columns(kernels, case)
    check_square_norms(kernels, case)
    check_update(kernels, case)


@pytest.mark.parametrize("unit", [False, True], ids=["free", "unit"])
@pytest.mark.parametrize("shape", [(1, 1), (9, 1), (1, 40), (23, 33), (16, 64)], ids=str)
def test_dense_adam_agrees(kernels: Kernels, shape: tuple[int, int], unit: bool) -> None:
    check_adam(kernels, shape, unit)


def test_nan_and_infinity_come_through(kernels: Kernels) -> None:
    check_broken(kernels)


def test_chunks_of_rows_join_to_the_batch(kernels: Kernels) -> None:
    z_BN = normal(20, 30) - 1
    whole = kernels.topk(z_BN, 8)
    assert len(whole.feature_F) < 20 * 8  # rows of unequal length
    same_firings(Firings.joined([kernels.topk(chunk_BN, 8) for chunk_BN in z_BN.split(6)]), whole)
    same_firings(Firings.joined([whole]), whole)
    codes_BN = torch.zeros_like(z_BN)
    for b in range(20):
        kept = kept_by_hand(z_BN[b].tolist(), 8)
        codes_BN[b, kept] = z_BN[b, kept]
    assert torch.equal(whole.dense(30), codes_BN)


def test_the_sort_is_stable() -> None:
    firings = firings_of(CASES["a common feature"])
    pairs = list(zip(firings.feature_F.tolist(), firings.row_F.tolist(), strict=True))
    expected = sorted(range(len(pairs)), key=lambda f: pairs[f])
    for name in NAMES:
        columns = kernels_for(name, "cpu").columns(firings, 37)
        assert columns.place_F.tolist() == expected
        assert columns.row_F.tolist() == [pairs[f][1] for f in expected]


def everything(case: Case, threads: int) -> list[torch.Tensor]:
    """What every numba kernel gives with this number of threads."""
    kernels, before = kernels_for("numba", "cpu"), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        selected = kernels.topk(normal(case.rows, case.width), 9)
        firings, gradient, (adam, lr_N) = firings_of(case), gradient_of(case), rates_of(case)
        residual_GBE = torch.empty_like(gradient.residual_GBE)
        target_BE = normal(case.rows, case.d_out, seed=9)
        found = [*kernels.decode(firings, gradient.W_dec_NE, None, target_BE, ends_of(case), residual_GBE)]
        columns, norm = kernels.columns(firings, case.width), kernels.square_norms(gradient)
        params = replace(params_of(case, torch.empty(0)), W_dec_NE=gradient.W_dec_NE)
        kernels.update(gradient, params, adam, lr_N)
        assert numba.get_num_threads() == threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
    parts = (selected, columns, params)
    found += [getattr(part, field.name) for part in parts for field in fields(part)]
    return [residual_GBE, norm, *found]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    if cpu_compile.CONFIG.NUMBA_NUM_THREADS < 2:
        pytest.skip("needs two processors")
    case = Case(rows=400, width=300, d_in=24, d_out=24, unit=True, ends=(70, 300), codes="common")
    for one, two in zip(everything(case, 1), everything(case, 2), strict=True):
        assert torch.equal(one, two)


def test_kernels_are_chosen_by_an_explicit_setting() -> None:
    assert kernels_for("auto", "cpu") is kernels_for("numba", torch.device("cpu"))
    assert kernels_for("auto", "meta").name == "torch"
    assert isinstance(kernels_for("torch", "cpu"), Reference)
    with pytest.raises(UsageError, match=r"`kernels` \(='fortran'\) must be one of auto, torch, numba, triton"):
        kernels_for("fortran", "cpu")
    with pytest.raises(UsageError, match="run on the CPU only, not on cuda"):
        kernels_for("numba", "cuda")


def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monosemy.kernels.choose.find_spec", {}.get)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert kernels_for("auto", "cpu").name == "torch"
    assert kernels_for("auto", "cuda").name == "torch"
    with pytest.raises(UsageError, match="needs the package numba, which is not installed"):
        kernels_for("numba", "cpu")
    monkeypatch.setattr("monosemy.kernels.choose.find_spec", lambda name: name)
    with pytest.raises(UsageError, match="need a CUDA device, not cpu"):
        kernels_for("triton", "cpu")


SEPARATE = """
import sys, torch
from monosemy.kernels.choose import kernels_for
assert not {"numba", "triton"} & set(sys.modules), "imported before it was asked for"
torch.set_num_threads(1)
kernels_for("numba", "cpu")
print(torch.get_num_threads())
"""


def test_torch_keeps_its_threads_and_nothing_is_imported_early() -> None:
    run = subprocess.run([sys.executable, "-W", "error", "-c", SEPARATE], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1"]


def test_kernels_compile_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(**settings: object) -> object:
        if settings.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    assert cpu_compile._compiled()(abs) is abs

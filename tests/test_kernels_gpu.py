"""The Triton kernels against the reference: on a CUDA device where there is one, else through Triton's interpreter.

The interpreter takes milliseconds for every program, so that without a device only some of the cases are tried. It also
accepts what the compiler does not: all kernels are compiled for an H200 besides, which needs no device.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kernel_cases import (
    CASES,
    ORACLE,
    SELECTIONS,
    Case,
    check_above,
    check_adam,
    check_columns,
    check_decode,
    check_dots,
    check_square_norms,
    check_topk,
    check_update,
    counts_of,
    gradient_of,
    moved_to,
    normal,
    params_of,
    rates_of,
    same_firings,
)

triton = pytest.importorskip("triton")

from monosemy.kernels import gpu_decode, gpu_gradient, gpu_select  # noqa: E402
from monosemy.kernels.firings import AdamStep, Columns, Extra, Firings, RowGradients, RowParams  # noqa: E402
from monosemy.kernels.gpu import Triton  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
KERNELS = Triton()
needs_gpu = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
pytestmark = pytest.mark.skipif(
    not CUDA and os.environ.get("TRITON_INTERPRET") != "1", reason="needs a CUDA device or TRITON_INTERPRET=1"
)

STEPS = (
    "unit",
    "tied, unit, extra, pull",
    "transcoder with pull and extra",
    "one dimension",
    "three levels, an extra",
    "no firing",
    "some left alone",
    "clipped, first step",
)
LONG_STEPS = ("a common feature", "all fire", "some left alone, tied", "two levels")


def small(name: str) -> Case:
    """The case as it is on a device; for the interpreter of 11 features, 12 rows at most."""
    case = CASES[name]
    if CUDA or case.width <= 11:
        return case
    ends = tuple(end * 11 // case.width for end in case.ends)
    return replace(case, rows=min(case.rows, 12), width=11, ends=ends)


@pytest.fixture(autouse=True)
def _numpy_is_quiet() -> Iterator[None]:
    """The interpreter computes in numpy, which would warn of every NaN that the cases put in."""
    with np.errstate(all="ignore"):
        yield


@pytest.mark.parametrize("name", SELECTIONS)
def test_topk_of_short_rows(name: str) -> None:
    for width in (1, 5, 70) if CUDA else (1, 37):
        for k in counts_of(width):
            check_topk(KERNELS, SELECTIONS[name](2, width), k, DEVICE)


@pytest.mark.parametrize("name", SELECTIONS)
def test_topk_by_groups(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of 8 (the last one not full) and of 4, whose maxima are often equal."""
    monkeypatch.setattr(gpu_select, "RANKED_WHOLE", 8)
    for width, k in ((257, 1), (70, 3), (257, 3), (257, 11)) if CUDA else ((257, 3),):
        check_topk(KERNELS, SELECTIONS[name](2, width), k, DEVICE)


@pytest.mark.parametrize("name", SELECTIONS if CUDA else ["ties", "ones", "nan, inf and ties"])
@pytest.mark.parametrize("whole", [8, 4096])
def test_topk_of_more_candidates_than_registers_hold(name: str, whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 32 candidates, so that ties are counted from one to the next."""
    monkeypatch.setattr(gpu_select, "RANKED_WHOLE", whole)
    monkeypatch.setattr(gpu_select, "HELD", 32)
    check_topk(KERNELS, SELECTIONS[name](1, 170), 9, DEVICE)


def test_topk_of_no_row() -> None:
    check_topk(KERNELS, torch.zeros(0, 5), 2, DEVICE)
    check_above(KERNELS, torch.zeros(0, 5), torch.zeros(5), DEVICE)


@pytest.mark.parametrize("name", SELECTIONS)
def test_above(name: str) -> None:
    for width in (1, 70, 257):
        check_above(KERNELS, SELECTIONS[name](2, width), normal(width, seed=5), DEVICE)


def test_above_over_several_chunks() -> None:
    """Also nothing, everything, and thresholds that are no numbers, which nothing is below."""
    z_BN = normal(3, 2 * gpu_select.TILE + 77)
    rare_N = torch.full_like(z_BN[0], 2.5)
    rare_N[::1000] = float("nan")
    for threshold_N in (rare_N, torch.full_like(rare_N, 9.0), torch.full_like(rare_N, -float("inf"))):
        check_above(KERNELS, z_BN, threshold_N, DEVICE)


@pytest.mark.parametrize("name", CASES)
def test_decode(name: str) -> None:
    check_decode(KERNELS, CASES[name], DEVICE)


@pytest.mark.parametrize("name", ["plain", "three levels", "three levels, two equal", "wide rows", "transcoder"])
def test_decode_and_dots_of_rows_longer_than_a_tile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 0 to 37 firings, 8 at a time."""
    monkeypatch.setattr(gpu_decode, "LONGEST", 8)
    case = CASES[name] if CUDA else replace(CASES[name], rows=7)
    check_decode(KERNELS, case, DEVICE)
    check_dots(KERNELS, replace(case, codes="full"), DEVICE)


@pytest.mark.parametrize("longest", [8, 128])
def test_decode_keeps_nan_to_its_row_and_inf_to_its_column(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_decode, "LONGEST", longest)
    firings = ORACLE.above(normal(4, 30), torch.zeros(30))
    assert firings.start_B1.diff().max() > 8
    firings.value_F[firings.start_B1[1]] = float("nan")
    W_NE, target_BE, ends = normal(30, 19, seed=1), normal(4, 19, seed=2), (10, 30)
    W_NE[firings.feature_F[-1], 3] = float("inf")
    found, expected = torch.empty(2, 4, 19, device=DEVICE), torch.empty(2, 4, 19)
    moved = moved_to(DEVICE)
    sums = KERNELS.decode(moved(firings), moved(W_NE), None, moved(target_BE), ends, found)
    expected_sums = ORACLE.decode(firings, W_NE, None, target_BE, ends, expected)
    assert expected[:, 1].isnan().all()
    assert expected[:, 3, :3].isfinite().all()
    for a, b in zip((found, *sums), (expected, *expected_sums), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=2e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("name", CASES if CUDA else ["transcoder", "wide rows", "one dimension", "no firing"])
def test_dots(name: str) -> None:
    check_dots(KERNELS, CASES[name], DEVICE)


@pytest.mark.parametrize("name", CASES)
def test_columns(name: str) -> None:
    check_columns(KERNELS, CASES[name], DEVICE)


@pytest.mark.parametrize("name", CASES if CUDA else STEPS)
def test_square_norms_and_update(name: str) -> None:
    check_square_norms(KERNELS, small(name), DEVICE)
    check_update(KERNELS, small(name), DEVICE)


@pytest.mark.parametrize("name", CASES if CUDA else LONG_STEPS)
def test_square_norms_and_update_of_long_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 4 firings of a feature are a part of their own."""
    monkeypatch.setattr(gpu_gradient, "LONG_COLUMN", 4)
    check_square_norms(KERNELS, small(name), DEVICE)
    check_update(KERNELS, small(name), DEVICE)


@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 40), (7, 13), (3, 1500)])
def test_adam(shape: tuple[int, int], unit: bool) -> None:
    check_adam(KERNELS, shape, unit, DEVICE)


def test_all_kernels_compile_for_an_h200(tmp_path: Path) -> None:
    """Without the interpreter, in another process; see the end of this file."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "error", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = "_peaks _pick _mark _fill _decode _dots _parts _squares _update _adam_rows"
    assert " ".join(dict.fromkeys(done.stdout.split())) == names


@needs_gpu
def test_gpu_topk_of_a_wide_dictionary() -> None:
    """131,072 wide, in groups of 32; also one where one value is everywhere."""
    for z_BN in (normal(64, 131_072), normal(64, 131_072).round(), torch.ones(4, 131_072)):
        for k in (1, 64, 1000):
            check_topk(KERNELS, z_BN, k, DEVICE)
    check_above(KERNELS, normal(64, 131_072), torch.full((131_072,), 3.0), DEVICE)


@needs_gpu
def test_gpu_step_of_wide_rows() -> None:
    """D = 4096 and no power of 2; features that fire in all of 3000 rows, so that columns are cut as they will be."""
    for case in (Case(300, 4096, 4096, 500, unit=True), Case(3000, 700, 1000, 40, codes="common", unit=True)):
        check_decode(KERNELS, case, DEVICE)
        check_dots(KERNELS, case, DEVICE)
        check_square_norms(KERNELS, case, DEVICE)
        check_update(KERNELS, case, DEVICE)


@needs_gpu
def test_gpu_only_selection_waits_for_the_device() -> None:
    case, to = CASES["three levels, an extra"], moved_to(DEVICE)
    gradient = to(gradient_of(case))
    params, (adam, lr_N) = to(params_of(case, gradient.W_dec_NE)), rates_of(case)
    firings, lr_N = KERNELS.topk(to(normal(case.rows, case.width)), 3), to(lr_N)
    for mode in ("default", "error"):  # first, constants are copied and kernels compiled
        torch.cuda.set_sync_debug_mode(mode)
        try:
            KERNELS.columns(firings, case.width)
            KERNELS.dots(firings, gradient.x_BD, params.W_enc_ND)
            target_BE = gradient.residual_GBE[0].clone()
            KERNELS.decode(firings, gradient.W_dec_NE, None, target_BE, gradient.ends, gradient.residual_GBE)
            KERNELS.update(gradient, params, adam, lr_N, 1.0 / KERNELS.square_norms(gradient))
        finally:
            torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_gpu_runs_are_equal_to_the_bit() -> None:
    z_BN = normal(64, 5000).to(DEVICE)
    W_NE, target_BE = normal(5000, 100, seed=1).to(DEVICE), normal(64, 100, seed=2).to(DEVICE)
    runs = []
    for _ in range(2):
        firings = KERNELS.topk(z_BN, 32)
        residual_GBE = torch.empty(1, 64, 100, device=DEVICE)
        runs.append((firings, residual_GBE, *KERNELS.decode(firings, W_NE, None, target_BE, (5000,), residual_GBE)))
    same_firings(runs[0][0], moved_to("cpu")(runs[1][0]))
    for a, b in zip(runs[0][1:], runs[1][1:], strict=True):
        assert torch.equal(a, b)


def compile_all() -> None:
    """Every kernel at D = 4096, N = 131,072, k = 64: `run` compiles instead of starting, and prints the names."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    types = {torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64", int: "i32", float: "fp32"}

    def compiled(self: Any, *args: Any, **named: Any) -> None:
        options = {name: named.pop(name) for name in ("num_warps", "enable_fp_fusion")}
        values, signature, constants, aligned = {**dict(zip(self.arg_names, args, strict=False)), **named}, {}, {}, {}
        for i, parameter in enumerate(self.params):
            value = values[parameter.name]
            if parameter.is_constexpr or (type(value) is int and value == 1):
                signature[parameter.name], constants[(i,)] = "constexpr", value
                continue
            tensor = isinstance(value, torch.Tensor)
            signature[parameter.name] = types[value.dtype if tensor else type(value)]
            if tensor or (type(value) is int and value % 16 == 0):
                aligned[(i,)] = [["tt.divisibility", 16]]
        source = ASTSource(self, signature, constants, aligned)
        triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        print(self.__name__)

    JITFunction.run = compiled
    torch.empty = lambda *shape, **options: torch.zeros(*shape, **options)  # what no kernel fills is read as sizes
    B, D, N, k = 16, 4096, 131_072, 64
    KERNELS.topk(torch.zeros(B, N), k)
    KERNELS.above(torch.zeros(B, N), torch.zeros(N))
    firings = Firings(torch.arange(B + 1) * k, torch.arange(k).repeat(B), torch.ones(B * k))
    columns = ORACLE.columns(firings, N)
    W_ND, x_BD, b_N = torch.zeros(1).expand(N, D), torch.zeros(B, D), torch.zeros(N)
    KERNELS.decode(firings, W_ND, x_BD[0], x_BD, (N // 2, N), x_BD.expand(2, B, D))
    KERNELS.dots(firings, x_BD, W_ND)
    gradient_with(columns, firings, x_BD, W_ND, b_N)
    KERNELS.adam(W_ND, W_ND, W_ND, W_ND, AdamStep(0.9, 0.999, 1e-8, 3), b_N, True, 1.0)


def gradient_with(
    columns: Columns, firings: Firings, x_BD: torch.Tensor, W_ND: torch.Tensor, b_N: torch.Tensor
) -> None:
    """The two kernels that make gradients, with all that a gradient can have."""
    extra, ends, adam = (
        Extra(columns.row_F[:3], x_BD[:3], x_BD[:3], b_N[:3]),
        (5, len(b_N)),
        AdamStep(0.9, 0.99, 1e-8, 3),
    )
    residual_GBE = x_BD.expand(2, *x_BD.shape)
    dz_F = firings.value_F
    gradient = RowGradients(columns, dz_F, dz_F, x_BD, residual_GBE, ends, W_ND, False, True, b_N, extra)
    KERNELS.square_norms(gradient)
    KERNELS.update(gradient, RowParams(W_ND, W_ND, W_ND, b_N, b_N, b_N, W_ND, W_ND, W_ND), adam, b_N)


if __name__ == "__main__":
    compile_all()

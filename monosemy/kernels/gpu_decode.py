"""Reconstruction of a batch from sparse codes and the gradient of each code, on a GPU (Triton).

One program a row, W_dec read once: P = 128 columns of the decoder rows it needs, a tile [K, P], are gathered into
registers; this panel of x̂ − target is its sum over K, written as the residual, and the same tile times that residual is
what the panel adds to every dot product. All nested levels come from the one tile, last level first, so that residuals
are running sums and no panel is read again. Bytes: 4·F·E gathered in pieces of 512, 4·B·E of targets and 4·G·B·E of
residuals; at E=4096, B=8192, k=64 8.6 GB + 0.3 GB, 1.9 ms at 4.8 TB/s; 4·F·E FLOPs are far below the limit. Which rows
are gathered is up to the data: what of it comes from L2 is chance.

A row with more firings than the tile holds (K is the power of 2 above the mean, at most 128; with a fixed k that is
every row's) goes the long way: the sums first, chunk after chunk, then the dots in a second reading of its rows.

`dots` is that second part alone, 4·F·D bytes. No host synchronisation.

Shapes: those of `firings.py`; K firings of a row at a time, P columns of a panel.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl

from monosemy.kernels.firings import Firings

PANEL = 128
LONGEST = 128  # firings of a row that a tile may hold


@lru_cache(maxsize=64)
def ends_on(ends: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where the level blocks end, on the device: copied there once."""
    return torch.tensor(ends, dtype=torch.int64, device=device)


def decode(
    firings: Firings,
    W_dec_NE: torch.Tensor,
    b_dec_E: torch.Tensor | None,
    target_BE: torch.Tensor,
    ends: tuple[int, ...],
    residual_GBE: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`Kernels.decode`."""
    square_B = torch.empty_like(firings.start_B1[1:], dtype=torch.float32)
    dots_F = torch.empty_like(firings.value_F)
    _decode[(firings.rows,)](
        firings.start_B1,
        firings.feature_F,
        firings.value_F,
        W_dec_NE,
        target_BE if b_dec_E is None else b_dec_E,
        target_BE,
        ends_on(ends, target_BE.device),
        residual_GBE,
        square_B,
        dots_F,
        firings.rows,
        W_dec_NE.shape[1],
        b_dec_E is not None,
        len(ends),
        **_tile(firings, W_dec_NE.shape[1]),
    )
    return square_B, dots_F


def dots(firings: Firings, a_BD: torch.Tensor, W_ND: torch.Tensor) -> torch.Tensor:
    """`Kernels.dots`."""
    dots_F = torch.empty_like(firings.value_F)
    _dots[(firings.rows,)](
        firings.start_B1, firings.feature_F, a_BD, W_ND, dots_F, W_ND.shape[1], **_tile(firings, W_ND.shape[1])
    )
    return dots_F


def _tile(firings: Firings, columns: int) -> dict[str, Any]:
    """K and P, and 32 numbers of the tile a thread. Rows of different lengths get a quarter more than their mean."""
    mean = triton.cdiv(len(firings.feature_F), max(firings.rows, 1))
    if len(firings.feature_F) != mean * firings.rows:
        mean += mean // 4
    held = min(LONGEST, max(8, triton.next_power_of_2(mean)))
    panel = min(PANEL, max(16, triton.next_power_of_2(columns)))
    return {"K": held, "P": panel, "num_warps": max(1, held * panel // 1024), "enable_fp_fusion": True}


@triton.jit
def level_of(feature, end_G, G: tl.constexpr):
    """The block that each feature is in."""
    level = (feature * 0).to(tl.int32)
    for g in range(G - 1):
        level += (feature >= tl.load(end_G + g)).to(tl.int32)
    return level


@triton.jit
def _panel_of(W_NE, feature, here, column, E):
    """The tile of these features' rows."""
    inside = here[:, None] & (column < E)[None, :]
    return tl.load(W_NE + feature[:, None] * E + column[None, :], mask=inside, other=0.0)


@triton.jit
def _shift(b_E, target_E, column, E, BIAS: tl.constexpr):
    """b_dec − target in one panel."""
    shift_P = -tl.load(target_E + column, mask=column < E, other=0.0)
    if BIAS:
        shift_P += tl.load(b_E + column, mask=column < E, other=0.0)
    return shift_P


@triton.jit
def _row_dots(
    feature_F, first, last, a_GBD, W_ND, dots_F, row, B, D, end_G, G: tl.constexpr, K: tl.constexpr, P: tl.constexpr
):
    """⟨a[level, row], W[feature]⟩ of one row's firings, K at a time."""
    for chunk in range(first, last, K):
        slot = chunk + tl.arange(0, K)
        feature = tl.load(feature_F + slot, mask=slot < last, other=0)
        a_KD = a_GBD + (level_of(feature, end_G, G).to(tl.int64) * B + row) * D
        sum_K = tl.zeros([K], tl.float32)
        for start in range(0, D, P):
            column = start + tl.arange(0, P)
            inside = (slot < last)[:, None] & (column < D)[None, :]
            a_KP = tl.load(a_KD[:, None] + column[None, :], mask=inside, other=0.0)
            sum_K += tl.sum(a_KP * _panel_of(W_ND, feature, slot < last, column, D), 1)
        tl.store(dots_F + slot, sum_K, mask=slot < last)


@triton.jit
def _dots(start_B1, feature_F, a_BD, W_ND, dots_F, D, K: tl.constexpr, P: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    first, last = tl.load(start_B1 + row), tl.load(start_B1 + row + 1)
    _row_dots(feature_F, first, last, a_BD, W_ND, dots_F, row, 0, D, start_B1, 1, K, P)


@triton.jit
def _decode_short(
    feature_F, value_F, first, last, W_NE, b_E, target_E, end_G, residual_GBE, dots_F, row, B, E,
    BIAS: tl.constexpr, G: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Σ of squares of all levels; the row's firings are one tile."""
    slot = first + tl.arange(0, K)
    here = slot < last
    feature = tl.load(feature_F + slot, mask=here, other=0)
    value = tl.load(value_F + slot, mask=here, other=0.0)
    level = level_of(feature, end_G, G)
    dots_K, square_P = tl.zeros([K], tl.float32), tl.zeros([P], tl.float32)
    for start in range(0, E, P):
        column = start + tl.arange(0, P)
        W_KP = _panel_of(W_NE, feature, here, column, E)
        shift_P = _shift(b_E, target_E, column, E, BIAS)
        run_P = tl.zeros([P], tl.float32)
        for turn in range(G):
            h = G - 1 - turn
            # chosen, not multiplied by 0: with Inf in a later level's row that would be NaN
            part_KP = tl.where((level <= h)[:, None], W_KP * value[:, None], 0.0)
            error_P = tl.where(column < E, shift_P + tl.sum(part_KP, 0), 0.0)
            square_P += error_P * error_P
            run_P += error_P
            residual_P = run_P / G
            tl.store(residual_GBE + (h * B + row) * E + column, residual_P, mask=column < E)
            dots_K += tl.where(level == h, tl.sum(W_KP * residual_P[None, :], 1), 0.0)
    tl.store(dots_F + slot, dots_K, mask=here)
    return tl.sum(square_P)


@triton.jit
def _decode_long(
    feature_F, value_F, first, last, W_NE, b_E, target_E, end_G, residual_GBE, dots_F, row, B, E,
    BIAS: tl.constexpr, G: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The same with as many firings as there are: errors up the levels, running sums back, then dots."""
    square_P = tl.zeros([P], tl.float32)
    for start in range(0, E, P):
        column = start + tl.arange(0, P)
        error_P = _shift(b_E, target_E, column, E, BIAS)
        for h in range(G):
            for chunk in range(first, last, K):
                slot = chunk + tl.arange(0, K)
                feature = tl.load(feature_F + slot, mask=slot < last, other=0)
                here = (slot < last) & (level_of(feature, end_G, G) == h)
                value = tl.load(value_F + slot, mask=here, other=0.0)
                part_KP = _panel_of(W_NE, feature, here, column, E) * value[:, None]
                error_P += tl.sum(tl.where(here[:, None], part_KP, 0.0), 0)
            error_P = tl.where(column < E, error_P, 0.0)
            square_P += error_P * error_P
            tl.store(residual_GBE + (h * B + row) * E + column, error_P / G, mask=column < E)
        if G > 1:
            tl.debug_barrier()  # what is read back now was written by other threads of the program
            run_P = tl.zeros([P], tl.float32)
            for turn in range(G):
                residual_E = residual_GBE + ((G - 1 - turn) * B + row) * E
                run_P += tl.load(residual_E + column, mask=column < E, other=0.0)
                tl.store(residual_E + column, run_P, mask=column < E)
    tl.debug_barrier()
    _row_dots(feature_F, first, last, residual_GBE, W_NE, dots_F, row, B, E, end_G, G, K, P)
    return tl.sum(square_P)


@triton.jit
def _decode(
    start_B1, feature_F, value_F, W_NE, b_E, target_BE, end_G, residual_GBE, square_B, dots_F, B, E,
    BIAS: tl.constexpr, G: tl.constexpr, K: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    first, last = tl.load(start_B1 + row), tl.load(start_B1 + row + 1)
    target_E = target_BE + row * E
    if last - first <= K:
        square = _decode_short(
            feature_F, value_F, first, last, W_NE, b_E, target_E, end_G, residual_GBE, dots_F, row, B, E, BIAS, G, K, P
        )
    else:
        square = _decode_long(
            feature_F, value_F, first, last, W_NE, b_E, target_E, end_G, residual_GBE, dots_F, row, B, E, BIAS, G, K, P
        )
    tl.store(square_B + row, square / G)

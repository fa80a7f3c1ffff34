"""The gradient of one feature's rows, made in registers from its firings (Triton): what `gpu_update.py` calls.

A feature's gradient is gathered: J residual rows at a time, each times its code, are summed into a block as wide as the
row (16 numbers a thread at D = 4096), then the same of x times dz. With J loads under way a program does not wait for
one row after the other. Bytes: 4·F·(E+D).

Features that fire very often would be the last to finish. Columns longer than `split` firings are therefore cut: every
full `split` firings are summed by a program of their own (`_parts`) into one of S ≤ F/split rows, and the feature's
program adds those rows and gathers only the rest. `split` is at least 256 and so large that S is at most 4096 or N/16:
no buffer of N×D. S is known from F alone, so nothing waits for the device, and all sums are in a fixed order.

What was left out: bf16 copies of x and the residual, which would halve the gathers; rows cut over several programs (a D
above 16,384 spills registers and is still right).

Shapes: those of `firings.py`; S parts of long columns, J firings at a time.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from monosemy.kernels.firings import RowGradients
from monosemy.kernels.gpu_decode import ends_on, level_of
from monosemy.kernels.gpu_select import launch

LONG_COLUMN = 256  # firings of a feature that are left to one program at least
PARTS = 4096  # parts of long columns at most, or N/16


def sources(gradient: RowGradients) -> dict[str, Any]:
    """The arguments of a kernel that makes gradients, by name; sums the parts of long columns."""
    columns, extra, W_dec_NE = gradient.columns, gradient.extra, gradient.W_dec_NE
    (width, E), (rows, D), firings = W_dec_NE.shape, gradient.x_BD.shape, len(columns.row_F)
    unused = columns.start_N1
    split = max(LONG_COLUMN, triton.next_power_of_2(triton.cdiv(firings, max(PARTS, width // 16))))
    block = triton.next_power_of_2(max(D, E))
    common = {
        "start_N1": columns.start_N1,
        "row_F": columns.row_F,
        "place_F": columns.place_F,
        "code_F": gradient.code_F,
        "dz_F": gradient.dz_F,
        "x_BD": gradient.x_BD,
        "residual_GBE": gradient.residual_GBE,
        "end_G": ends_on(gradient.ends, unused.device),
        "B": rows,
        "D": D,
        "E": E,
        "G": len(gradient.ends),
        "SPLIT": split,
        "J": min(32, max(4, 2048 // block)),
        "BLOCK": block,
        **launch(block),
    }
    slots = firings // split
    part_start_N1, part_SE, part_SD, part_S = unused, unused, unused, unused
    if slots:
        part_start_N1 = torch.zeros_like(unused)
        torch.cumsum(unused.diff() // split, 0, out=part_start_N1[1:])
        feature_S = torch.searchsorted(part_start_N1[1:], torch.arange(slots, device=unused.device), right=True)
        part_SE, part_SD, part_S = (W_dec_NE.new_empty(shape) for shape in ((slots, E), (slots, D), (slots,)))
        _parts[(slots,)](feature_S, part_start_N1, part_SE, part_SD, part_S, width, **common)
    extra_N = unused
    if extra is not None:
        extra_N = torch.full_like(unused, -1)
        extra_N[extra.feature_U] = torch.arange(len(extra.feature_U), device=unused.device)
    return {
        **common,
        "part_start_N1": part_start_N1,
        "part_SE": part_SE,
        "part_SD": part_SD,
        "part_S": part_S,
        "pull_N": unused if gradient.pull_N is None else gradient.pull_N,
        "extra_N": extra_N,
        "extra_UE": unused if extra is None else extra.dec_UE,
        "extra_UD": unused if extra is None else extra.enc_UD,
        "extra_U": unused if extra is None else extra.b_U,
        "W_dec_NE": W_dec_NE,
        "TIED": gradient.tied,
        "UNIT": gradient.unit,
        "PULL": gradient.pull_N is not None,
        "EXTRA": extra is not None,
        "LONG": slots > 0,
    }


@triton.jit
def _gathered(weight_F, rows_BD, row_F, place_F, first, last, D, J: tl.constexpr, BLOCK: tl.constexpr):
    """Σ weight · row over the firings from `first` to `last`, 0 beyond D."""
    column = tl.arange(0, BLOCK)
    sum_D = tl.zeros([BLOCK], tl.float32)
    for at in range(first, last, J):
        firing = at + tl.arange(0, J)
        row = tl.load(row_F + firing, mask=firing < last, other=0)
        place = tl.load(place_F + firing, mask=firing < last, other=0)
        weight = tl.load(weight_F + place, mask=firing < last, other=0.0)
        inside = (firing < last)[:, None] & (column < D)[None, :]
        rows_JD = tl.load(rows_BD + row[:, None] * D + column[None, :], mask=inside, other=0.0)
        sum_D += tl.sum(tl.where(inside, rows_JD * weight[:, None], 0.0), 0)
    return sum_D


@triton.jit
def _added(part_SD, first, last, D, J: tl.constexpr, BLOCK: tl.constexpr):
    """Σ of the parts from `first` to `last`."""
    column = tl.arange(0, BLOCK)
    sum_D = tl.zeros([BLOCK], tl.float32)
    for at in range(first, last, J):
        part = at + tl.arange(0, J)
        inside = (part < last)[:, None] & (column < D)[None, :]
        sum_D += tl.sum(tl.load(part_SD + part[:, None] * D + column[None, :], mask=inside, other=0.0), 0)
    return sum_D


@triton.jit
def _bias(dz_F, place_F, first, last):
    """Σ dz."""
    sum_J = tl.zeros([128], tl.float32)
    for at in range(first, last, 128):
        firing = at + tl.arange(0, 128)
        place = tl.load(place_F + firing, mask=firing < last, other=0)
        sum_J += tl.load(dz_F + place, mask=firing < last, other=0.0)
    return tl.sum(sum_J)


@triton.jit
def _parts(
    feature_S, part_start_N1, part_SE, part_SD, part_S, N,
    start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_GBE, end_G, B, D, E,
    G: tl.constexpr, SPLIT: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One full piece of a long column; slots beyond the last piece have the feature N."""
    slot = tl.program_id(0).to(tl.int64)
    n = tl.load(feature_S + slot)
    if n < N:
        first = tl.load(start_N1 + n) + (slot - tl.load(part_start_N1 + n)) * SPLIT
        last = first + SPLIT
        column = tl.arange(0, BLOCK)
        residual_BE = residual_GBE + level_of(n, end_G, G).to(tl.int64) * B * E
        dec_E = _gathered(code_F, residual_BE, row_F, place_F, first, last, E, J, BLOCK)
        tl.store(part_SE + slot * E + column, dec_E, mask=column < E)
        enc_D = _gathered(dz_F, x_BD, row_F, place_F, first, last, D, J, BLOCK)
        tl.store(part_SD + slot * D + column, enc_D, mask=column < D)
        tl.store(part_S + slot, _bias(dz_F, place_F, first, last))


@triton.jit
def _row(
    n, weight_F, rows_BD, start_N1, row_F, place_F, part_start_N1, part_SD, D,
    SPLIT: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """Σ weight · row over the firings of feature n: its parts, then what is left of it."""
    first, last = tl.load(start_N1 + n), tl.load(start_N1 + n + 1)
    sum_D = tl.zeros([BLOCK], tl.float32)
    if LONG:
        part, end = tl.load(part_start_N1 + n), tl.load(part_start_N1 + n + 1)
        sum_D = _added(part_SD, part, end, D, J, BLOCK)
        first += (end - part) * SPLIT
    return sum_D + _gathered(weight_F, rows_BD, row_F, place_F, first, last, D, J, BLOCK)


@triton.jit
def _extra(n, extra_N, extra_UD, D, BLOCK: tl.constexpr):
    """The dense gradient of feature n, 0 where it has none."""
    u, column = tl.load(extra_N + n), tl.arange(0, BLOCK)
    return tl.load(extra_UD + u * D + column, mask=column < tl.where(u >= 0, D, 0), other=0.0)


@triton.jit
def encoder_gradient(
    n, start_N1, row_F, place_F, dz_F, x_BD, D, part_start_N1, part_SD, extra_N, extra_UD,
    SPLIT: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr, EXTRA: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """The gradient of W_enc[n]."""
    grad_D = _row(n, dz_F, x_BD, start_N1, row_F, place_F, part_start_N1, part_SD, D, SPLIT, J, BLOCK, LONG)
    if EXTRA:
        grad_D += _extra(n, extra_N, extra_UD, D, BLOCK)
    return grad_D


@triton.jit
def decoder_gradient(
    n, W_dec_NE, start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_GBE, end_G, B, D, E,
    part_start_N1, part_SE, part_SD, pull_N, extra_N, extra_UE, extra_UD,
    G: tl.constexpr, SPLIT: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
    TIED: tl.constexpr, UNIT: tl.constexpr, PULL: tl.constexpr, EXTRA: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """The gradient of W_dec[n], with W_enc's if TIED, without its part along the row if UNIT; and W_dec[n]."""
    residual_BE = residual_GBE + level_of(n, end_G, G).to(tl.int64) * B * E
    grad_E = _row(n, code_F, residual_BE, start_N1, row_F, place_F, part_start_N1, part_SE, E, SPLIT, J, BLOCK, LONG)
    grad_E *= 2.0 / B
    if EXTRA:
        grad_E += _extra(n, extra_N, extra_UE, E, BLOCK)
    if TIED:
        grad_E += encoder_gradient(
            n, start_N1, row_F, place_F, dz_F, x_BD, D, part_start_N1, part_SD, extra_N, extra_UD,
            SPLIT, J, BLOCK, EXTRA, LONG,
        )  # fmt: skip
    column = tl.arange(0, BLOCK)
    W_E = tl.load(W_dec_NE + n * E + column, mask=column < E, other=0.0)  # late: registers are scarce before
    if PULL:
        grad_E += tl.load(pull_N + n) * W_E
    if UNIT:
        grad_E -= tl.sum(grad_E * W_E) * W_E
    return grad_E, W_E


@triton.jit
def bias_gradient(
    n, dz_F, start_N1, place_F, part_start_N1, part_S, extra_N, extra_U,
    SPLIT: tl.constexpr, EXTRA: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    """The gradient of b_enc[n]."""
    first, last = tl.load(start_N1 + n), tl.load(start_N1 + n + 1)
    total = tl.full((), 0.0, tl.float32)
    if LONG:
        part, end = tl.load(part_start_N1 + n), tl.load(part_start_N1 + n + 1)
        for slot in range(part, end):
            total += tl.load(part_S + slot)
        first += (end - part) * SPLIT
    total += _bias(dz_F, place_F, first, last)
    if EXTRA:
        u = tl.load(extra_N + n)
        total += tl.load(extra_U + u, mask=u >= 0, other=0.0)
    return total

"""The weights' step on the CPU: gradient, projection, Adam and normalisation of one feature after the other.

A feature's gradient is as long as its rows and stays in the first-level cache from the first firing to the last
weight, so what is left is one read and one write of the weights and Adam's means, near the limit of the memory, and
the rows of x and of the residual that the firings name. Each thread has a range of features with about the same
amount of work; a feature belongs to one thread, which adds its firings in the order of the rows.

Shapes: those of `firings.py`; X = G·B rows of residuals, level after level.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from monosemy.kernels.cpu_compile import Floats, Ints, inner, kernel

Gradient = tuple[Any, ...]
"""`RowGradients` as arrays, as `gradient_of` unpacks it; empty ones stand for None."""
Rates = tuple[float, float, float, float, float]
"""β₁, β₂, ε, 1 − β₁ᵗ, 1 − β₂ᵗ."""

FEATURE_COST = 8  # of a feature itself, in firings: where features are shared out among threads


@inner
def first_feature(start_N1: Ints, part: int, parts: int) -> int:
    """The first feature of a part, when all parts have about the same amount of work."""
    width = len(start_N1) - 1
    goal = (start_N1[width] + FEATURE_COST * width) * part // parts
    low, high = 0, width
    while low < high:
        middle = (low + high) // 2
        if start_N1[middle] + FEATURE_COST * middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def gather(
    out_D: Floats, weight_F: Floats, table_XD: Floats, before: int, row_F: Ints, place_F: Ints, first: int, last: int
) -> None:
    """out = Σ weight[place] · table[before + row] over firings first … last of a feature."""
    width = len(out_D)
    for d in range(width):
        out_D[d] = 0
    f = first
    while f + 4 <= last:
        x0, x1, x2, x3 = before + row_F[f], before + row_F[f + 1], before + row_F[f + 2], before + row_F[f + 3]
        c0, c1 = weight_F[place_F[f]], weight_F[place_F[f + 1]]
        c2, c3 = weight_F[place_F[f + 2]], weight_F[place_F[f + 3]]
        for d in range(width):
            out_D[d] += (c0 * table_XD[x0, d] + c1 * table_XD[x1, d]) + (c2 * table_XD[x2, d] + c3 * table_XD[x3, d])
        f += 4
    while f < last:
        x0, c0 = before + row_F[f], weight_F[place_F[f]]
        for d in range(width):
            out_D[d] += c0 * table_XD[x0, d]
        f += 1


@inner
def project(grad_E: Floats, W_NE: Floats, n: int) -> None:
    """Take out the part of the gradient along row n, which has norm 1."""
    along = np.float32(0)
    for e in range(len(grad_E)):
        along += grad_E[e] * W_NE[n, e]
    for e in range(len(grad_E)):
        grad_E[e] -= along * W_NE[n, e]


@inner
def gradient_of(
    n: int,
    level: int,
    u: int,
    gradient: Gradient,
    dec_E: Floats,
    enc_D: Floats,
) -> np.float32:
    """Write feature n's gradients of W_dec and W_enc; that of b_enc. The formula is `RowGradients`'."""
    (
        start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_XE, _ends_G, W_dec_NE, tied, unit,
        pull_N, feature_U, extra_dec_UE, extra_enc_UD, extra_b_U,
    ) = gradient  # fmt: skip
    first, last, rows = start_N1[n], start_N1[n + 1], len(x_BD)
    gather(dec_E, code_F, residual_XE, level * rows, row_F, place_F, first, last)
    gather(enc_D, dz_F, x_BD, 0, row_F, place_F, first, last)
    b = np.float32(0)
    for f in range(first, last):
        b += dz_F[place_F[f]]
    share = np.float32(2.0 / rows)
    pull = pull_N[n] if len(pull_N) > 0 else np.float32(0)
    for e in range(len(dec_E)):
        dec_E[e] = share * dec_E[e] + pull * W_dec_NE[n, e]
    if u < len(feature_U) and feature_U[u] == n:
        b += extra_b_U[u]
        for e in range(len(dec_E)):
            dec_E[e] += extra_dec_UE[u, e]
        for d in range(len(enc_D)):
            enc_D[d] += extra_enc_UD[u, d]
    if tied:
        for e in range(len(dec_E)):
            dec_E[e] += enc_D[e]
    if unit:
        project(dec_E, W_dec_NE, n)
    return b


@inner
def adam_row(
    W_RD: Floats,
    grad_D: Floats,
    m_RD: Floats,
    v_RD: Floats,
    r: int,
    lr: float,
    scale: float,
    unit: bool,
    rates: Rates,
) -> None:
    """Adam's step of row r (`AdamStep`), and the row put back to norm 1."""
    beta1, beta2, eps, correction1, correction2 = rates
    rest1, rest2, keep2 = np.float32(1.0 - beta1), np.float32(1.0 - beta2), np.float32(beta2)
    small, root, factor = np.float32(eps), np.float32(1.0 / math.sqrt(correction2)), np.float32(scale)
    step, square = np.float32(lr / correction1), np.float32(0)
    for d in range(len(grad_D)):
        g = grad_D[d] * factor
        m = m_RD[r, d] + rest1 * (g - m_RD[r, d])
        v = keep2 * v_RD[r, d] + rest2 * g * g
        m_RD[r, d], v_RD[r, d] = m, v
        w = W_RD[r, d] - step * m / (math.sqrt(v) * root + small)
        W_RD[r, d] = w
        square += w * w
    if unit:
        back = np.float32(1) / math.sqrt(square)
        for d in range(len(grad_D)):
            W_RD[r, d] *= back


@kernel
def square_norms(parts: int, gradient: Gradient) -> float:
    """`Kernels.square_norms` (contract.py)."""
    start_N1, x_BD, ends_G, W_dec_NE = gradient[0], gradient[5], gradient[7], gradient[8]
    tied, feature_U = gradient[9], gradient[12]
    square_N = np.empty(len(start_N1) - 1, np.float64)
    for part in prange(parts):
        dec_E, enc_D = np.empty(W_dec_NE.shape[1], np.float32), np.empty(x_BD.shape[1], np.float32)
        first, last = first_feature(start_N1, part, parts), first_feature(start_N1, part + 1, parts)
        level, u = 0, 0
        for n in range(first, last):
            while n >= ends_G[level]:
                level += 1
            while u < len(feature_U) and feature_U[u] < n:
                u += 1
            b = gradient_of(n, level, u, gradient, dec_E, enc_D)
            dec, enc = np.float32(0), np.float32(0)
            for e in range(len(dec_E)):
                dec += dec_E[e] * dec_E[e]
            for d in range(len(enc_D)):
                enc += enc_D[d] * enc_D[d]
            square_N[n] = dec + b * b + (np.float32(0) if tied else enc)
    total = 0.0
    for n in range(len(square_N)):
        total += square_N[n]
    return total


@kernel
def update(
    parts: int,
    gradient: Gradient,
    m_dec_NE: Floats,
    v_dec_NE: Floats,
    b_enc_N1: Floats,
    m_b_N1: Floats,
    v_b_N1: Floats,
    W_enc_ND: Floats,
    m_enc_ND: Floats,
    v_enc_ND: Floats,
    lr_N: Floats,
    scale: float,
    rates: Rates,
) -> None:
    """`Kernels.update` (contract.py)."""
    start_N1, x_BD, ends_G, W_dec_NE = gradient[0], gradient[5], gradient[7], gradient[8]
    tied, unit, feature_U = gradient[9], gradient[10], gradient[12]
    for part in prange(parts):
        dec_E, enc_D = np.empty(W_dec_NE.shape[1], np.float32), np.empty(x_BD.shape[1], np.float32)
        b_1 = np.empty(1, np.float32)
        first, last = first_feature(start_N1, part, parts), first_feature(start_N1, part + 1, parts)
        level, u = 0, 0
        for n in range(first, last):
            while n >= ends_G[level]:
                level += 1
            while u < len(feature_U) and feature_U[u] < n:
                u += 1
            lr = lr_N[n]
            if lr < 0:
                continue
            b_1[0] = gradient_of(n, level, u, gradient, dec_E, enc_D)
            adam_row(W_dec_NE, dec_E, m_dec_NE, v_dec_NE, n, lr, scale, unit, rates)
            adam_row(b_enc_N1, b_1, m_b_N1, v_b_N1, n, lr, scale, False, rates)
            if not tied:
                adam_row(W_enc_ND, enc_D, m_enc_ND, v_enc_ND, n, lr, scale, False, rates)


@kernel
def adam(
    parts: int,
    W_RD: Floats,
    grad_RD: Floats,
    m_RD: Floats,
    v_RD: Floats,
    lr_R: Floats,
    scale_R: Floats,
    unit: bool,
    rates: Rates,
) -> None:
    """`Kernels.adam` (contract.py)."""
    rows, width = W_RD.shape
    for part in prange(parts):
        grad_D = np.empty(width, np.float32)
        for r in range(rows * part // parts, rows * (part + 1) // parts):
            if lr_R[r] < 0:
                continue
            for d in range(width):
                grad_D[d] = grad_RD[r, d]
            if unit:
                project(grad_D, W_RD, r)
            adam_row(W_RD, grad_D, m_RD, v_RD, r, lr_R[r], scale_R[r], unit, rates)

"""Decoding on the CPU: a row's reconstruction from its firings, its residual, and the gradient of each code.

Four rows of the decoder are read at a time, which keeps enough reads under way to hide the memory's delay, and the
residual in the first-level cache. A row is decoded and its codes' gradients taken in one visit, while the decoder rows
that it needs are in the second-level cache.

Shapes: those of `firings.py`; X = G·B rows of residuals, level after level.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from monosemy.kernels.cpu_compile import Floats, Ints, inner, kernel

ROW_COST = 4  # of a row itself, in firings: where rows are shared out among threads


@inner
def first_row(start_B1: Ints, part: int, parts: int) -> int:
    """The first row of a part, when all parts have about the same amount of work."""
    rows = len(start_B1) - 1
    goal = (start_B1[rows] + ROW_COST * rows) * part // parts
    low, high = 0, rows
    while low < high:
        middle = (low + high) // 2
        if start_B1[middle] + ROW_COST * middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def add_rows(out_XE: Floats, x: int, value_F: Floats, feature_F: Ints, first: int, last: int, W_NE: Floats) -> None:
    """out[x] += Σ value · W[feature] over firings first … last."""
    f = first
    while f + 4 <= last:
        n0, n1, n2, n3 = feature_F[f], feature_F[f + 1], feature_F[f + 2], feature_F[f + 3]
        c0, c1, c2, c3 = value_F[f], value_F[f + 1], value_F[f + 2], value_F[f + 3]
        for e in range(W_NE.shape[1]):
            out_XE[x, e] += (c0 * W_NE[n0, e] + c1 * W_NE[n1, e]) + (c2 * W_NE[n2, e] + c3 * W_NE[n3, e])
        f += 4
    while f < last:
        n0, c0 = feature_F[f], value_F[f]
        for e in range(W_NE.shape[1]):
            out_XE[x, e] += c0 * W_NE[n0, e]
        f += 1


@inner
def dot_rows(a_XE: Floats, x: int, feature_F: Ints, first: int, last: int, W_NE: Floats, dots_F: Floats) -> None:
    """dots = ⟨a[x], W[feature]⟩ of firings first … last."""
    f = first
    while f + 4 <= last:
        n0, n1, n2, n3 = feature_F[f], feature_F[f + 1], feature_F[f + 2], feature_F[f + 3]
        s0 = s1 = s2 = s3 = np.float32(0)
        for e in range(W_NE.shape[1]):
            a = a_XE[x, e]
            s0 += a * W_NE[n0, e]
            s1 += a * W_NE[n1, e]
            s2 += a * W_NE[n2, e]
            s3 += a * W_NE[n3, e]
        dots_F[f], dots_F[f + 1], dots_F[f + 2], dots_F[f + 3] = s0, s1, s2, s3
        f += 4
    while f < last:
        n0, s0 = feature_F[f], np.float32(0)
        for e in range(W_NE.shape[1]):
            s0 += a_XE[x, e] * W_NE[n0, e]
        dots_F[f] = s0
        f += 1


@inner
def block_end(feature_F: Ints, first: int, last: int, end: int) -> int:
    """Where a row's firings of features below `end` end."""
    f = first
    while f < last and feature_F[f] < end:
        f += 1
    return f


@kernel
def decode(
    parts: int,
    start_B1: Ints,
    feature_F: Ints,
    value_F: Floats,
    W_NE: Floats,
    bias_E: Floats,
    target_BE: Floats,
    ends_G: Ints,
    residual_XE: Floats,
    square_B: Floats,
    dots_F: Floats,
) -> None:
    """`Kernels.decode` (contract.py)."""
    (rows, width), levels = target_BE.shape, len(ends_G)
    share = np.float32(1.0 / levels)
    for part in prange(parts):
        for b in range(first_row(start_B1, part, parts), first_row(start_B1, part + 1, parts)):
            for e in range(width):
                residual_XE[b, e] = bias_E[e] - target_BE[b, e]
            first, last, total = start_B1[b], start_B1[b + 1], np.float32(0)
            for g in range(levels):
                x = g * rows + b
                if g > 0:
                    for e in range(width):
                        residual_XE[x, e] = residual_XE[x - rows, e]
                after = block_end(feature_F, first, last, ends_G[g]) if g + 1 < levels else last
                add_rows(residual_XE, x, value_F, feature_F, first, after, W_NE)
                first, square = after, np.float32(0)
                for e in range(width):
                    square += residual_XE[x, e] * residual_XE[x, e]
                total += square
            square_B[b] = total * share
            if levels > 1:
                sum_levels(residual_XE, b, rows, levels, share)
            first = start_B1[b]
            for g in range(levels):
                after = block_end(feature_F, first, last, ends_G[g]) if g + 1 < levels else last
                dot_rows(residual_XE, g * rows + b, feature_F, first, after, W_NE, dots_F)
                first = after


@inner
def sum_levels(residual_XE: Floats, b: int, rows: int, levels: int, share: np.float32) -> None:
    """The levels' errors to what each block is trained on: their sum from the block's own level on, over G."""
    for e in range(residual_XE.shape[1]):
        residual_XE[(levels - 1) * rows + b, e] *= share
    for g in range(levels - 2, -1, -1):
        x = g * rows + b
        for e in range(residual_XE.shape[1]):
            residual_XE[x, e] = residual_XE[x, e] * share + residual_XE[x + rows, e]


@kernel
def dots(parts: int, start_B1: Ints, feature_F: Ints, a_BD: Floats, W_ND: Floats, dots_F: Floats) -> None:
    """`Kernels.dots` (contract.py)."""
    for part in prange(parts):
        for b in range(first_row(start_B1, part, parts), first_row(start_B1, part + 1, parts)):
            dot_rows(a_BD, b, feature_F, start_B1[b], start_B1[b + 1], W_ND, dots_F)

"""The kernels on the CPU, compiled by numba: what is between torch tensors and the loops of `cpu_*.py`.

Results do not depend on the number of threads, which is torch's. Tensors are fp32 and contiguous, on the CPU, without
autograd; they are handed on without a copy.

Shapes: those of `firings.py`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch

from monosemy.kernels import cpu_decode, cpu_select, cpu_update
from monosemy.kernels.cpu_compile import Floats, Ints, choose_threading, match_threads
from monosemy.kernels.firings import AdamStep, Columns, Extra, Firings, RowGradients, RowParams

NOTE_AFTER_S = 2.0
SORT_AT_ONCE = 8192  # firings that are worth a thread of their own in the sort

NO_VECTOR, NO_MATRIX, NO_FEATURES = np.empty(0, np.float32), np.empty((0, 0), np.float32), np.empty(0, np.int64)


class Numba:
    """`Kernels` (contract.py) for the CPU. Making it compiles everything, or loads what an earlier process compiled."""

    name = "numba"

    def __init__(self) -> None:
        choose_threading()
        with _noted("compiling the CPU kernels, once on this machine"):
            _use_all(self)

    def topk(self, z_BN: torch.Tensor, k: int) -> Firings:
        """Group maxima, then the candidates (`cpu_select.topk`)."""
        rows, width = z_BN.shape
        if not 1 <= k <= width:
            raise ValueError(f"k (={k}) must be 1 … {width}, the width")
        feature_BK, value_BK = torch.empty(rows, k, dtype=torch.int64), torch.empty(rows, k)
        start_B1 = torch.zeros(rows + 1, dtype=torch.int64)
        found, starts = (feature_BK.numpy(), value_BK.numpy()), start_B1.numpy()
        z = z_BN.numpy()
        cpu_select.topk(match_threads(), cpu_select.group_for(width, k), z, z.view(np.int32), k, *found, starts[1:])
        np.cumsum(starts, out=starts)
        if (count := int(starts[rows])) == rows * k:
            return Firings(start_B1, feature_BK.view(-1), value_BK.view(-1))
        feature_F, value_F = _empty_firings(count)
        cpu_select.pack(*found, starts, feature_F.numpy(), value_F.numpy())
        return Firings(start_B1, feature_F, value_F)

    def above(self, z_BN: torch.Tensor, threshold_N: torch.Tensor) -> Firings:
        """Count, then write (`cpu_select`)."""
        rows, width = z_BN.shape
        group, start_B1 = cpu_select.LARGE_GROUP, torch.empty(rows + 1, dtype=torch.int64)
        match_threads()
        arrays = z_BN.numpy(), threshold_N.numpy(), np.empty((rows, -(-width // group)), np.int32), start_B1.numpy()
        cpu_select.count_above(group, *arrays)
        feature_F, value_F = _empty_firings(int(start_B1[-1]))
        cpu_select.write_above(group, *arrays, feature_F.numpy(), value_F.numpy())
        return Firings(start_B1, feature_F, value_F)

    def decode(
        self,
        firings: Firings,
        W_dec_NE: torch.Tensor,
        b_dec_E: torch.Tensor | None,
        target_BE: torch.Tensor,
        ends: tuple[int, ...],
        residual_GBE: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One visit of each row (`cpu_decode.decode`)."""
        square_B, dots_F = torch.empty(firings.rows), torch.empty(len(firings.feature_F))
        cpu_decode.decode(
            match_threads(),
            firings.start_B1.numpy(),
            firings.feature_F.numpy(),
            firings.value_F.numpy(),
            W_dec_NE.numpy(),
            _zeros(W_dec_NE.shape[1]) if b_dec_E is None else b_dec_E.numpy(),
            target_BE.numpy(),
            _array(ends),
            residual_GBE.view(-1, W_dec_NE.shape[1]).numpy(),
            square_B.numpy(),
            dots_F.numpy(),
        )
        return square_B, dots_F

    def dots(self, firings: Firings, a_BD: torch.Tensor, W_ND: torch.Tensor) -> torch.Tensor:
        """Four firings at a time (`cpu_decode.dots`)."""
        dots_F = torch.empty(len(firings.feature_F))
        arrays = firings.start_B1.numpy(), firings.feature_F.numpy(), a_BD.numpy(), W_ND.numpy()
        cpu_decode.dots(match_threads(), *arrays, dots_F.numpy())
        return dots_F

    def columns(self, firings: Firings, width: int) -> Columns:
        """A counting sort (`cpu_select.columns`)."""
        count = len(firings.feature_F)
        start_N1 = torch.empty(width + 1, dtype=torch.int64)
        row_F, place_F = torch.empty_like(firings.feature_F), torch.empty_like(firings.feature_F)
        parts = min(match_threads(), 1 + count // max(SORT_AT_ONCE, width))
        starts = np.empty((parts, width), np.int64)
        arrays = firings.start_B1.numpy(), firings.feature_F.numpy(), starts, start_N1.numpy()
        cpu_select.columns(*arrays, row_F.numpy(), place_F.numpy())
        return Columns(start_N1, row_F, place_F)

    def square_norms(self, gradient: RowGradients) -> torch.Tensor:
        """Feature by feature (`cpu_update.square_norms`)."""
        return torch.tensor(cpu_update.square_norms(match_threads(), _arrays(gradient)), dtype=torch.float32)

    def update(
        self,
        gradient: RowGradients,
        params: RowParams,
        adam: AdamStep,
        lr_N: torch.Tensor,
        scale: float | torch.Tensor = 1.0,
    ) -> None:
        """Feature by feature (`cpu_update.update`)."""
        cpu_update.update(
            match_threads(),
            _arrays(gradient),
            params.m_W_dec_NE.numpy(),
            params.v_W_dec_NE.numpy(),
            params.b_enc_N.view(-1, 1).numpy(),
            params.m_b_enc_N.view(-1, 1).numpy(),
            params.v_b_enc_N.view(-1, 1).numpy(),
            _matrix(params.W_enc_ND),
            _matrix(params.m_W_enc_ND),
            _matrix(params.v_W_enc_ND),
            lr_N.numpy(),
            float(scale),
            _rates(adam),
        )

    def adam(
        self,
        W_RD: torch.Tensor,
        grad_RD: torch.Tensor,
        m_RD: torch.Tensor,
        v_RD: torch.Tensor,
        adam: AdamStep,
        lr_R: torch.Tensor,
        unit: bool = False,
        scale: float | torch.Tensor = 1.0,
    ) -> None:
        """Row by row (`cpu_update.adam`)."""
        arrays = W_RD.numpy(), grad_RD.numpy(), m_RD.numpy(), v_RD.numpy(), lr_R.numpy()
        scale_R = torch.as_tensor(scale, dtype=torch.float32).expand(len(W_RD)).contiguous().numpy()
        cpu_update.adam(match_threads(), *arrays, scale_R, unit, _rates(adam))


def _arrays(gradient: RowGradients) -> cpu_update.Gradient:
    """`RowGradients` as `cpu_update.gradient_of` unpacks it."""
    columns, extra = gradient.columns, gradient.extra
    return (
        columns.start_N1.numpy(),
        columns.row_F.numpy(),
        columns.place_F.numpy(),
        gradient.code_F.numpy(),
        gradient.dz_F.numpy(),
        gradient.x_BD.numpy(),
        gradient.residual_GBE.view(-1, gradient.W_dec_NE.shape[1]).numpy(),
        _array(gradient.ends),
        gradient.W_dec_NE.numpy(),
        gradient.tied,
        gradient.unit,
        NO_VECTOR if gradient.pull_N is None else gradient.pull_N.numpy(),
        *(_extra_arrays(extra) if extra is not None else (NO_FEATURES, NO_MATRIX, NO_MATRIX, NO_VECTOR)),
    )


def _extra_arrays(extra: Extra) -> tuple[Ints, Floats, Floats, Floats]:
    return extra.feature_U.numpy(), extra.dec_UE.numpy(), extra.enc_UD.numpy(), extra.b_U.numpy()


def _matrix(tensor_ND: torch.Tensor | None) -> Floats:
    return NO_MATRIX if tensor_ND is None else tensor_ND.numpy()


def _rates(adam: AdamStep) -> cpu_update.Rates:
    return adam.beta1, adam.beta2, adam.eps, adam.correction1, adam.correction2


def _empty_firings(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty(count, dtype=torch.int64), torch.empty(count)


@cache
def _array(ends: tuple[int, ...]) -> Ints:
    return np.array(ends, np.int64)


@cache
def _zeros(width: int) -> Floats:
    return np.zeros(width, np.float32)


@contextmanager
def _noted(text: str) -> Iterator[None]:
    """Say on the error stream what is going on, if it takes longer than a moment."""
    timer = threading.Timer(NOTE_AFTER_S, lambda: print(text, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _use_all(kernels: Numba) -> None:
    """Run every kernel on next to nothing, which compiles it for the only types that there are."""
    z_BN, one_NN, zero_N = torch.tensor([[1.0, -1.0]]), torch.eye(2), torch.zeros(2)
    kernels.above(z_BN, zero_N)
    firings, target_BE = kernels.topk(z_BN, 2), torch.zeros(1, 2)
    residual_GBE = torch.empty(1, 1, 2)
    _, dots_F = kernels.decode(firings, one_NN, None, target_BE, (2,), residual_GBE)
    kernels.dots(firings, target_BE, one_NN)
    columns = kernels.columns(firings, 2)
    gradient = RowGradients(
        columns, firings.value_F, dots_F, target_BE, residual_GBE, (2,), one_NN, tied=True, unit=False
    )
    kernels.square_norms(gradient)
    moments = (torch.zeros(2, 2), torch.zeros(2, 2))
    step, lr_N = AdamStep(0.9, 0.999, 1e-8, 1), torch.zeros(2)
    kernels.update(gradient, RowParams(one_NN, *moments, zero_N, zero_N, zero_N), step, lr_N)
    kernels.adam(one_NN, one_NN, *moments, step, lr_N)

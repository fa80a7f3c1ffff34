"""The kernels in Triton, for CUDA devices: built for the limits of memory, one wait for the device a call of selection.

What each moves and why it is built so is told in its file: `gpu_select.py`, `gpu_decode.py`, `gpu_gradient.py`,
`gpu_update.py`; times there are bytes over bandwidth, not measurements. At D = 4096, N = 131,072, B = 8192, k = 64 the
sparse part of a step moves at most 57 GB, 12 ms at 4.8 TB/s, beside 8.8 TFLOP of the encode product (11 ms in bf16 at
790 TFLOP/s). Everything runs on the current stream.
With TRITON_INTERPRET=1 set before triton is first imported the kernels also run, slowly, on CPU tensors.

Results agree with the reference to rounding; sums are in a fixed order, the same at every run on one device.

Shapes: those of `firings.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from monosemy.kernels import gpu_decode, gpu_select, gpu_update
from monosemy.kernels.firings import AdamStep, Columns, Firings, RowGradients, RowParams


class Triton:
    """`Kernels` (contract.py) in Triton. Tensors as `firings.py` has them: contiguous, fp32 and int64."""

    name = "triton"

    def topk(self, z_BN: torch.Tensor, k: int) -> Firings:
        """Exact, by group maxima and bisection."""
        with _device_of(z_BN):
            return gpu_select.topk(z_BN, k)

    def above(self, z_BN: torch.Tensor, threshold_N: torch.Tensor) -> Firings:
        """By a bit mask and a prefix sum."""
        with _device_of(z_BN):
            return gpu_select.above(z_BN, threshold_N)

    def decode(
        self,
        firings: Firings,
        W_dec_NE: torch.Tensor,
        b_dec_E: torch.Tensor | None,
        target_BE: torch.Tensor,
        ends: tuple[int, ...],
        residual_GBE: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One reading of the decoder rows for residuals and dots."""
        with _device_of(W_dec_NE):
            return gpu_decode.decode(firings, W_dec_NE, b_dec_E, target_BE, ends, residual_GBE)

    def dots(self, firings: Firings, a_BD: torch.Tensor, W_ND: torch.Tensor) -> torch.Tensor:
        """One program a row."""
        with _device_of(W_ND):
            return gpu_decode.dots(firings, a_BD, W_ND)

    def columns(self, firings: Firings, width: int) -> Columns:
        """torch's stable radix sort, with 32-bit keys: 4 passes instead of 8."""
        sorted_F, place_F = firings.feature_F.to(torch.int32).sort(stable=True)
        bound_N1 = torch.arange(width + 1, dtype=torch.int32, device=sorted_F.device)
        return Columns(torch.searchsorted(sorted_F, bound_N1), firings.row_F[place_F], place_F)

    def square_norms(self, gradient: RowGradients) -> torch.Tensor:
        """A sum of squares a feature, then of those."""
        with _device_of(gradient.x_BD):
            return gpu_update.square_norms(gradient)

    def update(
        self,
        gradient: RowGradients,
        params: RowParams,
        adam: AdamStep,
        lr_N: torch.Tensor,
        scale: float | torch.Tensor = 1.0,
    ) -> None:
        """One program a feature."""
        with _device_of(gradient.x_BD):
            gpu_update.update(gradient, params, adam, lr_N, scale)

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
        """A tile of rows a program."""
        with _device_of(W_RD):
            gpu_update.adam_rows(W_RD, grad_RD, m_RD, v_RD, adam, lr_R, unit, scale)


def _device_of(tensor: torch.Tensor) -> AbstractContextManager[None]:
    """Kernels start on the current device: makes it the tensor's."""
    guard: AbstractContextManager[None] = torch.cuda.device_of(tensor)  # type: ignore[no-untyped-call]
    return guard

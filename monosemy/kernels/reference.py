"""The kernels in plain torch, on any device and in any floating dtype: what the others are tested against.

Also the choice where neither numba nor Triton can be had. Sums over firings are `embedding_bag`, the best that plain
torch has for them; the gradients of the rows are dense tensors of N×D, unlike in the other implementations.

Shapes: those of `firings.py`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch.nn.functional import embedding_bag

from monosemy.kernels.firings import AdamStep, Columns, Firings, RowGradients, RowParams

DOTS_AT_ONCE = 1 << 22  # numbers gathered at a time by `dots`: bounds its memory


class Reference:
    """`Kernels` (contract.py) in plain torch."""

    name = "torch"

    def topk(self, z_BN: torch.Tensor, k: int) -> Firings:
        """`torch.topk`, whose order among equals is not defined: rows where it matters are sorted."""
        count = min(k + 1, z_BN.shape[1])
        value_BK, feature_BK = z_BN.topk(count, dim=1)
        if count > k:
            last_B, next_B = value_BK[:, k - 1], value_BK[:, k]
            tied_B = ((last_B == next_B) & (last_B > 0)) | (last_B.isnan() & next_B.isnan())
            value_BK, feature_BK = value_BK[:, :k], feature_BK[:, :k].contiguous()
            if tied_B.any():
                order_BN = z_BN[tied_B].sort(dim=1, descending=True, stable=True).indices
                feature_BK[tied_B] = order_BN[:, :k]
        feature_BK = feature_BK.sort(dim=1).values
        value_BK = z_BN.gather(1, feature_BK)
        kept_BK = ~(value_BK <= 0)
        return Firings(_starts(kept_BK.sum(dim=1)), feature_BK[kept_BK], value_BK[kept_BK])

    def above(self, z_BN: torch.Tensor, threshold_N: torch.Tensor) -> Firings:
        """A mask and its places."""
        kept_BN = ~(z_BN <= threshold_N)
        return Firings(_starts(kept_BN.sum(dim=1)), kept_BN.nonzero()[:, 1].contiguous(), z_BN[kept_BN])

    def decode(
        self,
        firings: Firings,
        W_dec_NE: torch.Tensor,
        b_dec_E: torch.Tensor | None,
        target_BE: torch.Tensor,
        ends: tuple[int, ...],
        residual_GBE: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Block after block; the residuals are sums from the last level back."""
        level_F, row_F = _level_of(firings.feature_F, ends), firings.row_F
        error_BE = -target_BE if b_dec_E is None else b_dec_E - target_BE
        square_B = torch.zeros_like(target_BE[:, 0])
        for g in range(len(ends)):
            own_F = level_F == g
            start_B1 = _starts(torch.bincount(row_F[own_F], minlength=firings.rows))
            error_BE = error_BE + _sums(firings.value_F[own_F], W_dec_NE, firings.feature_F[own_F], start_B1)
            square_B += error_BE.square().sum(dim=1) / len(ends)
            residual_GBE[g] = error_BE / len(ends)
        for g in reversed(range(len(ends) - 1)):
            residual_GBE[g] += residual_GBE[g + 1]
        place_F = level_F * firings.rows + row_F
        return square_B, _dots(residual_GBE.flatten(0, 1), place_F, W_dec_NE, firings.feature_F)

    def dots(self, firings: Firings, a_BD: torch.Tensor, W_ND: torch.Tensor) -> torch.Tensor:
        """Gathered rows, multiplied and summed."""
        return _dots(a_BD, firings.row_F, W_ND, firings.feature_F)

    def columns(self, firings: Firings, width: int) -> Columns:
        """A stable sort."""
        place_F = firings.feature_F.argsort(stable=True)
        start_N1 = _starts(torch.bincount(firings.feature_F, minlength=width))
        return Columns(start_N1, firings.row_F[place_F], place_F)

    def square_norms(self, gradient: RowGradients) -> torch.Tensor:
        """From the dense gradients."""
        return torch.stack([grad.square().sum() for grad in row_gradients(gradient) if grad is not None]).sum()

    def update(
        self,
        gradient: RowGradients,
        params: RowParams,
        adam: AdamStep,
        lr_N: torch.Tensor,
        scale: float | torch.Tensor = 1.0,
    ) -> None:
        """Dense gradients, and `adam` on each."""
        dec_NE, enc_ND, b_N = row_gradients(gradient)
        unit = gradient.unit
        _step(params.W_dec_NE, dec_NE, params.m_W_dec_NE, params.v_W_dec_NE, adam, lr_N, unit, scale)
        b_N1, grad_N1, m_N1, v_N1 = (t_N[:, None] for t_N in (params.b_enc_N, b_N, params.m_b_enc_N, params.v_b_enc_N))
        _step(b_N1, grad_N1, m_N1, v_N1, adam, lr_N, False, scale)
        W_ND, m_ND, v_ND = params.W_enc_ND, params.m_W_enc_ND, params.v_W_enc_ND
        if enc_ND is not None and W_ND is not None and m_ND is not None and v_ND is not None:  # not tied
            _step(W_ND, enc_ND, m_ND, v_ND, adam, lr_N, False, scale)

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
        """Word by word."""
        _step(W_RD, _projected(grad_RD, W_RD) if unit else grad_RD, m_RD, v_RD, adam, lr_R, unit, scale)


def row_gradients(gradient: RowGradients) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """The gradients of W_dec (projected where `unit`), W_enc (None with tied weights) and b_enc as dense tensors."""
    columns, rows = gradient.columns, len(gradient.x_BD)
    code_F, dz_F = gradient.code_F[columns.place_F], gradient.dz_F[columns.place_F]
    dec_NE = torch.empty_like(gradient.W_dec_NE)
    for residual_BE, (low, high) in zip(gradient.residual_GBE, pairwise((0, *gradient.ends)), strict=True):
        start_N1 = columns.start_N1[low : high + 1]
        own = slice(int(start_N1[0]), int(start_N1[-1]))
        dec_NE[low:high] = _sums(code_F[own] * (2.0 / rows), residual_BE, columns.row_F[own], start_N1 - start_N1[0])
    enc_ND = _sums(dz_F, gradient.x_BD, columns.row_F, columns.start_N1)
    b_N = _sums(dz_F, torch.ones_like(gradient.x_BD[:, :1]), columns.row_F, columns.start_N1)[:, 0]
    if gradient.pull_N is not None:
        dec_NE.addcmul_(gradient.pull_N[:, None], gradient.W_dec_NE)
    if (extra := gradient.extra) is not None:
        dec_NE.index_add_(0, extra.feature_U, extra.dec_UE)
        enc_ND.index_add_(0, extra.feature_U, extra.enc_UD)
        b_N.index_add_(0, extra.feature_U, extra.b_U)
    if gradient.tied:
        dec_NE += enc_ND
    if gradient.unit:
        dec_NE = _projected(dec_NE, gradient.W_dec_NE)
    return dec_NE, None if gradient.tied else enc_ND, b_N


def _step(
    W_RD: torch.Tensor,
    grad_RD: torch.Tensor,
    m_RD: torch.Tensor,
    v_RD: torch.Tensor,
    adam: AdamStep,
    lr_R: torch.Tensor,
    unit: bool,
    scale: float | torch.Tensor,
) -> None:
    """Adam on the rows whose learning rate is not negative; with `unit` they are put back to norm 1."""
    moved_R = ~(lr_R < 0)
    if not moved_R.all():
        W_UD, m_UD, v_UD = W_RD[moved_R], m_RD[moved_R], v_RD[moved_R]
        scale_U = scale[moved_R] if isinstance(scale, torch.Tensor) and scale.ndim else scale
        _step(W_UD, grad_RD[moved_R], m_UD, v_UD, adam, lr_R[moved_R], unit, scale_U)
        W_RD[moved_R], m_RD[moved_R], v_RD[moved_R] = W_UD, m_UD, v_UD
        return
    grad_RD = grad_RD * (scale[:, None] if isinstance(scale, torch.Tensor) and scale.ndim else scale)
    m_RD.lerp_(grad_RD, 1.0 - adam.beta1)
    v_RD.mul_(adam.beta2).addcmul_(grad_RD, grad_RD, value=1.0 - adam.beta2)
    size_RD = (v_RD.sqrt() / adam.correction2**0.5).add_(adam.eps)
    W_RD.sub_((lr_R / adam.correction1)[:, None] * m_RD / size_RD)
    if unit:
        W_RD.div_(torch.linalg.vector_norm(W_RD, dim=1, keepdim=True))


def _projected(grad_RD: torch.Tensor, W_RD: torch.Tensor) -> torch.Tensor:
    """Without the part that would change the length of the rows, which have norm 1."""
    along_R: torch.Tensor = torch.linalg.vecdot(grad_RD, W_RD)
    return grad_RD - along_R[:, None] * W_RD


def _starts(count_B: torch.Tensor) -> torch.Tensor:
    """[B+1]: where each of the runs of these lengths starts, and where the last one ends."""
    return torch.cat([count_B.new_zeros(1), count_B.cumsum(0)])


def _level_of(feature_F: torch.Tensor, ends: tuple[int, ...]) -> torch.Tensor:
    """The block that each feature is in."""
    return torch.bucketize(feature_F, torch.tensor(ends, device=feature_F.device), right=True)


def _sums(
    weight_F: torch.Tensor, table_XD: torch.Tensor, place_F: torch.Tensor, start_R1: torch.Tensor
) -> torch.Tensor:
    """[R, D]: Σ weight · table[place] over each run."""
    if len(place_F) == 0:
        return table_XD.new_zeros(len(start_R1) - 1, table_XD.shape[1])
    bag = embedding_bag(place_F, table_XD, start_R1, mode="sum", per_sample_weights=weight_F, include_last_offset=True)
    return torch.as_tensor(bag)


def _dots(a_XD: torch.Tensor, place_F: torch.Tensor, W_ND: torch.Tensor, feature_F: torch.Tensor) -> torch.Tensor:
    """[F]: ⟨a[place], W[feature]⟩."""
    size = max(1, DOTS_AT_ONCE // a_XD.shape[1])
    dots_F = a_XD.new_empty(len(place_F))
    for first in range(0, len(place_F), size):
        part = slice(first, first + size)
        torch.linalg.vecdot(a_XD[place_F[part]], W_ND[feature_F[part]], out=dots_F[part])
    return dots_F

"""The second half of a dense step of a whole stack: what dead features get, and Adam on every parameter.

Shapes: M members, B rows, N width, E = d_out.
"""

from __future__ import annotations

import torch

from monosemy.dictionaries.stacked import member_of
from monosemy.dictionaries.variant import Params, Variant, Workspace
from monosemy.kernels.contract import Kernels
from monosemy.kernels.firings import AdamStep
from monosemy.training.dead import DeadSettings, dead_gradient
from monosemy.training.optimiser import Moments, Rates, as_rows, clip_factor


def add_dead_gradients(
    settings: DeadSettings, params: Params, seen: torch.Tensor, dead_MN: torch.Tensor, work: Workspace
) -> None:
    """Add the gradient of ghost's or auxk's loss to `work.grads`.

    `params` are effective weights; `seen` is what the encoder was given, `x_BD` or `x_MBD`; the residuals x̂ − target
    are read from the workspace.
    """
    grads = work.grads
    for m in dead_MN.any(dim=1).nonzero().flatten().tolist():
        seen_BD = seen if seen.ndim == 2 else seen[m]
        extra = dead_gradient(settings, member_of(params, m), seen_BD, work.residual_MBE[m], dead_MN[m])
        assert extra is not None, "some feature of this member is dead"
        grads["W_dec"][m].index_add_(0, extra.feature_U, extra.dec_UE)
        grads["W_enc" if "W_enc" in grads else "W_dec"][m].index_add_(0, extra.feature_U, extra.enc_UD)
        grads["b_enc"][m].index_add_(0, extra.feature_U, extra.b_U)


def update(
    variant: Variant,
    params: Params,
    grads: Params,
    moments: Moments,
    adam: AdamStep,
    rates: Rates,
    kernels: Kernels,
    *,
    unit: bool,
    clip: float,
) -> None:
    """Adam's step of every trained parameter, in place; each member's gradients are clipped by its own norm."""
    width = rates.feature_MN.shape[1]
    scale_M = _clip_factors(params, grads, unit, clip) if clip else torch.ones_like(rates.member_M)
    scale_R = scale_M.repeat_interleave(width)
    for name in params:
        shared = name in variant.of_member
        lr, scale = (rates.member_M, scale_M) if shared else (rates.feature_MN.flatten(), scale_R)
        tensors = (params[name], grads[name], moments.mean[name], moments.square[name])
        rows = [as_rows(tensor, 1 if shared else 2) for tensor in tensors]
        kernels.adam(rows[0], rows[1], rows[2], rows[3], adam, lr, unit=unit and name == "W_dec", scale=scale)


def _clip_factors(params: Params, grads: Params, unit: bool, clip: float) -> torch.Tensor:
    """Of each member's gradients, as they are after the decoder's were projected: [M]."""
    square_M = sum(torch.linalg.vector_norm(grad.flatten(1), dim=1).square() for grad in grads.values())
    if unit:
        square_M = square_M - torch.linalg.vecdot(grads["W_dec"], params["W_dec"]).square().sum(dim=1)
    return clip_factor(torch.as_tensor(square_M).clamp_min(0), clip)

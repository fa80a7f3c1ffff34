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
    """Adam's step of every trained parameter, in place; with clipping member by member, each by its own norm."""
    members = len(rates.member_M)
    parts = [slice(m, m + 1) for m in range(members)] if clip else [slice(0, members)]
    for part in parts:
        scale = _clip_factor(params, grads, part, unit, clip) if clip else 1.0
        for name in params:
            shared = name in variant.of_member
            lr_R = rates.member_M[part] if shared else rates.feature_MN[part].flatten()
            tensors = (params[name], grads[name], moments.mean[name], moments.square[name])
            rows = [as_rows(tensor[part], 1 if shared else 2) for tensor in tensors]
            kernels.adam(rows[0], rows[1], rows[2], rows[3], adam, lr_R, unit=unit and name == "W_dec", scale=scale)


def _clip_factor(params: Params, grads: Params, part: slice, unit: bool, clip: float) -> torch.Tensor:
    """Of one member's gradients, as they are after the decoder's were projected."""
    square = torch.stack([grad[part].square().sum() for grad in grads.values()]).sum()
    if unit:
        square = square - torch.linalg.vecdot(grads["W_dec"][part], params["W_dec"][part]).square().sum()
    return clip_factor(square.clamp_min(0), clip)

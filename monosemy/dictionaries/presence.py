"""How probable it is that a feature is present, read from its pre-activation z by a logistic curve of three parameters.

    presence = sigmoid(v + curve · v²),   v = max( slope (z − shift), −1 / (2 curve) )

Log-odds of a Gaussian slab in Gaussian noise are quadratic in z. The max keeps presence from falling with z; presence
is ½ at z = shift. slope is kept as its logarithm, and curve is at least LEAST_CURVE, so both stay positive.

Trained by cross-entropy to probabilities that are worked out from the whole row (`spikeslab.py`): a proper score, so
what is learned is their mean given z. A straight line (curve 0) fitted clearly worse, two lines with a bend at ½ no
better than one.

Shapes: M members, N width, B rows.
"""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from monosemy.dictionaries.variant import Params

LEAST_CURVE = 1e-3


def readout(params: Params) -> Params:
    """slope, shift and curve, as they are used, from `log_slope`, `shift`, `curve`."""
    curve = params["curve"].clamp_min(LEAST_CURVE)
    return {"slope": params["log_slope"].exp(), "shift": params["shift"], "curve": curve}


def log_odds(z: torch.Tensor, used: Params) -> torch.Tensor:
    """v + curve · v², of what `readout` gives; features last."""
    v = torch.maximum(used["slope"] * (z - used["shift"]), -0.5 / used["curve"])
    return v + used["curve"] * v.square()


def presence_gradients(
    params: Params, z_MNB: torch.Tensor, probability_MNB: torch.Tensor, price_M11: torch.Tensor, grads: Params
) -> torch.Tensor:
    """price · Σ cross-entropy of each member; its gradients by log_slope, shift and curve go into `grads`."""
    slope_MN1, shift_MN1, curve_MN1 = (each[..., None] for each in readout(params).values())
    steep_MNB = slope_MN1 * (z_MNB - shift_MN1)
    v_MNB = torch.maximum(steep_MNB, -0.5 / curve_MN1)
    log_odds_MNB = v_MNB + curve_MN1 * v_MNB.square()
    d_MNB = (log_odds_MNB.sigmoid() - probability_MNB).mul_(price_M11)
    # Where v is at its least, log-odds are −1 / (4 curve): slope and shift no longer matter, and ∂/∂curve is v² still.
    torch.sum(d_MNB * v_MNB.square(), dim=2, out=grads["curve"]).mul_(params["curve"] > LEAST_CURVE)
    dv_MNB = d_MNB * (1 + 2 * curve_MN1 * v_MNB)
    torch.sum(dv_MNB * steep_MNB, dim=2, out=grads["log_slope"])
    torch.mul(dv_MNB.sum(dim=2), -slope_MN1[..., 0], out=grads["shift"])
    entropy_MNB = softplus(log_odds_MNB) - probability_MNB * log_odds_MNB
    return price_M11[:, 0, 0] * entropy_MNB.sum(dim=(1, 2))

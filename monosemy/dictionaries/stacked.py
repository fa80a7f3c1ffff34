"""The products that all variants with a linear encoder share, for a whole stack, into buffers.

    z = x W_encᵀ + b_enc        r = c W_dec + b_dec − x         ∂L/∂c = (2/B) r W_decᵀ + λ/B
    ∂L/∂W_dec = (2/B) cᵀ r      ∂L/∂b_dec = (2/B) Σ_B r         ∂L/∂W_enc = ∂zᵀ x       ∂L/∂b_enc = Σ_B ∂z

The loss is ‖r‖² summed over D plus the penalty, mean over rows. On one machine's CPU each product runs at the rate of a
single large one; on a GPU the stack is what fills it.

Shapes: M members, B rows, N width, D = d_in. Rows x_BD are shared by the members.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries.dictionary import Params, Shape, Workspace
from monosemy.runtime import generator_for


def init_linear(shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
    """Random unit directions, the encoder their transpose, biases that centre the data."""
    rows = [_unit_rows(torch.randn(shape.width, shape.d_in, generator=generator_for("init", shape.width, seed)))
            for seed in seeds]  # fmt: skip
    W_dec_MND = torch.stack(rows)
    params = {"W_enc": W_dec_MND.clone(), "b_enc": torch.zeros(shape.members, shape.width), "W_dec": W_dec_MND}
    if mean_D is not None:
        # b_enc = −W_enc·mean: the encoder sees centred data, as if b_dec were subtracted from its input.
        params["b_enc"] = -(params["W_enc"] @ mean_D)
        params["b_dec"] = mean_D.expand(shape.members, -1).clone()
    return params


def pre_activations(x_BD: torch.Tensor, W_enc_MND: torch.Tensor, b_enc_MN: torch.Tensor, out: torch.Tensor) -> None:
    """z_MBN into `out`."""
    x_MBD = x_BD.expand(len(W_enc_MND), -1, -1)
    torch.baddbmm(b_enc_MN[:, None, :], x_MBD, W_enc_MND.transpose(1, 2), out=out)


def decode_residual(
    codes_MBN: torch.Tensor,
    W_dec_MND: torch.Tensor,
    b_dec_MD: torch.Tensor | None,
    x_BD: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor:
    """r = x̂ − x into `out`; gives ‖r‖² summed over D, mean over rows: one number a member."""
    if b_dec_MD is None:
        torch.neg(x_BD.expand_as(out), out=out)
    else:
        torch.sub(b_dec_MD[:, None, :], x_BD, out=out)
    out.baddbmm_(codes_MBN, W_dec_MND)
    square_M: torch.Tensor = torch.linalg.vector_norm(out, dim=(1, 2)).square()
    return square_M / len(x_BD)


def code_gradient(
    residual_MBD: torch.Tensor, W_dec_MND: torch.Tensor, price_MN: torch.Tensor, out: torch.Tensor
) -> None:
    """∂L/∂c into `out`, where a unit of feature n costs `price_MN` in the penalty."""
    batch = residual_MBD.shape[1]
    torch.baddbmm((price_MN / batch)[:, None, :], residual_MBD, W_dec_MND.transpose(1, 2), alpha=2 / batch, out=out)


def decoder_gradients(work: Workspace) -> None:
    """∂L/∂W_dec and, where there is one, ∂L/∂b_dec, from the codes and residuals in the workspace."""
    scale = 2 / work.residual_MBD.shape[1]
    grad_MND = work.grads["W_dec"]
    torch.baddbmm(grad_MND, work.codes_MBN.transpose(1, 2), work.residual_MBD, beta=0, alpha=scale, out=grad_MND)
    if "b_dec" in work.grads:
        torch.sum(work.residual_MBD, dim=1, out=work.grads["b_dec"]).mul_(scale)


def encoder_gradients(work: Workspace, x_BD: torch.Tensor, weight: str = "W_enc", add: bool = False) -> None:
    """∂L/∂W_enc (added to what `weight` has already where the encoder is tied) and ∂L/∂b_enc, from ∂L/∂z."""
    dz_MBN = work.dcodes_MBN
    grad_MND = work.grads[weight]
    x_MBD = x_BD.expand(len(dz_MBN), -1, -1)
    torch.baddbmm(grad_MND, dz_MBN.transpose(1, 2), x_MBD, beta=1 if add else 0, out=grad_MND)
    torch.sum(dz_MBN, dim=1, out=work.grads["b_enc"])


def mask_inactive(work: Workspace) -> None:
    """∂L/∂z = ∂L/∂c where the code is positive, 0 elsewhere (the derivative of ReLU), in place."""
    torch.ops.aten.threshold_backward.grad_input(work.dcodes_MBN, work.codes_MBN, 0.0, grad_input=work.dcodes_MBN)


def _unit_rows(W_ND: torch.Tensor) -> torch.Tensor:
    norm_N1: torch.Tensor = W_ND.norm(dim=1, keepdim=True)
    return W_ND / norm_N1

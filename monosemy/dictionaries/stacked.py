"""The products that all variants with a linear encoder share, for a whole stack, into buffers.

    z = x W_encᵀ + b_enc        r = c W_dec + b_dec − y         ∂L/∂c = (2/B) r W_decᵀ + λ/B
    ∂L/∂W_dec = (2/B) cᵀ r      ∂L/∂b_dec = (2/B) Σ_B r         ∂L/∂W_enc = ∂zᵀ x       ∂L/∂b_enc = Σ_B ∂z

y is the target, x itself unless the rows come in pairs or the encoder sees noise.
The loss is ‖r‖² summed over D plus the penalty, mean over rows. On one machine's CPU each product runs at the rate of a
single large one; on a GPU the stack is what fills it.

Shapes: M members, B rows, N width, D = d_in. Rows x_BD are shared by the members; x_MBD does as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries.dictionary import Params, Shape, Workspace
from monosemy.runtime import generator_for


def init_tied(shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
    """W_dec, random unit directions; biases that centre the data for an encoder W_dec (b_dec only with a mean)."""
    rows = [_unit_rows(torch.randn(shape.width, shape.d_in, generator=generator_for("init", shape.width, seed)))
            for seed in seeds]  # fmt: skip
    params = {"W_dec": torch.stack(rows), "b_enc": torch.zeros(shape.members, shape.width)}
    if mean_D is not None:
        # b_enc = −W_enc·mean: the encoder sees centred data, as if b_dec were subtracted from its input.
        params["b_enc"] = -(params["W_dec"] @ mean_D)
        params["b_dec"] = mean_D.expand(shape.members, -1).clone()
    return params


def init_linear(shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
    """`init_tied`, with W_enc = min(1, 2D/N) · W_dec and b_enc = −W_enc · mean: the first reconstruction is about x.

    For a random unit direction w, E[ReLU(w·x) w] = ½ E[(w·x) w] = x / 2D, as w and −w are as likely and E[w wᵀ] = I/D.
    N of them with W_enc = W_dec would start at x̂ ≈ N/2D · x, far too large where N ≫ D; the first gradients would then
    be so large that Adam's second moments slow training for the next thousand steps. Where N < 2D, x̂ starts below x.
    """
    params = init_tied(shape, seeds, mean_D)
    gain = min(1.0, 2 * shape.d_in / shape.width)
    return {**params, "W_enc": gain * params["W_dec"], "b_enc": gain * params["b_enc"]}


def pre_activations(x_BD: torch.Tensor, W_enc_MND: torch.Tensor, b_enc_MN: torch.Tensor, out: torch.Tensor) -> None:
    """z_MNB into `out`."""
    x_MBD = x_BD.expand(len(W_enc_MND), -1, -1)
    torch.baddbmm(b_enc_MN[:, :, None], W_enc_MND, x_MBD.mT, out=out)


def decode_residual(
    codes_MNB: torch.Tensor,
    W_dec_MND: torch.Tensor,
    b_dec_MD: torch.Tensor | None,
    target_BD: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor:
    """r_MDB = x̂ − target into `out`; gives ‖r‖² summed over D, mean over rows: one number a member."""
    if b_dec_MD is None:
        torch.neg(target_BD.T.expand_as(out), out=out)
    else:
        torch.sub(b_dec_MD[:, :, None], target_BD.T, out=out)
    out.baddbmm_(W_dec_MND.mT, codes_MNB)
    square_M: torch.Tensor = torch.linalg.vector_norm(out, dim=(1, 2)).square()
    return square_M / len(target_BD)


def code_gradient(
    residual_MDB: torch.Tensor, W_dec_MND: torch.Tensor, price_MN: torch.Tensor, out: torch.Tensor
) -> None:
    """∂L/∂c_MNB into `out`, where a unit of feature n costs `price_MN` in the penalty."""
    batch = residual_MDB.shape[2]
    torch.baddbmm((price_MN / batch)[:, :, None], W_dec_MND, residual_MDB, alpha=2 / batch, out=out)


def decoder_gradients(work: Workspace) -> None:
    """∂L/∂W_dec and, where there is one, ∂L/∂b_dec, from the codes and residuals in the workspace."""
    scale = 2 / work.residual_MDB.shape[2]
    grad_MND = work.grads["W_dec"]
    torch.baddbmm(grad_MND, work.codes_MNB, work.residual_MBD, beta=0, alpha=scale, out=grad_MND)
    if "b_dec" in work.grads:
        torch.sum(work.residual_MDB, dim=2, out=work.grads["b_dec"]).mul_(scale)


def encoder_gradients(work: Workspace, x_BD: torch.Tensor, weight: str = "W_enc", add: bool = False) -> None:
    """∂L/∂W_enc (added to what `weight` has already where the encoder is tied) and ∂L/∂b_enc, from ∂L/∂z."""
    dz_MNB = work.dcodes_MNB
    grad_MND = work.grads[weight]
    x_MBD = x_BD.expand(len(dz_MNB), -1, -1)
    torch.baddbmm(grad_MND, dz_MNB, x_MBD, beta=1 if add else 0, out=grad_MND)
    torch.sum(dz_MNB, dim=2, out=work.grads["b_enc"])


def mask_inactive(work: Workspace) -> None:
    """∂L/∂z = ∂L/∂c where the code is positive, 0 elsewhere (the derivative of ReLU), in place."""
    torch.ops.aten.threshold_backward.grad_input(work.dcodes_MNB, work.codes_MNB, 0.0, grad_input=work.dcodes_MNB)


def _unit_rows(W_ND: torch.Tensor) -> torch.Tensor:
    norm_N1: torch.Tensor = W_ND.norm(dim=1, keepdim=True)
    return W_ND / norm_N1

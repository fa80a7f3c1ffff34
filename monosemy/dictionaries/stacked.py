"""The products that all variants with a linear encoder share, for a whole stack, into buffers.

    z = x W_encᵀ + b_enc        r = c W_dec + b_dec − y         ∂L/∂c = (2/B) r W_decᵀ + λ/B
    ∂L/∂W_dec = (2/B) cᵀ r      ∂L/∂b_dec = (2/B) Σ_B r         ∂L/∂W_enc = ∂zᵀ x       ∂L/∂b_enc = Σ_B ∂z

y is the target, x itself unless the rows come in pairs or the encoder sees noise.
The loss is ‖r‖² summed over E plus the penalty, mean over rows. On one machine's CPU each product runs at the rate of a
single large one; on a GPU the stack is what fills it. Products in bf16 sum in fp32 and are rounded to bf16;
weights, biases and moments stay fp32.

Shapes: M members, B rows, N width, D = d_in, E = d_out. Rows x_BD are shared by the members; x_MBD does as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from monosemy.dictionaries.variant import Centre, Params, Scaling, Shape, Workspace
from monosemy.runtime import generator_for

FP32 = torch.float32


def member_of(params: Mapping[str, torch.Tensor], index: int) -> Params:
    """One member's parameters, without M: views."""
    return {name: tensor[index] for name, tensor in params.items()}


def members_of(params: Mapping[str, torch.Tensor], part: slice) -> Params:
    """The parameters of some members: views."""
    return {name: tensor[part] for name, tensor in params.items()}


def init_tied(shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
    """W_dec, random unit directions; biases that centre the data for an encoder W_dec (b_dec only with a centre)."""
    rows = [_unit_rows(torch.randn(shape.width, shape.d_out, generator=generator_for("init", shape.width, seed)))
            for seed in seeds]  # fmt: skip
    params = {"W_dec": torch.stack(rows), "b_enc": torch.zeros(shape.members, shape.width)}
    if centre is not None:
        # b_enc = −W_enc·mean: the encoder sees centred data, as if b_dec were subtracted from its input.
        if shape.d_in == shape.d_out:
            params["b_enc"] = -(params["W_dec"] @ centre.seen_D)
        params["b_dec"] = centre.target_E.expand(shape.members, -1).clone()
    return params


def init_linear(shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
    """`init_tied`, with W_enc = min(1, 2D/N) · W_dec and b_enc = −W_enc · mean: the first reconstruction is about x.

    For a random unit direction w, E[ReLU(w·x) w] = ½ E[(w·x) w] = x / 2D, as w and −w are as likely and E[w wᵀ] = I/D.
    N of them with W_enc = W_dec would start at x̂ ≈ N/2D · x, far too large where N ≫ D; the first gradients would then
    be so large that Adam's second moments slow training for the next thousand steps. Where N < 2D, x̂ starts below x.
    Between sites of different widths there is no transpose to start from: encoder rows are random directions too.
    """
    params = init_tied(shape, seeds, centre)
    gain = min(1.0, 2 * shape.d_in / shape.width)
    if shape.d_in == shape.d_out:
        return {**params, "W_enc": gain * params["W_dec"], "b_enc": gain * params["b_enc"]}
    size = (shape.width, shape.d_in)
    rows = [_unit_rows(torch.randn(size, generator=generator_for("init encoder", seed))) for seed in seeds]
    W_enc_MND = gain * torch.stack(rows)
    if centre is not None:
        params["b_enc"] = -(W_enc_MND @ centre.seen_D)
    return {**params, "W_enc": W_enc_MND}


def product(
    out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype, alpha: float = 1.0, beta: float = 0.0
) -> None:
    """out = beta · out + alpha · a b, member by member, the product made in `dtype`."""
    if dtype == FP32:
        torch.baddbmm(out, a, b, beta=beta, alpha=alpha, out=out)
        return
    made = torch.bmm(a.to(dtype), b.to(dtype))
    if beta:
        out.mul_(beta).add_(made, alpha=alpha)
    else:
        torch.mul(made, alpha, out=out)


def pre_activations(
    x_BD: torch.Tensor, W_enc_MND: torch.Tensor, b_enc_MN: torch.Tensor, out: torch.Tensor, dtype: torch.dtype = FP32
) -> None:
    """z_MNB into `out`."""
    x_MDB = x_BD.to(dtype).expand(len(W_enc_MND), -1, -1).mT  # one copy of the batch, not one a member
    if dtype == FP32:
        torch.baddbmm(b_enc_MN[:, :, None], W_enc_MND, x_MDB, out=out)
        return
    product(out, W_enc_MND, x_MDB, dtype)
    out.add_(b_enc_MN[:, :, None])


def decode_residual(
    codes_MNB: torch.Tensor,
    params: Params,
    target_BE: torch.Tensor,
    out: torch.Tensor,
    dtype: torch.dtype = FP32,
) -> torch.Tensor:
    """r_MEB = x̂ − target into `out`; gives ‖r‖² summed over E, mean over rows: one number a member."""
    if "b_dec" in params:
        torch.sub(params["b_dec"][:, :, None], target_BE.mT, out=out)
    else:
        torch.neg(target_BE.mT.expand_as(out), out=out)
    product(out, params["W_dec"].mT, codes_MNB, dtype, beta=1.0)
    return mean_square(out)


def mean_square(residual_MEB: torch.Tensor) -> torch.Tensor:
    """‖r‖² summed over E, mean over rows: one number a member."""
    square_M: torch.Tensor = torch.linalg.vector_norm(residual_MEB, dim=(1, 2)).square()
    return square_M / residual_MEB.shape[2]


def code_gradient(
    residual_MEB: torch.Tensor,
    W_dec_MNE: torch.Tensor,
    price_MN: torch.Tensor | None,
    out: torch.Tensor,
    dtype: torch.dtype = FP32,
) -> None:
    """∂L/∂c_MNB into `out`, where a unit of feature n costs `price_MN` in the penalty (None: nothing)."""
    batch = residual_MEB.shape[2]
    if dtype == FP32 and price_MN is not None:
        torch.baddbmm((price_MN / batch)[:, :, None], W_dec_MNE, residual_MEB, alpha=2 / batch, out=out)
        return
    product(out, W_dec_MNE, residual_MEB, dtype, alpha=2 / batch)
    if price_MN is not None:
        out.add_((price_MN / batch)[:, :, None])


def decoder_gradients(work: Workspace, dtype: torch.dtype = FP32) -> None:
    """∂L/∂W_dec and, where there is one, ∂L/∂b_dec, from the codes and residuals in the workspace."""
    scale = 2 / work.residual_MEB.shape[2]
    product(work.grads["W_dec"], work.codes_MNB, work.residual_MBE, dtype, alpha=scale)
    if "b_dec" in work.grads:
        torch.sum(work.residual_MEB, dim=2, out=work.grads["b_dec"]).mul_(scale)


def encoder_gradients(
    work: Workspace, x_BD: torch.Tensor, weight: str = "W_enc", add: bool = False, dtype: torch.dtype = FP32
) -> None:
    """∂L/∂W_enc (added to what `weight` has already where the encoder is tied) and ∂L/∂b_enc, from ∂L/∂z."""
    dz_MNB = work.dcodes_MNB
    x_MBD = x_BD.to(dtype).expand(len(dz_MNB), -1, -1)
    product(work.grads[weight], dz_MNB, x_MBD, dtype, beta=1.0 if add else 0.0)
    torch.sum(dz_MNB, dim=2, out=work.grads["b_enc"])


def mask_inactive(work: Workspace) -> None:
    """∂L/∂z = ∂L/∂c where the code is positive, 0 elsewhere (the derivative of ReLU), in place."""
    torch.ops.aten.threshold_backward.grad_input(work.dcodes_MNB, work.codes_MNB, 0.0, grad_input=work.dcodes_MNB)


def fired(codes_MNB: torch.Tensor) -> torch.Tensor:
    """Which features were active in any row, `fired_MN`, for codes of at least 0."""
    return codes_MNB.amax(dim=2) > 0


def folded(params: Params, scaling: Scaling) -> tuple[Params, torch.Tensor]:
    """One member's linear weights for raw rows, with decoder rows of norm 1, and `norm_N`, by which its codes grew.

    What a decoder row loses in length its code gains, so everything that is compared with z must grow by `norm_N` too.
    Parameters other than W_enc, b_enc, W_dec, b_dec are left as they are.
    """
    W_dec_NE = params["W_dec"] / scaling.target_E
    norm_N = W_dec_NE.norm(dim=1).clamp_min(1e-12)
    found = {
        **params,
        "W_enc": params["W_enc"] * scaling.seen_D * norm_N[:, None],
        "b_enc": params["b_enc"] * norm_N,
        "W_dec": W_dec_NE / norm_N[:, None],
    }
    if "b_dec" in params:
        found["b_dec"] = params["b_dec"] / scaling.target_E
    return found, norm_N


def _unit_rows(W_ND: torch.Tensor) -> torch.Tensor:
    norm_N1: torch.Tensor = W_ND.norm(dim=1, keepdim=True)
    return W_ND / norm_N1

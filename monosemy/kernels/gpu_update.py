"""The step of a member's rows on a GPU (Triton): gradients, projection, Adam and normalisation in one kernel.

One program a feature. A whole row is a block in registers, so the inner product of the projection and the norm after
the step need no second reading, and the gradient (`gpu_gradient.py`) never exists in memory. Bytes: W, m and v of both
matrices read and written, 24·N·(D+E), and what the gradients gather, 4·F·(D+E). At D = E = 4096, N = 131,072,
F = 8192·64: 26 GB + 17 GB, 9 ms at 4.8 TB/s less what of x and the residual (134 MB each) is found in L2; FLOPs do not
matter. `square_norms` (for gradient clipping only) gathers once more and reads W_dec where it projects: 19 GB, 4 ms.

A feature that did not fire is stepped as well, as Adam has it; one with a negative learning rate costs one number.
No host synchronisation.

Shapes: those of `firings.py`.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from monosemy.kernels.firings import AdamStep, RowGradients, RowParams
from monosemy.kernels.gpu_gradient import bias_gradient, decoder_gradient, encoder_gradient, sources
from monosemy.kernels.gpu_select import launch


def square_norms(gradient: RowGradients) -> torch.Tensor:
    """`Kernels.square_norms`."""
    square_N = gradient.W_dec_NE.new_empty(len(gradient.W_dec_NE))
    _squares[(len(square_N),)](square_N, **sources(gradient))
    return square_N.sum()


def update(
    gradient: RowGradients, params: RowParams, adam: AdamStep, lr_N: torch.Tensor, scale: float | torch.Tensor
) -> None:
    """`Kernels.update`."""
    decoder = (params.W_dec_NE, params.m_W_dec_NE, params.v_W_dec_NE)
    encoder = decoder if gradient.tied else (params.W_enc_ND, params.m_W_enc_ND, params.v_W_enc_ND)
    _update[(len(lr_N),)](
        *decoder[1:],
        *encoder,
        params.b_enc_N,
        params.m_b_enc_N,
        params.v_b_enc_N,
        lr_N,
        _on_device(scale, lr_N),
        *_constants(adam),
        **sources(gradient),
    )


def adam_rows(
    W_RD: torch.Tensor,
    grad_RD: torch.Tensor,
    m_RD: torch.Tensor,
    v_RD: torch.Tensor,
    adam: AdamStep,
    lr_R: torch.Tensor,
    unit: bool,
    scale: float | torch.Tensor,
) -> None:
    """`Kernels.adam`: 16 bytes read and 12 written a number."""
    rows, width = W_RD.shape
    block = triton.next_power_of_2(width) if unit else min(1024, triton.next_power_of_2(width))
    held = max(1, 1024 // block)
    blocks = triton.cdiv(width, block)
    _adam_rows[(triton.cdiv(rows, held) * blocks,)](
        W_RD,
        grad_RD,
        m_RD,
        v_RD,
        lr_R,
        _on_device(scale, lr_R).expand(rows).contiguous(),
        *_constants(adam),
        rows,
        width,
        blocks,
        unit,
        held,
        block,
        **launch(held * block),
    )


def _on_device(scale: float | torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return scale if isinstance(scale, torch.Tensor) else like.new_full((), scale)


def _constants(adam: AdamStep) -> tuple[float, ...]:
    """1−β₁, β₂, 1−β₂, 1/(1−β₁ᵗ), 1/√(1−β₂ᵗ), ε: differences are taken in double precision."""
    return 1.0 - adam.beta1, adam.beta2, 1.0 - adam.beta2, 1.0 / adam.correction1, adam.correction2**-0.5, adam.eps


@triton.jit
def _stepped(W, grad, m_at, v_at, mask, lr, new1, keep2, new2, rate, root, eps):
    """W after the step; writes m and v."""
    m = tl.load(m_at, mask=mask, other=0.0)
    v = tl.load(v_at, mask=mask, other=0.0)
    m += (grad - m) * new1
    v = v * keep2 + grad * grad * new2
    tl.store(m_at, m, mask=mask)
    tl.store(v_at, v, mask=mask)
    return W - lr * rate * m / (tl.sqrt(v) * root + eps)


@triton.jit
def _squares(
    square_N, start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_GBE, end_G, B, D, E,
    part_start_N1, part_SE, part_SD, part_S, pull_N, extra_N, extra_UE, extra_UD, extra_U, W_dec_NE,
    G: tl.constexpr, SPLIT: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
    TIED: tl.constexpr, UNIT: tl.constexpr, PULL: tl.constexpr, EXTRA: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    grad_E, _ = decoder_gradient(
        n, W_dec_NE, start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_GBE, end_G, B, D, E,
        part_start_N1, part_SE, part_SD, pull_N, extra_N, extra_UE, extra_UD,
        G, SPLIT, J, BLOCK, TIED, UNIT, PULL, EXTRA, LONG,
    )  # fmt: skip
    square = tl.sum(grad_E * grad_E)
    if not TIED:
        grad_D = encoder_gradient(
            n, start_N1, row_F, place_F, dz_F, x_BD, D, part_start_N1, part_SD, extra_N, extra_UD, SPLIT, J, BLOCK,
            EXTRA, LONG,
        )  # fmt: skip
        square += tl.sum(grad_D * grad_D)
    grad = bias_gradient(n, dz_F, start_N1, place_F, part_start_N1, part_S, extra_N, extra_U, SPLIT, EXTRA, LONG)
    tl.store(square_N + n, square + grad * grad)


@triton.jit
def _update(
    m_dec_NE, v_dec_NE, W_enc_ND, m_enc_ND, v_enc_ND, b_N, m_b_N, v_b_N, lr_N, scale_,
    new1, keep2, new2, rate, root, eps,
    start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_GBE, end_G, B, D, E,
    part_start_N1, part_SE, part_SD, part_S, pull_N, extra_N, extra_UE, extra_UD, extra_U, W_dec_NE,
    G: tl.constexpr, SPLIT: tl.constexpr, J: tl.constexpr, BLOCK: tl.constexpr,
    TIED: tl.constexpr, UNIT: tl.constexpr, PULL: tl.constexpr, EXTRA: tl.constexpr, LONG: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    lr, scale = tl.load(lr_N + n), tl.load(scale_)
    column = tl.arange(0, BLOCK)
    if (lr < 0) == 0:
        at, inside = n * E + column, column < E
        grad_E, W_E = decoder_gradient(
            n, W_dec_NE, start_N1, row_F, place_F, code_F, dz_F, x_BD, residual_GBE, end_G, B, D, E,
            part_start_N1, part_SE, part_SD, pull_N, extra_N, extra_UE, extra_UD,
            G, SPLIT, J, BLOCK, TIED, UNIT, PULL, EXTRA, LONG,
        )  # fmt: skip
        W_E = _stepped(
            W_E, grad_E * scale, m_dec_NE + at, v_dec_NE + at, inside, lr, new1, keep2, new2, rate, root, eps
        )
        if UNIT:
            W_E = W_E / tl.sqrt(tl.sum(tl.where(inside, W_E * W_E, 0.0)))
        tl.store(W_dec_NE + at, W_E, mask=inside)
        if not TIED:
            at, inside = n * D + column, column < D
            grad_D = encoder_gradient(
                n, start_N1, row_F, place_F, dz_F, x_BD, D, part_start_N1, part_SD, extra_N, extra_UD, SPLIT, J, BLOCK,
                EXTRA, LONG,
            )  # fmt: skip
            W_D = tl.load(W_enc_ND + at, mask=inside, other=0.0)
            W_D = _stepped(
                W_D, grad_D * scale, m_enc_ND + at, v_enc_ND + at, inside, lr, new1, keep2, new2, rate, root, eps
            )
            tl.store(W_enc_ND + at, W_D, mask=inside)
        grad = bias_gradient(n, dz_F, start_N1, place_F, part_start_N1, part_S, extra_N, extra_U, SPLIT, EXTRA, LONG)
        b = tl.load(b_N + n)
        b = _stepped(b, grad * scale, m_b_N + n, v_b_N + n, True, lr, new1, keep2, new2, rate, root, eps)
        tl.store(b_N + n, b)


@triton.jit
def _adam_rows(
    W_RD, grad_RD, m_RD, v_RD, lr_R, scale_R, new1, keep2, new2, rate, root, eps, R, D, blocks,
    UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    row = (program // blocks) * ROWS + tl.arange(0, ROWS)
    column = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    lr = tl.load(lr_R + row, mask=row < R, other=-1.0)
    inside = ((lr < 0) == 0)[:, None] & (column < D)[None, :]
    at = row[:, None] * D + column[None, :]
    W = tl.load(W_RD + at, mask=inside, other=0.0)
    grad = tl.load(grad_RD + at, mask=inside, other=0.0)
    if UNIT:
        grad -= tl.sum(grad * W, 1)[:, None] * W
    scale = tl.load(scale_R + row, mask=row < R, other=1.0)
    W = _stepped(
        W, grad * scale[:, None], m_RD + at, v_RD + at, inside, lr[:, None], new1, keep2, new2, rate, root, eps
    )
    if UNIT:
        W = W / tl.sqrt(tl.sum(tl.where(inside, W * W, 0.0), 1))[:, None]
    tl.store(W_RD + at, W, mask=inside)

"""Resampling dead features and copies: each gets the direction of a row that its dictionary reconstructs badly.

Source: Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron Resampling". For each dead feature a row of the
batch is drawn with probability ∝ ‖x − x̂‖⁴, the squared loss. Its decoder row becomes the direction of that row from
b_dec, its encoder row the same at 0.2 × the mean norm of the living encoder rows (tied: the one matrix has norm 1), and
b_enc = −W_enc b_dec, which is the paper's 0, as there b_dec is taken off before the encoder. Adam's moments of the
feature start from 0, and its learning rate rises over `resample_warmup` steps: Adam's first steps after second moments
of 0 are several times its usual ones.

A copy is a feature whose direction another one has too: an L1 penalty on sums lets the two share a code at no cost, so
they stay, and on toy worlds rare true features are missing for it (`benchmarks/equal_data.py`). Of each such pair the
later one is replaced where `copy_above` asks for it; this is ours, not the paper's.

Unlike in the paper, the rows are those of one batch, drawn without repeats (two features of equal weights would stay
equal), so no more features are replaced at a time than the batch has rows, and the loss is the error alone.

Shapes: B rows, N width, D = d_in, E = d_out, U = replaced features of one member.
"""

from __future__ import annotations

import torch

from monosemy.dictionaries.variant import Params
from monosemy.metrics.recovery import BLOCK, unit

ENCODER_SHARE = 0.2


def draw_rows(
    residual_BE: torch.Tensor, usable_B: torch.Tensor, count: int, generator: torch.Generator
) -> torch.Tensor:
    """Up to `count` different rows (fewer where fewer are `usable` and in error), with probability ∝ ‖residual‖⁴."""
    loss_B = torch.where(usable_B, residual_BE.square().sum(dim=1), 0).cpu().double()
    weights_B = (loss_B / loss_B.max().clamp_min(torch.finfo(torch.float64).tiny)).square()
    count = min(count, int((weights_B > 0).sum()))
    if count == 0:
        return torch.zeros(0, dtype=torch.int64)
    return torch.multinomial(weights_B, count, replacement=False, generator=generator)


def replace_features(
    params: Params,
    target_BE: torch.Tensor,
    residual_BE: torch.Tensor,
    dead_N: torch.Tensor,
    generator: torch.Generator,
    seen: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """New weights for one member's dead features, in place (parameters without M); which ones got them: `replaced_U`.

    `residual_BE` is x̂ − target of these rows. Where the encoder reads another site than is reconstructed, `seen` are
    its rows `x_BD` and their centre.
    """
    origin_E = params.get("b_dec", torch.zeros_like(target_BE[0]))
    x_BD, origin_D = (target_BE, origin_E) if seen is None else seen
    out_BE, in_BD = target_BE - origin_E, x_BD - origin_D
    out_norm_B, in_norm_B = (torch.linalg.vector_norm(rows, dim=1) for rows in (out_BE, in_BD))
    dead_U = dead_N.nonzero().flatten()
    usable_B = (out_norm_B > 0) & (in_norm_B > 0)
    rows_U = draw_rows(residual_BE, usable_B, len(dead_U), generator).to(target_BE.device)
    replaced_U = dead_U[: len(rows_U)]
    encoder_UD = in_BD[rows_U] / in_norm_B[rows_U, None]
    params["W_dec"][replaced_U] = out_BE[rows_U] / out_norm_B[rows_U, None]
    if "W_enc" in params:
        encoder_UD = encoder_UD * (ENCODER_SHARE * _mean_norm(params["W_enc"][~dead_N]))
        params["W_enc"][replaced_U] = encoder_UD
    params["b_enc"][replaced_U] = -(encoder_UD @ origin_D)
    return replaced_U


def copies(W_dec_ND: torch.Tensor, above: float) -> torch.Tensor:
    """Which features, `copy_N`, have the direction of an earlier one: a cosine above this."""
    copy_N = torch.zeros(len(W_dec_ND), dtype=torch.bool, device=W_dec_ND.device)
    if above >= 1:
        return copy_N
    earlier_N = torch.arange(len(W_dec_ND), device=W_dec_ND.device)
    for part_P in torch.split(earlier_N, BLOCK):
        cosines_PN = unit(W_dec_ND[part_P]) @ unit(W_dec_ND[: int(part_P[-1]) + 1]).T
        before_PN = earlier_N[: cosines_PN.shape[1]] < part_P[:, None]
        copy_N[part_P] = ((cosines_PN > above) & before_PN).any(dim=1)
    return copy_N


def _mean_norm(alive_AD: torch.Tensor) -> torch.Tensor:
    """Mean norm of the rows; 1, that of fresh rows, where none is alive."""
    if len(alive_AD) == 0:
        return alive_AD.new_ones(())
    mean: torch.Tensor = torch.linalg.vector_norm(alive_AD, dim=1).mean()
    return mean

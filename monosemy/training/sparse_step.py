"""One training step of one member whose codes are sparse: only its encode product is dense.

    entries chosen of z   →   codes   →   x̂ − y and ⟨x̂ − y, W_dec⟩   →   ∂L/∂z   →   entries by feature   →   update

The update sums a feature's gradients and moves its rows at once, so that no gradient of the size N·D exists; with
clipping they are summed twice, first for their norm.

Shapes: B rows, D = d_in, E = d_out, N width, F chosen entries, G nested levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monosemy.dictionaries.sparse import Encoder, SparseVariant
from monosemy.dictionaries.variant import Hyper, Params, StepStatistics
from monosemy.kernels.contract import Kernels
from monosemy.kernels.firings import AdamStep, Extra, Firings, RowGradients, RowParams
from monosemy.training.optimiser import Rates, clip_factor


@dataclass(frozen=True)
class SparseWork:
    """Buffers of a stack: z of a few rows; what is left to explain, at each level, of every member."""

    piece_RN: torch.Tensor
    residual_MGBE: torch.Tensor

    def residual_of(self, member: int) -> torch.Tensor:
        """x̂ − target of the whole dictionary, `residual_BE`, from the last level's share of the mean over levels."""
        return self.residual_MGBE[member, -1] * self.residual_MGBE.shape[1]


@dataclass(frozen=True)
class Forward:
    """What `update` needs of a step's forward half."""

    firings: Firings
    code_F: torch.Tensor
    dz_F: torch.Tensor
    own: Params
    pull_N: torch.Tensor | None


def forward(
    variant: SparseVariant,
    params: Params,
    x_BD: torch.Tensor,
    target_BE: torch.Tensor,
    hyper: Hyper,
    kernels: Kernels,
    work: SparseWork,
    member: int,
) -> tuple[Forward, StepStatistics]:
    """Codes, loss and ∂L/∂z of one member (parameters without M); residuals are left in `work`."""
    batch, width = len(x_BD), len(params["b_enc"])
    residual_GBE = work.residual_MGBE[member]
    chosen = variant.choose(params, Encoder.of(params, x_BD, hyper, kernels, work.piece_RN), hyper)
    code_F = variant.codes(params, chosen, hyper)
    firings = Firings(chosen.start_B1, chosen.feature_F, code_F)
    to_decode_BE = target_BE - x_BD @ params["W_skip"].T if "W_skip" in params else target_BE
    levels = variant.levels(width)
    square_B, dots_F = kernels.decode(firings, params["W_dec"], params.get("b_dec"), to_decode_BE, levels, residual_GBE)
    charge = variant.charge(params, chosen, code_F, hyper)
    slope_F = 2 * dots_F if charge.slope_F is None else torch.add(charge.slope_F, dots_F, alpha=2)
    backed = variant.back(params, chosen, code_F, slope_F / batch, hyper)
    own = dict(backed.own)
    if "b_dec" in params:
        own["b_dec"] = residual_GBE[0].sum(dim=0) * (2 / batch)
    if "W_skip" in params:
        own["W_skip"] = residual_GBE[0].T @ x_BD * (2 / batch)
    fired_N = torch.zeros(width, dtype=torch.bool, device=x_BD.device)
    fired_N[chosen.feature_F[code_F > 0]] = True
    extra = {name: value[None] for name, value in backed.extra.items()}
    statistics = StepStatistics(square_B.mean()[None], charge.value[None], fired_N[None], extra)
    return Forward(firings, code_F, backed.dz_F, own, charge.pull_N), statistics


def update(
    variant: SparseVariant,
    params: Params,
    mean: Params,
    square: Params,
    found: Forward,
    seen_BD: torch.Tensor,
    residual_GBE: torch.Tensor,
    extra: Extra | None,
    adam: AdamStep,
    rates: Rates,
    kernels: Kernels,
    *,
    unit: bool,
    clip: float,
) -> None:
    """Adam's step of one member, in place; `mean` and `square` are its moments."""
    width = len(params["b_enc"])
    tied = "W_enc" not in params
    rows = RowGradients(
        kernels.columns(found.firings, width), found.code_F, found.dz_F, seen_BD, residual_GBE, variant.levels(width),
        params["W_dec"], tied, unit, found.pull_N, extra,
    )  # fmt: skip
    scale: float | torch.Tensor = 1.0
    if clip:
        scale = clip_factor(kernels.square_norms(rows) + sum(g.square().sum() for g in found.own.values()), clip)
    for name, grad in found.own.items():
        lr = rates.member_M if name in variant.of_member else rates.feature_MN
        shape = (1, -1) if name in variant.of_member else (width, -1)
        kernels.adam(
            params[name].view(shape), grad.reshape(shape), mean[name].view(shape), square[name].view(shape), adam,
            lr.expand(shape[0]), scale=scale,
        )  # fmt: skip
    encoder = {} if tied else {
        "W_enc_ND": params["W_enc"], "m_W_enc_ND": mean["W_enc"], "v_W_enc_ND": square["W_enc"]
    }  # fmt: skip
    own = RowParams(
        params["W_dec"], mean["W_dec"], square["W_dec"], params["b_enc"], mean["b_enc"], square["b_enc"], **encoder
    )
    kernels.update(rows, own, adam, rates.feature_MN, scale)

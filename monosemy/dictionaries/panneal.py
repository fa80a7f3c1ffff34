"""p-annealed dictionaries: the penalty Σ c^p starts as L1 and comes nearer to a count of the codes as p falls.

    c = ReLU(W_enc x + b_enc),   x̂ = c W_dec + b_dec,   L = mean_B( ‖x − x̂‖² + λ s Σ_n ((c_n + δ)^p − δ^p) )

p is 1 for the first tenth of the run, then falls linearly to P_END. s, 1 at the start, keeps the penalty's size as p
falls: it grows by what the batch's sum shrinks, so λ means throughout what it does for L1. Its logarithm is tracked,
from the slope of log Σ in p. With p < 1 a large code costs hardly more than a small one, so codes shrink less and small
ones vanish. With the penalty "norm-weighted" c_n ‖W_dec,n‖ takes the place of c_n.

Source: Karvonen et al. 2024, "Measuring Progress in Dictionary Learning for Language Model Interpretability with Board
Game Models", arXiv 2408.00113. δ is ours: without it the slope p c^(p−1) is infinite at 0. The paper renews its weight
from the sums of the last steps' codes at a few changes of p; here p changes at every step. Left out: resampling within.

Shapes: M members, B rows, N width, D = d_in, E = d_out, F active codes of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import Relu
from monosemy.dictionaries.sparse import Backed, Charge
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Workspace
from monosemy.kernels.firings import Firings

P_START_AT, P_END = 0.1, 0.2  # share of the run with p = 1; p at its end
DELTA = 1e-2  # δ, for rows of norm 1


class PAnneal(Relu):
    """Untied, with Σ c^p for L1."""

    name = "panneal"
    tracked = ("log_strength", "p_before")

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """Relu's, log s [M] = 0, and the p [M] = 1 that it was made for."""
        params, zeros_M = super().init(shape, seeds, centre), torch.zeros(shape.members)
        return {**params, "log_strength": zeros_M, "p_before": zeros_M + 1}

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², λ s Σ), means over rows, for one member."""
        codes_BN = torch.relu(x_BD @ params["W_enc"].T + params["b_enc"])
        error_BE = codes_BN @ params["W_dec"] + params.get("b_dec", 0) - (x_BD if target_BE is None else target_BE)
        norm_N = params["W_dec"].norm(dim=1) if hyper.norm_weighted else 1
        p = exponent(hyper.progress)
        paid_BN = (codes_BN * norm_N + DELTA).pow(p) - DELTA**p
        weight = hyper.l1_M * params["log_strength"].detach().exp()
        return error_BE.square().sum(dim=1).mean(), weight * paid_BN.sum(dim=1).mean()

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """Relu's, with a price for each code."""
        batch, p = work.codes_MNB.shape[2], exponent(hyper.progress)
        reconstruction_M = stacked.decode_residual(work.codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        stacked.decoder_gradients(work, hyper.dtype)
        stacked.code_gradient(work.residual_MEB, params["W_dec"], None, work.dcodes_MNB, hyper.dtype)
        norm_MN = torch.ones_like(params["b_enc"])
        if hyper.norm_weighted:
            norm_MN = params["W_dec"].norm(dim=2).clamp_min(1e-12)
        size_MNB = work.codes_MNB * norm_MN[..., None]
        paid_M, slope_M, price_MNB = _paid(size_MNB, p)
        weight_M = hyper.l1_M * params["log_strength"].exp() / batch
        price_MNB.mul_(weight_M[:, None, None])  # of the code's size
        work.dcodes_MNB.addcmul_(price_MNB, norm_MN[..., None])
        stacked.mask_inactive(work)
        if hyper.norm_weighted:
            pull_MN = torch.linalg.vecdot(price_MNB, work.codes_MNB) / norm_MN
            work.grads["W_dec"].addcmul_(params["W_dec"], pull_MN[..., None])
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        extra = {"slope": slope_M / paid_M}
        return StepStatistics(reconstruction_M, weight_M * paid_M, stacked.fired(work.codes_MNB), extra)

    def charge(self, params: Params, firings: Firings, code_F: torch.Tensor, hyper: Hyper) -> Charge:
        """λ s Σ, over the entries."""
        p, weight = exponent(hyper.progress), hyper.l1_M * params["log_strength"].exp()
        norm_N = params["W_dec"].norm(dim=1).clamp_min(1e-12)
        norm_F = norm_N[firings.feature_F] if hyper.norm_weighted else torch.ones_like(code_F)
        paid, _, price_F = _paid(code_F * norm_F, p)
        price_F = price_F * weight
        value = weight * paid / firings.rows
        if not hyper.norm_weighted:
            return Charge(value, price_F)
        pull_N = torch.zeros_like(norm_N).index_add_(0, firings.feature_F, price_F * code_F)
        return Charge(value, price_F * norm_F, pull_N / norm_N / firings.rows)

    def back(
        self, params: Params, firings: Firings, code_F: torch.Tensor, dcode_F: torch.Tensor, hyper: Hyper
    ) -> Backed:
        """Relu's, and the slope that `track` wants."""
        norm_N = params["W_dec"].norm(dim=1)
        size_F = code_F * norm_N[firings.feature_F] if hyper.norm_weighted else code_F
        paid, slope, _ = _paid(size_F, exponent(hyper.progress))
        return Backed(dcode_F * (code_F != 0), extra={"slope": slope / paid})

    def track(self, params: Params, statistics: StepStatistics, hyper: Hyper) -> None:
        """log s ← log s − (the change of p) · ∂ log Σ / ∂p."""
        p, slope_M = exponent(hyper.progress), statistics.extra["slope"]
        moved_M = slope_M * (p - params["p_before"])
        params["log_strength"].sub_(torch.where(moved_M.isfinite(), moved_M, 0))
        params["p_before"].fill_(p)

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """A ReLU dictionary: what is tracked is of no use after training."""
        own = {name: tensor for name, tensor in params.items() if name not in self.tracked}
        return super().export(own, hyper, scaling)


def exponent(progress: float) -> float:
    """p at this share of the run."""
    return 1 - (1 - P_END) * max(0.0, (progress - P_START_AT) / (1 - P_START_AT))


def _paid(size: torch.Tensor, p: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of codes' sizes: Σ ((c + δ)^p − δ^p) and its derivative by p, sums but over a leading axis M; by each code."""
    log = (size / DELTA).log1p_()  # (c + δ)^p = δ^p e^(p log(1 + c/δ)): exactly 0 is paid for a code of 0
    grown = (log * p).expm1_().mul_(DELTA**p)
    over = tuple(range(1, size.ndim)) if size.ndim == 3 else None
    paid = grown.sum(dim=over)
    power = grown.add_(DELTA**p)
    slope = paid * math.log(DELTA) + (power * log).sum(dim=over)
    return paid, slope, power.mul_(p).div_(size + DELTA)

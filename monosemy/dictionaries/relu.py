"""ReLU dictionaries with an L1 penalty, untied and tied.

    c = ReLU(W_enc x + b_enc),   x̂ = c W_dec + b_dec,   L = mean_B( ‖x − x̂‖² + λ Σ_n c_n )

The default penalty ("sum") needs decoder rows of norm 1, else codes shrink and rows grow; "norm-weighted" charges
λ Σ c_n ‖W_dec,n‖ instead and leaves the norms free. Tied: W_enc = W_dec = W, one matrix of unit rows.

Sources: Sharkey et al. 2022 (S4); Bricken et al. 2023, "Towards Monosemanticity"; norm-weighted: Anthropic's "Circuits
Updates, April 2024". Left out: subtracting b_dec before the encoder. b_enc can do the same, and does at the start.

Shapes: M members, B rows, N width, D = d_in, E = d_out, F active codes of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.sparse import Charge, Encoder, SparseVariant
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Workspace
from monosemy.kernels.firings import Firings


class ReluDictionary(Dictionary):
    """c = ReLU(x W_encᵀ + b_enc). Tensors: W_enc [N, D], b_enc [N], W_dec [N, D], b_dec [D] or none."""

    name = "relu"
    separate = True

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN` ≥ 0."""
        return torch.relu(self.pre_activations(x_BD))

    def pre_activations(self, x_BD: torch.Tensor) -> torch.Tensor:
        """What the ReLU takes: `z_BN`."""
        return torch.addmm(self.tensors["b_enc"], x_BD, self.tensors["W_enc"].T)


class Relu(SparseVariant):
    """Untied ReLU-L1."""

    name = "relu"
    sparsity = "l1"
    pace = 2.0

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_enc, b_enc, W_dec and, with a centre, b_dec."""
        return stacked.init_linear(shape, seeds, centre)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², λ‖c‖₁), means over rows, for one member."""
        codes_BN = torch.relu(self.seen(x_BD, hyper) @ params["W_enc"].T + params["b_enc"])
        rec_BE = codes_BN @ params["W_dec"] + params.get("b_dec", 0)
        norm_N = params["W_dec"].norm(dim=1) if hyper.norm_weighted else 1
        penalty = hyper.l1_M * (codes_BN * norm_N).sum(dim=1).mean()
        return (rec_BE - (x_BD if target_BE is None else target_BE)).square().sum(dim=1).mean(), penalty

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """c = ReLU(z)."""
        weight_MND = params.get("W_enc", params["W_dec"])
        stacked.pre_activations(x_BD, weight_MND, params["b_enc"], work.codes_MNB, hyper.dtype)
        work.codes_MNB.relu_()

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The products of `stacked`, the codes charged for. Tied: W_dec gets the sum of both roles' gradients."""
        reconstruction_M = stacked.decode_residual(work.codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        mass_MN = work.codes_MNB.sum(dim=2) / work.codes_MNB.shape[2]
        norm_MN = params["W_dec"].norm(dim=2).clamp_min(1e-12) if hyper.norm_weighted else torch.ones_like(mass_MN)
        price_MN = hyper.l1_M[:, None] * norm_MN
        stacked.decoder_gradients(work, hyper.dtype)
        stacked.code_gradient(work.residual_MEB, params["W_dec"], price_MN, work.dcodes_MNB, hyper.dtype)
        stacked.mask_inactive(work)
        if hyper.norm_weighted:
            work.grads["W_dec"].addcmul_(params["W_dec"], (hyper.l1_M[:, None] * mass_MN / norm_MN)[:, :, None])
        tied = "W_enc" not in work.grads
        stacked.encoder_gradients(work, x_BD, "W_dec" if tied else "W_enc", add=tied, dtype=hyper.dtype)
        return StepStatistics(reconstruction_M, (price_MN * mass_MN).sum(dim=1), mass_MN > 0)

    def choose(self, params: Params, encoder: Encoder, hyper: Hyper) -> Firings:
        """z > 0."""
        zero_N = torch.zeros_like(params["b_enc"])
        return encoder.chosen(lambda z_RN: encoder.kernels.above(z_RN, zero_N))

    def charge(self, params: Params, firings: Firings, code_F: torch.Tensor, hyper: Hyper) -> Charge:
        """λ Σ c, or λ Σ c ‖W_dec,n‖."""
        batch = firings.rows
        if not hyper.norm_weighted:
            return Charge(hyper.l1_M * code_F.sum() / batch, hyper.l1_M.expand_as(code_F))
        norm_N = params["W_dec"].norm(dim=1).clamp_min(1e-12)
        mass_N = torch.zeros_like(norm_N).index_add_(0, firings.feature_F, code_F) / batch
        slope_F = hyper.l1_M * norm_N[firings.feature_F]
        return Charge(hyper.l1_M * (mass_N * norm_N).sum(), slope_F, hyper.l1_M * mass_N / norm_N)

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """Codes in raw units."""
        return ReluDictionary(stacked.folded(params, scaling)[0])


class Tied(Relu):
    """ReLU-L1 whose encoder is the decoder."""

    name = "tied"

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_dec, b_enc and, with a centre, b_dec."""
        return stacked.init_tied(shape, seeds, centre)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Relu's, with W_enc = W_dec."""
        return super().loss({**params, "W_enc": params["W_dec"]}, x_BD, hyper, target_BE)

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """An untied dictionary with equal weights, up to what scaling back does to them."""
        return super().export({**params, "W_enc": params["W_dec"]}, hyper, scaling)


def unit_decoder(params: Params) -> Params:
    """The same function with decoder rows of norm 1: what a row loses, its code gains."""
    norm_N = params["W_dec"].norm(dim=1).clamp_min(1e-12)
    return {
        **params,
        "W_enc": params["W_enc"] * norm_N[:, None],
        "b_enc": params["b_enc"] * norm_N,
        "W_dec": params["W_dec"] / norm_N[:, None],
    }

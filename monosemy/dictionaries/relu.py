"""ReLU dictionaries with an L1 penalty, untied and tied.

    c = ReLU(W_enc x + b_enc),   x̂ = c W_dec + b_dec,   L = mean_B( ‖x − x̂‖² + λ Σ_n c_n )

The default penalty ("sum") needs decoder rows of norm 1, else codes shrink and rows grow; "norm-weighted" charges
λ Σ c_n ‖W_dec,n‖ instead and leaves the norms free. Tied: W_enc = W_dec = W, one matrix of unit rows.

Sources: Sharkey et al. 2022 (S4); Bricken et al. 2023, "Towards Monosemanticity"; norm-weighted: Anthropic's "Circuits
Updates, April 2024". Left out: subtracting b_dec before the encoder. b_enc can do the same, and does at the start.

Shapes: M members, B rows, N width, D = d_in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary, Hyper, Params, Shape, StepStatistics, Variant, Workspace


class ReluDictionary(Dictionary):
    """c = ReLU(x W_encᵀ + b_enc). Tensors: W_enc [N, D], b_enc [N], W_dec [N, D], b_dec [D] or none."""

    name = "relu"

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN` ≥ 0."""
        return torch.relu(self.pre_activations(x_BD))

    def pre_activations(self, x_BD: torch.Tensor) -> torch.Tensor:
        """What the ReLU takes: `z_BN`."""
        return torch.addmm(self.tensors["b_enc"], x_BD, self.tensors["W_enc"].T)


class Relu(Variant):
    """Untied ReLU-L1."""

    name = "relu"
    sparsity = "l1"

    def init(self, shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
        """W_enc, b_enc, W_dec and, with a mean, b_dec."""
        return stacked.init_linear(shape, seeds, mean_D)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BD: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², λ‖c‖₁), means over rows, for one member."""
        codes_BN = torch.relu(self.seen(x_BD, hyper) @ params["W_enc"].T + params["b_enc"])
        rec_BD = codes_BN @ params["W_dec"] + params.get("b_dec", 0)
        norm_N = params["W_dec"].norm(dim=1) if hyper.norm_weighted else 1
        penalty = hyper.l1_M * (codes_BN * norm_N).sum(dim=1).mean()
        return (rec_BD - (x_BD if target_BD is None else target_BD)).square().sum(dim=1).mean(), penalty

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """c = ReLU(z)."""
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], out=work.codes_MNB)
        work.codes_MNB.relu_()

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BD: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The products of `stacked`, the codes charged for."""
        statistics = _backward(params, target_BD, hyper, work)
        stacked.encoder_gradients(work, x_BD)
        return statistics

    def export(self, params: Params, hyper: Hyper, scale: float) -> Dictionary:
        """Codes in raw units: biases are divided by `scale`; the weights stay, for ReLU is positively homogeneous."""
        return ReluDictionary(unit_decoder(unscaled(params, scale)))


class Tied(Relu):
    """ReLU-L1 whose encoder is the decoder."""

    name = "tied"

    def init(self, shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
        """W_dec, b_enc and, with a mean, b_dec."""
        return stacked.init_tied(shape, seeds, mean_D)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BD: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Relu's, with W_enc = W_dec."""
        return super().loss({**params, "W_enc": params["W_dec"]}, x_BD, hyper, target_BD)

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """Relu's, with W_enc = W_dec."""
        super().encode({**params, "W_enc": params["W_dec"]}, x_BD, hyper, work)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BD: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """W_dec gets the sum of both roles' gradients."""
        statistics = _backward(params, target_BD, hyper, work)
        stacked.encoder_gradients(work, x_BD, weight="W_dec", add=True)
        return statistics

    def export(self, params: Params, hyper: Hyper, scale: float) -> Dictionary:
        """An untied dictionary with equal weights."""
        return super().export({**params, "W_enc": params["W_dec"]}, hyper, scale)


def _backward(params: Params, target_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> StepStatistics:
    """Everything but the encoder's weight gradient; ∂L/∂z is left in the workspace."""
    W_dec_MND = params["W_dec"]
    reconstruction_M = stacked.decode_residual(
        work.codes_MNB, W_dec_MND, params.get("b_dec"), target_BD, out=work.residual_MDB
    )
    mass_MN = work.codes_MNB.sum(dim=2) / len(target_BD)
    norm_MN = W_dec_MND.norm(dim=2) if hyper.norm_weighted else torch.ones_like(mass_MN)
    price_MN = hyper.l1_M[:, None] * norm_MN
    stacked.decoder_gradients(work)
    stacked.code_gradient(work.residual_MDB, W_dec_MND, price_MN, out=work.dcodes_MNB)
    stacked.mask_inactive(work)
    if hyper.norm_weighted:
        work.grads["W_dec"].addcmul_(W_dec_MND, (hyper.l1_M[:, None] * mass_MN / norm_MN)[:, :, None])
    return StepStatistics(reconstruction_M, (price_MN * mass_MN).sum(dim=1), mass_MN > 0)


def unscaled(params: Params, scale: float) -> Params:
    """The same function for raw rows, from parameters for `scale` times them."""
    return {name: tensor / scale if name.startswith("b_") else tensor for name, tensor in params.items()}


def unit_decoder(params: Params) -> Params:
    """The same function with decoder rows of norm 1: what a row loses, its code gains."""
    norm_N = params["W_dec"].norm(dim=1).clamp_min(1e-12)
    return {
        **params,
        "W_enc": params["W_enc"] * norm_N[:, None],
        "b_enc": params["b_enc"] * norm_N,
        "W_dec": params["W_dec"] / norm_N[:, None],
    }

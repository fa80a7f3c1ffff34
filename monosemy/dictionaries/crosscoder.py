"""Crosscoders: one set of codes for several sites of a network, each with its own encoder and decoder.

    c = ReLU(Σ_s W_enc^s x^s + b_enc),   x̂^s = c W_dec^s + b_dec^s,
    L = mean_B( Σ_s ‖x^s − x̂^s‖² + λ Σ_n c_n Σ_s ‖W_dec,n^s‖ )

A feature's norm at a site says how much it matters there; one of norm 0 is absent. The price of a feature is the sum
of its norms, so that a feature of few sites is cheaper than one of many.

The sites' rows lie side by side, x = [x¹ … x^S] of width ΣD_s, each scaled to mean norm 1; W_enc and W_dec have the
same blocks. Exported rows of W_dec have norm 1 over all sites together, in raw units.

Source: Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing". Left out: crosscoders that
read fewer sites than they write; sparse steps.

Shapes: M members, B rows, N width, D = ΣD_s, S sites.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Variant, Workspace


class CrosscoderDictionary(ReluDictionary):
    """ReLU codes of rows that are several sites side by side (`settings["sites"]`: their widths)."""

    name = "crosscoder"

    def norms(self) -> torch.Tensor:
        """How much of each feature is at each site: the norms of its decoder blocks, `norm_NS`."""
        return torch.stack([block.norm(dim=1) for block in self.directions()], dim=1)

    def directions(self) -> tuple[torch.Tensor, ...]:
        """W_dec of each site, [N, D_s]; rows are as long as the feature is strong there."""
        return torch.split(self.W_dec_ND, list(self.settings["sites"]), dim=1)


class Crosscoder(Variant):
    """ReLU with a price for the sum of the sites' norms."""

    name = "crosscoder"
    sparsity = "l1"
    reads = "sites"
    free_norms = True

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_enc, b_enc, W_dec and, with a centre, b_dec."""
        return stacked.init_linear(shape, seeds, centre)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(Σ_s ‖target − x̂‖², λ Σ c Σ_s ‖W‖), means over rows, for one member."""
        codes_BN = torch.relu(x_BD @ params["W_enc"].T + params["b_enc"])
        rec_BD = codes_BN @ params["W_dec"] + params.get("b_dec", 0)
        error_BD = rec_BD - (x_BD if target_BE is None else target_BE)
        price_N = hyper.l1_M * _site_norms(params["W_dec"], hyper.sites).sum(dim=-1)
        return error_BD.square().sum(dim=1).mean(), (codes_BN * price_N).sum(dim=1).mean()

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """c = ReLU(z)."""
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], work.codes_MNB, hyper.dtype)
        work.codes_MNB.relu_()

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The products of `stacked`; each site's block of W_dec pays for its own length."""
        W_dec_MND = params["W_dec"]
        reconstruction_M = stacked.decode_residual(work.codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        mass_MN = work.codes_MNB.sum(dim=2) / work.codes_MNB.shape[2]
        norm_MNS = _site_norms(W_dec_MND, hyper.sites)
        price_MN = hyper.l1_M[:, None] * norm_MNS.sum(dim=2)
        stacked.decoder_gradients(work, hyper.dtype)
        stacked.code_gradient(work.residual_MEB, W_dec_MND, price_MN, work.dcodes_MNB, hyper.dtype)
        stacked.mask_inactive(work)
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        widths = _sites(W_dec_MND, hyper.sites)
        grads = torch.split(work.grads["W_dec"], widths, dim=2)
        for grad_MND, block_MND, norm_MN in zip(
            grads, torch.split(W_dec_MND, widths, dim=2), norm_MNS.unbind(dim=2), strict=True
        ):
            pull_MN = hyper.l1_M[:, None] * mass_MN / norm_MN.clamp_min(1e-12)
            grad_MND.addcmul_(block_MND, pull_MN[:, :, None])
        return StepStatistics(reconstruction_M, (price_MN * mass_MN).sum(dim=1), mass_MN > 0)

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """Codes in raw units."""
        sites = _sites(params["W_dec"], hyper.sites)
        return CrosscoderDictionary(stacked.folded(params, scaling)[0], {"sites": sites})


def _sites(W_dec: torch.Tensor, sites: tuple[int, ...]) -> list[int]:
    """Rows that are of one site only are one block."""
    return list(sites) or [W_dec.shape[-1]]


def _site_norms(W_dec: torch.Tensor, sites: tuple[int, ...]) -> torch.Tensor:
    """‖W_dec,n^s‖: [..., N, S]."""
    blocks = torch.split(W_dec, _sites(W_dec, sites), dim=-1)
    return torch.stack([torch.linalg.vector_norm(block, dim=-1) for block in blocks], dim=-1)

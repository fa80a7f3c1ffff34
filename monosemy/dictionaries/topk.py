"""TopK dictionaries: the k largest codes of each row are kept, so L0 is chosen and no penalty is needed.

    c = TopK(ReLU(W_enc x + b_enc), k),   x̂ = c W_dec + b_dec,   L = mean_B ‖x − x̂‖²

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093. Left out here: AuxK, which
revives dead features of any variant (`training/dead.py`); multi-TopK.

Shapes: M members, B rows, N width, D = d_in, K = largest k of the stack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary, Hyper, Params, Shape, StepStatistics, Variant, Workspace
from monosemy.dictionaries.relu import ReluDictionary, unit_decoder, unscaled


class TopKDictionary(ReluDictionary):
    """ReLU codes of which each row keeps its k largest (`settings["k"]`)."""

    name = "topk"

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN` ≥ 0, at most k of them above 0 in a row."""
        values_BK, indices_BK = self.encode_sparse(x_BD)
        codes_BN = values_BK.new_zeros(len(x_BD), self.width)
        return codes_BN.scatter_(1, indices_BK, values_BK)

    def encode_sparse(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`values_BK` ≥ 0 and `indices_BK`, largest first, K = k."""
        values_BK, indices_BK = self.pre_activations(x_BD).topk(self.settings["k"], dim=1)
        return torch.relu(values_BK), indices_BK


class TopK(Variant):
    """Keep the k largest."""

    name = "topk"
    sparsity = "k"

    def init(self, shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
        """W_enc, b_enc, W_dec and, with a mean, b_dec."""
        return stacked.init_linear(shape, seeds, mean_D)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BD: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², 0), mean over rows, for one member."""
        z_BN = x_BD @ params["W_enc"].T + params["b_enc"]
        values_BK, indices_BK = z_BN.topk(int(hyper.k_M), dim=1)
        codes_BN = torch.zeros_like(z_BN).scatter(1, indices_BK, torch.relu(values_BK))
        rec_BD = codes_BN @ params["W_dec"] + params.get("b_dec", 0)
        error_BD = rec_BD - (x_BD if target_BD is None else target_BD)
        return error_BD.square().sum(dim=1).mean(), rec_BD.new_zeros(())

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """The k largest of each row; members may differ in k."""
        members, width, batch = work.codes_MNB.shape
        z_MBN = work.dcodes_MNB.view(members, batch, width)  # not needed yet; a row's z side by side are ranked faster
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], out=z_MBN.mT)
        values_MBK, indices_MBK = z_MBN.topk(int(hyper.k_M.max()), dim=2)
        rank_K = torch.arange(values_MBK.shape[2], device=x_BD.device)
        kept_MBK = torch.relu(values_MBK) * (rank_K < hyper.k_M[:, None, None])
        work.codes_MNB.zero_().scatter_(1, indices_MBK.mT, kept_MBK.mT)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BD: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The products of `stacked`, codes at no price."""
        codes_MNB, W_dec_MND = work.codes_MNB, params["W_dec"]
        reconstruction_M = stacked.decode_residual(
            codes_MNB, W_dec_MND, params.get("b_dec"), target_BD, out=work.residual_MDB
        )
        stacked.decoder_gradients(work)
        free_MN = torch.zeros_like(params["b_enc"])
        stacked.code_gradient(work.residual_MDB, W_dec_MND, free_MN, out=work.dcodes_MNB)
        stacked.mask_inactive(work)
        stacked.encoder_gradients(work, x_BD)
        fired_MN = codes_MNB.amax(dim=2) > 0
        return StepStatistics(reconstruction_M, torch.zeros_like(reconstruction_M), fired_MN)

    def export(self, params: Params, hyper: Hyper, scale: float) -> Dictionary:
        """Which k are largest does not depend on scale, so only the biases change."""
        return TopKDictionary(unit_decoder(unscaled(params, scale)), {"k": int(hyper.k_M)})

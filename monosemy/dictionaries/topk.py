"""TopK dictionaries: the k largest codes of each row are kept, so L0 is chosen and no penalty is needed.

    c = TopK(ReLU(W_enc x + b_enc), k),   x̂ = c W_dec + b_dec,   L = mean_B ‖x − x̂‖²

Source: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", arXiv 2406.04093. Left out here: AuxK, which
revives dead features of any variant (`training/dead.py`); multi-TopK.

Shapes: M members, B rows, N width, D = d_in, E = d_out, K = largest k of the stack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.sparse import Encoder, SparseVariant
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Workspace
from monosemy.kernels.firings import Firings


class TopKDictionary(ReluDictionary):
    """ReLU codes of which each row keeps its k largest (`settings["k"]`).

    Where training scaled coordinates unequally, codes of unit-norm features grew unequally too, and the largest are
    those by z · `rank` (tensor [N]).
    """

    name = "topk"
    separate = False

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN` ≥ 0, at most k of them above 0 in a row."""
        values_BK, indices_BK = self._largest(x_BD)
        codes_BN = values_BK.new_zeros(len(x_BD), self.width)
        return codes_BN.scatter_(1, indices_BK, values_BK)

    def encode_sparse(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`values_BK` ≥ 0 and `indices_BK`, largest first, K = k."""
        values_BK, indices_BK = self._largest(x_BD)
        if "rank" in self.tensors:
            values_BK, order_BK = values_BK.sort(dim=1, descending=True)
            indices_BK = indices_BK.gather(1, order_BK)
        return values_BK, indices_BK

    def _largest(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z_BN = self.pre_activations(x_BD)
        ranked_BN = z_BN * self.tensors["rank"] if "rank" in self.tensors else z_BN
        indices_BK = ranked_BN.topk(self.settings["k"], dim=1).indices
        return torch.relu(z_BN.gather(1, indices_BK)), indices_BK


class TopK(SparseVariant):
    """Keep the k largest."""

    name = "topk"
    sparsity = "k"
    counted = True

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_enc, b_enc, W_dec and, with a centre, b_dec."""
        return stacked.init_linear(shape, seeds, centre)

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², 0), mean over rows, for one member."""
        rec_BE = self._codes(params, x_BD, hyper) @ params["W_dec"] + params.get("b_dec", 0)
        error_BE = rec_BE - (x_BD if target_BE is None else target_BE)
        return error_BE.square().sum(dim=1).mean(), rec_BE.new_zeros(())

    def _codes(self, params: Params, x_BD: torch.Tensor, hyper: Hyper) -> torch.Tensor:
        z_BN = x_BD @ params["W_enc"].T + params["b_enc"]
        values_BK, indices_BK = z_BN.topk(int(hyper.k_M), dim=1)
        return torch.zeros_like(z_BN).scatter(1, indices_BK, torch.relu(values_BK))

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """The k largest of each row; members may differ in k."""
        members, width, batch = work.codes_MNB.shape
        z_MBN = work.dcodes_MNB.view(members, batch, width)  # not needed yet; a row's z side by side are ranked faster
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], z_MBN.mT, hyper.dtype)
        values_MBK, indices_MBK = z_MBN.topk(int(hyper.k_M.max()), dim=2)
        rank_K = torch.arange(values_MBK.shape[2], device=x_BD.device)
        kept_MBK = torch.relu(values_MBK) * (rank_K < hyper.k_M[:, None, None])
        work.codes_MNB.zero_().scatter_(1, indices_MBK.mT, kept_MBK.mT)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The products of `stacked`, codes at no price."""
        reconstruction_M = stacked.decode_residual(work.codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        stacked.decoder_gradients(work, hyper.dtype)
        stacked.code_gradient(work.residual_MEB, params["W_dec"], None, work.dcodes_MNB, hyper.dtype)
        stacked.mask_inactive(work)
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        return StepStatistics(reconstruction_M, torch.zeros_like(reconstruction_M), stacked.fired(work.codes_MNB))

    def choose(self, params: Params, encoder: Encoder, hyper: Hyper) -> Firings:
        """The k largest of each row, where they are positive."""
        k = int(hyper.k_M)
        return encoder.chosen(lambda z_RN: encoder.kernels.topk(z_RN, k))

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """Which k are largest does not depend on one scale for all; where there are several, it is kept by `rank`."""
        tensors, norm_N = stacked.folded(params, scaling)
        if not scaling.is_uniform:
            tensors["rank"] = 1 / norm_N
        return TopKDictionary(tensors, {"k": int(hyper.k_M)})

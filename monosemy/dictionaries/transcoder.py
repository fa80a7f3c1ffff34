"""Transcoders: they read one site of a network and reconstruct another one, so they stand for what lies between.

    c = TopK(ReLU(W_enc x + b_enc), k),   ŷ = c W_dec + b_dec (+ W_skip x),   L = mean_B ‖y − ŷ‖²

x is, say, what an MLP takes and y what it gives: a sparse MLP whose features are readable. A skip transcoder has a
linear path besides, for what needs no features.

Sources: Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits", arXiv 2406.11944 (with an L1
penalty; TopK here, as in the next); Paulo et al. 2025, "Transcoders Beat Sparse Autoencoders for Interpretability",
arXiv 2501.18823 (skip, W_skip starting at 0). Left out: transcoders across several layers.

Shapes: M members, B rows, N width, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.topk import TopK, TopKDictionary
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Workspace


class SkipTranscoderDictionary(TopKDictionary):
    """A TopK transcoder with a linear path besides: tensor W_skip [E, D]. Codes and `decode` are without it."""

    name = "skip-transcoder"

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`ŷ_BE`."""
        return super().reconstruct(x_BD) + x_BD @ self.tensors["W_skip"].T


class Transcoder(TopK):
    """TopK from one site to another."""

    name = "transcoder"
    reads = "pairs"


class SkipTranscoder(TopK):
    """TopK from one site to another, with W_skip besides."""

    name = "skip-transcoder"
    reads = "pairs"
    of_member = ("b_dec", "W_skip")

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """TopK's, and W_skip [M, E, D] of 0."""
        return {**super().init(shape, seeds, centre), "W_skip": torch.zeros(shape.members, shape.d_out, shape.d_in)}

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − ŷ‖², 0), mean over rows, for one member."""
        target_BE = x_BD if target_BE is None else target_BE
        return super().loss(params, x_BD, hyper, target_BE - x_BD @ params["W_skip"].T)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """TopK's, for what W_skip leaves; then W_skip's own."""
        W_skip_MED = params["W_skip"]
        left_MEB = torch.baddbmm(target_BE.T.expand(len(W_skip_MED), -1, -1), W_skip_MED, x_BD.T.expand(
            len(W_skip_MED), -1, -1), alpha=-1)  # fmt: skip
        statistics = super().backward(params, x_BD, left_MEB.mT, hyper, work)
        x_MBD = x_BD.expand(len(W_skip_MED), -1, -1)
        stacked.product(work.grads["W_skip"], work.residual_MEB, x_MBD, hyper.dtype, alpha=2 / len(x_BD))
        return statistics

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """For raw rows: W_skip takes both scales."""
        found = super().export(params, hyper, scaling)
        W_skip_ED = params["W_skip"] * scaling.seen_D / scaling.target_E[:, None]
        return SkipTranscoderDictionary({**found.tensors, "W_skip": W_skip_ED}, found.settings)

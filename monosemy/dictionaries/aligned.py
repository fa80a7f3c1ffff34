"""Aligned TopK dictionaries: every feature's encoder and decoder directions have an inner product of exactly 1.

    W_enc,n = V_n + (1 − ⟨V_n, d_n⟩) d_n,   d_n = W_dec,n of norm 1,   so that ⟨W_enc,n, d_n⟩ = 1 whatever V is;
    the rest is TopK:   c = TopK(ReLU(W_enc x + b_enc), k),   x̂ = c W_dec + b_dec,   L = mean_B ‖x − x̂‖²

An encoder row that has turned away from what its feature writes is how features die and differ between seeds; here it
can only move at right angles to it. Nothing is added that would have to be tuned.

Source: "Aligned Training: A Parameter-Free Method to Improve Feature Quality and Stability of Sparse Autoencoders",
arXiv 2605.18629. The paper composes it with several variants; here it is on TopK. The parametrisation is ours (the
gradients' is that of V and d above). Left out: sparse steps.

Shapes: M members, B rows, N width, D = d_in = d_out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.topk import TopK
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Variant, Workspace

TOPK = TopK()


class Aligned(Variant):
    """TopK with aligned encoders. The parameter `W_enc` is V."""

    name = "aligned"
    sparsity = "k"
    pace = 2.0

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """V = W_dec, b_enc and, with a centre, b_dec."""
        params = stacked.init_tied(shape, seeds, centre)
        return {**params, "W_enc": params["W_dec"].clone()}

    def effective(self, params: Params) -> Params:
        """V made W_enc."""
        V, d = params["W_enc"], params["W_dec"]
        return {**params, "W_enc": V + (1 - torch.linalg.vecdot(V, d))[..., None] * d}

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """TopK's."""
        return TOPK.loss(self.effective(params), x_BD, hyper, target_BE)

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """TopK's."""
        TOPK.encode(params, x_BD, hyper, work)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """TopK's."""
        return TOPK.backward(params, x_BD, target_BE, hyper, work)

    def chain(self, params: Params, grads: Params) -> None:
        """With g = ∂L/∂W_enc: ∂L/∂V = g − ⟨g, d⟩ d, and ∂L/∂d gets (1 − ⟨V, d⟩) g − ⟨g, d⟩ V."""
        V, d, g = params["W_enc"], params["W_dec"], grads["W_enc"]
        along_MN1 = torch.linalg.vecdot(g, d)[..., None]
        grads["W_dec"].addcmul_(1 - torch.linalg.vecdot(V, d)[..., None], g).addcmul_(along_MN1, V, value=-1)
        g.addcmul_(along_MN1, d, value=-1)

    def revive(self, params: Params, features_U: torch.Tensor) -> None:
        """b_enc = −W_enc b_dec with the W_enc that V makes, whose length is not V's."""
        W_enc_UD = self.effective(params)["W_enc"][features_U]
        params["b_enc"][features_U] = -(W_enc_UD @ params["b_dec"]) if "b_dec" in params else 0.0

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """A TopK dictionary."""
        return TOPK.export(self.effective(params), hyper, scaling)

"""BatchTopK dictionaries: the B·k largest codes of a batch are kept, so rows share what is allowed to be active.

    c = BatchTopK(ReLU(W_enc x + b_enc), B·k),   x̂ = c W_dec + b_dec,   L = mean_B ‖x − x̂‖²

A row's codes then depend on its neighbours, so a trained dictionary uses a threshold instead: c = z where z > θ. θ is
the running mean of the smallest code that was kept in a batch.

Source: Bussmann et al. 2024, "BatchTopK Sparse Autoencoders", arXiv 2412.06410. Left out: AuxK, which revives dead
features of any variant (`training/dead.py`).

Shapes: M members, B rows, N width, D = d_in, E = d_out, F chosen entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.jumprelu import JumpReluDictionary
from monosemy.dictionaries.sparse import Backed, Encoder
from monosemy.dictionaries.topk import TopK
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Workspace
from monosemy.kernels.firings import Firings

UNSET = -1.0  # of a threshold that no batch has set yet
KEEP = 0.9  # of the running threshold, a step: it must follow codes that grow, and be there at the end of a short run
GUESS = 0.7  # times the running threshold: nearly all that is kept is above it
PER_ROW = 4  # times k: what is looked at of each row where there is no good guess


class BatchTopK(TopK):
    """Keep the B·k largest of the batch."""

    name = "batchtopk"
    pace = 2.0
    tracked = ("threshold",)

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """TopK's, and the threshold [M, 1]."""
        return {**super().init(shape, seeds, centre), "threshold": torch.full((shape.members, 1), UNSET)}

    def _codes(self, params: Params, x_BD: torch.Tensor, hyper: Hyper) -> torch.Tensor:
        z_X = torch.relu(x_BD @ params["W_enc"].T + params["b_enc"]).flatten()
        values_F, places_F = z_X.topk(len(x_BD) * int(hyper.k_M))
        return torch.zeros_like(z_X).scatter(0, places_F, values_F).view(len(x_BD), -1)

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """The B·k largest of each member; members may differ in k."""
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], work.dcodes_MNB, hyper.dtype)
        work.codes_MNB.zero_()
        for z_NB, codes_NB, k in zip(work.dcodes_MNB, work.codes_MNB, hyper.k_M.tolist(), strict=True):
            values_F, places_F = z_NB.flatten().topk(z_NB.shape[1] * k)
            codes_NB.view(-1).scatter_(0, places_F, torch.relu(values_F))

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """TopK's; `track` gets the smallest code of each member."""
        statistics = super().backward(params, x_BD, target_BE, hyper, work)
        statistics.extra["least"] = least_code(work)
        return statistics

    def choose(self, params: Params, encoder: Encoder, hyper: Hyper) -> Firings:
        """The B·k largest. What is above a guess of the threshold is looked at first; it does not change the result."""
        kernels, wanted = encoder.kernels, len(encoder.x_BD) * int(hyper.k_M)
        width = len(params["b_enc"])
        guess = float(params["threshold"]) * GUESS
        if guess > 0:
            guess_N = torch.full_like(params["b_enc"], guess)
            firings = encoder.chosen(lambda z_RN: kernels.above(z_RN, guess_N))
            if len(firings.value_F) >= wanted:
                return largest(firings, wanted)
        per_row = min(PER_ROW * int(hyper.k_M), width)
        while True:
            firings = encoder.chosen(partial(kernels.topk, k=per_row))
            kept = largest(firings, wanted)
            if per_row == width or int(kept.start_B1.diff().max()) < per_row:  # no row wanted more than was looked at
                return kept
            per_row = min(PER_ROW * per_row, width)

    def back(
        self, params: Params, firings: Firings, code_F: torch.Tensor, dcode_F: torch.Tensor, hyper: Hyper
    ) -> Backed:
        """TopK's, and what `track` wants."""
        backed = super().back(params, firings, code_F, dcode_F, hyper)
        positive_F = code_F[code_F > 0]
        least = positive_F.min() if len(positive_F) else code_F.new_tensor(torch.inf)
        return Backed(backed.dz_F, extra={"least": least})

    def track(self, params: Params, statistics: StepStatistics, hyper: Hyper) -> None:
        """θ ← KEEP · θ + (1 − KEEP) · the smallest code kept; the first one as it is."""
        threshold_M1, least_M1 = params["threshold"], statistics.extra["least"][:, None]
        moved_M1 = torch.where(threshold_M1 < 0, least_M1, torch.lerp(least_M1, threshold_M1, KEEP))
        params["threshold"].copy_(torch.where(least_M1.isfinite(), moved_M1, threshold_M1))

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """Every row by itself: what is above θ."""
        tensors, norm_N = stacked.folded(params, scaling)
        tensors["threshold"] = params["threshold"].clamp_min(0) * norm_N
        return JumpReluDictionary(tensors)


def largest(firings: Firings, count: int) -> Firings:
    """The `count` largest of the entries, all rows together; among equals the first. NaN counts as largest."""
    value_F = firings.value_F
    if len(value_F) <= count:
        return firings
    least = value_F.kthvalue(len(value_F) - count + 1).values
    kept_F = ~(value_F <= least)
    equal_P = (value_F == least).nonzero().flatten()
    kept_F[equal_P[: count - int(kept_F.sum())]] = True
    before_F1 = torch.nn.functional.pad(kept_F.cumsum(0), (1, 0))
    return Firings(before_F1[firings.start_B1], firings.feature_F[kept_F], value_F[kept_F])


def least_code(work: Workspace) -> torch.Tensor:
    """The smallest positive code of each member; Inf where there is none."""
    codes_MNB = work.codes_MNB
    return torch.where(codes_MNB > 0, codes_MNB, torch.inf).amin(dim=(1, 2))

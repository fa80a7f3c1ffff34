"""Matryoshka dictionaries: the first features alone must reconstruct as well as they can, then twice as many …

    c = BatchTopK(ReLU(W_enc x + b_enc), B·k),   x̂_g = Σ_{n < N_g} c_n W_dec,n + b_dec,   L = mean_B mean_g ‖x − x̂_g‖²

In one flat dictionary a broad feature is split and absorbed into narrow ones as the width grows; here the small nested
dictionaries keep the broad ones. N_g are N/16, N/8, N/4, N/2 and N.

Source: Bussmann et al. 2025, "Learning Multi-Level Features with Matryoshka Sparse Autoencoders", arXiv 2503.17547.
Different here: the mean over levels, so that losses compare with those of others (the paper sums them; Adam does not
see the factor). Left out: levels drawn at random.

Shapes: M members, B rows, N width, E = d_out, G levels.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.batchtopk import BatchTopK, least_code
from monosemy.dictionaries.variant import Hyper, Params, StepStatistics, Workspace

PARTS = (16, 8, 4, 2, 1)


class Matryoshka(BatchTopK):
    """Nested BatchTopK dictionaries that share their features."""

    name = "matryoshka"
    pace = 1.0

    def levels(self, width: int) -> tuple[int, ...]:
        """N_g, rising."""
        return tuple(sorted({max(1, width // part) for part in PARTS}))

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean over levels of ‖target − x̂_g‖², 0), mean over rows, for one member."""
        codes_BN = self._codes(params, x_BD, hyper)
        target_BE = x_BD if target_BE is None else target_BE
        errors = []
        for end in self.levels(codes_BN.shape[1]):
            rec_BE = codes_BN[:, :end] @ params["W_dec"][:end] + params.get("b_dec", 0)
            errors.append((rec_BE - target_BE).square().sum(dim=1).mean())
        return torch.stack(errors).mean(), codes_BN.new_zeros(())

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """A feature is trained on the mean of the residuals of all levels that it is in."""
        ends = self.levels(work.codes_MNB.shape[1])
        blocks = list(pairwise((0, *ends)))
        scale = 2 / work.codes_MNB.shape[2]
        left: list[torch.Tensor] = []  # what each level leaves to explain
        errors_M = torch.zeros_like(params["b_enc"][:, 0])
        for number, (first, end) in enumerate(blocks):
            residual_MEB = work.residual_MEB if number == len(blocks) - 1 else torch.empty_like(work.residual_MEB)
            if number == 0:
                block = {name: params[name][:, :end] if name == "W_dec" else params[name] for name in params}
                error_M = stacked.decode_residual(work.codes_MNB[:, :end], block, target_BE, residual_MEB, hyper.dtype)
            else:
                residual_MEB.copy_(left[-1])
                stacked.product(
                    residual_MEB, params["W_dec"][:, first:end].mT, work.codes_MNB[:, first:end], hyper.dtype, beta=1.0
                )
                error_M = stacked.mean_square(residual_MEB)
            errors_M += error_M / len(blocks)
            left.append(residual_MEB)
        shared_MEB = torch.zeros_like(work.residual_MEB)
        for (first, end), residual_MEB in zip(reversed(blocks), reversed(left), strict=True):
            shared_MEB.add_(residual_MEB, alpha=1 / len(blocks))
            part = slice(first, end)
            stacked.product(
                work.grads["W_dec"][:, part], work.codes_MNB[:, part], shared_MEB.mT, hyper.dtype, alpha=scale
            )
            stacked.code_gradient(shared_MEB, params["W_dec"][:, part], None, work.dcodes_MNB[:, part], hyper.dtype)
        if "b_dec" in work.grads:
            torch.sum(shared_MEB, dim=2, out=work.grads["b_dec"]).mul_(scale)
        stacked.mask_inactive(work)
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        fired_MN = stacked.fired(work.codes_MNB)
        return StepStatistics(errors_M, torch.zeros_like(errors_M), fired_MN, {"least": least_code(work)})

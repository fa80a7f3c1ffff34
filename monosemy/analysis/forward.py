"""Which few of D numbers tell a target linearly: greedy forward selection from covariances, and what all of them tell.

Forward selection (orthogonal least squares: Chen, Billings and Luo 1989, "Orthogonal least squares methods and their
application to non-linear system identification") takes at each step the number that lowers the squared error most,
given those chosen before. With r the target's covariance with what is left of each number after regression on the
chosen ones, and v that rest's variance, the number j with the largest r²/v explains r_j²/v_j more of the target's
variance; then every r and v loses its part along j (a column of a pivoted Cholesky decomposition). So only covariances
are needed, and many targets go side by side.

The steps are greedy: k numbers chosen at once could tell more. Left out: exchanging earlier choices.

Shapes: F targets, D numbers, K = steps, S = steps done.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

COLLINEAR = 1e-6  # a number of whose variance no more than this share is left tells nothing new


def forward_selection(
    cross_FD: torch.Tensor, variance_D: torch.Tensor, columns: Callable[[torch.Tensor], torch.Tensor], k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k numbers that tell each target best, in the order in which they are taken, and what each adds.

    `cross_FD`: covariance of each target with each number, in fp64. `columns(j_F)`: covariance of number j_F[f] with
    all others, `[F, D]`. Gives `chosen_FK` (−1 where no number tells anything more) and `gain_FK`, variance of the
    target that each step explains, in the target's units squared.
    """
    residual_FD, score_FD, floor_D = cross_FD.clone(), torch.empty_like(cross_FD), COLLINEAR * variance_D
    # In place, and inf as the variance of what cannot be chosen (its score is 0): passes over memory are all the work.
    left_FD = variance_D.expand_as(cross_FD).masked_fill(variance_D <= 0, torch.inf)
    basis_FKD = cross_FD.new_zeros(len(cross_FD), k, len(variance_D))
    chosen_FK = torch.full((len(cross_FD), k), -1, device=cross_FD.device)
    gain_FK = cross_FD.new_zeros(len(cross_FD), k)
    for step in range(k):
        torch.square(residual_FD, out=score_FD).div_(left_FD)
        gain_F, j_F = score_FD.max(dim=1)
        j_F1, tells_F1 = j_F[:, None], (gain_F > 0)[:, None]
        direction_FD = columns(j_F)
        if step:
            done_FSD = basis_FKD[:, :step]
            at_j_F1S = done_FSD.gather(2, j_F1[:, :, None].expand(-1, step, 1)).mT
            direction_FD = torch.baddbmm(direction_FD[:, None], at_j_F1S, done_FSD, alpha=-1)[:, 0]
        scale_F1 = torch.where(tells_F1, left_FD.gather(1, j_F1).rsqrt(), 0.0)
        direction_FD = torch.mul(direction_FD, scale_F1, out=basis_FKD[:, step])
        residual_FD.addcmul_(direction_FD, residual_FD.gather(1, j_F1) * scale_F1, value=-1)
        left_FD.addcmul_(direction_FD, direction_FD, value=-1).scatter_(1, j_F1, torch.inf)
        left_FD.masked_fill_(left_FD <= floor_D, torch.inf)
        chosen_FK[:, step] = torch.where(tells_F1[:, 0], j_F, -1)
        gain_FK[:, step] = gain_F
    return chosen_FK, gain_FK


def whitening(covariance_DD: torch.Tensor) -> torch.Tensor:
    """W_DJ with Wᵀ Cov W = 1, over the J directions that the numbers really fill: all of them together explain
    Σ_J (cov[target, number] W)² of a target's variance.

    Directions with no more than `COLLINEAR` of the largest one's variance, numbers measured in their own spread, are
    left out.
    """
    scale_D = covariance_DD.diagonal().clamp_min(0).sqrt()
    inverse_D = torch.where(scale_D > 0, 1 / scale_D, 0.0)
    value_D, vector_DD = torch.linalg.eigh(covariance_DD * inverse_D[:, None] * inverse_D)
    kept_D = value_D > COLLINEAR * value_D[-1].clamp_min(torch.finfo(value_D.dtype).tiny)
    W_DJ: torch.Tensor = inverse_D[:, None] * vector_DD[:, kept_D] / value_D[kept_D].sqrt()
    return W_DJ

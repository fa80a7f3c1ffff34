"""The contract of the kernels: what a sparse training step does beside its dense encode product.

The order of a step: the encode product in chunks of rows; `topk` or `above` on each chunk; `decode`, which leaves the
residual and each code's gradient; `columns`; with gradient clipping `square_norms`; `update`. No tensor of B×N or N×D
is made on the way (the plain torch reference makes some).

`tests/test_kernels.py` holds every implementation against the reference. Sums are in a fixed order on the CPU, so that
results there do not depend on the number of threads; otherwise implementations agree to rounding.

Shapes: those of `firings.py`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from monosemy.kernels.firings import AdamStep, Columns, Firings, RowGradients, RowParams


class Kernels(Protocol):
    """One implementation."""

    name: str

    def topk(self, z_BN: torch.Tensor, k: int) -> Firings:
        """The k largest of each row, 1 ≤ k ≤ N, as far as they are above 0.

        NaN counts as the largest and is kept, so that a broken member is seen. Among equals the lowest feature first.
        """

    def above(self, z_BN: torch.Tensor, threshold_N: torch.Tensor) -> Firings:
        """The entries for which z ≤ threshold does not hold (so NaN is kept)."""

    def decode(
        self,
        firings: Firings,
        W_dec_NE: torch.Tensor,
        b_dec_E: torch.Tensor | None,
        target_BE: torch.Tensor,
        ends: tuple[int, ...],
        residual_GBE: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruct at each of G levels, level h with the features below ends[h] (ends[−1] = N):

            x̂_h = Σ_{feature < ends[h]} value · W_dec[feature] + b_dec

        Writes residual[g] = (1/G) Σ_{h≥g} (x̂_h − target), the residual that block g's features are trained on.
        Gives `square_B` = (1/G) Σ_h ‖x̂_h − target‖² and `dots_F` = ⟨residual[g(feature), row], W_dec[feature]⟩.
        """

    def dots(self, firings: Firings, a_BD: torch.Tensor, W_ND: torch.Tensor) -> torch.Tensor:
        """⟨a[row], W[feature]⟩ of each firing, [F]."""

    def columns(self, firings: Firings, width: int) -> Columns:
        """The firings sorted by feature."""

    def square_norms(self, gradient: RowGradients) -> torch.Tensor:
        """Σ of squares of the W_dec, W_enc and b_enc gradients (W_dec's after projection), a 0-d tensor."""

    def update(
        self,
        gradient: RowGradients,
        params: RowParams,
        adam: AdamStep,
        lr_N: torch.Tensor,
        scale: float | torch.Tensor = 1.0,
    ) -> None:
        """One Adam step of every feature, with its gradient times `scale` (gradient clipping; a float or 0-d tensor).

        A feature with lr_N[n] < 0 is left alone, weights and moments. With `gradient.unit` the decoder row is put back
        to norm 1 after the step. `params.W_dec_NE` is `gradient.W_dec_NE`.
        """

    def adam(
        self,
        W_RD: torch.Tensor,
        grad_RD: torch.Tensor,
        m_RD: torch.Tensor,
        v_RD: torch.Tensor,
        adam: AdamStep,
        lr_R: torch.Tensor,
        unit: bool = False,
        scale: float | torch.Tensor = 1.0,
    ) -> None:
        """The same for R rows with a dense gradient, which is not changed (a vector comes as [R, 1]).

        `scale` may also be each row's own, [R].
        With `unit`: project the gradient, step, put the row back to norm 1.
        """

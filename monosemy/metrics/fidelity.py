"""How well a dictionary rebuilds activations, and with how few features.

FVU = E‖x−x̂‖² / (E‖x‖² − ‖E x‖²) and explained variance 1 − FVU: predicting the mean scores exactly 0. Shrinkage is
E‖x̂‖² / E⟨x, x̂⟩, below 1 where codes undershoot. Sums run in float64 over any number of batches.

Shapes: B rows, D = d_in, N = width. Source: SCIENCE.md §3.
"""

from __future__ import annotations

import torch

from monosemy.dictionaries.dictionary import Dictionary


class Fidelity:
    """Collects rows of one dictionary: `add` batches, then read `scores()`."""

    def __init__(self, dictionary: Dictionary) -> None:
        self.dictionary = dictionary
        self.rows = 0
        self._x_sum_D = torch.zeros(dictionary.d_in, dtype=torch.float64, device=dictionary.W_dec_ND.device)
        self._sums = torch.zeros(8, dtype=torch.float64, device=dictionary.W_dec_ND.device)
        self.active_N = torch.zeros(dictionary.width, dtype=torch.int64, device=dictionary.W_dec_ND.device)

    def add(self, x_BD: torch.Tensor, target_BD: torch.Tensor | None = None) -> None:
        """Count these rows in. What is rebuilt from x is `target_BD`, where that is not x itself (denoising)."""
        codes_BN = self.dictionary.encode(x_BD)
        xhat_BD = self.dictionary.decode(codes_BN)
        x_BD = x_BD if target_BD is None else target_BD
        x_norm_B, xhat_norm_B = x_BD.norm(dim=1), xhat_BD.norm(dim=1)
        product_B = (x_BD * xhat_BD).sum(dim=1)
        both_B = (x_norm_B * xhat_norm_B).clamp_min(1e-30)
        parts = (
            x_norm_B.square(),
            xhat_norm_B.square(),
            product_B,
            (x_BD - xhat_BD).square().sum(dim=1),
            product_B / both_B,
            codes_BN.abs().sum(dim=1),
            (codes_BN != 0).sum(dim=1),
            xhat_norm_B / x_norm_B.clamp_min(1e-30),
        )
        self._sums += torch.stack([part.double().sum() for part in parts])
        self._x_sum_D += x_BD.double().sum(dim=0)
        self.active_N += (codes_BN != 0).sum(dim=0)
        self.rows += len(x_BD)

    def scores(self) -> dict[str, float | int | None]:
        """Means over the rows; None where a ratio is undefined (constant rows, all-zero reconstructions)."""
        square, square_hat, product, error, cosine, l1, l0, norm_ratio = (self._sums / self.rows).tolist()
        variance = square - float((self._x_sum_D / self.rows).square().sum())
        fvu = error / variance if variance > 1e-12 * square else None
        dead = int((self.active_N == 0).sum())
        return {
            "mse": error / self.dictionary.d_in,
            "fvu": fvu,
            "explained_variance": None if fvu is None else 1 - fvu,
            "cosine": cosine,
            "l0": l0,
            "l1_norm": l1,
            "dead": dead,
            "alive": self.dictionary.width - dead,
            "detection_limit": 1 / self.rows,
            "shrinkage": square_hat / product if product > 0 else None,
            "norm_ratio": norm_ratio,
        }

    def density(self) -> torch.Tensor:
        """Share of the rows on which each feature is active: `density_N`."""
        return self.active_N.double() / self.rows


def fidelity(dictionary: Dictionary, x_XD: torch.Tensor, batch: int = 4096) -> dict[str, float | int | None]:
    """`Fidelity.scores` of rows that are in memory."""
    collector = Fidelity(dictionary)
    for x_BD in torch.split(x_XD, batch):
        collector.add(x_BD)
    return collector.scores()

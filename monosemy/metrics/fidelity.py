"""How well a dictionary rebuilds activations, and with how few features.

FVU = E‖x−x̂‖² / (E‖x‖² − ‖E x‖²) and explained variance 1 − FVU: predicting the mean scores exactly 0. Shrinkage is
E‖x̂‖² / E⟨x, x̂⟩, below 1 where codes undershoot. Where x is encoded and something else is to be rebuilt (denoising,
transcoders), all of it is about that target. Sums run in float64 over any number of batches.

Shapes: B rows, D = d_in, E = d_out, N = width, S sites side by side in a row. Source: SCIENCE.md §3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries.dictionary import Dictionary


class Fidelity:
    """Collects rows of one dictionary: `add` batches, then read `scores()`.

    `sites` are the widths of the sites that lie side by side in a row: FVU is then scored for each of them as well.
    """

    def __init__(self, dictionary: Dictionary, sites: Sequence[int] = ()) -> None:
        self.dictionary = dictionary
        self.sites = tuple(sites)
        self.rows = 0
        device = dictionary.W_dec_ND.device
        self._target_sum_E = torch.zeros(dictionary.d_out, dtype=torch.float64, device=device)
        self._sums = torch.zeros(8, dtype=torch.float64, device=device)
        self._site_sums_S2 = torch.zeros(len(self.sites), 2, dtype=torch.float64, device=device)
        self.active_N = torch.zeros(dictionary.width, dtype=torch.int64, device=device)

    def add(self, x_BD: torch.Tensor, target_BE: torch.Tensor | None = None) -> None:
        """Count these rows in. What is rebuilt from x is `target_BE`, where that is not x itself."""
        codes_BN = self.dictionary.encode(x_BD)
        xhat_BE = _rebuilt(self.dictionary, x_BD, codes_BN)
        target_BE = x_BD if target_BE is None else target_BE
        norm_B, xhat_norm_B = target_BE.norm(dim=1), xhat_BE.norm(dim=1)
        product_B = (target_BE * xhat_BE).sum(dim=1)
        both_B = (norm_B * xhat_norm_B).clamp_min(1e-30)
        error_BE = target_BE - xhat_BE
        parts = (
            norm_B.square(),
            xhat_norm_B.square(),
            product_B,
            error_BE.square().sum(dim=1),
            product_B / both_B,
            codes_BN.abs().sum(dim=1),
            (codes_BN != 0).sum(dim=1),
            xhat_norm_B / norm_B.clamp_min(1e-30),
        )
        self._sums += torch.stack([part.double().sum() for part in parts])
        if self.sites:
            self._site_sums_S2 += torch.stack([self._square_sums(target_BE), self._square_sums(error_BE)], dim=1)
        self._target_sum_E += target_BE.double().sum(dim=0)
        self.active_N += (codes_BN != 0).sum(dim=0)
        self.rows += len(x_BD)

    def scores(self) -> dict[str, float | int | None]:
        """Means over the rows; None where a ratio is undefined (constant rows, all-zero reconstructions)."""
        square, square_hat, product, error, cosine, l1, l0, norm_ratio = (self._sums / self.rows).tolist()
        fvu = _fvu(square, error, self._target_sum_E / self.rows)
        dead = int((self.active_N == 0).sum())
        return {
            "mse": error / self.dictionary.d_out,
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

    def site_scores(self) -> dict[str, list[float | None]]:
        """`fvu_sites`, the FVU of each site's block alone; nothing where there is one site."""
        if not self.sites:
            return {}
        means = torch.split(self._target_sum_E / self.rows, list(self.sites))
        sums = (self._site_sums_S2 / self.rows).tolist()
        return {"fvu_sites": [_fvu(square, error, mean_D) for (square, error), mean_D in zip(sums, means, strict=True)]}

    def density(self) -> torch.Tensor:
        """Share of the rows on which each feature is active: `density_N`."""
        return self.active_N.double() / self.rows

    def _square_sums(self, rows_BE: torch.Tensor) -> torch.Tensor:
        """Σ of squares of each site's block: `[S]`."""
        blocks = torch.split(rows_BE, list(self.sites), dim=1)
        return torch.stack([block_BD.square().sum(dim=1).double().sum() for block_BD in blocks])


def _fvu(square: float, error: float, mean_E: torch.Tensor) -> float | None:
    """From E‖y‖², E‖y − ŷ‖² and E y; None for constant rows."""
    variance = square - float(mean_E.square().sum())
    return error / variance if variance > 1e-12 * square else None


def _rebuilt(dictionary: Dictionary, x_BD: torch.Tensor, codes_BN: torch.Tensor) -> torch.Tensor:
    """`reconstruct(x)`, without encoding a second time where it is decode(encode(x)) and nothing else."""
    own = type(dictionary).reconstruct is not Dictionary.reconstruct
    return dictionary.reconstruct(x_BD) if own else dictionary.decode(codes_BN)


def fidelity(dictionary: Dictionary, x_XD: torch.Tensor, batch: int = 4096) -> dict[str, float | int | None]:
    """`Fidelity.scores` of rows that are in memory."""
    collector = Fidelity(dictionary)
    for x_BD in torch.split(x_XD, batch):
        collector.add(x_BD)
    return collector.scores()

"""The features whose directions are nearest to a direction, by cosine.

Brute force, a block at a time: with d_in = 512 a feature costs 1 kFLOP, so 16,384 take milliseconds, and a million,
mapped from their file, one reading of it. No approximate structure would be worth its building here. Of a block only
what is better than the last one kept is sorted, which soon is next to nothing.

Shapes: N features, B of a block, C candidates among them, D = d_in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from monosemy.analysis.chart import Bars, Chart
from monosemy.analysis.result import Result, Table
from monosemy.runtime import Progress, UsageError

FEATURES_AT_ONCE = 2**13


@dataclass(frozen=True)
class NearestFeatures(Result):
    """Features by falling cosine of their directions with a direction."""

    name: ClassVar[str] = "nearest_features"
    feature: int | None
    """The feature whose neighbours these are; None where a vector was given."""
    ids: list[int]
    cosines: list[float]

    def table(self) -> Table:
        """A row a feature."""
        return Table(("feature", "cosine"), list(zip(self.ids, self.cosines, strict=True)))

    def charts(self) -> Sequence[Chart]:
        """Bars of the cosines."""
        of = "a vector" if self.feature is None else f"feature {self.feature}"
        bars = Bars([str(number) for number in self.ids], self.cosines)
        return [Chart("cosines", f"Features nearest to {of}", "feature", "cosine", [bars])]


def nearest_features(
    directions_ND: torch.Tensor, query: int | Sequence[float] | torch.Tensor, n: int = 10
) -> NearestFeatures:
    """The `n` features whose directions have the largest cosine with feature number `query`, or with a vector [D].

    `directions_ND` is a dictionary's `W_dec_ND`, or `DictionaryStore.directions(member)`, which stays on disk. The
    feature itself is left out; of equals the lower number comes first. Directions of length 0 have cosine 0 with all.
    Raises UsageError for an unknown feature, or a vector that is not finite, of another width or 0.
    """
    if n < 1:
        raise UsageError(f"`n` (={n}) must be at least 1")
    feature = query if isinstance(query, int) else None
    v_D = _direction(directions_ND, query)
    best, best_ids = torch.zeros(0, device=v_D.device), torch.zeros(0, dtype=torch.int64, device=v_D.device)
    with Progress("nearest", len(directions_ND), unit="features") as bar:
        for first in range(0, len(directions_ND), FEATURES_AT_ONCE):
            block_BD = directions_ND[first : first + FEATURES_AT_ONCE].float()
            cosine_B = (block_BD @ v_D) / block_BD.norm(dim=1).clamp_min(1e-12)
            if feature is not None and first <= feature < first + len(block_BD):
                cosine_B[feature - first] = -torch.inf  # it is its own nearest
            least = float(best[-1]) if len(best) == n else -torch.inf
            better_C = (cosine_B > least).nonzero()[:, 0]  # of equals the lower number stays
            cosines, ids = torch.cat([best, cosine_B[better_C]]), torch.cat([best_ids, first + better_C])
            order = cosines.sort(descending=True, stable=True).indices[:n]
            best, best_ids = cosines[order], ids[order]
            bar.advance(len(block_BD))
    return NearestFeatures(feature, best_ids.tolist(), best.clamp(-1, 1).tolist())


def _direction(directions_ND: torch.Tensor, query: Any) -> torch.Tensor:
    """What is asked for at length 1, `v_D`."""
    n, d_in = directions_ND.shape
    if isinstance(query, int):
        if not 0 <= query < n:
            raise UsageError(f"`feature` (={query}) must be from 0 to {n - 1}")
        v_D = directions_ND[query].float()
    else:
        v_D = torch.as_tensor(query, device=directions_ND.device).detach().float()
        if v_D.shape != (d_in,):
            raise UsageError(f"`query` has the shape {tuple(v_D.shape)}; a vector at this site is ({d_in},)")
    norm = float(v_D.norm())
    if not 0 < norm < float("inf"):
        raise UsageError(
            "`query` has length 0 or is not finite, so it has no direction; give another feature or vector"
        )
    return v_D / norm

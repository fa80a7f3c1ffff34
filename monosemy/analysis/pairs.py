"""Two dictionaries feature by feature: the nearest feature of the other, and the partner where none is shared.

MCS takes for each feature of the first the largest cosine with any of the second, so copies may all point at one. The
one-to-one matching of largest total cosine gives each its own partner, where the second has enough. That the nearest is
mutual needs neither threshold nor matching. (`mcs_table.py` is the same beside what the index says of each feature.)

Shapes: N features of the first dictionary, L of the second. Source: S1; SCIENCE.md §3, §5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from monosemy.analysis.chart import Chart, Histogram
from monosemy.analysis.compared import Grid, compared
from monosemy.analysis.result import Result, Table
from monosemy.metrics.matching import one_to_one
from monosemy.metrics.recovery import nearest

BINS = 50
EXACT_UP_TO = 4096
"""Features a side that are matched exactly: beyond, SciPy would work for minutes without a sign."""


@dataclass(frozen=True)
class FeaturePairs(Result):
    """Every feature of a dictionary beside another dictionary."""

    name: ClassVar[str] = "pairs"
    label: str
    other: str
    mcs_N: torch.Tensor
    nearest_N: torch.Tensor
    mutual_N: torch.Tensor
    """Whether it is that one's nearest, too."""
    partner_N: torch.Tensor
    """Its own partner in the one-to-one matching; −1 where the other dictionary has none left."""
    cosine_N: torch.Tensor
    """With that partner; NaN where there is none."""
    gap: float
    """No matching has a mean cosine larger by more than this."""

    @property
    def matched(self) -> float:
        """Mean cosine of the features that have a partner of their own (MCC)."""
        return float(self.cosine_N[self.partner_N >= 0].mean(dtype=torch.float64))

    def table(self) -> Table:
        """One row a feature."""
        partners = [None if partner < 0 else partner for partner in self.partner_N.tolist()]
        cosines = [
            None if own is None else cosine for own, cosine in zip(partners, self.cosine_N.tolist(), strict=True)
        ]
        columns = (self.mcs_N.tolist(), self.nearest_N.tolist(), self.mutual_N.tolist(), cosines, partners)
        rows = [(feature, *values) for feature, values in enumerate(zip(*columns, strict=True))]
        return Table(("feature", "mcs", "nearest", "mutual", "one-to-one", "partner"), rows)

    def charts(self) -> list[Chart]:
        """How both cosines are distributed."""
        own_P = self.cosine_N[self.partner_N >= 0]
        low = min(0.0, float(self.mcs_N.min()), float(own_P.min()))
        edges_E = torch.linspace(low, 1, BINS + 1)
        marks = [
            Histogram(edges_E.tolist(), _counts(values, edges_E), name)
            for name, values in (("nearest", self.mcs_N), ("one-to-one", own_P))
        ]
        return [Chart("mcs", f"{self.label} in {self.other}", "cosine", "features", marks)]


def feature_pairs(dictionaries: Grid, a: int, b: int) -> FeaturePairs:
    """Every feature of member `a` of a grid beside member `b`.

    Raises UsageError if there is no such member, or a dictionary holds what is not finite.
    """
    one, other = compared(dictionaries, [a, b])
    a_ND, b_LD = one.directions_ND, other.directions_ND
    mcs_N, nearest_N = nearest(a_ND, b_LD)
    _, back_L = nearest(b_LD, a_ND)
    matching = one_to_one(a_ND, b_LD, EXACT_UP_TO)
    partner_N = torch.full((len(a_ND),), -1)
    cosine_N = torch.full((len(a_ND),), torch.nan)
    partner_N[matching.rows_P] = matching.columns_P
    cosine_N[matching.rows_P] = matching.cosines_P
    mutual_N = back_L[nearest_N] == torch.arange(len(a_ND))
    return FeaturePairs(one.label, other.label, mcs_N, nearest_N, mutual_N, partner_N, cosine_N, matching.gap)


def _counts(values: torch.Tensor, edges_E: torch.Tensor) -> list[int]:
    place = (torch.bucketize(values.float(), edges_E, right=True) - 1).clamp(0, BINS - 1)
    counts: list[int] = torch.bincount(place, minlength=BINS).tolist()
    return counts

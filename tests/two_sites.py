"""Rows of two sites, for the variants that read more than one."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from monosemy.data.rows import ArrayRows, RowSource, statistics_of
from monosemy.dictionaries.store import VARIANTS


class TwoSites(ArrayRows):
    """Rows x of one site and y of another: as input and target, or side by side."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, side_by_side: bool) -> None:
        super().__init__(torch.cat([x, y], dim=1) if side_by_side else x)
        parts = [statistics_of([part]) for part in (x, y)]
        if side_by_side:
            self.sites = (x.shape[1], y.shape[1])
            self.site_statistics = lambda: parts
        else:
            self.paired, self.y = True, ArrayRows(y)
            self.target_statistics = lambda: parts[1]

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same shuffled rows of both."""
        yield from zip(self.batches(batch, seed, start), self.y.batches(batch, seed, start), strict=True)


def rows_for(variant: str, x: torch.Tensor) -> RowSource:
    """What this variant reads, made of these rows: themselves, with themselves turned as target, or beside them."""
    reads = VARIANTS[variant].reads
    return ArrayRows(x) if reads == "rows" else TwoSites(x, x.roll(1, dims=1), side_by_side=reads == "sites")

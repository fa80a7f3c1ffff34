"""The MCS table, S1's spreadsheet: which features of a dictionary others have too, and what each is.

For every feature of the first dictionary and every other dictionary: the MCS (the largest cosine with any feature of
the other; partners may be shared) and which feature that is; the same in the one-to-one matching of largest total
cosine, where no partner is shared, so that copies cannot hide (blank where the other dictionary is too small for all;
beyond EXACT_UP_TO features a side to within the gap of `metrics/matching.py`).
Beside them what the feature index says: on how many tokens it fires, dead (on none), density, maximum, the strongest
example with its peak in «», and whether the feature looks meaningful by the rule of `meaning.py`. So S1's question has
a number: the share of low-MCS features that look meaningful all the same, beside that of the others, of random
directions and of neurons.

Shapes: N features of the first dictionary, L of another. Source: S1; SCIENCE.md §3, §5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from monosemy.analysis.chart import Chart, Histogram
from monosemy.analysis.compared import Compared, Given, compared
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab
from monosemy.analysis.meaning import Controls, bands_of, looked_at, strongest
from monosemy.analysis.meaning_by_mcs import Group, chart_of_shares, shares_by_mcs
from monosemy.analysis.pairs import EXACT_UP_TO
from monosemy.analysis.result import Result, Table
from monosemy.analysis.spreadsheet import xlsx
from monosemy.files import write_whole
from monosemy.metrics.interval import Share
from monosemy.metrics.matching import one_to_one
from monosemy.metrics.recovery import RECOVERED, nearest
from monosemy.runtime import UsageError

RARE = 10
"""Firings; a feature with fewer is what S1 calls dead."""
BINS = 20
"""Of the histogram of MCS, from 0 to 1; what is below 0 is counted in the first."""


@dataclass(frozen=True)
class Match:
    """A feature beside one other dictionary."""

    mcs: float
    nearest: int
    one_to_one: float | None
    """Its cosine in the one-to-one matching; None where it has no partner."""
    partner: int | None


@dataclass(frozen=True)
class McsRow:
    """One feature. What comes from the index is None without one, `meaningful` without a lab."""

    feature: int
    matches: tuple[Match, ...]
    """One for each other dictionary."""
    count: int | None
    """On how many tokens of the index it fires."""
    dead: bool | None
    density: float | None
    max: float | None
    meaningful: bool | None
    example: str | None

    @property
    def mcs(self) -> float:
        """The largest with any other dictionary."""
        return max(each.mcs for each in self.matches)


@dataclass(frozen=True)
class McsTable(Result):
    """All features of a dictionary beside others. Low: the largest MCS to any other is at most `low`."""

    name: ClassVar[str] = "mcs-table"
    label: str
    others: tuple[str, ...]
    rows: tuple[McsRow, ...]
    low: float
    n_low: int
    """Living features of low MCS (all of low MCS, without an index)."""
    n_rare: int | None
    """Features that fire on fewer than RARE tokens, the dead among them; None without an index."""
    meaningful_share_all: Share | None
    """Share of the living features that look meaningful, the chance of the bars in its interval; None without a lab."""
    meaningful_share: Share | None
    """The same of those of low MCS."""
    meaningful_share_high: Share | None
    """The same of the other living features."""
    controls: Controls | None
    """The same of random directions and of neurons; None without a lab."""
    by_mcs: tuple[Group, ...]
    """The same of groups of living features of neighbouring MCS; none without a lab."""

    def table(self) -> Table:
        """One row a feature."""
        return self._table

    @cached_property
    def _table(self) -> Table:
        per_other = ("mcs", "nearest", "one-to-one", "partner")
        many = len(self.others) > 1
        named = [f"{name} ({other})" if many else name for other in self.others for name in per_other]
        rows: list[list[Any]] = [
            [row.feature, *(value for each in row.matches for value in vars(each).values()),
             row.count, row.dead, row.density, row.max, row.meaningful, row.example]
            for row in self.rows
        ]  # fmt: skip
        return Table(("feature", *named, "count", "dead", "density", "max", "meaningful", "example"), rows)

    def ordered(self, column: str = "mcs", descending: bool = True) -> McsTable:
        """The same with its rows in the order of a column, ties as they are, blanks last; "mcs" alone is that of the
        first other dictionary, and so are "nearest", "one-to-one" and "partner". Raises UsageError for no such column.
        """
        return replace(self, rows=tuple(self.rows[place] for place in self._order(column, descending)))

    def sorted_by(self, column: str, descending: bool = True) -> Table:
        """The table of `ordered`."""
        table = self.table()
        return Table(table.columns, [table.rows[place] for place in self._order(column, descending)])

    def _order(self, column: str, descending: bool) -> list[int]:
        table = self.table()
        found = [place for place, name in enumerate(table.columns) if column in (name, str(name).split(" (")[0])]
        if not found:
            raise UsageError(f"`column` (={column!r}) must be one of {', '.join(table.columns)}")
        values = [row[found[0]] for row in table.rows]
        filled = [place for place, value in enumerate(values) if value is not None]
        order = sorted(filled, key=values.__getitem__, reverse=descending)
        return order + [place for place, value in enumerate(values) if value is None]

    def xlsx(self) -> bytes:
        """The table as a spreadsheet file."""
        return xlsx(self.table(), "MCS")

    def save(self, folder: str | Path) -> Path:
        """As every result, and `mcs-table.xlsx`."""
        place = super().save(folder)
        write_whole(place / f"{self.name}.xlsx", self.xlsx())
        return place

    def charts(self) -> list[Chart]:
        """How MCS is distributed, for each other dictionary; with a lab, which share looks meaningful by MCS."""
        edges = [place / BINS for place in range(BINS + 1)]
        counts = [
            Histogram(edges, _histogram([row.matches[number].mcs for row in self.rows]), label)
            for number, label in enumerate(self.others)
        ]
        found = [Chart("distribution", f"MCS of {self.label}", "MCS", "features", counts)]
        return [*found, chart_of_shares(self.by_mcs)] if self.by_mcs else found


def mcs_table(
    reference: Given,
    others: Sequence[Given],
    *,
    index: str | Path | FeatureIndex | None = None,
    lab: Lab | None = None,
    low: float = RECOVERED,
) -> McsTable:
    """Every feature of `reference` beside one or more other dictionaries; each is a Dictionary or (grid, member).

    `index`: the feature index of `reference` (a lab's own is taken by itself). `lab`: that of `reference`; it is needed
    to say what looks meaningful. Raises UsageError for no other dictionary, dictionaries of several sites, or an index
    of another width.
    """
    if not others:
        raise UsageError("`others` is empty: give at least one dictionary to compare with")
    mine, *rest = compared([reference, *others])
    opened = lab.index if index is None and lab is not None else None if index is None else FeatureIndex.open(index)
    if opened is not None and opened.n_features != mine.width:
        raise UsageError(
            f"{opened.artifact.path}: an index of {opened.n_features} features, and {mine.label} has {mine.width}; "
            f"give the index of that dictionary"
        )
    sound, held = None, None
    if lab is not None and opened is not None:
        bands, held = bands_of(lab, opened)
        seen = looked_at(lab, opened, bands)
        sound = [bands.passes(each) for each in seen]
    rows = _rows([_matches(mine, other) for other in rest], opened, sound)
    living = [row for row in rows if not row.dead]
    below = [row for row in living if row.mcs <= low]
    every, low_share, high_share = None, None, None
    by_mcs: tuple[Group, ...] = ()
    if held is not None:
        above = [row for row in living if row.mcs > low]
        every, low_share, high_share = (
            bands.share([seen[row.feature] for row in group], name)
            for name, group in (("living", living), ("low", below), ("high", above))
        )
        by_mcs = shares_by_mcs([row.mcs for row in living], [seen[row.feature] for row in living], bands)
    labels = tuple(side.label for side in rest)
    rare = None if opened is None else sum(row.count is not None and row.count < RARE for row in rows)
    return McsTable(mine.label, labels, rows, low, len(below), rare, every, low_share, high_share, held, by_mcs)


def _rows(
    matches: Sequence[Sequence[Match]], index: FeatureIndex | None, sound: Sequence[bool] | None
) -> tuple[McsRow, ...]:
    beside = list(zip(*matches, strict=True))
    if index is None:
        return tuple(McsRow(feature, own, None, None, None, None, None, None) for feature, own in enumerate(beside))
    said: Sequence[bool | None] = [None] * len(beside) if sound is None else sound
    return tuple(
        McsRow(feature, own, row["count"], bool(row["dead"]), row["density"], row["max"], meaningful, example)
        for feature, (own, row, meaningful, example) in enumerate(
            zip(beside, index.table(), said, strongest(index), strict=True)
        )
    )


def _matches(mine: Compared, other: Compared) -> list[Match]:
    mcs_N, nearest_N = nearest(mine.directions_ND, other.directions_ND)
    matching = one_to_one(mine.directions_ND, other.directions_ND, EXACT_UP_TO)
    pairs = zip(matching.rows_P.tolist(), matching.columns_P.tolist(), matching.cosines_P.tolist(), strict=True)
    partner = {row: (cosine, column) for row, column, cosine in pairs}
    nothing = (None, None)
    return [
        Match(mcs, near, *partner.get(row, nothing))
        for row, (mcs, near) in enumerate(zip(mcs_N.tolist(), nearest_N.tolist(), strict=True))
    ]


def _histogram(values: Sequence[float]) -> list[float]:
    inside = torch.tensor(values).clamp(0, 1)
    return [float(count) for count in torch.histc(inside, BINS, 0, 1)]

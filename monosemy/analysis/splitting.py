"""Feature splitting (S2): which features of a small dictionary become which of the next larger one.

Each feature of a width has as its parent the feature of the next smaller width that is nearest to it, where their
cosine is at least SPLIT; a feature without one is new. Read from the parent: a feature with one child and that one at a
cosine above SHARED is kept, with one child below that it has changed, with several it has split, with none it is lost.
Every feature has at most one parent, so this is a forest, and it can be walked over many widths.

Source: Bricken et al. 2023, "Towards Monosemanticity", feature splitting; SCIENCE.md §5. Left out: children with two
parents (they show in the atlas as cosines below the threshold), and splitting inside one width.

Shapes: N and L directions of neighbouring widths, D = d_in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch

from monosemy.analysis.chart import Bars, Chart, Histogram
from monosemy.analysis.compared import Compared, Given, Grid, compared
from monosemy.analysis.result import Result, Table
from monosemy.dictionaries.store import DictionaryStore
from monosemy.metrics.recovery import SHARED, nearest
from monosemy.runtime import UsageError

SPLIT = 0.5
"""The least cosine of a child with its parent: unrelated directions of 100 or more dimensions are far below."""
FATES = ("kept", "changed", "split", "lost")


@dataclass(frozen=True)
class Level:
    """The features of one width."""

    label: str
    parent: torch.Tensor
    """`parent_N`: the feature of the level before, −1 for none (all of the first level)."""
    cosine: torch.Tensor
    """`cosine_N` with the nearest feature of the level before, parent or not; NaN on the first level."""


@dataclass(frozen=True)
class SplittingTree(Result):
    """Dictionaries by width, narrowest first, each feature with its parent in the one before."""

    name: ClassVar[str] = "splitting"
    levels: tuple[Level, ...]
    threshold: float

    def children(self, level: int, feature: int) -> list[int]:
        """The features of the next level that this one becomes, nearest first; none on the last level."""
        return self._children[level].get(feature, [])

    def fate(self, level: int, feature: int) -> str | None:
        """What becomes of the feature in the next level: one of FATES; None on the last level."""
        if level + 1 == len(self.levels):
            return None
        below = self.children(level, feature)
        if len(below) != 1:
            return "split" if below else "lost"
        return "kept" if float(self.levels[level + 1].cosine[below[0]]) > SHARED else "changed"

    def tree(self, feature: int, level: int = 0) -> dict[str, Any]:
        """One feature and everything that it becomes, nested: level, feature, cosine with its parent, fate, children.

        Raises UsageError where there is no such feature.
        """
        self._check(level, feature)
        return {
            "level": level,
            "feature": feature,
            "cosine": float(self.levels[level].cosine[feature]) if self._parent(level, feature) >= 0 else None,
            "fate": self.fate(level, feature),
            "children": [self.tree(child, level + 1) for child in self.children(level, feature)],
        }

    def ancestors(self, level: int, feature: int) -> list[int]:
        """Where a feature comes from: its parent, that one's parent and so on, as far as there are any."""
        self._check(level, feature)
        found: list[int] = []
        while (feature := self._parent(level, feature)) >= 0:
            found.append(feature)
            level -= 1
        return found

    def fates(self) -> list[dict[str, int]]:
        """For each level but the last how many features have each fate, and how many of the next level are new."""
        rows = []
        for number, (before, after) in enumerate(pairwise(self.levels)):
            counts = Counter(self.fate(number, feature) for feature in range(len(before.parent)))
            rows.append({**{fate: counts[fate] for fate in FATES}, "new": int((after.parent < 0).sum())})
        return rows

    def table(self) -> Table:
        """One row a feature: its level, parent, the cosine with it, fate and how many children it has."""
        columns = ("dictionary", "level", "feature", "parent", "cosine", "fate", "children")
        rows: list[list[Any]] = []
        for number, level in enumerate(self.levels):
            for feature, (parent, cosine) in enumerate(zip(level.parent.tolist(), level.cosine.tolist(), strict=True)):
                held = None if parent < 0 else parent
                near = None if number == 0 else cosine
                fate, count = self.fate(number, feature), len(self.children(number, feature))
                rows.append([level.label, number, feature, held, near, fate, count])
        return Table(columns, rows)

    def charts(self) -> list[Chart]:
        """Fates from width to width, and the cosines of the features with their nearest in the width before."""
        steps = [f"{a.label} → {b.label}" for a, b in pairwise(self.levels)]
        fates = self.fates()
        bars = [Bars(steps, [row[name] for row in fates], name) for name in (*FATES, "new")]
        edges = [number / 20 for number in range(-20, 21)]
        cosines = [
            Histogram(edges, torch.histc(level.cosine.float(), 40, -1, 1).tolist(), level.label)
            for level in self.levels[1:]
        ]
        return [
            Chart("fates", "What features become in the next larger dictionary", "", "features", bars),
            Chart("cosines", "How near features are to the width before", "cosine", "features", cosines),
        ]

    @cached_property
    def _children(self) -> list[dict[int, list[int]]]:
        """For each level the children of its features, nearest first; the last level has none."""
        found: list[dict[int, list[int]]] = [{} for _ in self.levels]
        for above, level in zip(found, self.levels[1:], strict=False):
            for child in level.cosine.argsort(descending=True, stable=True).tolist():
                if (parent := int(level.parent[child])) >= 0:
                    above.setdefault(parent, []).append(child)
        return found

    def _parent(self, level: int, feature: int) -> int:
        return int(self.levels[level].parent[feature])

    def _check(self, level: int, feature: int) -> None:
        if not 0 <= level < len(self.levels):
            raise UsageError(f"`level` (={level}) must be from 0 to {len(self.levels) - 1}")
        if not 0 <= feature < len(self.levels[level].parent):
            most = len(self.levels[level].parent) - 1
            raise UsageError(f"`feature` (={feature}) must be from 0 to {most} in {self.levels[level].label}")


def splitting_tree(
    dictionaries: Grid | Sequence[Given], members: Sequence[int] | None = None, *, threshold: float = SPLIT
) -> SplittingTree:
    """How features split over dictionaries of growing width: a grid and its members, or a list of dictionaries.

    Of a grid without `members`: the first member of each width. Raises UsageError for fewer than two dictionaries, two
    of one width, or a threshold that is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"`threshold` (={threshold}) is the least cosine of a child: above 0 and at most 1")
    if members is None and isinstance(dictionaries, str | Path | DictionaryStore):
        dictionaries = DictionaryStore.open(dictionaries)
        members = _one_a_width(dictionaries)
    sides = sorted(compared(dictionaries, members), key=lambda side: side.width)
    widths = [side.width for side in sides]
    if len(sides) < 2 or len(set(widths)) < len(widths):
        raise UsageError(f"dictionaries of widths {widths}: splitting needs two or more, each of another width")
    return SplittingTree(tuple(_levels(sides, threshold)), threshold)


def _one_a_width(grid: DictionaryStore) -> list[int]:
    first: dict[int, int] = {}
    for number in range(len(grid)):
        first.setdefault(len(grid.directions(number)), number)
    return list(first.values())


def _levels(sides: Sequence[Compared], threshold: float) -> Iterator[Level]:
    first = sides[0].width
    yield Level(sides[0].label, torch.full((first,), -1), torch.full((first,), torch.nan))
    for before, after in pairwise(sides):
        cosine_N, parent_N = nearest(after.directions_ND, before.directions_ND)
        yield Level(after.label, torch.where(cosine_N >= threshold, parent_N, -1), cosine_N)

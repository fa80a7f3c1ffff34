"""The atlas: the same feature across seeds and widths, and what became of those that are not the same.

Links. Two features of two dictionaries are twins where each is the other's nearest and their cosine is at least
`threshold`; where rows are given, the correlation of their codes on the same rows is kept beside it. Clusters: twins
joined, nearest first, a cluster never taking a second feature of one dictionary.

Every feature has one tag, the first that fits:
- dead: it fires on none of the rows (only where rows are given);
- absorbed: a twin fires where it is silent, and a more specific feature of its own dictionary instead;
- universal: its cluster has a feature in every dictionary;
- split: in some larger dictionary it has no twin but several children whose codes sum up to its own. The children are
  tagged so as well, unless they are universal;
- shared: it has a twin somewhere, not everywhere;
- orphan: no twin anywhere.

What absorbed and split are to the number is said in `atlas_rules.py`.
Cosines come a block at a time and counts for the pairs that matter only, so 16k × 16k needs no table of that size.
Left out: twins that only their codes would show.

Shapes: N = width of a dictionary, P twins of a pair of dictionaries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from monosemy.analysis.atlas_pairs import CANDIDATES, Pair, pair_of, watch
from monosemy.analysis.atlas_rules import Absorption, Split, Twins, absorptions_of, splits_of, twins_of
from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.coactivation import Rows
from monosemy.analysis.compared import Given, Grid, compared
from monosemy.analysis.result import Result, Table
from monosemy.metrics.recovery import SHARED
from monosemy.runtime import UsageError

TAGS = ("universal", "shared", "split", "absorbed", "orphan", "dead")


@dataclass(frozen=True)
class Atlas(Result):
    """Every feature of several dictionaries with its tag and its cluster."""

    name: ClassVar[str] = "atlas"
    labels: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    """For each dictionary the tag of each feature."""
    clusters: tuple[Tensor, ...]
    """For each dictionary the cluster of each feature, −1 for those without a twin."""
    twins: tuple[Twins, ...]
    splits: tuple[Split, ...]
    absorptions: tuple[Absorption, ...]
    n_rows: int
    """Rows on which codes were compared; 0: directions alone."""

    def members(self, cluster: int) -> list[tuple[int, int]]:
        """The features of a cluster: dictionary and number."""
        found = enumerate(self.clusters)
        return [(number, feature) for number, of_N in found for feature in torch.where(of_N == cluster)[0].tolist()]

    def counts(self) -> list[dict[str, int]]:
        """For each dictionary how many features have each tag."""
        return [{tag: Counter(tags)[tag] for tag in TAGS} for tags in self.tags]

    def table(self) -> Table:
        """One row a feature."""
        rows = [
            [label, number, feature, tag, None if cluster < 0 else cluster]
            for number, (label, tags, of_N) in enumerate(zip(self.labels, self.tags, self.clusters, strict=True))
            for feature, (tag, cluster) in enumerate(zip(tags, of_N.tolist(), strict=True))
        ]
        return Table(("dictionary", "number", "feature", "tag", "cluster"), rows)

    def charts(self) -> list[Chart]:
        """Tags a dictionary, and for twins their cosine against their correlation."""
        counts = self.counts()
        bars = [Bars(self.labels, [row[tag] for row in counts], tag) for tag in TAGS]
        texts = [f"{pair.dictionaries[0]}/{pair.features[0]} – {pair.dictionaries[1]}/{pair.features[1]}"
                 for pair in self.twins]  # fmt: skip
        points = Points([pair.cosine for pair in self.twins], [pair.correlation for pair in self.twins], "", texts)
        return [
            Chart("tags", "What features are across dictionaries", "", "features", bars),
            Chart("twins", "Twins: directions and codes", "cosine", "correlation of codes", (points,)),
        ]


def atlas(
    dictionaries: Grid | Sequence[Given],
    members: Sequence[int] | None = None,
    *,
    rows: Rows | None = None,
    threshold: float = SHARED,
    limit: int = 50_000,
) -> Atlas:
    """Which features are the same in several dictionaries of one site: a grid and its members, or a list.

    `rows`: a lab, an activation store or rows [n, d_in], on up to `limit` of which codes are compared. Raises
    UsageError for fewer than two dictionaries, dictionaries of several sites, or a threshold that is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"`threshold` (={threshold}) is the least cosine of twins: above 0 and at most 1")
    sides = compared(dictionaries, members)
    if len(sides) < 2:
        raise UsageError("an atlas needs two dictionaries or more")
    numbers, tried = range(len(sides)), 0 if rows is None else CANDIDATES
    pairs = [pair_of(sides, a, b, threshold, tried) for a in numbers for b in numbers if a < b]
    fired = None if rows is None else watch(sides, pairs, rows, limit)
    n_rows = 0 if fired is None else fired[0]
    clusters = _clusters([side.width for side in sides], pairs)
    twins = tuple(twin for pair in pairs for twin in twins_of(pair))
    splits = tuple(split for pair in pairs for split in splits_of(pair, rows is not None))
    absorptions = tuple(each for pair in pairs for each in absorptions_of(pair)) if rows is not None else ()
    dead = [torch.zeros(side.width, dtype=torch.bool) for side in sides]
    if fired is not None:
        dead = [count_N == 0 for count_N in fired[1]]
    tags = _tags(clusters, dead, splits, absorptions)
    return Atlas(tuple(side.label for side in sides), tags, clusters, twins, splits, absorptions, n_rows)


def _clusters(widths: Sequence[int], pairs: Sequence[Pair]) -> tuple[Tensor, ...]:
    """Twins joined, nearest first, unless both sides have a feature of one dictionary already."""
    group: dict[tuple[int, int], dict[int, int]] = {}  # (dictionary, feature) → its cluster: dictionary → feature
    cosine_P = torch.cat([pair.cosine_P for pair in pairs])
    ends = [
        ((pair.a, f), (pair.b, g)) for pair in pairs for f, g in zip(pair.f_P.tolist(), pair.g_P.tolist(), strict=True)
    ]
    for place in cosine_P.argsort(descending=True, stable=True).tolist():
        first, second = (group.setdefault(end, {end[0]: end[1]}) for end in ends[place])
        if first is second or first.keys() & second.keys():
            continue
        first |= second
        for end in second.items():
            group[end] = first
    found = tuple(torch.full((width,), -1) for width in widths)
    joined = {id(cluster): cluster for cluster in group.values() if len(cluster) > 1}
    for number, cluster in enumerate(sorted(joined.values(), key=lambda each: sorted(each.items()))):
        for dictionary, feature in cluster.items():
            found[dictionary][feature] = number
    return found


def _tags(
    clusters: Sequence[Tensor], dead: Sequence[Tensor], splits: Sequence[Split], absorptions: Sequence[Absorption]
) -> tuple[tuple[str, ...], ...]:
    members = Counter(cluster for of_N in clusters for cluster in of_N.tolist() if cluster >= 0)
    tags = [
        ["orphan" if cluster < 0 else "universal" if members[cluster] == len(clusters) else "shared"
         for cluster in of_N.tolist()]
        for of_N in clusters
    ]  # fmt: skip
    for split in splits:
        parts = [(split.dictionary, split.feature), *((split.into, child) for child in split.children)]
        for number, feature in parts:
            if tags[number][feature] != "universal":
                tags[number][feature] = "split"
    for each in absorptions:
        tags[each.dictionary][each.feature] = "absorbed"
    return tuple(
        tuple("dead" if gone else tag for tag, gone in zip(row, dead_N.tolist(), strict=True))
        for row, dead_N in zip(tags, dead, strict=True)
    )

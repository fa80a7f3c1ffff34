"""The atlas: the same feature across seeds and widths, and what became of those that are not the same.

Links. Two features of two dictionaries are twins where each is the other's nearest and their cosine is at least
`threshold`; where rows are given, the correlation of their codes on the same rows decides between copies, and is kept
beside it (`atlas_pairs.py`). Clusters: twins joined, nearest first, cosines that are alike to TIE by correlation; a
cluster never takes a second feature of one dictionary.

Every feature has one tag, the first that fits:
- dead: it fires on none of the tokens of its dictionary's index, nor on any of the rows (where there are such);
- absorbed: a twin fires where it is silent, and a more specific feature of its own dictionary instead;
- universal: it has a twin in every other dictionary;
- split: in some larger dictionary it has no twin but several children whose codes sum up to its own. The children are
  tagged so as well, unless they are universal;
- shared: it has a twin somewhere, not everywhere;
- orphan: no twin anywhere.

A tag is not looked for where nothing could tell of it: dead without rows and index, absorbed without rows, split where
all widths are equal. Then its count is None, not 0.

Tags follow from a feature's own twins, not from its cluster: what chains of twins join need not be each other's twins,
and of two twins one may be left out of the other's cluster. How far a cluster goes says the least cosine of any two of
its features.

What absorbed and split are to the number is said in `atlas_rules.py`.
Cosines come a block at a time and counts for the pairs that matter only, so 16k × 16k needs no table of that size.
Left out: twins that only their codes would show.

Shapes: N = width of a dictionary, P twins of a pair of dictionaries, C clusters, H features of interest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from monosemy.analysis.atlas_pairs import CANDIDATES, TIE, Pair, pair_of, ranked, watch
from monosemy.analysis.atlas_rules import Absorption, Split, Twins, absorptions_of, splits_of, twins_of
from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.coactivation import Rows
from monosemy.analysis.compared import Compared, Given, Grid, compared
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.result import Result, Table
from monosemy.metrics.recovery import SHARED
from monosemy.runtime import UsageError

TAGS = ("universal", "shared", "split", "absorbed", "orphan", "dead")
NOT_ALWAYS = ("split", "absorbed", "dead")  # looked for


@dataclass(frozen=True)
class Atlas(Result):
    """Every feature of several dictionaries with its tag and its cluster."""

    name: ClassVar[str] = "atlas"
    labels: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    """For each dictionary the tag of each feature."""
    looked_for: tuple[tuple[str, ...], ...]
    """For each dictionary the tags that its features could have been given."""
    clusters: tuple[Tensor, ...]
    """For each dictionary the cluster of each feature, −1 for those in none."""
    cosine_C: Tensor
    """For each cluster the least cosine of any two of its features, twins or not."""
    twins: tuple[Twins, ...]
    splits: tuple[Split, ...]
    absorptions: tuple[Absorption, ...]
    n_rows: int
    """Rows on which codes were compared; 0: directions alone."""

    def members(self, cluster: int) -> list[tuple[int, int]]:
        """The features of a cluster: dictionary and number."""
        found = enumerate(self.clusters)
        return [(number, feature) for number, of_N in found for feature in torch.where(of_N == cluster)[0].tolist()]

    def counts(self) -> list[dict[str, int | None]]:
        """For each dictionary how many features have each tag; None for a tag that was not looked for."""
        return [
            {tag: Counter(tags)[tag] if tag in looked else None for tag in TAGS}
            for tags, looked in zip(self.tags, self.looked_for, strict=True)
        ]

    def table(self) -> Table:
        """One row a feature; whether it is split, absorbed or dead is None where that was not looked for."""
        rows: list[list[Any]] = []
        for number, (label, tags, of_N) in enumerate(zip(self.labels, self.tags, self.clusters, strict=True)):
            looked = self.looked_for[number]
            for feature, (tag, cluster) in enumerate(zip(tags, of_N.tolist(), strict=True)):
                told = [tag == name if name in looked else None for name in NOT_ALWAYS]
                rows.append([label, number, feature, tag, None if cluster < 0 else cluster, *told])
        return Table(("dictionary", "number", "feature", "tag", "cluster", *NOT_ALWAYS), rows)

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
    indexes: Sequence[str | Path | FeatureIndex | None] | None = None,
    threshold: float = SHARED,
    limit: int = 50_000,
) -> Atlas:
    """Which features are the same in several dictionaries of one site: a grid and its members, or a list.

    `rows`: a lab, an activation store or rows [n, d_in], on up to `limit` of which codes are compared. `indexes`: the
    feature index of each dictionary, or None where it has none; they say what is dead. Raises UsageError for fewer than
    two dictionaries, dictionaries of several sites, indexes of others, or a threshold that is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"`threshold` (={threshold}) is the least cosine of twins: above 0 and at most 1")
    sides = compared(dictionaries, members)
    if len(sides) < 2:
        raise UsageError("an atlas needs two dictionaries or more")
    silent = _silent_in(indexes, sides)
    numbers, tried = range(len(sides)), 0 if rows is None else CANDIDATES
    pairs = [pair_of(sides, a, b, threshold, tried) for a in numbers for b in numbers if a < b]
    n_rows, fired = (0, None) if rows is None else watch(sides, pairs, rows, limit)
    widths = [side.width for side in sides]
    clusters = _clusters(widths, pairs)
    cosine_C = _least_cosines(clusters, [side.directions_ND for side in sides])
    twins = tuple(twin for pair in pairs for twin in twins_of(pair))
    splits = tuple(split for pair in pairs for split in splits_of(pair, rows is not None))
    absorptions = tuple(each for pair in pairs for each in absorptions_of(pair)) if rows is not None else ()
    dead = [_dead(own, None if fired is None else fired[number]) for number, own in enumerate(silent)]
    tags = _tags(widths, dead, twins, splits, absorptions)
    told = {"split": len(set(widths)) > 1, "absorbed": rows is not None}
    looked = tuple(tuple(tag for tag in TAGS if told.get(tag, tag != "dead" or own is not None)) for own in dead)
    labels = tuple(side.label for side in sides)
    return Atlas(labels, tags, looked, clusters, cosine_C, twins, splits, absorptions, n_rows)


def _silent_in(
    indexes: Sequence[str | Path | FeatureIndex | None] | None, sides: Sequence[Compared]
) -> list[Tensor | None]:
    """For each dictionary which features its index saw firing nowhere, `silent_N`; None without an index."""
    given = [None] * len(sides) if indexes is None else indexes
    if len(given) != len(sides):
        raise UsageError(f"`indexes` are {len(given)} for {len(sides)} dictionaries: give one each, None where none is")
    found: list[Tensor | None] = []
    for each, side in zip(given, sides, strict=True):
        opened = None if each is None else FeatureIndex.open(each)
        if opened is not None and opened.n_features != side.width:
            raise UsageError(
                f"{opened.artifact.path}: an index of {opened.n_features} features, and {side.label} has {side.width}; "
                f"give the index of that dictionary"
            )
        silent_N = None
        if opened is not None:
            silent_N = torch.zeros(side.width, dtype=torch.bool)
            silent_N[[row["id"] for row in opened.rows("SELECT id FROM feature WHERE dead")]] = True
        found.append(silent_N)
    return found


def _dead(silent_N: Tensor | None, fired_N: Tensor | None) -> Tensor | None:
    """Which features fire nowhere, neither in the index nor on the rows; None where there is neither."""
    known = [each_N for each_N in (silent_N, None if fired_N is None else fired_N == 0) if each_N is not None]
    return torch.stack(known).all(dim=0) if known else None


def _clusters(widths: Sequence[int], pairs: Sequence[Pair]) -> tuple[Tensor, ...]:
    """Twins joined, nearest first, unless both sides have a feature of one dictionary already."""
    group: dict[tuple[int, int], dict[int, int]] = {}  # (dictionary, feature) → its cluster: dictionary → feature
    ends: list[tuple[tuple[int, int], tuple[int, int]]] = []
    for pair in pairs:
        couples = zip(pair.f_P[pair.twins].tolist(), pair.g_P[pair.twins].tolist(), strict=True)
        ends += [((pair.a, f), (pair.b, g)) for f, g in couples]
    cosine_P = torch.cat([pair.cosine_P[pair.twins] for pair in pairs])
    correlation_P = torch.cat([pair.correlation_P[pair.twins] for pair in pairs])
    alike = (cosine_P / TIE).round().tolist()
    for place in sorted(ranked(correlation_P, cosine_P), key=lambda place: -alike[place]):
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


def _least_cosines(clusters: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    """For each cluster over all pairs of its features, `cosine_C`."""
    cosine_C = torch.ones(1 + max(int(of_N.max()) for of_N in clusters))
    of_C = [torch.full((len(cosine_C),), -1) for _ in clusters]
    for feature_C, of_N in zip(of_C, clusters, strict=True):
        held_H = torch.where(of_N >= 0)[0]
        feature_C[of_N[held_H]] = held_H
    for a, b in combinations(range(len(clusters)), 2):
        both_H = torch.where((of_C[a] >= 0) & (of_C[b] >= 0))[0]
        a_HD, b_HD = directions[a][of_C[a][both_H]], directions[b][of_C[b][both_H]]
        cosine_C[both_H] = torch.minimum(cosine_C[both_H], torch.cosine_similarity(a_HD, b_HD))
    return cosine_C


def _tags(
    widths: Sequence[int],
    dead: Sequence[Tensor | None],
    twins: Sequence[Twins],
    splits: Sequence[Split],
    absorptions: Sequence[Absorption],
) -> tuple[tuple[str, ...], ...]:
    others = Counter(end for each in twins for end in zip(each.dictionaries, each.features, strict=True))
    by_twins = {0: "orphan", len(widths) - 1: "universal"}
    tags = [
        [by_twins.get(others[number, feature], "shared") for feature in range(width)]
        for number, width in enumerate(widths)
    ]
    for split in splits:
        parts = [(split.dictionary, split.feature), *((split.into, child) for child in split.children)]
        for number, feature in parts:
            if tags[number][feature] != "universal":
                tags[number][feature] = "split"
    for each in absorptions:
        tags[each.dictionary][each.feature] = "absorbed"
    for row, dead_N in zip(tags, dead, strict=True):
        for feature in [] if dead_N is None else torch.where(dead_N)[0].tolist():
            row[feature] = "dead"
    return tuple(map(tuple, tags))

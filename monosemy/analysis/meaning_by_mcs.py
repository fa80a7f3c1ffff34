"""How the share of features that look meaningful goes with their MCS: groups of equal number, each with its interval.

Features go by their largest cosine with any other dictionary and are cut into groups of (nearly) equal number. A group
of one or two would say 0, 1 or a half, whatever the features are. The interval of a share is that of `meaning_bars.py`:
it holds the chance of the bars, which all groups have in common, as well as that of the group's features.

Shapes: F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from monosemy.analysis.chart import Bars, Chart
from monosemy.analysis.meaning_bars import Bands, Seen
from monosemy.metrics.interval import Share

GROUPS, FEWEST = 8, 20
"""The most groups, and the fewest features of one, where there are so many."""


@dataclass(frozen=True)
class Group:
    """Features of neighbouring MCS."""

    low: float
    """The least MCS of them."""
    high: float
    """The largest."""
    share: Share
    """The share that looks meaningful."""


def shares_by_mcs(mcs_F: Sequence[float], seen_F: Sequence[Seen], bands: Bands) -> tuple[Group, ...]:
    """The share that looks meaningful in each group, that of the lowest MCS first; none of no features."""
    found = []
    for number, places in enumerate(equal_groups(mcs_F)):
        share = bands.share([seen_F[place] for place in places], "mcs", number)
        found.append(Group(mcs_F[places[0]], mcs_F[places[-1]], share))
    return tuple(found)


def equal_groups(values_F: Sequence[float]) -> list[list[int]]:
    """The places of the values from the least to the largest, cut into groups of (nearly) equal number."""
    order = sorted(range(len(values_F)), key=lambda place: values_F[place])
    count = max(1, min(GROUPS, len(order) // FEWEST))
    cuts = [len(order) * number // count for number in range(count + 1)]
    return [order[start:end] for start, end in pairwise(cuts) if end > start]


def ranges_of(groups: Sequence[Group]) -> list[str]:
    """Each group's MCS from least to largest, with the fewest decimals (2 to 6) that tell groups and edges apart."""
    kinds = len({(each.low, each.high) for each in groups})
    for digits in range(2, 7):
        edges = [(f"{each.low:.{digits}f}", f"{each.high:.{digits}f}") for each in groups]
        clear = all(low != high or each.low == each.high for (low, high), each in zip(edges, groups, strict=True))
        if clear and len(set(edges)) == kinds:
            break
    return [f"{low} to {high}" for low, high in edges]


def chart_of_shares(groups: Sequence[Group]) -> Chart:
    """A bar a group, with its interval."""
    ranges = ranges_of(groups)
    labels = [f"{said} ({each.share.total})" for said, each in zip(ranges, groups, strict=True)]
    shares = [each.share for each in groups]
    bars = Bars(
        labels,
        [share.share for share in shares],
        low=[share.low for share in shares],
        high=[share.high for share in shares],
    )
    title = "Living features that look meaningful, as many in each bar"
    return Chart("meaningful", title, "MCS (n features)", "share", (bars,))

"""Bars that random directions set for the agreement of firings, and how sure a share of what passes them is.

The rule that they serve, and its source, is in `meaning.py`. A bar is an order statistic of SET random directions, so
it is itself uncertain: a share of passing features has the chance of the features and that of its bars, which all
features of a band share. Its interval draws both, DRAWS times: the random directions of every band anew (with
replacement) and, given how many features pass the bars that these set, the share from Jeffreys' beta distribution,
which keeps its width where all or none pass (Brown, Cai and DasGupta 2001, "Interval Estimation for a Binomial
Proportion"). Its percentiles are the interval. `tests/test_meaning.py` counts how often it covers a known share.

Shapes: R draws, S random directions of a band, F features.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from monosemy.metrics.interval import Share
from monosemy.runtime import generator_for, seed_for

DOCUMENTS, EXAMPLES = 5, 15
CHANCE = 0.05
DRAWS = 1000


@dataclass(frozen=True)
class Place:
    """A firing: its token, those before it in its row, and its document."""

    peak: int
    context: frozenset[int]
    document: int


@dataclass(frozen=True)
class Seen:
    """How far some firings agree, and the bar that this is held against."""

    band: int
    count: int
    """Firings compared; 0 where they are of too few documents to tell."""
    peaks: float
    contexts: float


@dataclass
class Bar:
    """What random directions of one density reach, by how many of their firings are compared."""

    of_random: Sequence[Sequence[Place]]
    _reached: dict[int, Tensor] = field(default_factory=dict)
    _limits: dict[int, tuple[float, float]] = field(default_factory=dict)

    def limits(self, count: int) -> tuple[float, float]:
        """`peaks` and `contexts` that another random direction exceeds with probability CHANCE / 2 each.

        That is the k-th largest of n, with k / (n + 1) = CHANCE / 2; inf where so few fire `count` times that k < 1.
        """
        if count not in self._limits:
            peaks, contexts = self.drawn(count, torch.arange(len(self.of_random))[None])[0].tolist()
            self._limits[count] = peaks, contexts
        return self._limits[count]

    def drawn(self, count: int, drawn_RS: Tensor) -> Tensor:
        """The limits that draws of the random directions set, `limits_R2`."""
        reached_2RS = self._reach(count).T.contiguous()[:, drawn_RS]
        rank_R = (((reached_2RS[0] >= 0).sum(dim=1) + 1) * CHANCE / 2 + 1e-9).long()
        if not (most := int(rank_R.max())):
            return reached_2RS.new_full((len(drawn_RS), 2), torch.inf)
        largest_2RK = reached_2RS.topk(most, dim=2).values
        at_2R1 = (rank_R - 1).clamp_min(0)[:, None].expand(2, -1, -1)
        return largest_2RK.gather(2, at_2R1)[:, :, 0].T.masked_fill(rank_R[:, None] == 0, torch.inf)

    def seen(self, places: Sequence[Place], band: int = 0) -> Seen:
        """How EXAMPLES of the places agree, evenly chosen where there are more."""
        size = min(EXAMPLES, len(places))
        places = [places[i * len(places) // size] for i in range(size)]
        enough = len({place.document for place in places}) >= DOCUMENTS
        return Seen(band, size if enough else 0, *agreement(places))

    def passes(self, seen: Seen) -> bool:
        """The rule."""
        if not seen.count:
            return False
        most_peaks, most_contexts = self.limits(seen.count)
        return seen.peaks > most_peaks or seen.contexts > most_contexts

    def meaningful(self, places: Sequence[Place]) -> bool:
        """The rule, on places."""
        return self.passes(self.seen(places))

    def _reach(self, count: int) -> Tensor:
        """What each random direction reaches, `reached_S2`; −1 where it fires fewer than `count` times."""
        if count not in self._reached:
            found = [agreement(own[:count]) if len(own) >= count else (-1.0, -1.0) for own in self.of_random]
            self._reached[count] = torch.tensor(found, dtype=torch.float64).reshape(-1, 2)
        return self._reached[count]


@dataclass(frozen=True)
class Bands:
    """A bar for every density."""

    largest: Sequence[float]
    """The largest density in each band, in order."""
    bars: Sequence[Bar]

    def band(self, density: float) -> int:
        """The band in which a density lies."""
        return min(bisect_left(self.largest, density), len(self.bars) - 1)

    def bar(self, density: float) -> Bar:
        """Its bar."""
        return self.bars[self.band(density)]

    def seen(self, density: float, places: Sequence[Place]) -> Seen:
        """How the firings of a feature of this density agree."""
        return self.bar(density).seen(places, self.band(density)) if places else Seen(0, 0, 0.0, 0.0)

    def passes(self, seen: Seen) -> bool:
        """Whether that is above the bar."""
        return bool(seen.count) and self.bars[seen.band].passes(seen)

    def share(self, seen: Sequence[Seen], *seed: object) -> Share:
        """The share that passes, with the interval that holds the chance of the bars, too."""
        count, total = sum(map(self.passes, seen)), len(seen)
        if not total:
            return Share.of(0, 0)
        groups: dict[int, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
        for each in seen:
            if each.count:
                groups[each.band][each.count].append((each.peaks, each.contexts))
        passing_R = torch.zeros(DRAWS, dtype=torch.int64)
        for band, by_count in sorted(groups.items()):
            directions = len(self.bars[band].of_random)
            generator = generator_for("bars", band, *seed)
            drawn_RS = torch.randint(max(directions, 1), (DRAWS, directions), generator=generator)
            for size, values in by_count.items():
                limits_R2 = self.bars[band].drawn(size, drawn_RS)
                values_F2 = torch.tensor(values, dtype=torch.float64)
                passing_R += (values_F2 > limits_R2[:, None]).any(dim=2).sum(dim=1)
        random = np.random.default_rng(seed_for("share", *seed))
        share_R = random.beta(passing_R.numpy() + 0.5, total - passing_R.numpy() + 0.5)
        low, high = np.quantile(share_R, (0.025, 0.975)).tolist()
        share = count / total
        return Share(count, total, share, min(low, share), max(high, share))


def agreement(places: Sequence[Place]) -> tuple[float, float]:
    """`peaks` and `contexts` of some firings; 0 for fewer than two."""
    pairs = list(combinations(places, 2))
    peaks = sum(one.peak == other.peak for one, other in pairs)
    contexts = sum(len(one.context & other.context) / max(len(one.context | other.context), 1) for one, other in pairs)
    return peaks / max(len(pairs), 1), contexts / max(len(pairs), 1)

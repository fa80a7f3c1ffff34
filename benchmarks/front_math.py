"""Comparing two libraries' fronts, and ranking variants, with an answer to how sure that is.

A front is a score against L0, of one kind of dictionary trained at several sparsities from one seed; between its points
it is interpolated linearly in log L0 (and in log FVU), and outside them it says nothing. A library's front is the best
of its kinds at each L0. Two sides are compared over the L0 that all of both sides' seeds reach: one mean over that
range for each seed, and Welch's interval of the difference of their means, since seeds of two libraries are no pairs.

Lower scores are better here; where higher is better the caller turns the sign.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Points = Sequence[tuple[float, float]]  # (L0, score) of the dictionaries of one kind and seed
Side = Mapping[int, Sequence[Points]]  # by seed: the fronts of its kinds

GRID = 60  # L0s at which fronts are read, between the smallest and the largest of all
LEAST_RANGE = 1.2  # how far apart, as a factor, the ends of a common range must be
LEAST_SHARE = 0.4  # of the kinds that are ranked at an L0

BETTER, NOT_WORSE, WORSE = "better", "not worse within the interval", "worse"


@dataclass(frozen=True)
class Compared:
    """Two sides over their common L0 from `low` to `high`: means over seeds, their difference and half its interval."""

    low: float
    high: float
    ours: float
    theirs: float
    difference: float
    half: float

    @property
    def verdict(self) -> str:
        """better, not worse within the interval, or worse."""
        return verdict(self.difference, self.half)


def verdict(difference: float, half: float) -> str:
    """What a difference (ours − theirs, lower is better) says; a tie of equal means is not worse."""
    if difference + half < 0:
        return BETTER
    return WORSE if difference - half > 0 else NOT_WORSE


def welch(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """Difference of the means and half of its 95 % interval; infinite where a side has a single seed."""
    from scipy.stats import t

    difference = statistics.mean(ours) - statistics.mean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return difference, math.inf
    parts = [statistics.variance(side) / len(side) for side in (ours, theirs)]
    if sum(parts) == 0:
        return difference, 0.0
    freedom = sum(parts) ** 2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (ours, theirs), strict=True))
    return difference, float(t.ppf(0.975, freedom)) * math.sqrt(sum(parts))


def front(points: Points, l0_L: np.ndarray) -> np.ndarray:
    """The front at these L0, NaN outside its points."""
    known = sorted(points)
    at, scores = np.log([l0 for l0, _ in known]), np.array([score for _, score in known])
    return np.interp(np.log(l0_L), at, scores, left=np.nan, right=np.nan)


def best(fronts: Sequence[Points], l0_L: np.ndarray) -> np.ndarray:
    """The lowest of several fronts at each L0, NaN where there is none."""
    lowest = np.fmin.reduce([front(points, l0_L) for points in fronts])
    return np.asarray(lowest)


def compare(ours: Side, theirs: Side) -> Compared | None:
    """The two sides over their common L0; None where they have none."""
    if not ours or not theirs:
        return None
    l0_L = _grid([ours, theirs])
    sides = [{seed: best(fronts, l0_L) for seed, fronts in side.items()} for side in (ours, theirs)]
    both_L = np.all([np.isfinite(values_L) for side in sides for values_L in side.values()], axis=0)
    if not both_L.any() or l0_L[both_L].max() < LEAST_RANGE * l0_L[both_L].min():
        return None
    means = [[float(values_L[both_L].mean()) for values_L in side.values()] for side in sides]
    difference, half = welch(*means)
    return Compared(
        float(l0_L[both_L].min()), float(l0_L[both_L].max()), *map(statistics.mean, means), difference, half
    )


def front_ranks(sides: Mapping[str, Side]) -> dict[str, float]:
    """Mean place of each kind among those whose fronts reach an L0, over all L0 that at least LEAST_SHARE of them
    reach: 0 for one that is always best, 1 for one that is always worst. Kinds that reach no such L0 are left out."""
    sides = {name: side for name, side in sides.items() if side}
    l0_L = _grid(list(sides.values()))
    means = [np.mean([best(fronts, l0_L) for fronts in side.values()], axis=0) for side in sides.values()]
    table_KL = np.array(means)
    shared_L = np.isfinite(table_KL).sum(axis=0) >= max(2.0, LEAST_SHARE * len(sides))
    places: dict[str, list[float]] = {name: [] for name in sides}
    for values_K in table_KL[:, shared_L].T:
        for name, place in places_of(dict(zip(sides, values_K.tolist(), strict=True))).items():
            places[name].append(place)
    return {name: statistics.mean(found) for name, found in places.items() if found}


def places_of(scores: Mapping[str, float]) -> dict[str, float]:
    """Each name's place by its score, from 0 (the lowest) to 1 (the highest); NaN has none, ties share a place."""
    known = {name: score for name, score in scores.items() if not math.isnan(score)}
    others = max(1, len(known) - 1)
    return {
        name: (sum(s < score for s in known.values()) + 0.5 * (sum(s == score for s in known.values()) - 1)) / others
        for name, score in known.items()
    }


def _grid(sides: Sequence[Side]) -> np.ndarray:
    found = [l0 for side in sides for fronts in side.values() for points in fronts for l0, _ in points]
    return np.geomspace(min(found), max(found), GRID)

"""Trees of features: a child fires only when its parent does, and siblings may exclude each other.

Source: SynthSAEBench (arXiv 2602.14687). The features of a forest are numbered level by level: the roots are
0 … R−1, and the children of feature k are R + k·branching … R + (k+1)·branching − 1, cut at G; so the parent of any
feature is a division, and no table is kept. A child's probability is its parent's times `share`. What a child does in
a row is a function of (key, row, child), a hash, so it depends on nothing else that was drawn. Left out: trees whose
shape or shares are random.

Shapes: P firings (row, feature), G features, R roots, K children of one parent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monosemy.runtime import UsageError


@dataclass(frozen=True)
class Hierarchy:
    """How features depend on each other; flat by default."""

    depth: int = 0
    """Levels of children below each root; 0: every feature is a root."""
    branching: int = 4
    """Children of each feature that is not on the last level."""
    share: float = 0.2
    """Probability that a child fires where its parent does."""
    exclusive: bool = True
    """At most one of the children of a feature fires in a row; otherwise they are independent, given the parent."""
    scale_by_parent: bool = False
    """Multiply a child's magnitude by its parent's."""

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise UsageError(f"`depth` (={self.depth}) must be at least 0; 0 is a flat world")
        if self.branching < 1:
            raise UsageError(f"`branching` (={self.branching}) must be at least 1; for no children use depth 0")
        if not 0 <= self.share <= 1:
            raise UsageError(f"`share` (={self.share}) is a probability; choose it in [0, 1]")
        if self.depth and self.exclusive and self.share * self.branching > 1 + 1e-12:
            raise UsageError(
                f"`share` (={self.share}) of {self.branching} exclusive children adds up to more than 1; "
                f"lower share or branching, or set exclusive to false"
            )

    def roots(self, features: int) -> int:
        """How many of the features are roots: as few as trees of the full size allow."""
        tree: int = sum(self.branching**level for level in range(self.depth + 1))
        return -(-features // tree)

    def parents(self, features: int) -> np.ndarray:
        """The parent of each feature, −1 for a root; int64 [G]."""
        number_G = np.arange(features) - (roots := self.roots(features))
        return np.where(number_G < 0, -1, number_G // self.branching) if roots < features else np.full(features, -1)

    def spread(self, probability_R: np.ndarray, features: int) -> np.ndarray:
        """The probabilities of all features [G] from those of the roots."""
        probability_G = np.empty(features)
        filled = len(probability_R)
        probability_G[:filled] = probability_R
        while filled < features:  # the children of the features so far
            until = min(features, len(probability_R) + filled * self.branching)
            parent = (np.arange(filled, until) - len(probability_R)) // self.branching
            probability_G[filled:until] = probability_G[parent] * self.share
            filled = until
        return probability_G

    def tree_sizes(self, features: int) -> np.ndarray:
        """The expected number of firings in a root's tree where the root fires; [R]."""
        roots, parent_G = self.roots(features), self.parents(features)
        size_G = np.ones(features)
        bounds = _levels(roots, self.branching, features)
        for low, high in reversed(bounds[1:]):
            size_G += np.bincount(parent_G[low:high], size_G[low:high] * self.share, minlength=features)
        return size_G[:roots]

    def grow(self, key: int, row_P: np.ndarray, feature_P: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
        """The firings of roots and those of their descendants; (row, feature), in no order."""
        roots, rows, found = self.roots(features), [row_P], [feature_P]
        for _ in range(self.depth):
            row_P, feature_P = self._children(key, row_P, roots + feature_P * self.branching)
            row_P, feature_P = row_P[feature_P < features], feature_P[feature_P < features]
            rows.append(row_P)
            found.append(feature_P)
        return np.concatenate(rows), np.concatenate(found)

    def _children(self, key: int, row_P: np.ndarray, first_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The firing children of parents in these rows, whose first child is `first_P`."""
        if self.exclusive:
            uniform_P = uniform_at(key, row_P, first_P)
            fires_P = uniform_P < self.share * self.branching
            chosen_P = np.minimum(uniform_P[fires_P] // self.share, self.branching - 1)
            return row_P[fires_P], first_P[fires_P] + chosen_P.astype(np.int64)
        child_PK = first_P[:, None] + np.arange(self.branching)
        row_PK = np.broadcast_to(row_P[:, None], child_PK.shape)
        fires_PK = uniform_at(key, row_PK, child_PK) < self.share
        return row_PK[fires_PK], child_PK[fires_PK]


def _levels(roots: int, branching: int, features: int) -> list[tuple[int, int]]:
    """First feature and end of each level."""
    bounds = [(0, roots)]
    while bounds[-1][1] < features:
        low, high = bounds[-1]
        bounds.append((high, min(features, high + (high - low) * branching)))
    return bounds


def uniform_at(key: int, row: np.ndarray, feature: np.ndarray) -> np.ndarray:
    """A number in (0, 1) that depends on (key, row, feature) alone; float64 of their shape. Both are below 2³².

    The generator splitmix64 (Steele et al. 2014) read at place row·2³² + feature of its sequence from `key` on: a
    counter-based generator in the sense of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
    """
    place = (row.astype(np.uint64) << np.uint64(32)) | feature.astype(np.uint64)
    state = place * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)  # arrays of uint64 wrap around
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform: np.ndarray = (((state ^ (state >> np.uint64(31))) >> np.uint64(11)) + 0.5) * 2.0**-53
    return uniform

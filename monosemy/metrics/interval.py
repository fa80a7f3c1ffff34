"""How sure a mean or a share is: 95 % intervals.

A mean over repetitions: Student's t. A share of cases: Wilson's interval, which stays within 0 and 1 and has a width
even where all cases agree (Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference").
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054  # of the normal distribution


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean, by Student's t."""
    middle, half = statistics.mean(values), half_width(values)
    return middle - half, middle + half


def half_width(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean; 0 for a single value."""
    from scipy.stats import t

    if len(values) < 2:
        return 0.0
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


@dataclass(frozen=True)
class Share:
    """`count` of `total` cases: the share and its 95 % interval; None where there are no cases."""

    count: int
    total: int
    share: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, count: int, total: int) -> Share:
        """The share with Wilson's interval."""
        if total == 0:
            return cls(count, total, None, None, None)
        share, spread = count / total, Z_95**2 / total
        middle = (share + spread / 2) / (1 + spread)
        half = Z_95 * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
        return cls(count, total, share, max(0.0, middle - half), min(1.0, middle + half))

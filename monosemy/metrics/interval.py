"""How sure a mean is: its 95 % interval, by Student's t, over repetitions that differ in their seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


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

"""How sure a ratio of sums is, by drawing its cases anew: 95 % intervals from a seeded bootstrap.

What one document gives is not independent (its tokens go together), documents are. So documents are the cases: as many
as there are are drawn with replacement, DRAWS times, and each time the ratio is taken again. The interval runs between
two percentiles of these ratios. Plain percentiles are too narrow for few cases, as a normal interval is beside
Student's: so the percentiles are those which would give Student's interval for a mean (the "expanded percentile" of
Hesterberg 2015, "What Teachers Should Know About the Bootstrap", arXiv 1411.5279, §3.6).

Shapes: C cases, R draws.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monosemy.runtime import generator_for

DRAWS = 1000


def ratio_interval(part_C: Tensor, whole_C: Tensor, *seed: object) -> tuple[float | None, float | None]:
    """The 95 % interval of Σ part / Σ whole over the cases, all of whose wholes are above 0; None for fewer than 2."""
    cases = len(part_C)
    if cases < 2:
        return None, None
    drawn_RC = torch.randint(cases, (DRAWS, cases), generator=generator_for("bootstrap", *seed))
    part_R, whole_R = (each_C.double().cpu()[drawn_RC].sum(dim=1) for each_C in (part_C, whole_C))
    tail = expanded_tail(cases)
    low, high = (part_R / whole_R).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def expanded_tail(cases: int) -> float:
    """The share of the draws that is left out on either side."""
    from scipy.stats import norm, t

    return float(norm.cdf(-math.sqrt(cases / (cases - 1)) * t.ppf(0.975, cases - 1)))

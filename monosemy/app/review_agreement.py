"""How far two reviewers agree: the share of equal verdicts, and Cohen's kappa, which takes out what chance would give.

    κ = (p_o − p_e) / (1 − p_e),   p_o = Σ_i p_ii,   p_e = Σ_i p_i· p_·i

with p_ij the share of features that one calls i and the other j (Cohen 1960). The interval is κ ± 1.96 standard
errors, with the large-sample error of Fleiss, Cohen and Everitt (1969, "Large sample standard errors of kappa and
weighted kappa"), which does not assume κ = 0. The interval of the share is Wilson's. Weighted kappa is left out:
"dead" and "nothing seen" have no place on a scale.

Shapes: K verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.app.reviews import VERDICTS, Review

Z = 1.96  # 95 % of a normal distribution


@dataclass(frozen=True)
class Agreement:
    """Two reviewers on the features that both have judged."""

    first: str
    second: str
    count: int
    """Features that both have judged."""
    share: float | None
    """Of them, how many got the same verdict; None where there are none."""
    share_interval: tuple[float, float] | None
    kappa: float | None
    """None where there are none, or where both gave one and the same verdict to all: chance would, too."""
    kappa_interval: tuple[float, float] | None
    counts_KK: list[list[int]]
    """Features by the first's verdict (rows) and the second's, in the order of `VERDICTS`."""
    differ: list[int]
    """The features on which they differ."""


def agreement(reviews: Sequence[Review], first: str, second: str) -> Agreement:
    """Agreement of two reviewers over the verdicts that stand (`Reviews.standing`)."""
    said = {name: {r.feature: r.verdict for r in reviews if r.reviewer == name} for name in (first, second)}
    common = sorted(said[first].keys() & said[second].keys())
    counts_KK = np.zeros((len(VERDICTS), len(VERDICTS)), dtype=int)
    for feature in common:
        counts_KK[VERDICTS.index(str(said[first][feature])), VERDICTS.index(str(said[second][feature]))] += 1
    equal = int(counts_KK.trace())
    kappa, error = cohens_kappa(counts_KK)
    return Agreement(
        first=first,
        second=second,
        count=len(common),
        share=equal / len(common) if common else None,
        share_interval=_wilson(equal, len(common)) if common else None,
        kappa=kappa,
        kappa_interval=None if kappa is None else (max(-1.0, kappa - Z * error), min(1.0, kappa + Z * error)),
        counts_KK=counts_KK.tolist(),
        differ=[feature for feature in common if said[first][feature] != said[second][feature]],
    )


def cohens_kappa(counts_KK: np.ndarray[Any, Any]) -> tuple[float | None, float]:
    """κ and its standard error; None where it is not defined."""
    total = int(counts_KK.sum())
    if not total:
        return None, math.nan
    p_KK = counts_KK / total
    rows_K, columns_K = p_KK.sum(axis=1), p_KK.sum(axis=0)
    observed, expected = float(p_KK.trace()), float(rows_K @ columns_K)
    if math.isclose(expected, 1.0):
        return None, math.nan
    kappa = (observed - expected) / (1 - expected)
    on = float((np.diag(p_KK) * (1 - (rows_K + columns_K) * (1 - kappa)) ** 2).sum())
    off_KK = p_KK * (columns_K[:, None] + rows_K[None, :]) ** 2
    off = (1 - kappa) ** 2 * float(off_KK.sum() - off_KK.trace())
    variance = (on + off - (kappa - expected * (1 - kappa)) ** 2) / (total * (1 - expected) ** 2)
    return kappa, math.sqrt(max(variance, 0.0))


def _wilson(hits: int, total: int) -> tuple[float, float]:
    share, spread = hits / total, Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)

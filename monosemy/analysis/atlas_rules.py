"""Which features are twins, which have split and which are absorbed, by the numbers of a pair of dictionaries.

- Twins: a cosine of the atlas's threshold or more, and the nearest of both. Of several that are nearest to within TIE
  (copies) the one whose codes correlate most on the same rows, where there are rows (`atlas_pairs.py`).
- Split: a feature without a twin in a larger dictionary has at least two children there: features that are nearest to
  it of all of its dictionary, at a cosine of SPLIT or more. Their codes, weighted with these cosines, sum up to its own
  (correlation ≥ SUMS_UP). Without rows the cosines alone decide.
- Absorbed (Chanin et al. 2024, "A is for Absorption", 2409.14507): feature f has a twin g that fires where f is silent,
  because a more specific feature h of f's dictionary fires there instead, and holds g's direction within its own. Where
  theirs takes a linear probe for the truth, here the twin is it. h is near g (cosine ≥ ABSORBER_COSINE) and rarer than
  it, fires almost only with it (INSIDE), f is silent where both fire (INSTEAD) and mostly fires with its twin elsewhere
  (OTHERWISE), and h takes a share of g's firings (ABSORBED). Needs rows. Left out: their check by ablation.

Shapes: P candidates for twins, K candidates for absorbers, S features that may have split, Q their children.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from monosemy.analysis.atlas_pairs import Pair

SUMS_UP = 0.8
"""The least correlation of a feature's codes with the weighted sum of its children's."""
ABSORBER_COSINE = 0.2
"""The least cosine of an absorber with the twin: it must hold some of its direction."""
INSIDE = 0.8
"""The least share of the absorber's firings on which the twin fires too: what it stands for is a case of the twin's."""
INSTEAD = 0.8
"""The least share of the firings of absorber and twin on which the feature is silent."""
OTHERWISE = 0.5
"""The least share of the twin's other firings on which the feature does fire."""
ABSORBED = 0.02
"""The least share of the twin's firings that the absorber takes."""


@dataclass(frozen=True)
class Twins:
    """Two features that are one, by the numbers of their dictionaries and their own."""

    dictionaries: tuple[int, int]
    features: tuple[int, int]
    cosine: float
    correlation: float | None
    """Of their codes on the same rows; None without rows, or where one never varies."""


@dataclass(frozen=True)
class Split:
    """A feature and its children in a larger dictionary."""

    dictionary: int
    feature: int
    into: int
    """The larger dictionary."""
    children: tuple[int, ...]
    cosines: tuple[float, ...]
    correlation: float | None
    """Of its codes with the sum of theirs; None without rows."""


@dataclass(frozen=True)
class Absorption:
    """A feature, its twin elsewhere, and the feature of its own dictionary that fires instead."""

    dictionary: int
    feature: int
    twin_dictionary: int
    twin: int
    absorber: int
    cosine: float
    """Of the absorber with the twin."""
    rate: float
    """Share of the twin's firings on which the absorber fires and the feature does not."""


def twins_of(pair: Pair) -> list[Twins]:
    """The twins of a `Pair` as records, with the correlation where it is defined."""
    columns = (pair.f_P, pair.g_P, pair.cosine_P, pair.correlation_P)
    values = (column[pair.twins].tolist() for column in columns)
    return [
        Twins((pair.a, pair.b), (f, g), cosine, None if math.isnan(r) else r)
        for f, g, cosine, r in zip(*values, strict=True)
    ]


def splits_of(pair: Pair, measured: bool) -> list[Split]:
    """Those of the candidates that have no twin, and whose codes the children's sum up to."""
    of_small_P = pair.f_P if pair.small == pair.a else pair.g_P
    held, sums_S, found = set(of_small_P[pair.twins].tolist()), pair.sum_correlation_S.tolist(), []
    for place, feature in enumerate(pair.parent_S.tolist()):
        r = sums_S[place]
        if feature in held or (measured and not r >= SUMS_UP):
            continue
        mine_Q = pair.owner_Q == place
        children, cosines = pair.child_Q[mine_Q].tolist(), pair.weight_Q[mine_Q].tolist()
        found.append(Split(pair.small, feature, pair.large, tuple(children), tuple(cosines), r if measured else None))
    return found


def absorptions_of(pair: Pair) -> list[Absorption]:
    """Both ways round; of several candidates the one with the largest share."""
    found = []
    twin_P = torch.zeros(len(pair.f_P), dtype=torch.bool)
    twin_P[pair.twins] = True
    for own, other, counts, cosine_PK in pair.ways():
        twin_P1, missed_P1 = counts.twin_P[:, None], counts.missed_P[:, None]
        both_PK, taken_PK, anywhere_PK = counts.both_PK, counts.taken_PK, counts.other_PK
        elsewhere_PK = twin_P1 - both_PK
        held_PK = elsewhere_PK - (missed_P1 - taken_PK)
        absorbs_PK = (
            (cosine_PK >= ABSORBER_COSINE)
            & (anywhere_PK < twin_P1)
            & (both_PK >= INSIDE * anywhere_PK)
            & (taken_PK >= INSTEAD * both_PK)
            & (held_PK >= OTHERWISE * elsewhere_PK)
            & (taken_PK >= ABSORBED * twin_P1)
            & (taken_PK > 0)
            & twin_P[:, None]
        )
        rate_PK = torch.where(absorbs_PK, taken_PK / twin_P1.clamp_min(1), 0.0)
        for place in torch.where(absorbs_PK.any(dim=1))[0].tolist():
            k = int(rate_PK[place].argmax())
            f, g, h = int(counts.f_P[place]), int(counts.g_P[place]), int(counts.h_PK[place, k])
            found.append(Absorption(own, f, other, g, h, float(cosine_PK[place, k]), float(rate_PK[place, k])))
    return found

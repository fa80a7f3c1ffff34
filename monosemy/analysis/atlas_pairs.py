"""Two dictionaries side by side, for the atlas: twins, what may have split, what may absorb, and their codes.

Candidates for twins are pairs at the atlas's threshold or more, nearer than TIE below the nearest of both. Copies of a
feature are such: their cosines do not tell which is whose twin. Their codes do, where rows are given: of the candidates
those whose codes correlate most are taken first, then those of largest cosine, each feature at most once.

Shapes: N, L directions of two dictionaries, P candidates for twins, K candidates, S features that may have split, Q
their children, X rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from monosemy.analysis.coactivation import AbsorptionCounts, PairSums, Rows, blocks_of, slices
from monosemy.analysis.compared import Compared
from monosemy.analysis.splitting import SPLIT
from monosemy.metrics.recovery import cosine_blocks, nearest
from monosemy.runtime import full_rate_products

TIE = 0.01
"""Cosines that differ by less do not say which of two features is the nearer one."""
CANDIDATES = 8
"""Features of its own dictionary that are tried as a feature's absorber: the nearest to its twin."""


@dataclass
class Pair:
    """Dictionaries number `a` and `b`: candidates for twins f_P and g_P, and of the smaller one what may have split."""

    a: int
    b: int
    small: int
    large: int
    f_P: Tensor
    g_P: Tensor
    cosine_P: Tensor
    parent_S: Tensor
    """Features of the smaller one with two children or more in the larger."""
    owner_Q: Tensor
    """Which of `parent_S` a child belongs to."""
    child_Q: Tensor
    weight_Q: Tensor
    """Its cosine with its parent."""
    near: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    """For a's features and b's: candidate absorbers of their dictionary, `h_PK`, and their cosines, `cosine_PK`."""
    counts: tuple[AbsorptionCounts, AbsorptionCounts] = field(init=False)

    def __post_init__(self) -> None:
        self._twins, self._sums = PairSums(len(self.f_P)), PairSums(len(self.parent_S))
        self.counts = (
            AbsorptionCounts(self.f_P, self.g_P, self.near[0][0]),
            AbsorptionCounts(self.g_P, self.f_P, self.near[1][0]),
        )

    @cached_property
    def twins(self) -> list[int]:
        """The places in f_P and g_P that are twins: asked for when all codes have been added."""
        taken: tuple[set[int], set[int]] = set(), set()
        found = []
        for place in ranked(self.correlation_P, self.cosine_P):
            ends = int(self.f_P[place]), int(self.g_P[place])
            if ends[0] not in taken[0] and ends[1] not in taken[1]:
                found.append(place)
                for side, end in zip(taken, ends, strict=True):
                    side.add(end)
        return sorted(found)

    @property
    def correlation_P(self) -> Tensor:
        """Of the candidates' codes; NaN where no rows were seen."""
        return self._twins.correlation()

    @property
    def sum_correlation_S(self) -> Tensor:
        """Of a parent's codes with its children's weighted sum; NaN where no rows were seen."""
        return self._sums.correlation()

    def ways(self) -> Iterator[tuple[int, int, AbsorptionCounts, Tensor]]:
        """Both ways round: a dictionary, that of the twins, the counts, and the candidates' cosines with the twins."""
        yield self.a, self.b, self.counts[0], self.near[0][1]
        yield self.b, self.a, self.counts[1], self.near[1][1]

    def add(self, codes: Sequence[Tensor], fires: Sequence[Tensor]) -> None:
        """Add a block: `codes_NX` and where they fire, of every dictionary."""
        for pairs in slices(len(self.f_P)):
            self._twins.add(codes[self.a][self.f_P[pairs]], codes[self.b][self.g_P[pairs]], pairs)
        own_NX, theirs_LX = codes[self.small], codes[self.large]
        sum_SX = own_NX.new_zeros(len(self.parent_S), own_NX.shape[1])
        for pairs in slices(len(self.child_Q)):
            sum_SX.index_add_(0, self.owner_Q[pairs], theirs_LX[self.child_Q[pairs]] * self.weight_Q[pairs, None])
        for pairs in slices(len(self.parent_S)):
            self._sums.add(own_NX[self.parent_S[pairs]], sum_SX[pairs], pairs)
        self.counts[0].add(fires[self.a], fires[self.b])
        self.counts[1].add(fires[self.b], fires[self.a])


def pair_of(sides: Sequence[Compared], a: int, b: int, threshold: float, candidates: int) -> Pair:
    """What the directions say of two dictionaries; so many `candidates` for absorbers are looked for."""
    A_ND, B_LD = sides[a].directions_ND, sides[b].directions_ND
    there, back = nearest(A_ND, B_LD), nearest(B_LD, A_ND)
    f_P, g_P, cosine_P = _candidates(A_ND, B_LD, there[0], back[0], threshold)
    small, large = (a, b) if len(A_ND) <= len(B_LD) else (b, a)
    above = back if small == a else there  # of the larger one's features in the smaller
    splits = _split(above, len(sides[small].directions_ND)) if len(A_ND) != len(B_LD) else _split_of_none()
    near = (_near(B_LD[g_P], A_ND, f_P, candidates), _near(A_ND[f_P], B_LD, g_P, candidates))
    return Pair(a, b, small, large, f_P, g_P, cosine_P, *splits, near)


def ranked(correlation_P: Tensor, cosine_P: Tensor) -> list[int]:
    """Places by correlation, those without one last, then by cosine, largest first; in order where these are equal."""
    known_P, nearest_P = correlation_P.nan_to_num(-2.0).tolist(), cosine_P.tolist()
    return sorted(range(len(known_P)), key=lambda place: (-known_P[place], -nearest_P[place]))


def watch(sides: Sequence[Compared], pairs: Sequence[Pair], rows: Rows, limit: int) -> tuple[int, list[Tensor]]:
    """Show the pairs the codes of up to `limit` rows; gives how many there were, and each feature's firings."""
    opened = [side.open() for side in sides]
    fired = [torch.zeros(side.width, dtype=torch.int64) for side in sides]
    seen = 0
    for x_XD in blocks_of(rows, limit, "codes"):
        seen += len(x_XD)
        with torch.inference_mode(), full_rate_products(x_XD.device):
            codes = [dictionary.encode(x_XD.cpu()).T.contiguous() for dictionary in opened]
        fires = [codes_NX != 0 for codes_NX in codes]
        for count_N, fires_NX in zip(fired, fires, strict=True):
            count_N += fires_NX.sum(dim=1)
        for pair in pairs:
            pair.add(codes, fires)
    return seen, fired


def _candidates(
    A_ND: Tensor, B_LD: Tensor, best_N: Tensor, best_L: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs `f_P`, `g_P` and their `cosine_P`: the threshold or more, and nearer than TIE below the best of both."""
    near_F, near_G = torch.where(best_N >= threshold)[0], torch.where(best_L >= threshold)[0]
    found = [(near_F[:0], near_G[:0], best_N[:0])]
    if len(near_F) and len(near_G):
        for rows, columns, cosines_BC in cosine_blocks(A_ND[near_F], B_LD[near_G], "twins"):
            f_B, g_C = near_F[rows], near_G[columns]
            least_BC = torch.maximum(best_N[f_B][:, None], best_L[g_C]) - TIE
            at_B, at_C = torch.where((cosines_BC > least_BC) & (cosines_BC >= threshold))
            found.append((f_B[at_B], g_C[at_C], cosines_BC[at_B, at_C].clamp_max(1)))
    f_P, g_P, cosine_P = (torch.cat(each) for each in zip(*found, strict=True))
    return f_P, g_P, cosine_P


def _split(above: tuple[Tensor, Tensor], width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parents that have two children or more, and these children."""
    cosine_L, parent_L = above
    child_L = torch.where(cosine_L >= SPLIT)[0]
    count_N = torch.bincount(parent_L[child_L], minlength=width)
    parent_S = torch.where(count_N >= 2)[0]
    place_N = torch.full((width,), -1)
    place_N[parent_S] = torch.arange(len(parent_S))
    child_Q = child_L[place_N[parent_L[child_L]] >= 0]
    return parent_S, place_N[parent_L[child_Q]], child_Q, cosine_L[child_Q]


def _split_of_none() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Dictionaries of one width: nothing splits."""
    none = torch.zeros(0, dtype=torch.int64)
    return none, none, none, torch.zeros(0)


def _near(twins_PD: Tensor, own_ND: Tensor, self_P: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The features nearest to each twin in the other dictionary, but for the feature itself: `h_PK`, `cosine_PK`."""
    k = min(k, len(own_ND) - 1)
    best_PK, at_PK = torch.full((len(twins_PD), k), -2.0), torch.zeros(len(twins_PD), k, dtype=torch.int64)
    if not len(twins_PD) or not k:
        return at_PK, best_PK
    for rows, columns, cosines_BC in cosine_blocks(twins_PD, own_ND, "near twins"):
        own_B = self_P[rows] - columns.start
        here_B = torch.where((own_B >= 0) & (own_B < cosines_BC.shape[1]))[0]
        cosines_BC[here_B, own_B[here_B]] = -2
        block = cosines_BC.topk(min(k, cosines_BC.shape[1]), dim=1)
        merged_BM = torch.cat([best_PK[rows], block.values], dim=1)
        places_BM = torch.cat([at_PK[rows], block.indices + columns.start], dim=1)
        best_PK[rows], order_BK = merged_BM.topk(k, dim=1)
        at_PK[rows] = places_BM.gather(1, order_BK)
    return at_PK, best_PK

"""One-to-one matching of two sets of directions: no partner is shared, so copies gain nothing.

The assignment of directions to directions with the largest total cosine; its mean is the MCC. Small problems: the
Hungarian method on all cosines, exact. Large ones, where all cosines do not fit in memory: each row keeps its k nearest
columns as candidates, and a way out that pays as much as the k-th of them, so at least what any other column could pay.
The sparse problem so made is solved exactly (LAPJVsp). It relaxes the full one, so its value bounds the optimum
from above. Rows that took the way out are matched among the columns that are left. The gap between the bound and what
was reached is stated, and is 0 up to rounding where no row took the way out.

Shapes: N and L directions (N ≤ L inside), P = min(N, L) pairs, K candidates a row, R rows left over, D = d_in.
Sources: Jonker & Volgenant 1987 (LAPJV) through SciPy; MCC: SCIENCE.md §3. Left out: dual prices, which the bound does
not need; candidates of columns, and more candidates for the rows left over, which hardly narrowed the gap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from monosemy.metrics.recovery import cosine_blocks

CANDIDATES = 64  # per row
LEFT_OVER = 4096  # what no candidate fits is matched exactly within groups of about this many
ROUNDING = 1e-7  # the way out pays this much less, so that a column of equal worth is taken first


@dataclass(frozen=True)
class Matching:
    """A one-to-one assignment: row `rows_P[p]` of R goes with row `columns_P[p]` of L, at cosine `cosines_P[p]`.

    `bound`: no assignment has a larger mean cosine than this (up to rounding of the cosines, 1e-6).
    """

    rows_P: torch.Tensor
    columns_P: torch.Tensor
    cosines_P: torch.Tensor
    bound: float

    @property
    def mcc(self) -> float:
        """Mean cosine of the matched pairs."""
        return _mean(self.cosines_P)

    @property
    def gap(self) -> float:
        """The optimal mean cosine is at most this much above `mcc`; 0: this is the optimum."""
        return max(0.0, self.bound - self.mcc)


def one_to_one(reference_ND: torch.Tensor, other_LD: torch.Tensor, exact_up_to: int = 20_000) -> Matching:
    """The one-to-one matching of largest total cosine; min(N, L) pairs on the CPU, ordered by the reference row.

    Exact while N·L ≤ exact_up_to²; SciPy solves in float64, so the default takes up to 3.2 GB there. Beyond, sparse:
    `gap` says how far from the optimum it can be. Raises UsageError as `mcs`.
    """
    turned = len(reference_ND) > len(other_LD)
    few_ND, many_LD = (other_LD, reference_ND) if turned else (reference_ND, other_LD)
    exact = len(few_ND) * len(many_LD) <= exact_up_to**2
    columns_N, cosines_N, bound = _hungarian(few_ND, many_LD) if exact else _sparse(few_ND, many_LD)
    if not turned:
        return Matching(torch.arange(len(few_ND)), columns_N, cosines_N, bound)
    order = columns_N.argsort()
    return Matching(columns_N[order], order, cosines_N[order], bound)


def exclusive_mmcs(truth_GD: torch.Tensor, learned_ND: torch.Tensor) -> float:
    """MMCS in which each direction counts once: Σ of the cosines matched one-to-one / max(G, N).

    1 only when there are as many learned directions as true ones and each true feature has its own. Every direction
    beyond, a copy or not, lowers it as a missed feature does. Learned directions of length 0 are not counted in N.
    """
    alive_AD = learned_ND[learned_ND.norm(dim=1) > 0]
    if not len(alive_AD):
        return 0.0
    return math.fsum(one_to_one(truth_GD, alive_AD).cosines_P.tolist()) / max(len(truth_GD), len(alive_AD))


def _hungarian(few_ND: torch.Tensor, many_LD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Columns, cosines, and the mean cosine, which is the optimum."""
    from scipy.optimize import linear_sum_assignment

    costs_NL = torch.empty(len(few_ND), len(many_LD), dtype=torch.float64)
    for rows, columns, cosines_BC in cosine_blocks(few_ND, many_LD, "cosines"):
        costs_NL[rows, columns] = -cosines_BC.cpu()  # SciPy would copy everything to maximise
    columns_N = torch.as_tensor(linear_sum_assignment(costs_NL.numpy())[1])
    cosines_N = -costs_NL.gather(1, columns_N[:, None])[:, 0].float().clamp(min=-1)
    return columns_N, cosines_N, _mean(cosines_N)


def _sparse(few_ND: torch.Tensor, many_LD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Columns, cosines, and a bound on the optimal mean cosine."""
    wide = len(many_LD)
    best_NK, at_NK = _candidates(few_ND, many_LD, min(CANDIDATES, wide))
    columns_N, paid_N = _solve(best_NK, at_NK, wide)
    bound = _mean(paid_N) + ROUNDING
    without = torch.where(columns_N >= wide)[0]
    if len(without):
        columns_N[without], cosines_R = _left_over(few_ND, many_LD, without, columns_N)
        paid_N[without] = cosines_R.double()
    return columns_N, paid_N.float(), bound


def _candidates(few_RD: torch.Tensor, many_LD: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest cosines of each row, largest first, and their columns: `best_RK`, `at_RK`."""
    best_RK = torch.full((len(few_RD), k), -2.0)
    at_RK = torch.zeros(len(few_RD), k, dtype=torch.int64)
    for rows, columns, cosines_BC in cosine_blocks(few_RD, many_LD, "candidates"):
        block = cosines_BC.topk(min(k, cosines_BC.shape[1]), dim=1)
        merged_BM = torch.cat([best_RK[rows], block.values.float().cpu()], dim=1)
        places_BM = torch.cat([at_RK[rows], block.indices.cpu() + columns.start], dim=1)
        best_RK[rows], chosen_BK = merged_BM.topk(k, dim=1)
        at_RK[rows] = places_BM.gather(1, chosen_BK)
    return best_RK.clamp_(max=1), at_RK


def _solve(best_NK: torch.Tensor, at_NK: torch.Tensor, wide: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best choice of a candidate or the way out for every row: its column (at least `wide`: out), and its pay."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, k = best_NK.shape
    own_N1 = torch.arange(n)[:, None]
    rows, columns = own_N1.repeat_interleave(k + 1), torch.cat([at_NK, wide + own_N1], dim=1).flatten()
    pay_NK = best_NK.double()
    costs = 2 - torch.cat([pay_NK, pay_NK[:, -1:] - ROUNDING], dim=1).flatten()  # above 0: a weight of 0 is no edge
    graph = csr_array((costs.numpy(), (rows.numpy(), columns.numpy())), shape=(n, wide + n))
    chosen_rows, chosen_columns = min_weight_full_bipartite_matching(graph)
    paid = 2 - graph[chosen_rows, chosen_columns]
    return torch.tensor(chosen_columns, dtype=torch.int64), torch.tensor(paid)


def _left_over(
    few_ND: torch.Tensor, many_LD: torch.Tensor, without: torch.Tensor, columns_N: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns nobody has, and their cosines, for the rows without one: exact within groups, arbitrary between them."""
    free_L = torch.ones(len(many_LD), dtype=torch.bool)
    free_L[columns_N[columns_N < len(many_LD)]] = False
    free = torch.where(free_L)[0]
    groups = math.ceil(math.sqrt(len(without) * len(free)) / LEFT_OVER)
    columns, cosines = [], []
    for rows, places in zip(without.tensor_split(groups), free.tensor_split(groups), strict=True):
        found, cosine, _ = _hungarian(few_ND[rows.to(few_ND.device)], many_LD[places.to(many_LD.device)])
        columns.append(places[found])
        cosines.append(cosine)
    return torch.cat(columns), torch.cat(cosines)


def _mean(cosines: torch.Tensor) -> float:
    """Summed exactly, so that the order of the pairs does not matter."""
    return math.fsum(cosines.tolist()) / len(cosines)

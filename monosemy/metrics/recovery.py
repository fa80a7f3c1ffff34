"""Which features two dictionaries share, by the cosines of their directions; sharing a partner is allowed here.

MCS: for each direction of a reference R, the largest cosine with any direction of L. MMCS(R, L): their mean (S4).
Against known truth the truth is R; between dictionaries R is the smaller one. MMCS does not see copies: a dictionary
with every true feature ten times over scores 1. Uniqueness and redundancy do, and so does the one-to-one matching of
`matching.py`.

Cosines are computed a block at a time, and each block of directions is normalised when its turn comes: 131,072 against
131,072 at D = 768 needs, beside the two inputs (0.4 GB each, less when they are mapped from files), one block of
cosines (64 MB) and two of directions.

Shapes: N and L directions, B and C those of a block, G true features, D = d_in. Sources: SCIENCE.md §3; S4 (MMCS),
S1 (MCS).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from monosemy.runtime import Progress, UsageError, full_rate_products

BLOCK = 4096  # cosines are computed BLOCK × BLOCK at a time
RECOVERED = 0.9  # a true feature counts as recovered where its MCS is above this
SHARED = 0.95  # a feature counts as the same in two dictionaries where their cosine is above this


def mcs(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> torch.Tensor:
    """Largest cosine of each reference direction with any other direction: `mcs_N` in [−1, 1].

    A direction of length 0 has cosine 0 with everything. Raises UsageError where there is no other direction, or where
    the two differ in D.
    """
    best_N = _filled(reference_ND, other_LD)
    for rows, _, cosines_BC in cosine_blocks(reference_ND, other_LD, "MCS"):
        best_N[rows] = torch.maximum(best_N[rows], cosines_BC.amax(dim=1))
    return best_N.clamp_(max=1)


def nearest(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`mcs_N`, and `index_N`: which other direction it was; the first of those that are equally near.

    As `mcs`, a little slower.
    """
    best_N = _filled(reference_ND, other_LD)
    index_N = torch.zeros(len(best_N), dtype=torch.int64, device=best_N.device)
    for rows, columns, cosines_BC in cosine_blocks(reference_ND, other_LD, "nearest"):
        block_B, at_B = cosines_BC.max(dim=1)
        index_N[rows] = torch.where(block_B > best_N[rows], at_B + columns.start, index_N[rows])
        best_N[rows] = torch.maximum(best_N[rows], block_B)
    return best_N.clamp_(max=1), index_N


def mmcs(a_ND: torch.Tensor, b_LD: torch.Tensor) -> float:
    """Mean MCS between two dictionaries; the smaller one is the reference (the first, where they are equal)."""
    reference, other = (a_ND, b_LD) if len(a_ND) <= len(b_LD) else (b_LD, a_ND)
    return float(mcs(reference, other).mean())


def mmcs_to_truth(truth_GD: torch.Tensor, learned_ND: torch.Tensor) -> float:
    """Mean over the true features of the largest cosine with any learned one."""
    return float(mcs(truth_GD, learned_ND).mean())


def uniqueness(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> float:
    """Share of the reference directions' nearest others that are distinct: 1 when no two have the same nearest.

    With the learned directions as the reference and the truth as the other, copies lower it.
    """
    return len(torch.unique(nearest(reference_ND, other_LD)[1])) / len(reference_ND)


def redundancy(truth_GD: torch.Tensor, learned_ND: torch.Tensor, threshold: float = RECOVERED) -> float | None:
    """Learned copies per true feature: 1 when no true feature is learned twice; None when none is learned.

    A learned feature is a copy of the true feature nearest to it, if their cosine is above the threshold. The mean is
    over the true features that have a copy.
    """
    cosine_N, truth_N = nearest(learned_ND, truth_GD)
    copied = truth_N[cosine_N > threshold]
    return len(copied) / len(torch.unique(copied)) if len(copied) else None


def shared(a_ND: torch.Tensor, b_LD: torch.Tensor, threshold: float = SHARED) -> int:
    """How many directions the two have in common: pairs that are each other's nearest, at a cosine above the threshold.

    Copies count once. 0 where either has no directions.
    """
    if not len(a_ND) or not len(b_LD):
        return 0
    cosine_N, there_N = nearest(a_ND, b_LD)
    _, back_L = nearest(b_LD, a_ND)
    mutual_N = back_L[there_N] == torch.arange(len(a_ND), device=back_L.device)
    return int((mutual_N & (cosine_N > threshold)).sum())


def cosine_blocks(
    reference_ND: torch.Tensor, other_LD: torch.Tensor, label: str
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Every cosine once: the rows and the columns of a block, and `cosines_BC`, in a buffer that the next one reuses.

    Blocks come row by row. `label` names the progress bar.
    """
    dtype = _check(reference_ND, other_LD)
    n, wide = len(reference_ND), len(other_LD)
    buffer = torch.empty(min(n, BLOCK) * min(wide, BLOCK), dtype=dtype, device=reference_ND.device)
    with Progress(label, n, unit="directions") as bar:
        for rows in _slices(n):
            reference_BD = unit(reference_ND[rows].to(dtype))
            for columns in _slices(wide):
                other_CD = unit(other_LD[columns].to(dtype))
                shape = len(reference_BD), len(other_CD)
                cosines_BC = buffer[: shape[0] * shape[1]].view(shape)
                with full_rate_products(reference_ND.device):
                    torch.mm(reference_BD, other_CD.T, out=cosines_BC)
                yield rows, columns, cosines_BC
                bar.advance(shape[0] * shape[1] / wide)


def unit(directions_ND: torch.Tensor) -> torch.Tensor:
    """The directions at length 1; one of length 0 stays 0."""
    norm_N1: torch.Tensor = directions_ND.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return directions_ND / norm_N1


def _slices(total: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK))


def _filled(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> torch.Tensor:
    """Below every cosine, so that the first block replaces it even where rounding takes a cosine below −1."""
    return torch.full((len(reference_ND),), -2.0, dtype=_check(reference_ND, other_LD), device=reference_ND.device)


def _check(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> torch.dtype:
    """The dtype of the cosines: that of the inputs, at least fp32."""
    if reference_ND.shape[1] != other_LD.shape[1]:
        raise UsageError(
            f"directions of `d_in` {reference_ND.shape[1]} and {other_LD.shape[1]} have no cosine: compare "
            "dictionaries of one site"
        )
    if not len(other_LD):
        raise UsageError("there is no direction to compare with (0 rows): give at least one")
    return torch.promote_types(torch.promote_types(reference_ND.dtype, other_LD.dtype), torch.float32)

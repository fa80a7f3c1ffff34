"""Which features two dictionaries share, by the cosines of their directions.

MCS: for each direction of a reference R, the largest cosine with any direction of L. MMCS(R, L): their mean (S4).
Against known truth the truth is R; between dictionaries R is the smaller one. One-to-one: the assignment of directions
to directions that has the largest total cosine (Hungarian method); its mean is MCC.

Shapes: N and L directions, D = d_in. Sources: SCIENCE.md §3; S4 (MMCS), S1 (MCS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

BLOCK = 4096  # cosines are computed BLOCK × BLOCK at a time


def mcs(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> torch.Tensor:
    """Largest cosine of each reference direction with any other direction: `mcs_N` in [−1, 1].

    A direction of length 0 has cosine 0 with everything. Memory: one block of cosines, whatever N and L.
    """
    reference_ND, other_LD = _unit(reference_ND), _unit(other_LD)
    blocks = []
    for reference_BD in torch.split(reference_ND, BLOCK):
        best_B = reference_BD.new_full((len(reference_BD),), -1.0)
        for other_BD in torch.split(other_LD, BLOCK):
            best_B = torch.maximum(best_B, (reference_BD @ other_BD.T).amax(dim=1))
        blocks.append(best_B)
    return torch.cat(blocks)


def mmcs(a_ND: torch.Tensor, b_LD: torch.Tensor) -> float:
    """Mean MCS between two dictionaries; the smaller one is the reference (the first, where they are equal)."""
    reference, other = (a_ND, b_LD) if len(a_ND) <= len(b_LD) else (b_LD, a_ND)
    return float(mcs(reference, other).mean())


def mmcs_to_truth(truth_GD: torch.Tensor, learned_ND: torch.Tensor) -> float:
    """Mean over the true features of the largest cosine with any learned one."""
    return float(mcs(truth_GD, learned_ND).mean())


@dataclass(frozen=True)
class Matching:
    """A one-to-one assignment: row `rows_P[p]` of R goes with row `columns_P[p]` of L, at cosine `cosines_P[p]`."""

    rows_P: torch.Tensor
    columns_P: torch.Tensor
    cosines_P: torch.Tensor

    @property
    def mcc(self) -> float:
        """Mean cosine of the matched pairs."""
        return float(self.cosines_P.mean())


def one_to_one(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> Matching:
    """The one-to-one matching of largest total cosine; min(N, L) pairs, ordered by the reference row."""
    from scipy.optimize import linear_sum_assignment

    cosines_NL = (_unit(reference_ND) @ _unit(other_LD).T).double().cpu()
    rows, columns = (torch.as_tensor(side) for side in linear_sum_assignment(cosines_NL.numpy(), maximize=True))
    return Matching(rows, columns, cosines_NL[rows, columns].float())


def uniqueness(reference_ND: torch.Tensor, other_LD: torch.Tensor) -> float:
    """Share of the reference directions' nearest others that are distinct: 1 when no two have the same nearest."""
    nearest_N = (_unit(reference_ND) @ _unit(other_LD).T).argmax(dim=1)
    return len(set(nearest_N.tolist())) / len(nearest_N)


def _unit(directions_ND: torch.Tensor) -> torch.Tensor:
    norm_N1: torch.Tensor = directions_ND.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return directions_ND / norm_N1

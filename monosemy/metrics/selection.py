"""Which dictionary of a grid to look at first.

Features that a second seed finds again are the ones to trust (S1's MCS), but a dictionary that drops most of the
activation agrees with its twin for little. So: among the members whose spliced-in reconstruction keeps at least
KEEP of the cross-entropy (of the explained variance, where no model was at hand), the one whose directions agree best
with the other seed's; ties and grids of one seed go to the sparser one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

KEEP = 0.9
NEAR = 0.05  # where none keeps that much: how far below the best is still good


def choose(scores: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The chosen member's number and the reason, in words. `scores` are rows of `evaluate`, at least one."""
    kept = "ce_recovered" if any(row["ce_recovered"] is not None for row in scores) else "explained_variance"
    best_kept = max(_value(row, kept) for row in scores)
    floor = KEEP if best_kept >= KEEP else best_kept - NEAR
    good = [row for row in scores if _value(row, kept) >= floor]
    best = max(good, key=lambda row: (_value(row, "mmcs_other_seed"), -row["l0"]))
    agreement = best["mmcs_other_seed"]
    which = f"with {kept} ≥ {floor:.2f}" + ("" if floor == KEEP else f" (none reaches {KEEP})")
    why = (
        f"the one whose features agree best with another seed's (MMCS {agreement:.3f})"
        if agreement is not None
        else "the one with the lowest L0"
    )
    return int(best["member"]), f"of the {len(good)} {which}, {why}"


def _value(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    return float("-inf") if value is None else float(value)

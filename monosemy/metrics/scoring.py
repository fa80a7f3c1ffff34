"""Scores of dictionaries side by side: how well each rebuilds held-out rows, and which features they share.

Both take dictionaries that are in memory; `evaluate.py` writes them down. Undefined scores are None, never 0.
Shapes: B rows, D = d_in, E = d_out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monosemy.data.source import AnySource, held_out_pairs, n_held_out, widths_of
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.fidelity import Fidelity
from monosemy.metrics.recovery import mmcs, shared
from monosemy.runtime import Progress

BATCH = 4096
SETTING = ("variant", "l1", "k", "noise")  # what a dictionary shares with the larger ones it is compared with


def fidelity_of(
    dictionaries: Sequence[Dictionary], source: AnySource, limit: int, device: torch.device
) -> list[Fidelity]:
    """One pass over up to `limit` held-out rows; site by site as well where a row is made of several."""
    collectors = [Fidelity(dictionary, widths_of(source)) for dictionary in dictionaries]
    total = n_held_out(source, limit)
    with Progress("fidelity", total, unit="rows") as bar:
        for x_BD, target_BE in held_out_pairs(source, BATCH, total):
            for collector in collectors:
                collector.add(x_BD.to(device), target_BE.to(device))
            bar.advance(len(x_BD))
    return collectors


def agreement_of(
    members: Sequence[Mapping[str, Any]], dictionaries: Sequence[Dictionary], alive: Sequence[torch.Tensor]
) -> list[dict[str, float | None]]:
    """MMCS with larger dictionaries of the same setting (S4), and with the same dictionary from other seeds.

    `mmcs_with_larger` compares all features, as S4 does. `shared_with_next` counts the features that the next larger
    width has too: pairs of live features (`alive[i]` is a mask [N]) that are each other's nearest at a cosine above
    SHARED. Directions that training has never moved are no evidence, copies count once, and much larger widths may want
    another L1 (in the interim convention they do).
    """
    directions = [dictionary.W_dec_ND for dictionary in dictionaries]
    living = [W_ND[mask_N] for W_ND, mask_N in zip(directions, alive, strict=True)]
    rows: list[dict[str, float | None]] = []
    with Progress("compare", len(members), unit="dictionaries") as bar:
        for number, mine in enumerate(members):
            sound = [other for other, row in enumerate(members) if other == number or not row.get("failure")]
            same = [other for other in sound if all(members[other].get(n) == mine.get(n) for n in SETTING)]
            larger = [other for other in same if members[other]["width"] > mine["width"]]
            least = min((members[other]["width"] for other in larger), default=0)
            following = [other for other in larger if members[other]["width"] == least]
            twins = [
                other
                for other in same
                if all(members[other].get(name) == mine.get(name) for name in ("width", "lr"))
                and members[other]["seed"] != mine["seed"]
            ]
            rows.append(
                {
                    "mmcs_with_larger": _mean_mmcs(directions, number, larger),
                    "shared_with_next": _mean_shared(living, number, following),
                    "mmcs_other_seed": _mean_mmcs(directions, number, twins),
                }
            )
            bar.advance()
    return rows


def _mean_mmcs(directions: Sequence[torch.Tensor], number: int, others: Sequence[int]) -> float | None:
    mine = directions[number]
    found = [mmcs(mine, directions[other]) for other in others if len(mine) and len(directions[other])]
    return sum(found) / len(found) if found else None


def _mean_shared(directions: Sequence[torch.Tensor], number: int, others: Sequence[int]) -> float | None:
    found = [shared(directions[number], directions[other]) for other in others]
    return sum(found) / len(found) if found else None


def defined(value: Any) -> Any:
    """The score itself, or None for what overflowed: a member whose training failed can give any numbers."""
    if isinstance(value, list):
        return [defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

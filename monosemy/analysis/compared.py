"""Dictionaries side by side: what each is called, its directions, and the dictionary itself, read when it is needed.

Shapes: N = width, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.runtime import UsageError

Grid = str | Path | DictionaryStore
Given = Dictionary | tuple[Grid, int]
"""A dictionary, or a grid and which of its members."""


@dataclass(frozen=True)
class Compared:
    """One of the dictionaries that are compared."""

    label: str
    directions_ND: torch.Tensor
    """Its decoder, memory-mapped where it lies in a grid."""
    open: Callable[[], Dictionary]

    @property
    def width(self) -> int:
        """N."""
        return len(self.directions_ND)


def compared(given: Grid | Sequence[Given], members: Sequence[int] | None = None) -> list[Compared]:
    """The members of a grid (all of them by default), or each of several dictionaries.

    Raises UsageError for no dictionary, a member that is not there, or dictionaries that write rows of unequal width.
    """
    if isinstance(given, str | Path | DictionaryStore):
        grid = DictionaryStore.open(given)
        chosen: Sequence[Given] = [(grid, member) for member in (range(len(grid)) if members is None else members)]
    elif members is not None:
        raise UsageError("`members` chooses from one grid; of a list, give those that are meant")
    else:
        chosen = given
    if not chosen:
        raise UsageError("there is no dictionary to compare: give at least one")
    sides = [_side(each, number) for number, each in enumerate(chosen)]
    wide = {side.directions_ND.shape[1] for side in sides}
    if len(wide) > 1:
        raise UsageError(f"dictionaries of `d_out` {sorted(wide)} cannot be compared; give dictionaries of one site")
    return sides


def _side(given: Given, number: int) -> Compared:
    if isinstance(given, Dictionary):
        return Compared(f"dictionary {number} (width {given.width})", given.W_dec_ND, lambda: given)
    grid, member = DictionaryStore.open(given[0]), given[1]
    directions_ND = grid.directions(member)
    seed = grid.members[member].get("seed")
    named = f"member {member} (width {len(directions_ND)}{'' if seed is None else f', seed {seed}'})"
    return Compared(named, directions_ND, lambda: grid.dictionary(member))

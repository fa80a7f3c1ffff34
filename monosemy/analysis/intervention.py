"""Changing a feature while the model runs: add it, clamp it, remove it.

    add     x + amount · W_dec           clamp   x + (amount − c) · W_dec           remove   clamp to 0

c is the feature's code of the x at hand, so what the dictionary does not explain of x stays as it is. A transcoder's
code is read at its site and the change is made where it writes. Every position is changed, but a BOS that the
dictionary never saw.

Shapes: B rows, C positions of a pass, D = width read, E = width written, F different features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from monosemy.analysis.lab import Batch, Lab

How = Literal["add", "clamp", "remove"]
HOWS = ("add", "clamp", "remove")
Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Change:
    """What is done to a feature; `amount` is in the feature's own units, those of its code."""

    feature: int
    how: How
    amount: float = 0.0


class Intervention:
    """One change a row of a batch; None leaves the row alone. `edits` gives what a pass over some ids needs."""

    def __init__(self, lab: Lab, changes: Sequence[Change | None]) -> None:
        self._lab, device = lab, lab.model.device
        numbers = [0 if change is None else lab.checked(change.feature) for change in changes]
        self._features = sorted(set(numbers))
        self._own_B = torch.tensor([self._features.index(number) for number in numbers], device=device)
        self._amount_B = torch.tensor([_amount(change) for change in changes], device=device)
        self._replaced_B = torch.tensor([change is not None and change.how != "add" for change in changes])
        self._changed_B = torch.tensor([change is not None for change in changes])
        self._direction_BE = lab.dictionary.W_dec_ND[torch.tensor(numbers, device=device)].float()

    def edits(self, ids_BC: torch.Tensor) -> Mapping[str, Edit]:
        """The edits of a pass over these ids, by site."""
        lab = self._lab
        counts_BC = lab.counts(Batch(ids_BC, torch.ones_like(ids_BC, dtype=torch.bool)))
        where_BC = (counts_BC & self._changed_B[:, None].to(counts_BC.device)).to(lab.model.device)
        shifts: list[torch.Tensor] = []

        def read(x_BCD: torch.Tensor) -> torch.Tensor:
            shifts.append(self._shift(x_BCD) * where_BC)
            return x_BCD

        def write(x_BCE: torch.Tensor) -> torch.Tensor:
            new_BCE = x_BCE.float() + shifts[-1][:, :, None] * self._direction_BE[:, None]
            return torch.where(where_BC[:, :, None], new_BCE.to(x_BCE), x_BCE)

        if lab.written_site == lab.site:
            return {lab.site: lambda x_BCD: write(read(x_BCD))}
        return {lab.site: read, lab.written_site: write}

    def _shift(self, x_BCD: torch.Tensor) -> torch.Tensor:
        """How much of its direction each position gets, `shift_BC`."""
        amount_BC = self._amount_B[:, None].expand(x_BCD.shape[:2])
        if not bool(self._replaced_B.any()):
            return amount_BC
        codes_BCF = self._lab.encode(x_BCD.float().flatten(0, 1), self._features).view(*x_BCD.shape[:2], -1)
        own_BC = codes_BCF.gather(2, self._own_B[:, None, None].expand(*x_BCD.shape[:2], 1))[:, :, 0]
        return amount_BC - own_BC * self._replaced_B[:, None].to(own_BC.device)


def _amount(change: Change | None) -> float:
    return 0.0 if change is None or change.how == "remove" else change.amount

"""What a vocabulary scan gives: what every token does to a feature, and those that do most (see `vocabulary.py`).

Shapes: V tokens looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from monosemy.analysis.chart import Bars, Chart, Curve, Histogram
from monosemy.analysis.result import Result, Table

Where = Literal["append", "prepend", "replace", "alone"]

UNCHANGED = 1e-4
CURVE_POINTS, BARS, BINS = 1000, 12, 40


@dataclass(frozen=True)
class ScannedToken:
    """One token of the vocabulary and what it does."""

    id: int
    text: str
    value: float
    """f(prompt with it)[last]."""
    change: float
    """Value minus base."""


@dataclass(frozen=True)
class VocabularyScan(Result):
    """What every token does. A scan that is still running gives these for the tokens done so far."""

    name: ClassVar[str] = "vocabulary"
    feature: int
    where: Where
    prompt: Sequence[str]
    """Texts of the prompt's tokens; empty for "alone"."""
    place: int
    """Where the token stands in its row, from 0; BOS counts."""
    base: float
    """f(prompt)[last]; 0 for "alone"."""
    ids_V: torch.Tensor
    value_V: torch.Tensor
    """f(prompt with the token)[last]."""
    texts_V: Sequence[str]
    increasing: Sequence[ScannedToken]
    """Those that raise it most, the most first."""
    decreasing: Sequence[ScannedToken]
    """Those that lower it most, the most first."""
    strongest: Sequence[ScannedToken]
    """Those with the largest values, whatever the base: with which of them it fires, the strongest first."""
    n_increase: int
    n_decrease: int
    n_unchanged: int
    """Changed by less than UNCHANGED of the largest code seen."""
    n_fires: int
    """Tokens with which it fires, beyond UNCHANGED of the largest code seen."""
    n_tokens: int
    """Tokens to look at in all; more than V while the scan runs."""
    n_implausible: int
    """Tokens left out, being less probable than `plausible`."""
    plausible: float | None

    @property
    def change_V(self) -> torch.Tensor:
        """Value minus base."""
        return self.value_V - self.base

    def summary(self) -> str:
        """The counts as a sentence."""
        left = (
            "" if self.plausible is None else f"; {self.n_implausible} less probable than {self.plausible:g} left out"
        )
        return (
            f"{self.n_increase} tokens increase feature {self.feature}, {self.n_decrease} decrease it, "
            f"{self.n_unchanged} leave it unchanged ({len(self.ids_V)} of {self.n_tokens} looked at{left}); it fires "
            f"with {self.n_fires}{self._most()}"
        )

    def _most(self) -> str:
        first = [f"{token.text!r} ({token.value:.3g})" for token in self.strongest[:3]]
        return f", most with {', '.join(first)}" if first else ""

    def table(self) -> Table:
        """A row a token: id, text, value, change, most increasing first."""
        order_V = self.change_V.argsort(descending=True, stable=True).tolist()
        ids, values, changes = self.ids_V.tolist(), self.value_V.tolist(), self.change_V.tolist()
        return Table(
            ["id", "token", "value", "change"], [[ids[v], self.texts_V[v], values[v], changes[v]] for v in order_V]
        )

    def charts(self) -> list[Chart]:
        """Sorted changes, the most extreme tokens, those of the largest values, and the histogram of values."""
        where = {"append": "after the prompt", "prepend": "before the prompt", "alone": "alone"}.get(
            self.where, f"in place of token {self.place} of the prompt"
        )
        changed = "change of the code at the last token"
        ordered_V = self.change_V.sort(descending=True).values
        shown = torch.linspace(0, len(ordered_V) - 1, min(CURVE_POINTS, len(ordered_V))).round().long()
        extremes = [*self.increasing[:BARS], *reversed(self.decreasing[:BARS])]
        counts, edges = _histogram(self.value_V)
        return [
            Chart(
                "changes", f"Every token {where}: change of feature {self.feature}", "tokens, sorted", changed,
                [Curve((shown + 1).tolist(), ordered_V[shown].tolist())],
            ),
            Chart(
                "extremes", f"Tokens {where} that change feature {self.feature} most", "token", changed,
                [Bars([token.text for token in extremes], [token.change for token in extremes])],
            ),
            Chart(
                "strongest", f"Tokens {where} with which feature {self.feature} is strongest", "token",
                "code at the last token", [self._strongest_bars()],
            ),
            Chart(
                "values", f"Feature {self.feature} with each token {where}", "code at the last token", "tokens",
                [Histogram(edges, counts)], log_y=True,
            ),
        ]  # fmt: skip

    def _strongest_bars(self) -> Bars:
        first = self.strongest[:BARS]
        return Bars([token.text for token in first], [token.value for token in first])


def _histogram(value_V: torch.Tensor) -> tuple[list[int], list[float]]:
    low, high = float(value_V.min()), float(value_V.max())
    edges = torch.linspace(low, high if high > low else low + 1.0, BINS + 1)
    return value_V.histc(BINS, low, float(edges[-1])).int().tolist(), edges.tolist()

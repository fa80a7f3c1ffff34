"""Context ablation: which tokens of a prompt a feature needs at its end (SCIENCE.md §5).

    Δ_i = f(tokens without i)[last] − f(tokens)[last]

The token is really taken out, so that what follows moves one place forward, and the model runs again. Not defined for
the last token, at which the feature is read, and for a BOS, without which the model was not trained: None there.
Source: S1. Left out: pairs of tokens.

Shapes: C tokens, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from monosemy.analysis.chart import Bars, Chart
from monosemy.analysis.lab import Lab, Prompt, padded
from monosemy.analysis.result import Result, Table
from monosemy.runtime import Progress, in_batches

# Tokens of a forward pass, by kind of device.
TOKENS_AT_ONCE = {"cpu": 2**12, "cuda": 2**16}


@dataclass(frozen=True)
class ContextAblation(Result):
    """What leaving out each token does to the feature at the last one."""

    name: ClassVar[str] = "context"
    feature: int
    base: float
    """f(tokens)[last]."""
    ids: Sequence[int]
    tokens: Sequence[str]
    change: Sequence[float | None]
    """Δ_i; None where it is not defined (the last token, and BOS)."""

    def table(self) -> Table:
        """A row a token."""
        rows = list(zip(range(len(self.ids)), self.ids, self.tokens, self.change, strict=True))
        return Table(["position", "id", "token", "change"], rows)

    def charts(self) -> list[Chart]:
        """A bar a token."""
        title = f"feature {self.feature}: code at the last token is {self.base:.3g}"
        return [Chart("changes", title, "token left out", "change of that code", [Bars(self.tokens, self.change)])]


def context_ablation(lab: Lab, feature: int, prompt: Prompt) -> ContextAblation:
    """Leave out each token of the prompt in turn and read the feature at the last one.

    Raises UsageError if the prompt is empty or too long, or there is no such feature.
    """
    feature, ids = lab.checked(feature), lab.ids(prompt)
    first = 1 if ids[0] == lab.tokens.edges.bos else 0
    left_out = range(first, len(ids) - 1)
    rows = [ids, *([*ids[:i], *ids[i + 1 :]] for i in left_out)]
    kind = "cuda" if lab.model.device.type == "cuda" else "cpu"
    values: list[float] = []
    with Progress("context ablation", len(rows), unit="rows") as bar:
        for batch in in_batches(rows, max(1, TOKENS_AT_ONCE[kind] // len(ids))):
            values += lab.last_codes(padded(batch), [feature])[:, 0].tolist()
            bar.advance(len(batch))
    base, without = values[0], dict(zip(left_out, values[1:], strict=True))
    change = [without[i] - base if i in without else None for i in range(len(ids))]
    return ContextAblation(feature, base, ids, lab.texts.sequence(ids), change)

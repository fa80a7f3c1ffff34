"""A feature's examples, read from an index: where it fires most, at every strength, and where it does not.

How they were drawn: `examples.py`, `uniform.py`. The token that an example was drawn for is marked in its text; in
"random", where the feature does not fire, there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from monosemy.analysis.chart import Chart, Points
from monosemy.analysis.feature import GROUPS, Example, FeatureIndex
from monosemy.analysis.result import Result, Table
from monosemy.runtime import UsageError

LEFT, RIGHT = "⟦", "⟧"  # around the marked token
SILENT = "random"


@dataclass(frozen=True)
class FeatureExamples(Result):
    """Examples of a feature by group."""

    name: ClassVar[str] = "feature-examples"
    feature: int
    maximum: float
    """Its largest code in the indexed corpus; 0 where it never fires."""
    examples: dict[str, list[Example]]
    """By group, the strongest first."""

    def table(self) -> Table:
        """A row an example."""
        rows = [
            (group, each.document, each.position, each.tokens[each.peak], each.values[each.peak], marked(group, each))
            for group, examples in self.examples.items()
            for each in examples
        ]
        return Table(("group", "document", "position", "token", "activation", "text"), rows)

    def charts(self) -> Sequence[Chart]:
        """Activations of the examples, the strongest first."""
        peaks = {
            group: [each.values[each.peak] for each in examples]
            for group, examples in self.examples.items()
            if examples and group != SILENT
        }
        marks = [Points(range(1, len(values) + 1), values, group) for group, values in peaks.items()]
        title = f"Examples of feature {self.feature}"
        return [Chart("activations", title, "example", "activation", marks)] if marks else []


def examples_of_feature(
    index: FeatureIndex, feature: int, groups: Sequence[str] = GROUPS, *, top: int | None = None
) -> FeatureExamples:
    """The feature's examples in some groups: "top" (no more than `top` of them), "uniform", "quantile" and "random".

    Raises UsageError for an unknown feature or group.
    """
    for group in groups:
        if group not in GROUPS:
            raise UsageError(f"`groups` (={group}) must be of {', '.join(GROUPS)}")
    if top is not None and top < 1:
        raise UsageError(f"`top` (={top}) must be at least 1")
    summary = index.summary(feature)
    found: dict[str, list[Example]] = {}
    for group in groups:
        (examples,) = index.examples(group, feature, feature + 1)
        found[group] = examples[:top] if group == "top" else examples[::-1] if group != SILENT else examples
    return FeatureExamples(feature, summary.max, found)


def marked(group: str, example: Example) -> str:
    """The example's text, with the token that it was drawn for between marks."""
    tokens = list(example.tokens)
    if group != SILENT:
        tokens[example.peak] = f"{LEFT}{tokens[example.peak]}{RIGHT}"
    return "".join(tokens)

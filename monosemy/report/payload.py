"""The features as the page's script takes them: JSON that is compact, and safe inside a `<script>` element.

Every token and document name stands once in a table and is a number elsewhere; values have six significant digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from monosemy.analysis.feature import GROUPS, Example, Feature, FeatureIndex
from monosemy.runtime import Progress

MOST_FEATURES = 2000  # with their examples on one page


class Table:
    """Strings, each once; `table[text]` is its number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __getitem__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    @property
    def texts(self) -> list[str]:
        """By number."""
        return list(self.numbers)


def payload(index: FeatureIndex, most: int) -> dict[str, Any]:
    """What the script needs: numbers of every feature, and examples, logits and histogram of the `most` densest alive.

    `examples` are [group, document, position of the peak in it, peak, tokens, values]; group is "top", "uniform",
    "random" or the number of a quantile.
    """
    table = index.table()
    densest = sorted((row for row in table if not row["dead"]), key=lambda row: -row["density"])[:most]
    tokens, documents = Table(), Table()
    features = {}
    with Progress("report", len(densest), unit="features") as bar:
        for row in sorted(densest, key=lambda row: row["id"]):
            features[row["id"]] = pack(index.feature(row["id"]), tokens, documents)
            bar.advance()
    fields = ("id", "density", "count", "max", "mean", "dead", "mcs_other_seed")
    return {
        "table": {name: [_short(row[name]) for row in table] for name in fields},
        "features": features,
        "tokens": tokens.texts,
        "documents": documents.texts,
    }


def pack(feature: Feature, tokens: Table, documents: Table) -> dict[str, Any]:
    """One feature, its strings as numbers."""
    examples = [
        _pack_example(kind if kind != "quantile" else example.group, example, tokens, documents)
        for kind in GROUPS
        for example in feature.examples.get(kind, [])
    ]
    return {
        **_histogram(*feature.histogram),
        "top": [[tokens[text], _short(value)] for text, value in feature.top_logits],
        "bottom": [[tokens[text], _short(value)] for text, value in feature.bottom_logits],
        "examples": examples,
    }


def safe_json(data: Any) -> Markup:
    """JSON that can stand in a `<script>` element: pure ASCII, without `<`, `>` and `&`."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _histogram(edges: Sequence[float], counts: Sequence[int]) -> dict[str, Any]:
    """Without the empty bins at both ends: the edges are those of all features together."""
    used = [place for place, count in enumerate(counts) if count]
    first, end = (used[0], used[-1] + 1) if used else (0, 0)
    return {"edges": _shorts(edges[first : end + 1]), "counts": list(counts[first:end])}


def _pack_example(group: str | int, example: Example, tokens: Table, documents: Table) -> list[Any]:
    numbers = [tokens[text] for text in example.tokens]
    return [group, documents[example.document], example.position, example.peak, numbers, _shorts(example.values)]


def _shorts(values: Sequence[float]) -> list[Any]:
    return [_short(value) for value in values]


def _short(value: Any) -> Any:
    """Six significant digits; whole numbers without a point, undefined as null."""
    if not isinstance(value, float):
        return int(value) if isinstance(value, bool) else value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short

"""The tokens that a feature fires on, and those that follow, read from an index (what they are: `token_table.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from monosemy.analysis.chart import Bars, Chart
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.result import Result, Table


@dataclass(frozen=True)
class TokenUse:
    """A token in a feature's list."""

    token: int
    text: str
    count: int
    """Firings of the feature on it ("next": before it)."""
    share: float
    """Those as a share of the feature's firings."""
    code: float
    """Mean code of those firings."""
    seen: int
    """Occurrences of the token in the corpus."""


@dataclass(frozen=True)
class FeatureTokens(Result):
    """The tokens that a feature fires on most often and most strongly, and those that come next."""

    name: ClassVar[str] = "feature_tokens"
    feature: int
    count: int
    """Firings of the feature."""
    frequent: list[TokenUse]
    strong: list[TokenUse]
    next: list[TokenUse]

    def table(self) -> Table:
        """A row an entry of a list."""
        lists = {"frequent": self.frequent, "strong": self.strong, "next": self.next}
        rows = [(key, e.token, e.text, e.count, e.share, e.code, e.seen) for key, uses in lists.items() for e in uses]
        return Table(("list", "token", "text", "count", "share", "code", "seen"), rows)

    def charts(self) -> Sequence[Chart]:
        """Shares of the tokens it fires on, and of those that come next."""
        about = (("frequent", f"Tokens that feature {self.feature} fires on", self.frequent),
                 ("next", f"Tokens after those that feature {self.feature} fires on", self.next))  # fmt: skip
        return [Chart(key, title, "token", "share of its firings", [_bars(uses)]) for key, title, uses in about if uses]


def tokens_of_feature(index: FeatureIndex, feature: int) -> FeatureTokens:
    """The tokens that a feature fires on. Raises UsageError if there is no such feature."""
    firings = index.summary(feature).count
    lists = {key: _uses(index, f"{key}_token", feature, firings) for key in ("frequent", "strong", "next")}
    return FeatureTokens(feature, firings, **lists)


def entries(index: FeatureIndex, name: str, group: int) -> list[tuple[int, int, float]]:
    """Number, count and sum of each entry of one list."""
    lists = index.token_lists
    columns = (lists[column][group].tolist() for column in (name, f"{name}_count", f"{name}_sum"))
    return [entry for entry in zip(*columns, strict=True) if entry[0] >= 0]


def _uses(index: FeatureIndex, name: str, feature: int, firings: int) -> list[TokenUse]:
    seen_V = index.token_lists["seen"]
    return [
        TokenUse(token, index.texts.of(token), count, count / firings, total / count, int(seen_V[token]))
        for token, count, total in entries(index, name, feature)
    ]


def _bars(uses: Sequence[TokenUse]) -> Bars:
    return Bars([use.text for use in uses], [use.share for use in uses])

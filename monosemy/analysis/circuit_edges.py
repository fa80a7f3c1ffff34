"""What `circuits.py` finds: connections with their numbers, which are sums over the tokens of each document.

The effect of an edge is Σ lost / Σ tokens; its interval comes from drawing the documents anew (`bootstrap.py`).

Shapes: X tokens, K connections, U documents of a batch, C documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from monosemy.analysis.bootstrap import ratio_interval
from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.result import Result, Table
from monosemy.runtime import UsageError

UNIT = "mean part of the late code"


@dataclass(frozen=True)
class CircuitSettings:
    """What is looked at and what is shown."""

    top: int = 20
    """Connections kept and verified, the strongest in total, of either sign."""
    silent: int = 10
    """Connections kept besides in which the early feature keeps the late one silent; 0: none are looked for."""
    rows: int = 64
    """Rows of the corpus in which the feature fires. Which connections are the strongest depends on the rows drawn, the
    more so the rarer the feature: from a quarter of these, ten strongest share far fewer with those of another draw.
    Twice as many take twice the time and change few of them."""
    search: int = 2000
    """Rows of the corpus, drawn at random, that are searched for them at most."""

    def __post_init__(self) -> None:
        for name in ("top", "rows", "search"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` (={getattr(self, name)}) must be at least 1")
        if self.silent < 0:
            raise UsageError(f"`silent` (={self.silent}) must not be negative")


@dataclass(frozen=True)
class Edge:
    """One connection. Numbers are in units of the late feature's code, means over the tokens that count: those on
    which the late feature fires or, for a `silent` edge, those on which it fires only without the early one."""

    feature: int
    """The feature at the other end."""
    attribution: float | None
    """What the early feature gives to the late code, by gradient × activation; None where that is not defined."""
    ablation: float
    """What the late code really loses, clean − ablated: below 0 where the early feature held it down."""
    low: float | None
    """The 95 % interval of `ablation` over documents; None for a single document."""
    high: float | None
    firings: int
    """The tokens that count."""
    documents: int
    """The documents they are of."""
    silent: bool
    """The late feature is silent there, and fires once the early one is taken out."""

    @property
    def how(self) -> Literal["drives", "lowers", "keeps silent", "unclear"]:
        """What the early feature does to the late code, measured: "unclear" where the interval holds 0, or there is
        none."""
        if self.silent:
            return "keeps silent"
        if self.low is not None and self.low > 0:
            return "drives"
        return "lowers" if self.high is not None and self.high < 0 else "unclear"

    @property
    def total(self) -> float | None:
        """The attribution summed over the tokens: what edges other than `silent` ones are ranked by."""
        return None if self.attribution is None else self.attribution * self.firings


@dataclass(frozen=True)
class CircuitEdges(Result):
    """The parents or the children of a feature, the strongest first, `silent` ones behind the others."""

    name: ClassVar[str] = "circuit"
    direction: Literal["parents", "children"]
    feature: int
    site: str
    """Where the feature reads."""
    other_site: str
    """Where those it is connected with read."""
    rows: int
    """Rows of the corpus in which the feature fires that were looked at."""
    tokens: int
    """Their tokens."""
    silent_rows: int
    """Rows in which it does not fire that were looked at besides, for what keeps it silent."""
    edges: tuple[Edge, ...]
    correlation: float | None
    """Pearson's r of attribution and ablation over the edges that are not silent; None for fewer than 3, or where one
    is constant."""
    error: float | None
    """What the early activation's part that no early feature explains gives to the late code (parents only)."""

    def table(self) -> Table:
        """One row an edge."""
        told = ("feature", "attribution", "ablation", "low", "high")
        columns = (*told, "firings", "documents", "silent", "how", "total")
        return Table(columns, [[getattr(edge, column) for column in columns] for edge in self.edges])

    def charts(self) -> list[Chart]:
        """The edges as bars, and attribution against ablation."""
        title = f"{self.direction} of feature {self.feature} at {self.site}, in {self.rows:,} rows"
        labels = [f"{edge.feature}{' (silent)' if edge.silent else ''}" for edge in self.edges]
        given, lost = [edge.attribution for edge in self.edges], [edge.ablation for edge in self.edges]
        low, high = [edge.low for edge in self.edges], [edge.high for edge in self.edges]
        bars = (Bars(labels, given, "gradient × activation"), Bars(labels, lost, "lost by ablation", low, high))
        points = [
            Points(
                [edge.attribution for edge in mine],
                [edge.ablation for edge in mine],
                "kept silent" if silent else "where it fires",
                [f"feature {edge.feature}" for edge in mine],
            )
            for silent in (False, True)
            if (mine := [edge for edge in self.edges if edge.silent == silent])
        ]
        return [
            Chart("edges", f"The {title}", f"feature at {self.other_site}", UNIT, bars),
            Chart("verified", f"Predicted and measured: {title}", "gradient × activation", "lost by ablation", points),
        ]


class Tally:
    """What each of K late codes loses on the tokens that count, summed by document."""

    def __init__(self) -> None:
        self._documents: list[Tensor] = []
        self._sums: list[Tensor] = []

    def add(self, document_X: Tensor, lost_XK: Tensor, counts_XK: Tensor) -> None:
        """Add a batch; where `counts_XK` is False nothing is taken."""
        documents_U, place_X = torch.unique(document_X, return_inverse=True)
        parts = torch.stack([lost_XK * counts_XK, counts_XK.to(lost_XK)])
        sums_2UK = parts.new_zeros(2, len(documents_U), lost_XK.shape[1])
        self._sums.append(sums_2UK.index_add_(1, place_X.to(parts.device), parts).cpu())
        self._documents.append(documents_U)

    def lost(self) -> Tensor:
        """`lost_K`, summed over all."""
        lost_K: Tensor = torch.cat(self._sums, dim=1)[0].sum(dim=0, dtype=torch.float64)
        return lost_K

    def edges(
        self, features: Sequence[int], columns: Sequence[int], attribution: Sequence[float] | None, silent: bool
    ) -> tuple[Edge, ...]:
        """The edges of some columns with a token that counts; `attribution` is summed over the tokens, one a column."""
        if not features:
            return ()
        documents_C, place = torch.unique(torch.cat(self._documents), return_inverse=True)
        batches_2BK = torch.cat(self._sums, dim=1)[:, :, list(columns)].double()
        sums_2CK = batches_2BK.new_zeros(2, len(documents_C), len(columns)).index_add_(1, place, batches_2BK)
        found = []
        for k, feature in enumerate(features):
            lost_C, count_C = sums_2CK[:, sums_2CK[1, :, k] > 0, k]
            if not (tokens := int(count_C.sum())):
                continue
            given = None if attribution is None else attribution[k] / tokens
            effect = float(lost_C.sum()) / tokens
            interval = ratio_interval(lost_C, count_C, "circuit", feature)
            found.append(Edge(feature, given, effect, *interval, tokens, len(count_C), silent))
        return tuple(found)

"""Connections across layers (S1): which early features feed a feature of a later dictionary, and which one feeds.

Where a late feature j fires, its code depends on the early activations x_s of its row. The part of it that early
feature i gives is, to first order, gradient × activation (Marks et al. 2024, "Sparse Feature Circuits", 2403.19647):

    a_ij = Σ_s ( ∂c_j / ∂x_s · W_dec,i ) c_i,s,     averaged over the firings of j

`parents` takes one gradient for all i; `children` one forward derivative for all j, the same numbers from the other
side. Both are then verified: the early feature's contribution c_i W_dec,i is really taken out at every token of the
rows, the model runs again, and the late code's loss, clean − ablated, is averaged over the same firings. A product with
a gradient can be wrong where the network bends; the correlation between the two says by how much to trust it here.

Only rows where the given feature fires are looked at. Of a TopK dictionary the gradient is that of the codes which are
active; in the ablated run the choice is made anew, so what then takes a place is counted too. Left out: the positions
between which the effect runs (it is summed over all), integrated gradients, edges of reconstruction errors one by one
(what they give together is `error`).

Shapes: B rows, C = context, D, E = widths of the sites, N early features, L late ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.circuit_passes import batches_where, codes_counted, codes_without, given_by_all, given_by_one
from monosemy.analysis.coactivation import pearson
from monosemy.analysis.lab import Batch, Lab
from monosemy.analysis.result import Result, Table
from monosemy.runtime import Progress, UsageError, settings_of


@dataclass(frozen=True)
class CircuitSettings:
    """What is looked at and what is shown."""

    top: int = 20
    """Connections kept and verified, the strongest in total, of either sign."""
    rows: int = 16
    """Rows of the corpus in which the feature fires."""
    search: int = 2000
    """Rows of the corpus, drawn at random, that are searched for them at most."""

    def __post_init__(self) -> None:
        for name in ("top", "rows", "search"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` (={getattr(self, name)}) must be at least 1")


@dataclass(frozen=True)
class Edge:
    """One connection. Numbers are in units of the late feature's code, means over its firings."""

    feature: int
    """The feature at the other end."""
    attribution: float
    """What the early feature gives to the late code, by gradient × activation."""
    ablation: float
    """What the late code really loses, clean − ablated."""
    firings: int
    """Tokens on which the late feature fires, over which these are means."""

    @property
    def total(self) -> float:
        """The attribution summed over the firings: what connections are ranked by."""
        return self.attribution * self.firings


@dataclass(frozen=True)
class CircuitEdges(Result):
    """The parents or the children of a feature, the strongest first."""

    name: ClassVar[str] = "circuit"
    direction: Literal["parents", "children"]
    feature: int
    site: str
    """Where the feature reads."""
    other_site: str
    """Where those it is connected with read."""
    rows: int
    """Rows of the corpus that were looked at, in all of which the feature fires."""
    tokens: int
    """Their tokens."""
    edges: tuple[Edge, ...]
    correlation: float | None
    """Pearson's r of attribution and ablation over the edges; None for fewer than 3, or where one is constant."""
    error: float | None
    """What the early activation's part that no early feature explains gives to the late code (parents only)."""

    def table(self) -> Table:
        """One row an edge."""
        columns = ("feature", "attribution", "ablation", "firings", "total")
        return Table(columns, [[getattr(edge, column) for column in columns] for edge in self.edges])

    def charts(self) -> list[Chart]:
        """The edges as bars, and attribution against ablation."""
        labels = [str(edge.feature) for edge in self.edges]
        given, lost = [edge.attribution for edge in self.edges], [edge.ablation for edge in self.edges]
        unit, title = "mean part of the late code", f"{self.direction} of feature {self.feature} at {self.site}"
        bars = (Bars(labels, given, "gradient × activation"), Bars(labels, lost, "lost by ablation"))
        points = (Points(given, lost, "", [f"feature {label}" for label in labels]),)
        return [
            Chart("edges", f"The {title}", f"feature at {self.other_site}", unit, bars),
            Chart("verified", f"Predicted and measured: {title}", "gradient × activation", "lost by ablation", points),
        ]


def parents(
    late: Lab, feature: int, early: Lab, *, settings: CircuitSettings | None = None, **options: Any
) -> CircuitEdges:
    """The features of `early` that drive `feature` of `late`, each verified by ablation.

    `options` are fields of CircuitSettings. Raises UsageError if there is no such feature, it never fires in the rows
    searched, the labs are of different models or tokens, or the early features do not act before the late site.
    """
    settings = settings or settings_of(CircuitSettings, options)
    _check(early, late)
    batches = batches_where(late, feature, settings.rows, settings.search)
    total_N, error, firings = torch.zeros(early.dictionary.width, dtype=torch.float64), 0.0, 0
    with Progress("gradients", len(batches), unit="batches") as bar:
        for batch in batches:
            given_N, rest, fired = given_by_all(early, late, batch, feature)
            total_N, error, firings = total_N + given_N, error + rest, firings + fired
            bar.advance()
    chosen = _strongest(total_N, settings.top)
    lost = [0.0] * len(chosen)
    with Progress("ablations", len(batches) * len(chosen), unit="passes") as bar:
        for batch in batches:
            codes_BCK, clean_X1 = early.codes(batch, chosen), codes_counted(late, batch, [feature])
            for place, number in enumerate(chosen):
                after_X1 = codes_without(early, late, batch, number, codes_BCK[..., place], [feature])
                lost[place] += float(((clean_X1 - after_X1) * (clean_X1 != 0)).sum(dtype=torch.float64))
                bar.advance()
    edges = tuple(
        Edge(number, float(total_N[number]) / firings, loss / firings, firings)
        for number, loss in zip(chosen, lost, strict=True)
    )
    return _result("parents", (late, feature), early, batches, edges, error / firings)


def children(
    early: Lab, feature: int, late: Lab, *, settings: CircuitSettings | None = None, **options: Any
) -> CircuitEdges:
    """The features of `late` that `feature` of `early` drives, each verified by ablation.

    Means are over the late features' firings in the rows where the early one fires. `options` and errors as `parents`.
    """
    settings = settings or settings_of(CircuitSettings, options)
    _check(early, late)
    batches = batches_where(early, feature, settings.rows, settings.search)
    width = late.dictionary.width
    total_L, lost_L = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    firings_L = torch.zeros(width, dtype=torch.int64)
    with Progress("children", len(batches), unit="batches") as bar:
        for batch in batches:
            clean_XL, given_XL, codes_BC = given_by_one(early, late, batch, feature)
            lost_XL = clean_XL - codes_without(early, late, batch, feature, codes_BC, None)
            fires_XL = clean_XL != 0
            total_L += given_XL.sum(dim=0, dtype=torch.float64).cpu()
            lost_L += (lost_XL * fires_XL).sum(dim=0, dtype=torch.float64).cpu()
            firings_L += fires_XL.sum(dim=0).cpu()
            bar.advance()
    edges = tuple(
        Edge(number, float(total_L[number]) / fired, float(lost_L[number]) / fired, fired)
        for number in _strongest(total_L, settings.top)
        if (fired := int(firings_L[number]))
    )
    return _result("children", (early, feature), late, batches, edges, None)


def _check(early: Lab, late: Lab) -> None:
    if early.model.as_parent().id != late.model.as_parent().id:
        raise UsageError("`early` and `late` are of different models; connections run inside one")
    if early.tokens.artifact.id != late.tokens.artifact.id:
        raise UsageError("`early` and `late` are of different tokens; open both labs with the same store")
    order = early.model.sites()
    if order.index(early.written_site) >= order.index(late.site):
        raise UsageError(
            f"`early` acts at {early.written_site} and `late` reads {late.site}, which is not after it; exchange them"
        )


def _strongest(total_N: Tensor, top: int) -> list[int]:
    """The features of largest magnitude, largest first, without those that give nothing."""
    order = total_N.abs().sort(descending=True, stable=True).indices[:top].tolist()
    return [number for number in order if float(total_N[number]) != 0]


def _result(
    direction: Literal["parents", "children"],
    of: tuple[Lab, int],
    other: Lab,
    batches: Sequence[Batch],
    edges: tuple[Edge, ...],
    error: float | None,
) -> CircuitEdges:
    lab, feature = of
    return CircuitEdges(
        direction,
        feature,
        lab.site,
        other.site,
        rows=sum(len(batch.ids_BC) for batch in batches),
        tokens=sum(int(batch.mask_BC.sum()) for batch in batches),
        edges=edges,
        correlation=pearson([edge.attribution for edge in edges], [edge.ablation for edge in edges]),
        error=error,
    )

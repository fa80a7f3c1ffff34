"""Connections across layers (S1): which early features feed a feature of a later dictionary, and which one feeds.

Where a late feature j fires, its code depends on the early activations x_s of its row. The part of it that early
feature i gives is, to first order, gradient × activation (Marks et al. 2024, "Sparse Feature Circuits", 2403.19647):

    a_ij = Σ_s ( ∂c_j / ∂x_s · W_dec,i ) c_i,s,     averaged over the firings of j

`parents` takes one gradient for all i; `children` one forward derivative for all j, the same numbers from the other
side. Both are then verified: the early feature's contribution c_i W_dec,i is really taken out at every token of the
rows, the model runs again, and the late code's loss, clean − ablated, is averaged over the same firings. A product with
a gradient can be wrong where the network bends; the correlation between the two says by how much to trust it here.

A feature that an early one keeps silent does not fire, and its code has no slope there. So `silent` edges look at the
tokens where the late feature is silent and, without the early one, fires: `children` sees them all in the ablated run;
`parents` verifies the early features that lower the late pre-activation most (`circuit_passes.held_by_all`), in the
rows where the late feature fires and as many, at random, where it does not. Their prediction is the pre-activation to
first order. What is silent can only gain: that such an effect is below 0 says nothing, its size does.

Every effect has a 95 % interval, documents drawn anew (`circuit_edges.py`). It holds for the edges as they stand: that
the strongest of many were chosen is not in it.

`children` looks at rows where the early feature fires only. Of a TopK dictionary the gradient is that of the codes
which are active; in the ablated run the choice is made anew, so what then takes a place is counted too. Left out: the
positions between which the effect runs (it is summed over all), integrated gradients, edges of reconstruction errors
one by one (what they give together is `error`), silent edges to dictionaries that have no pre-activations (`parents`).

Shapes: B rows, C = context, X tokens, D, E = widths of the sites, N early features, L late ones, K candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from monosemy.analysis.circuit_edges import CircuitEdges, CircuitSettings, Edge, Tally
from monosemy.analysis.circuit_passes import (
    Rows,
    batches_of,
    codes_counted,
    codes_without,
    documents_of,
    effect_of,
    given_by_all,
    held_by_all,
    rows_where,
)
from monosemy.analysis.coactivation import pearson
from monosemy.analysis.lab import Lab
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.runtime import Progress, UsageError, settings_of

__all__ = ["CircuitEdges", "CircuitSettings", "Edge", "children", "parents"]


def parents(
    late: Lab, feature: int, early: Lab, *, settings: CircuitSettings | None = None, **options: Any
) -> CircuitEdges:
    """The features of `early` that drive `feature` of `late` or keep it silent, each verified by ablation.

    `options` are fields of CircuitSettings. Raises UsageError if there is no such feature, it never fires in the rows
    searched and nothing keeps it silent there, the labs are of different models or tokens, or the early features do not
    act before the late site.
    """
    settings = settings or settings_of(CircuitSettings, options)
    _check(early, late)
    fires, silent, searched = rows_where(late, feature, settings.rows, settings.search)
    firing, silence = batches_of(late, fires), batches_of(late, silent)
    drives, error = _drives(late, feature, early, firing, settings.top) if firing else ((), None)
    holds: tuple[Edge, ...] = ()
    if settings.silent and isinstance(late.dictionary, ReluDictionary):
        holds = _holds(late, feature, early, firing + silence, settings.silent)
    if not firing and not holds:
        raise _nowhere(feature, searched)
    return _result("parents", (late, feature), early, firing, len(silent), drives + holds, error)


def children(
    early: Lab, feature: int, late: Lab, *, settings: CircuitSettings | None = None, **options: Any
) -> CircuitEdges:
    """The features of `late` that `feature` of `early` drives or keeps silent, each verified by ablation.

    Means are over tokens of the rows where the early one fires. `options` and errors as `parents`.
    """
    settings = settings or settings_of(CircuitSettings, options)
    _check(early, late)
    rows, _, searched = rows_where(early, feature, settings.rows, settings.search)
    if not rows:
        raise _nowhere(feature, searched)
    batches, width = batches_of(early, rows), late.dictionary.width
    given_L, foreseen_L = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    fires, appears, predicted = Tally(), Tally(), True
    with Progress("children", len(batches), unit="batches") as bar:
        for batch in batches:
            effect, document_X = effect_of(early, late, batch, feature), documents_of(late, batch)
            fires_XL, appears_XL = effect.clean_XF != 0, (effect.clean_XF == 0) & (effect.after_XF != 0)
            lost_XL = effect.clean_XF - effect.after_XF
            fires.add(document_X, lost_XL, fires_XL)
            appears.add(document_X, lost_XL, appears_XL)
            given_L += (effect.given_XF * fires_XL).sum(dim=0, dtype=torch.float64).cpu()
            predicted = effect.foreseen_XF is not None
            if effect.foreseen_XF is not None:
                foreseen_L -= (effect.foreseen_XF * appears_XL).sum(dim=0, dtype=torch.float64).cpu()
            bar.advance()
    driven, held = _strongest(given_L, settings.top), _strongest(appears.lost(), settings.silent)
    edges = fires.edges(driven, driven, given_L[driven].tolist(), silent=False)
    edges += appears.edges(held, held, foreseen_L[held].tolist() if predicted else None, silent=True)
    return _result("children", (early, feature), late, batches, 0, edges, None)


def _drives(late: Lab, feature: int, early: Lab, batches: Sequence[Rows], top: int) -> tuple[tuple[Edge, ...], float]:
    """The early features that give most to a late one where it fires, and what no early feature gives there."""
    total_N, error, firings = torch.zeros(early.dictionary.width, dtype=torch.float64), 0.0, 0
    with Progress("gradients", len(batches), unit="batches") as bar:
        for batch in batches:
            given_N, rest, fired = given_by_all(early, late, batch, feature)
            total_N, error, firings = total_N + given_N, error + rest, firings + fired
            bar.advance()
    chosen, tally = _strongest(total_N, top), Tally()
    if not chosen:
        return (), error / firings
    with Progress("ablations", len(batches) * len(chosen), unit="passes") as bar:
        for batch in batches:
            codes_BCK, clean_X1 = early.codes(batch, chosen), codes_counted(late, batch, [feature])
            lost = []
            for place, number in enumerate(chosen):
                lost.append(clean_X1 - codes_without(early, late, batch, number, codes_BCK[..., place], [feature]))
                bar.advance()
            tally.add(documents_of(late, batch), torch.cat(lost, dim=1), (clean_X1 != 0).expand(-1, len(chosen)))
    edges = tally.edges(chosen, range(len(chosen)), total_N[chosen].tolist(), silent=False)
    return edges, error / firings


def _holds(late: Lab, feature: int, early: Lab, batches: Sequence[Rows], count: int) -> tuple[Edge, ...]:
    """The early features without which a late one fires where it is silent, the largest gain in total first."""
    score_N = torch.zeros(early.dictionary.width, dtype=torch.float64)
    with Progress("silence", len(batches), unit="batches") as bar:
        for batch in batches:
            score_N += held_by_all(early, late, batch, feature)
            bar.advance()
    chosen, tally = _strongest(score_N, count), Tally()
    if not chosen:
        return ()
    foreseen_K = torch.zeros(len(chosen), dtype=torch.float64)
    with Progress("ablations", len(batches) * len(chosen), unit="passes") as bar:
        for batch in batches:
            codes_BCK, clean_X1 = early.codes(batch, chosen), codes_counted(late, batch, [feature])
            after, appears = [], []
            for place, number in enumerate(chosen):
                after.append(codes_without(early, late, batch, number, codes_BCK[..., place], [feature]))
                appears.append((clean_X1 == 0) & (after[-1] != 0))
                if appears[-1].any():  # the derivative costs several runs, and is needed nowhere else
                    foreseen_X1 = effect_of(early, late, batch, number, [feature]).foreseen_XF
                    assert foreseen_X1 is not None, "asked of dictionaries with pre-activations only"
                    foreseen_K[place] -= float((foreseen_X1 * appears[-1]).sum(dtype=torch.float64))
                bar.advance()
            tally.add(documents_of(late, batch), -torch.cat(after, dim=1), torch.cat(appears, dim=1))
    places = _strongest(tally.lost(), count)
    return tally.edges([chosen[k] for k in places], places, foreseen_K[places].tolist(), silent=True)


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


def _nowhere(feature: int, searched: int) -> UsageError:
    return UsageError(
        f"`feature` (={feature}) fires in none of the {searched} rows searched; take one that fires, or search more "
        f"rows with `search`"
    )


def _strongest(total_N: Tensor, top: int) -> list[int]:
    """The features of largest magnitude, largest first, without those that give nothing."""
    order = total_N.abs().sort(descending=True, stable=True).indices[:top].tolist()
    return [number for number in order if float(total_N[number]) != 0]


def _result(
    direction: Literal["parents", "children"],
    of: tuple[Lab, int],
    other: Lab,
    batches: Sequence[Rows],
    silent_rows: int,
    edges: tuple[Edge, ...],
    error: float | None,
) -> CircuitEdges:
    lab, feature = of
    drives = [edge for edge in edges if not edge.silent and edge.attribution is not None]
    given, lost = [edge.attribution or 0.0 for edge in drives], [edge.ablation for edge in drives]
    return CircuitEdges(
        direction,
        feature,
        lab.site,
        other.site,
        rows=sum(len(batch.ids_BC) for batch in batches),
        tokens=sum(int(batch.mask_BC.sum()) for batch in batches),
        silent_rows=silent_rows,
        edges=edges,
        correlation=pearson(given, lost),
        error=error,
    )

"""Two dictionaries side by side: which features of the one are in the other (S1's MCS)."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch

from monosemy.analysis.chart import Chart, Histogram, Points
from monosemy.analysis.result import as_plain
from monosemy.app.feature_list import ROWS
from monosemy.app.query import Query, address, whole, word
from monosemy.app.recent import Recent
from monosemy.app.state import Grid, State
from monosemy.metrics.recovery import RECOVERED, nearest
from monosemy.report.fields import identity
from monosemy.runtime import UsageError

MOST_COSINES = 1 << 31  # of one comparison: at D = 512 about a minute on two cores
MOST_POINTS = 5000  # in the scatter
BINS = 50
SORTS = ("id", "mcs", "density", "partner")


@dataclass(frozen=True)
class Pairs:
    """For each feature of a, the nearest of b."""

    mcs_N: torch.Tensor
    partner_N: torch.Tensor
    mutual_N: torch.Tensor
    """Whether it is that one's nearest, too."""
    density_N: torch.Tensor | None
    """Of a's features, where they are indexed."""


_pairs: Recent[Pairs] = Recent(8)
_working = Lock()


def compare_data(state: State, query: Query) -> dict[str, Any]:
    """MCS of dictionary `a` in dictionary `b` of a grid. Raises NotFound, and UsageError where they are too large."""
    grid = state.grid(query.get("grid") or None)
    numbers = [row["member"] for row in grid.rows]
    a = whole(query, "a", numbers[0])
    b = whole(query, "b", numbers[1] if len(numbers) > 1 else numbers[0])
    pairs = paired(state, grid, a, b)
    sort = word(query, "sort", SORTS, "mcs")
    descending = word(query, "desc", ("0", "1"), "1") == "1"
    at = whole(query, "at", 0)
    order_N = _order(pairs, sort, descending)
    kept = {"grid": grid.name, "a": a, "b": b, "sort": sort, "desc": int(descending)}
    return {
        "grid": grid.name,
        "members": [{"member": number, "identity": identity(grid.rows, number)} for number in numbers],
        "a": a,
        "b": b,
        "a_identity": identity(grid.rows, a),
        "b_identity": identity(grid.rows, b),
        "sort": sort,
        "descending": descending,
        "state": {"grid": grid.name, "a": a, "b": b},
        "mean": float(pairs.mcs_N.mean()),
        "above": float((pairs.mcs_N > RECOVERED).float().mean()),
        "threshold": RECOVERED,
        "mutual": float(pairs.mutual_N.float().mean()),
        "charts": charts(state, grid, a, b, pairs),
        "rows": [_row(state, grid, a, b, pairs, int(i)) for i in order_N[at : at + ROWS]],
        "total": len(order_N),
        "first": at,
        "previous": address("/compare", **kept, at=max(0, at - ROWS)) if at else None,
        "next": address("/compare", **kept, at=at + ROWS) if at + ROWS < len(order_N) else None,
    }


def paired(state: State, grid: Grid, a: int, b: int) -> Pairs:
    """The comparison, computed once; one at a time. Raises as `compare_data`."""
    a_ND, b_LD = state.directions(grid, a), state.directions(grid, b)
    if len(a_ND) * len(b_LD) > MOST_COSINES:
        raise UsageError(
            f"members {a} and {b} have {len(a_ND):,} × {len(b_LD):,} cosines, more than a page waits for; "
            f"compare them in Python with monosemy.metrics.recovery.nearest"
        )
    key = (grid.artifact.id, a, b)
    with _working:
        return _pairs.get(key) or _pairs.put(key, _compute(state, grid, a, a_ND, b_LD))


def _compute(state: State, grid: Grid, a: int, a_ND: torch.Tensor, b_LD: torch.Tensor) -> Pairs:
    mcs_N, partner_N = nearest(a_ND, b_LD)
    _, back_L = nearest(b_LD, a_ND)
    mutual_N = back_L[partner_N] == torch.arange(len(a_ND))
    name = state.indexed(grid).get(a)
    density_N = None
    if name is not None:
        rows = state.indexes[name].rows("SELECT density FROM feature ORDER BY id")
        density_N = torch.tensor([row["density"] for row in rows], dtype=torch.float64)
    return Pairs(mcs_N, partner_N, mutual_N, density_N)


def charts(state: State, grid: Grid, a: int, b: int, pairs: Pairs) -> list[dict[str, Any]]:
    """MCS against density, where the densities are known, and the histogram of MCS."""
    low = min(0.0, float(pairs.mcs_N.min()))
    edges_E = torch.linspace(low, 1, BINS + 1)
    place_N = (torch.bucketize(pairs.mcs_N.float(), edges_E, right=True) - 1).clamp(0, BINS - 1)
    mark = Histogram(edges_E.tolist(), torch.bincount(place_N, minlength=BINS).tolist(), "features")
    title = f"MCS of member {a} in member {b}"
    found = [{"chart": as_plain(Chart("mcs", title, "MCS (cosine)", "features", [mark])), "links": [[]]}]
    if pairs.density_N is not None:
        alive_A = torch.where(pairs.density_N > 0)[0]
        shown_A = alive_A[:: max(1, -(-len(alive_A) // MOST_POINTS))].tolist()
        points = Points(
            [float(pairs.density_N[i]) for i in shown_A],
            [float(pairs.mcs_N[i]) for i in shown_A],
            "features",
            [f"{i} → {int(pairs.partner_N[i])}" for i in shown_A],
        )
        some = "" if len(shown_A) == len(alive_A) else f", {len(shown_A):,} of {len(alive_A):,} features"
        chart = Chart("density", f"MCS against density{some}", "density", "MCS (cosine)", [points], log_x=True)
        found.insert(0, {"chart": as_plain(chart), "links": [[_feature(state, grid, a, i) for i in shown_A]]})
    return found


def _order(pairs: Pairs, sort: str, descending: bool) -> list[int]:
    """Numbers of a's features in the order asked for; equal ones by number."""
    n = len(pairs.mcs_N)
    keys = {
        "id": torch.arange(n),
        "mcs": pairs.mcs_N,
        "partner": pairs.partner_N,
        "density": torch.zeros(n) if pairs.density_N is None else pairs.density_N,
    }
    order: list[int] = keys[sort].argsort(descending=descending, stable=True).tolist()
    return order


def _row(state: State, grid: Grid, a: int, b: int, pairs: Pairs, i: int) -> dict[str, Any]:
    partner = int(pairs.partner_N[i])
    return {
        "id": i,
        "href": _feature(state, grid, a, i),
        "mcs": float(pairs.mcs_N[i]),
        "partner": partner,
        "partner_href": _feature(state, grid, b, partner),
        "mutual": bool(pairs.mutual_N[i]),
        "density": None if pairs.density_N is None else float(pairs.density_N[i]),
    }


def _feature(state: State, grid: Grid, member: int, i: int) -> str | None:
    """The page of a feature of a member, where that is indexed."""
    name = state.indexed(grid).get(member)
    return None if name is None else address(f"/features/{i}", index=name)

"""Two dictionaries side by side: which features of the one are in the other (S1's MCS), nearest and one-to-one."""

from __future__ import annotations

from typing import Any

import torch

from monosemy.analysis.chart import Chart, Points
from monosemy.analysis.pairs import FeaturePairs
from monosemy.analysis.result import as_plain
from monosemy.app.across import ACROSS
from monosemy.app.calls import call_of
from monosemy.app.computed import pending, result_of
from monosemy.app.feature_list import ROWS
from monosemy.app.query import Query, address, first_row, whole, word
from monosemy.app.state import Grid, State
from monosemy.dictionaries.store import DictionaryStore
from monosemy.metrics.recovery import RECOVERED
from monosemy.report.fields import identity
from monosemy.runtime import UsageError

MOST_COSINES = 1 << 31  # of one comparison: at D = 512 about two minutes on two cores
MOST_POINTS = 5000  # in the scatter
SORTS = ("id", "mcs", "density", "partner", "one_to_one")


def compare_data(state: State, query: Query) -> dict[str, Any]:
    """MCS of dictionary `a` in dictionary `b` of a grid. Raises NotFound, and UsageError where they are too large."""
    grid = state.grid(query.get("grid") or None)
    numbers = [row["member"] for row in grid.rows]
    a = whole(query, "a", first_member(state, grid))
    b = whole(query, "b", partner_of(grid, a))
    given = {"dictionaries": grid.name, "a": a, "b": b}
    pairs = result_of(state, "pairs", given, checked_size(state, grid, a, b))
    data = {
        "grid": grid.name,
        "grids": list(state.grids),
        "members": [{"member": number, "identity": identity(grid.rows, number)} for number in numbers],
        "a": a,
        "b": b,
        "a_identity": identity(grid.rows, a),
        "b_identity": identity(grid.rows, b),
        "state": {"grid": grid.name, "a": a, "b": b},
        "pending": None,
    }
    if pairs is None:
        return {**data, "pending": pending("pairs", given), "rows": [], "total": 0}
    python = call_of(ACROSS["pairs"], given, state).python
    return {**data, "python": python, **_shown(state, grid, a, b, pairs, query)}


def first_member(state: State, grid: Grid) -> int:
    """The member that a comparison begins with: the chosen one, unless others are indexed and it is not."""
    indexed = state.indexed(grid)
    if grid.chosen is not None and (grid.chosen in indexed or not indexed):
        return grid.chosen
    first: int = next(iter(indexed), grid.rows[0]["member"])
    return first


def partner_of(grid: Grid, member: int) -> int:
    """What a member is compared with at first: its equal of another seed, else any other, else itself."""
    if any(row["member"] == member for row in grid.rows):
        for other in DictionaryStore(grid.artifact).siblings(member, differ="seed"):
            return other
    others = (int(row["member"]) for row in grid.rows if row["member"] != member)
    return next(others, member)


def checked_size(state: State, grid: Grid, a: int, b: int) -> int:
    """How many cosines two members have. Raises NotFound, and UsageError where a page cannot wait for them."""
    wide = len(state.directions(grid, a)), len(state.directions(grid, b))
    if wide[0] * wide[1] > MOST_COSINES:
        raise UsageError(
            f"members {a} and {b} have {wide[0]:,} × {wide[1]:,} cosines, more than a page waits for; "
            f"compare them in Python with monosemy.metrics.recovery.nearest"
        )
    return wide[0] * wide[1]


def _shown(state: State, grid: Grid, a: int, b: int, pairs: FeaturePairs, query: Query) -> dict[str, Any]:
    sort = word(query, "sort", SORTS, "mcs")
    descending = word(query, "desc", ("0", "1"), "1") == "1"
    at = first_row(query, len(pairs.mcs_N), ROWS)
    density_N = _density(state, grid, a)
    order_N = _order(pairs, density_N, sort, descending)
    kept = {"grid": grid.name, "a": a, "b": b, "sort": sort, "desc": int(descending)}
    return {
        "sort": sort,
        "descending": descending,
        "mean": float(pairs.mcs_N.mean()),
        "above": float((pairs.mcs_N > RECOVERED).float().mean()),
        "threshold": RECOVERED,
        "mutual": float(pairs.mutual_N.float().mean()),
        "matched": pairs.matched,
        "gap": pairs.gap,
        "charts": charts(state, grid, a, pairs, density_N),
        "rows": [_row(state, grid, a, b, pairs, density_N, i) for i in order_N[at : at + ROWS]],
        "total": len(order_N),
        "first": at,
        "previous": address("/compare", **kept, at=max(0, at - ROWS)) if at else None,
        "next": address("/compare", **kept, at=at + ROWS) if at + ROWS < len(order_N) else None,
    }


def _density(state: State, grid: Grid, member: int) -> torch.Tensor | None:
    """Of a member's features, where they are indexed."""
    name = state.indexed(grid).get(member)
    if name is None:
        return None
    rows = state.indexes[name].rows("SELECT density FROM feature ORDER BY id")
    return torch.tensor([row["density"] for row in rows], dtype=torch.float64)


def charts(
    state: State, grid: Grid, a: int, pairs: FeaturePairs, density_N: torch.Tensor | None
) -> list[dict[str, Any]]:
    """MCS against density, where the densities are known, and the histograms of both cosines."""
    found = [{"chart": as_plain(chart), "links": [[] for _ in chart.marks]} for chart in pairs.charts()]
    if density_N is not None:
        alive_A = torch.where(density_N > 0)[0]
        shown_A = alive_A[:: max(1, -(-len(alive_A) // MOST_POINTS))].tolist()
        points = Points(
            [float(density_N[i]) for i in shown_A],
            [float(pairs.mcs_N[i]) for i in shown_A],
            "features",
            [f"{i} → {int(pairs.nearest_N[i])}" for i in shown_A],
        )
        some = "" if len(shown_A) == len(alive_A) else f", {len(shown_A):,} of {len(alive_A):,} features"
        chart = Chart("density", f"MCS against density{some}", "density", "MCS (cosine)", [points], log_x=True)
        found.insert(0, {"chart": as_plain(chart), "links": [[feature_address(state, grid, a, i) for i in shown_A]]})
    return found


def _order(pairs: FeaturePairs, density_N: torch.Tensor | None, sort: str, descending: bool) -> list[int]:
    """Numbers of a's features in the order asked for; equal ones by number, those without a value last."""
    n = len(pairs.mcs_N)
    keys = {
        "id": torch.arange(n),
        "mcs": pairs.mcs_N,
        "partner": pairs.nearest_N,
        "density": torch.zeros(n) if density_N is None else density_N,
        "one_to_one": pairs.cosine_N.nan_to_num(-2 if descending else 2),
    }
    order: list[int] = keys[sort].argsort(descending=descending, stable=True).tolist()
    return order


def _row(
    state: State, grid: Grid, a: int, b: int, pairs: FeaturePairs, density_N: torch.Tensor | None, i: int
) -> dict[str, Any]:
    partner, own = int(pairs.nearest_N[i]), int(pairs.partner_N[i])
    return {
        "id": i,
        "href": feature_address(state, grid, a, i),
        "mcs": float(pairs.mcs_N[i]),
        "partner": partner,
        "partner_href": feature_address(state, grid, b, partner),
        "mutual": bool(pairs.mutual_N[i]),
        "own": None if own < 0 else own,
        "own_href": None if own < 0 else feature_address(state, grid, b, own),
        "one_to_one": None if own < 0 else float(pairs.cosine_N[i]),
        "density": None if density_N is None else float(density_N[i]),
    }


def feature_address(state: State, grid: Grid, member: int, i: int) -> str | None:
    """The page of a feature of a member, where that is indexed."""
    name = state.indexed(grid).get(member)
    return None if name is None else address(f"/features/{i}", index=name)

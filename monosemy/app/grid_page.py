"""The grid: every dictionary's scores, fidelity against sparsity, heatmaps over the dials; and one dictionary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from monosemy.analysis.chart import Chart, Curve, Heat, Mark, Points
from monosemy.analysis.result import as_plain
from monosemy.app.query import Query, address
from monosemy.app.state import Grid, State
from monosemy.report.fields import FIELDS, columns, identity, shown
from monosemy.report.plots import defined
from monosemy.report.run import Row, sites_in_words

# field: (title, what its values are); heatmaps in this order, where the members have them
HEATMAPS = {
    "fvu": "FVU (fraction of variance unexplained)",
    "l0": "L0 (features active per row)",
    "dead_share": "dead features (share of the width)",
    "ce_recovered": "CE recovered (1 = no loss)",
    "mmcs_other_seed": "MMCS with the other seed",
    "mcc_truth": "MCC with the truth",
}


def grid_data(state: State, query: Query) -> dict[str, Any]:
    """Scores and charts of a grid. Raises NotFound."""
    grid = state.grid(query.get("grid") or None)
    names, headings, undefined = columns(grid.rows)
    indexed = state.indexed(grid)
    charts = [front(grid), *(chart for field in HEATMAPS for chart in heatmaps(grid, field))]
    return {
        "grid": grid.name,
        "grids": list(state.grids),
        "where": sites_in_words(grid.artifact.info),
        "chosen": grid.chosen,
        "why": grid.why,
        "columns": [
            {"name": name, "heading": heading, "meaning": FIELDS.get(name, ("", ""))[1]}
            for name, heading in zip(names, headings, strict=True)
        ],
        "undefined": undefined,
        "rows": [
            {
                "member": row["member"],
                "href": member_address(grid, row["member"]),
                "features": indexed.get(row["member"]),
                "values": {name: as_plain(row.get(name)) for name in names},
                "shown": {name: shown(name, row.get(name)) for name in names},
            }
            for row in grid.rows
        ],
        "charts": [chart for chart in charts if chart is not None],
    }


def member_data(state: State, query: Query, member: int) -> dict[str, Any]:
    """One dictionary of a grid: what it is, its scores, where its features are. Raises NotFound."""
    grid = state.grid(query.get("grid") or None)
    row = grid.row(member)
    names, headings, _ = columns([row])
    numbers = [each["member"] for each in grid.rows]
    place = numbers.index(member)
    return {
        "grid": grid.name,
        "member": member,
        "identity": identity(grid.rows, member),
        "where": sites_in_words(grid.artifact.info),
        "chosen": member == grid.chosen,
        "why": grid.why if member == grid.chosen else "",
        "failure": row.get("failure"),
        "scores": [
            {"name": name, "heading": heading, "meaning": FIELDS.get(name, ("", ""))[1], "value": as_plain(row[name])}
            | {"shown": shown(name, row[name])}
            for name, heading in zip(names, headings, strict=True)
        ],
        "features": [name for name, index in state.indexes.items() if _is_of(state, name, grid, member)],
        "live": state.model_of(grid) is not None and not row.get("failure"),
        "others": [
            {"member": other, "identity": identity(grid.rows, other)}
            | {"href": address("/compare", grid=grid.name, a=member, b=other)}
            for other in numbers
            if other != member
        ],
        "previous": member_address(grid, numbers[place - 1]) if place else None,
        "next": member_address(grid, numbers[place + 1]) if place + 1 < len(numbers) else None,
    }


def member_address(grid: Grid, member: int) -> str:
    """The page of a dictionary."""
    return address(f"/grid/{member}", grid=grid.name)


def front(grid: Grid) -> dict[str, Any] | None:
    """FVU against L0, a mark a kind and width, and the page that each point leads to. A line joins the undominated:
    no other has a lower FVU at as low an L0. The chosen one has a ring."""
    series: dict[str, list[Row]] = defaultdict(list)
    for row in grid.rows:
        if defined(row.get("l0")) and defined(row.get("fvu")) and row["l0"] > 0:
            series[f"{row['variant']} {row['width']:,}"].append(row)
    if not series:
        return None
    marks: list[Mark] = [
        Points(
            [row["l0"] for row in rows],
            [row["fvu"] for row in rows],
            name,
            [identity(grid.rows, row["member"]) for row in rows],
        )
        for name, rows in series.items()
    ]
    shown_rows = list(series.values())
    best = undominated([row for rows in shown_rows for row in rows])
    if len(best) > 1:
        marks.append(Curve([row["l0"] for row in best], [row["fvu"] for row in best], "no other is better in both"))
        shown_rows.append(best)
    ringed = [row for row in grid.rows if row["member"] == grid.chosen and any(row in rows for rows in shown_rows)]
    if ringed:
        texts = [f"chosen: {identity(grid.rows, row['member'])}" for row in ringed]
        marks.append(Points([row["l0"] for row in ringed], [row["fvu"] for row in ringed], "chosen", texts, ring=True))
        shown_rows.append(ringed)
    chart = Chart("front", "Fidelity against sparsity", "L0 (features active per row)", "FVU", marks, log_x=True)
    links = [[member_address(grid, row["member"]) for row in rows] for rows in shown_rows]
    return {"chart": as_plain(chart), "links": links}


def undominated(rows: Sequence[Row]) -> list[Row]:
    """Those with a lower FVU than every other of as low an L0, by L0."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["l0"], row["fvu"])):
        if not best or row["fvu"] < best[-1]["fvu"]:
            best.append(row)
    return best


def heatmaps(grid: Grid, field: str) -> list[dict[str, Any]]:
    """`field` over the sparsity dial × width, one a variant; the mean over what else differs.

    Where a variant has one width or one setting of its dial only, a heatmap says nothing, and there is none.
    """
    found = []
    for variant in dict.fromkeys(str(row["variant"]) for row in grid.rows):
        mine = [row for row in grid.rows if str(row["variant"]) == variant]
        dial = "l1" if any(defined(row.get("l1")) for row in mine) else "k"
        found += [chart for chart in (_heatmap(grid, mine, field, variant, dial),) if chart is not None]
    return found


def _heatmap(grid: Grid, rows: Sequence[Row], field: str, variant: str, dial: str) -> dict[str, Any] | None:
    cells: dict[tuple[Any, Any], list[Row]] = defaultdict(list)
    for row in rows:
        if defined(row.get(dial)) and defined(_value(row, field)):
            cells[row["width"], row[dial]].append(row)
    widths, dials = sorted({width for width, _ in cells}), sorted({setting for _, setting in cells})
    if len(widths) < 2 or len(dials) < 2:
        return None
    values = [[_mean([_value(row, field) for row in cells[width, each]]) for each in dials] for width in widths]
    links = [
        [member_address(grid, cells[width, each][0]["member"]) if cells[width, each] else None for each in dials]
        for width in widths
    ]
    heat = Heat(values, [f"{width:,}" for width in widths], [f"{each:.3g}" for each in dials], HEATMAPS[field])
    chart = Chart(f"{variant}-{field}", f"{variant}: {HEATMAPS[field]}", FIELDS[dial][0], "width", [heat])
    return {"chart": as_plain(chart), "links": [links]}


def _value(row: Row, field: str) -> Any:
    if field != "dead_share":
        return row.get(field)
    return row["dead"] / row["width"] if defined(row.get("dead")) else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _is_of(state: State, name: str, grid: Grid, member: int) -> bool:
    made, its = state.member_of(state.indexes[name])
    return made is not None and made.name == grid.name and its == member

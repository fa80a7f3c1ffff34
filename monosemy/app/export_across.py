"""Dictionaries compared, in a static export: pairs, MCS tables, splitting and atlas of a grid, where they are cheap.

What they take is computed while the file is written, from the dictionaries alone. Order, filters and pages are made in
the browser (static/comparisons.js), so all rows of a table are in the file, with what they are sorted and filtered by.
What would take long, or fill the file, is left out, and the page in its place says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise, permutations
from typing import Any

from monosemy.app.atlas_page import atlas_data
from monosemy.app.compare_page import SORTS, compare_data, first_member, partner_of
from monosemy.app.computed import result_of
from monosemy.app.export_part import Offline, Part, part, served
from monosemy.app.mcs_page import columns_of, mcs_data, rising_of
from monosemy.app.query import Query
from monosemy.app.splitting_page import splitting_data
from monosemy.app.state import Grid, State
from monosemy.runtime import UsageError

COSINES = 1 << 26  # of a comparison that is computed for a file
PAIRS = 20  # of dictionaries of a grid
TABLES, BESIDE = 10, 3  # MCS tables of a grid; the most members beside the one that a table is of
MOST_ROWS = 20_000  # of a table


@dataclass(frozen=True)
class _Shown:
    """A page of the app whose table is to be sorted and filtered in the browser."""

    data: Callable[[State, Query], dict[str, Any]]
    template: str
    heading: str
    table: str
    """What its table is called to those who hear it."""
    noun: str
    """What a row of it is."""


COMPARE = _Shown(compare_data, "compare.html", "Compare", "Pairs of features", "features")
MCS = _Shown(mcs_data, "mcs.html", "MCS table", "Features beside other members", "features")
SPLITTING = _Shown(splitting_data, "splitting.html", "Splitting", "Features and their children", "features")
ATLAS = _Shown(atlas_data, "atlas.html", "Atlas", "Clusters", "clusters and single features")


def comparisons(state: State, grid: Grid) -> Iterator[Callable[[], Part]]:
    """What makes each page that compares dictionaries of the grid."""
    widths = {row["member"]: len(state.directions(grid, row["member"])) for row in grid.rows}
    yield from _pairs(state, grid, widths)
    yield from _tables(state, grid, widths)
    yield from _splitting(state, grid, widths)
    yield partial(_atlas, state, grid, sum(a * b for a, b in combinations(widths.values(), 2)))


def _pairs(state: State, grid: Grid, widths: Mapping[int, int]) -> Iterator[Callable[[], Part]]:
    """The pages of pairs that are kept: first the one that the app begins with, then those with indexed features."""
    indexed, numbers = state.indexed(grid), list(widths)
    pairs = list(permutations(numbers, 2))
    first = (a := first_member(state, grid), partner_of(grid, a))
    cheap = [(a, b) for a, b in pairs if widths[a] * widths[b] <= COSINES and widths[a] <= MOST_ROWS]
    cheap.sort(key=lambda pair: (pair != first, *(number not in indexed for number in pair), pair))
    said = kept_pairs(state.name, len(cheap[:PAIRS]), len(cheap), len(pairs))
    if first not in cheap:
        yield partial(served, state, f"/compare {grid.name}", "Compare", said)
    for a, b in cheap[:PAIRS]:
        yield partial(_pair, state, grid, a, b, said, f"/compare {grid.name}" if (a, b) == first else "")


def kept_pairs(run: str, kept: int, cheap: int, pairs: int) -> str:
    """Which pairs of dictionaries are in the file, in words."""
    if not pairs:
        return "This grid has one dictionary; comparing takes two."
    if kept == pairs:
        return f"All {pairs:,} pairs of this grid's dictionaries are in this file."
    parts = [f"{kept:,} of {pairs:,} pairs of this grid's dictionaries are in this file"]
    if kept < cheap:
        parts.append(", those whose features are indexed first")
    if cheap < pairs:
        parts.append(f"; {pairs - cheap:,} are too large for it")
    return f"{''.join(parts)}. monosemy serve {run} compares any two."


def _pair(state: State, grid: Grid, a: int, b: int, said: str, also: str) -> Part:
    def rows(data: Mapping[str, Any]) -> dict[str, Any]:
        columns = {name: [row[name] for row in data["rows"]] for name in SORTS}
        return {"columns": columns, "sort": data["sort"], "rising": ["id", "partner"]}

    asked = {"grid": grid.name, "a": str(a), "b": str(b)}
    return _whole(state, COMPARE, asked, f"/compare {grid.name} {a} {b}", rows, said, also)


def _tables(state: State, grid: Grid, widths: Mapping[int, int]) -> Iterator[Callable[[], Part]]:
    """The MCS tables: that of the member that the app begins with, and of those whose features are indexed."""
    first, all_others = first_member(state, grid), len(widths) <= BESIDE + 1
    members = list(dict.fromkeys([first, *state.indexed(grid)]))[:TABLES]
    which = (
        "all others" if all_others else f"one of {len(widths) - 1} others: its equal of another seed, if there is one"
    )
    named = f"member{'s' if len(members) > 1 else ''} {', '.join(map(str, sorted(members)))}"
    said = (
        f"This file has the MCS table of {named} beside {which}. Those of other members, what looks meaningful, CSV "
        f"and spreadsheets the server has: monosemy serve {state.name}."
    )
    for a in members:
        beside = [other for other in widths if other != a] if all_others else [partner_of(grid, a)]
        name, also = f"/mcs {grid.name} {a}", f"/mcs {grid.name}" if a == first else ""
        cosines = widths[a] * sum(widths[other] for other in beside)
        if cosines > COSINES:
            yield partial(served, state, also or name, MCS.heading, _too_large(cosines))
        else:
            asked = {"grid": grid.name, "a": str(a), "others": "all" if all_others else str(beside[0])}
            yield partial(_whole, state, MCS, asked, name, _mcs_rows, said, also)


def _mcs_rows(data: Mapping[str, Any]) -> dict[str, Any]:
    return {"columns": columns_of(data), "sort": data["sort"], "rising": rising_of(data)}


def _splitting(state: State, grid: Grid, widths: Mapping[int, int]) -> Iterator[Callable[[], Part]]:
    """A page a step from one width to the next."""
    sizes = sorted(set(widths.values()))
    cosines = sum(a * b for a, b in pairwise(sizes))
    if cosines > COSINES:
        yield partial(served, state, f"/splitting {grid.name} all 0", "Splitting", _too_large(cosines))
        return
    for level in range(max(1, len(sizes) - 1)):
        yield partial(_level, state, grid, level)


def _level(state: State, grid: Grid, level: int) -> Part:
    def rows(data: Mapping[str, Any]) -> dict[str, Any]:
        marks = [[[row["fate"]]] for row in data["rows"]]
        members = [each["member"] for each in data["members"]]
        return {"filters": ["fate"], "marks": marks, "level": level, "levels": _levels(state, grid, members)}

    said = (
        "This file has the first dictionary of each width. How others split, the server computes: "
        f"monosemy serve {state.name}."
    )
    asked = {"grid": grid.name, "level": str(level)}
    return _whole(state, SPLITTING, asked, f"/splitting {grid.name} all {level}", rows, said)


def _levels(state: State, grid: Grid, members: Sequence[int]) -> list[dict[str, Any]]:
    """Of each dictionary what its features become: trees of any depth are made of it."""
    found, indexed = [], state.indexed(grid)
    for level, member in enumerate(members):
        of: dict[str, Any] = {"member": member, "index": indexed.get(member), "fates": None, "children": []}
        if level + 1 < len(members):
            rows = _all(state, SPLITTING, {"grid": grid.name, "level": str(level)})["rows"]
            of["fates"] = [row["fate"] for row in rows]
            of["children"] = [[[child["feature"], child["cosine"]] for child in row["children"]] for row in rows]
        found.append(of)
    return found


def _atlas(state: State, grid: Grid, cosines: int) -> Part:
    def rows(data: Mapping[str, Any]) -> dict[str, Any]:
        marks = [[[own["tag"], own["member"]] for own in row["features"] if own] for row in data["rows"]]
        return {"filters": ["tag", "of"], "marks": marks}

    name = f"/atlas {grid.name} all no"
    if cosines > COSINES:
        return served(state, name, "Atlas", _too_large(cosines))
    said = (
        "This file has the atlas of all members by their directions. Of some of them, or with their codes on the "
        f"activations, the server computes it: monosemy serve {state.name}."
    )
    return _whole(state, ATLAS, {"grid": grid.name}, name, rows, said)


def _whole(
    state: State,
    shown: _Shown,
    asked: Query,
    name: str,
    rows: Callable[[Mapping[str, Any]], dict[str, Any]],
    said: str,
    also: str = "",
) -> Part:
    """A page with all rows of its table, and what `rows` makes of them for the browser."""
    try:
        data = _all(state, shown, asked)
        held = {"table": shown.table, "noun": shown.noun, **rows(data)} if data["rows"] else None
    except UsageError as error:  # what the server, too, would answer, or too much for a file
        return served(state, name, shown.heading, f"{error}.")
    return part(state, name, shown.template, data, Offline(kept=said, rows=held), also=also)


def _all(state: State, shown: _Shown, asked: Query) -> dict[str, Any]:
    """What a page holds, with the rows of all its pages, computed here where it would wait for a job.

    Raises UsageError as the page does, and for more rows than a file takes.
    """
    data = shown.data(state, asked)
    if waits := data["pending"]:
        result_of(state, waits["analysis"], waits["values"], cosines=0)
        data = shown.data(state, asked)
    if data["total"] > MOST_ROWS:
        raise UsageError(f"its table has {data['total']:,} rows, more than the {MOST_ROWS:,} that a file takes")
    while len(data["rows"]) < data["total"]:
        data["rows"] += shown.data(state, {**asked, "at": str(len(data["rows"]))})["rows"]
    return data


def _too_large(cosines: int) -> str:
    return f"It takes {cosines:,} cosines; of what takes more than {COSINES:,} a file has none, and the server has it."

"""The MCS table, S1's spreadsheet: a member's features beside other members, sorted as one likes (`mcs_files.py` gives
it away whole)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monosemy.analysis.mcs_table import RARE, McsTable
from monosemy.analysis.result import Table, as_plain
from monosemy.app.across import ACROSS, ALL, members_of
from monosemy.app.calls import call_of
from monosemy.app.compare_page import checked_size, feature_address, first_member, partner_of
from monosemy.app.computed import pending, result_of
from monosemy.app.feature_list import ROWS
from monosemy.app.query import Query, address, first_row, number, text, whole, word
from monosemy.app.state import Grid, State
from monosemy.app.words import percent, share_of
from monosemy.metrics.recovery import RECOVERED
from monosemy.report.fields import identity
from monosemy.runtime import UsageError

PER_OTHER = ("mcs", "nearest", "one_to_one", "partner")  # columns of the table, for each other member
NUMBERS = ("nearest", "partner")  # those that hold features' numbers, which go up at first
LAST = ("count", "dead", "density", "max", "meaningful")  # those behind them that one sorts by
KINDS = ("csv", "xlsx")  # of files


def mcs_data(state: State, query: Query) -> dict[str, Any]:
    """The MCS table of member `a` of a grid beside `others` (by default its equal of another seed, as in Compare).

    Raises NotFound, and UsageError for members named twice, or where they are too large.
    """
    asked = _Asked(state, query)
    found = asked.result() if asked.others else None
    if found is not None:
        return {**asked.data(), **_shown(asked, found, query)}
    waits = pending("mcs", asked.given) if asked.others else None
    return {**asked.data(), "pending": waits, "rows": [], "total": 0}


class _Asked:
    """What an address asks for."""

    def __init__(self, state: State, query: Query) -> None:
        self.state, self.grid = state, state.grid(query.get("grid") or None)
        numbers = [row["member"] for row in self.grid.rows]
        self.a = whole(query, "a", first_member(state, self.grid))
        partner = partner_of(self.grid, self.a)
        self.said = "".join(text(query, "others").split()) or (ALL if partner == self.a else str(partner))
        chosen = members_of(self.said)
        self.others = [member for member in numbers if member != self.a] if chosen is None else chosen
        low = number(query, "low")
        self.low = RECOVERED if low is None else low
        self.meaningful = word(query, "meaningful", ("no", "yes"), "no")
        for member in (self.a, *self.others):
            self.grid.row(member)
        if self.a in self.others or len(set(self.others)) < len(self.others):
            raise UsageError(f"`others` (={self.said}) must be members beside {self.a}, each named once")
        self.keys = ["id", *(f"{key}-{other}" for other in self.others for key in PER_OTHER), *LAST]
        first = partner if partner in self.others else next(iter(self.others), None)
        self.sort = word(query, "sort", self.keys, "id" if first is None else f"mcs-{first}")
        self.descending = word(query, "desc", ("0", "1"), "1") == "1"
        self.given = {
            "dictionaries": self.grid.name,
            "a": self.a,
            "others": ",".join(map(str, self.others)),
            "low": self.low,
            "meaningful": self.meaningful,
        }

    def result(self) -> McsTable | None:
        """The table; None where a job has to make it first."""
        cosines = sum(checked_size(self.state, self.grid, self.a, other) for other in self.others)
        found: McsTable | None = result_of(
            self.state, "mcs", self.given, float("inf") if self.meaningful == "yes" else cosines
        )
        return found

    def kept(self) -> dict[str, Any]:
        """The address but for order and place."""
        named = {"grid": self.grid.name, "a": self.a, "others": self.said}
        return {**named, "low": self.low, "meaningful": self.meaningful}

    def data(self) -> dict[str, Any]:
        """What the page holds in any case."""
        rows, indexed = self.grid.rows, self.state.indexed(self.grid)
        return {
            "grid": self.grid.name,
            "grids": list(self.state.grids),
            "members": [{"member": row["member"], "identity": identity(rows, row["member"])} for row in rows],
            "a": self.a,
            "a_identity": identity(rows, self.a),
            "indexed": self.a in indexed,
            "others": [{"member": member, "identity": identity(rows, member)} for member in self.others],
            "state": self.kept(),
            "few": not self.others,
            "pending": None,
        }


def whole_table(state: State, query: Query) -> tuple[int, Table]:
    """The member and all rows of the table that an address asks for, in the order of its page.

    Raises as `mcs_data`, and UsageError for a table that a job has to make first.
    """
    asked = _Asked(state, query)
    found = asked.result() if asked.others else None
    if found is None:
        raise UsageError("this table is not computed yet, or no longer kept: open its page first")
    return asked.a, _ordered(asked, found)


def _ordered(asked: _Asked, found: McsTable) -> Table:
    columns = found.table().columns
    return found.sorted_by(str(columns[asked.keys.index(asked.sort)]), asked.descending)


def _shown(asked: _Asked, found: McsTable, query: Query) -> dict[str, Any]:
    state, grid, at = asked.state, asked.grid, first_row(query, len(found.rows), ROWS)
    table = _ordered(asked, found)
    turned = {**asked.kept(), "sort": asked.sort, "desc": int(asked.descending)}
    analysis = ACROSS["mcs"]
    return {
        "sort": asked.sort,
        "descending": asked.descending,
        "words": said(found),
        "charts": [{"chart": as_plain(chart), "links": [[] for _ in chart.marks]} for chart in found.charts()],
        "python": call_of(analysis, asked.given, state).python,
        "downloads": {kind: address(f"/mcs.{kind}", **turned) for kind in KINDS},
        "rows": [_row(state, grid, asked, row) for row in table.rows[at : at + ROWS]],
        "total": len(table.rows),
        "first": at,
        "previous": address("/mcs", **turned, at=max(0, at - ROWS)) if at else None,
        "next": address("/mcs", **turned, at=at + ROWS) if at + ROWS < len(table.rows) else None,
    }


def _row(state: State, grid: Grid, asked: _Asked, row: Sequence[Any]) -> dict[str, Any]:
    """A line of the table with the pages that it leads to."""
    matches = []
    for place, other in enumerate(asked.others):
        mcs, nearest, one_to_one, partner = row[1 + len(PER_OTHER) * place : 1 + len(PER_OTHER) * (place + 1)]
        matches.append(
            {
                "mcs": mcs,
                "nearest": nearest,
                "nearest_href": feature_address(state, grid, other, nearest),
                "one_to_one": one_to_one,
                "partner": partner,
                "partner_href": None if partner is None else feature_address(state, grid, other, partner),
            }
        )
    count, dead, density, largest, meaningful, example = row[-6:]
    told = {
        "count": count,
        "dead": dead,
        "density": density,
        "max": largest,
        "meaningful": meaningful,
        "example": example,
    }
    return {"id": row[0], "href": feature_address(state, grid, asked.a, row[0]), "matches": matches, **told}


def said(found: McsTable) -> list[str]:
    """The table's numbers in words: how many are low or rare, and how many low ones look meaningful."""
    total, living = len(found.rows), [row for row in found.rows if not row.dead]
    of = f"{total:,} features" if living and living[0].dead is None else f"{len(living):,} living features of {total:,}"
    words = [f"{found.n_low:,} of {of} have a low MCS: at most {found.low:g} with any feature of the others."]
    if found.meaningful_share is not None and found.meaningful_share_high is not None and found.controls is not None:
        words.append(
            f"Look meaningful: {share_of(found.meaningful_share)} of those, {share_of(found.meaningful_share_high)} of "
            f"the others; by the same rule {share_of(found.controls.random)} of random directions, and "
            f"{share_of(found.controls.neurons)} of single neurons."
        )
    for place, other in enumerate(found.others):
        above = sum(row.matches[place].mcs > RECOVERED for row in found.rows)
        words.append(f"MCS above {RECOVERED:g} in {other}: {above:,} ({percent(above / total)}).")
    if found.n_rare is not None:
        words.append(f"Fire on fewer than {RARE} of the indexed tokens, which S1 calls dead: {found.n_rare:,}.")
    return words


def columns_of(data: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the rows of a page are sorted by, column by column."""
    rows = data["rows"]
    columns = {"id": [row["id"] for row in rows]}
    for place, other in enumerate(data["others"]):
        for key in PER_OTHER:
            columns[f"{key}-{other['member']}"] = [row["matches"][place][key] for row in rows]
    return columns | {key: [row[key] for row in rows] for key in LAST}


def rising_of(data: Mapping[str, Any]) -> list[str]:
    """The columns that a first click sorts from the least."""
    return ["id", *(f"{key}-{other['member']}" for other in data["others"] for key in NUMBERS)]

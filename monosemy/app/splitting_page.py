"""What the features of a small dictionary become in the next larger one, and one feature's whole tree."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from monosemy.analysis.result import as_plain
from monosemy.analysis.splitting import FATES, SplittingTree
from monosemy.app.across import ALL, members_of
from monosemy.app.computed import pending, result_of
from monosemy.app.feature_list import ROWS
from monosemy.app.query import Query, address, first_row, text, whole, word
from monosemy.app.state import Grid, State
from monosemy.report.fields import identity


def splitting_data(state: State, query: Query) -> dict[str, Any]:
    """The splitting tree of a grid: the first member of each width, or those in the address. Raises NotFound, and
    UsageError for members of one width."""
    grid = state.grid(query.get("grid") or None)
    said = "".join(text(query, "members").split()) or ALL
    widths = _widths(state, grid, members_of(said))
    data: dict[str, Any] = {
        "grid": grid.name,
        "grids": list(state.grids),
        "state": {"grid": grid.name, "members": said},
        "members": [{"member": number, "identity": identity(grid.rows, number)} for number in widths],
        "pending": None,
        "few": len(widths) < 2,
        "rows": [],
        "total": 0,
    }
    if data["few"]:
        return data
    given = {"dictionaries": grid.name, "members": ",".join(map(str, widths))}
    found = result_of(state, "splitting", given, sum(a * b for a, b in pairwise(widths.values())))
    if found is None:
        return {**data, "pending": pending("splitting", given)}
    return {**data, **_shown(state, grid, list(widths), found, query, data["state"])}


def _widths(state: State, grid: Grid, members: list[int] | None) -> dict[int, int]:
    """Members and their widths, narrowest first; by default the first of each width."""
    numbers = [row["member"] for row in grid.rows] if members is None else members
    widths = {number: len(state.directions(grid, number)) for number in numbers}
    if members is None:
        first = dict(reversed([(width, number) for number, width in widths.items()]))
        widths = {number: width for width, number in first.items()}
    return dict(sorted(widths.items(), key=lambda item: item[1]))


def _shown(
    state: State, grid: Grid, members: list[int], found: SplittingTree, query: Query, kept: Mapping[str, Any]
) -> dict[str, Any]:
    level = whole(query, "level", 0, len(members) - 2)
    fate = word(query, "fate", ("any", *FATES), "any")
    hrefs = _Places(state, grid, members)
    numbers = [
        feature
        for feature in range(len(found.levels[level].parent))
        if fate == "any" or found.fate(level, feature) == fate
    ]
    at = first_row(query, len(numbers), ROWS)
    root = whole(query, "feature", 0) if query.get("feature") else None
    kept = {**kept, "level": level, "fate": fate}
    return {
        "level": level,
        "fate": fate,
        "threshold": found.threshold,
        "steps": [
            {
                "small": members[number],
                "large": members[number + 1],
                "counts": counts,
                "hrefs": {name: address("/splitting", **{**kept, "level": number, "fate": name}) for name in FATES},
            }
            for number, counts in enumerate(found.fates())
        ],
        "fates": list(FATES),
        "charts": [
            {"chart": as_plain(chart), "links": [[] for _ in chart.marks]}
            for chart in found.charts()
            if chart.name == "cosines"  # the table above tells the fates
        ],
        "tree": None if root is None else hrefs.tree(found.tree(root, level)),
        "rows": [
            {
                "feature": feature,
                "top_token": hrefs.token(level, feature),
                "href": hrefs.of(level, feature),
                "fate": found.fate(level, feature),
                "tree": address("/splitting", **kept, at=at or None, feature=feature),
                "children": [
                    {
                        "feature": child,
                        "top_token": hrefs.token(level + 1, child),
                        "cosine": float(found.levels[level + 1].cosine[child]),
                        "href": hrefs.of(level + 1, child),
                    }
                    for child in found.children(level, feature)
                ],
            }
            for feature in numbers[at : at + ROWS]
        ],
        "total": len(numbers),
        "first": at,
        "previous": address("/splitting", **kept, at=max(0, at - ROWS)) if at else None,
        "next": address("/splitting", **kept, at=at + ROWS) if at + ROWS < len(numbers) else None,
    }


class _Places:
    """Where the pages of features are and what tokens they fire on, by the level of the tree."""

    def __init__(self, state: State, grid: Grid, members: list[int]) -> None:
        self.state = state
        indexed = state.indexed(grid)
        self.members = members
        self.indexes = [indexed.get(member) for member in members]

    def of(self, level: int, feature: int) -> str | None:
        """A feature's page, where its dictionary is indexed."""
        name = self.indexes[level]
        return None if name is None else address(f"/features/{feature}", index=name)

    def token(self, level: int, feature: int) -> str | None:
        """The token on which a feature fires most often, where its dictionary is indexed and it fires."""
        name = self.indexes[level]
        return None if name is None else self.state.indexes[name].summary(feature).top_token

    def tree(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The nested tree with members, tokens and links."""
        below = [self.tree(child) for child in node["children"]]
        level, feature = node["level"], node["feature"]
        about = {"top_token": self.token(level, feature), "href": self.of(level, feature)}
        return {**node, "member": self.members[level], **about, "children": below}

"""The atlas of a grid: the same feature in its members, the tags of those that are not the same, and why.

A row of its table is a cluster, a feature a member, or one feature that is in none. Directions alone are compared at
once in a small grid; more members, and codes on the activations, are a job. What was not looked for is shown as "–".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from monosemy.analysis.atlas import TAGS, Atlas
from monosemy.analysis.result import as_plain
from monosemy.app.across import ALL, members_of
from monosemy.app.computed import pending, result_of
from monosemy.app.feature_list import ROWS
from monosemy.app.query import Query, address, first_row, text, whole, word
from monosemy.app.state import Grid, State
from monosemy.report.fields import identity
from monosemy.runtime import UsageError


@dataclass(frozen=True)
class Asked:
    """Which atlas, and which of its rows."""

    grid: Grid
    members: list[int]
    codes: str
    said: str
    tag: str
    of: int | None
    """Only rows in which the feature of this member has the tag."""

    @property
    def state(self) -> dict[str, Any]:
        """What of an address says which atlas."""
        return {"grid": self.grid.name, "members": self.said, "codes": self.codes}


def atlas_data(state: State, query: Query) -> dict[str, Any]:
    """The atlas that an address asks for. Raises NotFound, and UsageError for members that are not there."""
    asked = _asked(state, query)
    grid = asked.grid
    data: dict[str, Any] = {
        "grid": grid.name,
        "grids": list(state.grids),
        "members": [{"member": number, "identity": identity(grid.rows, number)} for number in asked.members],
        "all_members": [row["member"] for row in grid.rows],
        "state": asked.state,
        "tag": asked.tag,
        "of": asked.of,
        "has_rows": _has_rows(state, grid),
        "tags": list(TAGS),
        "pending": None,
    }
    if len(asked.members) < 2:
        return {**data, "rows": [], "total": 0, "few": True}
    widths = [len(state.directions(grid, number)) for number in asked.members]
    cosines = float("inf") if asked.codes == "yes" else sum(a * b for a, b in combinations(widths, 2))
    given = {"dictionaries": grid.name, "members": asked.said, "codes": asked.codes}
    found = result_of(state, "atlas", given, cosines)
    if found is None:
        return {**data, "rows": [], "total": 0, "few": False, "pending": pending("atlas", given)}
    return {**data, "few": False, **_shown(state, asked, found, query)}


def _asked(state: State, query: Query) -> Asked:
    grid = state.grid(query.get("grid") or None)
    said = "".join(text(query, "members").split()) or ALL
    numbers = members_of(said)
    members = [row["member"] for row in grid.rows] if numbers is None else numbers
    for number in members:
        grid.row(number)
    if len(set(members)) < len(members):
        raise UsageError(f"`members` (={said}) names one twice; give each once")
    of = whole(query, "of", 0) if query.get("of") else None
    if of is not None and of not in members:
        raise UsageError(f"`of` (={of}) must be one of the members {', '.join(map(str, members))}")
    tag = word(query, "tag", ("any", *TAGS), "any")
    return Asked(grid, members, word(query, "codes", ("no", "yes"), "no"), said, tag, of)


def _has_rows(state: State, grid: Grid) -> bool:
    try:
        state.activations(grid)
    except UsageError:
        return False
    return True


def _shown(state: State, asked: Asked, found: Atlas, query: Query) -> dict[str, Any]:
    kept = {**asked.state, "tag": asked.tag, "of": asked.of}
    groups = [group for group in _groups(found) if _belongs(group, asked, found)]
    why = _reasons(asked, found)
    at = first_row(query, len(groups), ROWS)
    rows = [_row(state, asked, found, group, why) for group in groups[at : at + ROWS]]
    counts = [
        {
            "member": member,
            "counts": count,
            "hrefs": {
                tag: address("/atlas", **asked.state, tag=tag, of=member) for tag in TAGS if count[tag] is not None
            },
        }
        for member, count in zip(asked.members, found.counts(), strict=True)
    ]
    charts = [chart for chart in found.charts() if chart.name == "twins" and found.n_rows and found.twins]
    return {
        "n_rows": found.n_rows,
        "not_looked_for": [tag for tag in TAGS if all(count[tag] is None for count in found.counts())],
        "counts": counts,
        "charts": [{"chart": as_plain(chart), "links": [[] for _ in chart.marks]} for chart in charts],
        "rows": rows,
        "total": len(groups),
        "first": at,
        "previous": address("/atlas", **kept, at=max(0, at - ROWS)) if at else None,
        "next": address("/atlas", **kept, at=at + ROWS) if at + ROWS < len(groups) else None,
    }


Group = tuple[int | None, Mapping[int, int]]
"""A cluster's number, None for a feature without one, and its features: dictionary → feature."""


def _groups(found: Atlas) -> list[Group]:
    """The clusters, largest first, then the features that are in none."""
    clusters: dict[int, dict[int, int]] = defaultdict(dict)
    alone: list[Group] = []
    for number, of_N in enumerate(found.clusters):
        for feature, cluster in enumerate(of_N.tolist()):
            if cluster < 0:
                alone.append((None, {number: feature}))
            else:
                clusters[cluster][number] = feature
    largest: list[Group] = sorted(clusters.items(), key=lambda item: (-len(item[1]), item[0]))
    return largest + alone


def _belongs(group: Group, asked: Asked, found: Atlas) -> bool:
    if asked.tag == "any" and asked.of is None:
        return True
    return any(
        (asked.tag == "any" or found.tags[number][feature] == asked.tag)
        and (asked.of is None or asked.members[number] == asked.of)
        for number, feature in group[1].items()
    )


def _row(
    state: State,
    asked: Asked,
    found: Atlas,
    group: Group,
    why: Mapping[tuple[int, int], list[str]],
) -> dict[str, Any]:
    cluster, held = group
    indexed = state.indexed(asked.grid)
    features = [
        _feature(state, member, held.get(number), found.tags[number], indexed)
        for number, member in enumerate(asked.members)
    ]
    return {
        "cluster": cluster,
        "features": features,
        "href": next((each["href"] for each in features if each and each["href"]), None),
        "cosine": None if cluster is None else float(found.cosine_C[cluster]),
        "why": [reason for item in held.items() for reason in why.get(item, [])],
    }


def _feature(
    state: State, member: int, feature: int | None, tags: Sequence[str], indexed: Mapping[int, str]
) -> dict[str, Any] | None:
    """A cell: a member's feature, its tag, and where it is indexed its token and its page; None where the row has none
    of it."""
    if feature is None:
        return None
    name = indexed.get(member)
    href = None if name is None else address(f"/features/{feature}", index=name)
    token = None if name is None else state.indexes[name].summary(feature).top_token
    return {"member": member, "feature": feature, "tag": tags[feature], "top_token": token, "href": href}


def _reasons(asked: Asked, found: Atlas) -> dict[tuple[int, int], list[str]]:
    """In words why a feature is tagged split or absorbed, and which of its twins are in other rows."""
    why = defaultdict(list)
    for twin in found.twins:
        ends = list(zip(twin.dictionaries, twin.features, strict=True))
        of = [int(found.clusters[number][feature]) for number, feature in ends]
        if of[0] == of[1] >= 0:
            continue
        named = [f"feature {feature} of member {asked.members[number]}" for number, feature in ends]
        why[ends[0]].append(f"{named[0]} is a twin of {named[1]}, in another row")
        why[ends[1]].append(f"{named[1]} is a twin of {named[0]}, in another row")
    for split in found.splits:
        into, children = asked.members[split.into], ", ".join(map(str, split.children))
        sure = "" if split.correlation is None else f" (their sum correlates at {split.correlation:.2f})"
        parent = f"feature {split.feature} of member {asked.members[split.dictionary]}"
        why[split.dictionary, split.feature].append(f"{parent} splits into {children} of member {into}{sure}")
        cluster = int(found.clusters[split.dictionary][split.feature])
        for child in split.children:
            if 0 <= cluster == int(found.clusters[split.into][child]):
                continue  # its parent's row is its own
            if found.tags[split.into][child] == "universal":
                continue  # a part for its cosine, but as near to a twin
            why[split.into, child].append(f"feature {child} of member {into} is a part of {parent}")
    for each in found.absorptions:
        own = asked.members[each.dictionary]
        why[each.dictionary, each.feature].append(
            f"feature {each.feature} of member {own} is silent where {each.absorber} fires instead: "
            f"{100 * each.rate:.1f} % of what its twin in member {asked.members[each.twin_dictionary]} fires on"
        )
    return why

"""What a feature may be connected with: the dictionaries of this run that read earlier and later sites of its model.

The connections themselves are live (`parents`, `children`); the page and its twin say what can be asked. Sites are put
in order by their names; where one does not act on the other all the same (branches of a parallel block, a transcoder's
own MLP), the analysis says so.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from monosemy.app.across import CIRCUIT
from monosemy.app.query import Query, address, whole
from monosemy.app.state import Grid, NotFound, State
from monosemy.models.sites import IN_BLOCK
from monosemy.report.fields import identity
from monosemy.report.run import sites_in_words

SHOWN = {
    "top": "the strongest",
    "rows": "rows",
    "silent": "kept silent",
}  # parameters of a request: what each is called


def circuits_data(state: State, query: Query) -> dict[str, Any]:
    """A feature and what it can be asked about. Raises NotFound."""
    name, member = _asked(state, query)
    grid = state.grid(name)
    grid.row(member)
    width, feature = len(state.directions(grid, member)), whole(query, "feature", 0)
    if feature >= width:
        raise NotFound(f"`feature` (={feature}) must be from 0 to {width - 1}")
    index = state.indexed(grid).get(member)
    summary = None if index is None else state.indexes[index].summary(feature)
    model = state.model_of(grid)
    others = [other for other in state.grids.values() if other is not grid and state.model_of(other) == model]
    mine = place_of(grid, "reads"), place_of(grid, "acts")
    known = model is not None and None not in mine
    return {
        "grid": grid.name,
        "member": member,
        "feature": feature,
        "width": width,
        "site": sites_in_words(grid.artifact.info),
        "index": index,
        "href": None if index is None else address(f"/features/{feature}", index=index),
        "top_token": None if summary is None else summary.top_token,
        "dead": None if summary is None else summary.dead,
        "grids": [_members(state, each) for each in state.grids.values()],
        "early": [_members(state, each) for each in others if known and _before(place_of(each, "acts"), mine[0])],
        "late": [_members(state, each) for each in others if known and _before(mine[1], place_of(each, "reads"))],
        "same_model": [each.name for each in others] if known else [],
        "known": known,
        "fields": fields(),
        "commands": commands(state, grid) if known else [],
        "previous": address("/circuits", grid=grid.name, member=member, feature=feature - 1) if feature else None,
        "next": address("/circuits", grid=grid.name, member=member, feature=feature + 1)
        if feature + 1 < width
        else None,
    }


def fields() -> list[dict[str, Any]]:
    """What the form asks besides the dictionaries: whole numbers with their bounds."""
    return [{"name": name, "label": label, **vars(CIRCUIT[name])} for name, label in SHOWN.items()]


def _asked(state: State, query: Query) -> tuple[str, int]:
    """The grid and the member of an address; without a grid, those whose features are indexed first."""
    if not query.get("grid") and state.indexes:
        grid, member = state.member_of(state.index()[1])
        if grid is not None:
            return grid.name, whole(query, "member", member)
    grid = state.grid(query.get("grid") or None)
    return grid.name, whole(query, "member", grid.rows[0]["member"])


def _members(state: State, grid: Grid) -> dict[str, Any]:
    indexed = state.indexed(grid)
    members = [
        {"member": row["member"], "identity": identity(grid.rows, row["member"]), "index": indexed.get(row["member"])}
        for row in grid.rows
    ]
    return {"grid": grid.name, "site": sites_in_words(grid.artifact.info), "members": members}


def place_of(grid: Grid, what: str) -> tuple[int, int] | None:
    """Where in the model a grid `reads`, or `acts` (a transcoder does so elsewhere), for putting in order: layer, and
    place in the block. None where it is of no one site."""
    info = grid.artifact.info
    site = info.get("target_site") if what == "acts" else None
    site = str(site or info.get("site") or "")
    if site in ("embed", "final"):
        return (-1, 0) if site == "embed" else (10**6, 0)
    named = re.fullmatch(r"layers\.(\d+)\.(\w+)", site)
    return (int(named[1]), IN_BLOCK.index(named[2])) if named and named[2] in IN_BLOCK else None


def _before(early: tuple[int, int] | None, late: tuple[int, int] | None) -> bool:
    return early is not None and late is not None and early < late


def commands(state: State, grid: Grid) -> list[str]:
    """What makes the dictionaries of another site in this folder."""
    info, source = grid.artifact.info, state.source(grid)
    model, tokens = source.parent("model").path, source.parent("tokens").path
    site = str(info.get("site") or "layers.0.mlp_act")
    named = re.fullmatch(r"layers\.(\d+)\.(\w+)", site)
    layer = 0 if named is None else int(named[1])
    other = f"layers.{layer - 1 if layer else 1}.{named[2] if named else 'mlp_act'}"
    sites, made, indexed = (str(state.path / name) for name in ("sites", f"{grid.name}-{other}", f"features-{other}"))
    width = str(info["members"][0]["width"])
    return [
        shlex.join(["monosemy", *words])
        for words in (
            ["harvest", model, tokens, "--site", site, other, "--out", sites],
            ["train", f"{sites}/{other}", "--width", width, "--out", made],
            ["features", made, "--member", "0", "--model", model, "--tokens", tokens, "--out", indexed],
        )
    ]

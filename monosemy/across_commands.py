"""The analyses of more than one dictionary on the command line: `monosemy analyse mcs | atlas | splitting RUN`, and
`parents | children`, which look from one grid of a run into another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from monosemy.analysis.circuits import CircuitSettings
from monosemy.lab_commands import chosen
from monosemy.metrics.recovery import RECOVERED, SHARED
from monosemy.terminal import Json, show

if TYPE_CHECKING:
    from monosemy.app.state import State


def mcs(
    run: Positional[Path],
    /,
    others: tuple[int, ...] = (),
    member: int | None = None,
    dictionaries: str | None = None,
    meaningful: bool = False,
    low: float = RECOVERED,
    sort: str = "mcs",
    ascending: bool = False,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Every feature of a member beside other members of its grid: S1's spreadsheet, nearest and one-to-one.

    For example: monosemy analyse mcs runs/demo --others 1 --sort density --out mcs/

    Args:
        run: A run folder.
        others: Members to compare with (default: all others).
        member: The dictionary's number (default: the one whose features are indexed).
        dictionaries: The name of the grid, where the run has several.
        meaningful: Say which features look meaningful; reads the model and the corpus.
        low: What is called a low MCS, at most.
        sort: The column that the rows are ordered by, such as mcs (with the first of `others`), density or feature.
        ascending: The lowest first; without it the highest.
        out: A folder for the result with its pictures and a spreadsheet; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.mcs_table import mcs_table

    state = _state(run)
    name, number = chosen(state, dictionaries, member)
    grid = state.grid(name)
    path, index = grid.artifact.path, state.indexed(grid).get(number)
    wanted = others or tuple(row["member"] for row in grid.rows if row["member"] != number)
    lab = state.lab(name, number) if meaningful else None
    opened = None if index is None else state.indexes[index]
    found = mcs_table((path, number), [(path, each) for each in wanted], index=opened, lab=lab, low=low)
    show(found.ordered(sort, not ascending), out, json)


def atlas(
    run: Positional[Path],
    /,
    members: tuple[int, ...] = (),
    dictionaries: str | None = None,
    codes: bool = False,
    threshold: float = SHARED,
    limit: int = 50_000,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """The same feature in the members of a grid: universal, shared, split, absorbed, orphan or dead.

    For example: monosemy analyse atlas runs/demo --members 0 1 --codes

    Args:
        run: A run folder.
        members: Dictionaries to compare (default: all of the grid).
        dictionaries: The name of the grid, where the run has several.
        codes: Compare codes on the activations, too: without it nothing is called absorbed, and dead only what the
            indexes of the members say.
        threshold: The least cosine of two features that are one.
        limit: Rows on which codes are compared, at most.
        out: A folder for the result with its pictures; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.atlas import atlas as run_atlas
    from monosemy.data.activations import ActivationStore

    state = _state(run)
    grid = state.grid(dictionaries)
    rows, here = ActivationStore.open(state.activations(grid)) if codes else None, state.indexed(grid)
    wanted = members or tuple(row["member"] for row in grid.rows)
    indexes = [state.indexes[here[member]] if member in here else None for member in wanted]
    options: dict[str, Any] = {"rows": rows, "indexes": indexes, "threshold": threshold, "limit": limit}
    show(run_atlas(grid.artifact.path, wanted, **options), out, json)


def splitting(
    run: Positional[Path],
    /,
    members: tuple[int, ...] = (),
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """What the features of a dictionary become in the next larger one.

    For example: monosemy analyse splitting runs/demo

    Args:
        run: A run folder.
        members: Dictionaries, each of another width (default: the first of each width).
        dictionaries: The name of the grid, where the run has several.
        out: A folder for the result with its pictures; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.splitting import splitting_tree

    show(splitting_tree(_state(run).grid(dictionaries).artifact.path, members or None), out, json)


def parents(
    run: Positional[Path],
    /,
    feature: int,
    early: str,
    settings: CircuitSettings,
    early_member: int | None = None,
    member: int | None = None,
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """The features of an earlier site that drive a feature, each verified by ablation.

    For example: monosemy analyse parents runs/x --feature 12 --dictionaries late --early dictionaries

    Args:
        run: A run folder with dictionaries of both sites.
        feature: The feature's number.
        early: The name of the grid at the earlier site.
        settings: How much is looked at and shown.
        early_member: Which dictionary of it (default: the one whose features are indexed).
        member: The feature's dictionary (default: the one whose features are indexed).
        dictionaries: The name of its grid, where the run has several.
        out: A folder for the result with its pictures; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.circuits import parents as run_parents

    state = _state(run)
    late = state.lab(*chosen(state, dictionaries, member))
    show(run_parents(late, feature, state.lab(*chosen(state, early, early_member)), settings=settings), out, json)


def children(
    run: Positional[Path],
    /,
    feature: int,
    late: str,
    settings: CircuitSettings,
    late_member: int | None = None,
    member: int | None = None,
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """The features of a later site that a feature drives, each verified by ablation.

    For example: monosemy analyse children runs/x --feature 12 --dictionaries dictionaries --late late

    Args:
        run: A run folder with dictionaries of both sites.
        feature: The feature's number.
        late: The name of the grid at the later site.
        settings: How much is looked at and shown.
        late_member: Which dictionary of it (default: the one whose features are indexed).
        member: The feature's dictionary (default: the one whose features are indexed).
        dictionaries: The name of its grid, where the run has several.
        out: A folder for the result with its pictures; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.circuits import children as run_children

    state = _state(run)
    early = state.lab(*chosen(state, dictionaries, member))
    show(run_children(early, feature, state.lab(*chosen(state, late, late_member)), settings=settings), out, json)


ACROSS: dict[str, Callable[..., Any]] = {
    "mcs": mcs,
    "atlas": atlas,
    "splitting": splitting,
    "parents": parents,
    "children": children,
}


def _state(run: Path) -> State:
    from monosemy.app.state import State

    return State(run)

"""All features of an index, a page at a time; and the features that fire on a token.

SQLite sorts, filters and counts (`analysis/feature_query.py`), so a million features are usable. The whole state of a
list is in its address, and goes along to the pages of its features, which know what comes before and after them in it.
"""

from __future__ import annotations

from typing import Any

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.feature_query import Beside
from monosemy.analysis.result import as_plain
from monosemy.analysis.search import features_of_token
from monosemy.analysis.verdict import VERDICTS
from monosemy.analysis.verdict_store import VerdictStore
from monosemy.app.query import Query, address, first_row, number, text, whole, word
from monosemy.app.said import BY, choices, explanations_of
from monosemy.app.state import NotFound, State
from monosemy.explain.store import COLUMNS as EXPLAINED_COLUMNS
from monosemy.explain.store import EXPLAINED, ExplanationStore
from monosemy.runtime import UsageError

ROWS = 100  # on a page

# column: (heading, meaning)
COLUMNS = {
    "id": ("feature", "its number"),
    "top_token": ("token", "text of the token on which it fires most often"),
    "density": ("density", "share of tokens on which it fires"),
    "max": ("max", "largest code"),
    "mean": ("mean", "mean code where it fires"),
    "mcs_other_seed": ("MCS", "largest cosine with a feature of the same dictionary from another seed"),
    "dead": ("dead", "fires on no token of the corpus"),
}
VERDICT = ("neurons", "is it a neuron, a few of them, or spread over many?")
EXPLANATION = ("explanation", "what people or models say it is; the best where there are several")
SCORE = ("score", "of the explanation, as its author scores")
NUMBERS = ("density", "max", "mean", "mcs_other_seed")
BOUNDS = [f"{column}_{side}" for column in NUMBERS for side in ("min", "max")]
LIST = ("sort", "desc", "dead", "verdict", "q", "explanation", BY, *BOUNDS)  # what of an address says which list it is


def feature_list(state: State, query: Query) -> dict[str, Any]:
    """A page of the table that the address asks for, and the addresses of the pages beside it.

    Raises UsageError for a column or a number that cannot be, NotFound for an index, or explanations, not here.
    """
    name, index = state.index(query.get("index") or None)
    at, verdicts, explanations = whole(query, "at", 0), state.verdicts[name], explanations_of(state, name, query)
    asked = asked_for(query, verdicts, explanations)
    rows, total = index.page(limit=ROWS, offset=at, **asked)
    if at != (first := first_row(query, total, ROWS)):
        at = first
        rows, total = index.page(limit=ROWS, offset=at, **asked)
    grid, member = state.member_of(index)
    kept = {"index": name, **list_state(query)}
    return {
        "index": name,
        "indexes": list(state.indexes),
        "grid": None if grid is None else grid.name,
        "member": member,
        "n_features": index.n_features,
        "detection_limit": index.detection_limit,
        "columns": columns_of(verdicts, explanations),
        "verdicts": None if verdicts is None else verdicts.counts,
        "explained": None if explanations is None else explanations.explained,
        "by": query.get(BY) or None,
        "stores": choices(state, name, explanations, "/features", kept),
        "sort": asked["sort"],
        "descending": asked["descending"],
        "state": kept,
        "rows": [
            {**row, "href": address(f"/features/{row['id']}", **kept, at=at + place)} for place, row in enumerate(rows)
        ],
        "total": total,
        "first": at,
        "previous": address("/features", **kept, at=max(0, at - ROWS)) if at else None,
        "next": address("/features", **kept, at=at + ROWS) if at + ROWS < total else None,
    }


def columns_of(
    verdicts: VerdictStore | None, explanations: ExplanationStore | None = None
) -> dict[str, tuple[str, str]]:
    """The columns of a table: the index's own and those of what lies beside it."""
    columns = dict(COLUMNS)
    if verdicts is not None:
        columns["verdict"] = VERDICT
    if explanations is not None:
        columns["explanation"] = EXPLANATION
        if explanations.scored:
            columns["explanation_score"] = SCORE
    return columns


def asked_for(
    query: Query, verdicts: VerdictStore | None, explanations: ExplanationStore | None = None
) -> dict[str, Any]:
    """The order and the filters that an address asks for, as `FeatureIndex.page` takes them. Raises UsageError."""
    if query.get("verdict") and verdicts is None:
        raise UsageError("`verdict`: there are none of this index here; make some with `monosemy verdicts`")
    meaning = text(query, "explanation")
    if meaning and explanations is None:
        raise UsageError("`explanation`: there are none of this index here; bring some with `monosemy explanations`")
    verdict = word(query, "verdict", ("any", *VERDICTS), "any")
    dead = word(query, "dead", ("any", "yes", "no"), "any")
    bounds = {name: number(query, name) for name in BOUNDS}
    contained = text(query, "q")
    return {
        "sort": word(query, "sort", columns_of(verdicts, explanations), "id"),
        "descending": word(query, "desc", ("0", "1"), "0") == "1",
        **{name: bound for name, bound in bounds.items() if bound is not None},
        **({} if dead == "any" else {"dead": dead == "yes"}),
        **({"top_token": contained} if contained else {}),
        **({} if verdict == "any" else {"verdict": verdict}),
        **({"explanation": meaning} if meaning else {}),
        "beside": [
            *([] if verdicts is None else [verdicts.beside]),
            *([] if explanations is None else [Beside(explanations.path, EXPLAINED, EXPLAINED_COLUMNS)]),
        ],
    }


def list_state(query: Query) -> dict[str, str]:
    """The parameters of an address that say which list it is."""
    return {name: query[name] for name in LIST if query.get(name)}


def beside(
    index: FeatureIndex,
    verdicts: VerdictStore | None,
    i: int,
    query: Query,
    explanations: ExplanationStore | None = None,
) -> tuple[str | None, str | None]:
    """The addresses of the features before and after `i`: in the list that the address came from, else by number."""
    kept = {"index": query.get("index", ""), **list_state(query)}
    if query.get("at"):
        at = whole(query, "at", 0)
        first = max(0, at - 1)
        rows, _ = index.page(limit=3, offset=first, **asked_for(query, verdicts, explanations))
        place = at - first
        if len(rows) > place and rows[place]["id"] == i:
            links = [address(f"/features/{row['id']}", **kept, at=first + j) for j, row in enumerate(rows)]
            return links[place - 1] if place else None, links[place + 1] if len(rows) > place + 1 else None
    own = {"index": query.get("index", ""), BY: query.get(BY)}
    return (
        address(f"/features/{i - 1}", **own) if i else None,
        address(f"/features/{i + 1}", **own) if i + 1 < index.n_features else None,
    )


def token_features(state: State, query: Query) -> dict[str, Any]:
    """The features that fire on the token whose text is `q`. Raises NotFound where the corpus has no such token."""
    name, index = state.index(query.get("index") or None)
    wanted = text(query, "q")
    try:
        found = features_of_token(index, wanted)
    except UsageError as error:
        raise NotFound(str(error)) from error
    lists = [
        ("Most telling", "by F1 of the feature's firings and the token's occurrences", found.telling),
        ("Strongest", "by mean code over the token's occurrences", found.strong),
    ]
    return {
        "index": name,
        "token": found.token,
        "text": found.text,
        "seen": found.seen,
        "lists": [
            {
                "heading": heading,
                "note": note,
                "features": [
                    {**as_plain(use), "href": address(f"/features/{use.feature}", index=name)} for use in uses
                ],
            }
            for heading, note, uses in lists
        ],
    }

"""What is said of an index's features: which of several stores of explanations a page shows, and where the others are.

The store is named in the address (`by`), so a link repeats it; without it, it is the first. Stores are not mixed: each
sorts by its own scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monosemy.app.query import Query, address
from monosemy.app.state import NotFound, State
from monosemy.explain.store import ExplanationStore

BY = "by"
SCORE = "explanation_score"  # the column that only a store with scores has
AUTHORS = 3  # of a store, named


def explanations_of(state: State, index: str, query: Query) -> ExplanationStore | None:
    """The explanations of an index that an address asks for; None where there are none. Raises NotFound."""
    stores = {store.artifact.path.name: store for store in state.explanations[index]}
    name = query.get(BY) or next(iter(stores), None)
    if name is None:
        return None
    if name not in stores:
        there = f"must be one of {', '.join(stores)}" if stores else "is not here: there are no explanations"
        raise NotFound(f"`by` (={name[:80]!r}) {there} of {index}")
    return stores[name]


def choices(
    state: State, index: str, shown: ExplanationStore | None, path: str, kept: Mapping[str, object]
) -> list[dict[str, Any]]:
    """Every store of an index, with the address of the page at `path`, with the parameters `kept`, that shows it."""
    found = []
    for store in state.explanations[index]:
        name, authors = store.artifact.path.name, [author for author in store.authors if author]
        given = {**kept, BY: name}
        if given.get("sort") == SCORE and not store.scored:
            given |= {"sort": None, "desc": None}
        found.append(
            {
                "name": name,
                "explained": store.explained,
                "authors": authors[:AUTHORS],
                "more": len(authors[AUTHORS:]),
                "shown": store is shown,
                "href": address(path, **given),
            }
        )
    return found


def explained(explanations: ExplanationStore | None, i: int) -> list[dict[str, Any]]:
    """What is said of feature `i`, the best first, for its page."""
    found = [] if explanations is None else explanations.of(i)
    return [{"text": each.text, "author": each.author, "score": each.score} for each in found]

"""Search by a text: which dictionary's features, and the text to begin with. The search itself is live (`search`)."""

from __future__ import annotations

from typing import Any

from monosemy.app.query import Query, text
from monosemy.app.state import State


def search_data(state: State, query: Query) -> dict[str, Any]:
    """The index that is searched, its dictionary, and the text in the address. Raises NotFound without an index."""
    name, index = state.index(query.get("index") or None)
    grid, member = state.member_of(index)
    return {
        "index": name,
        "indexes": list(state.indexes),
        "grid": None if grid is None else grid.name,
        "member": member,
        "text": text(query, "text"),
    }

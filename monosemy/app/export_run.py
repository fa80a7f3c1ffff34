"""Which features and tokens of a run have their page in one file, and what its tables hold (`export.py`)."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from monosemy.analysis.feature import FeatureIndex
from monosemy.app.feature_list import asked_for, columns_of
from monosemy.app.feature_page import TOKENS
from monosemy.app.query import MAX_TEXT, address
from monosemy.app.review_queue import Queued, QueueSettings, queue_of
from monosemy.app.reviews import FILE, Reviews
from monosemy.app.said import explanations_of
from monosemy.app.state import State

MOST_ROWS, ROWS_AT_ONCE = 50_000, 10_000  # of a feature table
MOST_TOKENS = 500  # of each index, with their pages
LIKEST = ("neuron", "correlation")  # what a verdict's cell says besides


class Kept:
    """What of a run goes into the file: features by `settings`, those that were reviewed, the most frequent tokens."""

    def __init__(self, state: State, settings: QueueSettings) -> None:
        self.state = state
        self.sessions = _sessions(state)
        self.reviewed: dict[str, dict[int, list[Any]]] = {name: defaultdict(list) for name in state.indexes}
        for session in self.sessions:
            for verdict in session["verdicts"] if session["index"] else ():
                self.reviewed[session["index"]][verdict["feature"]].append(verdict)
        self.chosen = {name: chosen_features(index, settings) for name, index in state.indexes.items()}
        self._texts = {name: _texts(index) for name, index in state.indexes.items()}

    def features(self, name: str) -> list[int]:
        """Features of an index that have their page, by number."""
        return sorted({each.feature for each in self.chosen[name]} | self.reviewed[name].keys())

    def tokens(self, name: str) -> list[str]:
        """Tokens of an index that have their page, by their text."""
        return self._texts[name][:MOST_TOKENS]

    def words(self, name: str) -> str:
        """Both in words."""
        index, shown = self.state.indexes[name], self.features(name)
        counts = Counter(each.chosen for each in self.chosen[name])
        rules = {"top": "of the highest MCS", "random": "drawn at random from those alive"}
        parts = [f"{counts[rule]:,} {said}" for rule, said in rules.items() if counts[rule]]
        if self.reviewed[name]:
            parts.append(f"{len(self.reviewed[name]):,} reviewed")
        cut = f" The table holds the {MOST_ROWS:,} densest and these." if index.n_features > MOST_ROWS else ""
        texts = len(self._texts[name])
        most = "all" if texts <= MOST_TOKENS else f"the {MOST_TOKENS:,} most frequent of {texts:,}"
        found = f" The search by token knows {most} tokens; a search by text takes the model." if texts else ""
        said = f"{len(shown):,} of {index.n_features:,} features have their page in this file: {', '.join(parts)}."
        return f"{said}{cut}{found}"

    def rows(self, name: str) -> dict[str, list[Any]]:
        """The feature table by columns."""
        index, verdicts = self.state.indexes[name], self.state.verdicts[name]
        explanations = explanations_of(self.state, name, {})
        asked = asked_for({"sort": "density", "desc": "1"}, verdicts, explanations)
        rows: dict[int, Any] = {}
        while len(rows) < min(MOST_ROWS, index.n_features):
            limit = min(ROWS_AT_ONCE, MOST_ROWS - len(rows))
            rows |= {row["id"]: row for row in index.page(limit=limit, offset=len(rows), **asked)[0]}
        for i in self.features(name):
            if i not in rows:
                rows[i] = index.page(limit=1, id=i, **asked)[0][0]
        columns = [*columns_of(verdicts, explanations), *(LIKEST if verdicts is not None else ())]
        return {column: [rows[i][column] for i in sorted(rows)] for column in columns}


def chosen_features(index: FeatureIndex, settings: QueueSettings) -> list[Queued]:
    """The features of an index that get their page, and by which rule each was chosen."""
    alive = index.rows("SELECT id, mcs_other_seed FROM feature WHERE NOT dead")
    mcs = {row["id"]: row["mcs_other_seed"] for row in alive}
    known = any(value is not None for value in mcs.values())
    rule = "random" if settings.rule == "both" and not known else settings.rule
    return queue_of(mcs, QueueSettings(rule, settings.count, settings.seed))


def _texts(index: FeatureIndex) -> list[str]:
    """The texts of an index's tokens, the most frequent first; none where it was made before it counted them."""
    if TOKENS not in index.artifact.manifest["files"]:
        return []
    rows = index.rows("SELECT text FROM token GROUP BY text ORDER BY max(count) DESC, min(id)")
    return [row["text"] for row in rows if 0 < len(row["text"]) <= MAX_TEXT]


def _sessions(state: State) -> list[dict[str, Any]]:
    """The review sessions with the verdicts that stand, each row with what its feature's page and the overview say."""
    reviews, found = Reviews(state.path / FILE), []
    indexes = {
        (index.artifact.parent("dictionaries").id, index.artifact.config["member"]): name
        for name, index in reversed(state.indexes.items())
    }
    for session in reviews.sessions():
        name = indexes.get((session.dictionaries, session.member))
        table = reviews.table(session.id)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        for row in rows:
            href = None if name is None else address(f"/features/{row['feature']}", index=name)
            row |= {"session": session.name, "href": href}
        if rows:
            found.append({**vars(session), "index": name, "verdicts": rows})
    return found

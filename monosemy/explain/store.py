"""The stage features → explanations: what people and models say of the features of an index, kept beside it.

The artifact is `explanations.sqlite`. Its table `explanation` has a row for each; `explained` a row for each feature,
with the texts of all of its explanations, a line each, the best first, and the best one's score, so that a page of
features can be sorted and filtered by them.

What a model says comes from a file as well (`rows.py`), until this library asks one itself.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from monosemy.artifact import Artifact, load, make
from monosemy.draft import Draft
from monosemy.explain.rows import LONGEST_NAME, Explanation, Explanations, read_explanations
from monosemy.files import file_digest, new_database
from monosemy.runtime import UsageError

FILE, EXPLAINED = "explanations.sqlite", "explained"
COLUMNS = (("explanation", "text"), ("explanation_score", "number"))
"""Of the table `explained`, beside `id`, the feature: name and kind."""


class Indexed(Protocol):
    """A feature index that is open."""

    artifact: Artifact


class ExplanationStore:
    """Finished explanations. Make them with `explanations`, open them with `ExplanationStore.open`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.path = artifact.path / FILE
        """The database."""
        self.count: int = artifact.info["explanations"]
        self.explained: int = artifact.info["explained"]
        """Features that have any."""
        self.scored: int = artifact.info["scored"]
        """Explanations that have a score."""
        self.authors: dict[str, int] = artifact.info["authors"]
        """Explanations by author; of "" where nobody said who."""
        self.left_out: dict[str, int] = artifact.info["left_out"]
        """Rows of the files that were repeated or without a text."""

    @classmethod
    def open(cls, path: str | Path | ExplanationStore) -> ExplanationStore:
        """Open and check the explanations at `path`; what is open already is given back."""
        return path if isinstance(path, ExplanationStore) else cls(load(path, "explanations"))

    def of(self, feature: int) -> list[Explanation]:
        """A feature's explanations, the best score first, those without a score last; none of an unknown feature."""
        with closing(sqlite3.connect(f"{self.path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(
                "SELECT feature, text, author, score FROM explanation WHERE feature = ? "
                "ORDER BY score IS NULL, score DESC, id",
                (feature,),
            )
            return [Explanation(*row) for row in rows]


def explanations(
    features: str | Path | Indexed,
    source: str | Path | Sequence[str | Path],
    *,
    author: str | None = None,
    out: str | Path,
) -> ExplanationStore:
    """The explanations in the file or files `source` (`rows.py` says of what form), of the features of an index, into
    the artifact `out`; what several files say alike is kept once.

    `author` is that of rows that name none. Raises UsageError for no file, one that cannot be read, or one that does
    not fit the index.
    """
    index = load(features, "features") if isinstance(features, str | Path) else features.artifact
    if author is not None and not 0 < len(author := author.strip()) <= LONGEST_NAME:
        raise UsageError(f"`author` has {len(author)} characters; it must have 1 to {LONGEST_NAME}, or be left out")
    paths = [Path(each) for each in ([source] if isinstance(source, str | Path) else source)]
    if not paths:
        raise UsageError("`source` is empty; name at least one file of explanations")
    found = _together([read_explanations(path, index.info["n_features"], author) for path in paths])
    config = {"source": [path.name for path in paths], "sha256": [file_digest(path) for path in paths]}

    def write(draft: Draft) -> dict[str, Any]:
        _write(draft.file(FILE), found.rows, index.info["n_features"])
        return _about(found)

    return ExplanationStore(
        make(out, "explanations", {**config, "author": author}, {"features": index.as_parent()}, write)
    )


def _together(found: Sequence[Explanations]) -> Explanations:
    """Those of all files, in their order; the same text of the same author for the same feature once."""
    rows = [row for each in found for row in each.rows]
    once = {(row.feature, row.text, row.author): row for row in reversed(rows)}  # of several the first stays
    repeated = sum(each.repeated for each in found) + len(rows) - len(once)
    return Explanations(list(reversed(once.values())), repeated, sum(each.empty for each in found))


def _about(found: Explanations) -> dict[str, Any]:
    return {
        "explanations": len(found.rows),
        "explained": len({each.feature for each in found.rows}),
        "scored": sum(each.score is not None for each in found.rows),
        "authors": dict(Counter(each.author or "" for each in found.rows).most_common()),
        "left_out": {"repeated": found.repeated, "without a text": found.empty},
    }


def _write(path: Path, rows: Sequence[Explanation], n_features: int) -> None:
    with new_database(path) as connection:
        connection.execute(
            "CREATE TABLE explanation (id INTEGER PRIMARY KEY, feature INTEGER NOT NULL, text TEXT NOT NULL, "
            "author TEXT, score REAL)"
        )
        connection.executemany(
            "INSERT INTO explanation (feature, text, author, score) VALUES (?, ?, ?, ?)",
            ((each.feature, each.text, each.author, each.score) for each in rows),
        )
        connection.execute("CREATE INDEX explanation_feature ON explanation (feature)")
        kinds = ", ".join(f"{name} {'TEXT' if kind == 'text' else 'REAL'}" for name, kind in COLUMNS)
        connection.execute(f"CREATE TABLE {EXPLAINED} (id INTEGER PRIMARY KEY, {kinds})")
        connection.executemany(f"INSERT INTO {EXPLAINED} VALUES (?, ?, ?)", _by_feature(rows, n_features))
        for name, _ in COLUMNS:
            connection.execute(f"CREATE INDEX {EXPLAINED}_{name} ON {EXPLAINED} ({name})")


def _by_feature(rows: Sequence[Explanation], n_features: int) -> Iterator[tuple[int, str | None, float | None]]:
    """A row for each feature, the best first as in `ExplanationStore.of`."""
    own: defaultdict[int, list[Explanation]] = defaultdict(list)
    for each in rows:
        own[each.feature].append(each)
    for feature in range(n_features):
        mine = sorted(own.get(feature, ()), key=lambda each: (each.score is None, -(each.score or 0.0)))
        texts = "\n".join(each.text for each in mine)
        yield (feature, texts, mine[0].score) if mine else (feature, None, None)

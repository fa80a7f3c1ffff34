"""The rows of a feature index in SQLite: written once, then only read (a page at a time: `feature_query.py`).

Every column that can be sorted by has an index, so that a page of a million features takes as long as one of a
thousand.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from monosemy.files import new_database
from monosemy.runtime import UsageError

COLUMNS = {
    "id": "INTEGER PRIMARY KEY",
    "density": "REAL NOT NULL",
    "count": "INTEGER NOT NULL",
    "max": "REAL NOT NULL",
    "mean": "REAL NOT NULL",
    "dead": "INTEGER NOT NULL",
    "mcs_other_seed": "REAL",
    "top_token": "TEXT",
}
TEXT = "top_token"
INDEXED = [name for name in COLUMNS if name not in ("id", "dead")]


def write_tables(
    path: Path,
    features: Iterable[Sequence[Any]],
    documents: Iterable[tuple[int, str, int]],
    tokens: Iterable[tuple[int, str, int]],
) -> None:
    """A new database: `feature` (rows in the order of COLUMNS), `document` (number, name, first place in the token
    stream) and `token` (id, text, occurrences)."""
    with new_database(path) as connection:
        connection.execute(f"CREATE TABLE feature ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
        connection.executemany(f"INSERT INTO feature VALUES ({', '.join('?' * len(COLUMNS))})", features)
        for name in INDEXED:
            connection.execute(f"CREATE INDEX feature_{name} ON feature ({name})")
        connection.execute("CREATE TABLE document (id INTEGER PRIMARY KEY, name TEXT NOT NULL, start INTEGER NOT NULL)")
        connection.executemany("INSERT INTO document VALUES (?, ?, ?)", documents)
        connection.execute("CREATE TABLE token (id INTEGER PRIMARY KEY, text TEXT NOT NULL, count INTEGER NOT NULL)")
        connection.executemany("INSERT INTO token VALUES (?, ?, ?)", tokens)
        connection.execute("CREATE INDEX token_text ON token (text)")


def rows_of(path: Path, query: str, *values: Any, attached: Sequence[Path] = ()) -> list[dict[str, Any]]:
    """What a query finds, read only; each call has its own connection, so threads do not meet.

    The databases `attached` are known in it as beside0, beside1, ….
    """
    with _opened(path, attached) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query, values)]


def column_of(path: Path, name: str) -> list[Any]:
    """One column of `feature`, in the order of the features."""
    if name not in COLUMNS:
        raise UsageError(f"`column` (={name!r}) must be one of {', '.join(COLUMNS)}")
    with _opened(path) as connection:
        return [value for (value,) in connection.execute(f"SELECT {name} FROM feature ORDER BY id")]


@contextmanager
def _opened(path: Path, attached: Sequence[Path] = ()) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(_read_only(path), uri=True)) as connection:
        for number, each in enumerate(attached):
            connection.execute(f"ATTACH ? AS beside{number}", (_read_only(each),))
        yield connection


def _read_only(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro"

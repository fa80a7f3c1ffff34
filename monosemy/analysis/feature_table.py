"""The rows of a feature index in SQLite: written once, then only read (a page at a time: `feature_query.py`).

Every column that can be sorted by has an index, so that a page of a million features takes as long as one of a
thousand. Opening a database (its schema is read and parsed) takes longer than most queries, so connections stay open.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
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
INDEXED = [name for name in COLUMNS if name != "id"]
IDLE = 16  # connections that are kept open
MAPPED = 2**28  # bytes of a file that are mapped, not read: a look-up among a million rows takes half the time


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
    """What a query finds, read only; from any thread, for no two share a connection at a time.

    The databases `attached` are known in it as beside0, beside1, ….
    """
    with _opened(path, attached) as connection, closing(connection.execute(query, values)) as found:
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found]


def column_of(path: Path, name: str) -> list[Any]:
    """One column of `feature`, in the order of the features."""
    if name not in COLUMNS:
        raise UsageError(f"`column` (={name!r}) must be one of {', '.join(COLUMNS)}")
    with _opened(path) as connection, closing(connection.execute(f"SELECT {name} FROM feature ORDER BY id")) as found:
        return [value for (value,) in found]


# Files (and the process: a connection must not be used after a fork) with a connection to them that nobody uses now.
_Key = tuple[tuple[int, ...], ...]
_idle: deque[tuple[_Key, sqlite3.Connection]] = deque()
_lock = Lock()


@contextmanager
def _opened(path: Path, attached: Sequence[Path] = ()) -> Iterator[sqlite3.Connection]:
    """A connection of one's own: one that was left open, where there is one to these very files."""
    key = ((os.getpid(),), *(_identity(each) for each in (path, *attached)))
    connection = _taken(key) or _connected(path, attached)
    try:
        yield connection
    except BaseException:
        connection.close()
        raise
    with _lock:
        _idle.append((key, connection))
        least = _idle.popleft()[1] if len(_idle) > IDLE else None
    if least is not None:
        least.close()


def _taken(key: _Key) -> sqlite3.Connection | None:
    with _lock:
        for place in range(len(_idle) - 1, -1, -1):
            if _idle[place][0] == key:
                connection = _idle[place][1]
                del _idle[place]
                return connection
    return None


def _connected(path: Path, attached: Sequence[Path]) -> sqlite3.Connection:
    connection = sqlite3.connect(_read_only(path), uri=True, check_same_thread=False)
    for number, each in enumerate(attached):
        connection.execute(f"ATTACH ? AS beside{number}", (_read_only(each),))
    connection.execute(f"PRAGMA mmap_size = {MAPPED}")
    return connection


def _identity(path: Path) -> tuple[int, ...]:
    """What tells a file from another that takes its place."""
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size


def _read_only(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro"

"""The rows of a feature index in SQLite: written once, then read a page at a time.

Every column that can be sorted by has an index, so that a page of a million features takes as long as one of a
thousand. Names in a query come from `COLUMNS` and nowhere else; values are bound, never pasted.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
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
MOST_ROWS = 10_000  # of a page
FEW = 20_000  # features that are sorted in no time


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


def rows_of(path: Path, query: str, *values: Any) -> list[dict[str, Any]]:
    """What a query finds, read only; each call has its own connection, so threads do not meet."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(query, values)]


def column_of(path: Path, name: str) -> list[Any]:
    """One column of `feature`, in the order of the features."""
    if name not in COLUMNS:
        raise UsageError(f"`column` (={name!r}) must be one of {', '.join(COLUMNS)}")
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        return [value for (value,) in connection.execute(f"SELECT {name} FROM feature ORDER BY id")]


def page(
    path: Path, sort: str, descending: bool, limit: int, offset: int, filters: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], int]:
    """`FeatureIndex.page` on the file at `path`."""
    if sort not in COLUMNS:
        raise UsageError(f"`sort` (={sort!r}) must be one of {', '.join(COLUMNS)}")
    if not 1 <= limit <= MOST_ROWS:
        raise UsageError(f"`limit` (={limit}) must be from 1 to {MOST_ROWS}")
    if not 0 <= offset < 2**63:
        raise UsageError(f"`offset` (={offset}) must be at least 0, and a number that fits into 63 bits")
    found = [_condition(name, value) for name, value in filters.items()]
    values = [value for condition in found for value in condition.values]
    several = len({condition.column for condition in found}) > 1
    scan = "NOT INDEXED" if several else ""  # one index and a look-up a row would take longer than reading all rows
    (count,) = rows_of(path, f"SELECT COUNT(*) AS total FROM feature {scan} {_where(found)}", *values)
    few = count["total"] < FEW  # find and sort them; where there are many, go along the index of the order instead
    direction, plus = "DESC" if descending else "ASC", "+" if few and sort != "id" else ""
    order = f"{plus}{sort} {direction}" + ("" if sort == "id" else f", id {direction}")
    where = _where(found, plus="" if few else "+", besides=sort)
    rows = rows_of(path, f"SELECT * FROM feature {where} ORDER BY {order} LIMIT ? OFFSET ?", *values, limit, offset)
    return [{**row, "dead": bool(row["dead"])} for row in rows], count["total"]


@dataclass(frozen=True)
class Condition:
    """SQL that follows a column's name, and what is bound in it."""

    column: str
    sql: str
    values: list[Any]


def _where(conditions: Sequence[Condition], plus: str = "", besides: str = "") -> str:
    """The conditions as SQL. A plus before a column, all `besides` one, keeps SQLite from using its index."""
    joined = " AND ".join(f"{'' if c.column == besides else plus}{c.column} {c.sql}" for c in conditions)
    return f"WHERE {joined}" if joined else ""


def _condition(name: str, value: Any) -> Condition:
    column, sign = name, "="
    for suffix, comparison in (("_min", ">="), ("_max", "<=")):
        if name.endswith(suffix) and name.removesuffix(suffix) in COLUMNS:
            column, sign = name.removesuffix(suffix), comparison
    if column not in COLUMNS or (column == TEXT and sign != "="):
        raise UsageError(
            f"`{name}` is not a filter: use a column ({', '.join(COLUMNS)}), or a number's with _min or _max"
        )
    if value is None:
        if sign != "=":
            raise UsageError(f"`{name}` (=None) must be a number; leave it out for no bound")
        return Condition(column, "IS NULL", [])
    if column == TEXT:
        return Condition(column, "IN (SELECT text FROM token WHERE instr(lower(text), lower(?)) > 0)", [str(value)])
    return Condition(column, f"{sign} ?", [_number(name, value)])


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"`{name}` (={value!r}) must be a number") from error
    if math.isnan(number):
        raise UsageError(f"`{name}` (=nan) must be a number")
    return number

"""A page of the feature table: in any order, with any filters, with other tables of the same features beside it.

A table beside (`Beside`) lies in an SQLite file of its own, so what is found out about features later, or told by
people, needs no change of the index: a page reads both files, read only, and sorts and filters by the columns of
either. It has one row for each feature, so it may lead as well as follow.

SQLite is told which way to go. Few features (FEW) that a filter leaves are found and sorted. Where there are many, the
table of the order leads (CROSS JOIN keeps its place) along the index of that column, and the filters are looked at on
the way; a plus before a column keeps SQLite from using its index. What a page shows is looked up for its own rows only,
once it is known which they are; deep pages are looked for from the nearer end. Counting costs most, and an index never
changes, so totals are kept.

Names in a query come from COLUMNS and from tables beside, whose names are checked; values are bound, never pasted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from monosemy.analysis.feature_table import COLUMNS, TEXT, rows_of
from monosemy.runtime import UsageError

MOST_ROWS = 10_000  # of a page
FEW = 20_000  # features that are sorted in no time
TOTALS = 256  # counts that are kept
KINDS = ("number", "word", "text")
NAME = re.compile(r"[a-z][a-z0-9_]*")
BOUNDS = (("_min", ">="), ("_max", "<="))


@dataclass(frozen=True)
class Beside:
    """More columns of the same features: a table with a row for each of them, its `id` the INTEGER PRIMARY KEY.

    Raises UsageError for names that are no plain names or that a page could mistake for others.
    """

    path: Path
    """The SQLite file."""
    table: str
    columns: tuple[tuple[str, str], ...]
    """Name and kind: a "number" is filtered by equality and bounds, a "word" by equality, a "text" by what it contains.
    A column without an index of its own in the file cannot be sorted by quickly."""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.columns]
        for name in (self.table, *names):
            if not NAME.fullmatch(name) or name in COLUMNS or name.endswith(("_min", "_max")):
                raise UsageError(f"`{name}` is no name of a table or column beside the features; take another")
        for name, kind in self.columns:
            if kind not in KINDS:
                raise UsageError(f"`kind` (={kind!r}) of `{name}` must be one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Column:
    """A column, the alias of its table in a query, and its kind."""

    name: str
    alias: str
    kind: str

    @property
    def sql(self) -> str:
        """As a query names it."""
        return f"{self.alias}.{self.name}"


@dataclass(frozen=True)
class Condition:
    """A column, the SQL that follows its name, and what is bound in it."""

    column: Column
    sql: str
    values: tuple[Any, ...]


class FeatureQuery:
    """Pages of the database at `path`, which does not change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = lru_cache(TOTALS)(self._counted)

    def page(
        self,
        sort: str,
        descending: bool,
        limit: int,
        offset: int,
        filters: Mapping[str, Any],
        beside: Sequence[Beside] = (),
    ) -> tuple[list[dict[str, Any]], int]:
        """`FeatureIndex.page`."""
        if not 1 <= limit <= MOST_ROWS:
            raise UsageError(f"`limit` (={limit}) must be from 1 to {MOST_ROWS}")
        if not 0 <= offset < 2**63:
            raise UsageError(f"`offset` (={offset}) must be at least 0, and a number that fits into 63 bits")
        columns = _columns(beside)
        if sort not in columns:
            raise UsageError(f"`sort` (={sort!r}) must be one of {', '.join(columns)}")
        found = [_condition(columns, name, value) for name, value in filters.items()]
        self._check_complete(beside)
        total = self._total(found, beside)
        few, end = bool(found) and total < FEW, min(offset + limit, total)
        if offset <= total // 2:
            ids = self._ids(found, columns[sort], descending, few, (end - offset, offset), beside)
        else:  # it is nearer from the other end
            place = max(0, end - offset), total - end
            ids = self._ids(found, columns[sort], not descending, few, place, beside)[::-1]
        return self._rows(columns, ids, beside), total

    def _ids(
        self,
        found: Sequence[Condition],
        by: Column,
        descending: bool,
        few: bool,
        place: tuple[int, int],
        beside: Sequence[Beside],
    ) -> list[int]:
        """The features of a page in their order. Only tables that say which are read: all else is looked up later."""
        aliases = {by.alias: None, **dict.fromkeys(condition.column.alias for condition in found)}  # the order's first
        sources = _sources(list(aliases), beside, "JOIN" if few else "CROSS JOIN")
        direction, plus = "DESC" if descending else "ASC", "+" if few and by.name != "id" else ""
        order = f"{plus}{by.sql} {direction}" + ("" if by.name == "id" else f", {by.alias}.id {direction}")
        where = _where(found, plus="" if few else "+", besides=by)
        query = f"SELECT {by.alias}.id AS id FROM {sources} {where} ORDER BY {order} LIMIT ? OFFSET ?"
        return [row["id"] for row in rows_of(self._path, query, *_bound(found), *place, attached=_files(beside))]

    def _rows(
        self, columns: Mapping[str, Column], ids: Sequence[int], beside: Sequence[Beside]
    ) -> list[dict[str, Any]]:
        """What the tables say of these features, in this order."""
        sources = _sources(list(dict.fromkeys(column.alias for column in columns.values())), beside, "JOIN")
        shown, marks = ", ".join(column.sql for column in columns.values()), ", ".join("?" * len(ids))
        query = f"SELECT {shown} FROM {sources} WHERE feature.id IN ({marks})"
        rows = {row["id"]: row for row in rows_of(self._path, query, *ids, attached=_files(beside))}
        return [{**rows[i], "dead": bool(rows[i]["dead"])} for i in ids]

    def _total(self, found: Sequence[Condition], beside: Sequence[Beside]) -> int:
        """How many features the conditions leave: only their tables are read."""
        aliases = list(dict.fromkeys(condition.column.alias for condition in found)) or ["feature"]
        several = len({condition.column for condition in found}) > 1
        hint = "NOT INDEXED" if several else ""  # one index and a look-up a row would take longer than reading all rows
        sources = _sources(aliases, beside, "JOIN", hint)
        return self._count(f"SELECT COUNT(*) AS total FROM {sources} {_where(found)}", _bound(found), _files(beside))

    def _counted(self, query: str, values: tuple[Any, ...], files: tuple[Path, ...]) -> int:
        (row,) = rows_of(self._path, query, *values, attached=files)
        return int(row["total"])

    def _check_complete(self, beside: Sequence[Beside]) -> None:
        """A table that lacks features would hide them."""
        features = self._count("SELECT COUNT(*) AS total FROM feature", (), ())
        for each in beside:
            count = self._count(f"SELECT COUNT(*) AS total FROM {_sources(['b0'], [each], '')}", (), (each.path,))
            if count != features:
                raise UsageError(
                    f"{each.path}: has {count} rows for the {features} features of {self._path.parent}; "
                    f"give a table with a row for each"
                )


def _columns(beside: Sequence[Beside]) -> dict[str, Column]:
    """All columns by name, the index's own first."""
    columns = {name: Column(name, "feature", "text" if name == TEXT else "number") for name in COLUMNS}
    for number, each in enumerate(beside):
        for name, kind in each.columns:
            if name in columns:
                raise UsageError(f"{each.path}: column `{name}` is there already; a column has one meaning on a page")
            columns[name] = Column(name, f"b{number}", kind)
    return columns


def _files(beside: Sequence[Beside]) -> tuple[Path, ...]:
    return tuple(each.path for each in beside)


def _sources(aliases: Sequence[str], beside: Sequence[Beside], join: str, hint: str = "") -> str:
    """The tables of these aliases, joined feature by feature."""
    named = {f"b{number}": f"beside{number}.{each.table} AS b{number}" for number, each in enumerate(beside)}
    first, *rest = aliases
    joined = [f"{join} {named.get(alias, alias)} {hint} ON {alias}.id = {first}.id" for alias in rest]
    return " ".join([named.get(first, first), hint, *joined])


def _where(conditions: Sequence[Condition], plus: str = "", besides: Column | None = None) -> str:
    """The conditions as SQL, with `plus` before all columns but `besides`."""
    joined = " AND ".join(f"{'' if c.column == besides else plus}{c.column.sql} {c.sql}" for c in conditions)
    return f"WHERE {joined}" if joined else ""


def _bound(conditions: Sequence[Condition]) -> tuple[Any, ...]:
    return tuple(value for condition in conditions for value in condition.values)


def _condition(columns: Mapping[str, Column], name: str, value: Any) -> Condition:
    column, sign = columns.get(name), "="
    for suffix, comparison in BOUNDS:
        bounded = columns.get(name.removesuffix(suffix)) if name.endswith(suffix) else None
        if bounded is not None and bounded.kind == "number":
            column, sign = bounded, comparison
    if column is None:
        raise UsageError(
            f"`{name}` is not a filter: use a column ({', '.join(columns)}), or a number's with _min or _max"
        )
    if value is None:
        if sign != "=":
            raise UsageError(f"`{name}` (=None) must be a number; leave it out for no bound")
        return Condition(column, "IS NULL", ())
    if column.kind == "number":
        return Condition(column, f"{sign} ?", (_number(name, value),))
    if column.kind == "word":
        return Condition(column, "= ?", (str(value),))
    if column.name == TEXT:  # few texts, each once in a table of its own
        return Condition(column, "IN (SELECT text FROM token WHERE instr(lower(text), lower(?)) > 0)", (str(value),))
    return Condition(column, f"IS NOT NULL AND instr(lower({column.sql}), lower(?)) > 0", (str(value),))


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"`{name}` (={value!r}) must be a number") from error
    if math.isnan(number):
        raise UsageError(f"`{name}` (=nan) must be a number")
    return number

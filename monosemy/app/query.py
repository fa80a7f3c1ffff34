"""What the address of a page may say: typed reading of its parameters, each refused by its name."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from urllib.parse import urlencode

from monosemy.runtime import UsageError

Query = Mapping[str, str]
MAX_TEXT = 200  # characters of a text that is searched for


def whole(query: Query, name: str, default: int, most: int = 10**12) -> int:
    """A whole number from 0 to `most`. Raises UsageError."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or len(text) > 15 or int(text) > most:
        raise UsageError(f"`{name}` (={text[:40]!r}) must be a whole number from 0 to {most}")
    return int(text)


def first_row(query: Query, total: int, rows: int) -> int:
    """The place `at` that a page of `rows` of a table of `total` begins at; from behind its end, that of the last page.

    Raises UsageError."""
    at = whole(query, "at", 0)
    return at if at < total else max(0, total - 1) // rows * rows


def number(query: Query, name: str) -> float | None:
    """A finite number, or None where it is not given. Raises UsageError."""
    text = query.get(name, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"`{name}` (={text[:40]!r}) must be a number, as 0.001 or 1e-3")
    return value


def word(query: Query, name: str, allowed: Collection[str], default: str) -> str:
    """One of the words allowed. Raises UsageError."""
    text = query.get(name, "") or default
    if text not in allowed:
        raise UsageError(f"`{name}` (={text[:40]!r}) must be one of {', '.join(allowed)}")
    return text


def text(query: Query, name: str) -> str:
    """A text of at most MAX_TEXT characters, empty where it is not given. Raises UsageError."""
    given = query.get(name, "")
    if len(given) > MAX_TEXT:
        raise UsageError(f"`{name}` has {len(given)} characters, and at most {MAX_TEXT} are looked for; shorten it")
    return given


def address(path: str, **parameters: object) -> str:
    """A path with its parameters, without those that are None or empty."""
    given = {name: str(value) for name, value in parameters.items() if value is not None and value != ""}
    return f"{path}?{urlencode(given)}" if given else path

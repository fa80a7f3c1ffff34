"""Explanations of features from a file: this library's own rows, Neuronpedia's, a spreadsheet's, the app's reviews.

    JSON lines, or one JSON array   {"feature": 12, "text": "months", "author": "ann", "score": 0.7}
    Neuronpedia's explanation rows  {"index": "12", "description": "months", "explanationModelName": "gpt-4o-mini", …}
    CSV with a header               the same names as columns
    reviews, as the app exports     feature, reviewer, verdict, note: "mostly: months"; a verdict alone explains nothing

A feature and a text are needed; an author is a person or a model. The file may be packed with gzip. White space in a
text is taken together, so that a text is one line. The same text of the same author for the same feature is taken
once; rows without a text are left out; both are counted.

Left out: Neuronpedia's `scoreV1`, which is 0 where nothing was scored, and its vectors.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from monosemy.runtime import Progress, UsageError

FEATURE, TEXT = ("feature", "index"), ("text", "explanation", "description", "note")
AUTHOR, SCORE = ("author", "explanationModelName", "reviewer"), ("score",)
SOURCE = ("modelId", "layer")  # of Neuronpedia's rows
LONGEST, LONGEST_NAME = 10_000, 200  # characters
GZIP = b"\x1f\x8b"
GUARDED = tuple(f"'{start}" for start in "=+-@")  # as exported tables hold what a spreadsheet would run
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Explanation:
    """What someone says of a feature."""

    feature: int
    text: str
    author: str | None
    """A person or a model; None where nobody said who."""
    score: float | None
    """How good it is, in whatever its author scores by; larger is better. None where it was not scored."""


@dataclass(frozen=True)
class Explanations:
    """The explanations of a file."""

    rows: list[Explanation]
    repeated: int
    """Rows that said again what another one says."""
    empty: int
    """Rows without a text."""


def read_explanations(path: str | Path, n_features: int, author: str | None = None) -> Explanations:
    """The explanations in the file `path`, of features 0 to `n_features` − 1, in the order of the file.

    `author` is that of rows that name none. Raises UsageError, with the row's place, for a file that is not as above,
    holds no explanation or those of several of Neuronpedia's sources; for a row that names no feature, or one that is
    not there; for a score that is no number, and for texts over LONGEST characters.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name one of explanations")
    found: list[Explanation] = []
    said: set[tuple[int, str, str | None]] = set()
    sources: dict[tuple[str, ...], None] = {}
    count = empty = 0
    with _opened(path) as file, Progress("explanations", None, unit="rows") as bar:
        for where, row in _rows(path, file):
            count += 1
            if count % ROWS_AT_ONCE == 0:
                bar.advance(ROWS_AT_ONCE)
            each = _explanation(row, n_features, author, f"{path}, {where}")
            sources[tuple(str(row[name]) for name in SOURCE if name in row)] = None
            key = (each.feature, each.text, each.author)
            if not each.text:
                empty += 1
            elif key not in said:
                said.add(key)
                found.append(each)
    if len(sources) > 1:
        names = "; ".join(" ".join(source) or "none" for source in list(sources)[:4])
        raise UsageError(f"{path}: holds rows of {len(sources)} sources ({names}); keep those of this dictionary alone")
    if not found:
        raise UsageError(f"{path}: holds no explanation ({count} rows, {empty} of them without a text)")
    return Explanations(found, count - empty - len(found), empty)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
        file.seek(0)
        whole = gzip.GzipFile(fileobj=file) if packed else file
        with io.TextIOWrapper(whole, encoding="utf-8-sig", newline="") as text:
            yield text


def _rows(path: Path, file: IO[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with its place in words."""
    try:
        first = next((line for line in file if line.strip()), "")
        if first.lstrip()[:1] == "[":
            entries = json.loads(first + file.read())
            yield from ((f"entry {number}", entry) for number, entry in enumerate(entries, 1))
        elif first.lstrip()[:1] == "{":
            lines = (line for line in chain([first], file) if line.strip())
            for number, line in enumerate(lines, 1):
                yield f"row {number}", json.loads(line)
        else:
            yield from _csv_rows(path, chain([first], file))
    except (ValueError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
        ways = "give JSON lines, a JSON array or CSV with a header"
        raise UsageError(f"{path}: cannot be read ({error}); {ways}") from error


def _csv_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    reader = csv.DictReader(lines, strict=True)
    names = reader.fieldnames or ()
    if not (set(FEATURE) & set(names) and set(TEXT) & set(names)):
        raise UsageError(
            f"{path}: is neither JSON nor CSV whose header names a feature ({' or '.join(FEATURE)}) and a text "
            f"({', '.join(TEXT)}); its first line is {','.join(names)[:80]!r}"
        )
    for number, row in enumerate(reader, 1):
        if None in row or None in row.values():
            raise UsageError(f"{path}, row {number}: has not as many cells as the header")
        yield f"row {number}", {name: value[1:] if value.startswith(GUARDED) else value for name, value in row.items()}


def _explanation(row: Any, n_features: int, author: str | None, where: str) -> Explanation:
    if not isinstance(row, Mapping):
        raise UsageError(f"{where}: is no JSON object; give one for each explanation")
    feature, text = _feature(row, n_features, where), _text(row, TEXT, LONGEST, where)
    if text and row.get("verdict") and "note" in row:
        text = f"{_text(row, ('verdict',), LONGEST_NAME, where)}: {text}"
    return Explanation(feature, text, _text(row, AUTHOR, LONGEST_NAME, where) or author, _score(row, where))


def _value(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _feature(row: Mapping[str, Any], n_features: int, where: str) -> int:
    value = _value(row, FEATURE)
    if value is None:
        raise UsageError(f"{where}: names no feature; give its number as `feature`")
    digits = str(value).strip()
    if isinstance(value, bool | float) or not (digits.isascii() and digits.isdigit() and len(digits) < 16):
        raise UsageError(f"{where}: `feature` (={value!r}) must be a whole number from 0 to {n_features - 1}")
    if int(digits) >= n_features:
        raise UsageError(
            f"{where}: `feature` (={digits}) must be from 0 to {n_features - 1}; is the file of another dictionary?"
        )
    return int(digits)


def _text(row: Mapping[str, Any], names: Iterable[str], longest: int, where: str) -> str:
    """On one line; empty where there is none."""
    value = _value(row, names)
    if not isinstance(value, str | None):
        raise UsageError(f"{where}: `{next(name for name in names if name in row)}` (={value!r}) must be a text")
    text = " ".join((value or "").split()).encode("utf-8", "replace").decode("utf-8")  # no halves of a character
    if len(text) > longest:
        raise UsageError(f"{where}: has a text of {len(text)} characters; at most {longest} are kept, so shorten it")
    return text


def _score(row: Mapping[str, Any], where: str) -> float | None:
    value = _value(row, SCORE)
    if value is None or value == "":
        return None
    try:
        score = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UsageError(f"{where}: `score` (={value!r}) must be a number, or left out")
    return score

"""Reviews of features by people: a queue, a verdict with a note and its time for each, kept in SQLite beside the run.

S1 looked at seventy features for two minutes each and wrote what it saw into a spreadsheet. Here a session is such a
queue; several people can go through it. Nothing that anyone wrote is changed or removed: a verdict given again is one
more row, one taken back is a row without a verdict, and the newest row counts. What `record` has returned from is on
the disk (write-ahead log, `synchronous=FULL`), also when the server is killed the moment after.

The rows hold what a person wrote, so they do not lie in an artifact, which nobody edits.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monosemy.analysis.result import Table
from monosemy.app.review_queue import Queued, QueueSettings
from monosemy.runtime import UsageError

VERDICTS = ("monosemantic", "mostly", "mixed", "nothing seen", "dead")
"""What a reviewer can say, on the keys 1 to 5; "dead" is a feature that fires on none of the tokens, as everywhere."""
FILE = "reviews.sqlite"
LARGEST_ID = 2**63 - 1  # of a row in SQLite, which takes no larger number
LONGEST_NAME, LONGEST_NOTE, LONGEST_S = 100, 10_000, 24 * 3600.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS session (id INTEGER PRIMARY KEY, name TEXT NOT NULL, dictionaries TEXT NOT NULL,
  member INTEGER NOT NULL, rule TEXT NOT NULL, count INTEGER NOT NULL, seed INTEGER NOT NULL, blind INTEGER NOT NULL,
  created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS queue (session INTEGER NOT NULL REFERENCES session, place INTEGER NOT NULL,
  feature INTEGER NOT NULL, chosen TEXT NOT NULL, mcs REAL, PRIMARY KEY (session, place), UNIQUE (session, feature));
CREATE TABLE IF NOT EXISTS review (id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL,
  feature INTEGER NOT NULL, reviewer TEXT NOT NULL, verdict TEXT, note TEXT NOT NULL, seconds REAL NOT NULL,
  at TEXT NOT NULL, FOREIGN KEY (session, feature) REFERENCES queue (session, feature));
CREATE INDEX IF NOT EXISTS review_of ON review (session, reviewer, feature);
"""
STANDING = """
SELECT review.* FROM review JOIN (SELECT max(id) AS newest FROM review WHERE session = ? GROUP BY reviewer, feature)
ON review.id = newest WHERE verdict IS NOT NULL ORDER BY review.id
"""


@dataclass(frozen=True)
class Session:
    """A queue of features to look at."""

    id: int
    name: str
    dictionaries: str
    """Content hash of the grid that the features are of."""
    member: int
    rule: str
    count: int
    seed: int
    blind: bool
    """Reviewers see no scores."""
    created: str


@dataclass(frozen=True)
class Review:
    """What someone said of a feature."""

    id: int
    session: int
    feature: int
    reviewer: str
    verdict: str | None
    """One of `VERDICTS`; None: taken back."""
    note: str
    seconds: float
    """Time spent on it."""
    at: str
    """When, in UTC."""


class Reviews:
    """The database of a run. Each call has a connection of its own, so threads and processes may share the file."""

    def __init__(self, path: str | Path) -> None:
        """`path`: the file, made with the first session; `FILE` in the run's folder."""
        self.path = Path(path)

    def create(
        self, name: str, dictionaries: str, member: int, settings: QueueSettings, queue: Sequence[Queued]
    ) -> Session:
        """A new session over these features. Raises UsageError for a name that is empty or too long."""
        name = _filled("name", name, LONGEST_NAME)
        with self._open() as database:
            cursor = database.execute(
                "INSERT INTO session (name, dictionaries, member, rule, count, seed, blind, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (name, dictionaries, member, settings.rule, len(queue), settings.seed, settings.blind, _now()),
            )
            number = cursor.lastrowid
            assert number is not None
            rows = [(number, place, entry.feature, entry.chosen, entry.mcs) for place, entry in enumerate(queue)]
            database.executemany("INSERT INTO queue VALUES (?, ?, ?, ?, ?)", rows)
        return self.session(number)

    def sessions(self) -> list[Session]:
        """All sessions, the newest first."""
        return [_session(row) for row in self._rows("SELECT * FROM session ORDER BY id DESC")]

    def session(self, number: int) -> Session:
        """The session of this number. Raises UsageError if there is none."""
        if number <= LARGEST_ID:
            for row in self._rows("SELECT * FROM session WHERE id = ?", number):
                return _session(row)
        raise UsageError(f"`session` (={number}) is not one of this run's; /review lists them")

    def queue(self, session: int) -> list[int]:
        """The session's features, in the order in which they are looked at."""
        self.session(session)
        return [row["feature"] for row in self._rows("SELECT * FROM queue WHERE session = ? ORDER BY place", session)]

    def record(
        self, session: int, feature: int, reviewer: str, verdict: str | None, note: str = "", seconds: float = 0.0
    ) -> Review:
        """Keep a verdict (None: take the one that stands back). On return it is on the disk.

        Raises UsageError for what is not in the session, not among `VERDICTS`, empty, too long or negative.
        """
        reviewer = _filled("reviewer", reviewer, LONGEST_NAME)
        if verdict is not None and verdict not in VERDICTS:
            raise UsageError(f"`verdict` (={verdict!r}) must be one of {', '.join(VERDICTS)}")
        if len(note) > LONGEST_NOTE:
            raise UsageError(f"`note` has {len(note)} characters and may have {LONGEST_NOTE}; shorten it")
        if not 0 <= seconds <= LONGEST_S:
            raise UsageError(f"`seconds` (={seconds}) must be from 0 to {LONGEST_S:.0f}")
        if feature not in self.queue(session):
            raise UsageError(f"`feature` (={feature}) is not in the queue of session {session}")
        with self._open() as database:
            cursor = database.execute(
                "INSERT INTO review (session, feature, reviewer, verdict, note, seconds, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (session, feature, reviewer, verdict, note, seconds, _now()),
            )
        (row,) = self._rows("SELECT * FROM review WHERE id = ?", cursor.lastrowid)
        return Review(**row)

    def undo(self, session: int, reviewer: str) -> Review | None:
        """Take back the reviewer's newest verdict that stands; gives it, or None where there is none."""
        mine = [review for review in self.standing(session) if review.reviewer == reviewer]
        if not mine:
            return None
        self.record(session, mine[-1].feature, reviewer, None, mine[-1].note)
        return mine[-1]

    def standing(self, session: int) -> list[Review]:
        """The verdicts that count: the newest of each reviewer on each feature, in the order they were given."""
        self.session(session)
        return [Review(**row) for row in self._rows(STANDING, session)]

    def history(self, session: int) -> list[Review]:
        """Everything that anyone said in a session, in its order."""
        self.session(session)
        return [Review(**row) for row in self._rows("SELECT * FROM review WHERE session = ? ORDER BY id", session)]

    def finished(self, session: int, reviewer: str) -> bool:
        """Whether a reviewer has given a verdict on every feature of a session."""
        judged = {review.feature for review in self.standing(session) if review.reviewer == reviewer}
        return judged == set(self.queue(session))

    def table(self, session: int, only: str | None = None) -> Table:
        """The verdicts that stand, each beside why its feature was chosen and its MCS: S1's spreadsheet.

        `only`: a reviewer who is to know no more than the own verdicts; then without those two.
        """
        queue = {row["feature"]: row for row in self._rows("SELECT * FROM queue WHERE session = ?", session)}
        why = ("chosen", "mcs") if only is None else ()
        columns = ("place", "feature", *why, "reviewer", "verdict", "note", "seconds", "at")
        reviews = [review for review in self.standing(session) if only in (None, review.reviewer)]
        rows = [{**queue[review.feature], **asdict(review)} for review in reviews]
        rows.sort(key=lambda row: (row["place"], row["reviewer"]))
        return Table(columns, [[row[name] for name in columns] for row in rows])

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []  # nobody has reviewed anything: looking makes no file
        with self._open() as database:
            return [dict(row) for row in database.execute(query, values)]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=30)) as database:
            database.row_factory = sqlite3.Row
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("PRAGMA foreign_keys=ON")
            database.executescript(SCHEMA)
            with database:
                yield database


def _session(row: dict[str, Any]) -> Session:
    return Session(**{**row, "blind": bool(row["blind"])})


def _filled(what: str, text: str, longest: int) -> str:
    text = text.strip()
    if not 0 < len(text) <= longest:
        raise UsageError(f"`{what}` has {len(text)} characters; it must have 1 to {longest}")
    return text


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

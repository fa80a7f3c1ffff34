"""A job: one request for an analysis, what became of it, and what is told of it. `Jobs` runs them.

Of what happens to a job the newest event of each kind is kept, numbered upwards over all jobs: who comes back with the
last number that it saw gets what is newer, and nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from monosemy.runtime import UsageError

ENDS = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class JobLimits:
    """How much may wait, run and be kept."""

    waiting: int = 8
    """Jobs in each of the two queues; one more is refused."""
    kept: int = 64
    """Finished jobs whose answers are kept."""
    kept_characters: int = 100_000_000
    """Their size altogether."""
    deadline_s: float = 600.0
    """A job that runs longer fails."""
    unheard_s: float = 30.0
    """A job that nobody has listened to for so long is cancelled."""
    report_s: float = 0.1
    """Progress is told at most so often."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a job: "progress", "partial", "done", "failed" or "cancelled", and its JSON."""

    number: int
    kind: str
    data: str


@dataclass(frozen=True)
class Outcome:
    """What a job gives in the end: what a page shows of it, as JSON can hold it, and its whole table."""

    data: Mapping[str, Any]
    csv: str = ""


Partial = Callable[[Mapping[str, Any]], None]
Work = Callable[[Partial], Outcome]


@dataclass(frozen=True)
class Quick:
    """Bounded work of about a second, which goes before and in between what is long."""

    opened: Callable[[], Work]
    """Opens what the work needs, and gives the work. It runs beside another job: only the work may run a model."""


class Busy(UsageError):
    """The queue is full."""


class Stopped(BaseException):
    """Raised inside a job to end it. No `except Exception` on the way may take it for an error of its own."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state, self.text = state, text


class Job:
    """One request and what became of it. `Jobs` alone changes it."""

    def __init__(self, key: str, work: Work | Quick) -> None:
        self.id = key
        self.quick = isinstance(work, Quick)
        self.state = "waiting"
        self.csv = ""
        self.events: dict[str, Event] = {}
        self.work: Work | Quick | None = work
        self.listeners = 0
        self.heard = time.monotonic()
        self.began = 0.0
        self.stop_asked = False

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in ENDS

    @property
    def size(self) -> int:
        """Characters that are kept of it."""
        return len(self.csv) + sum(len(event.data) for event in self.events.values())

    def since(self, number: int) -> list[Event]:
        """The newest event of each kind that came after event `number`, in their order."""
        return sorted((event for event in list(self.events.values()) if event.number > number), key=lambda e: e.number)

    def unheard(self, limit_s: float) -> bool:
        """Whether nobody listens, nor has for `limit_s`."""
        return not self.listeners and time.monotonic() - self.heard > limit_s


def digest_of(*parts: Any) -> str:
    """A job's id: equal requests have equal ids."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def as_json(data: Mapping[str, Any]) -> str:
    """What an event carries. Raises ValueError for what JSON cannot hold: NaN and Inf."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False)

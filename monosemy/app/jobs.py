"""Analyses as jobs: two short queues, progress, partial results, cancel. Nothing of the web is in here.

Long jobs and quick ones have a queue and a worker each, and one job computes at a time (`turns.py`): two scans at once
would only share the same cores, but what a reader types is answered between two pieces of a scan. A job's id is the
digest of what is asked, so a page that is loaded again in the middle, or a second tab, joins the job that is there, and
a finished one answers at once for as long as it is kept.

What is asked to stop stops at its next sign of progress. A job that nobody has listened to for `unheard_s` is given
up: its queue has one worker, and a closed tab would hold it for minutes; a reload takes less. Every request for a job
counts as listening.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from monosemy.app.job import Busy, Event, Job, JobLimits, Quick, Stopped, Work, as_json
from monosemy.app.turns import Turns
from monosemy.runtime import UsageError, listening

LOG = logging.getLogger("monosemy.app")
UNHEARD = "nobody waited for it"
NOTHING_YET: Mapping[str, Any] = {"done": 0, "total": None, "left_s": None}
JOIN_S = 10.0  # a worker that gives no sign of progress for so long is left behind when the server ends


class Jobs:
    """The queues, a worker for each, and the finished jobs that are kept."""

    def __init__(self, limits: JobLimits | None = None) -> None:
        self.limits = limits or JobLimits()
        self._jobs: OrderedDict[str, Job] = OrderedDict()  # the longest unused first
        self._waiting: dict[bool, deque[Job]] = {False: deque(), True: deque()}  # the long and the quick
        self._threads: dict[bool, threading.Thread] = {}
        self.turns = Turns()
        self._wake = threading.Condition(threading.RLock())
        self._events = 0
        self._closed = False

    def submit(self, key: str, work: Work | Quick, again: bool = False) -> Job:
        """The job of this id: the one that is there, unless it failed or was cancelled, or else a new one.

        `again`: a finished one is not enough. Raises Busy if too many wait in its queue.
        """
        over = ("failed", "cancelled", "done") if again else ("failed", "cancelled")
        with self._wake:
            known = self._jobs.get(key)
            if known is not None and known.state not in over and not known.stop_asked:
                return self._heard(known)
            job = Job(key, work)
            queue = self._waiting[job.quick]
            for left in [left for left in queue if left.unheard(self.limits.unheard_s)]:
                self._end(left, "cancelled", {"text": UNHEARD})
            if len(queue) >= self.limits.waiting:
                raise Busy(f"{len(queue)} analyses wait already, and no more may; cancel one, or ask later")
            self._jobs[key] = job
            self._jobs.move_to_end(key)
            queue.append(job)
            self.tell(job, "progress", {**NOTHING_YET, "label": "waiting"})
            if job.quick not in self._threads:
                name = f"{'quick' if job.quick else 'long'} analyses"
                self._threads[job.quick] = threading.Thread(target=self._serve, args=[queue], name=name, daemon=True)
                self._threads[job.quick].start()
            self._wake.notify_all()
            return job

    def get(self, key: str) -> Job:
        """The job of this id. Raises UsageError if there is none, or none any more."""
        with self._wake:
            if key not in self._jobs:
                raise UsageError(f"`job` (={key!r}) is not known, or no longer kept; ask for the analysis again")
            return self._heard(self._jobs[key])

    def cancel(self, key: str) -> Job:
        """Ask a job to stop: at once where it waits, at its next sign of progress where it runs."""
        with self._wake:
            job = self.get(key)
            if job.state == "waiting":
                self._end(job, "cancelled", {"text": "cancelled"})
            job.stop_asked = not job.ended
            return job

    @contextmanager
    def heard(self, job: Job) -> Iterator[None]:
        """Somebody listens to the job inside."""
        with self._wake:
            job.listeners += 1
        try:
            yield
        finally:
            with self._wake:
                job.listeners -= 1
                job.heard = time.monotonic()

    def close(self) -> None:
        """Cancel everything and end the workers."""
        with self._wake:
            self._closed = True
            for job in list(self._jobs.values()):
                self.cancel(job.id)
            self._wake.notify_all()
        for thread in self._threads.values():
            thread.join(JOIN_S)

    def _heard(self, job: Job) -> Job:
        job.heard = time.monotonic()
        self._jobs.move_to_end(job.id)
        return job

    def _serve(self, queue: deque[Job]) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: queue or self._closed)
                if self._closed:
                    return
                job = queue[0]
                if job.unheard(self.limits.unheard_s):
                    self._end(job, "cancelled", {"text": UNHEARD})
                    continue
                queue.popleft()
                job.state, job.began = "running", time.monotonic()
                self.tell(job, "progress", {**NOTHING_YET, "label": "starting"})
            self._run(job)

    def _run(self, job: Job) -> None:
        assert job.work is not None
        report = _Report(self, job)
        try:
            with listening(report.progress):
                work = job.work.opened() if isinstance(job.work, Quick) else job.work
                with self.turns.taken(report.stop_where_due):
                    outcome = work(report.partial)
            self._end(job, "done", outcome.data, outcome.csv)
        except Stopped as stop:
            self._end(job, stop.state, {"text": stop.text})
        except UsageError as error:
            self._end(job, "failed", {"text": str(error)})
        except Exception as error:
            LOG.exception("job %s failed", job.id)
            self._end(job, "failed", {"text": f"{type(error).__name__}: {error} (the server's log has all of it)"})

    def tell(self, job: Job, kind: str, data: Mapping[str, Any]) -> None:
        """Note an event of a job."""
        text = as_json(data)
        with self._wake:
            self._events += 1
            job.events[kind] = Event(self._events, kind, text)

    def _end(self, job: Job, state: str, data: Mapping[str, Any], csv: str = "") -> None:
        """The last event of a job; what was partial goes, and so do old jobs beyond what is kept."""
        text = as_json(data)
        with self._wake:
            self._events += 1
            job.events = {state: Event(self._events, state, text)}
            job.state, job.csv, job.work, job.stop_asked = state, csv, None, False
            if job in self._waiting[job.quick]:
                self._waiting[job.quick].remove(job)
            over = [old for old in self._jobs.values() if old.ended]
            while len(over) > self.limits.kept or sum(old.size for old in over) > self.limits.kept_characters:
                del self._jobs[over.pop(0).id]


class _Report:
    """What a running job tells of itself; each time is a chance to stop it, and for a quick one to go between."""

    def __init__(self, jobs: Jobs, job: Job) -> None:
        self._jobs, self._job = jobs, job
        self._label, self._began, self._start, self._told = "", 0.0, 0.0, 0.0

    def progress(self, label: str, done: float, total: float | None) -> None:
        """A `runtime.Listener`. The time left is that of the stage which is told of."""
        if not self._job.quick:
            self._jobs.turns.give_way()
        self.stop_where_due()
        now = time.monotonic()
        if label != self._label:
            self._label, self._began, self._start = label, now, done
        elif now - self._told < self._jobs.limits.report_s:
            return
        self._told = now
        rate = (done - self._start) / (now - self._began) if now > self._began else 0.0
        left_s = (total - done) / rate if total is not None and rate > 0 else None
        self._jobs.tell(self._job, "progress", {"label": label, "done": done, "total": total, "left_s": left_s})

    def partial(self, data: Mapping[str, Any]) -> None:
        """What is known so far."""
        self.stop_where_due()
        self._jobs.tell(self._job, "partial", data)

    def stop_where_due(self) -> None:
        """Raises Stopped where the job is to end."""
        limits, job = self._jobs.limits, self._job
        if job.stop_asked:
            raise Stopped("cancelled", "cancelled")
        if job.unheard(limits.unheard_s):
            raise Stopped("cancelled", UNHEARD)
        if time.monotonic() - job.began > limits.deadline_s:
            raise Stopped("failed", f"took more than {limits.deadline_s:.0f} s; ask for less, or run it from Python")

"""Live analyses over HTTP: ask, follow, cancel, take away.

    GET    /api/live                     what can be asked, with its parameters and their bounds
    POST   /api/live/{analysis}          {"dictionaries", "member", "feature", …} → the job; asked twice, the same job
    GET    /api/jobs/{job}               its state, and what is known so far
    GET    /api/jobs/{job}/events        the same as Server-Sent Events: progress, partial, done, failed, cancelled
    GET    /api/jobs/{job}/table.csv     the whole table of a finished one
    DELETE /api/jobs/{job}               cancel; where others listen too it goes on, and `left` in the answer is true

An event stream looks at its job ten times a second; a thread for each listener would cost more. A browser that comes
back after a broken connection says the number of the last event it saw and goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from monosemy.analysis.lab import Lab
from monosemy.analysis.result import Result, Table, as_plain
from monosemy.app.analyses import ANALYSES
from monosemy.app.calls import Call, call_of, key_of
from monosemy.app.job import Busy, Job, Outcome, Partial, Quick, Work
from monosemy.app.jobs import Jobs
from monosemy.app.offered import Analysis
from monosemy.app.parameters import MOST_TOKENS, Text, checked_values
from monosemy.app.recent import Recent
from monosemy.app.references import Holds
from monosemy.app.state import NotFound
from monosemy.runtime import UsageError

LOOK_EVERY_S, SIGN_EVERY_S = 0.1, 15.0
ROWS = 100  # of a table that a page shows; the file has all


class Serves(Holds, Protocol):
    """What is needed of the `State`."""

    results: Recent[Result]


def routes(state: Serves, jobs: Jobs | None = None, analyses: Mapping[str, Analysis] = ANALYSES) -> list[Route]:
    """The routes above. Errors are UsageErrors, which the server words; who gives `jobs` closes them when it ends."""
    live = Live(state, Jobs() if jobs is None else jobs, analyses)
    return [
        Route("/api/live", live.offer, methods=["GET"]),
        Route("/api/live/{analysis}", live.start, methods=["POST"]),
        Route("/api/jobs/{job}", live.show, methods=["GET"]),
        Route("/api/jobs/{job}", live.cancel, methods=["DELETE"]),
        Route("/api/jobs/{job}/events", live.follow, methods=["GET"]),
        Route("/api/jobs/{job}/table.csv", live.table, methods=["GET"]),
    ]


class Live:
    """The answers to these routes."""

    def __init__(self, state: Serves, jobs: Jobs, analyses: Mapping[str, Analysis]) -> None:
        self.state, self.jobs, self.analyses = state, jobs, analyses

    async def offer(self, request: Request) -> Response:
        """What can be asked."""
        return JSONResponse(
            {
                name: {
                    "label": analysis.label,
                    "help": analysis.help,
                    "page": analysis.page,
                    "group": analysis.group,
                    "parameters": {key: asdict(value) for key, value in analysis.parameters.items()},
                }
                for name, analysis in self.analyses.items()
            }
        )

    async def start(self, request: Request) -> Response:
        """Ask for an analysis."""
        name = request.path_params["analysis"]
        if name not in self.analyses:
            raise NotFound(f"`analysis` (={name[:40]!r}) must be one of {', '.join(self.analyses)}")
        analysis = self.analyses[name]
        values = checked_values({**analysis.common, **analysis.parameters}, await body_of(request))
        grid = self.state.grid(values["dictionaries"])
        if "member" in values:
            grid.row(values["member"])
        key = key_of(name, values, grid)
        try:
            job = self.jobs.submit(key, self._work(analysis, values, key), again=analysis.kept)
        except Busy as error:
            return JSONResponse({"error": str(error)}, 503, {"retry-after": "5"})
        return JSONResponse({"job": job.id, "state": job.state}, 202)

    async def show(self, request: Request) -> Response:
        """A job's state and the newest of each kind of event."""
        return _shown(self._job(request))

    async def cancel(self, request: Request) -> Response:
        """Cancel a job, unless more than one listens: then who asks only leaves, and the others keep theirs."""
        job = self._job(request)
        left = job.listeners > 1 and not job.ended
        return _shown(job if left else self.jobs.cancel(job.id), left=left)

    async def table(self, request: Request) -> Response:
        """The table of a finished job, as a file."""
        job = self._job(request)
        if job.state != "done":
            raise NotFound(f"`job` (={job.id}) is {job.state}, so it has no table")
        headers = {"content-disposition": 'attachment; filename="analysis.csv"'}
        return Response(job.csv, media_type="text/csv; charset=utf-8", headers=headers)

    async def follow(self, request: Request) -> Response:
        """Server-Sent Events of a job, from the one after `Last-Event-ID` on; 204, which ends a browser's asking,
        where none will come."""
        job, last = self._job(request), request.headers.get("last-event-id", "0")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 16 else 0
        if job.ended and not job.since(after):
            return Response(status_code=204)
        headers = {"cache-control": "no-store"}
        return StreamingResponse(self._events(job, after), media_type="text/event-stream", headers=headers)

    def _job(self, request: Request) -> Job:
        try:
            return self.jobs.get(request.path_params["job"])
        except UsageError as error:
            raise NotFound(str(error)) from error

    async def _events(self, job: Job, after: int) -> AsyncIterator[str]:
        with self.jobs.heard(job):
            yield "retry: 1000\n\n"
            told = time.monotonic()
            while True:
                ended = job.ended  # looked at first: what is told meanwhile is sent before the stream ends
                for event in job.since(after):
                    after, told = event.number, time.monotonic()
                    yield f"id: {event.number}\nevent: {event.kind}\ndata: {event.data}\n\n"
                if ended:
                    return
                if time.monotonic() - told > SIGN_EVERY_S:
                    told = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(LOOK_EVERY_S)

    def _work(self, analysis: Analysis, values: Mapping[str, Any], key: str) -> Work | Quick:
        def opened() -> Work:
            call = call_of(analysis, values, self.state)
            if isinstance(lab := call.given[0], Lab):
                _check(lab, analysis, values)
            return lambda partial: self._outcome(call, values, key, partial)

        # A long job opens within its turn: moments are gathered by the model. A quick one must not: while a long one
        # that opens something gives way to it, it would wait for that.
        return Quick(opened) if analysis.quick else lambda partial: opened()(partial)

    def _outcome(self, call: Call, values: Mapping[str, Any], key: str, partial: Partial) -> Outcome:
        analysis = call.analysis
        each = {"each": lambda result: partial(view(analysis, values, result))} if analysis.streams else {}
        result = call.run(**each)
        if analysis.kept:
            self.state.results.put(key, result)
        table = result.table()
        shown = {**view(analysis, values, result, table), **as_plain(analysis.also(call.given, result))}
        return Outcome({**shown, "python": call.python}, table.csv())


def _check(lab: Lab, analysis: Analysis, values: Mapping[str, Any]) -> None:
    if "feature" in values:
        lab.checked(values["feature"])
    for name, parameter in analysis.parameters.items():
        for text in parameter.read(values[name]) if isinstance(parameter, Text) else ():
            if (count := len(lab.ids(text))) > MOST_TOKENS:
                raise UsageError(f"`{name}` has {count} tokens and may have {MOST_TOKENS} here; shorten it")


def view(analysis: Analysis, values: Mapping[str, Any], result: Result, table: Table | None = None) -> dict[str, Any]:
    """What a page shows of a result: what it says in words, its plain numbers, texts with a code a token, charts, the
    table's beginning."""
    return {
        "analysis": result.name,
        "words": list(analysis.words(values, result)),
        "facts": facts(result),
        "strips": [as_plain(strip) for strip in analysis.strips(result)],
        "charts": [as_plain(chart) for chart in result.charts()],
        "table": None
        if table is None
        else {
            "columns": list(table.columns),
            "rows": as_plain(list(table.rows[:ROWS])),
            "total": len(table.rows),
        },
    }


def facts(value: Any, name: str = "") -> dict[str, int | float | str | None]:
    """The numbers and texts in a result that stand alone, by their names; those inside others by both names."""
    if isinstance(value, int | float | str):
        return {name: as_plain(value)}
    parts = vars(value).items() if is_dataclass(value) else value.items() if isinstance(value, Mapping) else ()
    found = {}
    for key, part in parts:
        found.update(facts(part, f"{name} {key}".strip()))
    return found


async def body_of(request: Request) -> Any:
    """The JSON of a request. Raises UsageError where it is none."""
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the request's body is not JSON ({error})") from error


def _shown(job: Job, **more: bool) -> Response:
    data = {event.kind: json.loads(event.data) for event in job.since(0)}
    return JSONResponse({"job": job.id, "state": job.state, **data, **more})

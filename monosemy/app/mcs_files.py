"""The MCS table taken away whole, as CSV and as a spreadsheet, in the order of its page.

A file's name is made of numbers that were checked, and what it is of is looked up by name, so nothing in a request is a
path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from monosemy.analysis.result import Table
from monosemy.analysis.spreadsheet import xlsx
from monosemy.app.mcs_page import KINDS, whole_table
from monosemy.app.query import Query
from monosemy.app.state import State

TYPES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
WRITTEN: Mapping[str, Callable[[Table], bytes]] = {
    "csv": lambda table: table.csv().encode(),
    "xlsx": lambda table: xlsx(table, "MCS"),
}


def routes(state: State) -> list[Route]:
    """The files."""
    limiter = CapacityLimiter(1)
    return [Route(f"/mcs.{kind}", _file(state, kind, limiter)) for kind in KINDS]


def _file(state: State, kind: str, limiter: CapacityLimiter) -> Callable[[Request], Awaitable[Response]]:
    def made(query: Query) -> tuple[int, bytes]:
        member, table = whole_table(state, query)
        return member, WRITTEN[kind](table)

    async def answer(request: Request) -> Response:
        member, body = await to_thread.run_sync(made, dict(request.query_params), limiter=limiter)
        headers = {"content-disposition": f'attachment; filename="mcs-of-member-{member}.{kind}"'}
        return Response(body, media_type=TYPES[kind], headers=headers)

    return answer

"""The reading pages and their JSON twins: `/x` is a template over the very data that `/x.json` sends.

Artifacts do not change, so a page is a function of its address; what was asked last is kept as bytes. Pages are made in
a few threads, so that a slow disk or a long sum holds up nobody else; but not those that read a few rows by number,
for which the way to a thread and back is a sixth of the work. Templates escape every text.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from monosemy.app.atlas_page import atlas_data
from monosemy.app.circuits_page import circuits_data
from monosemy.app.compare_page import compare_data
from monosemy.app.feature_list import COLUMNS, NUMBERS, feature_list, token_features
from monosemy.app.feature_page import feature_data, neighbours_data
from monosemy.app.filters import short, size, token_rows, whole_number
from monosemy.app.grid_page import grid_data, member_data
from monosemy.app.lineage import lineage
from monosemy.app.mcs_page import mcs_data
from monosemy.app.query import Query, address, text
from monosemy.app.recent import Recent
from monosemy.app.search_page import search_data
from monosemy.app.splitting_page import splitting_data
from monosemy.app.state import NotFound, State
from monosemy.report.payload import safe_json
from monosemy.runtime import UsageError

TEMPLATES = Path(__file__).parent / "templates"
NAV = (  # place, name, the key after g
    ("/", "Runs", "r"),
    ("/grid", "Grid", "g"),
    ("/features", "Features", "f"),
    ("/compare", "Compare", "c"),
    ("/circuits", "Circuits", "i"),
    ("/review", "Review", "v"),
)
KEPT_BYTES = 16 << 20
THREADS, SLOW_THREADS = 4, 2

Data = Callable[..., dict[str, Any]]
Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Page:
    """A page: where it is, what it holds, what draws it."""

    path: str
    data: Data
    """(state, query, **numbers in the path) → what the page and its twin hold."""
    template: str | None
    """None: there is only the twin."""
    twin: str
    slow: bool = False
    """Whether it computes for seconds: such pages wait for one another, not the others for them."""
    small: bool = False
    """Whether it reads a few rows by number (unless it has a place `at` in a list, whose order has to be found)."""


def runs_data(state: State, _query: Query) -> dict[str, Any]:
    """What is in the run's folder, and what was made from what."""
    indexes = {}
    for name, index in state.indexes.items():
        grid, member = state.member_of(index)
        made = {"grid": None if grid is None else grid.name, "member": member}
        indexes[name] = {**made, "n_features": index.n_features, "n_dead": index.artifact.info["n_dead"]}
    grids = {
        name: {"members": len(grid.rows), "chosen": grid.chosen, "why": grid.why} for name, grid in state.grids.items()
    }
    return {"run": state.name, "grids": grids, "indexes": indexes, **lineage(state.artifacts)}


PAGES = (
    Page("/", runs_data, "runs.html", "/runs.json"),
    Page("/grid", grid_data, "grid.html", "/grid.json"),
    Page("/grid/{member:int}", member_data, "member.html", "/grid/{member:int}.json"),
    Page("/features", feature_list, "features.html", "/features.json"),
    Page("/features/{i:int}", feature_data, "feature.html", "/features/{i:int}.json", small=True),
    Page("/features/{i:int}/neighbours", neighbours_data, None, "/features/{i:int}/neighbours.json"),
    Page("/token", token_features, "token.html", "/token.json"),
    Page("/search", search_data, "search.html", "/search.json"),
    Page("/compare", compare_data, "compare.html", "/compare.json", slow=True),
    Page("/mcs", mcs_data, "mcs.html", "/mcs.json", slow=True),
    Page("/splitting", splitting_data, "splitting.html", "/splitting.json", slow=True),
    Page("/atlas", atlas_data, "atlas.html", "/atlas.json", slow=True),
    Page("/circuits", circuits_data, "circuits.html", "/circuits.json"),
)


def routes(state: State) -> list[Route]:
    """The pages, their twins, and the search box."""
    kept: Recent[bytes] = Recent(KEPT_BYTES, len)
    quick, slow = CapacityLimiter(THREADS), CapacityLimiter(SLOW_THREADS)
    found = []
    for page in PAGES:
        limiter = slow if page.slow else quick
        found.append(Route(page.twin, _answer(state, page, None, kept, limiter)))
        if page.template is not None:
            answer = _answer(state, page, page.template, kept, limiter)
            found.append(Route(page.path, _search(state, answer) if page.path == "/search" else answer))
    return found


def _answer(state: State, page: Page, template: str | None, kept: Recent[bytes], limiter: CapacityLimiter) -> Answer:
    kind = "application/json" if template is None else "text/html"

    async def answer(request: Request) -> Response:
        key = f"{request.url.path}?{request.url.query}"
        body = kept.get(key)
        if body is None:
            if page.small and "at" not in request.query_params:
                found, whole = made(request)
            else:
                found, whole = await to_thread.run_sync(made, request, limiter=limiter)
            body = kept.put(key, found) if whole else found
        return Response(body, media_type=kind, headers={"cache-control": "no-cache"})

    def made(request: Request) -> tuple[bytes, bool]:
        """The page, and whether it is what it will be: one that waits for a job is not."""
        data = page.data(state, dict(request.query_params), **request.path_params)
        whole = not data.get("pending")
        if template is None:
            return as_json(data), whole
        twin = page.twin
        for name, value in request.path_params.items():
            twin = twin.replace(f"{{{name}:int}}", str(value))
        twin += f"?{request.url.query}" if request.url.query else ""
        return rendered(template, state, data, page.path, twin), whole

    return answer


def _search(state: State, page: Answer) -> Answer:
    async def search(request: Request) -> Response:
        """A number opens that feature; the text of a token lists the features that fire on it; another text, those
        whose most frequent token contains it. Where nothing is looked for, `page`: search by a text."""
        if "q" not in request.query_params:
            return await page(request)
        given = request.query_params.get("q", "")
        index = request.query_params.get("index")
        name, opened = state.index(index or None)
        wanted = text({"q": given}, "q")
        number = wanted.strip().lstrip("#")
        if number.isascii() and number.isdigit() and len(number) < 12 and int(number) < opened.n_features:
            return RedirectResponse(address(f"/features/{int(number)}", index=name), 303)
        known = await to_thread.run_sync(opened.rows, "SELECT id FROM token WHERE text = ? LIMIT 1", wanted)
        if known:
            return RedirectResponse(address("/token", index=name, q=wanted), 303)
        return RedirectResponse(address("/features", index=name, q=wanted, sort="density", desc=1), 303)

    return search


def rendered(template: str, state: State, data: Mapping[str, Any], path: str, twin: str | None) -> bytes:
    """A template over a page's data, as bytes. `path` says which entry of the menu this is."""
    html = environment().get_template(template).render(state=state, data=data, path=path, twin=twin)
    return html.encode("utf-8", "backslashreplace")


def as_json(data: Any) -> bytes:
    """JSON that any reader takes: pure ASCII, so that broken characters of a text cannot break it."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()


_made: list[Environment] = []


def environment() -> Environment:
    """How templates become pages: every text escaped, every name defined."""
    if not _made:
        made = Environment(
            autoescape=True,
            loader=FileSystemLoader(TEMPLATES),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        made.filters |= {"short": short, "whole": whole_number, "size": size}
        made.filters |= {"token_rows": token_rows, "data_block": safe_json}
        made.globals |= {"address": address, "COLUMNS": COLUMNS, "NUMBERS": NUMBERS, "NAV": NAV}
        made.globals |= {"layout": "base.html", "offline": None}  # other in a static export
        _made.append(made)
    return _made[0]


def errors(state: State) -> dict[Any, Any]:
    """What is answered when a request cannot be met: a page, or JSON where JSON was asked for."""

    def page(request: Request, status: int, said: str) -> Response:
        if request.url.path.endswith(".json") or request.url.path.startswith("/api/"):
            return Response(as_json({"error": said}), status, media_type="application/json")
        data = {"status": status, "error": said}
        return Response(rendered("error.html", state, data, "", None), status, media_type="text/html")

    async def usage(request: Request, error: Exception) -> Response:
        return page(request, 404 if isinstance(error, NotFound) else 400, str(error))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return page(request, error.status_code, "There is no such page." if error.status_code == 404 else error.detail)

    async def failure(request: Request, _error: Exception) -> Response:
        return page(request, 500, "The server failed; what went wrong is on its terminal.")

    return {UsageError: usage, NotFound: usage, HTTPException: http, Exception: failure}

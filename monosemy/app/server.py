"""`monosemy serve RUN`: a finished run in a browser, on this machine and without a network.

The first line printed is the address. The server listens on 127.0.0.1 unless told otherwise, and then only with a
token (`security.py`), which travels unencrypted, as all it sends does. Where it listens on all of the machine's
addresses (0.0.0.0), a second line says what others open: that one leads each machine to itself.
"""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from monosemy.runtime import UsageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PORT = 8765
EVERYWHERE = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # all addresses of this machine, by a name of none
OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}  # nobody's: kept for documents (RFC 5737, 3849)
SHORTEST_TOKEN = 16  # characters
GRACE_S = 2  # for answers under way when the server is stopped


def serve(run: str | Path, *, port: int = PORT, host: str = "127.0.0.1", token: str | None = None) -> None:
    """Show the run in folder `run` until interrupted. Port 0: any that is free.

    Raises UsageError if the folder holds nothing to show, the port is taken, or `host` lets others in without a token.
    """
    import gc

    import uvicorn

    check_access(host, token)
    app = make_app(run, host=host, token=token)
    listener = _listener(host, port)
    port = listener.getsockname()[1]
    print(address_of(host, port, token), flush=True)
    if host in EVERYWHERE:
        print("from other machines:", " or ".join(address_of(name, port, token) for name in names(host)), flush=True)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
    )
    gc.collect()
    gc.freeze()  # the libraries' objects stay; looking through them for garbage would hold up pages
    uvicorn.Server(config).run(sockets=[listener])


def make_app(run: str | Path, *, host: str = "127.0.0.1", token: str | None = None) -> ASGIApp:
    """The app of the run in folder `run`, for any ASGI server; it answers to the name `host` and to this machine's own.

    Raises UsageError as `serve`.
    """
    from starlette.applications import Starlette

    from monosemy.app import files, live, mcs_files, pages, review_pages
    from monosemy.app.across import ACROSS
    from monosemy.app.analyses import ANALYSES
    from monosemy.app.jobs import Jobs
    from monosemy.app.security import LOOPBACK, Guard
    from monosemy.app.state import State

    check_access(host, token)
    state = State(run)
    jobs = Jobs()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        jobs.close()

    routes = [
        *pages.routes(state),
        *files.routes(),
        *mcs_files.routes(state),
        *live.routes(state, jobs, {**ANALYSES, **ACROSS}),
        *review_pages.routes(state),
    ]
    app = Starlette(routes=routes, exception_handlers=pages.errors(state), lifespan=lifespan)
    app.router.redirect_slashes = False  # an address has one spelling
    own = frozenset() if host in LOOPBACK else frozenset({host.lower(), socket.gethostname().lower()})
    return Guard(app, LOOPBACK | own, token, any_address=host not in LOOPBACK)


def check_access(host: str, token: str | None) -> None:
    """Raises UsageError where others than this machine's users could come in without a token that cannot be guessed."""
    from monosemy.app.security import LOOPBACK

    if token is None and host not in LOOPBACK:
        raise UsageError(
            f"`host` (={host!r}) lets other machines in, so a token is needed; "
            f"for instance --token {secrets.token_urlsafe(18)}"
        )
    if token is not None and not re.fullmatch(rf"[\w.~-]{{{SHORTEST_TOKEN},}}", token, re.ASCII):
        raise UsageError(
            f"`token` must be at least {SHORTEST_TOKEN} letters, digits and - _ . ~, to stand in an address; "
            f"for instance --token {secrets.token_urlsafe(18)}"
        )


def address_of(host: str, port: int, token: str | None) -> str:
    """What to open in a browser."""
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token is not None else "")


def names(host: str) -> list[str]:
    """By what others find this machine, where it listens on all its addresses `host`: its name, and the address that it
    would send from to the outside; nothing is sent."""
    found = [socket.gethostname()]
    family = EVERYWHERE[host]
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        try:
            way.connect((OUTSIDE[family], 9))
        except OSError:
            return found  # no way to the outside: other machines here may still know the name
        return [*found, way.getsockname()[0]]


def _listener(host: str, port: int) -> socket.socket:
    """A socket that takes connections from now on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # TCP is named, for asyncio sends small parts at once (TCP_NODELAY) only where it is: else the second part of an
    # answer waits for the reader to acknowledge the first, about 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(256)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"`port` (={port}) on {host} cannot be listened on ({error}); choose another --port"
        ) from error
    return listener

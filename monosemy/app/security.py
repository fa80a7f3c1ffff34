"""What stands before every page: who may ask, how much, and what a browser may do with the answer.

- Host: a name that this server answers to. A page of another site cannot reach it by pointing its own name here
  (DNS rebinding).
- Origin: a browser says whose page asks; only the server's own pages may. Programs, which send none, may too.
- Token: needed where the server listens beyond this machine; in a cookie, as `Authorization: Bearer`, or as `?token=`,
  which is traded for the cookie so that it does not stay in the address.
- Bodies and addresses are bounded.
- Answers forbid inline scripts, frames, foreign sources, guessing of types, and telling others where one was.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY = 1 << 20  # bytes
MAX_ADDRESS = 4096  # bytes of path and query
COOKIE = "monosemy_token"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

# Plotly writes style attributes, hence 'unsafe-inline' for styles; scripts come from this server's files alone.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """The checks above around an ASGI app. `hosts`: the names it answers to; `token`: None where none is needed.

    With `any_address` every numeric address is answered to as well: nobody can point one of those elsewhere.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], token: str | None, any_address: bool = False) -> None:
        self.app, self.hosts, self.token, self.any_address = app, hosts, token, any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
        else:
            await self.app(scope, _bounded(receive), guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is said instead of an answer; None where nothing is wrong."""
        headers = Headers(scope=scope)
        host, query = headers.get("host", ""), scope["query_string"]
        if not self._knows(host):
            return PlainTextResponse(f"This server does not answer to the name {host[:100]!r}.\n", 421)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return PlainTextResponse("Only this server's own pages may ask it.\n", 403)
        if len(scope.get("raw_path") or b"") + len(query) > MAX_ADDRESS:
            return PlainTextResponse(f"The address is longer than {MAX_ADDRESS} bytes.\n", 414)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY:
            return PlainTextResponse(f"The body is larger than {MAX_BODY} bytes.\n", 413)
        return None if self.token is None else self._without_token(scope, headers, self.token)

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name in self.hosts:
            return True
        return self.any_address and name is not None and _is_address(name)

    def _without_token(self, scope: Scope, headers: Headers, token: str) -> Response | None:
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and same(dict(query).get("token", ""), token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/")  # two slashes would name another server
            answer = RedirectResponse(path + ("?" + rest if rest else ""), 303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="lax", max_age=30 * 24 * 3600)
            return answer
        if same(_cookie(headers.get("cookie", "")), token) or same(_bearer(headers), token):
            return None
        return PlainTextResponse("Open the address that `monosemy serve` printed: it has the token.\n", 401)


def same(given: str, token: str) -> bool:
    """Whether two texts are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def _cookie(header: str) -> str:
    try:
        cookies = SimpleCookie(header)
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _bearer(headers: Headers) -> str:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _bounded(receive: Receive) -> Receive:
    """`receive`, refusing a body that grows past MAX_BODY without having said so."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise HTTPException(413, f"The body is larger than {MAX_BODY} bytes.")
        return message

    return counted

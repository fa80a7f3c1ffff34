"""The files that pages need: style, scripts, and plotly's own script from its Python package; read once, by name."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def routes() -> list[Route]:
    """`/static/{name}` for the files there are. A name that is none of theirs is never looked for on the disk."""
    files = {path.name: path for path in sorted(STATIC.iterdir()) if path.suffix in TYPES}
    files["plotly.min.js"] = plotly()
    held = {name: path.read_bytes() for name, path in files.items()}
    tags = {name: f'"{hashlib.sha256(body).hexdigest()[:16]}"' for name, body in held.items()}

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in held:
            raise HTTPException(404)
        headers = {"etag": tags[name], "cache-control": "no-cache"}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(held[name], media_type=TYPES[files[name].suffix], headers=headers)

    return [Route("/static/{name}", static)]


def plotly() -> Path:
    """The script that the Python package of plotly carries."""
    spec = find_spec("plotly")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "package_data" / "plotly.min.js"

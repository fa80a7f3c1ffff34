"""The server itself, over sockets: small parts of an answer leave at once, and many readers at a time."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
import uvicorn
from app_run import WIDTH, app_run

from monosemy.app.server import _listener

READERS, PAGES = 64, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return app_run(tmp_path_factory.mktemp("serving"))


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """A server in a process of its own: where it listens."""
    program = "import sys; from monosemy.app.server import serve; serve(sys.argv[1], port=0)"
    server = subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield urlsplit(server.stdout.readline().strip()).netloc
    finally:
        server.terminate()
        server.wait(timeout=30)
        server.stdout.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_small_parts_of_an_answer_are_sent_at_once(host: str) -> None:
    """Else the body waits until the reader has acknowledged the head."""
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    seen: list[Any] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        for protocol in server.server_state.connections:
            opened = protocol.transport.get_extra_info("socket")
            seen.append(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    listener = _listener(host, 0)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", loop="asyncio", log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        connection = http.client.HTTPConnection(host, listener.getsockname()[1], timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 204
        connection.close()
    finally:
        server.should_exit = True
        thread.join(30)
    assert len(seen) == 1
    assert seen[0] != 0


def test_many_read_at_once(run: Path) -> None:
    """Each over one connection that stays open, each the pages that it asked for, whole."""
    wrong: list[str] = []
    begin = threading.Barrier(READERS)

    def read(reader: int, place: str) -> None:
        connection = http.client.HTTPConnection(place, timeout=60)
        try:
            connection.connect()
            begin.wait(60)  # all are connected before any asks
            for number in range(PAGES):
                feature = (reader + 5 * number) % WIDTH
                for twin in ("", ".json"):
                    connection.request("GET", f"/features/{feature}{twin}?n={reader}-{number}")  # none is kept
                    answer = connection.getresponse()
                    body = answer.read().decode()
                    whole = f"<title>Feature {feature} ·" in body and body.rstrip().endswith("</html>")
                    right = json.loads(body)["feature"] == feature if twin else whole
                    if answer.status != 200 or not right:
                        wrong.append(f"{reader}, {feature}: {answer.status}, {body[:200]}")
        except Exception as error:
            wrong.append(f"{reader}: {error!r}")
            begin.abort()
        finally:
            connection.close()

    with serving(run) as place:
        threads = [threading.Thread(target=read, args=(reader, place)) for reader in range(READERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []

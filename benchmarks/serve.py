"""Many readers of one server at once: how long a feature page takes, and whether memory grows.

    python -m benchmarks.serve runs/demo [--clients 64] [--requests 10000]

A server is started on the run; `clients` connections each ask for pages of features taken at random, one after the
other: once after a pause between pages, as readers do, and once without any, which shows what the server can do at
most; and one reader alone asks without a pause, which shows what a page takes when nobody else waits. Every address is
asked for once, and its page made anew. Times are those the client sees; the readers share the machine with the server,
so their processor time is told too. The target: 95 % of pages under 50 ms with 64 clients, no error, memory flat over
10,000 requests.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.record import write_record
from monosemy.analysis.feature import FeatureIndex

PAUSES_S = (1.0, 0.0)  # mean time that a client looks at a page
MEMORY_AT = (0.1, 0.5)  # shares of the requests after which the server's memory is told, besides before and after all


async def client(
    address: str, paths: Iterator[str], pause_s: float, times: list[float], errors: list[str], told: Callable[[], None]
) -> None:
    """One reader: its connection stays open. `told` is called after each page."""
    place = urlsplit(address)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    for path in paths:
        await asyncio.sleep(random.uniform(0.5, 1.5) * pause_s)
        began = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = next(line for line in head.splitlines() if line.lower().startswith("content-length:"))
        await reader.readexactly(int(length.split(":")[1]))
        times.append(time.perf_counter() - began)
        if " 200 " not in head.splitlines()[0]:
            errors.append(head.splitlines()[0])
        told()
    writer.close()


async def read(
    address: str, n_features: int, clients: int, requests: int, pause_s: float, process: int
) -> dict[str, Any]:
    """All readers at once. `process`: the server's, whose memory is told on the way."""
    times: list[float] = []
    errors: list[str] = []
    own = f"{clients}-{requests}-{pause_s}"
    paths = (f"/features/{random.randrange(n_features)}?n={own}-{number}" for number in range(requests))
    memory = {"MB before": resident_mb(process)}
    points = {max(1, round(share * requests)) for share in MEMORY_AT}

    def told() -> None:
        if len(times) in points:
            memory[f"MB at {len(times) / requests:.0%}"] = resident_mb(process)

    began = time.perf_counter()
    await asyncio.gather(*(client(address, paths, pause_s, times, errors, told) for _ in range(clients)))
    wall = time.perf_counter() - began
    times.sort()
    at = {f"p{share} ms": 1000 * times[len(times) * share // 100] for share in (50, 95, 99)}
    memory["MB after"] = resident_mb(process)
    row = {"clients": clients, "pause s": pause_s, "pages": len(times), "errors": len(errors)}
    return {**row, "pages/s": len(times) / wall, **at, **memory}


@contextmanager
def serving(run: Path) -> Iterator[tuple[str, int]]:
    """A server of its own on the run: its address and its process."""
    program = "import sys; from monosemy.app.server import serve; serve(sys.argv[1], port=0)"
    server = subprocess.Popen([sys.executable, "-c", program, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip(), server.pid
    finally:
        server.terminate()
        server.wait()


def resident_mb(process: int, kind: str = "VmRSS") -> float:
    """Memory of a process (Linux). "RssAnon": without the pages of mapped files, which the system takes back."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1000


def cpu_s(process: int) -> float:
    """Processor time that a process has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Start a server, read, write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--name", default="serve", help="of the record; empty: write none")
    settings = parser.parse_args()
    index = next(path for path in sorted(settings.run.iterdir()) if path.name.startswith("features"))
    n_features = FeatureIndex.open(index).n_features
    rows = []
    with serving(settings.run) as (address, process):
        few = settings.requests // 10
        asyncio.run(read(address, n_features, settings.clients, few, 0.0, process))  # warm
        asked = [(settings.clients, settings.requests, pause_s) for pause_s in PAUSES_S]
        for clients, requests, pause_s in [*asked, (1, few, 0.0)]:
            used, own = cpu_s(process), time.process_time()
            row = asyncio.run(read(address, n_features, clients, requests, pause_s, process))
            spent = {"server ms/page": cpu_s(process) - used, "reader ms/page": time.process_time() - own}
            rows.append({**row, **{name: 1000 * seconds / requests for name, seconds in spent.items()}})
            print(rows[-1], flush=True)
    if settings.name:
        command = f"python -m benchmarks.serve RUN --clients {settings.clients} --requests {settings.requests}"
        print(write_record(settings.name, [{"features": n_features, **row} for row in rows], command))


if __name__ == "__main__":
    main()

"""How fast synthetic worlds stream, and the memory of the process that reads them.

python benchmarks/world.py [--seconds 5] [--batch 1024]

Each world has a process of its own, so that peaks are its own; a process that only imports is the first line.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

from record import table, write_record

from monosemy.data.hierarchy import Hierarchy
from monosemy.data.synthetic import World, WorldSettings

SMALL = WorldSettings()  # 512 features in 256 dimensions, L0 5
LARGE = WorldSettings(d_in=768, features=16_384, l0=34.0, decay=1.0, zipf=0.5, correlation="none")
WORLDS = {
    "nothing": None,
    "16,384 in 768, L0 34, independent": LARGE,
    "16,384 in 768, L0 34, low-rank copula (r = 8)": replace(LARGE, correlation="sample", rank=8),
    "16,384 in 768, L0 34, hierarchy (4 children, 3 levels)": replace(LARGE, hierarchy=Hierarchy(depth=3)),
    "512 in 256, L0 5, independent": replace(SMALL, correlation="none"),
    "512 in 256, L0 5, full-rank copula": SMALL,
    "512 in 256, L0 5, batch": replace(SMALL, correlation="batch"),
}


def streamed(settings: WorldSettings | None, batch: int, seconds: float) -> tuple[float | None, float | None, float]:
    """Seconds to make the world, rows/s of its stream after the first batch, and the peak memory in MiB."""
    if settings is None:
        return None, None, _peak()
    began = time.perf_counter()
    world = World(settings)
    made = time.perf_counter() - began
    stream = world.batches(batch, seed=0)
    next(stream)
    rows, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        rows += len(next(stream))
    return made, rows / elapsed, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print and record one line a world."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=1024)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, settings in WORLDS.items():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            made, rate, peak = pool.submit(streamed, settings, options.batch, options.seconds).result()
        rows.append({"world": name, "made in s": made, "rows/s": rate, "peak MiB": peak})
    print("\n".join(table(rows)))
    print(write_record("world", rows, f"python benchmarks/world.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

"""How long the package takes to import, and how fast shuffled rows are read from a store that is in the page cache.

python benchmarks/basics.py [--rows 200000] [--width 512]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import table, write_record

from monosemy.artifact import make
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.draft import Draft

IMPORTS = {
    "python -c pass": "pass",
    "import torch": "import torch",
    "import monosemy": "import monosemy",
    "import monosemy, then every public name": "import monosemy as ms; [getattr(ms, name) for name in ms.__all__]",
}
READ_S = 2.0


def import_seconds(program: str, rounds: int = 5) -> float:
    """Median wall time of a process that runs `program`."""
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", program], check=True)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def store_of(folder: Path, rows: int, width: int, dtype: torch.dtype) -> ActivationStore:
    """A store of random rows."""

    def write(draft: Draft) -> dict[str, Any]:
        writer = ActivationWriter(draft, width, dtype)
        for start in range(0, rows, 10_000):
            count = min(10_000, rows - start)
            writer.add(torch.randn(count, width), torch.arange(start, start + count))
        return writer.finish(rows)

    return ActivationStore(make(folder, "activations", {"site": "none"}, {}, write))


def read_rate(store: ActivationStore, batch: int) -> tuple[float, float]:
    """GB/s of stored bytes and rows/s of a shuffled stream, after one pass that fills the page cache."""
    stream = store.batches(batch, seed=0)
    for _ in range(-(-store.n_all // batch)):
        next(stream)
    rows, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < READ_S:
        rows += len(next(stream))
    itemsize = store.stored_dtype.itemsize
    return rows * store.d_in * itemsize / elapsed / 1e9, rows / elapsed


def main() -> None:
    """Print and record both tables in one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = [
        {"what": name, "figure": import_seconds(program), "unit": "s"} for name, program in IMPORTS.items()
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            store = store_of(Path(folder) / name, options.rows, options.width, dtype)
            for batch in (1024, 8192):
                rate, per_s = read_rate(store, batch)
                what = f"shuffled rows, {name}, width {options.width}, batch {batch}"
                rows.append({"what": what, "figure": rate, "unit": f"GB/s ({per_s:,.0f} rows/s)"})
    print("\n".join(table(rows)))
    print(write_record("basics", rows, f"python benchmarks/basics.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

"""What comparing large dictionaries costs: MCS and one-to-one matching, with the time and the peak memory of each.

Each case runs in a process of its own: its peak is the largest resident size of that process, with Python, torch and
the two inputs. Half of the directions are shared between the two sets, with noise; the rest are unrelated.

python benchmarks/recovery.py [--mcs 131072] [--exact 20000] [--sparse 50000] [--d-in 768] [--no-record]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from record import table, write_record

from monosemy.metrics.matching import one_to_one
from monosemy.metrics.recovery import mcs
from monosemy.runtime import generator_for

NOISE = 0.5  # a shared direction's noise, in units of its length: cosine 0.89


def directions(count: int, d_in: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of `count` directions of about unit length, half of them shared."""
    generator = generator_for("benchmark directions", count, d_in)
    a_ND, b_ND = (torch.randn(count, d_in, generator=generator).div_(d_in**0.5) for _ in range(2))
    half = count // 2
    b_ND[:half].mul_(NOISE).add_(a_ND[:half])
    return a_ND, b_ND


def measure(case: str, count: int, d_in: int) -> dict[str, Any]:
    """One case, in this process; memory in GB of 10⁹ bytes."""
    a_ND, b_ND = directions(count, d_in)
    began = time.perf_counter()
    if case == "mcs":
        found: dict[str, Any] = {"mean cosine": float(mcs(a_ND, b_ND).mean()), "gap": None}
    else:
        matching = one_to_one(a_ND, b_ND, exact_up_to=count if case == "exact" else 0)
        found = {"mean cosine": matching.mcc, "gap": matching.gap}
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    row = {"case": case, "directions": f"{count} × {count}", "d_in": d_in, "seconds": seconds, "peak GB": peak / 1e9}
    return {**row, "inputs GB": 2 * a_ND.nbytes / 1e9, **found}


def main() -> None:
    """Print and record the table; a size of 0 leaves its case out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"mcs": 131_072, "exact": 20_000, "sparse": 50_000}
    for case, size in sizes.items():
        parser.add_argument(f"--{case}", type=int, default=size)
    parser.add_argument("--d-in", type=int, default=768)
    parser.add_argument("--no-record", action="store_true", help="print only")
    parser.add_argument("--only", choices=sizes, help="measure this case in this process and print it as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only, getattr(options, options.only), options.d_in)))
        return
    rows = []
    for case in sizes:
        if count := getattr(options, case):
            command = [sys.executable, __file__, "--only", case, f"--{case}", str(count), "--d-in", str(options.d_in)]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    print("\n".join(table(rows)))
    if not options.no_record:
        print(write_record("recovery", rows, f"python benchmarks/recovery.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

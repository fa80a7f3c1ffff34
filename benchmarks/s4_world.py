"""S4's own world at S4's own size: what its recipe recovers at width G, and ours for widths of G to 8 G.

    python benchmarks/s4_world.py [--rows 1024000]

D = 256, G = 512, 5 features a row, decay 0.99, correlated row by row. "literal" is S4's recipe but for its orthogonal
initialisation: interim penalty, raw rows, no decoder bias, Adam at 1e-3 throughout, batch 256. Ours: every default but
width, L1 and batch; and with copies resampled. Rare features hardly fire (the rarest in 3 rows of 10,000), so recovery
is shown by quarters of firing probability, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from record import table, write_record

from monosemy.data.synthetic import World
from monosemy.metrics.matching import one_to_one
from monosemy.metrics.recovery import mcs
from monosemy.metrics.truth import recovery_by_frequency
from monosemy.training.sweep import fit_grid

BATCH = 256
LITERAL: dict[str, Any] = {
    "penalty": "interim", "scale": "none", "b_dec": "none", "lr": 1e-3, "warmup": 0.0, "decay": 0.0, "clip": 0.0,
}  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "literal": {**LITERAL, "width": 512, "l1": (0.03, 0.1, 0.3)},
    "ours": {"width": (512, 1024, 2048, 4096), "l1": 0.1},
    "ours, copies resampled": {"width": 512, "l1": (0.06, 0.1), "remedy": "resample", "copy_above": 0.9},
}


def rows_of(world: World, arm: str, steps: int) -> list[dict[str, Any]]:
    """Train one arm; a row for each dictionary."""
    began = time.perf_counter()
    trained = fit_grid(world, batch=BATCH, steps=steps, **ARMS[arm])
    seconds = time.perf_counter() - began
    rows = []
    for member, dictionary in trained:
        mcs_G = mcs(world.features_GD, dictionary.W_dec_ND)
        quarters: Sequence[float] = recovery_by_frequency(mcs_G, world.probabilities_G)
        rows.append(
            {
                "recipe": arm,
                "width / G": member.width / world.settings.features,
                "L1": member.l1,
                "MMCS": float(mcs_G.mean()),
                "MCC": one_to_one(world.features_GD, dictionary.W_dec_ND).mcc,
                "rarest quarter": quarters[0],
                "second": quarters[1],
                "third": quarters[2],
                "commonest": quarters[3],
                "s (whole arm)": seconds,
            }
        )
    return rows


def main() -> None:
    """Print and record the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_024_000)
    options = parser.parse_args()
    world = World()
    rows = [row for arm in ARMS for row in rows_of(world, arm, options.rows // BATCH)]
    print("\n".join(table(rows)))
    print(write_record("s4-world", rows, f"python benchmarks/s4_world.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

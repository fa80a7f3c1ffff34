"""Whether long runs want lower learning rates: rate × number of steps, on a world and on a model's activations.

    python benchmarks/long_runs.py [--steps 1600 6400] [--activations FOLDER] [--seeds 0]

The grid of `docs/defaults.md` has runs of 400 to 1,600 steps. The world has the interim report's laws (Dec 2022) at
half its size: D = 128, 256 features of which 4 are active in a row, decay 0.98, independent firing; every run has
batches of 256 rows and the true width, so that features lost to a rate show. `--activations` (a folder that `monosemy
harvest` wrote) adds rows of a model, at twice their width. Rates are tried in steps of two; the one nearest to the
rule's is marked.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from typing import Any

import torch
from record import table, write_record

from monosemy.data.activations import ActivationStore
from monosemy.data.rows import RowSource
from monosemy.data.synthetic import World, WorldSettings
from monosemy.metrics.scoring import fidelity_of
from monosemy.metrics.truth import truth_scores_of
from monosemy.training.settings import default_lr
from monosemy.training.sweep import fit_grid

BATCH = 256
LR = (0.02, 0.01, 0.005, 0.0025, 0.00125)
DIALS: dict[str, dict[str, Any]] = {"relu": {"l1": 0.06}, "gated": {"l1": 0.12}, "topk": {"k": 6}}
HELD_OUT = 16_384


def measured(name: str, rows: RowSource, width: int, variant: str, steps: int, seed: int) -> list[dict[str, Any]]:
    """One line for each rate; all rates are one grid."""
    dial = DIALS[variant]
    grid = fit_grid(
        rows, variant=variant, width=width, lr=LR, batch=BATCH, steps=steps, seed=seed, device="cpu", **dial
    )
    dictionaries = [dictionary for _, dictionary in grid]
    fidelities = fidelity_of(dictionaries, rows, HELD_OUT, torch.device("cpu"))
    found: list[dict[str, Any]] = []
    for (member, _), fidelity in zip(grid, fidelities, strict=True):
        scores = fidelity.scores()
        line = {"rows": name, "variant": variant, "steps": steps, "seed": seed, "lr": member.lr}
        found.append(line | {key: scores[low] for key, low in (("FVU", "fvu"), ("L0", "l0"), ("dead", "dead"))})
    if isinstance(rows, World):
        for line, truth in zip(found, truth_scores_of(dictionaries, rows, rows=HELD_OUT), strict=True):
            line |= {"MCC": truth.scores["mcc_truth"], "F1": truth.scores["f1"]}
    own = default_lr(variant, width, BATCH, steps)
    nearest = min(LR, key=lambda lr: abs(lr / own - 1))
    return [{**line, "the rule's": "yes" if line["lr"] == nearest else ""} for line in found]


def main() -> None:
    """Train, print the table, write the record."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, nargs="+", default=[1600, 6400])
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--activations", help="a folder of the harvest stage")
    chosen = options.parse_args()
    sources: list[tuple[str, RowSource, int]] = [
        ("world", World(WorldSettings(d_in=128, features=256, l0=4, decay=0.98)), 256)
    ]
    if chosen.activations:
        store = ActivationStore.open(chosen.activations)
        sources.append((store.site, store, 2 * store.d_in))
    rows = []
    for (name, source, width), variant, steps, seed in product(sources, DIALS, chosen.steps, chosen.seeds):
        rows += measured(name, source, width, variant, steps, seed)
        print("\n".join(table(rows[-len(LR) :])), flush=True)
    command = f"python benchmarks/long_runs.py --steps {' '.join(map(str, chosen.steps))}"
    print(write_record("long-runs", rows, command + (" --activations FOLDER" if chosen.activations else "")))


if __name__ == "__main__":
    sys.exit(main())

"""The regret of advice without truth, on worlds whose truth is known.

    python benchmarks/advice.py [--worlds 52] [--cache runs/advice]

Each world differs in D, G, L0, decay, correlation, noise, magnitudes. On each a grid of L1 × width is trained in one
pass, on a scale that does not know G; `monosemy.metrics.selection` advises a cell from what can be measured without the
truth. Regret (SCIENCE: S4) is the best MMCS to the truth on the grid minus that of the advised cell. Grids are kept in
`--cache`, so that a change of the advice can be scored again at once.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import table, write_record

from monosemy.data.synthetic import World, WorldSettings
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.metrics.scoring import agreement_of, fidelity_of
from monosemy.metrics.selection import advise
from monosemy.runtime import Progress, seed_for
from monosemy.studies.measure import measured
from monosemy.training.sweep import fit_grid

L1 = tuple(10 ** (e / 4) for e in range(-8, 3))  # "sum" convention, rows of mean norm 1
WIDTH_OVER_D = (0.25, 0.5, 1, 2, 4, 8)
SETTLED = 36  # worlds on which the advice was settled; the later ones were not looked at before
STEPS, BATCH, ROWS = 800, 128, 8192
LR = 0.02  # a short run on a small world


def worlds(count: int) -> list[WorldSettings]:
    """`count` different worlds; number i does not depend on `count`."""
    found = []
    for number in range(count):
        draw = random.Random(seed_for("advice", number))
        d_in = draw.choice((16, 24, 32, 48))
        found.append(
            WorldSettings(
                d_in=d_in,
                features=round(d_in * draw.choice((1, 1.5, 2, 3, 4))),
                l0=draw.choice((1.0, 2.0, 3.0, 4.0)),
                decay=draw.choice((1.0, 0.99, 0.97, 0.95)),
                correlation=draw.choice(("none", "sample", "batch")),
                strength=draw.choice((0.3, 1.0)),
                noise=draw.choice((0.0, 0.0, 0.02, 0.05)),
                magnitude=draw.choice(("uniform", "uniform", "exponential", "folded-normal", "constant")),
                seed=number,
            )
        )
    return found


def grid_rows(settings: WorldSettings) -> list[dict[str, Any]]:
    """What `evaluate` would say of each member, and its MMCS to the truth."""
    world = World(settings)
    widths = [max(2, round(settings.d_in * ratio)) for ratio in WIDTH_OVER_D]
    trained = fit_grid(world, width=widths, l1=L1, steps=STEPS, batch=BATCH, lr=LR, clip=0.0)
    members = [asdict(member) for member, _ in trained]
    dictionaries = [dictionary for _, dictionary in trained]
    with torch.inference_mode():
        fidelity = fidelity_of(dictionaries, world, ROWS, torch.device("cpu"))
        agreement = agreement_of(members, dictionaries, [collector.active_N > 0 for collector in fidelity])
    return [
        {
            **member,
            **collector.scores(),
            **agreed,
            "mmcs_truth": mmcs_to_truth(world.features_GD, dictionary.W_dec_ND),
        }
        for member, dictionary, collector, agreed in zip(members, dictionaries, fidelity, agreement, strict=True)
    ]


def regrets(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The regret of each method that advises a cell, and of the consensus."""
    truth = {(row["width"], row["l1"]): row["mmcs_truth"] for row in rows}
    advice = advise(rows)
    findings = [*advice.findings, advice.consensus]
    best = max(truth.values())
    return {finding.method: best - truth[finding.width, finding.l1] for finding in findings if finding.found}


def main() -> None:
    """Print and record the regret of every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=52)
    parser.add_argument("--cache", type=Path, default=Path("runs/advice"))
    options = parser.parse_args()
    found: list[tuple[WorldSettings, dict[str, float], float]] = []
    with Progress("worlds", options.worlds, unit="worlds") as bar:
        for number, settings in enumerate(worlds(options.worlds)):
            config = {"world": asdict(settings), "steps": STEPS, "batch": BATCH, "rows": ROWS}
            config |= {"l1": L1, "widths": WIDTH_OVER_D}
            rows = measured(options.cache / f"{number:03}", config, {}, lambda _, s=settings: grid_rows(s))
            found.append((settings, regrets(rows), max(row["mmcs_truth"] for row in rows)))
            bar.advance()
    per_world = [
        {"D": s.d_in, "G": s.features, "L0": s.l0, "decay": s.decay, "correlation": s.correlation,
         "strength": s.strength, "noise": s.noise, "magnitude": s.magnitude, "best MMCS": best, **regret}
        for s, regret, best in found
    ]  # fmt: skip
    print("\n".join(table(per_world)))
    methods = dict.fromkeys(name for _, regret, _ in found for name in regret)
    summary = []
    for which, part in (("settled on", found[:SETTLED]), ("fresh", found[SETTLED:])):
        for method in methods if part else ():
            values = [regret[method] for _, regret, _ in part if method in regret]
            median, ninetieth = statistics.median(values), float(np.quantile(values, 0.9))
            summary.append(
                {"worlds": which, "method": method, "advised": len(values), "median regret": median,
                 "90th percentile": ninetieth, "worst": max(values)}
            )  # fmt: skip
    print("\n".join(table(summary)))
    print(write_record("advice", summary, f"python benchmarks/advice.py {' '.join(sys.argv[1:])}".strip(), per_world))


if __name__ == "__main__":
    main()

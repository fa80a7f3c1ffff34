"""Does a consensus of dictionaries find the truth better than one dictionary that read all their rows?

In a clean and a noisy synthetic world of 64 features, with dictionaries as wide and wider: m members of R rows each,
their consensus, and one dictionary of the same m·R rows, all with the same settings. MMCS and MCC to the truth,
precision (MMCS from the learned directions to the true ones), FVU of clean rows, and stability: MMCS between two runs
from other seeds and rows. Each repetition draws its own world and makes two runs in it. Means over repetitions, with
the half-width of their 95 % t-interval; "gain" is the paired difference of MMCS to the one dictionary. The consensus
stands there at two quorums: half of the members (the default), and more than half.

python benchmarks/consensus.py [--members 4] [--steps 400] [--repetitions 5] [--noise 0 0.2] [--width 64 96] [--l1 0.3]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from record import table, write_record

from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.fidelity import fidelity
from monosemy.metrics.interval import half_width
from monosemy.metrics.matching import one_to_one
from monosemy.metrics.recovery import mmcs, mmcs_to_truth
from monosemy.runtime import Progress, UsageError, seed_for
from monosemy.training.consensus import Share, consensus
from monosemy.training.sweep import fit_grid

WORLD = WorldSettings(d_in=32, features=64, l0=3.0)
TRAINING = {"batch": 256, "lr": 4e-2}
RUNS = 2  # in each world, so that they can be compared
TEST_ROWS = 8192
MEMBER, ONE = "member", "one of all rows"

Cell = tuple[int, float | None]  # width, L1 price
Grid = dict[Cell, Dictionary]
Arms = dict[str, Dictionary | None]


def trained(world: World, options: argparse.Namespace, first: int, steps: int, *seed: object) -> Grid:
    """A dictionary for each width and price, from batch `first` of the world's stream on."""
    dials = {"width": tuple(options.width), "l1": tuple(options.l1)}
    found = fit_grid(Share(world, first), **TRAINING, **dials, steps=steps, seed=seed_for(*seed))
    return {(member.width, member.l1): dictionary for member, dictionary in found}


def arms(world: World, options: argparse.Namespace, run: int) -> dict[Cell, Arms]:
    """What is compared, for each width and price. The one dictionary reads the very rows that the members share."""
    members, steps = options.members, options.steps
    first = run * members * steps
    parts = [trained(world, options, first + m * steps, steps, "member", run, m) for m in range(members)]
    one = trained(world, options, first, members * steps, "one", run)
    found = {}
    for cell in one:
        own = [part[cell] for part in parts]
        at_quorum = {f"consensus, {q} of {members}": agreed(own, q) for q in (-(-members // 2), members // 2 + 1)}
        found[cell] = {MEMBER: own[0], **at_quorum, ONE: one[cell]}
    return found


def agreed(dictionaries: Sequence[Dictionary], quorum: int) -> Dictionary | None:
    """Their consensus; None where they agree on nothing."""
    try:
        return consensus(dictionaries, quorum=max(quorum, 2)).dictionary
    except UsageError:
        return None


def scores(world: World, clean_XD: torch.Tensor, dictionary: Dictionary | None) -> dict[str, float]:
    """Of one dictionary against the truth; nothing found is 0."""
    if dictionary is None:
        return {"width": 0.0, "mmcs": 0.0, "mcc": 0.0}
    truth_GD, W_ND = world.features_GD, dictionary.W_dec_ND
    return {
        "width": float(dictionary.width),
        "mmcs": mmcs_to_truth(truth_GD, W_ND),
        "mcc": float(one_to_one(truth_GD, W_ND).cosines_P.sum()) / len(truth_GD),  # a feature without partner is 0
        "precision": mmcs_to_truth(W_ND, truth_GD),
        "fvu": float(fidelity(dictionary, clean_XD)["fvu"] or math.nan),
    }


def repetition(noise: float, number: int, options: argparse.Namespace) -> dict[Cell, dict[str, dict[str, float]]]:
    """For each width and price, every arm's scores in one world: means over its runs."""
    settings = replace(WORLD, noise=noise, seed=number)
    world, clean = World(settings), World(replace(settings, noise=0.0))
    clean_XD = clean.sample(TEST_ROWS).x_XD
    runs = [arms(world, options, run) for run in range(RUNS)]
    return {cell: compared(world, clean_XD, [run[cell] for run in runs]) for cell in runs[0]}


def compared(world: World, clean_XD: torch.Tensor, runs: Sequence[Arms]) -> dict[str, dict[str, float]]:
    """Every arm's scores: means over the runs, and how alike the runs are."""
    found = {}
    for arm in runs[0]:
        both = [run[arm] for run in runs]
        each = [scores(world, clean_XD, dictionary) for dictionary in both]
        shared = set.intersection(*(set(one) for one in each))
        found[arm] = {name: sum(one[name] for one in each) / RUNS for name in each[0] if name in shared}
        found[arm]["stability"] = 0.0 if None in both else mmcs(*(one.W_dec_ND for one in both if one))
    for columns in found.values():
        columns["gain"] = columns["mmcs"] - found[ONE]["mmcs"]
    return found


def shown(values: Sequence[float]) -> str:
    """Mean ± half-width of the 95 % t-interval."""
    return f"{sum(values) / len(values):.3f} ± {half_width(values):.3f}"


def main() -> None:
    """Print and record the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--steps", type=int, default=400, help="of a member")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.2])
    parser.add_argument("--width", type=int, nargs="+", default=[64, 96], help="of members and of the one dictionary")
    parser.add_argument("--l1", type=float, nargs="+", default=[0.3])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with Progress("worlds", len(options.noise) * options.repetitions) as bar:
        for noise in options.noise:
            values: dict[tuple[Cell, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
            for number in range(options.repetitions):
                for cell, by_arm in repetition(noise, number, options).items():
                    for arm, found in by_arm.items():
                        for name, value in found.items():
                            values[cell, arm][name].append(value)
                bar.advance()
            for ((width, l1), arm), columns in values.items():
                told = {
                    name: shown(columns[name]) if len(columns[name]) == options.repetitions else "–"
                    for name in ("mmcs", "gain", "mcc", "precision", "stability", "fvu")
                }
                features = sum(columns["width"]) / options.repetitions
                about = {"noise": noise, "trained width": width, "l1": l1, "what": arm, "features": features}
                rows.append({**about, **told})
    print("\n".join(table(rows)))
    print(write_record("consensus", rows, f"python benchmarks/consensus.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

"""One training step of the toy study's small grid: ours, against the same members trained by the peers' own trainers.

    .bench-env/bin/python benchmarks/toy_grid.py [--rounds 20] [--features 64] [--d-in 32] [--batch 256]

The grid is the interim report's of Dec 2022: ReLU-L1 dictionaries of widths 2^r·G (r = −2 … 5), L1 = 10^(e/4)
(e = −8 … 8) in its convention (error a coordinate, penalty a feature), each member's λ = L1·D/N given to everybody in
the convention that ours, SAELens and dictionary_learning share. A step shows one batch of the world to every member
once. Each library does what it always does at a step (peers.py), ours the same kind of work: dead features tracked,
a unit-norm decoder. Making batches is not counted. All arms step in turn on the same batches, in one process, so that a
machine whose speed drifts does so for all. Arms marked "full rate" run the peers as they are, with torch allowed the
faster fp32 products that ours asks for. Without the peers installed only ours runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable

import torch
from peers import Step, dictionary_learning, quietly, saelens
from record import table, write_record

from monosemy.data.rows import ArrayRows
from monosemy.data.synthetic import World, WorldSettings
from monosemy.runtime import full_rate_products
from monosemy.training.ensemble import ensembles_of
from monosemy.training.frame import framed
from monosemy.training.settings import TrainSettings, grid
from monosemy.training.sweep import settings_from

L1 = tuple(10 ** (e / 4) for e in range(-8, 9))
DOUBLINGS = range(-2, 6)
OURS = "monosemy"
WARM_UP = 3  # rounds that are not counted
PEER_STEPS = 100_000  # a run long enough for the peers' schedules not to end


def ours(settings: TrainSettings, d_in: int, first_BD: torch.Tensor) -> Step:
    """Stacks of members of one width."""
    device = torch.device("cpu")
    frame = framed(ArrayRows(first_BD), settings.frame)
    stacks = ensembles_of(grid(settings, d_in), settings, frame, device, settings.batch)

    def step(x_BD: torch.Tensor) -> None:
        with torch.no_grad(), full_rate_products(device):
            for stack in stacks:
                stack.step(x_BD)

    return step


def one_by_one(steps: list[Step]) -> Step:
    """A step of every member, as their users' loop does it."""

    def step(x_BD: torch.Tensor) -> None:
        for member in steps:
            member(x_BD)

    return step


def at_full_rate(step: Step) -> Step:
    """The same step with the products that ours uses."""

    def faster(x_BD: torch.Tensor) -> None:
        with full_rate_products(torch.device("cpu")):
            step(x_BD)

    return faster


def arms_of(settings: TrainSettings, d_in: int, first_BD: torch.Tensor) -> dict[str, Step]:
    """Ours, and the peers that are installed."""
    arms = {OURS: ours(settings, d_in, first_BD)}
    asked = [(width, l1 * d_in / width) for width in settings.width for l1 in settings.l1]
    batch = settings.batch
    peers: dict[str, Callable[[int, float], Step]] = {
        "sae_lens": lambda n, l1: saelens("standard", d_in, n, PEER_STEPS, batch, lr=1e-3, l1_coefficient=l1).step,
        "dictionary_learning": lambda n, l1: (
            dictionary_learning("standard", d_in, n, PEER_STEPS, lr=1e-3, l1_penalty=l1).step
        ),
    }
    for package, make in peers.items():
        if importlib.util.find_spec(package) is None:
            continue
        step = one_by_one(quietly(lambda make=make: [make(width, l1) for width, l1 in asked]))
        arms[package] = step
        arms[f"{package}, full rate"] = at_full_rate(step)
    return arms


def measure(arms: dict[str, Step], batches: list[torch.Tensor]) -> dict[str, list[float]]:
    """Milliseconds of each arm on each batch but the first few."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number, x_BD in enumerate(batches):
        for name, step in arms.items():
            began = time.perf_counter()
            step(x_BD)
            if number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def main() -> None:
    """Print and record milliseconds a step and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--features", type=int, default=64, help="true features G of the world; widths are G/4 … 32·G")
    parser.add_argument("--d-in", type=int, default=32)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    world = World(WorldSettings(d_in=options.d_in, features=options.features))
    widths = tuple(int(options.features * 2.0**r) for r in DOUBLINGS)
    settings = settings_from(
        width=widths, l1=L1, penalty="interim", scale="none", lr=1e-3, batch=options.batch, clip=0.0
    )
    stream = world.batches(options.batch, seed=0)
    batches = [next(stream) for _ in range(WARM_UP + options.rounds)]
    times = measure(arms_of(settings, options.d_in, batches[0]), batches)
    rows = [
        {
            f"step of {len(widths) * len(L1)} members": name,
            "ms, median": statistics.median(found),
            "ms, fastest": min(found),
            "times ours (median of pairs)": statistics.median(a / b for a, b in zip(found, times[OURS], strict=True)),
        }
        for name, found in times.items()
    ]
    print("\n".join(table(rows)))
    print(write_record("toy-grid", rows, f"python benchmarks/toy_grid.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

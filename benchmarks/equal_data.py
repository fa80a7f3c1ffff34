"""Equal data: what ours, SAELens and dictionary_learning recover of one world from the same rows, each seen once.

    .bench-env/bin/python benchmarks/equal_data.py [--rows 2048000] [--width 512] [--batch 256]

The world has the size, sparsity and decay of the interim report of Dec 2022 (D = 256, G = 512, 5 features a row, decay
0.99), with independent firing. Ours runs with every default (but width, rows and batch); then with copies resampled,
everything else by default, at a few L1: `monosemy train world/ --width 512 --batch 256 --steps 8000 --remedy resample
--copy-above 0.9 --l1 0.1`. The peers run at several of their coefficients and with their own defaults, but for SAELens'
learning rate: at its default (3e-4) it recovers less from so few rows. An L1 of theirs is a multiple of the rows' mean
norm, so that it asks for the same sparsity as one of ours. The last lines repeat the best of each library by MCC.
Without the peers installed only ours runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import Any

from contest import scores, train_ours, train_peers, with_best
from peers import Peer, dictionary_learning, quietly, saelens
from record import table, write_record

from monosemy.data.synthetic import World, WorldSettings

L1 = (0.06, 0.12, 0.24)  # of the rows' mean norm
K = (8,)
OUR_L1 = (0.06, 0.08, 0.1)
RECIPE = {"remedy": "resample", "copy_above": 0.9}
STANDARD_LR, BATCHTOPK_LR = (3e-3,), 1e-3  # SAELens'


def peers_of(d_in: int, width: int, mean_norm: float, steps: int, batch: int) -> list[Peer]:
    """The peers that are installed."""
    penalties = [round(l1 * mean_norm, 3) for l1 in L1]
    peers: list[Peer] = []
    if importlib.util.find_spec("sae_lens") is not None:
        shared: dict[str, Any] = {"d_in": d_in, "width": width, "steps": steps, "batch": batch}
        for lr in STANDARD_LR:
            peers += [saelens("standard", **shared, lr=lr, l1_coefficient=penalty) for penalty in penalties]
        peers += [saelens("batchtopk", **shared, lr=BATCHTOPK_LR, k=float(k)) for k in K]
    if importlib.util.find_spec("dictionary_learning") is not None:
        peers += [dictionary_learning("topk", d_in, width, steps, k=k) for k in K]
    return peers


def main() -> None:
    """Print and record the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_048_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    steps, batch, width = options.rows // options.batch, options.batch, options.width
    world = World(WorldSettings(correlation="none"))
    mean_norm = world.statistics().mean_norm
    peers = quietly(lambda: peers_of(world.d_in, width, mean_norm, steps, batch))
    default = train_ours(world, steps, batch, width=width)
    recipe = train_ours(world, steps, batch, width=width, l1=OUR_L1, **RECIPE)
    rows = scores([*default, *recipe, *train_peers(world, peers, steps, batch)], world)
    rows[0]["recipe"] += " (default)"
    for row in rows[1 : 1 + len(OUR_L1)]:
        row["recipe"] += ", copies resampled"
    rows = with_best(rows)
    print("\n".join(table(rows)))
    name = "equal-data" if peers else "equal-data-ours"
    print(write_record(name, rows, f"python benchmarks/equal_data.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

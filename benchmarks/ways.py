"""Where a sparse step becomes cheaper than a dense one: the same ReLU-L1 step both ways, by the density of its codes.

    python benchmarks/ways.py [--rounds 9] [--kernels numba] [--device cpu]

Random rows and unit weights; the encoder's bias is set so that the wanted share of entries is above 0, and the learning
rate is 0, so that the density stays. Both ways take the same rows in turn, each with what training does beside (clipped
gradients, dead tracking). "pays" is what `training/compute.py` decides from the measured density, coming from a dense
step; the line where "dense / sparse" passes 1 is what its numbers should say.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from itertools import product

import torch
from record import table, write_record

from monosemy.data.rows import ArrayRows
from monosemy.training.compute import sparse_pays
from monosemy.training.ensemble import Ensemble, ensembles_of
from monosemy.training.frame import framed
from monosemy.training.settings import grid
from monosemy.training.sweep import settings_from

SHAPES = ((256, 512, 256), (256, 1024, 256), (512, 4096, 2048))  # D, N, B
DENSITIES = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)
WARM_UP = 2  # rounds that are not counted


def stack_of(way: str, kernels: str, device: str, x_BD: torch.Tensor, width: int, density: float) -> Ensemble:
    """One member whose codes have that density."""
    batch, d_in = x_BD.shape
    settings = settings_from(
        variant="relu", width=width, l1=0.06, batch=batch, scale="none", lr=0.0, device=device, kernels=kernels, way=way
    )
    rows = ArrayRows(x_BD.cpu())
    stack = ensembles_of(
        grid(settings, d_in), settings, framed(rows, settings.frame), torch.device(device), batch
    )[0]  # fmt: skip
    z_NB = stack.params["W_enc"][0] @ x_BD.T
    stack.params["b_enc"][0] = -torch.quantile(z_NB, 1 - density, dim=1)
    return stack


def main() -> None:
    """Print and record both ways' milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kernels", default="numba")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    rows = []
    for (d_in, width, batch), density in product(SHAPES, DENSITIES):
        x_BD = torch.randn(batch, d_in, generator=torch.Generator().manual_seed(0)).to(options.device)
        ways = ("dense", "sparse")
        stacks = {way: stack_of(way, options.kernels, options.device, x_BD, width, density) for way in ways}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for number, way in product(range(WARM_UP + options.rounds), ways):
            began = time.perf_counter()
            with torch.no_grad():
                stacks[way].step(x_BD)
            if x_BD.is_cuda:
                torch.cuda.synchronize()
            if number >= WARM_UP:
                times[way].append(1000 * (time.perf_counter() - began))
        dense, sparse = (statistics.median(times[way]) for way in ways)
        found = stacks["sparse"].metrics(stacks["sparse"].step(x_BD))[0]["l0"]
        pays = sparse_pays(density, d_in * width * batch, options.kernels, sparse_now=False)
        rows.append(
            {"D": d_in, "N": width, "B": batch, "density": (found or 0.0) / width, "dense ms": dense,
             "sparse ms": sparse, "dense / sparse": dense / sparse, "pays": "yes" if pays else "no"}
        )  # fmt: skip
    print("\n".join(table(rows)))
    print(write_record("ways", rows, f"python benchmarks/ways.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

"""One training step of a 40-member toy grid (8 L1 × widths 64…1024, D=256, batch 256): stacked, against autograd.

    python benchmarks/grid.py [--rounds 15]

The loop trains the same members one after another as one writes it in plain torch: autograd, `torch.optim.Adam`, a
unit-norm decoder (normalised on the forward pass, as S4 does, and after the step), active features tracked: the same
work as ours. It runs with Adam as it comes and with `fused=True`. All arms take one step in turn, in one process, so
that a machine whose speed drifts does so for all of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from record import table, write_record

from monosemy.data.rows import ArrayRows
from monosemy.runtime import full_rate_products, pick_device
from monosemy.training.ensemble import ensembles_of
from monosemy.training.frame import framed
from monosemy.training.settings import TrainSettings, grid

D, BATCH = 256, 256
WIDTHS = (64, 128, 256, 512, 1024)
L1 = tuple(10 ** (e / 4) for e in range(-8, 0))
SETTINGS = TrainSettings(width=WIDTHS, l1=L1, batch=BATCH)

Step = Callable[[torch.Tensor], object]


def stacked(device: torch.device, x_BD: torch.Tensor) -> Step:
    """Ours."""
    stacks = ensembles_of(grid(SETTINGS, D), SETTINGS, framed(ArrayRows(x_BD.cpu()), SETTINGS.frame), device, BATCH)

    def step(x_BD: torch.Tensor) -> None:
        with torch.no_grad(), full_rate_products(device):
            for stack in stacks:
                stack.step(x_BD)

    return step


def looped(device: torch.device, x_BD: torch.Tensor, fused: bool) -> Step:
    """The same members from the same weights, one autograd step each, doing the same work."""
    members = []
    for stack in ensembles_of(
        grid(SETTINGS, D), SETTINGS, framed(ArrayRows(x_BD.cpu()), SETTINGS.frame), device, BATCH
    ):
        for i, member in enumerate(stack.members):
            params = {name: tensor[i].clone().requires_grad_() for name, tensor in stack.params.items()}
            adam = torch.optim.Adam(list(params.values()), lr=member.lr, fused=fused or None)
            last_fired_N = torch.zeros(member.width, dtype=torch.int64, device=device)
            members.append((params, adam, float(stack.hyper.l1_M[i]), stack.frame.scaling.seen_D, last_fired_N))
    count = 0

    def step(x_BD: torch.Tensor) -> None:
        nonlocal count
        count += 1
        for params, adam, l1, scale_D, last_fired_N in members:
            rows_BD = x_BD * scale_D
            W_dec_ND = params["W_dec"] / params["W_dec"].norm(dim=1, keepdim=True)  # unit norm on the forward pass
            codes_BN = torch.relu(rows_BD @ params["W_enc"].T + params["b_enc"])
            error_BD = codes_BN @ W_dec_ND + params["b_dec"] - rows_BD
            loss = error_BD.square().sum(dim=1).mean() + l1 * codes_BN.sum(dim=1).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            with torch.no_grad():
                params["W_dec"] /= params["W_dec"].norm(dim=1, keepdim=True)
                last_fired_N[(codes_BN > 0).any(dim=0)] = count

    return step


def main() -> None:
    """Print and record milliseconds a step and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    device = pick_device("auto")
    x_BD = torch.randn(BATCH, D, device=device)
    arms = {
        "autograd loop, Adam": looped(device, x_BD, fused=False),
        "autograd loop, fused Adam": looped(device, x_BD, fused=True),
        "monosemy, stacked": stacked(device, x_BD),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for round_number in range(options.rounds + 2):
        for name, step in arms.items():
            began = time.perf_counter()
            step(x_BD)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number >= 2:  # two warm-up rounds
                times[name].append(1000 * (time.perf_counter() - began))
    ours = times["monosemy, stacked"]
    rows = [
        {
            "step of 40 members": name,
            "ms, median": statistics.median(found),
            "ms, fastest": min(found),
            "times ours (median of pairs)": statistics.median(a / b for a, b in zip(found, ours, strict=True)),
        }
        for name, found in times.items()
    ]
    print("\n".join(table(rows)))
    print(write_record("grid", rows, f"python benchmarks/grid.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

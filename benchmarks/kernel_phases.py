"""The phases of a sparse training step, in milliseconds: each implementation of the kernels beside the encode product.

    python benchmarks/kernel_phases.py [--rounds 7] [--shapes i,ii,iii] [--kernels torch,numba] [--device cpu]

A TopK step with unit decoder rows, at the three shapes that the engine is tuned for. Rows are encoded in chunks of
64 MB; selection is timed on the last chunk, as often as there are chunks, as in training, where each is selected from
right after. All phases of all implementations are run in turn, round after round, so that a machine whose
speed drifts does so for all; medians. "of the product" is the phase's share of the dense encode product at torch's
default precision, measured in the same rounds. Each implementation has its own weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from record import table, write_record

from monosemy.dictionaries.sparse import PIECE
from monosemy.kernels.choose import kernels_for
from monosemy.kernels.contract import Kernels
from monosemy.kernels.firings import AdamStep, Firings, RowGradients, RowParams

SHAPES = {"i": (256, 512, 256, 8), "ii": (512, 4096, 2048, 32), "iii": (512, 16384, 4096, 32)}  # D, N, B, k
WARM_UP = 2  # rounds that are not counted
SMALL_ROUNDS = 10  # times as many at shape i, whose phases are short

Phase = Callable[[], object]


class Encoder:
    """The encode product of a batch in chunks of rows; a chunk's z is still in the cache when it is selected from."""

    def __init__(self, x_BD: torch.Tensor, W_ND: torch.Tensor) -> None:
        self.parts, self.W_ND = x_BD.split(max(1, PIECE // len(W_ND))), W_ND
        self.z_BN = x_BD.new_empty(len(self.parts[0]), len(W_ND))

    def product(self, then: Callable[[torch.Tensor], None] | None = None) -> None:
        """Encode, and do something with each chunk."""
        for part_BD in self.parts:
            z_BN = torch.mm(part_BD, self.W_ND.T, out=self.z_BN[: len(part_BD)])
            if then is not None:
                then(z_BN)


def phases(kernels: Kernels, x_BD: torch.Tensor, W_ND: torch.Tensor, encoder: Encoder, k: int) -> dict[str, Phase]:
    """Each phase of a step, on what the one before gives."""
    width, like = len(W_ND), torch.zeros_like
    b_N, lr_N, step = W_ND.new_zeros(width), W_ND.new_full((width,), 1e-4), AdamStep(0.9, 0.999, 1e-8, 10)
    parts: list[Firings] = []
    encoder.product(lambda z_BN: parts.append(kernels.topk(z_BN, k)))
    firings, z_BN, chunks = Firings.joined(parts), encoder.z_BN, len(encoder.parts)
    threshold_N = z_BN.topk(k, dim=1).values[:, -1].mean().expand(width).contiguous()
    W_dec, W_enc, residual_GBE = W_ND.clone(), W_ND.clone(), torch.empty_like(x_BD)[None]
    _, dots_F = kernels.decode(firings, W_dec, None, x_BD, (width,), residual_GBE)
    columns = kernels.columns(firings, width)
    gradient = RowGradients(
        columns, firings.value_F, dots_F, x_BD, residual_GBE, (width,), W_dec, tied=False, unit=True
    )
    moments = like(W_dec), like(W_dec), b_N, like(b_N), like(b_N), W_enc, like(W_enc), like(W_enc)
    params = RowParams(W_dec, *moments)
    return {
        "top k": lambda: Firings.joined([kernels.topk(z_BN, k) for _ in range(chunks)]),
        "above a threshold": lambda: Firings.joined([kernels.above(z_BN, threshold_N) for _ in range(chunks)]),
        "decode and codes' gradients": lambda: kernels.decode(firings, W_dec, None, x_BD, (width,), residual_GBE),
        "sort by feature": lambda: kernels.columns(firings, width),
        "norm of the gradient": lambda: kernels.square_norms(gradient),
        "gradients, Adam, unit rows": lambda: kernels.update(gradient, params, step, lr_N),
    }


def measure(arms: dict[tuple[str, str], Phase], rounds: int, device: torch.device) -> dict[tuple[str, str], float]:
    """Median milliseconds of each, run in turn."""
    times: dict[tuple[str, str], list[float]] = {name: [] for name in arms}
    for number in range(WARM_UP + rounds):
        for name, phase in arms.items():
            began = time.perf_counter()
            phase()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - began))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    """Print and record milliseconds of each phase."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", default="i,ii,iii")
    parser.add_argument("--kernels", default="torch,numba")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device, rows = torch.device(options.device), []
    for shape in options.shapes.split(","):
        d_in, width, batch, k = SHAPES[shape]
        generator = torch.Generator().manual_seed(0)
        x_BD = torch.randn(batch, d_in, generator=generator).to(device)
        W_ND = torch.nn.functional.normalize(torch.randn(width, d_in, generator=generator)).to(device)
        encoder = Encoder(x_BD, W_ND)
        arms: dict[tuple[str, str], Phase] = {("torch", "encode product"): encoder.product}
        for name in options.kernels.split(","):
            found = phases(kernels_for(name, device), x_BD, W_ND, encoder, k)
            arms |= {(name, phase): run for phase, run in found.items()}
        times = measure(arms, options.rounds * (SMALL_ROUNDS if shape == "i" else 1), device)
        whole = times["torch", "encode product"]
        rows += [
            {
                "shape": f"({shape}) D={d_in} N={width} B={batch} k={k}",
                "kernels": name,
                "phase": phase,
                "ms": found,
                "of the product": found / whole,
            }
            for (name, phase), found in times.items()
        ]
    print("\n".join(table(rows)))
    print(write_record("kernels", rows, f"python benchmarks/kernel_phases.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

"""On what a run computes: device, precision, kernels, and whether codes are treated as dense or as sparse.

Codes are sparse for TopK and its kin from the first step. Those of an L1 penalty become so: their density is measured
every MEASURE_EVERY steps, and the cheaper way is taken. Where the two cost the same was measured for numba (LOG.md);
the limits of the other kernels follow from what their phases cost (torch) or are guesses (triton).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from monosemy.runtime import check_choices

Dtype = Literal["fp32", "bf16"]
KernelName = Literal["auto", "torch", "numba", "triton"]
Way = Literal["auto", "dense", "sparse"]

MEASURE_EVERY = 50
SPARSE_BELOW = {"torch": 0.06, "numba": 0.15, "triton": 0.05}  # density of codes at which a sparse step is taken
DENSE_ABOVE = 1.3  # times that, a dense one is gone back to
FULL_SIZE, LEAST_SIZE = 2**25, 2**23  # products B·N·D of an encoder below which calls cost more than products do


@dataclass(frozen=True)
class Compute:
    """Where and how products are made. None of it changes what is computed, but for rounding."""

    device: str = "auto"
    """auto, cpu or cuda."""
    dtype: Dtype = "fp32"
    """Of the products; weights and optimiser stay fp32."""
    kernels: KernelName = "auto"
    """numba on a CPU and triton on a GPU (auto), or plain torch."""
    way: Way = "auto"
    """Steps that treat codes as dense, as sparse, or as their measured density says (auto)."""

    def __post_init__(self) -> None:
        check_choices(self, dtype=get_args(Dtype), kernels=get_args(KernelName), way=get_args(Way))


def sparse_pays(density: float, products: int, kernels: str, sparse_now: bool) -> bool:
    """Whether steps should treat codes of this density as sparse, with B·N·D `products` in the encoder of a member."""
    limit = SPARSE_BELOW[kernels] * min(1.0, products / FULL_SIZE) * (DENSE_ABOVE if sparse_now else 1.0)
    return products >= LEAST_SIZE and density < limit

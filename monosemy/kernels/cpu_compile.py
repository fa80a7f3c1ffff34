"""How the CPU kernels are compiled and how their work is shared out; the settings of numba are in this file only.

Compiled code is kept on disk beside the modules (or in the user's cache folder), so only the first run on a machine
compiles. Floating-point sums may be reordered by the compiler and products fused, but nothing is assumed about NaN and
infinity, which must come through. Each sum is still made by one thread in an order that depends on shapes only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt
import torch

P = ParamSpec("P")
R = TypeVar("R")

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.int32]

CONFIG: Any = numba.config
ORDER_FREE = {"reassoc", "contract", "nsz", "arcp"}  # fast-math without `nnan` and `ninf`
LAYERS = ["omp", "tbb", "workqueue"]  # omp is torch's own pool of threads; a second pool would compete with it


def _compiled(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        settings = {"fastmath": ORDER_FREE, "error_model": "numpy", "nogil": True, **options}
        try:
            made: Callable[P, R] = numba.njit(cache=True, **settings)(function)
        except RuntimeError:  # no folder that can be written to: compile in every process
            made = numba.njit(**settings)(function)
        return made

    return decorate


kernel = _compiled(parallel=True)
"""For what Python calls: its `prange` loops are shared among threads."""
inner = _compiled()
"""For what kernels call. Kept in the file of its callers, whose stored code is otherwise not renewed with it."""


def match_threads() -> int:
    """Let kernels use as many threads as torch does, and say how many that is.

    Starting numba's threads changes torch's number, which is put back.
    """
    wanted = torch.get_num_threads()
    possible: int = max(1, min(wanted, CONFIG.NUMBA_NUM_THREADS))
    if numba.get_num_threads() != possible:
        numba.set_num_threads(possible)
    if torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)
    return possible


def choose_threading() -> None:
    """Prefer torch's own threads, unless the user's environment says otherwise; then start them."""
    if CONFIG.THREADING_LAYER == "default":
        CONFIG.THREADING_LAYER_PRIORITY = LAYERS
    match_threads()

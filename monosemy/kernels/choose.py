"""Which kernels run: an explicit setting, "auto" by default. numba and triton are imported only when asked for."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

from monosemy.kernels.contract import Kernels
from monosemy.runtime import UsageError

NAMES = ("auto", "torch", "numba", "triton")


def kernels_for(name: str, device: torch.device | str) -> Kernels:
    """The kernels called `name` for tensors on `device`; the same object at every call.

    "auto" is the fastest that is installed: numba on the CPU, triton on CUDA, else torch; `Kernels.name` says which it
    is. Raises UsageError where what is asked for by name cannot run.
    """
    kind = torch.device(device).type
    if name not in NAMES:
        raise UsageError(f"`kernels` (={name!r}) must be one of {', '.join(NAMES)}")
    if name == "auto":
        best = {"cpu": "numba", "cuda": "triton"}.get(kind, "torch")
        name = best if best == "torch" or find_spec(best) is not None else "torch"
    elif name != "torch" and find_spec(name) is None:
        raise UsageError(f"`kernels` (={name!r}) needs the package {name}, which is not installed; use torch or auto")
    if name == "numba" and kind != "cpu":
        raise UsageError(f"`kernels` (='numba') run on the CPU only, not on {kind}; use triton, torch or auto")
    if name == "triton" and kind != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError(f"`kernels` (='triton') need a CUDA device, not {kind}; use numba, torch or auto")
    return _made(name)


@cache
def _made(name: str) -> Kernels:
    if name == "numba":
        from monosemy.kernels.cpu import Numba

        return Numba()
    if name == "triton":
        from monosemy.kernels.gpu import Triton

        return Triton()
    from monosemy.kernels.reference import Reference

    return Reference()

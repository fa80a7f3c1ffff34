"""What several tests share: the real data beside the checkout, where there is some, and tiny random networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network; a name on the Hub fails at once
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported: GPU kernels run in numpy

if "PYTEST_XDIST_WORKER" in os.environ:  # `make test` runs as many workers as there are cores: they share them fairly
    threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # of processes that tests start

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(path: str) -> Path:
    """A file or folder of the shared data; the test is skipped, saying so, where it is absent."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs {path} in the shared data beside the checkout")
    return SHARED / path

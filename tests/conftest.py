"""What several tests share: the real data beside the checkout, where there is some, and tiny random networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network; a name on the Hub fails at once
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is first imported: GPU kernels run in numpy

SHARED = Path(__file__).parents[2] / "shared" / "data"


def shared(path: str) -> Path:
    """A file or folder of the shared data; the test is skipped, saying so, where it is absent."""
    if not (SHARED / path).exists():
        pytest.skip(f"needs {path} in the shared data beside the checkout")
    return SHARED / path

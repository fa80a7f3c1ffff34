"""A finished table of scores, as `evaluate` wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, load
from monosemy.files import load_tensors
from monosemy.metrics.calibration import Reliability
from monosemy.runtime import UsageError

IDENTITY = ("member", "variant", "width", "l1", "k", "noise", "seed", "lr")
TRUTH, CALIBRATION = "truth.safetensors", "calibration.safetensors"


class Scores:
    """A finished table of scores: `rows[i]` are member i's; `chosen` is the member to look at first."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.rows: list[dict[str, Any]] = json.loads((artifact.path / "scores.json").read_text())
        self.chosen: int = artifact.info["chosen"]
        self.why: str = artifact.info["why"]

    def truth(self) -> dict[str, torch.Tensor]:
        """Per member and true feature, [M, G]: `mcs`, `matched_cosine`, `f1`, `slope` (see `truth.py`); and the
        firing `probability` [G]. Raises UsageError if the rows were not a world's."""
        if not (self.artifact.path / TRUTH).exists():
            raise UsageError(f"{self.artifact.path}: holds no truth; only scores on a synthetic world do")
        return load_tensors(self.artifact.path / TRUTH)

    def reliability(self) -> dict[int, Reliability]:
        """How calibrated the presence of each member that gives one is, by its number; none without a known truth."""
        path = self.artifact.path / CALIBRATION
        found: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in (load_tensors(path) if path.exists() else {}).items():
            number, name = key.split(".")
            found.setdefault(int(number), {})[name] = tensor
        return {number: Reliability.of(found[number]) for number in sorted(found)}

    @classmethod
    def open(cls, path: str | Path | Scores) -> Scores:
        """Open and check the scores at `path`; scores that are open already are given back."""
        return path if isinstance(path, Scores) else cls(load(path, "scores"))

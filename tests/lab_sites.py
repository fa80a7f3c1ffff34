"""The lab's run with a second, later site of the same model: four dictionaries of two widths and two sparsities."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from conftest import shared
from lab_run import lab_run

from monosemy.analysis.index import features
from monosemy.metrics.evaluate import evaluate
from monosemy.models.harvest import harvest
from monosemy.training.sweep import train

LATER = "layers.3.mlp_act"


def lab_sites(folder: Path) -> Path:
    """The run's folder: besides what `lab_run` makes, the grid `later` with its scores, its member 0 indexed."""
    run, model = lab_run(folder), shared("models/stories260K")
    rows = harvest(model, run / "tokens", site=LATER, max_tokens=20_000, out=run / "later-activations")
    grid = train(rows, width=(16, 32), k=(3, 6), seed=0, variant="topk", steps=100, out=run / "later")
    evaluate(grid, rows, out=run / "later-scores", rows=2000)
    features(grid, member=0, model=model, tokens=run / "tokens", out=run / "features-later", max_tokens=20_000)
    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(lab_sites(Path(sys.argv[1])))

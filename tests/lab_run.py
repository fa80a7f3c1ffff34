"""A small run over a real model and real text, every stage by its public function: what the lab and the app open."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from conftest import shared

from monosemy.analysis.index import features
from monosemy.data.tokens import tokenize
from monosemy.metrics.evaluate import evaluate
from monosemy.models.harvest import harvest
from monosemy.training.sweep import train

SITE = "layers.1.mlp_act"


def lab_run(folder: Path) -> Path:
    """Two seeds of 48 features on stories260K, scored, both indexed; the run's folder."""
    model, text = shared("models/stories260K"), shared("text/tinystories.jsonl.gz")
    run = folder / "run"
    tokens = tokenize(str(text), tokenizer=str(model), context=64, out=run / "tokens")
    activations = harvest(model, tokens, site=SITE, max_tokens=20_000, out=run / "activations")
    grid = train(activations, width=48, seed=(0, 1), variant="topk", k=6, steps=150, out=run / "dictionaries")
    evaluate(grid, activations, out=run / "scores", rows=2000)
    for member, name in enumerate(("features", "features-1")):
        features(grid, member=member, model=model, tokens=tokens, out=run / name, max_tokens=20_000)
    return run


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(lab_run(Path(sys.argv[1])))

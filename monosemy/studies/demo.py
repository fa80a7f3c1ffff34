"""The main job, offline, on text that every machine has: this Python's own standard library.

A tokenizer and a small GPT are trained on it, activations after one MLP's non-linearity are harvested, a grid of
dictionaries is trained on them in one pass, all are scored, one is chosen, its features are indexed, and a page shows
them. Every stage is an artifact in the run folder: killed at any point and run again, it goes on from where it was.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from monosemy.analysis.index import features
from monosemy.data.tokens import tokenize
from monosemy.metrics.evaluate import evaluate
from monosemy.models.harvest import harvest
from monosemy.models.pretrain import pretrain
from monosemy.report.page import write_report
from monosemy.report.table import print_scores
from monosemy.training.sweep import train


@dataclass(frozen=True)
class DemoSettings:
    """What the demo reads and how long it works; the defaults take about five minutes on two CPU cores."""

    source: str = "stdlib"
    """Text, as `monosemy tokenize` takes it."""
    pretrain_steps: int = 1200
    """Steps of the GPT, of 8 rows of 256 tokens each."""
    site: str = "layers.2.mlp_act"
    """Where in the GPT."""
    max_tokens: int = 600_000
    """Activations to harvest."""
    width: tuple[int, ...] = (512, 1024)
    """Dictionary widths of the grid."""
    l1: tuple[float, ...] = (0.05, 0.1, 0.2)
    """L1 coefficients of the grid."""
    seed: tuple[int, ...] = (0, 1)
    """Seeds of the grid."""
    train_steps: int = 500
    """Steps of the dictionaries, of 1024 rows each."""


def demo(run: Path, settings: DemoSettings) -> Path:
    """Run every stage into the folder `run` (finished ones are reused); the path of the report."""
    began = time.monotonic()

    def say(stage: str, what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {stage}: {what}", flush=True)

    say("tokens", f"a byte-pair tokenizer and packed rows from {settings.source}")
    tokens = tokenize(settings.source, tokenizer="bpe:4096", context=256, out=run / "tokens")

    say("model", f"a small GPT on {tokens.n_tokens:,} tokens")
    model = pretrain(tokens, steps=settings.pretrain_steps, out=run / "model")
    loss = model.info["validation_loss"]

    say("activations", f"what {settings.site} computes (held-out loss {loss:.3f} nats a token)")
    activations = harvest(
        model.path, tokens, site=settings.site, max_tokens=settings.max_tokens, out=run / "activations"
    )

    say("dictionaries", f"a grid of dictionaries on {activations.n_all:,} rows of width {activations.d_in}")
    dictionaries = train(
        activations,
        width=settings.width,
        l1=settings.l1,
        seed=settings.seed,
        steps=settings.train_steps,
        out=run / "dictionaries",
    )

    say("scores", f"{len(dictionaries)} dictionaries on held-out rows and tokens")
    scores = evaluate(dictionaries, activations, model=model.path, out=run / "scores")

    say("features", f"an index of member {scores.chosen}: {scores.why}")
    features(dictionaries, member=scores.chosen, model=model.path, tokens=tokens, out=run / "features")

    say("report", "one page to look at")
    page = write_report(run)

    print()
    print_scores(scores.rows, scores.chosen)
    print(f"\nchosen: member {scores.chosen}, {scores.why}")
    print(f"done in {time.monotonic() - began:.0f} s; open {page}")
    return page

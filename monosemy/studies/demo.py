"""The main job, offline, on text that every machine has: this Python's own standard library.

A tokenizer and a small GPT are trained on it, activations after one MLP's non-linearity are harvested, a grid of
dictionaries is trained on them in one pass, all are scored, one is chosen, its features are indexed, and a page shows
them. Every stage is an artifact in the run folder: killed at any point and run again, it goes on from where it was.
"""

from __future__ import annotations

import time
from pathlib import Path

from monosemy.analysis.index import features
from monosemy.data.tokens import tokenize
from monosemy.metrics.evaluate import evaluate
from monosemy.models.harvest import harvest
from monosemy.models.pretrain import pretrain
from monosemy.report.page import write_report
from monosemy.report.table import print_scores
from monosemy.training.sweep import train

SITE = "layers.2.mlp_act"


def demo(run: Path) -> Path:
    """Run every stage into the folder `run` (finished ones are reused); the path of the report."""
    began = time.monotonic()
    say = _Narrator(began)

    say("tokens", "a byte-pair tokenizer and packed rows from the standard library's source text")
    tokens = tokenize("stdlib", tokenizer="bpe:4096", context=256, out=run / "tokens")
    say("model", f"a small GPT on {tokens.n_tokens:,} tokens")
    model = pretrain(tokens, steps=1200, out=run / "model")
    loss = model.info["validation_loss"]
    say("activations", f"what {SITE} computes on every token (held-out loss {loss:.3f} nats a token)")
    activations = harvest(model.path, tokens, site=SITE, max_tokens=600_000, out=run / "activations")
    say("dictionaries", f"a grid of dictionaries on {activations.n_rows:,} rows of width {activations.d_in}")
    dictionaries = train(
        activations, width=(512, 1024), l1=(0.03, 0.06, 0.1), seed=(0, 1), steps=500, out=run / "dictionaries"
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


class _Narrator:
    """Says which stage is next, and when."""

    def __init__(self, began: float) -> None:
        self.began = began

    def __call__(self, stage: str, what: str) -> None:
        print(f"[{time.monotonic() - self.began:4.0f} s] {stage}: {what}", flush=True)

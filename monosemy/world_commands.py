"""The commands around known truth: worlds, baselines, advice, the studies, the demo."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from monosemy.commands import beside
from monosemy.data.synthetic import WorldSettings
from monosemy.runtime import UsageError
from monosemy.studies.demo import DemoSettings
from monosemy.studies.dynamics import DynamicsSettings
from monosemy.studies.six_hundred import SixHundredSettings
from monosemy.studies.superposition import SuperpositionSettings
from monosemy.training.baselines import BaselineSettings


def world(settings: WorldSettings, out: Path = Path("world"), rows: int = 0) -> None:
    """A synthetic world whose features are known: train on it as on activations, evaluate against the truth.

    Args:
        settings: What the world is like.
        out: Where the world goes.
        rows: Also write this many rows as an activation store, `activations` beside the world (0: none).
    """
    from monosemy.data.synthetic import World

    if rows < 0:
        raise UsageError(f"`rows` (={rows}) must be at least 0; 0 writes no store")
    made = World(settings).save(out)
    print(f"{out}: {settings.features:,} features in {settings.d_in:,} dimensions; next: monosemy train {out}")
    if rows:
        store = made.store(beside(out, "activations", None), rows)
        print(f"{store.artifact.path}: {store.n_all:,} rows")


def baselines(activations: Positional[Path], /, settings: BaselineSettings, out: Path | None = None) -> None:
    """What a trained dictionary must beat: neuron basis, random directions, PCA, ICA, NMF, dictionary learning.

    Args:
        activations: A folder that `monosemy harvest` or `monosemy world` wrote.
        settings: Which, and how wide.
        out: Where they go (default: `baselines` beside the activations).
    """
    from monosemy.training.baselines import baselines as run

    store = run(activations, out=beside(activations, "baselines", out), settings=settings)
    print(f"{store.artifact.path}: {len(store)} baselines; next: monosemy evaluate {store.artifact.path} {activations}")


def advise(
    scores: Positional[Path],
    /,
    variant: str | None = None,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Which L1 and width to take when nobody knows the truth: S4's three methods, and a count that settles it.

    Args:
        scores: A folder that `monosemy evaluate` wrote, of a grid of L1 × width.
        variant: Which kind of dictionary, where the grid has several.
        json: Print one JSON object instead of text.
    """
    from monosemy.metrics.scores import Scores
    from monosemy.metrics.selection import advise as run

    advice = run(Scores.open(scores).rows, variant)
    if json:
        print(json_format.dumps(asdict(advice), allow_nan=False))
        return
    for finding in (*advice.findings, advice.consensus):
        cell = "no cell" if not finding.found else f"width {finding.width:,}, L1 {finding.l1:.4g}"
        print(f"{finding.method:<18} {cell:<28} confidence {finding.confidence:.2f}  {finding.evidence}")
    if advice.warning:
        print(f"monosemy: {advice.warning}", file=sys.stderr)


def superposition(settings: SuperpositionSettings, out: Path = Path("runs/superposition")) -> None:
    """S4: take known features out of superposition, choose L1 and width without the truth, then on a model.

    Args:
        settings: How much of it.
        out: The study's folder; finished parts in it are reused.
    """
    from monosemy.studies.superposition import superposition as run

    run(out, settings)


def dynamics(settings: DynamicsSettings, out: Path = Path("runs/dynamics")) -> None:
    """S3: six features in three dimensions, animated, with baselines; training with and without a remedy.

    Args:
        settings: How much of it.
        out: The study's folder; finished parts in it are reused.
    """
    from monosemy.studies.dynamics import dynamics as run

    run(out, settings)


def six_hundred_features(settings: SixHundredSettings, out: Path = Path("runs/six-hundred-features")) -> None:
    """S1: how many features two seeds find alike, one feature with every plot, and what neurons could have told.

    Args:
        settings: Of which model, on which text.
        out: The study's folder; finished parts in it are reused, and `monosemy serve` shows it.
    """
    from monosemy.studies.six_hundred import six_hundred_features as run

    run(out, settings)


def demo(settings: DemoSettings, out: Path = Path("runs/demo")) -> None:
    """Everything, offline: from the standard library's text to a page of features.

    Args:
        settings: What it reads and how long it works.
        out: The run folder; finished stages in it are reused.
    """
    from monosemy.studies.demo import demo as run

    run(out, settings)

"""S4, "Taking features out of superposition with sparse autoencoders" (December 2022), from start to end.

A world with known features; a grid of dictionaries, L1 × width, trained in one pass and scored against the truth; S4's
three ways to choose L1 and width without the truth; its denoising autoencoders; every variation of the world that it
asks for; and, given a model and tokens, the same grid on the MLP of every layer. Each finished stage is an artifact in
the study's folder: stopped and run again, the study goes on where it was.

`small` keeps S4's shape (G = 2 D, 17 L1 values × 8 widths, the "interim" penalty, no decoder bias) on a world that two
CPU cores can do; over 64 features its decay of 0.99 a feature is milder than over S4's 512. `full` is S4's own world,
for a GPU. S4's learning rate of 1e-3 needs more steps than `small` has: it takes 2e-2, with warm-up and decay, which
kills features of wide dictionaries that 1e-3 would leave alive. Layers of a model get a smaller grid at `small`, rows
of mean norm 1 and a decoder bias. Left out: orthogonal initialisation (random unit directions here).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from monosemy.data.source import Source
from monosemy.data.synthetic import World, WorldSettings
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.baselines import BASELINES
from monosemy.metrics.evaluate import evaluate
from monosemy.metrics.scores import Scores
from monosemy.models.harvest import harvest
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError
from monosemy.studies.results import Grid, Results
from monosemy.studies.superposition_pages import write_pages
from monosemy.training.baselines import baselines
from monosemy.training.sweep import train

L1 = tuple(10 ** (e / 4) for e in range(-8, 9))  # α of the interim convention
RATIOS = tuple(2.0**r for r in range(-2, 6))


@dataclass(frozen=True)
class Scale:
    """How large a world, how wide a grid, how long."""

    world: WorldSettings
    batch: int
    steps: int
    lr: float
    l1: tuple[float, ...] = L1
    ratios: tuple[float, ...] = RATIOS
    """Widths in multiples of G (of D on a model)."""
    few_l1: tuple[float, ...] = L1[4:15:2]
    few_ratios: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """The grid of a variation, and of a model's layer."""
    noise: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)
    """Of the denoising autoencoders, a coordinate."""
    rows: int = 8192
    """Held-out rows that scores are measured on, and rows of the baselines."""
    baselines: tuple[str, ...] = tuple(BASELINES)
    """Which of them stand beside each grid."""
    model_tokens: int = 50_000
    """Activations harvested of each layer."""


SCALES = {
    "small": Scale(WorldSettings(d_in=32, features=64, l0=3.0), batch=128, steps=800, lr=0.02),
    "full": Scale(
        WorldSettings(),
        batch=256,
        steps=8000,
        lr=3e-3,
        few_l1=L1,
        few_ratios=RATIOS[:6],
        rows=65_536,
        model_tokens=2_000_000,
    ),
}

# What S4 varies, one page each: name → (what changes, label → the settings that differ).
VARIATIONS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "noise": ("noise on input and target", {"0.02": {"noise": 0.02}, "0.05": {"noise": 0.05}, "0.1": {"noise": 0.1}}),
    "input-noise": (
        "noise on the input alone",
        {name: {"noise": float(name), "noise_on": "input"} for name in ("0.02", "0.05", "0.1")},
    ),
    "jitter": ("directions that differ from row to row", {"0.25": {"jitter": 0.25}, "0.5": {"jitter": 0.5}}),
    "positive": ("directions without negative coordinates", {"positive": {"positive": True}}),
    "features": ("features per dimension", {"G = D": {"features": 1.0}, "G = 4 D": {"features": 4.0}}),
    "correlation": (
        "correlation of firing",
        {"none": {"correlation": "none"}, "half": {"strength": 0.5}, "by batch (S4's)": {"correlation": "batch"}},
    ),
    "decay": ("decay of firing probability", {"1": {"decay": 1.0}, "0.95": {"decay": 0.95}, "0.9": {"decay": 0.9}}),
}

Part = Literal["grid", "denoising", "variations", "model"]


@dataclass(frozen=True)
class SuperpositionSettings:
    """How much of S4, and whether on a model too."""

    scale: Literal["small", "full"] = "small"
    """`small` for two CPU cores (minutes), `full` for a GPU (S4's own world)."""
    part: tuple[Part, ...] = ("grid", "denoising", "variations", "model")
    """Parts to make: the grid on the world (always), denoising, variations, the layers of a model."""
    model: str | None = None
    """A model to do the same on, in every layer: a folder or a Hub name; without one that part is left out."""
    tokens: Path | None = None
    """A token store made with the model's tokenizer."""
    site: str = "mlp_act"
    """Which site of each layer."""


def superposition(out: Path, settings: SuperpositionSettings, scale: Scale | None = None) -> Path:
    """Run the study into the folder `out` (finished stages are reused); the path of its first page.

    `scale` stands in for the one that the settings name. Raises UsageError for a model without tokens.
    """
    if settings.model is not None and settings.tokens is None:
        raise UsageError(f"`model` (={settings.model}) needs `tokens`: name a folder that `monosemy tokenize` wrote")
    model = None
    if settings.model is not None and settings.tokens is not None:  # first, so that nothing is trained in vain
        model = LanguageModel.load(settings.model)
        model.check_tokens(TokenStore.open(settings.tokens))
    scale = scale or SCALES[settings.scale]
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", flush=True)

    world = World(scale.world).save(out / "grid" / "world")
    say(f"{world.settings.features} features in {world.d_in} dimensions, {world.settings.l0:g} active a row: the grid")
    results = Results(out, settings, world, VARIATIONS, scored(out / "grid", world, scale, scale.ratios, scale.l1))
    if "denoising" in settings.part:
        say("denoising: noise × L1")
        results.denoising = denoising(out / "denoising", world, scale)
    if "variations" in settings.part:
        results.plain = scored(out / "variations" / "plain", world, scale, scale.few_ratios, scale.few_l1)
    for name, (what, values) in VARIATIONS.items() if "variations" in settings.part else ():
        say(f"variation: {what}")
        found = results.variations[name] = {}
        for number, (label, changes) in enumerate(values.items()):
            folder = out / "variations" / f"{name}-{number}"
            varied = World(changed(scale.world, changes)).save(folder / "world")
            found[label] = scored(folder, varied, scale, scale.few_ratios, scale.few_l1)
    if "model" in settings.part and model is not None:
        say(f"the same on {settings.model}, layer by layer")
        results.layers = on_layers(out / "model", model, settings, scale)
    say("pages")
    page = write_pages(results)
    say(f"done; open {page}")
    return page


def scored(folder: Path, source: Source, scale: Scale, ratios: Sequence[float], l1: Sequence[float]) -> Grid:
    """A grid and the baselines, trained and scored; S4's way on a world: interim penalty, raw rows, no decoder bias."""
    synthetic = isinstance(source, World)
    unit = source.settings.features if isinstance(source, World) else source.d_in
    dictionaries = train(
        source,
        out=folder / "dictionaries",
        width=[max(1, round(ratio * unit)) for ratio in ratios],
        l1=l1,
        penalty="interim",
        scale="none" if synthetic else "unit",
        b_dec="none" if synthetic else "mean",
        lr=scale.lr,
        batch=scale.batch,
        clip=0.0,
        steps=scale.steps,
    )
    scores = evaluate(dictionaries, source, out=folder / "scores", rows=scale.rows)
    simple = baselines(source, out=folder / "baselines", names=scale.baselines, width=unit, rows=scale.rows)
    return Grid(
        scores, evaluate(simple, source, out=folder / "baseline-scores", rows=scale.rows).rows, unit, source.d_in
    )


def denoising(folder: Path, world: World, scale: Scale) -> Scores:
    """Denoising autoencoders of width G, noise × L1; noise 0 is the plain one."""
    dictionaries = train(
        world,
        out=folder / "dictionaries",
        variant="denoising",
        width=world.settings.features,
        l1=scale.l1,
        noise=scale.noise,
        penalty="interim",
        scale="none",
        b_dec="none",
        lr=scale.lr,
        batch=scale.batch,
        clip=0.0,
        steps=scale.steps,
    )
    return evaluate(dictionaries, world, out=folder / "scores", rows=scale.rows)


def changed(world: WorldSettings, changes: Mapping[str, Any]) -> WorldSettings:
    """The world's settings with some changed; `features` is given in multiples of D."""
    return replace(world, **{k: round(v * world.d_in) if k == "features" else v for k, v in changes.items()})


def on_layers(folder: Path, model: LanguageModel, settings: SuperpositionSettings, scale: Scale) -> dict[str, Grid]:
    """The grid of the variations on one site of every layer of a model."""
    assert settings.tokens is not None
    grids = {}
    for layer in range(model.n_layers):
        site = f"layers.{layer}.{settings.site}"
        place = folder / site
        activations = harvest(
            model, settings.tokens, site=site, max_tokens=scale.model_tokens, out=place / "activations"
        )
        grids[site] = scored(place, activations, scale, scale.few_ratios, scale.few_l1)
    return grids

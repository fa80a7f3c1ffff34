"""S3, "Towards a probabilistic disentanglement of transformer activations, part 1" (February 2024), from start to end.

The picture case: six features in three dimensions, so that all can be seen. Each step from features to data;
twelve dictionaries, L1 × width, on one fixed data set; their losses and MMCS; each learning, animated, a frame every
ten epochs; how often their features fire; PCA, with ICA, NMF and the rest beside it, over several such worlds. Then
S3's next step: how training goes in high dimensions, with and without a remedy for dead features.

Each finished part is an artifact in the study's folder: stopped and run again, the study goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch

from monosemy.artifact import Artifact
from monosemy.data.rows import ArrayRows
from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.baselines import BASELINES
from monosemy.draft import Draft
from monosemy.files import load_tensors, save_tensors
from monosemy.metrics.evaluate import evaluate
from monosemy.metrics.fidelity import fidelity
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.metrics.scoring import agreement_of
from monosemy.runtime import Progress
from monosemy.studies.dynamics_pages import write_pages
from monosemy.studies.measure import measured
from monosemy.studies.results import ANY_SIGNS, FRAMES, Dynamics
from monosemy.training.baselines import baselines
from monosemy.training.ensemble import Ensemble
from monosemy.training.sweep import fit_grid

PICTURE = WorldSettings(d_in=3, features=6, l0=1.0, decay=0.95, seed=26)  # no two features nearer than cosine 0.6
HIGH = WorldSettings(d_in=32, features=64, l0=2.0, decay=0.92)  # its rarest features are hard to find


@dataclass(frozen=True)
class Scale:
    """How large, how long, how often."""

    picture: WorldSettings = PICTURE
    l1: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    width: tuple[int, ...] = (3, 6, 12)
    rows: int = 4096
    """Of the picture case's fixed data set: what an epoch is."""
    batch: int = 128
    epochs: int = 150
    frame_every: int = 10
    """Epochs."""
    worlds: int = 10
    """Worlds of the picture case's kind that the baselines are averaged over."""
    high: WorldSettings = HIGH
    """The world of the training dynamics."""
    high_width: int = 128
    high_l1: float = 0.15
    high_lr: float = 0.01
    high_steps: int = 1600
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    look_every: int = 50
    """Steps between two looks at a dictionary in training."""
    resample: Mapping[str, Any] = field(default_factory=dict)
    """How often features are resampled, and after how many silent steps, where not by default."""


SCALES = {
    "small": Scale(),
    "full": Scale(
        epochs=300,
        worlds=50,
        high=WorldSettings(),
        high_width=1024,
        high_l1=0.1,
        high_lr=3e-3,
        high_steps=8000,
        look_every=200,
    ),
}
PICTURE_LR = 0.01

# What dead features get: name → training options. Copies are resampled too in the third.
REMEDIES: dict[str, dict[str, Any]] = {
    "none": {"remedy": "none"},
    "resample": {"remedy": "resample"},
    "resample copies": {"remedy": "resample", "copy_above": 0.9},
    "ghost": {"remedy": "ghost"},
    "auxk": {"remedy": "auxk"},
}


@dataclass(frozen=True)
class DynamicsSettings:
    """How much of S3."""

    scale: Literal["small", "full"] = "small"
    """`small` for two CPU cores (minutes), `full` for a GPU."""


def dynamics(out: Path, settings: DynamicsSettings, scale: Scale | None = None) -> Path:
    """Run the study into the folder `out` (finished parts are reused); the path of its first page.

    `scale` stands in for the one that the settings name.
    """
    scale = scale or SCALES[settings.scale]
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", flush=True)

    say("the picture case: twelve dictionaries on six features in three dimensions")
    world = World(scale.picture).save(out / "picture" / "world")
    config = {name: getattr(scale, name) for name in ("l1", "width", "rows", "batch", "epochs", "frame_every")}
    picture = measured(
        out / "picture" / "learning", config, origin(world), lambda draft: learn_pictures(draft, world, scale)
    )
    frames = load_tensors(out / "picture" / "learning" / FRAMES)

    say(f"baselines on {scale.worlds} worlds of its kind")
    config = {"picture": asdict(scale.picture), "worlds": scale.worlds, "rows": scale.rows}
    simple = measured(out / "baselines", config, {}, lambda _: baselines_over_worlds(scale))
    high = World(scale.high).save(out / "training" / "world")
    fitted = baselines(high, out=out / "training" / "baselines", width=scale.high.features, rows=scale.rows)
    high_simple = evaluate(fitted, high, out=out / "training" / "baseline-scores", rows=scale.rows).rows

    courses: dict[str, list[dict[str, Any]]] = {}
    for remedy, options in REMEDIES.items():
        say(f"training in {scale.high.d_in} dimensions, dead features: {remedy}")
        names = ("high_width", "high_l1", "high_lr", "high_steps", "batch", "seeds", "look_every", "resample")
        config = {**{name: getattr(scale, name) for name in names}, **options}
        courses[remedy] = measured(
            out / "training" / remedy.replace(" ", "-"), config, origin(high), partial(course_of, high, scale, options)
        )
    say("pages")
    page = write_pages(Dynamics(out, settings.scale, world, scale, picture, frames, simple, high, high_simple, courses))
    say(f"done; open {page}")
    return page


def learn_pictures(draft: Draft, world: World, scale: Scale) -> list[dict[str, Any]]:
    """Train the twelve on one fixed data set, leave their frames in the draft; one row of scores each."""
    x_XD = world.sample(scale.rows, stream="picture").x_XD
    per_epoch = scale.rows // scale.batch
    frames: dict[str, list[torch.Tensor]] = {}

    def watch(step: int, stacks: Sequence[Ensemble]) -> None:
        if step % (scale.frame_every * per_epoch):
            return
        for stack in stacks:
            dead_MN = stack.dead_MN()
            for i, member in enumerate(stack.members):
                name = f"{member.width}-{member.l1:g}"
                frames.setdefault(f"learned {name}", []).append(stack.params["W_dec"][i].cpu().clone())
                frames.setdefault(f"dead {name}", []).append(dead_MN[i].cpu().clone())

    trained = fit_grid(
        ArrayRows(x_XD), width=scale.width, l1=scale.l1, lr=PICTURE_LR, clip=0.0, scale="none", b_dec="none",
        batch=scale.batch, steps=scale.epochs * per_epoch, watch=watch,
    )  # fmt: skip
    save_tensors(draft.file(FRAMES), {name: torch.stack(found) for name, found in frames.items()})
    members = [asdict(member) for member, _ in trained]
    dictionaries = [dictionary for _, dictionary in trained]
    firing = [(dictionary.encode(x_XD) > 0).float().mean(dim=0) for dictionary in dictionaries]
    agreement = agreement_of(members, dictionaries, [frequency_N > 0 for frequency_N in firing])
    return [
        {
            **member,
            **fidelity(dictionary, x_XD),
            **agreed,
            "mmcs_truth": mmcs_to_truth(world.features_GD, dictionary.W_dec_ND),
            "firing": frequency_N.tolist(),
        }
        for member, dictionary, frequency_N, agreed in zip(members, dictionaries, firing, agreement, strict=True)
    ]


def baselines_over_worlds(scale: Scale) -> list[dict[str, Any]]:
    """MMCS to the truth of every baseline, at width G, on worlds that differ in their seed.

    PCA's components have no sign of their own: ours point where the rows' projections are skewed to; every other choice
    of signs is measured as well.
    """
    found = []
    with Progress("baselines", scale.worlds * len(BASELINES), unit="baselines") as bar:
        for seed in range(scale.worlds):
            world = World(replace(scale.picture, seed=seed))
            rows = ArrayRows(world.sample(scale.rows, stream="picture").x_XD)
            for name, fit in BASELINES.items():
                directions_ND = fit(rows, world.settings.features, seed).W_dec_ND
                found.append({"baseline": name, "seed": seed, "mmcs": mmcs_to_truth(world.features_GD, directions_ND)})
                for signs in product((-1.0, 1.0), repeat=len(directions_ND)) if name == "pca" else ():
                    signed_ND = directions_ND * torch.tensor(signs)[:, None]
                    recovered = mmcs_to_truth(world.features_GD, signed_ND)
                    found.append({"baseline": ANY_SIGNS, "seed": seed, "mmcs": recovered})
                bar.advance(note=name)
    return found


def course_of(world: World, scale: Scale, options: dict[str, Any], _: Draft) -> list[dict[str, Any]]:
    """How dictionaries from several seeds go through training: a row for every look at each."""
    x_XD = world.sample(4096).x_XD
    taken = {"none": (), "resample": tuple(scale.resample)}.get(options["remedy"], ("dead_after",))
    looks: list[dict[str, Any]] = []

    def watch(step: int, stacks: Sequence[Ensemble]) -> None:
        if step % scale.look_every and step != scale.high_steps:
            return
        for stack in stacks:
            dead_M = stack.dead_MN().sum(dim=1).tolist()
            for i, member in enumerate(stack.members):
                dictionary = stack.export(i)
                scores = fidelity(dictionary, x_XD)
                recovered = mmcs_to_truth(world.features_GD, dictionary.W_dec_ND)
                looks.append(
                    {"step": step, "seed": member.seed, "dead": dead_M[i], "mmcs": recovered}
                    | {name: scores[name] for name in ("mse", "l0")}
                )

    fit_grid(
        world,
        width=scale.high_width,
        l1=scale.high_l1,
        lr=scale.high_lr,
        clip=0.0,
        seed=scale.seeds,
        batch=scale.batch,
        steps=scale.high_steps,
        **options,
        **{name: value for name, value in scale.resample.items() if name in taken},
        watch=watch,
    )
    return looks


def origin(world: World) -> dict[str, Artifact]:
    """The artifact of a saved world, as the parent of a measurement."""
    assert world.artifact is not None
    return {"world": world.artifact}

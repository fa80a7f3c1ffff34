"""What the studies measured, as their pages take it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from monosemy.data.synthetic import World
from monosemy.metrics.scores import Scores
from monosemy.report.grid_figures import with_derived
from monosemy.report.study import StudyPage

ANY_SIGNS = "PCA, any signs"
NAMES = {
    "neurons": "identity",
    "random": "random",
    "pca": "PCA",
    "ica": "ICA",
    "nmf": "NMF",
    "dictionary-learning": "dictionary learning",
    ANY_SIGNS: ANY_SIGNS,
}


FRAMES = "frames.safetensors"
DYNAMICS_NAV = {"index": "Picture case", "animations": "Animations", "training": "Training dynamics"}


@dataclass(frozen=True)
class Grid:
    """A scored grid, the baselines on the same rows, and what its widths are multiples of."""

    scores: Scores
    baselines: Sequence[Mapping[str, Any]]
    unit: int
    d_in: int

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The grid's scores, with what the figures derive from them."""
        return with_derived(self.scores.rows)

    def references(self, score: str) -> dict[str, float]:
        """Each baseline's score, by the name it is shown under."""
        return {NAMES[row["variant"]]: row[score] for row in self.baselines if row.get(score) is not None}


@dataclass
class Results:
    """All that the study measured."""

    out: Path
    settings: Any
    world: World
    kinds: Mapping[str, tuple[str, Any]]
    """What a variation varies, in words, by its name."""
    grid: Grid
    denoising: Scores | None = None
    plain: Grid | None = None
    variations: dict[str, dict[str, Grid]] = field(default_factory=dict)
    layers: dict[str, Grid] = field(default_factory=dict)

    def command(self, part: str) -> str:
        """What makes a part again, in an empty folder or from what is there."""
        words = ["monosemy", "study", "superposition", "--scale", self.settings.scale, "--part", part]
        if part == "model":
            words += [
                "--model",
                self.settings.model,
                "--tokens",
                str(self.settings.tokens),
                "--site",
                self.settings.site,
            ]
        return shlex.join([*words, "--out", str(self.out)])

    @property
    def nav(self) -> dict[str, str]:
        """The pages there are: of this run, and those that an earlier run of other parts has left."""
        made = {"index", *self.variations} | ({"denoising"} if self.denoising else set())
        made |= {"layers"} if self.layers else set()
        names = {name: name.replace("-", " ").capitalize() for name in self.kinds}
        pages = {"index": "Grid", "denoising": "Denoising", **names, "layers": "Model"}
        return {name: said for name, said in pages.items() if name in made or (self.out / f"{name}.html").exists()}

    def page(self, name: str, title: str, lead: str) -> StudyPage:
        """One page of this study."""
        return StudyPage(self.out, name, title=title, lead=lead, nav=self.nav)


@dataclass(frozen=True)
class Dynamics:
    """All that the study measured."""

    out: Path
    scale_name: str
    world: World
    scale: Any
    picture: Sequence[Mapping[str, Any]]
    """A row of scores each of the twelve."""
    frames: Mapping[str, torch.Tensor]
    """`learned WIDTH-L1` [F, N, 3] and `dead WIDTH-L1` [F, N]."""
    baselines: Sequence[Mapping[str, Any]]
    high: World
    high_baselines: Sequence[Mapping[str, Any]]
    courses: Mapping[str, Sequence[Mapping[str, Any]]]
    """Remedy → looks at each seed's dictionary in training."""

    @property
    def command(self) -> str:
        """What makes every figure again."""
        return f"monosemy study dynamics --scale {self.scale_name} --out {self.out}"

    def page(self, name: str, title: str, lead: str) -> StudyPage:
        """One page of this study."""
        return StudyPage(self.out, name, title=title, lead=lead, nav=DYNAMICS_NAV)

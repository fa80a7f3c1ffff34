"""What a synthetic world is like: its settings, checked, and the laws of magnitude.

Source: the interim report of Dec 2022 ("Taking features out of superposition with sparse autoencoders"), each of its
variations a parameter; Zipfian firing and hierarchy after SynthSAEBench (arXiv 2602.14687).

Shapes: P firings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from monosemy.data.hierarchy import Hierarchy, uniform_at
from monosemy.runtime import UsageError, check_choices

# A magnitude is the quantile of one uniform number, so each firing's is a function of its row and feature alone.
MAGNITUDES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "uniform": lambda u_P: u_P,  # on (0, 1)
    "constant": torch.ones_like,
    "exponential": lambda u_P: -torch.log(u_P),  # mean 1
    "folded-normal": lambda u_P: -torch.special.ndtri(0.5 * u_P),  # |N(0, 1)|
    "log-normal": lambda u_P: torch.exp(0.25 * torch.special.ndtri(u_P)),  # ln N(0, 0.25²): median 1
}


@dataclass(frozen=True)
class WorldSettings:
    """What the world is like; the defaults are those of the interim report."""

    d_in: int = 256
    """Width of the rows."""
    features: int = 512
    """How many true features there are; features / d_in is how much superposition."""
    l0: float = 5.0
    """Expected number of features that fire in a row, over all features."""
    decay: float = 0.99
    """Feature i fires with probability in proportion to decay**i (root i, where there is a hierarchy) …"""
    zipf: float = 0.0
    """… and to (i + 1)**-zipf."""
    correlation: Literal["sample", "batch", "none"] = "sample"
    """`sample`: features fire together within a row. `batch`: probabilities vary together between groups of 256 rows,
    in which firings are independent. `none`: all independent."""
    strength: float = 1.0
    """How much of the random correlation matrix C: (1 − strength)·I + strength·C."""
    rank: int = 0
    """0: a full-rank random correlation matrix; r: r shared factors and a diagonal, cheap for many features."""
    magnitude: Literal["uniform", "constant", "exponential", "folded-normal", "log-normal"] = "uniform"
    """Law of a firing feature's magnitude: on (0, 1), always 1, of mean 1, |N(0, 1)|, exp(N(0, 0.25²))."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on each coordinate."""
    noise_on: Literal["input", "both"] = "both"
    """`both`: the target has the same noise as the input. `input`: the target is clean (denoising)."""
    jitter: float = 0.0
    """Each firing has a direction of its own, normalise(F_i + jitter·g/√d_in) with g ~ N(0, I); the truth stays F_i."""
    positive: bool = False
    """Directions with no negative coordinate: the absolute values of Gaussian ones."""
    hierarchy: Hierarchy = field(default_factory=Hierarchy)
    """Trees of features, in which a child fires only where its parent does; flat by default."""
    seed: int = 0
    """Seed of the features, the correlation and all rows."""

    def __post_init__(self) -> None:
        check_choices(self, correlation=("sample", "batch", "none"), noise_on=("input", "both"), magnitude=MAGNITUDES)
        if self.d_in < 1 or self.features < 1:
            raise UsageError(f"`d_in` (={self.d_in}) and `features` (={self.features}) must be at least 1; raise them")
        if not 0 < self.l0 <= self.features:
            raise UsageError(
                f"`l0` (={self.l0}) must be above 0 and at most the number of features (={self.features}); lower l0"
            )
        if not 0 < self.decay <= 1:
            raise UsageError(f"`decay` (={self.decay}) must be above 0 and at most 1; 1 is no decay")
        if not 0 <= self.strength <= 1:
            raise UsageError(f"`strength` (={self.strength}) of the correlation must be in [0, 1]; 0 is none")
        if not 0 <= self.rank <= self.features:
            raise UsageError(f"`rank` (={self.rank}) must be between 0 and the number of features (={self.features})")
        for name in ("zipf", "noise", "jitter"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                raise UsageError(f"`{name}` (={value}) must be finite and at least 0; 0 is none")


def magnitudes(settings: WorldSettings, key: int, row_P: np.ndarray, feature_P: np.ndarray) -> torch.Tensor:
    """Magnitudes of these firings, fp32: a feature's own, times those of its ancestors if children are so scaled."""
    law = MAGNITUDES[settings.magnitude]
    value_P = law(torch.from_numpy(uniform_at(key, row_P, feature_P)))
    if settings.hierarchy.scale_by_parent:
        parent_G = settings.hierarchy.parents(settings.features)
        above_P = parent_G[feature_P]
        while (child_P := above_P >= 0).any():
            value_P[torch.from_numpy(child_P)] *= law(
                torch.from_numpy(uniform_at(key, row_P[child_P], above_P[child_P]))
            )
            above_P[child_P] = parent_G[above_P[child_P]]
    return value_P.float()

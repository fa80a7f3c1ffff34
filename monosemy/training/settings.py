"""What a training run is asked for, and the members that make its grid.

Everything that is not given follows from the data: width from d_in, learning rate from the width, steps from the
number of rows. A grid is every combination of variant, width, the variant's own sparsity dial (L1 or k), learning rate
and seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from monosemy.dictionaries.store import VARIANTS
from monosemy.runtime import UsageError, check_choices

Penalty = Literal["sum", "interim", "norm-weighted"]
Scale = Literal["unit", "none"]

WIDTH_OVER_D_IN = 2
MIN_ROWS, MAX_ROWS = 1_000_000, 100_000_000  # what a run reads, unless `steps` says otherwise
EPOCHS = 4


@dataclass(frozen=True)
class TrainSettings:
    """A grid of dictionaries and how they are trained."""

    variant: tuple[str, ...] = ("relu",)
    """Kinds of dictionary: relu, tied, topk."""
    width: tuple[int, ...] = ()
    """Features of a dictionary (default: twice the width of the activations)."""
    l1: tuple[float, ...] = (0.06,)
    """L1 coefficients, for variants with an L1 penalty."""
    k: tuple[int, ...] = (32,)
    """Active features a row, for variants that keep k."""
    seed: tuple[int, ...] = (0,)
    """Of the initial weights. All members see the rows in one order."""
    lr: tuple[float, ...] = ()
    """Learning rates (default: from the width, 3e-3 at 512 and falling with its square root)."""
    penalty: Penalty = "sum"
    """What `l1` multiplies: the sum of the codes; `interim`: the sum over N, and the error over D (S4); or the sum
    weighted by the decoder's norms, which are then free."""
    scale: Scale = "unit"
    """Rescale the activations to mean norm 1 for training, so that `l1` means the same anywhere; folded back after."""
    batch: int = 1024
    """Rows a step."""
    steps: int | None = None
    """Steps (default: four passes over the rows, at least 1 M rows and at most 100 M)."""
    warmup: float = 0.05
    """Share of the steps over which learning rate and L1 rise from 0."""
    decay: float = 0.2
    """Share of the steps, at the end, over which the learning rate falls to 0."""
    decoder_bias: bool = True
    """Learn b_dec, starting at the mean of the rows."""
    dead_after: int = 200
    """A feature that was not active in this many last steps counts as dead (in the metrics)."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        check_choices(self, penalty=get_args(Penalty), scale=get_args(Scale))
        for name in ("variant", "l1", "k", "seed"):
            if not getattr(self, name):
                raise UsageError(f"`{name}` is empty; give at least one value, or leave it out")
        for name in self.variant:
            if name not in VARIANTS:
                raise UsageError(f"`variant` (={name}) must be one of {', '.join(VARIANTS)}")
        for field, least in (("width", 1), ("k", 1), ("batch", 1), ("steps", 1), ("dead_after", 1)):
            for value in _as_tuple(getattr(self, field)):
                if value < least:
                    raise UsageError(f"`{field}` (={value}) must be at least {least}")
        for field in ("l1", "lr"):
            for value in getattr(self, field):
                if not (math.isfinite(value) and value >= 0):
                    raise UsageError(f"`{field}` (={value}) must be a number of at least 0")
        if not (min(self.warmup, self.decay) >= 0 and self.warmup + self.decay <= 1):
            raise UsageError(f"`warmup` (={self.warmup}) and `decay` (={self.decay}) must be shares that add up to ≤ 1")


@dataclass(frozen=True)
class Member:
    """One dictionary of a grid."""

    variant: str
    width: int
    l1: float | None
    k: int | None
    lr: float
    seed: int

    def penalty_weight(self, penalty: Penalty, d_in: int) -> float:
        """λ of the "sum" convention. S4 averages the error over D and the codes over N: α there is λ = α·D/N here."""
        if self.l1 is None:
            return 0.0
        return self.l1 * d_in / self.width if penalty == "interim" else self.l1


def grid(settings: TrainSettings, d_in: int) -> list[Member]:
    """Every member, in the order of the settings. Raises UsageError where k is larger than a width."""
    widths = settings.width or (WIDTH_OVER_D_IN * d_in,)
    members = []
    for variant, width in product(settings.variant, widths):
        dial = VARIANTS[variant].sparsity
        values: Sequence[Any] = settings.l1 if dial == "l1" else settings.k
        for value, lr, seed in product(values, settings.lr or (default_lr(width),), settings.seed):
            if dial == "k" and value > width:
                raise UsageError(f"`k` (={value}) must be at most the dictionary width (={width}); lower k or widen it")
            l1, k = (float(value), None) if dial == "l1" else (None, int(value))
            members.append(Member(variant, width, l1, k, lr, seed))
    return members


def default_lr(width: int) -> float:
    """3e-3 up to width 512, falling with the square root of the width beyond (the shape of Gao et al. 2024)."""
    return 3e-3 * min(1.0, math.sqrt(512 / width))


def default_steps(batch: int, n_rows: int | None) -> int:
    """Four passes over the rows, within MIN_ROWS and MAX_ROWS."""
    rows = MIN_ROWS if n_rows is None else min(max(EPOCHS * n_rows, MIN_ROWS), MAX_ROWS)
    return max(1, rows // batch)


def schedule(step: int, steps: int, settings: TrainSettings) -> tuple[float, float]:
    """Factors of the learning rate and of L1 at a step counted from 0."""
    rise = min(1.0, (step + 1) / max(1, round(settings.warmup * steps)))
    fall = min(1.0, (steps - step) / max(1, round(settings.decay * steps)))
    return rise * fall, rise


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)

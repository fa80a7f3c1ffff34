"""What a training run is asked for, and the members that make its grid.

Everything that is not given follows from the data: width from d_in, learning rate from the width, steps from the
number of rows. A grid is every combination of variant, width, the variant's own dials (L1 or k, noise), learning rate
and seed. Settings that belong together are groups (`Frame`, `Schedule`, `Optimiser`, `DeadSettings`, `Compute`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, get_args

from monosemy.dictionaries.store import VARIANTS
from monosemy.runtime import UsageError, check_choices
from monosemy.training.compute import Compute
from monosemy.training.dead import DeadSettings
from monosemy.training.frame import Frame
from monosemy.training.optimiser import Optimiser
from monosemy.training.schedule import Schedule

Penalty = Literal["sum", "interim", "norm-weighted"]

DEFAULT_VARIANT = "gated"  # best by mean place in `benchmarks/fronts.py`
BY_L1, BY_K = "relu", "topk"  # the plain ones, where a dial but no variant is given
MOST_K = 32
DEFAULT_NOISE = (0.1,)
DEFAULT_PENALTY: Penalty = "sum"
WIDTH_OVER_D_IN = 2
MIN_ROWS, MAX_ROWS = 1_000_000, 100_000_000  # what a run reads, unless `steps` says otherwise
EPOCHS = 4
LONG = 500  # steps of the short runs for which the rates were settled; from there on they fall


@dataclass(frozen=True)
class TrainSettings:
    """A grid of dictionaries and how they are trained."""

    variant: tuple[str, ...] = ()
    """Of relu, tied, denoising, topk, batchtopk, jumprelu, gated, matryoshka, panneal, aligned, spikeslab, transcoder,
    skip-transcoder, crosscoder (if none is named: gated; topk if k is given, relu if l1 is)."""
    width: tuple[int, ...] = ()
    """Features of a dictionary; if not given: twice the width of the activations."""
    l1: tuple[float, ...] = ()
    """L1 coefficients, for variants with an L1 penalty; if not given: 0.06, for gated 0.1."""
    k: tuple[int, ...] = ()
    """Active features a row: kept (topk and its kin), aimed at (jumprelu) or expected at first (spikeslab); if not
    given: a sixteenth of the width, at most 32."""
    noise: tuple[float, ...] = DEFAULT_NOISE
    """Std, per coordinate of the rescaled rows, of the noise that the denoising variant's encoder sees."""
    seed: tuple[int, ...] = (0,)
    """Of the initial weights. All members see the rows in one order."""
    lr: tuple[float, ...] = ()
    """Learning rates; if not given, 1e-2 (relu, tied, denoising, panneal, aligned, batchtopk and jumprelu 2e-2, gated
    4e-2), less for widths above 512, batches below 1024 and more than 500 steps (docs/defaults.md)."""
    penalty: Penalty = DEFAULT_PENALTY
    """What `l1` multiplies: the sum of the codes; `interim`: the sum over N, and the error over D (S4); or the sum
    weighted by the decoder's norms, which are then free."""
    batch: int = 1024
    """Rows a step."""
    steps: int | None = None
    """Steps (default: four passes over the rows, at least 1 M rows and at most 100 M)."""
    frame: Frame = field(default_factory=Frame)
    """How rows are scaled, and where b_dec starts."""
    schedule: Schedule = field(default_factory=Schedule)
    """How learning rate and sparsity change over the run."""
    optimiser: Optimiser = field(default_factory=Optimiser)
    """Gradient clipping, averaged weights."""
    dead: DeadSettings = field(default_factory=DeadSettings)
    """When a feature counts as dead, and what is done then."""
    compute: Compute = field(default_factory=Compute)
    """On what, in which precision, with which kernels."""

    def __post_init__(self) -> None:
        check_choices(self, penalty=get_args(Penalty))
        if not self.variant:
            plain = BY_K if self.k else BY_L1 if self.l1 else DEFAULT_VARIANT
            object.__setattr__(self, "variant", (plain,))
        for name in ("noise", "seed"):
            if not getattr(self, name):
                raise UsageError(f"`{name}` is empty; give at least one value, or leave it out")
        for name in self.variant:
            if name not in VARIANTS:
                raise UsageError(f"`variant` (={name}) must be one of {', '.join(VARIANTS)}")
        for name in ("l1", "k", "noise", "penalty"):
            self._check_taken(name)
        for name, least in (("width", 1), ("k", 1), ("batch", 1), ("steps", 1)):
            for value in _as_tuple(getattr(self, name)):
                if value < least:
                    raise UsageError(f"`{name}` (={value}) must be at least {least}")
        for name in ("l1", "noise", "lr"):
            for value in getattr(self, name):
                if not (math.isfinite(value) and value >= 0):
                    raise UsageError(f"`{name}` (={value}) must be a number of at least 0")

    def _check_taken(self, dial: str) -> None:
        """Raises UsageError if `dial` is given and no variant of the grid takes it."""
        values, able = _as_tuple(getattr(self, dial)), takers(dial)
        not_given = {"noise": DEFAULT_NOISE, "penalty": (DEFAULT_PENALTY,)}.get(dial, ())
        if values == not_given or set(able) & set(self.variant):
            return
        raise UsageError(
            f"`{dial}` (={', '.join(map(str, values))}) does nothing for `variant` (={', '.join(self.variant)}); name "
            f"one that takes it ({', '.join(able)}), or leave out {dial}"
        )


@dataclass(frozen=True)
class Member:
    """One dictionary of a grid."""

    variant: str
    width: int
    l1: float | None
    k: int | None
    lr: float
    seed: int
    noise: float | None = None

    def penalty_weight(self, penalty: Penalty, d_in: int) -> float:
        """λ of the "sum" convention. S4 averages the error over D and the codes over N: α there is λ = α·D/N here."""
        if self.l1 is None:
            return 0.0
        return self.l1 * d_in / self.width if penalty == "interim" else self.l1


def grid(settings: TrainSettings, d_in: int, n_rows: int | None = None) -> list[Member]:
    """Every member, in the order of the settings; `n_rows` (None: no end) says how long a run without `steps` is.

    Raises UsageError where a member comes twice, or k is above a width.
    """
    steps = settings.steps or default_steps(settings.batch, n_rows)
    widths = settings.width or (WIDTH_OVER_D_IN * d_in,)
    members = []
    for variant, width in product(settings.variant, widths):
        dial = VARIANTS[variant].sparsity
        values: Sequence[Any] = settings.k or (default_k(width),)
        if dial == "l1":
            values = settings.l1 or (VARIANTS[variant].usual_l1,)
        noises = settings.noise if VARIANTS[variant].noisy else (None,)
        rates = settings.lr or (default_lr(variant, width, settings.batch, steps),)
        for value, noise, lr, seed in product(values, noises, rates, settings.seed):
            if dial == "k" and value > width:
                raise UsageError(f"`k` (={value}) must be at most the dictionary width (={width}); lower k or widen it")
            l1, k = (float(value), None) if dial == "l1" else (None, int(value))
            members.append(Member(variant, width, l1, k, lr, seed, noise))
    if len(set(members)) != len(members):
        raise UsageError(
            "the grid holds the same member twice; name each variant, width, l1, k, noise, lr and seed once"
        )
    return members


def takers(dial: str) -> list[str]:
    """The variants that `l1`, `k`, `noise` or `penalty` is for."""
    wanted = {"penalty": "l1"}.get(dial, dial)
    return [
        name for name, variant in VARIANTS.items() if (variant.noisy if dial == "noise" else variant.sparsity == wanted)
    ]


def default_k(width: int) -> int:
    """A sixteenth of the width, at most 32."""
    return max(1, min(MOST_K, width // 16))


def default_lr(variant: str, width: int, batch: int, steps: int) -> float:
    """1e-2 up to width 512, from batch 1024 on and up to LONG steps; less by √width and √steps beyond and √batch below;
    times the variant's `pace` (docs/defaults.md; for steps, `benchmarks/long_runs.py`)."""
    beyond = min(1.0, 512 / width) * min(1.0, batch / 1024) * min(1.0, LONG / steps)
    return VARIANTS[variant].pace * 1e-2 * math.sqrt(beyond)


def default_steps(batch: int, n_rows: int | None) -> int:
    """Four passes over the rows, within MIN_ROWS and MAX_ROWS."""
    rows = MIN_ROWS if n_rows is None else min(max(EPOCHS * n_rows, MIN_ROWS), MAX_ROWS)
    return max(1, rows // batch)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)

"""How the learning rate and the L1 weight change over a run: a linear rise, a plateau, a linear fall to 0.

L1 rises with the learning rate and stays: at full weight on random features it would kill many before they are of use.
Left out: cosine decay, restarts.
"""

from __future__ import annotations

from dataclasses import dataclass

from monosemy.runtime import UsageError


@dataclass(frozen=True)
class Schedule:
    """Shares of a run in which the learning rate changes."""

    warmup: float = 0.05
    """Share of the steps over which learning rate and L1 rise from 0."""
    decay: float = 0.2
    """Share of the steps, at the end, over which the learning rate falls to 0."""

    def __post_init__(self) -> None:
        if not (min(self.warmup, self.decay) >= 0 and self.warmup + self.decay <= 1):
            raise UsageError(f"`warmup` (={self.warmup}) and `decay` (={self.decay}) must be shares that add up to ≤ 1")

    def factors(self, step: int, steps: int) -> tuple[float, float]:
        """Factors of the learning rate and of L1 at a step counted from 0."""
        rise = min(1.0, (step + 1) / max(1, round(self.warmup * steps)))
        fall = min(1.0, (steps - step) / max(1, round(self.decay * steps)))
        return rise * fall, rise

"""How the learning rate and the sparsity weight change over a run: a linear rise, a plateau, a linear fall.

The weight of an L1 penalty rises with the learning rate and stays: at full weight on random features it would kill many
before they are of use. It can be let off again at the end. Left out: cosine decay, restarts.
"""

from __future__ import annotations

from dataclasses import dataclass

from monosemy.runtime import UsageError


@dataclass(frozen=True)
class Schedule:
    """Shares of a run in which learning rate and sparsity change."""

    warmup: float = 0.05
    """Share of the steps over which the learning rate rises from 0."""
    decay: float = 0.2
    """Share of the steps, at the end, over which the learning rate falls to 0."""
    sparsity_warmup: float | None = None
    """Share of the steps over which the penalty's weight rises from 0 (default: as the learning rate)."""
    sparsity_decay: float = 0.0
    """Share of the steps, at the end, over which the penalty's weight falls to 0."""

    def __post_init__(self) -> None:
        pairs = {"warmup": "decay", "sparsity_warmup": "sparsity_decay"}
        for rise, fall in pairs.items():
            shares = (self.warmup if getattr(self, rise) is None else getattr(self, rise), getattr(self, fall))
            if not (min(shares) >= 0 and sum(shares) <= 1):
                raise UsageError(
                    f"`{rise}` (={shares[0]}) and `{fall}` (={shares[1]}) must be shares that add up to ≤ 1"
                )

    def factors(self, step: int, steps: int) -> tuple[float, float]:
        """Factors of the learning rate and of the penalty's weight at a step counted from 0."""
        sparsity_warmup = self.warmup if self.sparsity_warmup is None else self.sparsity_warmup
        return (
            _trapezium(step, steps, self.warmup, self.decay),
            _trapezium(step, steps, sparsity_warmup, self.sparsity_decay),
        )


def _trapezium(step: int, steps: int, rise: float, fall: float) -> float:
    return min(1.0, (step + 1) / max(1, round(rise * steps))) * min(1.0, (steps - step) / max(1, round(fall * steps)))

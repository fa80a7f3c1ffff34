"""Which features a review session looks at, and in which order: by a rule and a seed, so that it can be made again.

"top" takes those with the highest MCS to another seed (S1's seventy), "random" takes any, "both" half of each, so that
a reviewer's verdicts on the top have something to be compared with. The order is drawn from the seed whatever the
rule: a reviewer who knew that the best come first would see the best first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from monosemy.runtime import UsageError, check_choices

RULES = ("top", "random", "both")
MOST = 1000


@dataclass(frozen=True)
class QueueSettings:
    """What to look at."""

    rule: str = "both"
    """"top" by MCS, "random", or "both"."""
    count: int = 70
    """Features in the session."""
    seed: int = 0
    blind: bool = True
    """Hide densities, maxima, MCS and which were chosen by what."""

    def __post_init__(self) -> None:
        check_choices(self, rule=RULES)
        if not 1 <= self.count <= MOST:
            raise UsageError(f"`count` (={self.count}) must be from 1 to {MOST}")
        if self.seed < 0:
            raise UsageError(f"`seed` (={self.seed}) must not be negative")


@dataclass(frozen=True)
class Queued:
    """A feature in a queue."""

    feature: int
    chosen: str
    """By which rule: "top" or "random"."""
    mcs: float | None


def queue_of(mcs: Mapping[int, float | None], settings: QueueSettings) -> list[Queued]:
    """The queue over a dictionary's features, given as the MCS of each, None where it is not known.

    With "both", the random half is drawn from what is not among the top. A session over more features than there are
    takes all. Raises UsageError for "top" and "both" where no MCS is known.
    """
    random = np.random.default_rng(settings.seed)
    known = [(-value, feature) for feature, value in mcs.items() if value is not None]
    if settings.rule != "random" and not known:
        raise UsageError(
            f"`rule` (={settings.rule!r}) needs the MCS to another seed, and this index has none; use random, "
            f"or train the same dictionary from a second seed and index it again"
        )
    wanted = {"top": settings.count, "random": 0, "both": (settings.count + 1) // 2}[settings.rule]
    best = [feature for _, feature in sorted(known)[:wanted]]
    others = sorted(mcs.keys() - set(best))
    rest = 0 if settings.rule == "top" else min(settings.count - len(best), len(others))
    drawn = [others[i] for i in random.choice(len(others), rest, replace=False)] if rest else []
    queue = [Queued(feature, "top", mcs[feature]) for feature in best]
    queue += [Queued(feature, "random", mcs[feature]) for feature in drawn]
    return [queue[i] for i in random.permutation(len(queue))]

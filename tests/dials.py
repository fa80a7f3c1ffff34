"""The dials that a variant takes, for tests over all variants."""

from __future__ import annotations

from typing import Any

from monosemy.training.settings import takers


def taken(variant: str, **options: Any) -> dict[str, Any]:
    """These options of `variant`, without the dials that it does not take."""
    dials = ("l1", "k", "noise", "penalty")
    return {"variant": variant} | {n: v for n, v in options.items() if n not in dials or variant in takers(n)}

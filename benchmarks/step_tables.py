"""The two tables of `steps.py`: what was asked of us beside each peer and what was reached; and every arm."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from step_arms import Work

OURS, PRODUCT = "monosemy", "encode product alone"
FULL, BF16 = ", full rate", ", bf16"


@dataclass(frozen=True)
class Found:
    """What was measured of one arm."""

    ms: list[float]
    density: float | None
    peak_mb: float | None


def ratio(above: list[float], below: list[float]) -> float | None:
    """Median of the ratios of pairs, of as many as there are; None where there are none."""
    pairs = [a / b for a, b in zip(above, below, strict=False)]
    return statistics.median(pairs) if pairs else None


def verdicts(work: Work, found: dict[str, Found]) -> list[dict[str, Any]]:
    """A row for each peer: what was asked, what was reached."""
    times = defaultdict(list, {name: each.ms for name, each in found.items()})
    rows = []
    for peer, (asked, asked_bf16) in work.asked.items():
        fp32, bf16 = ratio(times[peer], times[OURS]), ratio(times[peer], times[OURS + BF16])
        peaks = [found[name].peak_mb if name in found else None for name in (peer, OURS)]
        rows.append(
            {
                "work": work.name,
                "against": peer,
                "asked, fp32": f"≥ {asked:g}×",
                "found, fp32": fp32,
                "reached": _reached(fp32, asked),
                "they at full rate": ratio(times[peer + FULL], times[OURS]),
                "asked, bf16": f"≥ {asked_bf16:g}×" if asked_bf16 else None,
                "they fp32 / we bf16": bf16,
                "reached, bf16": _reached(bf16, asked_bf16) if asked_bf16 else None,
                "both bf16": ratio(times[peer + BF16], times[OURS + BF16]),
                "their peak / ours": peaks[0] / peaks[1] if peaks[0] and (peaks[1] or 0) > 0 else None,
            }
        )
    return rows


def _reached(found: float | None, asked: float) -> str:
    if found is None:
        return "not yet measured"
    return "yes" if found >= asked else "no"


def details(work: Work, found: dict[str, Found]) -> list[dict[str, Any]]:
    """A row for each arm."""
    us = found[OURS].ms
    return [
        {
            "work": work.name,
            "arm": name,
            "ms, median": statistics.median(each.ms),
            "ms, fastest": min(each.ms),
            "times ours in fp32 (median of pairs)": ratio(each.ms, us),
            "density": each.density,
            "peak MB above parameters and moments": each.peak_mb,
        }
        for name, each in found.items()
        if each.ms
    ]

"""The tables of `fronts.py`: verdicts on our variants beside the peers' kinds, a ranking of ours, and all points.

A front is compared as `front_math.py` says; recovery by the best sparsity of each seed. FVU goes by its logarithm, so a
difference of it is in per cent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from front_math import Side, compare, front_ranks, places_of, verdict, welch
from front_parts import TEXT_PARTS
from front_runs import COUNTERPART, KINDS, OURS

FRONTS = {"fvu": "FVU", "ce_lost": "CE lost"}
RECOVERED = {"mcc": "MCC", "mmcs": "MMCS", "f1": "F1"}

Row = dict[str, Any]


def side_of(rows: Iterable[Row], score: str) -> Side:
    """By seed the fronts of the kinds among the rows, one a learning rate; FVU as its logarithm."""
    fronts: dict[int, dict[tuple[str, float], list[tuple[float, float]]]] = {}
    for row in rows:
        if row["l0"] > 0 and row[score] is not None:
            value = math.log(row[score]) if score == "fvu" else row[score]
            fronts.setdefault(row["seed"], {}).setdefault((row["kind"], row["lr"]), []).append((row["l0"], value))
    return {seed: list(kinds.values()) for seed, kinds in fronts.items()}


def best_of(rows: Iterable[Row], score: str) -> list[float]:
    """For each seed the best dictionary's score, its sign turned: lower is better."""
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(-row[score])
    return [min(values) for values in by_seed.values()]


def verdicts(part: str, rows: Sequence[Row], every_kind: bool) -> list[Row]:
    """A line for each score and each pair of kinds; where the rows have every kind, for each library as a whole too."""
    ours = [row for row in rows if row["library"] == OURS]
    found = []
    for library, kinds in KINDS.items():
        theirs = [row for row in rows if row["library"] == library]
        pairs = [("all", "all", ours, theirs)] if theirs and every_kind else []
        for kind in kinds:
            variant = COUNTERPART.get(kind, kind)
            sides = _of(ours, variant), _of(theirs, kind)
            if all(sides):
                pairs.append((variant, kind, *sides))
        for variant, kind, mine, other in pairs:
            about = {"part": part, "ours": variant, "against": f"{library}, {kind}"}
            lines = _front_lines(mine, other) if part in TEXT_PARTS else _recovery_lines(mine, other)
            found += [{**about, **line} for line in lines]
    return found


def _of(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row["kind"] == kind]


def _front_lines(mine: Sequence[Row], other: Sequence[Row]) -> list[Row]:
    lines = []
    for score, name in FRONTS.items():
        found = compare(side_of(mine, score), side_of(other, score))
        if found is None:
            spans = [f"{min(r['l0'] for r in side):.3g}–{max(r['l0'] for r in side):.3g}" for side in (mine, other)]
            lines.append({"score": name, "L0": " and ".join(spans), "verdict": "no common L0"})
            continue
        shown = math.exp if score == "fvu" else float
        ends = found.difference, found.difference - found.half, found.difference + found.half
        if score == "fvu":
            gap, low, high = (f"{100 * math.expm1(end):+.1f} %" for end in ends)
        else:
            gap, low, high = (f"{end:+.4f} nats" for end in ends)
        lines.append(
            {"score": name, "L0": f"{found.low:.3g}–{found.high:.3g}", "our mean": shown(found.ours),
             "their mean": shown(found.theirs), "ours − theirs": f"{gap} ({low} … {high})", "verdict": found.verdict}
        )  # fmt: skip
    return lines


def _recovery_lines(mine: Sequence[Row], other: Sequence[Row]) -> list[Row]:
    lines = []
    for score, name in RECOVERED.items():
        values, others = best_of(mine, score), best_of(other, score)
        difference, half = welch(values, others)
        low, high = -difference - half, -difference + half
        lines.append(
            {"score": name, "L0": None, "our mean": -statistics.mean(values), "their mean": -statistics.mean(others),
             "ours − theirs": f"{-difference:+.4f} ({low:+.4f} … {high:+.4f})", "verdict": verdict(difference, half)}
        )  # fmt: skip
    return lines


def ranking(rows: Sequence[Row]) -> list[Row]:
    """Our variants, the best default first: places by part (means over its scores) and their mean."""
    ours = [row for row in rows if row["library"] == OURS]
    kinds = list(dict.fromkeys(row["kind"] for row in ours))
    places: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
    for part in dict.fromkeys(row["part"] for row in ours):
        mine = {kind: _of([row for row in ours if row["part"] == part], kind) for kind in kinds}
        if part in TEXT_PARTS:
            found = [front_ranks({kind: side_of(mine[kind], score) for kind in kinds}) for score in FRONTS]
        else:
            means = [{kind: statistics.mean(best_of(mine[kind], score)) for kind in kinds} for score in RECOVERED]
            found = [places_of(scores) for scores in means]
        for kind in kinds:
            known = [scores[kind] for scores in found if kind in scores]
            places[kind][part] = statistics.mean(known) if known else math.nan
    table_rows = [
        {"variant": kind, **by_part, "mean place": _mean(by_part.values())} for kind, by_part in places.items()
    ]
    return sorted(table_rows, key=lambda row: row["mean place"])


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.mean(known) if known else math.nan


def points(rows: Sequence[Row]) -> list[Row]:
    """Means over seeds of every dictionary."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["part"], row["library"], row["recipe"]), []).append(row)
    names = ("l0", "fvu", "dead", *(name for name in FRONTS if name != "fvu"), *RECOVERED)
    return [
        {"part": part, "library": library, "recipe": recipe}
        | {name: statistics.mean(r[name] for r in group) if name in group[0] else None for name in names}
        for (part, library, recipe), group in groups.items()
    ]

"""The figure of `fronts.py`: FVU and lost cross-entropy against L0 on text, MCC on worlds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monosemy.figure import INK, log_ticks, styled

COLOURS = {"monosemy": "#0b6e99", "SAELens": "#d1762b", "dictionary_learning": "#7a5195"}
MARKS = "osD^vP*Xh<>"
NAMES = {
    "stories": "stories260K", "gpt": "our GPT", "world": "flat world", "hierarchy": "hierarchical world",
    "fvu": "fraction of variance unexplained", "ce_lost": "cross-entropy lost, nats",
}  # fmt: skip

Row = dict[str, Any]


@styled
def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw what was found of the parts that are there; means over seeds."""
    from matplotlib.figure import Figure

    parts = list(dict.fromkeys(row["part"] for row in rows))
    text = [part for part in parts if part in ("stories", "gpt")]
    worlds = [part for part in parts if part not in text]
    panels = [(part, score) for part in text for score in ("fvu", "ce_lost")] + [(part, "mcc") for part in worlds]
    lines = -(-len(panels) // 2)
    figure = Figure(figsize=(12.5, 3.6 * lines))
    all_axes = figure.subplots(lines, 2, squeeze=False).ravel()
    for axes, (part, score) in zip(all_axes, panels, strict=False):
        mine = [row for row in rows if row["part"] == part]
        if score == "mcc":
            _bars(axes, mine)
        else:
            _fronts(axes, mine, score)
        axes.set_title(NAMES[part])
    for axes in all_axes[len(panels) :]:
        axes.axis("off")
    if text:
        lines_of, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(lines_of, labels, loc="outside right upper", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _fronts(axes: Any, rows: Sequence[Row], score: str) -> None:
    reached = [row["l0"] for row in rows if row["l0"] > 0]
    for (library, kind), group in _groups(rows).items():
        kinds = list(dict.fromkeys(row["kind"] for row in rows if row["library"] == library))
        style = {"color": COLOURS[library], "marker": MARKS[kinds.index(kind) % len(MARKS)]}
        for number, lr in enumerate(dict.fromkeys(row["lr"] for row in group)):
            recipes: dict[str, list[Row]] = {}
            for row in group:
                if row["lr"] == lr:
                    recipes.setdefault(row["recipe"], []).append(row)
            means = sorted((_mean(same, "l0"), _mean(same, score)) for same in recipes.values())
            known = [(l0, value) for l0, value in means if l0 > 0]
            named = {} if number else {"label": f"{library}, {kind}"}
            axes.plot(*zip(*known, strict=True), alpha=0.8, linewidth=1.0, markersize=4, **style, **named)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, min(reached), max(reached))
    if score == "fvu":
        axes.set_yscale("log")
        log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("L0")
    axes.set_ylabel(NAMES[score])
    axes.grid(True)


def _bars(axes: Any, rows: Sequence[Row]) -> None:
    found = []
    for (library, kind), group in _groups(rows).items():
        seeds = {row["seed"] for row in group}
        best = [max(row["mcc"] for row in group if row["seed"] == seed) for seed in seeds]
        found.append((statistics.mean(best), min(best), max(best), library, kind))
    found.sort()
    for place, (mean, low, high, library, _) in enumerate(found):
        axes.plot([low, high], [place, place], color=COLOURS[library], linewidth=2.5, alpha=0.5)
        axes.plot([mean], [place], "o", color=COLOURS[library])
    axes.set_yticks(range(len(found)), [f"{library}, {kind}" for *_, library, kind in found], fontsize=6.5, color=INK)
    axes.set_xlabel("MCC with the truth, best sparsity; range over seeds")
    axes.grid(True, axis="x")


def _groups(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["library"], row["kind"]), []).append(row)
    return groups


def _mean(rows: Sequence[Row], name: str) -> float:
    return statistics.mean(row[name] for row in rows)

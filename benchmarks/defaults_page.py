"""The page `docs/defaults.md`: what `defaults.py` measured, and the rules read off it, in its own figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from record import table

from monosemy.dictionaries.store import VARIANTS
from monosemy.training.settings import LONG, TrainSettings

Row = Mapping[str, Any]


def rules(best: Sequence[Row], near: float, tried: Sequence[str]) -> list[str]:
    """What the table says, in sentences with its own figures; a rate within `near` of the best is as good."""
    widths, batches = sorted({row["width"] for row in best}), sorted({row["batch"] for row in best})
    lines = []
    kinds = list(dict.fromkeys(row["variant"] for row in best))
    means = {v: statistics.geometric_mean(row["best lr"] for row in best if row["variant"] == v) for v in kinds}
    told = ", ".join(f"{kind}: {rate:.2g}" for kind, rate in means.items())
    lines.append(f"Best learning rate by variant (geometric mean over everything else): {told}.")
    for what, values, key in (("width", widths, "width"), ("batch", batches, "batch")):
        means = {v: statistics.geometric_mean(row["best lr"] for row in best if row[key] == v) for v in values}
        told = ", ".join(f"{value}: {rate:.2g}" for value, rate in means.items())
        slope = (
            math.log(means[values[-1]] / means[values[0]]) / math.log(values[-1] / values[0]) if len(values) > 1 else 0
        )
        lines.append(
            f"Best learning rate by {what} (geometric mean over everything else): {told}; it goes with {what} to the "
            f"power {slope:+.2f}."
        )
    rates = sorted({row["best lr"] for row in best})
    lines.append(f"Best rates lie between {rates[0]:g} and {rates[-1]:g}, of those tried: {', '.join(tried)}.")
    paces = f"({', '.join(f'{VARIANTS[kind].pace:g} for {kind}' for kind in kinds)})"
    losses = [row["loss of the default / best"] for row in best]
    lines.append(
        f"The default rate, `lr = {paces} · 1e-2 · min(1, √(512 / width)) · min(1, √(batch / 1024)) · "
        f"min(1, √({LONG} / steps))`, rounded to the nearest one tried, costs "
        f"{100 * (statistics.median(losses) - 1):.1f} % of the loss in the median and {100 * (max(losses) - 1):.1f} % "
        f"at worst; it is within {100 * near:.0f} % of the best in "
        f"{sum(x <= 1 + near for x in losses)} of {len(losses)} cells."
    )
    lines.append(
        "All runs of one batch size have the same number of steps here, so what batch and steps each do to the rate is "
        "not told apart; the factor of steps is settled by longer runs, below."
    )
    for key, values in (("batch", batches), ("width", widths)):
        losses_of = {value: [row["loss"] for row in best if row[key] == value] for value in values}
        told = ", ".join(f"{value}: {statistics.geometric_mean(losses):.3f}" for value, losses in losses_of.items())
        lines.append(f"Loss by {key}, each at its best rate, same rows: {told}.")
    default = TrainSettings().batch
    lines.append(
        f"What `monosemy train` does unless told otherwise: batches of {default} rows, a width of twice d_in. Neither "
        "has the lowest loss: a wider dictionary costs in proportion, and smaller batches more steps; both are for a "
        "first look, to be raised and lowered from there."
    )
    return lines


def page(
    best: Sequence[Row], means: Sequence[Row], told: Sequence[str], about: str, printed: str, longer: Sequence[str]
) -> str:
    """The page: `told` is what follows, `about` says what was trained on what, `printed` by what command and where,
    `longer` is about longer runs."""
    shown = [{name: value for name, value in row.items() if name not in ("loss", "s")} for row in best]
    return "\n".join(
        [
            "# Where the defaults come from",
            "",
            f"Printed by {printed}.",
            "",
            f"{about} "
            "Every run sees the same number of rows, so a smaller batch takes more steps. The loss is FVU for TopK; "
            "FVU plus the L1 penalty in units of the rows' variance for ReLU; 1 − MMCS for Gated, whose penalty is not "
            "on its codes, so that without a truth its rates are not compared. Everything is a mean over seeds, on "
            "rows that training never saw. The seconds were taken beside other work.",
            "",
            "## What follows",
            "",
            *(f"- {line}" for line in told),
            "",
            "## The best learning rate of each cell",
            "",
            *table(shown),
            "",
            *(["## Longer runs", "", *longer, ""] if longer else []),
            "## Everything that was measured",
            "",
            *table(means),
            "",
        ]
    )

"""One picture of a finished run, for a README or a talk: fidelity against sparsity, densities, and what one feature is.

The examples are set in a monospaced font, so that where a token lies follows from the characters before it.
README's picture is that of the demo: `overview("runs/demo", 382).savefig(path, dpi=130, bbox_inches="tight")`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from monosemy.analysis.feature import Example, Feature, FeatureIndex
from monosemy.figure import INK, styled
from monosemy.report.plots import defined, draw_density, draw_front
from monosemy.report.run import open_run
from monosemy.runtime import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 10.0, 6.0  # inches
FONT_PT = 8.0
ADVANCE = 0.602  # of DejaVu Sans Mono: width of a character over the size of the font
LINES = 7
HEAT = "#f38b24"
GLYPHS = {"\n": "⏎", "\t": "→"}
LAST_LETTER = "\u052f"  # of Latin, Greek and Cyrillic, which need no shaping; others are drawn as boxes
TRIED = 200


def overview(run: str | Path, feature: int | None = None) -> Figure:
    """The picture of the run in folder `run`; save it with `.savefig("overview.png", dpi=200)`.

    `feature`: the one whose examples are shown; by default a rare one that another seed finds too and that has many
    examples in plain text. Raises UsageError if the run has no scores or no features, or `feature` is dead.
    """
    found = open_run(run)
    if not found.scored or found.features is None:
        raise UsageError(
            f"{found.path}: the picture needs scores and features; run monosemy evaluate and features there"
        )
    table = found.features.table()
    chosen = found.features.feature(feature) if feature is not None else telling(found.features, table)
    if chosen.dead:
        raise UsageError(
            f"`feature` (={feature}) is dead in {found.path}, so it has no examples; name one that is alive"
        )
    return draw_overview(found.rows, found.chosen, table, found.features.detection_limit, chosen)


@styled
def draw_overview(rows: Any, chosen: int | None, table: list[dict[str, Any]], limit: float, feature: Feature) -> Figure:
    """The picture from its parts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT))
    parts = figure.add_gridspec(2, 2, height_ratios=(3.4, 2.6))
    left, right, below = (figure.add_subfigure(part) for part in (parts[0, 0], parts[0, 1], parts[1, :]))
    draw_front(left.add_subplot(), rows, "fvu", "FVU (fraction of variance unexplained)", chosen)
    alive = [row["density"] for row in table if not row["dead"]]
    draw_density(right.add_subplot(), alive, len(table) - len(alive), limit)
    draw_examples(below.add_axes((0.02, 0.03, 0.96, 0.94)), feature)
    return figure


def draw_examples(axes: Axes, feature: Feature) -> None:
    """The strongest examples, one a line, shaded from 0 to the feature's maximum, the peak outlined."""
    from matplotlib.patches import Rectangle

    columns = 0.96 * WIDTH * 72 / (ADVANCE * FONT_PT)
    examples = feature.examples["top"][:LINES]
    axes.set(xlim=(0, columns), ylim=(LINES + 0.2, -1.2))
    axes.set_axis_off()
    agreement = f", MCS with another seed {feature.mcs_other_seed:.3f}" if defined(feature.mcs_other_seed) else ""
    heading = (
        f"feature {feature.id}: active on 1 in {round(1 / feature.density):,} tokens, max {feature.max:.3g}{agreement}"
    )
    axes.text(0, -0.7, heading, va="center", fontsize=9.5)
    for line, example in enumerate(examples):
        text, boxes = laid_out(example, int(columns) - 9)
        style: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": FONT_PT, "va": "center", "parse_math": False}
        axes.text(7, line + 0.5, f"{example.values[example.peak]:.3g}", **style, ha="right", alpha=0.7)
        for start, length, value, is_peak in boxes:
            place = ((9 + start, line + 0.1), length, 0.8)
            share = min(1.0, max(0.0, value) / feature.max)
            axes.add_patch(Rectangle(*place, facecolor=HEAT, alpha=0.9 * share, linewidth=0))
            if is_peak:
                axes.add_patch(Rectangle(*place, facecolor="none", edgecolor=INK, linewidth=0.9))
            # Token by token: hinting rounds each character's advance, which would add up along a line.
            axes.text(9 + start, line + 0.5, text[start : start + length], **style)


def laid_out(example: Example, columns: int) -> tuple[str, list[tuple[int, int, float, bool]]]:
    """The tokens around the peak that fit, peaks below one another: the line, and (start, length, value, is peak)."""
    before = columns * 2 // 3
    texts = [_plain(token) for token in example.tokens]
    starts = [sum(map(len, texts[:place])) for place in range(len(texts))]
    shift = before - starts[example.peak]
    line = (" " * max(0, shift) + "".join(texts)[max(0, -shift) :])[:columns]
    boxes = []
    for place, (start, text) in enumerate(zip(starts, texts, strict=True)):
        first, end = max(0, start + shift), min(columns, start + shift + len(text))
        if end > first:
            boxes.append((first, end - first, example.values[place], place == example.peak))
    return line, boxes


def telling(index: FeatureIndex, table: list[dict[str, Any]]) -> Feature:
    """A feature worth a picture: rare, found by another seed too, with LINES examples of letters that can be drawn."""
    alive = [row for row in table if not row["dead"]]
    if not alive:
        raise UsageError(f"{index.artifact.path}: every feature is dead, so there is none to show")
    rare = [row for row in alive if row["density"] < 0.01 and row["count"] >= LINES] or alive
    ranked = sorted(rare, key=lambda row: -(row["mcs_other_seed"] or 0))[:TRIED]
    features = [index.feature(row["id"]) for row in ranked]
    return max(features, key=_readable)  # the first of equals: the best agreement


def _readable(feature: Feature) -> tuple[int, bool]:
    shown = feature.examples["top"][:LINES]
    return len(shown), all("□" not in _plain(token) for example in shown for token in example.tokens)


def _plain(token: str) -> str:
    drawn = (GLYPHS.get(letter, letter) for letter in token)
    return "".join(
        letter if letter in "⏎→" or (letter.isprintable() and letter <= LAST_LETTER) else "□" for letter in drawn
    )

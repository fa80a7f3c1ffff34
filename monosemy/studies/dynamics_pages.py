"""The pages of the dynamics study: S3's figures again, the twelve animations, and training with and without a remedy.

Verdicts are computed from what was measured; none is written down beforehand.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.metrics.interval import half_width, interval
from monosemy.metrics.selection import advise
from monosemy.report.cells import cells_data, cells_of
from monosemy.report.grid_figures import cell_of, verdict
from monosemy.report.grids import grid_heatmap
from monosemy.report.lines import bars, lines
from monosemy.report.space import picture_steps
from monosemy.report.study import StudyPage
from monosemy.studies.results import ANY_SIGNS, NAMES, Dynamics

S3_PCA = 0.42  # the MMCS that S3 gives for PCA on its picture case
MATRICES: dict[str, tuple[str, dict[str, Any]]] = {
    "mse": ("reconstruction loss (mean over D)", {"log": True, "cmap": "cividis"}),
    "mmcs_truth": ("MMCS to the truth", {}),
    "mmcs_with_larger": ("mean MMCS with larger dictionaries", {}),
    "dead": ("dead features", {"cmap": "cividis"}),
}


def write_pages(study: Dynamics) -> Path:
    """Write all pages; the path of the first."""
    animations_page(study)
    training_page(study)
    return picture_page(study)


def picture_page(study: Dynamics) -> Path:
    """Six features in three dimensions."""
    settings = study.world.settings
    page = study.page(
        "index",
        "Six features in three dimensions",
        f"S3 (February 2024) again: {settings.features} features in {settings.d_in} dimensions, "
        f"{settings.l0:g} active a row.",
    )
    _data_steps(page, study)
    _matrices(page, study)
    _firing(page, study)
    _baselines(page, study)
    return page.write()


def _data_steps(page: StudyPage, study: Dynamics) -> None:
    world, sample = study.world, study.world.sample(2000, stream="picture")
    decay = [world.settings.decay**i for i in range(world.settings.features)]
    correlation = world.correlation_RR
    steps = {"decay**i": decay, f"rescaled to L0 {world.settings.l0:g}": world.probabilities_G.tolist()}
    few = sample.rows(0, 20).codes_XG()
    page.section(
        "From features to data", "Unit features, correlated firing with decaying probabilities, codes, and rows."
    )
    figures = picture_steps(world.features_GD, correlation, steps, few, sample.x_XD)
    data = {
        "features": {"truth": world.features_GD},
        "correlation": {"correlation": correlation},
        "probabilities": steps,
        "codes": {"codes": few},
        "data": {"rows": sample.x_XD[:500]},
    }
    captions = {
        "features": "True features: unit vectors",
        "correlation": "Correlation of firing (of the Gaussians behind it)",
        "probabilities": "Firing probabilities: decayed, then rescaled",
        "codes": "Codes of twenty rows; blank where a feature does not fire",
        "data": "Rows: sums of features times codes",
    }
    for name, figure in figures.items():
        page.figure(figure, f"step-{name}", captions[name], data[name], study.command)


def _matrices(page: StudyPage, study: Dynamics) -> None:
    best = max(study.picture, key=lambda row: row["mmcs_truth"])
    cell = (best["l1"], best["width"])
    advised = cell_of(advise(study.picture).consensus)
    agreeing = [row for row in study.picture if row["mmcs_with_larger"] is not None]
    chosen = max(agreeing, key=lambda row: row["mmcs_with_larger"])
    page.section(
        "Twelve dictionaries",
        f"L1 × width, each trained for {study.scale.epochs} epochs on the same {study.scale.rows:,} rows. "
        "Circle: advised. Cross: best by the truth.",
        found="S3 uses MMCS with larger dictionaries to tell a good one without the truth.",
        measured=f"Best MMCS {best['mmcs_truth']:.3f} at L1 {best['l1']:g}, width {best['width']}. MMCS with larger "
        f"peaks at L1 {chosen['l1']:g}, width {chosen['width']}, whose MMCS is {chosen['mmcs_truth']:.3f}.",
        agrees=verdict(chosen["mmcs_truth"] > best["mmcs_truth"] - 0.05, "the peak is within 0.05 of the best"),
    )
    for field, (label, look) in MATRICES.items():
        cells = cells_of(study.picture, field)
        figure = grid_heatmap(
            cells, label, advised=advised, best=cell, x_label="L1 coefficient λ", y_label="width", **look
        )
        page.figure(
            figure,
            f"matrix-{field.replace('_', '-')}",
            label,
            cells_data(cells, advised=advised, best=cell),
            study.command,
        )


def _firing(page: StudyPage, study: Dynamics) -> None:
    page.section("Firing frequencies", "How often each learned feature fires on the rows, ordered; and the true ones.")
    true = sorted(study.world.probabilities_G.tolist(), reverse=True)
    for width in sorted({row["width"] for row in study.picture}):
        found = {
            f"L1 {row['l1']:g}": sorted(row["firing"], reverse=True) for row in study.picture if row["width"] == width
        }
        series: dict[str, Sequence[float | None]] = {
            "true": [*true, *[None] * (width - len(true))][: max(width, len(true))]
        }
        series |= {name: [*values, *[None] * (len(true) - width)] for name, values in found.items()}
        figure = bars(
            series, [str(n) for n in range(max(width, len(true)))], "firing frequency", x_label="feature, by frequency"
        )
        page.figure(figure, f"firing-{width}", f"Firing frequencies at width {width}", series, study.command)


def _baselines(page: StudyPage, study: Dynamics) -> None:
    names = list(dict.fromkeys(row["baseline"] for row in study.baselines))
    values = {name: [row["mmcs"] for row in study.baselines if row["baseline"] == name] for name in names}
    means = {name: statistics.mean(found) for name, found in values.items()}
    spread = {name: interval(found) for name, found in values.items()}
    own = max(row["mmcs_truth"] for row in study.picture)
    low, high = np.quantile(values[ANY_SIGNS], (0.05, 0.95))
    page.section(
        "Baselines",
        f"MMCS to the truth on {study.scale.worlds} worlds of this kind, with 95 % intervals of the mean. PCA's "
        "components have no sign of their own: ours point to where the projections are skewed; beside it, any choice "
        "of signs.",
        found=f"PCA reaches an MMCS of {S3_PCA}.",
        measured=f"PCA reaches {means['pca']:.3f} on average; over all signs {means[ANY_SIGNS]:.3f}, 5 to 95 % of "
        f"worlds and signs lying between {low:.2f} and {high:.2f}. Random directions reach {means['random']:.3f}: in "
        f"three dimensions chance is high. The best of the twelve reaches {own:.3f}.",
        agrees=verdict(low <= S3_PCA <= high, f"{S3_PCA} is an ordinary value for one world with arbitrary signs"),
    )
    shown = {NAMES[name]: means[name] for name in names}
    figure = bars(
        {"MMCS": list(shown.values())}, list(shown), "MMCS to the truth",
        intervals={"MMCS": [spread[name] for name in names]}, references={"S3's PCA": S3_PCA},
    )  # fmt: skip
    page.figure(
        figure, "baselines", "Baselines on the picture case", {NAMES[n]: values[n] for n in names}, study.command
    )


def animations_page(study: Dynamics) -> Path:
    """Each of the twelve learning."""
    page = study.page(
        "animations",
        "Learning, animated",
        f"True features and learned ones, a frame every {study.scale.frame_every} epochs. Dead features are faint.",
    )
    for row in sorted(study.picture, key=lambda row: (row["width"], row["l1"])):
        name = f"{row['width']}-{row['l1']:g}"
        learned_FND, dead_FN = study.frames[f"learned {name}"], study.frames[f"dead {name}"]
        page.animation(
            f"learning-{name.replace('.', '-')}",
            learned_FND,
            study.world.features_GD,
            [study.scale.frame_every * frame for frame in range(len(learned_FND))],
            f"Width {row['width']}, L1 {row['l1']:g}: MMCS {row['mmcs_truth']:.3f}, {row['dead']} dead",
            study.command,
            dead_FN=dead_FN,
            title=f"width {row['width']}, L1 {row['l1']:g}",
        )
    return page.write()


def training_page(study: Dynamics) -> Path:
    """S3's next step: dead features, recovery and loss over time, under each remedy."""
    scale, settings = study.scale, study.high.settings
    last = {
        remedy: [row for row in looks if row["step"] == scale.high_steps] for remedy, looks in study.courses.items()
    }
    means = {
        remedy: {name: statistics.mean(row[name] for row in rows) for name in ("dead", "mmcs", "mse", "l0")}
        for remedy, rows in last.items()
    }
    recovered = ", ".join(f"{remedy} {found['mmcs']:.3f}" for remedy, found in means.items())
    fewest = min(means, key=lambda r: means[r]["dead"])
    page = study.page(
        "training",
        "Training dynamics",
        f"{settings.features} features in {settings.d_in} dimensions; dictionaries of {scale.high_width} features, "
        f"{len(scale.seeds)} seeds. Shaded: 95 % intervals of the mean.",
    )
    page.section(
        "With and without a remedy for dead features",
        "Resampling gives dead features new weights, ghost gradients and AuxK give them a gradient. The world has "
        f"{settings.features} features, so a dictionary of {scale.high_width} has more than it needs: a dead feature "
        "is a loss only where a true one is missing.",
        found="S3 left this as its next step.",
        measured=f"Dead at the end without a remedy: {means['none']['dead']:.0f}; fewest: {means[fewest]['dead']:.0f} "
        f"({fewest}). MMCS at the end: {recovered} (half of the 95 % intervals below).",
    )
    for name, label, log in (
        ("dead", "dead features", False),
        ("mmcs", "MMCS to the truth", False),
        ("mse", "reconstruction loss", True),
        ("l0", "L0", True),
    ):
        curves = {remedy: over_seeds(looks, name) for remedy, looks in study.courses.items()}
        levels = {NAMES[row["variant"]]: row["mmcs_truth"] for row in study.high_baselines} if name == "mmcs" else {}
        figure = lines(curves, "step", label, log_y=log, references=levels)
        data = {
            remedy: dict(zip(("step", "mean", "low", "high"), curve, strict=True)) for remedy, curve in curves.items()
        }
        page.figure(figure, f"course-{name}", f"{label} over training", data, study.command)
    page.section("At the end", "Means over seeds, with half of the 95 % interval.")
    page.table(
        [
            {"remedy": remedy}
            | {name: statistics.mean(row[name] for row in rows) for name in ("dead", "mmcs", "mse", "l0")}
            | {f"± {name}": half_width([row[name] for row in rows]) for name in ("dead", "mmcs")}
            for remedy, rows in last.items()
        ]
    )
    return page.write()


def over_seeds(
    looks: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[float], list[float], list[float], list[float]]:
    """Step, mean, and the 95 % interval of the mean, over the seeds."""
    steps = sorted({row["step"] for row in looks if row["step"] > 0})
    found = [[row[name] for row in looks if row["step"] == step] for step in steps]
    bounds = [interval(values) for values in found]
    return steps, [statistics.mean(values) for values in found], [b[0] for b in bounds], [b[1] for b in bounds]

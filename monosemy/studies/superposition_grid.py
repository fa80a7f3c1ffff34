"""The first page of the superposition study: S4's main figures again, beside what S4 found.

Verdicts are computed from the scores; none is written down beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monosemy.metrics.truth import recovery_by_frequency
from monosemy.report.grid_figures import Curve, GridView, best_by_width, best_value, cell_of, verdict, zone_of
from monosemy.report.lines import scatter
from monosemy.studies.results import NAMES, Grid, Results

TITLE = "Taking features out of superposition"


def grid_page(results: Results) -> Path:
    """S4's main figures."""
    world, grid = results.world, results.grid
    settings = world.settings
    page = results.page(
        "index",
        TITLE,
        f"S4 (December 2022: 512 features in 256 dimensions, 5 active a row) again, on {settings.features} features in "
        f"{settings.d_in} dimensions, {settings.l0:g} active a row, decay {settings.decay:g}. "
        f"{len(grid.rows)} dictionaries were trained in one pass.",
    )
    view = GridView(page, grid.rows, "grid", results.command("grid"), grid.unit)
    _one_dial(view, grid)
    _whole_grid(view, grid)
    _losses(view)
    _without_truth(view)
    _beyond(view, grid)
    _frequency(view, grid)
    page.section("Baselines", "On the same rows, scored in the same way.")
    page.table(
        [{"baseline": NAMES[row["variant"]], **row} for row in grid.baselines],
        {
            "baseline": "",
            "width": "width",
            "mmcs_truth": "MMCS",
            "recovered": "recovered (cosine > 0.9)",
            "mcc_truth": "MCC of the pairs",
            "f1": "firing F1 of the pairs",
            "fvu": "FVU",
        },
    )
    return page.write()


def _one_dial(view: GridView, grid: Grid) -> None:
    """L1 alone, then width alone."""
    curve = view.against_l1("mmcs_truth", [grid.unit])
    ((l1s, values),) = curve.values()
    low, high = zone_of(l1s, values)
    best = max(value for value in values if value is not None)
    view.page.section(
        "L1 alone: the Goldilocks zone",
        "Dictionaries of width G, from too little L1 to too much. In the zone MMCS stays within 0.05 of its best.",
        found="At width G, MMCS is near 1 for α of about 0.03 to 0.3 (N = G = 512, D = 256), and falls on both sides.",
        measured=f"Best MMCS {best:.3f}; the zone is α = {low:.3g} to {high:.3g}.",
        agrees=verdict(best >= 0.95 and low > l1s[0] and high < l1s[-1], "near 1 inside a zone, lower on both sides")
        + " "
        + verdict(low <= 0.03 and high >= 0.3, "the zone is at least α = 0.03 to 0.3"),
    )
    view.curves(
        "l1", curve, ("L1 coefficient α (interim convention)", "MMCS to the truth"), "MMCS against L1 at width G",
        log_x=True, zone=(low, high, "Goldilocks zone"), references=grid.references("mmcs_truth"),
    )  # fmt: skip
    widths, best_values = best_by_width(view.rows)
    ratios = [width / grid.unit for width in widths]
    at_g: dict[str, Curve] = {"best L1 of each width": (ratios, best_values)}
    at_g[f"L1 best at width G ({view.best_l1(grid.unit):.3g})"] = (
        ratios,
        [view.value("mmcs_truth", (view.best_l1(grid.unit), width)) for width in widths],
    )
    wide = [value for ratio, value in zip(ratios, best_values, strict=True) if 1 <= ratio <= 8]
    view.page.section(
        "Width alone",
        "Each width at its best L1, and at the L1 that is best for width G.",
        found="MMCS is near 1 for widths of 1 to 8 G at the right L1.",
        measured=f"Least MMCS over widths of 1 to 8 G, each at its best L1: {min(wide):.3f}; at the narrowest "
        f"{best_values[0]:.3f}.",
        agrees=verdict(min(wide) > 0.9, "above 0.9 for G to 8 G"),
    )
    view.curves(
        "width", at_g, ("width / G", "MMCS to the truth"), "MMCS against width", log_x=True,
        references=grid.references("mmcs_truth"), x_ticks=ratios,
    )  # fmt: skip


def _whole_grid(view: GridView, grid: Grid) -> None:
    diagonal = [view.best_l1(width) for width in view.widths if width >= view.unit]
    rises = float(np.corrcoef(np.log(diagonal), np.arange(len(diagonal)))[0, 1]) if len(diagonal) > 2 else 1.0
    view.page.section(
        "L1 × width",
        "",
        found="High MMCS lies along a diagonal: larger dictionaries need larger L1 (in the interim convention).",
        measured=f"From width G up the best α are {', '.join(f'{l1:.3g}' for l1 in diagonal)}.",
        agrees=verdict(rises > 0.5, "a diagonal: the best α rises with width"),
    )
    name, level = max(grid.references("mmcs_truth").items(), key=lambda item: item[1])
    view.heatmap("mmcs_truth", f"MMCS between true and learned features (best baseline: {name}, {level:.3f})")
    below, beyond = view.on_both_sides("dead_share")
    view.page.section(
        "Dead features",
        f"Features active on none of the held-out rows: those of a density below 1/{view.rows[0]['rows']:,} look dead "
        "too. A short run at a high learning rate kills features of wide dictionaries by itself.",
        found="Dead features appear only beyond the diagonal: at L1 larger than the right one.",
        measured=f"Mean share of dead features at L1 below the best of each width: {below:.3f}; above: {beyond:.3f}.",
        agrees=verdict(below < 0.5 * beyond, "fewer dead below than beyond"),
    )
    view.heatmap("dead_share", "Dead features")


def _losses(view: GridView) -> None:
    sticky, right = view.best_l1(view.unit, "ssll"), view.best_l1(view.unit)
    low, high = zone_of(*next(iter(view.against_l1("mmcs_truth", [view.unit]).values())))
    view.page.section(
        "Loss stickiness",
        "Reconstruction loss and L1 loss over the grid and along L1, and the sum of their standardised logs (SSLL).",
        found="Both losses get stuck on a plateau near the right L1; SSLL is high there.",
        measured=f"At width G, SSLL peaks at α = {sticky:.3g}, MMCS at {right:.3g}. "
        f"Over the whole grid SSLL is largest at {view.where('ssll')}.",
        agrees=verdict(low <= sticky <= high, "at width G the SSLL peak lies in the Goldilocks zone"),
    )
    view.heatmap("mse", "Reconstruction loss")
    view.heatmap("l1_norm", "L1 loss")
    view.heatmap("ssll", "SSLL")
    shown = [width for width in view.widths if width / view.unit in (0.5, 1, 4, 16)]
    for name, label in (("mse", "reconstruction loss"), ("l1_norm", "L1 loss ‖c‖₁")):
        curves = view.against_l1(name, shown, positive=True)
        view.curves(
            f"curve-{name.replace('_', '-')}", curves, ("L1 coefficient α", label), f"The {label} along L1",
            log_x=True, log_y=True,
        )  # fmt: skip


def _without_truth(view: GridView) -> None:
    advice, best = view.advice, best_value(view.rows)
    alike = view.correlation("mmcs_with_larger", "mmcs_truth")
    view.page.section(
        "Choosing without the truth",
        f"What `monosemy advise` says of this grid, and the regret: the best MMCS on the grid ({best:.3f}) minus that "
        f"of the cell. {'Warning: ' + advice.warning + '.' if advice.warning else ''}",
        found="MMCS with larger dictionaries resembles MMCS to the truth; its peak is S4's third method.",
        measured=f"Correlation of the two over the cells where both are defined: {alike:.2f}.",
        agrees=verdict(alike > 0.5, "the two maps resemble each other"),
    )
    view.page.table([
        {"method": finding.method, "width / G": finding.width and finding.width / view.unit, "L1": finding.l1,
         "confidence": finding.confidence, "evidence": finding.evidence,
         "regret": view.regret(finding),
         "exclusive MMCS": view.value("exclusive_mmcs", cell_of(finding))}
        for finding in (*advice.findings, advice.consensus)
    ])  # fmt: skip
    view.heatmap("mmcs_with_larger", "Mean MMCS with larger dictionaries; the largest width has none: blank")
    view.heatmap("shared_with_next", "Features that the next larger width has too: what the consensus counts")


def _beyond(view: GridView, grid: Grid) -> None:
    view.page.section(
        "Copies",
        "MMCS does not see a feature that is learned twice. Exclusive MMCS matches one to one and divides by the "
        "larger number of features, so copies and junk cost.",
        found="S4 asks for a metric that sees redundant copies.",
        measured=f"Exclusive MMCS is best at {view.where('exclusive_mmcs')}; MMCS at {view.where('mmcs_truth')}.",
    )
    view.heatmap(
        "exclusive_mmcs",
        "Exclusive MMCS",
    )
    view.heatmap("redundancy", "Learned copies per recovered feature")
    at_g = view.against_l1("code_slope", [grid.unit])
    slope = view.value("code_slope", (view.best_l1(grid.unit), grid.unit))
    view.page.section(
        "Shrinkage",
        "The slope of learned on true codes: 1 where codes are as large as they should be.",
        found="In S4's comments: L1 makes codes undershoot.",
        measured=f"At width G and its best L1 the slope is {slope:.3f}." if slope is not None else "Undefined.",
        agrees=verdict(slope is not None and slope < 0.99, "codes undershoot"),
    )
    view.heatmap("code_slope", "Slope of learned on true codes: 1 is no shrinkage")
    view.heatmap("shrinkage", "Shrinkage of reconstructions: 1 is none")
    view.heatmap("l0", "Active features a row")
    view.curves(
        "slope", at_g, ("L1 coefficient α", "slope of learned on true codes"), "Shrinkage at width G", log_x=True
    )
    shown = [width for width in view.widths if width >= grid.unit]
    interim = _spread([view.best_l1(width) for width in shown])
    per_feature = _spread([view.best_l1(width) * grid.d_in / width for width in shown])
    view.page.section(
        "L1 / N, regretted",
        "The interim penalty divides the sum of codes by N. Multiplied by D / N it is the λ of a plain sum; these are "
        "the same dictionaries on both axes.",
        found="S4's author later regretted dividing by N: the right α then depends on the width.",
        measured=f"From width G up the best α spans a factor of {interim:.3g}, the best λ one of {per_feature:.3g}.",
        agrees=verdict(per_feature < interim, "λ depends less on the width"),
    )
    labels = "L1 coefficient α (interim convention)", "L1 coefficient λ = α D / N (sum convention)"
    for name, label, x in (("alpha", labels[0], None), ("lambda", labels[1], lambda a, n: a * grid.d_in / n)):
        curves = view.against_l1("mmcs_truth", shown, x)
        view.curves(
            name, curves, (label, "MMCS to the truth"), f"MMCS against {label}", log_x=True,
            references=grid.references("mmcs_truth"),
        )  # fmt: skip


def _frequency(view: GridView, grid: Grid) -> None:
    """Recovery against firing frequency at the best cell of width G."""
    truth = grid.scores.truth()
    member = view.member(view.best_l1(grid.unit), grid.unit)
    mcs_G, probability_G = truth["mcs"][member], truth["probability"]
    quarters = recovery_by_frequency(mcs_G, probability_G)
    view.page.section(
        "Which features are found",
        f"The best dictionary of width G. Mean MCS by quarters of firing probability, the rarest first: "
        f"{', '.join(f'{value:.3f}' for value in quarters)}.",
    )
    points = (probability_G.tolist(), mcs_G.tolist())
    view.page.figure(
        scatter(
            {"true features": points}, "firing probability", "MCS (largest cosine with a learned feature)", log_x=True
        ),
        "grid-frequency",
        "Recovery against firing probability",
        {"probability": points[0], "mcs": points[1]},
        view.command,
    )


def _spread(values: Sequence[float]) -> float:
    return max(values) / min(values)

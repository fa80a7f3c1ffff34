"""The other pages of the superposition study: denoising, one page each variation of the world, and a model's layers.

Verdicts are computed from the scores; none is written down beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from monosemy.metrics.scores import Scores
from monosemy.metrics.selection import advise
from monosemy.report.cells import cells_data, cells_of
from monosemy.report.grid_figures import GridView, best_cell, best_value, correlation, verdict, with_derived, zone_of
from monosemy.report.grids import ADVISED, BEST, grid_heatmap, panel
from monosemy.report.study import StudyPage
from monosemy.studies.results import Grid, Results
from monosemy.studies.superposition_grid import grid_page


def write_pages(results: Results) -> Path:
    """Write every page there is something for; the path of the first."""
    if results.denoising:
        denoising_page(results, results.denoising)
    for name in results.variations:
        variation_page(results, name)
    if results.layers:
        layers_page(results)
    return grid_page(results)


def denoising_page(results: Results, scores: Scores) -> Path:
    """S4's appendix: noise × L1 at width G."""
    rows = with_derived(scores.rows, grid=False)
    page = results.page(
        "denoising", "Denoising autoencoders", "Noise is added to the encoder's input, the target stays clean; width G."
    )
    command = results.command("denoising")
    cells = cells_of(rows, "mmcs_truth", y="noise")
    best = {noise: max(v for (_, n), v in cells.items() if n == noise and v is not None) for noise in _ys(cells)}
    spans = {noise: _zone_decades(cells, noise) for noise in best}
    noisy = max((noise for noise in best if noise > 0), key=lambda noise: best[noise])
    page.section(
        "Noise × L1",
        "Noise is the standard deviation a coordinate; 0 is the plain autoencoder.",
        found="About as good as L1 alone, over a narrower range of L1.",
        measured=f"Best MMCS without noise {best[0.0]:.3f} (zone of {spans[0.0]:.2f} decades of α), with noise "
        f"{noisy:g} {best[noisy]:.3f} ({spans[noisy]:.2f} decades).",
        agrees=verdict(best[noisy] > best[0.0] - 0.02, "about as good")
        + " "
        + verdict(spans[noisy] < spans[0.0], "narrower in its range"),
    )
    top = best_cell(rows, y="noise")
    name, level = max(results.grid.references("mmcs_truth").items(), key=lambda item: item[1])
    page.section("Over the grid", f"The best baseline on these rows: {name}, MMCS {level:.3f}.")
    for name, label in (("mmcs_truth", "MMCS to the truth"), ("dead_share", "dead features (share of width)")):
        found = cells_of(rows, name, y="noise")
        figure = grid_heatmap(found, label, best=top, y_label="noise (a coordinate)")
        page.figure(figure, f"denoising-{name.replace('_', '-')}", label, cells_data(found, best=top), command)
    return page.write()


def variation_page(results: Results, name: str) -> Path:
    """One thing changed about the world: grids side by side, and what the advice says on each."""
    plain, varied = results.plain, results.variations[name]
    assert plain is not None
    grids = {"as it is": plain, **varied}
    page = results.page(
        name,
        name.replace("-", " ").capitalize(),
        f"The same grid on worlds that differ in one thing: {results.kinds[name][0]}.",
    )
    best = {label: best_value(grid.rows) for label, grid in grids.items()}
    page.section(
        "MMCS to the truth",
        "Circle: the cell advised without the truth. Cross: the best one. Baselines are in the table below.",
        found="S4 asks for this variation.",
        measured=f"Best MMCS: {', '.join(f'{label} {value:.3f}' for label, value in best.items())}.",
        agrees=verdict(min(best.values()) > max(best.values()) - 0.05, "recovery stays within 0.05 of its best"),
    )
    for field_, label in (
        ("mmcs_truth", "MMCS to the truth"),
        ("mmcs_with_larger", "mean MMCS with larger"),
        ("dead_share", "dead features (share of width)"),
    ):
        side_by_side(page, f"{name}-{field_.replace('_', '-')}", field_, label, grids, results.command("variations"))
    rows = []
    for label, grid in grids.items():
        view = GridView(page, grid.rows, name, "", grid.unit)
        rows.append(
            {
                "world": label,
                "best MMCS": best_value(view.rows),
                "at": view.where("mmcs_truth"),
                "regret of the advice": view.regret(view.advice.consensus),
            }
            | grid.references("mmcs_truth")
        )
    page.section("In numbers", "Baselines have width G (or D, where they cannot have more); their figures are MMCS.")
    page.table(rows)
    return page.write()


def layers_page(results: Results) -> Path:
    """The plots that need no truth, on every layer of a model, beside the world."""
    world = results.plain or results.grid
    grids = {"toy world": world, **results.layers}
    page = results.page(
        "layers",
        "On a model",
        f"The same grid on {results.settings.site} of every layer of {results.settings.model}, beside the world.",
    )
    command = results.command("model")
    page.section(
        "Side by side",
        "Nobody knows the truth here: widths are multiples of D for the model, of G for the world; rows of the model "
        "are scaled to mean norm 1, and its dictionaries have a decoder bias. Circle: advised.",
        found="S4 draws the same plots for every layer's MLP of a small transformer.",
        measured=_likeness(world, results.layers),
    )
    for field_, label in (
        ("dead_share", "dead features (share of width)"),
        ("ssll", "SSLL"),
        ("mmcs_with_larger", "mean MMCS with larger"),
        ("shared_with_next", "features shared with the next width"),
    ):
        side_by_side(page, f"layers-{field_.replace('_', '-')}", field_, label, grids, command)
    page.section("Advice", "For each layer, by `monosemy advise`.")
    advice = {label: advise(grid.rows) for label, grid in grids.items()}
    page.table(
        [
            {
                "where": label,
                "method": each.method,
                "width": each.width,
                "L1": each.l1,
                "confidence": each.confidence,
                "evidence": each.evidence,
            }
            for label, found in advice.items()
            for each in (*found.findings, found.consensus)
        ]
    )
    return page.write()


def side_by_side(page: StudyPage, name: str, score: str, label: str, grids: Mapping[str, Grid], command: str) -> None:
    """One heatmap a grid, on the same axes: widths in multiples of each grid's own unit."""
    cells, marks = {}, {}
    for title, grid in grids.items():
        view = GridView(page, grid.rows, name, command, grid.unit)
        cells[title] = {(l1, width / grid.unit): value for (l1, width), value in cells_of(grid.rows, score).items()}
        marks[title] = {
            mark: (cell[0], cell[1] / grid.unit)
            for mark, cell in ((ADVISED, view.advised), (BEST, view.best))
            if cell is not None
        }
    data = {title: cells_data(found, **marks[title]) for title, found in cells.items()}
    page.figure(panel(cells, label, marks=marks, y_label="width / G (or D)"), name, label, data, command)


def _likeness(world: Grid, layers: Mapping[str, Grid]) -> str:
    """How the map of MMCS with larger on each layer correlates with the world's, cell by cell."""
    toy = {(l1, width / world.unit): v for (l1, width), v in cells_of(world.rows, "mmcs_with_larger").items()}
    found = []
    for name, grid in layers.items():
        mine = {(l1, w / grid.unit): v for (l1, w), v in cells_of(grid.rows, "mmcs_with_larger").items()}
        pairs = [(toy[cell], mine[cell]) for cell in toy if toy[cell] is not None and mine.get(cell) is not None]
        found.append(f"{name} {correlation(pairs):.2f}")
    return f"Correlation of MMCS with larger, cell by cell, with the world's: {', '.join(found)}."


def _ys(cells: Mapping[Any, Any]) -> list[float]:
    return sorted({y for _, y in cells})


def _zone_decades(cells: Mapping[Any, float | None], y: float) -> float:
    l1s = sorted(l1 for l1, other in cells if other == y)
    low, high = zone_of(l1s, [cells[l1, y] for l1 in l1s])
    return float(np.log10(high / low))

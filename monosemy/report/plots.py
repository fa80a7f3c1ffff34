"""The report's figures: each function takes plain data and gives a matplotlib Figure.

Widths differ by colour, seeds by marker, variants by line. What is undefined (None) is left out or blank, never 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.figure import INK, cell_colour, new_axes, palette, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

BLACK, WHITE = "#000000", "#ffffff"  # on heatmap cells, the same in every mode
MARKERS, LINES = "os^DvPX<>", ("-", "--", ":", "-.")


@styled
def front(rows: Sequence[Row], field: str, label: str, chosen: int | None = None) -> Figure | None:
    """`field` against L0: a line for every variant and width through the means over seeds, a marker for every seed.

    Rows without L0 or `field` are left out; None if that leaves nothing. The chosen member is circled.
    """
    figure, axes = new_axes()
    return figure if draw_front(axes, rows, field, label, chosen) else None


def draw_front(axes: Axes, rows: Sequence[Row], field: str, label: str, chosen: int | None) -> bool:
    """`front` on given axes; whether there was anything to draw."""
    rows = [row for row in rows if defined(row.get("l0")) and defined(row.get(field)) and row["l0"] > 0]
    if not rows:
        return False
    series = sorted({(str(row["variant"]), row["width"]) for row in rows})
    variants = sorted({variant for variant, _ in series})
    seeds = sorted({row["seed"] for row in rows})
    for (variant, width), colour in zip(series, palette(len(series)), strict=True):
        mine = [row for row in rows if (str(row["variant"]), row["width"]) == (variant, width)]
        x, y = np.array(_seed_means(mine, field)).T
        name = f"{variant} {width:,}" if len(variants) > 1 else f"width {width:,}"
        axes.plot(x, y, LINES[variants.index(variant) % len(LINES)], color=colour, zorder=2)
        axes.plot([], [], LINES[variants.index(variant) % len(LINES)] + "o", color=colour, label=name)
        for row in mine:
            marker = MARKERS[seeds.index(row["seed"]) % len(MARKERS)]
            axes.plot(row["l0"], row[field], marker, color=colour, zorder=3)
    for seed in seeds if len(seeds) > 1 else []:
        marker = MARKERS[seeds.index(seed) % len(MARKERS)]
        axes.plot([], [], marker, color=INK, markerfacecolor="none", label=f"seed {seed}")
    for row in rows:
        if row["member"] == chosen:
            axes.plot(row["l0"], row[field], "o", color=INK, markerfacecolor="none", markersize=12, label="chosen")
    _log_axis(axes)
    axes.set_xlabel("L0 (features active per row, log scale)")
    axes.set_ylabel(label)
    axes.grid(True)
    axes.figure.legend(loc="outside lower center", ncols=4, columnspacing=1.2, handletextpad=0.5)
    return True


@styled
def heatmap(rows: Sequence[Row], field: str, label: str, cmap: str = "viridis") -> Figure | None:
    """`field` over L1 × width, the mean over what else differs; cells where it is undefined stay blank.

    None unless the grid has at least two L1 values and two widths with something to show.
    """
    rows = [row for row in rows if defined(row.get("l1"))]
    l1s, widths = sorted({row["l1"] for row in rows}), sorted({row["width"] for row in rows})
    cells: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        if defined(row.get(field)):
            cells[l1s.index(row["l1"]), widths.index(row["width"])].append(row[field])
    if len(l1s) < 2 or len(widths) < 2 or not cells:
        return None
    figure, axes = new_axes()
    _draw_cells(figure, axes, {place: float(np.mean(values)) for place, values in cells.items()}, label, cmap)
    axes.set(xlim=(0, len(l1s)), ylim=(0, len(widths)), xlabel="L1 coefficient", ylabel="width (features)")
    axes.set_xticks(np.arange(len(l1s)) + 0.5, [f"{l1:.3g}" for l1 in l1s])
    axes.set_yticks(np.arange(len(widths)) + 0.5, [f"{width:,}" for width in widths])
    axes.tick_params(length=0)
    return figure


def _draw_cells(figure: Figure, axes: Axes, cells: Mapping[tuple[int, int], float], label: str, cmap: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_rgb
    from matplotlib.patches import Rectangle

    low, high = min(cells.values()), max(cells.values())
    for (x, y), value in cells.items():
        red, green, blue = to_rgb(cell_colour(cmap, (value - low) / ((high - low) or 1)))
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=(red, green, blue), edgecolor="none"))
        text = BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else WHITE
        if len(cells) <= 80:
            axes.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", color=text, fontsize=8)
    bar = figure.colorbar(ScalarMappable(Normalize(low, high), cmap), ax=axes, label=label)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)


@styled
def density_histogram(density: Sequence[float], dead: int, limit: float | None) -> Figure | None:
    """Living features by log10 density; beside it the dead count and `limit`, the least density that can be seen."""
    figure, axes = new_axes()
    return figure if draw_density(axes, density, dead, limit) else None


def draw_density(axes: Axes, density: Sequence[float], dead: int, limit: float | None) -> bool:
    """`density_histogram` on given axes; whether there was anything to draw."""
    alive = np.log10([value for value in density if value > 0])
    if not len(alive):
        return False
    axes.hist(alive, bins=_bins(alive), color=palette(2)[0], alpha=0.85)
    note = f"{len(alive):,} alive, {dead:,} dead"
    if limit:
        axes.axvline(np.log10(limit), color=INK, linestyle="--", linewidth=1)
        note += f"\n- - detection limit 1/tokens = {limit:.2g}"
    axes.set_title(note)
    axes.set_xlabel("log10 density (share of tokens on which a feature is active)")
    axes.set_ylabel("features")
    return True


@styled
def mcs_histogram(mcs: Sequence[float]) -> Figure | None:
    """Features by their largest cosine with a feature of the same dictionary trained from another seed."""
    if not len(mcs):
        return None
    figure, axes = new_axes()
    axes.hist(mcs, bins=list(np.linspace(min(0.0, *mcs), 1, 41)), color=palette(2)[0], alpha=0.85)
    axes.set_title(f"mean {np.mean(mcs):.3f}, {np.mean(np.array(mcs) > 0.9):.0%} of features above 0.9")
    axes.set_xlabel("MCS with the other seed (cosine)")
    axes.set_ylabel("features")
    return figure


@styled
def mcs_against_density(density: Sequence[float], mcs: Sequence[float]) -> Figure | None:
    """One dot a feature: does it come back from another seed, and how often is it active?"""
    points = [(math.log10(d), m) for d, m in zip(density, mcs, strict=True) if d > 0 and defined(m)]
    if not points:
        return None
    figure, axes = new_axes()
    x, y = np.array(points).T
    many = len(points) > 1000
    size, alpha = (2.5, 0.5) if many else (4.5, 0.7)
    axes.plot(x, y, "o", color=palette(2)[0], markersize=size, alpha=alpha, markeredgewidth=0, rasterized=many)
    axes.set_xlabel("log10 density (share of tokens on which a feature is active)")
    axes.set_ylabel("MCS with the other seed (cosine)")
    axes.grid(True)
    return figure


def defined(value: object) -> bool:
    """Whether a score is a finite number: undefined ones are None."""
    return isinstance(value, int | float) and math.isfinite(value)


def _seed_means(rows: Sequence[Row], field: str) -> list[tuple[float, float]]:
    """(L0, field) averaged over seeds, one point for each setting of the sparsity dial, in order of L0."""
    points: dict[object, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        points[row.get("l1"), row.get("k"), row.get("lr")].append((row["l0"], row[field]))
    return sorted((float(np.mean(l0)), float(np.mean(y))) for l0, y in (zip(*p, strict=True) for p in points.values()))


def _bins(values: np.ndarray) -> list[float]:
    low, high = float(values.min()), float(values.max())
    return list(np.linspace(low, high if high > low else low + 1, 41))


def _log_axis(axes: Axes) -> None:
    """Log, with 1-2-5 ticks; a range too narrow to hold some of those stays linear."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    low, high = axes.dataLim.intervalx
    if high < 3 * low:
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())

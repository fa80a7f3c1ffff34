"""Heatmaps over two settings: L1 × width, noise × L1, or any matrix, with the cells that matter marked.

Cells stand at equal steps, whatever the values (L1 and width grow by a constant factor, so their axes are logarithmic).
A cell that is undefined is left blank under a light hatch, a cell outside a panel's own grid is left empty. Colour maps
are perceptually uniform and keep their order in grey; marks are white on black, so they show on every cell.
Letters: X cells along, Y cells up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.figure import GRID, cell_colour, log_ticks, styled
from monosemy.report.cells import Cell, Cells, short, ticks, wrapped
from monosemy.report.plots import BLACK, WHITE, defined
from monosemy.runtime import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

MOST_NUMBERS = 80  # cells on a heatmap that has its numbers in them
MARKS = "ox^sDv"
ADVISED, BEST = "advised", "best by the truth"  # have the first two marks on every figure


@dataclass(frozen=True)
class Look:
    """How a heatmap is drawn and labelled."""

    label: str
    """Of the colour bar: what the values are."""
    x_label: str = "L1 coefficient α (interim convention)"
    """Of the axis along."""
    y_label: str = "width / G"
    """Of the axis up."""
    unit: float = 1
    """Rows are labelled y / `unit`: G, or 1 if y is in multiples of it already."""
    log: bool = False
    """Whether the colour scale is logarithmic."""
    limits: tuple[float, float] | None = None
    """Of the colours; by default those of the cells."""
    cmap: str = "viridis"
    """viridis or cividis."""
    hatch: bool = True
    """Whether undefined cells have a hatch."""


@styled
def grid_heatmap(
    cells: Cells,
    label: str,
    *,
    advised: Cell | None = None,
    best: Cell | None = None,
    marks: Mapping[str, Cell | None] | None = None,
    title: str = "",
    **look: Any,
) -> Figure:
    """`cells` as colours with a bar named `label`; up to MOST_NUMBERS cells have their numbers in them.

    `advised` is circled, `best` (by the truth) crossed, `marks` (name → cell) get further shapes; `look`: see Look.
    Raises UsageError if no cell is defined, a mark is off the grid, or a value on a logarithmic scale is not positive.
    """
    shown = {ADVISED: advised, BEST: best, **(marks or {})}
    return _draw({title: cells}, {title: shown}, Look(label, **look), 1)


@styled
def panel(
    grids: Mapping[str, Cells],
    label: str,
    *,
    marks: Mapping[str, Mapping[str, Cell | None]] | None = None,
    columns: int = 3,
    **look: Any,
) -> Figure:
    """Several heatmaps (title → cells) on the same axes and colours, as a toy world beside the layers of a model.

    `marks`: title → name (ADVISED, BEST or any) → cell; a name has one shape throughout. `look`: see Look.
    """
    return _draw(grids, marks or {}, Look(label, **look), columns)


@styled
def matrix(values_YX: Any, label: str, *, blank: float | None = None, **look: Any) -> Figure:
    """A plain matrix, row 0 on top, labelled by index; values equal to `blank` (as codes of 0) stay empty."""
    table = np.asarray(values_YX, dtype=float)
    cells = {(x, -y): None if table[y, x] == blank else float(table[y, x]) for y, x in np.ndindex(*table.shape)}
    settings: dict[str, Any] = {
        "x_label": "",
        "y_label": "",
        "unit": -1,
        "hatch": blank is None,
        "cmap": "cividis",
    } | look
    return _draw({"": cells}, {}, Look(label, **settings), 1)


def _draw(
    grids: Mapping[str, Cells], marks: Mapping[str, Mapping[str, Cell | None]], look: Look, columns: int
) -> Figure:
    """All heatmaps of a figure: one range of colours, one set of axes, one legend."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    values = [value for cells in grids.values() for value in cells.values() if value is not None and defined(value)]
    norm = _norm(values, look)
    write = partial(short, whole=all(float(value).is_integer() for value in values))
    xs, ys = (sorted({cell[axis] for cells in grids.values() for cell in cells}) for axis in (0, 1))
    numbers = len(xs) * len(ys) <= MOST_NUMBERS
    columns = min(columns, len(grids))
    wide = min(max(0.42 if numbers else 0.24, 2.2 / len(xs)), 5 / len(xs), 9 / columns / len(xs))  # inches of a cell
    high = min(max(0.3 if numbers else 0.24, 1.6 / len(ys)), 4.5 / len(ys), 1.2 * wide)
    rows = math.ceil(len(grids) / columns)
    names = list(dict.fromkeys([ADVISED, BEST, *(name for mine in marks.values() for name in mine)]))
    label = wrapped(look.label, rows * (high * len(ys) + 0.4))
    across = columns * (wide * len(xs) + 0.4) + 1.5 + 0.15 * label.count("\n")
    figure = Figure(figsize=(across, rows * (high * len(ys) + 0.4) + 0.9))
    places = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    blank = False
    for axes, (title, cells) in zip(places, grids.items(), strict=False):
        mine = marks.get(title, {})
        blank |= _draw_cells(axes, cells, xs, ys, norm, look, write if numbers else None, set(mine.values()))
        _draw_marks(axes, mine, names, xs, ys)
        axes.set(title=title, xlim=(0, len(xs)), ylim=(0, len(ys)))
        axes.set_xticks(*ticks(xs, 1, wide))
        axes.set_yticks(*ticks(ys, look.unit, 1.6 * high))
        axes.tick_params(length=2, labelbottom=True)
    for axes in places[len(grids) :]:
        axes.set_axis_off()
    for number, axes in enumerate(places[: len(grids)]):
        axes.set_xlabel(look.x_label if number >= len(grids) - columns else "")
        axes.set_ylabel(look.y_label if number % columns == 0 else "")
    bar = figure.colorbar(ScalarMappable(norm, look.cmap), ax=list(places), label=label, aspect=25, pad=0.02)
    if bar.solids is not None:
        bar.solids.set_rasterized(True)
    bar.outline.set_visible(False)
    if look.log:
        log_ticks(bar.ax.yaxis, *bar.ax.get_ylim())
    used = {name for mine in marks.values() for name, cell in mine.items() if cell is not None}
    _legend(figure, {name: number for number, name in enumerate(names) if name in used}, blank)
    return figure


def _norm(known: Sequence[float], look: Look) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    if not known:
        raise UsageError(
            f"`{look.label}` is undefined in every cell, so there is no heatmap of it; leave the figure out"
        )
    low, high = look.limits or (min(known), max(known))
    if look.log and low <= 0:
        raise UsageError(f"`{look.label}` (={low:g}) must be positive on a logarithmic scale; draw it with log=False")
    if low == high:
        low, high = (low / 1.1, high * 1.1) if look.log else (low - 0.5, high + 0.5)
    return LogNorm(low, high) if look.log else Normalize(low, high)


def _draw_cells(
    axes: Axes,
    cells: Cells,
    xs: Sequence[float],
    ys: Sequence[float],
    norm: Normalize,
    look: Look,
    write: Callable[[float], str] | None,
    marked: Container[Cell | None],
) -> bool:
    """The cells of one heatmap; whether any of its grid was blank. A marked cell has its number under the mark."""
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    blank = False
    for x in {x for x, _ in cells}:
        for y in {y for _, y in cells}:
            value = cells.get((x, y))
            corner = (xs.index(x), ys.index(y))
            if value is None or not defined(value):
                blank |= look.hatch
                if look.hatch:
                    axes.add_patch(Rectangle(corner, 1, 1, **blank_style()))
                continue
            colour = cell_colour(look.cmap, float(np.clip(norm(value), 0, 1)))
            axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor=colour, linewidth=0.3))
            if write:
                red, green, blue = to_rgb(colour)
                ink = BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else WHITE
                under = (x, y) in marked
                place = (corner[0] + 0.5, corner[1] + (0.15 if under else 0.5))
                axes.annotate(write(value), place, ha="center", va="center", color=ink, fontsize=6 if under else 7)
    return blank


def blank_style() -> dict[str, Any]:
    """How a cell with no value looks: no fill, a light hatch."""
    return {"facecolor": "none", "edgecolor": GRID, "linewidth": 0, "hatch": "/////", "alpha": 0.55}


def _draw_marks(
    axes: Axes, mine: Mapping[str, Cell | None], names: Sequence[str], xs: Sequence[float], ys: Sequence[float]
) -> None:
    for name, cell in mine.items():
        if cell is None:
            continue
        if cell[0] not in xs or cell[1] not in ys:
            raise UsageError(f"the cell marked {name!r} (={cell}) is not on the grid; mark one of its cells")
        for style in _mark(names.index(name)):
            axes.plot(xs.index(cell[0]) + 0.5, ys.index(cell[1]) + 0.5, **style)


def _mark(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A mark's two layers: black, and white within it."""
    shape = {"marker": MARKS[number % len(MARKS)], "markersize": 9 - 2.5 * (number > 0), "linestyle": "none"}
    shape |= {"markerfacecolor": "none", "clip_on": False}
    return (
        shape | {"markeredgecolor": BLACK, "markeredgewidth": 3.4, "zorder": 3 + number},
        shape | {"markeredgecolor": WHITE, "markeredgewidth": 1.5, "zorder": 3.5 + number},
    )


def _legend(figure: Figure, names: Mapping[str, int], blank: bool) -> None:
    """What each mark (name → number) means, and a blank cell."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries: dict[str, Any] = {
        name: tuple(Line2D([], [], **style) for style in _mark(number)) for name, number in names.items()
    }
    if blank:
        entries["undefined"] = Patch(**blank_style())
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=4,
            columnspacing=1.6,
            handler_map={tuple: HandlerTuple(ndivide=1)},
        )

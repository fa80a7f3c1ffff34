"""A chart, said before it is drawn: marks, labels and scales, without a colour or a library.

An analysis says what its pictures hold. matplotlib draws them here, for files and notebooks; the page draws the same
charts with plotly from their JSON. Where a value is None or not finite there is a gap, never a 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.figure import GRID, INK, new_axes, palette, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Number = float | None


@dataclass(frozen=True)
class Bars:
    """One bar a label, along x; for tokens and other names. `low` and `high`: an interval at each, as a whisker."""

    labels: Sequence[str]
    values: Sequence[Number]
    name: str = ""
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    mark: str = "bars"


@dataclass(frozen=True)
class Curve:
    """Points joined by a line, in the order of x. `low` and `high`: an interval around it, shaded."""

    x: Sequence[Number]
    y: Sequence[Number]
    name: str = ""
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    mark: str = "curve"


@dataclass(frozen=True)
class Points:
    """Points alone. `texts`: what a reader learns of each on pointing at it. `ring`: rings in ink, around others."""

    x: Sequence[Number]
    y: Sequence[Number]
    name: str = ""
    texts: Sequence[str] = ()
    ring: bool = False
    mark: str = "points"


@dataclass(frozen=True)
class Histogram:
    """`counts` between neighbouring `edges` (one more than counts)."""

    edges: Sequence[float]
    counts: Sequence[Number]
    name: str = ""
    mark: str = "histogram"


@dataclass(frozen=True)
class Heat:
    """A value a cell; row i belongs to `rows[i]`, column j to `columns[j]`."""

    values: Sequence[Sequence[Number]]
    rows: Sequence[str]
    columns: Sequence[str]
    name: str = ""
    mark: str = "heat"


Mark = Bars | Curve | Points | Histogram | Heat
MARKS: Mapping[str, type[Mark]] = {
    "bars": Bars, "curve": Curve, "points": Points, "histogram": Histogram, "heat": Heat
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """Marks on one pair of axes. `name` is for file names: letters, digits and dashes."""

    name: str
    title: str
    x_label: str
    y_label: str
    marks: Sequence[Mark]
    log_x: bool = False
    log_y: bool = False


def chart_of(plain: Mapping[str, Any]) -> Chart:
    """The chart that JSON holds."""
    return Chart(**{**plain, "marks": [MARKS[mark["mark"]](**mark) for mark in plain["marks"]]})


@styled
def figure_of(chart: Chart) -> Figure:
    """The chart as a matplotlib figure."""
    figure, axes = new_axes()
    axes.set(title=chart.title, xlabel=chart.x_label, ylabel=chart.y_label)
    axes.set(xscale="log" if chart.log_x else "linear", yscale="log" if chart.log_y else "linear")
    for number, (mark, colour) in enumerate(zip(chart.marks, palette(len(chart.marks)), strict=True)):
        _draw(axes, mark, colour, number, len(chart.marks))
    if sum(bool(mark.name) for mark in chart.marks) > 1:
        axes.legend()
    return figure


def _draw(axes: Axes, mark: Mark, colour: str, number: int, count: int) -> None:
    if isinstance(mark, Bars):
        _bars(axes, mark, colour, number, count)
    elif isinstance(mark, Curve):
        axes.plot(_numbers(mark.x), _numbers(mark.y), color=colour, label=mark.name)
        if mark.low:
            low, high = _numbers(mark.low), _numbers(mark.high)
            axes.fill_between(_numbers(mark.x), low, high, color=colour, alpha=0.18, linewidth=0)
    elif isinstance(mark, Points) and mark.ring:
        x, y = _numbers(mark.x), _numbers(mark.y)
        axes.plot(x, y, "o", color=INK, markerfacecolor="none", markersize=10, label=mark.name)
    elif isinstance(mark, Points):
        axes.plot(_numbers(mark.x), _numbers(mark.y), "o", markersize=3, alpha=0.6, color=colour, label=mark.name)
    elif isinstance(mark, Histogram):
        axes.stairs(_numbers(mark.counts), mark.edges, fill=count == 1, color=colour, label=mark.name)
    else:
        _heat(axes, mark)


def _bars(axes: Axes, mark: Bars, colour: str, number: int, count: int) -> None:
    places, width = np.arange(len(mark.labels)), 0.8 / count
    middles = places + (number - (count - 1) / 2) * width
    axes.bar(middles, _numbers(mark.values), width, color=colour, label=mark.name)
    if mark.low:
        low, high = _numbers(mark.low), _numbers(mark.high)
        style: dict[str, Any] = {"fmt": "none", "ecolor": INK, "elinewidth": 0.9, "capsize": 2}
        axes.errorbar(middles, (low + high) / 2, (high - low) / 2, **style)
    axes.set_xticks(places, [visible(label) for label in mark.labels], rotation=60, ha="right", fontsize=7)
    axes.axhline(0, color=INK, linewidth=0.6)
    axes.grid(True, axis="y", color=GRID)


def _heat(axes: Axes, mark: Heat) -> None:
    values = np.array([_numbers(row) for row in mark.values])
    image: Any = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest")
    axes.set_xticks(range(len(mark.columns)), [visible(label) for label in mark.columns], rotation=60, ha="right")
    axes.set_yticks(range(len(mark.rows)), [visible(label) for label in mark.rows])
    axes.figure.colorbar(image, ax=axes, label=mark.name)


def visible(text: str) -> str:
    """A token's text with its blanks and line ends to be seen: ␣ for a leading or trailing blank, ⏎, ⇥, \\x00."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown)
    inner = shown.strip(" ")
    if not inner:
        return "␣" * len(shown)
    lead = len(shown) - len(shown.lstrip(" "))
    return "␣" * lead + inner + "␣" * (len(shown) - lead - len(inner))


def _numbers(values: Sequence[Number]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)

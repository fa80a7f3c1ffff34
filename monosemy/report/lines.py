"""Curves with their intervals, points and bars; several series told apart by colour, marker and line.

A short list of series is named beside the ends of its curves, a longer one in a legend. Levels to compare with (PCA,
random directions, ...) are dashed lines across, each with its name. What is undefined (None) is a gap, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.figure import GRID, INK, log_ticks, new_axes, palette, styled
from monosemy.report.cells import multiple
from monosemy.report.plots import LINES, MARKERS
from monosemy.runtime import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float | None], ...]  # x, y and, for an interval, low and high
MOST_DIRECT = 6  # series that are named beside their ends
LONGEST = 20  # letters of such a name
GAP = 0.062  # least distance of two names, in heights of the axes


@styled
def lines(
    series: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    zone: tuple[float, float, str] | None = None,
    references: Mapping[str, float] | None = None,
    x_ticks: Sequence[float] | None = None,
    title: str = "",
) -> Figure:
    """A curve a series, given as (x, y) or (x, y, low, high); the interval low to high is shaded.

    `zone`: (from, to, name) on x, shaded: the Goldilocks zone. `references`: name → level. `x_ticks`: the
    only ticks on x, labelled as multiples: ¼, ½, 1, 2. Raises UsageError if no series has a defined point.
    """
    if not any(_known(curve[1]).size for curve in series.values()):
        raise UsageError(f"`{y_label}` is undefined everywhere, so there is no curve of it; leave the figure out")
    figure, axes = new_axes()
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    if zone:
        axes.axvspan(zone[0], zone[1], color=GRID, alpha=0.22, linewidth=0, zorder=0)
        middle = float(np.sqrt(zone[0] * zone[1])) if log_x else (zone[0] + zone[1]) / 2
        axes.annotate(
            zone[2],
            (middle, 1),
            (0, -3),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
        )
    ends = {}
    for number, (name, colour) in enumerate(zip(series, palette(len(series)), strict=True)):
        x, y, *interval = (np.array(values, dtype=float) for values in series[name])
        style: dict[str, Any] = {"color": colour, "linestyle": LINES[number % len(LINES)], "label": name}
        axes.plot(x, y, marker=MARKERS[number % len(MARKERS)] if len(x) <= 40 else None, markersize=4, **style)
        if interval:
            axes.fill_between(x, interval[0], interval[1], color=colour, alpha=0.18, linewidth=0)
        if np.isfinite(y).any():
            ends[name] = (float(y[np.isfinite(y)][-1]), colour)
    levels = dict.fromkeys(references or {}, INK)
    _references(axes, references or {})
    axes.grid(True)
    _scales(axes, log_x and x_ticks is None, log_y)
    if x_ticks is not None:
        axes.set_xticks(x_ticks, [multiple(tick) for tick in x_ticks])
        axes.set_xticks([], minor=True)
    if 1 < len(series) <= MOST_DIRECT and max(map(len, series)) <= LONGEST:
        _name(axes, ends | {name: ((references or {})[name], colour) for name, colour in levels.items()})
    else:
        _name(axes, {name: ((references or {})[name], colour) for name, colour in levels.items()})
        _legend(axes, series if len(series) > 1 else ())
    return figure


@styled
def scatter(
    series: Mapping[str, Curve],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    references: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """A point a pair, as each true feature's recovery against how often it fires. Raises UsageError without any."""
    if not any(_known(curve[1]).size for curve in series.values()):
        raise UsageError(f"`{y_label}` is undefined everywhere, so there are no points; leave the figure out")
    figure, axes = new_axes()
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    many = sum(len(curve[0]) for curve in series.values()) > 1000
    for number, (name, colour) in enumerate(zip(series, palette(len(series)), strict=True)):
        x, y = (np.array(values, dtype=float) for values in series[name][:2])
        style: dict[str, Any] = {
            "marker": MARKERS[number % len(MARKERS)],
            "markersize": 2.5 if many else 4,
            "label": name,
        }
        axes.plot(x, y, color=colour, linestyle="none", alpha=0.6, markeredgewidth=0, rasterized=many, **style)
    _references(axes, references or {})
    _name(axes, {name: (level, INK) for name, level in (references or {}).items()})
    axes.grid(True)
    _scales(axes, log_x, log_y)
    _legend(axes, series if len(series) > 1 else ())
    return figure


@styled
def bars(
    series: Mapping[str, Sequence[float | None]],
    categories: Sequence[str],
    y_label: str,
    *,
    intervals: Mapping[str, Sequence[tuple[float, float] | None]] | None = None,
    references: Mapping[str, float] | None = None,
    x_label: str = "",
    title: str = "",
) -> Figure:
    """A bar for every category and series (of one value a category), with `references` (name → level) drawn across.

    `intervals`: series → (low, high) a category. An undefined bar is left out.
    """
    figure, axes = new_axes()
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    width, places = 0.8 / len(series), np.arange(len(categories))
    for number, (name, colour) in enumerate(zip(series, palette(len(series)), strict=True)):
        x = places + (number - (len(series) - 1) / 2) * width
        heights = np.array(series[name], dtype=float)
        axes.bar(x, np.nan_to_num(heights), 0.92 * width, color=colour, alpha=0.9, label=name)
        for place, interval in zip(x, (intervals or {}).get(name, ()), strict=False):
            if interval is not None:
                axes.plot([place, place], interval, "-_", color=INK, linewidth=1, markersize=6)
    few = len(categories) <= 12
    step = 1 if few else -(-len(categories) // 12)
    slanted = few and max(map(len, categories)) * len(categories) > 60
    axes.set_xticks(
        places[::step], categories[::step], rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_xlim(-0.6, len(categories) - 0.4)
    _references(axes, references or {})
    _name(axes, {name: (level, INK) for name, level in (references or {}).items()})
    _legend(axes, series if len(series) > 1 else ())
    return figure


def _known(values: Sequence[float | None]) -> np.ndarray:
    found = np.array(values, dtype=float)
    return np.asarray(found[np.isfinite(found)])


def _references(axes: Axes, references: Mapping[str, float]) -> None:
    for level in references.values():
        axes.axhline(level, color=INK, linestyle=(0, (4, 3)), linewidth=0.9, zorder=1)


def _name(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names right of the axes at the heights of their curves, moved apart where they would overlap."""
    if not ends:
        return
    to_axes = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    heights = {name: float(to_axes.transform((left, y))[1]) for name, (y, _) in ends.items()}
    order = sorted(heights, key=lambda name: heights[name])
    placed = np.array([heights[name] for name in order])
    for _ in range(200):  # neighbours push each other apart by half of what they lack
        lack = np.clip(GAP - np.diff(placed), 0, None) / 2
        if lack.max(initial=0) < 1e-4:
            break
        placed[:-1] -= lack
        placed[1:] += lack
    for name, height in zip(order, placed, strict=True):
        axes.plot(
            [1.005, 1.03],
            [heights[name], height],
            "-",
            transform=axes.transAxes,
            color=ends[name][1],
            linewidth=0.7,
            clip_on=False,
        )
        axes.annotate(name, (1.04, height), xycoords="axes fraction", color=ends[name][1], fontsize=8, va="center")


def _scales(axes: Axes, log_x: bool, log_y: bool) -> None:
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        if log:
            log_ticks(axis, *axis.get_view_interval())


def _legend(axes: Axes, names: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    if names:
        columns = max(1, min(4, 60 // (max(map(len, names)) + 6)))
        axes.figure.legend(
            [found[name] for name in names], list(names), loc="outside lower center", ncols=columns, columnspacing=1.4
        )

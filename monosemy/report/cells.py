"""The cells of a grid of settings: out of a table of scores, into a figure's data, and how their axes are labelled."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from monosemy.figure import power
from monosemy.report.plots import defined

Cell = tuple[float, float]  # (x, y), as in (L1, width)
Cells = Mapping[Cell, float | None]

LETTER = 0.073  # inches of a letter of 9 pt, on average
VULGAR = {Fraction(1, 2): "½", Fraction(1, 4): "¼", Fraction(3, 4): "¾", Fraction(1, 8): "⅛"}


def cells_of(
    rows: Sequence[Mapping[str, Any]], field: str, x: str = "l1", y: str = "width"
) -> dict[Cell, float | None]:
    """(x, y) → the mean of `field` over what else differs among the rows; None where no row has it defined."""
    found: dict[Cell, list[float]] = defaultdict(list)
    for row in rows:
        values = found[row[x], row[y]]
        if defined(row.get(field)):
            values.append(row[field])
    return {cell: float(np.mean(values)) if values else None for cell, values in found.items()}


def cells_data(cells: Cells, **marks: Cell | None) -> dict[str, Any]:
    """The cells as data for a figure's JSON: rows of {x, y, value}, and the marked cells."""
    rows = [{"x": x, "y": y, "value": value if defined(value) else None} for (x, y), value in cells.items()]
    return {"cells": rows} | {name: cell if cell is None else list(cell) for name, cell in marks.items()}


def ticks(values: Sequence[float], unit: float, inches: float) -> tuple[list[float], list[str]]:
    """Places (middles of cells) and labels of an axis whose cells are `inches` long; labelled are as many as fit.

    On a grid of even parts of a decade, as 10^(e/4), those are the whole powers of ten.
    """
    shares = [value / unit + 0.0 for value in values]
    decades = np.log10(shares) if min(shares) > 0 else np.zeros(0)
    tens = [n for n, decade in enumerate(decades) if abs(decade - round(decade)) < 1e-6]
    step = max(1, math.ceil(0.38 / inches))
    if step > 1 and len(tens) > 1 and tens[1] - tens[0] > 2 and np.allclose(np.diff(decades, n=2), 0, atol=1e-6):
        labels = {n: power(shares[n]) for n in tens}
    else:
        labels = {n: multiple(shares[n]) for n in range((len(shares) - 1) % step if unit < 0 else 0, len(shares), step)}
    return [n + 0.5 for n in labels], list(labels.values())


def wrapped(label: str, inches: float) -> str:
    """A label of 9 pt in lines no longer than `inches`."""
    return "\n".join(textwrap.wrap(label, max(12, int(inches / LETTER)), break_long_words=False))


def multiple(value: float) -> str:
    """A width in multiples of G, or an L1: ¼, 1, 32, 0.0316."""
    return VULGAR.get(Fraction(value)) or (f"{value:,.0f}" if value == round(value) else f"{value:.3g}")


def short(value: float, whole: bool = False) -> str:
    """A number that fits into a cell; `whole`: without decimals, for cells that all hold whole numbers."""
    if whole:
        return f"{value:,.0f}"
    return f"{value:.2f}" if 0.01 <= abs(value) < 10 or value == 0 else f"{value:.2g}" if value < 1 else f"{value:,.0f}"

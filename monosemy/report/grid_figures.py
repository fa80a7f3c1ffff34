"""The figures of one scored L1 × width grid, on a page of a study: S4's set, and what has been asked of it since.

Every figure marks the cell that was advised without the truth, and the best one by the truth where there is one.
Rows are those of `evaluate`; derived here are the share of dead features, SSLL, and L1 in the two conventions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.metrics.selection import Advice, Finding, Table, advise, ssll
from monosemy.report.cells import Cell, cells_data, cells_of
from monosemy.report.grids import grid_heatmap
from monosemy.report.lines import lines
from monosemy.report.plots import defined
from monosemy.report.study import StudyPage

Rows = Sequence[Mapping[str, Any]]
Curve = tuple[Sequence[float], Sequence[float | None]]

ZONE = 0.05  # the Goldilocks zone: MMCS within this of its best

# field: (label, options of the heatmap)
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "mmcs_truth": ("MMCS to the truth", {}),
    "exclusive_mmcs": ("exclusive MMCS (copies and junk cost)", {}),
    "redundancy": ("learned copies per recovered feature", {"cmap": "cividis"}),
    "dead_share": ("dead features (share of width)", {"cmap": "cividis", "limits": (0, 1)}),
    "mse": ("reconstruction loss (mean over D)", {"log": True, "cmap": "cividis"}),
    "l1_norm": ("L1 loss ‖c‖₁ (mean over rows)", {"log": True, "cmap": "cividis"}),
    "ssll": ("SSLL", {}),
    "mmcs_with_larger": ("mean MMCS with larger dictionaries", {}),
    "shared_with_next": ("features shared with the next larger width", {"cmap": "cividis"}),
    "code_slope": ("slope of learned on true codes", {}),
    "shrinkage": ("E‖x̂‖² / E⟨x, x̂⟩ (1 = no shrinkage)", {}),
    "l0": ("L0 (active features a row)", {"log": True, "cmap": "cividis"}),
}


@dataclass(frozen=True)
class GridView:
    """A grid, where it is shown, and what is marked on it."""

    page: StudyPage
    rows: Rows
    prefix: str
    command: str
    unit: int
    """Widths are labelled in multiples of it: G, or D where nobody knows G."""
    y_label: str = "width / G"

    @property
    def advice(self) -> Advice:
        """What the grid advises without the truth."""
        return advise(self.rows)

    @property
    def advised(self) -> Cell | None:
        """The cell of the consensus, as (L1, width); None where there is none."""
        return cell_of(self.advice.consensus)

    @property
    def best(self) -> Cell | None:
        """The cell of the largest MMCS to the truth; None where nobody knows it."""
        return best_cell(self.rows)

    def heatmap(self, field: str, caption: str) -> None:
        """One field over L1 × width; no figure of a field that is undefined everywhere."""
        label, look = FIELDS[field]
        if not any(defined(row.get(field)) for row in self.rows):
            return
        cells = {
            cell: value if not look.get("log") or (value or 0) > 0 else None
            for cell, value in cells_of(self.rows, field).items()
        }
        figure = grid_heatmap(
            cells, label, advised=self.advised, best=self.best, unit=self.unit, y_label=self.y_label, **look
        )
        name = f"{self.prefix}-{field.replace('_', '-')}"
        data = cells_data(cells, advised=self.advised, best=self.best)
        self.page.figure(figure, name, caption, data, self.command)

    def curves(
        self,
        name: str,
        series: Mapping[str, Curve],
        labels: tuple[str, str],
        caption: str,
        **look: Any,
    ) -> None:
        """Lines, with their data."""
        figure = lines(series, *labels, **look)
        data = {"x": labels[0], "y": labels[1]} | {key: {"x": xs, "y": ys} for key, (xs, ys) in series.items()}
        self.page.figure(figure, f"{self.prefix}-{name}", caption, data, self.command)

    @property
    def widths(self) -> list[int]:
        """Widths of the grid, ascending."""
        return sorted({row["width"] for row in self.rows})

    def against_l1(
        self, field: str, widths: Sequence[int], x: Callable[[float, int], float] | None = None, positive: bool = False
    ) -> dict[str, Curve]:
        """A curve of `field` against L1 (or against what `x` makes of L1 and width) for each width.

        With `positive`, values of 0 are undefined, as a logarithmic axis wants them.
        """
        cells = cells_of(self.rows, field)
        found: dict[str, Curve] = {}
        for width in widths:
            l1s = sorted(l1 for l1, other in cells if other == width)
            ys = [cells[l1, width] for l1 in l1s]
            ys = [None if positive and y is not None and y <= 0 else y for y in ys]
            found[f"width {width / self.unit:g}×"] = ([x(l1, width) if x else l1 for l1 in l1s], ys)
        return found

    def value(self, field: str, cell: Cell | None) -> float | None:
        """One field of one cell; None without a cell, or where it is undefined."""
        return None if cell is None else cells_of(self.rows, field).get(cell)

    def regret(self, finding: Finding) -> float | None:
        """The best MMCS to the truth minus that of the cell a finding names; None where it names none."""
        reached = self.value("mmcs_truth", cell_of(finding))
        return None if reached is None else best_value(self.rows) - reached

    def best_l1(self, width: int, field: str = "mmcs_truth") -> float:
        """The L1 at which a field is largest, at one width."""
        cells = {l1: v for (l1, other), v in cells_of(self.rows, field).items() if other == width and v is not None}
        return max(cells, key=lambda l1: cells[l1])

    def where(self, field: str) -> str:
        """The cell of a field's largest value, in words."""
        cell = best_cell(self.rows, field)
        return "no cell" if cell is None else f"α = {cell[0]:.3g}, width {cell[1] / self.unit:g}×"

    def member(self, l1: float, width: int) -> int:
        """The number of the first member with this L1 and width."""
        return next(int(row["member"]) for row in self.rows if (row["l1"], row["width"]) == (l1, width))

    def correlation(self, a: str, b: str) -> float:
        """Pearson's, of two fields over the cells in which both are defined; NaN for fewer than three or no spread."""
        first, second = cells_of(self.rows, a), cells_of(self.rows, b)
        pairs = [(first[c], second[c]) for c in first if first[c] is not None and second.get(c) is not None]
        return correlation(pairs)

    def on_both_sides(self, field: str) -> tuple[float, float]:
        """Mean of a field over the cells below, and above, the best L1 of their width (by the truth)."""
        best = {width: self.best_l1(width) for width in self.widths}
        below = [row[field] for row in self.rows if row["l1"] < best[row["width"]] and row[field] is not None]
        above = [row[field] for row in self.rows if row["l1"] > best[row["width"]] and row[field] is not None]
        return float(np.mean(below)) if below else 0.0, float(np.mean(above)) if above else 0.0


def correlation(pairs: Sequence[tuple[float | None, float | None]]) -> float:
    """Pearson's correlation of pairs; NaN for fewer than three, or where one side does not vary."""
    values_P2 = np.array(pairs, dtype=float).reshape(-1, 2)
    if len(values_P2) < 3 or (values_P2.std(axis=0) == 0).any():
        return float("nan")
    return float(np.corrcoef(values_P2.T)[0, 1])


def with_derived(rows: Rows, grid: bool = True) -> list[dict[str, Any]]:
    """The rows with `dead_share` and, on a grid of L1 × width, `ssll`; without members whose training failed."""
    rows = [row for row in rows if not row.get("failure")]
    if not grid:
        return [{**row, "dead_share": row["dead"] / row["width"]} for row in rows]
    table = Table(rows)
    values_WL = ssll(table)
    found = []
    for row in rows:
        value = float(values_WL[table.widths.index(row["width"]), table.l1s.index(row["l1"])])
        found.append({**row, "dead_share": row["dead"] / row["width"], "ssll": value if np.isfinite(value) else None})
    return found


def best_cell(rows: Rows, field: str = "mmcs_truth", y: str = "width") -> Cell | None:
    """The (L1, `y`) of the largest value of a field; None where it is defined nowhere."""
    known = {cell: value for cell, value in cells_of(rows, field, y=y).items() if value is not None}
    return max(known, key=lambda cell: known[cell]) if known else None


def cell_of(finding: Finding) -> Cell | None:
    """The (L1, width) that a finding names; None where it names none."""
    return None if finding.l1 is None or finding.width is None else (finding.l1, finding.width)


def best_value(rows: Rows, field: str = "mmcs_truth") -> float:
    """The largest value of a field on the grid. Raises ValueError if it is defined nowhere."""
    return float(max(row[field] for row in rows if row.get(field) is not None))


def zone_of(l1s: Sequence[float], values: Sequence[float | None]) -> tuple[float, float]:
    """The run of L1 values around the best one in which the value stays within ZONE of it: the Goldilocks zone."""
    scores = [float("-inf") if value is None else value for value in values]
    best = max(range(len(scores)), key=lambda i: scores[i])
    low = high = best
    while low > 0 and scores[low - 1] >= scores[best] - ZONE:
        low -= 1
    while high + 1 < len(scores) and scores[high + 1] >= scores[best] - ZONE:
        high += 1
    return l1s[low], l1s[high]


def best_by_width(rows: Rows, field: str = "mmcs_truth") -> tuple[list[int], list[float]]:
    """For each width, the best value of a field over L1."""
    cells = cells_of(rows, field)
    known = {cell: value for cell, value in cells.items() if value is not None}
    widths = sorted({int(width) for _, width in known})
    return widths, [max(value for (_, w), value in known.items() if w == width) for width in widths]


def verdict(agrees: bool, what: str) -> str:
    """Whether what was measured agrees with what the source says, in words."""
    return f"Agrees: {what}." if agrees else f"Differs; not so here: {what}."

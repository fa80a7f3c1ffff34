"""Choosing a dictionary of a grid: which to look at first, and which L1 and width are right without knowing the truth.

`choose` picks a member of any scored grid: of those that keep the model's loss, the one that another seed confirms.
`advise` answers S4's question on an L1 × width grid, by its three methods:

1. no dead features: the largest width that has L1 values without dead features, and there the largest such L1;
2. loss stickiness: the peak of SSLL, log reconstruction loss + log L1 loss, each standardised over the grid;
3. agreement: the peak of MMCS with larger dictionaries of the same L1, undefined for the largest width.

Each names a cell with its evidence and a confidence. Regret, on worlds whose truth is known, is the best MMCS to the
truth on the grid minus that of the advised cell; `benchmarks/advice.py` prints it for each method and the consensus.

Shapes: W widths, L values of L1. Undefined cells are NaN. Source: SCIENCE.md §3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monosemy.runtime import UsageError

Rows = Sequence[Mapping[str, Any]]
Place = tuple[int, int]  # of a width and an L1 in their sorted lists

KEEP = 0.9
NEAR = 0.05  # where none keeps that much: how far below the best is still good
SAID = {"ce_recovered": "CE recovered", "explained_variance": "explained variance"}
FAR_WIDTH, FAR_L1 = 4.0, 10**0.5  # factors beyond which two cells disagree
PLATEAU = 0.75  # share of the largest count of shared features that is as good as it


@dataclass(frozen=True)
class Finding:
    """The cell that a method names; None where it names none."""

    method: str
    width: int | None
    l1: float | None
    confidence: float
    """From 0 to 1: how clearly the cell stands out, as the evidence says."""
    evidence: str

    @property
    def found(self) -> bool:
        """Whether the method names a cell at all."""
        return self.width is not None


@dataclass(frozen=True)
class Advice:
    """What each method found, the consensus, and a warning where they disagree (empty where they do not)."""

    findings: tuple[Finding, ...]
    consensus: Finding
    warning: str


class Table:
    """Scores over widths × L1, means over what else differs (seeds). Rows without an L1, and of members
    whose training failed, are left out."""

    def __init__(self, rows: Rows) -> None:
        self._rows = [row for row in rows if row.get("l1") is not None and not row.get("failure")]
        self.widths: list[int] = sorted({row["width"] for row in self._rows})
        self.l1s: list[float] = sorted({row["l1"] for row in self._rows})
        if len(self.widths) < 2 or len(self.l1s) < 3:
            raise UsageError(
                f"advice needs a grid of at least 2 widths and 3 values of L1, these scores have {len(self.widths)} "
                f"and {len(self.l1s)}; train a grid such as --width 256 512 1024 --l1 0.01 0.03 0.1 0.3"
            )

    def field(self, name: str) -> np.ndarray:
        """The mean of a score in every cell, [W, L]; NaN where it is undefined."""
        cells: dict[Place, list[float]] = {}
        for row in self._rows:
            if row.get(name) is not None:
                cells.setdefault((self.widths.index(row["width"]), self.l1s.index(row["l1"])), []).append(row[name])
        values_WL = np.full((len(self.widths), len(self.l1s)), np.nan)
        for place, found in cells.items():
            values_WL[place] = np.mean(found)
        return values_WL

    def finding(self, method: str, place: Place, confidence: float, evidence: str) -> Finding:
        """The finding of the cell at this place."""
        return Finding(method, self.widths[place[0]], self.l1s[place[1]], float(confidence), evidence)


def ssll(table: Table) -> np.ndarray:
    """Sum of the standardised log losses, [W, L]: each has mean 0 and deviation 1 over the defined cells (S4)."""
    total_WL = np.zeros((len(table.widths), len(table.l1s)))
    for name in ("mse", "l1_norm"):
        loss_WL = table.field(name)
        log_WL = np.log(np.where(loss_WL > 0, loss_WL, np.nan))
        defined = log_WL[~np.isnan(log_WL)]
        if not len(defined):
            return np.full_like(total_WL, np.nan)
        spread = defined.std()
        total_WL += (log_WL - defined.mean()) / (spread if spread > 0 else 1.0)
    return total_WL


def advise(rows: Rows, variant: str | None = None) -> Advice:
    """What S4's three methods say of scored L1 × width cells, and a consensus that settles it.

    What settles it is a fourth count: how many features of a dictionary has the next larger one of the same L1 too
    (`shared_with_next`)? Method 3 takes the mean over a dictionary's features instead, which favours narrow
    dictionaries that share a few; SSLL favours narrow ones for their losses. Shared features are neither lost in junk
    (small L1) nor merged (large L1). The consensus is, at the width that shares the most, the middle of the plateau of
    L1 that shares at least PLATEAU of that, and the larger one of the two widths that share. `variant` chooses one
    where the scores hold several. Raises UsageError for scores without a grid of L1 × width, or without
    `shared_with_next`.
    """
    rows = [row for row in rows if row.get("l1") is not None and variant in (None, row.get("variant"))]
    kinds = list(dict.fromkeys(str(row.get("variant")) for row in rows))
    if len(kinds) > 1:
        raise UsageError(f"these scores hold several variants ({', '.join(kinds)}); name one with --variant {kinds[0]}")
    table = Table(rows)
    shared_WL = table.field("shared_with_next")
    if np.isnan(shared_WL).all():
        raise UsageError("these scores have no `shared_with_next`; run `monosemy evaluate` again with this version")
    findings = (_no_dead(table), _stickiness(table), _agreement(table))
    consensus = _consensus(table, shared_WL)
    return Advice(findings, consensus, _warning(table, findings, consensus))


def _no_dead(table: Table) -> Finding:
    """Method 1."""
    alive_WL = table.field("dead") == 0
    if not alive_WL.any():
        return Finding("no dead features", None, None, 0.0, "every dictionary of the grid has dead features")
    width = int(np.flatnonzero(alive_WL.any(axis=1)).max())
    l1 = int(np.flatnonzero(alive_WL[width]).max())
    consistent = np.mean(np.concatenate([alive_WL[width, : l1 + 1], ~alive_WL[width, l1 + 1 :]]))
    evidence = f"of {consistent:.0%} of the L1 values at this width it is true that features die above it and not below"
    return table.finding("no dead features", (width, l1), consistent, evidence)


def _stickiness(table: Table) -> Finding:
    """Method 2, at the largest width: across widths SSLL follows the reconstruction, worst for the narrowest."""
    score_L = ssll(table)[-1]
    places = np.flatnonzero(~np.isnan(score_L))  # at a large L1 all codes can be 0, and the log of their sum undefined
    if not len(places):
        return Finding("loss stickiness", None, None, 0.0, "the losses of the largest width are undefined")
    score_L = score_L[places]
    peak = int(score_L.argmax())
    inside = 0 < peak < len(score_L) - 1
    span = float(score_L.max() - score_L.min())
    drop = score_L[peak] - max(score_L[:peak].min(), score_L[peak + 1 :].min()) if inside else 0.0
    evidence = (
        f"SSLL peaks here at {score_L[peak]:.2f}, and falls by at least {drop:.2f} on both sides"
        if inside
        else f"SSLL is largest at an edge of where it is defined ({score_L[peak]:.2f}): that is no peak"
    )
    place = (len(table.widths) - 1, int(places[peak]))
    return table.finding("loss stickiness", place, drop / span if span > 0 else 0.0, evidence)


def _agreement(table: Table) -> Finding:
    """Method 3."""
    mmcs_WL = table.field("mmcs_with_larger")
    place = _argmax(mmcs_WL)
    peak, middle = float(mmcs_WL[place]), float(np.nanmedian(mmcs_WL))
    evidence = f"MMCS with larger dictionaries is {peak:.3f} here, {middle:.3f} in the middle of the grid"
    return table.finding("MMCS with larger", place, (peak - middle) / (1 - middle) if middle < 1 else 0.0, evidence)


def _consensus(table: Table, shared_WL: np.ndarray) -> Finding:
    width, peak = _argmax(shared_WL)
    count, alive = float(shared_WL[width, peak]), float(table.field("alive")[width, peak])
    if count == 0:
        return Finding("consensus", None, None, 0.0, "no two widths share a feature: train longer, or other L1 values")
    low = high = peak
    while low > 0 and shared_WL[width, low - 1] >= PLATEAU * count:
        low -= 1
    while high + 1 < shared_WL.shape[1] and shared_WL[width, high + 1] >= PLATEAU * count:
        high += 1
    evidence = (
        f"width {table.widths[width]:,} shares up to {count:.0f} of its {alive:.0f} live features with this one, "
        f"and at least {PLATEAU:.0%} of that for L1 {table.l1s[low]:.3g} to {table.l1s[high]:.3g}"
    )
    place = (width + 1, (low + high + 1) // 2)
    return table.finding("consensus", place, min(1.0, count / alive) if alive else 0.0, evidence)


def _warning(table: Table, findings: Sequence[Finding], consensus: Finding) -> str:
    """What to be careful about, in words; empty if nothing."""
    if consensus.width is None or consensus.l1 is None:
        return "there is no consensus: " + consensus.evidence
    apart = [
        f"{finding.method} names width {finding.width:,}, L1 {finding.l1:.3g}"
        for finding in findings
        if finding.width is not None
        and finding.l1 is not None
        and (_ratio(finding.width, consensus.width) > FAR_WIDTH or _ratio(finding.l1, consensus.l1) > FAR_L1)
    ]
    found = [f"the methods disagree: {'; '.join(apart)}"] if apart else []
    if consensus.l1 in (table.l1s[0], table.l1s[-1]):
        found.append(f"L1 {consensus.l1:.3g} is at the edge of the grid: train beyond it")
    if len(table.widths) > 2 and consensus.width == table.widths[-1]:
        found.append(f"width {consensus.width:,} is the largest of the grid: wider ones may share more")
    return ". ".join(found)


def _ratio(a: float, b: float) -> float:
    if a == b:
        return 1.0  # of two L1s of 0, too
    return max(a, b) / min(a, b) if min(a, b) > 0 else float("inf")


def _argmax(values_WL: np.ndarray) -> Place:
    """The place of the largest defined value; of several, the narrowest and, there, of least L1."""
    width, l1 = np.unravel_index(int(np.nanargmax(values_WL)), values_WL.shape)
    return int(width), int(l1)


def choose(scores: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The chosen member's number and the reason, in words. `scores` are rows of `evaluate`, at least one that is of a
    member whose training did not fail."""
    scores = [row for row in scores if not row.get("failure")]
    kept = "ce_recovered" if any(row["ce_recovered"] is not None for row in scores) else "explained_variance"
    best_kept = max(_value(row, kept) for row in scores)
    floor = KEEP if best_kept >= KEEP else best_kept - NEAR
    good = [row for row in scores if _value(row, kept) >= floor]
    best = max(good, key=lambda row: (_value(row, "mmcs_other_seed"), -row["l0"]))
    agreement = best["mmcs_other_seed"]
    which = f"with {SAID[kept]} ≥ {floor:.2f}" + ("" if floor == KEEP else f" (none reaches {KEEP})")
    why = (
        f"the one whose features agree best with another seed's (MMCS {agreement:.3f})"
        if agreement is not None
        else "the one with the lowest L0"
    )
    return int(best["member"]), f"of the {len(good)} {which}, {why}"


def _value(row: Mapping[str, Any], name: str) -> float:
    value = row[name]
    return float("-inf") if value is None else float(value)

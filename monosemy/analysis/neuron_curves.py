"""Do features say anything that the neuron basis does not? S1's curves over many features, beside controls.

For each feature its top examples, one a document, and how many neurons are above t on all of them (`neurons.py`); and
the same for directions that know nothing of features:

- identity: neurons drawn at random. A neuron is above much of its own maximum on its own top examples, so these curves
  end at 1 and more; features whose curves look like that are neurons;
- pca: the first principal directions;
- random: random directions.

All top examples, with the activations of all neurons at their peaks, and the neurons' ranges are found in one pass over
the tokens; some evenly spaced rows are read before, for the principal directions and the mean.

Shapes: X tokens, E examples, D neurons, C directions, H thresholds, 3 senses, Q quartiles.
Source: S1; SCIENCE.md §5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from monosemy.analysis.chart import Chart, Curve
from monosemy.analysis.examples import TopExamples
from monosemy.analysis.firings import Block, Window
from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import LEVELS, NeuronRange, Piece, pieces
from monosemy.analysis.neurons import SENSES, coordinates_of, neurons_above
from monosemy.analysis.result import Result, Table
from monosemy.analysis.scan import rows_within
from monosemy.data.rows import ArrayRows
from monosemy.dictionaries.baselines import pca, random_directions
from monosemy.runtime import Progress, UsageError, generator_for

FEATURES = 50  # S1's
CONTROLS = ("identity", "pca", "random")
CONTROL_TOKENS = 8192  # that the principal directions and the mean are taken over
QUARTILES = (0.25, 0.5, 0.75)
Encode = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class NeuronCurves(Result):
    """Neurons above thresholds on all top examples, for features and for controls."""

    name: ClassVar[str] = "neuron-curves"
    coordinates: str
    """What the neurons are."""
    examples: int
    """Top examples of each direction."""
    thresholds: list[float]
    directions: dict[str, list[int]]
    """The numbers of the features, and of the directions of each control."""
    left_out: dict[str, int]
    """How many more fire in fewer documents than there should be examples."""
    above: dict[str, torch.Tensor]
    """`count_C3H`: for each of `directions`, sense and threshold the number of neurons."""

    def table(self) -> Table:
        """A row for each origin, sense and threshold: mean and quartiles over the directions."""
        columns = ["of", "sense", "threshold", "mean", "lower_quartile", "median", "upper_quartile", "directions"]
        rows = [
            [origin, sense, threshold, *summary, len(count_C3H)]
            for origin, count_C3H in self.above.items()
            for number, sense in enumerate(SENSES)
            for threshold, summary in zip(self.thresholds, _summary(count_C3H[:, number]), strict=True)
        ]
        return Table(columns, rows)

    def charts(self) -> list[Chart]:
        """One for each sense: the mean of each origin against the threshold, with its quartiles."""
        return [self._chart(number, sense) for number, sense in enumerate(SENSES)]

    def _chart(self, number: int, sense: str) -> Chart:
        marks = []
        for origin, count_C3H in self.above.items():
            mean, low, _, high = zip(*_summary(count_C3H[:, number]), strict=True)
            marks.append(Curve(self.thresholds, mean, f"{origin} ({len(count_C3H)})", low, high))
        title = f"Neurons above t ({sense}) on all {self.examples} top examples: mean and quartiles"
        return Chart(sense, title, "threshold t", self.coordinates, marks)


def neuron_curves(
    lab: Lab,
    features: Sequence[int] | None = None,
    *,
    controls: Sequence[str] = CONTROLS,
    directions: int | None = None,
    examples: int = 10,
    max_tokens: int | None = None,
    seed: int = 0,
) -> NeuronCurves:
    """The curves of some features (default: the 50 with the largest MCS in the lab's index, where it knows another
    seed, else the 50 that fire most) and of `directions` of each control (default: as many), over `max_tokens` tokens.

    A control has no more directions than the site has coordinates, but for "random". `seed` draws the neurons and the
    random directions. Raises UsageError for an unknown feature or control, or no features and no index.
    """
    if unknown := sorted(set(controls) - set(CONTROLS)):
        raise UsageError(f"`controls` (={', '.join(unknown)}) must be of {', '.join(CONTROLS)}")
    for name, count in (("examples", examples), ("directions", directions)):
        if count is not None and count < 1:
            raise UsageError(f"`{name}` (={count}) must be at least 1")
    chosen = _leading(lab) if features is None else [lab.checked(feature) for feature in features]
    if not chosen:
        raise UsageError("`features` is empty; name at least one")
    numbers, encoders = {"features": chosen}, {"features": lambda x_XD: lab.encode(x_XD, chosen)}
    for name, (found, encode) in _controls(lab, controls, directions or len(chosen), seed).items():
        numbers[name], encoders[name] = found, encode

    tops = {name: _Peaks(lab, len(found), examples) for name, found in numbers.items()}
    ranges, rows = (
        NeuronRange(lab.model.width_of(lab.site), lab.model.device, seed),
        rows_within(lab.tokens, max_tokens),
    )
    with Progress("neuron curves", lab.tokens.count_tokens(rows), unit="tokens") as bar:
        for piece in pieces(lab, rows):
            ranges.add(piece)
            for name, encode in encoders.items():
                tops[name].add(piece, encode(piece.x_XD))
            bar.advance(len(piece.x_XD))
    quantile_HD = ranges.quantiles()
    above = {name: top.above(ranges.max_D, quantile_HD) for name, top in tops.items()}
    kept = {name: [numbers[name][place] for place in top.full()] for name, top in tops.items()}
    left_out = {name: len(numbers[name]) - len(kept[name]) for name in numbers}
    return NeuronCurves(coordinates_of(lab), examples, list(LEVELS), kept, left_out, above)


def _leading(lab: Lab) -> list[int]:
    """The alive features that are most alike in another seed; where none is known, those that fire most."""
    if lab.index is None:
        raise UsageError("choosing features needs their index: name some, or open the lab with index=")
    alive = [row for row in lab.index.table() if not row["dead"]]
    by = "density" if any(row["mcs_other_seed"] is None for row in alive) else "mcs_other_seed"
    return [int(row["id"]) for row in sorted(alive, key=lambda row: (-row[by], row["id"]))[:FEATURES]]


def _controls(lab: Lab, names: Sequence[str], count: int, seed: int) -> dict[str, tuple[list[int], Encode]]:
    """The numbers of each control's directions, and what gives their codes."""
    device, d_in = lab.model.device, lab.model.width_of(lab.site)
    found: dict[str, tuple[list[int], Encode]] = {}
    if "identity" in names:
        drawn = torch.randperm(d_in, generator=generator_for("identity control", seed))[:count].sort().values.tolist()
        found["identity"] = drawn, lambda x_XD: x_XD[:, drawn]
    if {"pca", "random"} & set(names):
        spread = lab.tokens.spread(range(lab.tokens.n_rows), max(1, CONTROL_TOKENS // lab.tokens.context))
        rows = ArrayRows(torch.cat([piece.x_XD for piece in pieces(lab, spread)]).cpu())
        for name in (name for name in ("pca", "random") if name in names):
            one = pca(rows, min(count, d_in)) if name == "pca" else random_directions(rows, count, seed)
            found[name] = list(range(one.width)), one.to(device).encode
    return found


class _Peaks:
    """The top examples of some directions, one a document, with all neurons' activations at their peaks."""

    def __init__(self, lab: Lab, directions: int, examples: int) -> None:
        device = lab.model.device
        self._top = TopExamples(directions, Window(0, 0), device, examples, lab.tokens.doc_starts_D)
        self._offset_P = torch.empty(0, dtype=torch.int64, device=device)
        self._x_PD = torch.empty(0, lab.model.width_of(lab.site), device=device)

    def add(self, piece: Piece, codes_XC: torch.Tensor) -> None:
        """Look through a piece, and keep the activations at what are now the top examples."""
        place_X = torch.zeros_like(piece.offset_X)  # windows of one token: there is nothing around it
        self._top.add(Block.of(codes_XC.float(), piece.offset_X, place_X, torch.ones_like(place_X)))
        offset_P = torch.cat([self._offset_P, piece.offset_X])
        kept_P = torch.isin(offset_P, self._top.best.offset_NE).nonzero().squeeze(1)
        old_P, new_P = kept_P[kept_P < len(self._x_PD)], kept_P[kept_P >= len(self._x_PD)] - len(self._x_PD)
        self._offset_P, self._x_PD = offset_P[kept_P], torch.cat([self._x_PD[old_P], piece.x_XD[new_P]])

    def full(self) -> list[int]:
        """The directions that have as many examples as they should."""
        return (self._top.best.offset_NE[:, -1] >= 0).nonzero().squeeze(1).tolist()

    def above(self, max_D: torch.Tensor, quantile_HD: torch.Tensor) -> torch.Tensor:
        """`count_C3H` of those directions."""
        counts = [
            neurons_above(self._x_PD[torch.searchsorted(self._offset_P, offset_E)], max_D, quantile_HD)
            for offset_E in self._top.best.offset_NE[self.full()]
        ]
        empty = torch.zeros(0, len(SENSES), len(LEVELS), dtype=torch.int64, device=max_D.device)
        return torch.stack(counts) if counts else empty


def _summary(count_CH: torch.Tensor) -> list[tuple[float | None, ...]]:
    """Mean and quartiles for each threshold; None where there is no direction."""
    if not len(count_CH):
        return [(None, None, None, None)] * count_CH.shape[1]
    levels = torch.tensor(QUARTILES, dtype=torch.float64, device=count_CH.device)
    quartiles_QH = count_CH.double().quantile(levels, dim=0)
    return list(zip(count_CH.double().mean(dim=0).tolist(), *quartiles_QH.tolist(), strict=True))

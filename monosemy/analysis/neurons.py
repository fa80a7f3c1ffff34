"""Is the feature in the neuron basis already? S1's comparison of one feature with the neurons.

For the feature's top examples (one a document), the activation of every neuron at the token where the feature peaks.
A neuron that *is* the feature is active on all of them, so count the neurons above a threshold on **all** examples, for
t = 0, 0.1, …, 1. A threshold is met in three senses:

- absolute: x > t, as S1 has it;
- maximum: x > t · (the neuron's own maximum over the corpus), for neurons that are ever above 0;
- quantile: x > the neuron's own t-quantile over the corpus (at t = 1 its maximum, which nothing passes).

Beside this, the feature's direction times its largest activation over the coordinates that it writes, and the verdict
of `verdict.py`. "Neurons" are the coordinates of the site that the dictionary reads: neurons at `mlp_act`, coordinates
of the stream elsewhere.

Shapes: E examples, B rows, C context, D neurons, O width of the site that is written, H thresholds, 3 senses.
Source: S1; SCIENCE.md §5.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

import torch

from monosemy.analysis.chart import Chart, Curve, Points
from monosemy.analysis.lab import Batch, Lab
from monosemy.analysis.moments import LEVELS, Moments, feature_moments
from monosemy.analysis.result import Result, Table
from monosemy.analysis.verdict import Evidence, neuron_verdicts
from monosemy.runtime import UsageError

SENSES = ("absolute", "maximum", "quantile")


@dataclass(frozen=True)
class NeuronComparison(Result):
    """One feature beside the neurons."""

    name: ClassVar[str] = "neuron-comparison"
    feature: int
    coordinates: str
    """What the neurons are: "neurons of layers.2.mlp_act", or "coordinates of …"."""
    offsets: list[int]
    """The places of the examples' peaks in the token stream, strongest first."""
    thresholds: list[float]
    above: dict[str, list[int]]
    """How many neurons are above each threshold on all examples, for each sense."""
    lowest_D: torch.Tensor
    """Each neuron's smallest activation over the examples."""
    max_D: torch.Tensor
    """Its maximum over the corpus."""
    written_O: torch.Tensor
    """The feature's direction times its largest activation, over the coordinates of the site that it writes."""
    evidence: Evidence
    """The verdict, and what it rests on."""

    def table(self) -> Table:
        """A row a neuron; where the written site is another one, the last column is of its coordinates."""
        lowest, largest, written = self.lowest_D.tolist(), self.max_D.tolist(), self.written_O.tolist()
        share = [low / top if top > 0 else None for low, top in zip(lowest, largest, strict=True)]
        columns = (lowest, largest, share, written)
        names = ["neuron", "lowest_on_examples", "maximum", "lowest_share_of_maximum", "direction_times_maximum"]
        return Table(names, [[number, *row] for number, row in enumerate(zip_longest(*columns))])

    def charts(self) -> list[Chart]:
        """The counts against the threshold; the feature's vector over the neurons."""
        counts = [Curve(self.thresholds, self.above[sense], sense) for sense in SENSES]
        title = f"Neurons above t on all {len(self.offsets)} top examples of feature {self.feature}"
        numbers, values = list(range(len(self.written_O))), self.written_O.tolist()
        vector = Points(numbers, values, texts=[f"{number}: {value:.3g}" for number, value in enumerate(values)])
        return [
            Chart("above", title, "threshold t", self.coordinates, counts),
            Chart("vector", f"Feature {self.feature} × its maximum", "coordinate", "written at most", [vector]),
        ]


def neuron_comparison(
    lab: Lab,
    feature: int,
    *,
    examples: int = 10,
    moments: Moments | None = None,
    max_tokens: int | None = None,
) -> NeuronComparison:
    """One feature beside the neurons, on its `examples` top examples in the lab's index (fewer where it has fewer).

    The neurons' ranges, and what the verdict needs, are in `moments`, or gathered here over `max_tokens` tokens
    (default: all); gathered once for all features, they serve every one. Raises UsageError for an unknown feature, one
    that never fires, a lab without an index, or too few tokens for a verdict.
    """
    if examples < 1:
        raise UsageError(f"`examples` (={examples}) must be at least 1")
    largest = lab.maximum(feature)
    assert lab.index is not None, "there is no maximum without an index"
    found = feature_moments(lab, [feature], max_tokens) if moments is None else moments
    offsets = [example.offset for example in lab.index.feature(feature).examples["top"][:examples]]
    x_ED = peak_activations(lab, torch.tensor(offsets))
    max_D = torch.maximum(found.max_D, x_ED.amax(dim=0))
    above_3H = neurons_above(x_ED, max_D, found.quantile_QD)
    written_O = lab.dictionary.W_dec_ND[feature] * largest
    (evidence,) = neuron_verdicts(lab, [feature], moments=found).evidence
    counts = dict(zip(SENSES, above_3H.tolist(), strict=True))
    return NeuronComparison(
        feature, coordinates_of(lab), offsets, list(LEVELS), counts, x_ED.amin(dim=0), max_D, written_O, evidence
    )


def coordinates_of(lab: Lab) -> str:
    """What the coordinates of the site that the dictionary reads are."""
    return f"{'neurons' if lab.site.endswith('mlp_act') else 'coordinates'} of {lab.site}"


def peak_activations(lab: Lab, offset_E: torch.Tensor) -> torch.Tensor:
    """The site's activations at places of the token stream, `x_ED`, each with its own row before it."""
    row_E = torch.searchsorted(lab.tokens.row_starts_R, offset_E, right=True) - 1
    batch = lab.tokens.batch(row_E)
    x_ECD = lab.x(Batch(batch.ids_BC, batch.mask_BC))
    place_E = (offset_E - batch.offset_B).to(x_ECD.device)
    return x_ECD[torch.arange(len(place_E), device=x_ECD.device), place_E]


def neurons_above(x_ED: torch.Tensor, max_D: torch.Tensor, quantile_HD: torch.Tensor) -> torch.Tensor:
    """How many neurons are above each of LEVELS on all examples, `count_3H`, in each of SENSES."""
    level_H1 = torch.tensor(LEVELS, device=x_ED.device)[:, None]
    lowest_D = x_ED.amin(dim=0)
    own_HD = torch.where(max_D > 0, level_H1 * max_D, torch.inf)
    return torch.stack([(lowest_D > limit).sum(dim=1) for limit in (level_H1, own_HD, quantile_HD)])

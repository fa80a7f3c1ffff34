"""Whether a feature looks meaningful by automatic criteria: its firings agree more than those of random directions.

S1 asks how many of the features that no other dictionary has still mean something. The rule: of a uniform sample of the
feature's firings (the index's "quantile" examples, EXAMPLES of them, of at least DOCUMENTS documents)

- `peaks`, the share of pairs that fire on the same token, or
- `contexts`, the mean over pairs of the overlap |A ∩ B| / |A ∪ B| of the sets of the REACH tokens before,

is above what CHANCE / 2 of random directions reach, each thresholded to fire as often as the median living feature.
Top examples would not do: the strongest ones of any direction agree (on stories260K those of every random direction
agreed beyond random windows of text). The rule is held against itself on other random directions, of which about CHANCE
should pass, and against single neurons at the same density.

Left out: what a reader sees at once and no count of equal tokens does (synonyms, topics), so shares are too low.

Shapes: X rows, N directions, D = d_in, E examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from monosemy.analysis.coactivation import blocks_of
from monosemy.analysis.examples import SampledExamples
from monosemy.analysis.feature import Example, FeatureIndex
from monosemy.analysis.firings import Window
from monosemy.analysis.lab import Lab
from monosemy.analysis.scan import rows_within, scan
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.runtime import Progress, generator_for

DOCUMENTS, EXAMPLES, REACH = 5, 15, 8
CHANCE = 0.05
CONTROLS = 200  # random directions that set the bar, as many that are held against it, at most as many neurons
FEATURES_AT_ONCE = 64
TOKENS, SAMPLE = 100_000, 20_000  # that controls are looked for in; rows that their thresholds are found on


@dataclass(frozen=True)
class Place:
    """A firing: its token, those before it, and its document."""

    peak: str
    context: tuple[str, ...]
    document: str


@dataclass(frozen=True)
class Look:
    """What the examples of one feature show."""

    meaningful: bool | None
    example: str | None
    """The strongest one, its peak in «»; None where there is none."""


@dataclass(frozen=True)
class Controls:
    """Shares of what should not look meaningful and does, or might."""

    random: float
    """Of random directions that had no part in the bar."""
    neurons: float
    """Of single neurons."""


@dataclass
class Bar:
    """What random directions reach, by how many of their firings are compared."""

    of_random: Sequence[Sequence[Place]]
    _limits: dict[int, tuple[float, float]] = field(default_factory=dict)

    def limits(self, count: int) -> tuple[float, float]:
        """`peaks` and `contexts` that CHANCE / 2 of the random directions exceed (inf where there are none)."""
        if count not in self._limits:
            found = [agreement(places[:count]) for places in self.of_random if len(places) >= count]
            exceeding = int(len(found) * CHANCE / 2)
            ranked = [sorted(values, reverse=True) for values in zip(*found, strict=True)] or [[torch.inf]] * 2
            self._limits[count] = ranked[0][exceeding], ranked[1][exceeding]
        return self._limits[count]

    def meaningful(self, places: Sequence[Place]) -> bool:
        """The rule."""
        places = places[:EXAMPLES]
        if len({place.document for place in places}) < DOCUMENTS:
            return False
        peaks, contexts = agreement(places)
        most_peaks, most_contexts = self.limits(len(places))
        return peaks > most_peaks or contexts > most_contexts


def agreement(places: Sequence[Place]) -> tuple[float, float]:
    """`peaks` and `contexts` of some firings; 0 for fewer than two."""
    pairs = list(combinations([(place.peak, set(place.context)) for place in places], 2))
    peaks = sum(one[0] == other[0] for one, other in pairs)
    contexts = sum(len(one[1] & other[1]) / max(len(one[1] | other[1]), 1) for one, other in pairs)
    return peaks / max(len(pairs), 1), contexts / max(len(pairs), 1)


def looks_of(index: FeatureIndex, bar: Bar | None) -> list[Look]:
    """A look at every feature of an index; without a bar nothing is said of meaning."""
    looks: list[Look] = []
    with Progress("examples", index.n_features, unit="features") as bar_shown:
        for start in range(0, index.n_features, FEATURES_AT_ONCE):
            end = min(start + FEATURES_AT_ONCE, index.n_features)
            tops = index.examples("top", start, end, most=1)
            sampled = [[]] * len(tops) if bar is None else index.examples("quantile", start, end)
            for top, sample in zip(tops, sampled, strict=True):
                sound = None if bar is None else bar.meaningful([_place(example) for example in sample])
                looks.append(Look(sound, _marked(top[0]) if top else None))
            bar_shown.advance(end - start)
    return looks


def controls(lab: Lab, index: FeatureIndex) -> tuple[Bar, Controls]:
    """The bar, from random directions at the lab's site, and what else passes it."""
    x_XD = torch.cat(list(blocks_of(lab, SAMPLE, "sample")))
    random_ND = torch.randn(2 * CONTROLS, x_XD.shape[1], generator=generator_for("meaning"))
    wide = x_XD.shape[1]
    neurons_ND = torch.eye(wide)[[i * wide // min(CONTROLS, wide) for i in range(min(CONTROLS, wide))]]
    density = sorted(row["density"] for row in index.table() if not row["dead"])
    usual = density[len(density) // 2] if density else 0.0
    places = _firings(lab, torch.cat([random_ND, neurons_ND]).to(x_XD.device), x_XD, usual)
    bar = Bar(places[:CONTROLS])
    passed = [bar.meaningful(own) for own in places[CONTROLS:]]
    random, neurons = passed[:CONTROLS], passed[CONTROLS:]
    return bar, Controls(sum(random) / len(random), sum(neurons) / len(neurons))


def _firings(lab: Lab, W_ND: Tensor, x_XD: Tensor, density: float) -> list[list[Place]]:
    """A uniform sample of the firings of directions that each fire on this share of the rows."""
    rank = min(int(density * len(x_XD)), len(x_XD) - 1)
    threshold_N = (x_XD @ W_ND.T).sort(dim=0, descending=True).values[rank]
    directions = ReluDictionary({"W_enc": W_ND, "b_enc": -threshold_N, "W_dec": W_ND})
    store = lab.tokens
    sampled = SampledExamples(len(W_ND), Window(0, 0), lab.model.device, EXAMPLES, seed=0)
    skip = store.edges.bos if lab.skip_bos else None
    scan(lab.model, directions, store, lab.site, rows_within(store, TOKENS), [sampled], None, skip)
    offset_NE = sampled.best.offset_NE.cpu()
    document_NE = store.documents_of(offset_NE)
    return [
        [_stored(lab, o, d) for o, d in zip(offsets, documents, strict=True) if o >= 0]
        for offsets, documents in zip(offset_NE.tolist(), document_NE.tolist(), strict=True)
    ]


def _place(example: Example) -> Place:
    before = example.tokens[max(0, example.peak - REACH) : example.peak]
    return Place(example.tokens[example.peak], tuple(before), example.document)


def _stored(lab: Lab, offset: int, document: int) -> Place:
    """The place at an offset of the token stream."""
    store = lab.tokens
    row = int(torch.searchsorted(store.row_starts_R, offset, right=True)) - 1
    first = max(int(store.row_starts_R[row]), offset - REACH)
    *before, peak = lab.texts.sequence(store.tokens_T[first : offset + 1].tolist())
    return Place(peak, tuple(before), str(document))


def _marked(example: Example) -> str:
    marked = [f"«{token}»" if place == example.peak else token for place, token in enumerate(example.tokens)]
    return "".join(marked).strip()

"""Whether a feature looks meaningful by automatic criteria: its firings agree more than those of random directions.

S1 asks how many of the features that no other dictionary has still mean something. The rule: of a uniform sample of the
feature's firings (the index's "quantile" examples, EXAMPLES of them, of at least DOCUMENTS documents)

- `peaks`, the share of pairs that fire on the same token, or
- `contexts`, the mean over pairs of the overlap |A ∩ B| / |A ∪ B| of the sets of the REACH tokens before,

is above what CHANCE / 2 of random directions exceed that fire as often. How often decides: the rarer the firings of a
random direction, the more they agree. So the living features are cut into BANDS bands of equal size by density, and
every band has its own bar, of random directions at the densities of its features. Top examples would not do: the
strongest ones of any direction agree. The rule is held against itself on other random directions, of which about
CHANCE should pass, and against single neurons, each at a density of one of the bands.

Left out: what a reader sees at once and no count of equal tokens does (synonyms, topics), so shares are too low; a
feature too rare for a random direction like it to fire as often in TOKENS tokens as it was sampled never passes.

Shapes: X rows, N directions or features, D = d_in, E examples, W = REACH + 1 tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, cycle, pairwise

import torch
from torch import Tensor

from monosemy.analysis.coactivation import blocks_of
from monosemy.analysis.examples import SampledExamples
from monosemy.analysis.feature import Example, FeatureIndex
from monosemy.analysis.firings import Window
from monosemy.analysis.lab import Lab
from monosemy.analysis.scan import rows_within, scan, tokens_around
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics.interval import Share
from monosemy.runtime import Progress, generator_for

DOCUMENTS, EXAMPLES, REACH = 5, 15, 8
CHANCE = 0.05
BANDS = 8
SET, HELD = 119, 60  # random directions of a band that set its bar (3 of 120 are CHANCE / 2), and that are held to it
GOLDEN = (5**0.5 - 1) / 2
FEATURES_AT_ONCE = 64
TOKENS, SAMPLE = 500_000, 20_000  # that directions are looked for in; rows that their thresholds are found on


@dataclass(frozen=True)
class Place:
    """A firing: its token, those before it in its row, and its document."""

    peak: int
    context: frozenset[int]
    document: int


@dataclass(frozen=True)
class Controls:
    """Shares of what should not look meaningful and does, or might, over all bands: they hold equally many features."""

    random: Share
    """Of random directions that had no part in the bars."""
    neurons: Share
    """Of single neurons."""


@dataclass
class Bar:
    """What random directions of one density reach, by how many of their firings are compared."""

    of_random: Sequence[Sequence[Place]]
    _limits: dict[int, tuple[float, float]] = field(default_factory=dict)

    def limits(self, count: int) -> tuple[float, float]:
        """`peaks` and `contexts` that another random direction exceeds with probability CHANCE / 2 each.

        That is the k-th largest of n, with k / (n + 1) = CHANCE / 2; inf where so few fire `count` times that k < 1.
        """
        if count not in self._limits:
            found = [agreement(places[:count]) for places in self.of_random if len(places) >= count]
            rank = int((len(found) + 1) * CHANCE / 2 + 1e-9)
            ranked = [sorted(values, reverse=True) for values in zip(*found, strict=True)]
            self._limits[count] = (ranked[0][rank - 1], ranked[1][rank - 1]) if rank else (torch.inf, torch.inf)
        return self._limits[count]

    def meaningful(self, places: Sequence[Place]) -> bool:
        """The rule, on EXAMPLES of the places, evenly chosen where there are more."""
        size = min(EXAMPLES, len(places))
        places = [places[i * len(places) // size] for i in range(size)]
        if len({place.document for place in places}) < DOCUMENTS:
            return False
        peaks, contexts = agreement(places)
        most_peaks, most_contexts = self.limits(size)
        return peaks > most_peaks or contexts > most_contexts


@dataclass(frozen=True)
class Bands:
    """A bar for every density."""

    largest: Sequence[float]
    """The largest density in each band, in order."""
    bars: Sequence[Bar]

    def bar(self, density: float) -> Bar:
        """The bar of the band in which a density lies."""
        return self.bars[min(bisect_left(self.largest, density), len(self.bars) - 1)]


def agreement(places: Sequence[Place]) -> tuple[float, float]:
    """`peaks` and `contexts` of some firings; 0 for fewer than two."""
    pairs = list(combinations(places, 2))
    peaks = sum(one.peak == other.peak for one, other in pairs)
    contexts = sum(len(one.context & other.context) / max(len(one.context | other.context), 1) for one, other in pairs)
    return peaks / max(len(pairs), 1), contexts / max(len(pairs), 1)


def strongest(index: FeatureIndex) -> list[str | None]:
    """Every feature's strongest example, its peak in «»; None where there is none."""
    texts: list[str | None] = []
    for start in range(0, index.n_features, FEATURES_AT_ONCE):
        tops = index.examples("top", start, min(start + FEATURES_AT_ONCE, index.n_features), most=1)
        texts += [_marked(top[0]) if top else None for top in tops]
    return texts


def judged(lab: Lab, index: FeatureIndex, bands: Bands) -> list[bool]:
    """Whether each feature of the index looks meaningful, by the bar of its own density; no dead one does."""
    density = [row["density"] for row in index.table()]
    offset_NE = index.offsets("quantile")
    found: list[bool] = []
    with Progress("meaning", index.n_features, unit="features") as shown:
        for offset_BE in torch.split(offset_NE, FEATURES_AT_ONCE):
            for places in places_at(lab.tokens, offset_BE):
                found.append(bool(places) and bands.bar(density[len(found)]).meaningful(places))
            shown.advance(len(offset_BE))
    return found


def bands_of(lab: Lab, index: FeatureIndex) -> tuple[Bands, Controls]:
    """The bars, from random directions at the lab's site, and what else passes them."""
    living = sorted(row["density"] for row in index.table() if not row["dead"])
    cuts = [i * len(living) // BANDS for i in range(BANDS + 1)]
    bands = [living[start:end] for start, end in pairwise(cuts) if end > start]
    if not bands:
        return Bands([], []), Controls(Share.of(0, 0), Share.of(0, 0))
    x_XD = torch.cat(list(blocks_of(lab, SAMPLE, "sample")))
    n, wide = len(bands), x_XD.shape[1]
    random_ND = torch.randn(n * (SET + HELD), wide, generator=generator_for("meaning"))
    neurons = min(wide, n * HELD)
    W_ND = torch.cat([random_ND, torch.eye(wide)[torch.arange(neurons) * wide // neurons]])
    # Direction i is in band i % n, at the density of one of its features; any run of them is evenly spread over these.
    turns = zip(range(len(W_ND)), cycle(bands), strict=False)
    density_N = [own[int(i // n * GOLDEN % 1 * len(own))] for i, own in turns]
    places = firings(lab, W_ND.to(x_XD.device), x_XD, density_N, min(index.n_tokens, TOKENS))
    bars = [Bar(places[number : n * SET : n]) for number in range(n)]
    passed = [bar.meaningful(own) for bar, own in zip(cycle(bars), places[n * SET :], strict=False)]
    shares = [Share.of(sum(kind), len(kind)) for kind in (passed[: n * HELD], passed[n * HELD :])]
    return Bands([own[-1] for own in bands], bars), Controls(*shares)


def firings(lab: Lab, W_ND: Tensor, x_XD: Tensor, density_N: Sequence[float], tokens: int) -> list[list[Place]]:
    """A uniform sample of the firings of directions, each of which fires on its own share of the rows."""
    rank_N = (torch.tensor(density_N, dtype=torch.float64) * len(x_XD)).long().clamp_max(len(x_XD) - 1)
    ranked = (W_ND, rank_N.to(x_XD.device))
    pieces = zip(*(torch.split(each, FEATURES_AT_ONCE) for each in ranked), strict=True)
    threshold_N = torch.cat(
        [(x_XD @ W_BD.T).sort(dim=0, descending=True).values.gather(0, rank_B[None])[0] for W_BD, rank_B in pieces]
    )
    directions = ReluDictionary({"W_enc": W_ND, "b_enc": -threshold_N, "W_dec": W_ND})
    sampled = SampledExamples(len(W_ND), Window(0, 0), lab.model.device, EXAMPLES, seed=0)
    skip = lab.tokens.edges.bos if lab.skip_bos else None
    scan(lab.model, directions, lab.tokens, lab.site, rows_within(lab.tokens, tokens), [sampled], None, skip)
    return places_at(lab.tokens, sampled.best.offset_NE.cpu())


def places_at(store: TokenStore, offset_NE: Tensor) -> list[list[Place]]:
    """The places at offsets of the token stream, a list a row; −1 is none."""
    window_NEW = tokens_around(store, offset_NE, Window(REACH, 0)).tolist()
    document_NE = store.documents_of(offset_NE).tolist()
    return [
        [
            Place(tokens[-1], frozenset(token for token in tokens[:-1] if token >= 0), document)
            for offset, document, tokens in zip(*own, strict=True)
            if offset >= 0
        ]
        for own in zip(offset_NE.tolist(), document_NE, window_NEW, strict=True)
    ]


def _marked(example: Example) -> str:
    marked = [f"«{token}»" if place == example.peak else token for place, token in enumerate(example.tokens)]
    return "".join(marked).strip()

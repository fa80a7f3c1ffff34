"""Whether a feature looks meaningful by automatic criteria: its firings agree more than those of random directions.

S1 asks how many of the features that no other dictionary has still mean something. The rule: of a uniform sample of the
feature's firings (the index's "quantile" examples, EXAMPLES of them, of at least DOCUMENTS documents)

- `peaks`, the share of pairs that fire on the same token, or
- `contexts`, the mean over pairs of the overlap |A ∩ B| / |A ∪ B| of the sets of the REACH tokens before,

is above what CHANCE / 2 of random directions exceed that fire as often. How often decides: the rarer the firings of a
random direction, the more they agree. So the living features are cut into BANDS bands of equal size by density, and
every band has its own bar, of random directions at the densities of its features. Top examples would not do: the
strongest ones of any direction agree. The rule is held against itself on other random directions, of which about
CHANCE should pass, and against single neurons, each at a density of one of the bands. The intervals of shares hold the
chance that is in the bars as well as that of the features (`meaning_bars.py`).

Left out: what a reader sees at once and no count of equal tokens does (synonyms, topics), so shares are too low; a
feature too rare for a random direction like it to fire as often in TOKENS tokens as it was sampled never passes.

Shapes: X rows, N directions or features, D = d_in, E examples, W = REACH + 1 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import torch
from torch import Tensor

from monosemy.analysis.coactivation import blocks_of
from monosemy.analysis.examples import SampledExamples
from monosemy.analysis.feature import Example, FeatureIndex
from monosemy.analysis.firings import Window
from monosemy.analysis.lab import Lab
from monosemy.analysis.meaning_bars import EXAMPLES, Bands, Bar, Place, Seen
from monosemy.analysis.scan import rows_within, scan, tokens_around
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics.interval import Share
from monosemy.runtime import Progress, generator_for

REACH = 8
BANDS = 8
SET, HELD = 119, 60  # random directions of a band that set its bar (3 of 120 are CHANCE / 2), and that are held to it
GOLDEN = (5**0.5 - 1) / 2
FEATURES_AT_ONCE = 64
TOKENS, SAMPLE = 500_000, 20_000  # that directions are looked for in; rows that their thresholds are found on


@dataclass(frozen=True)
class Controls:
    """Shares of what should not look meaningful and does, or might, over all bands: they hold equally many features."""

    random: Share
    """Of random directions that had no part in the bars."""
    neurons: Share
    """Of single neurons."""


def strongest(index: FeatureIndex) -> list[str | None]:
    """Every feature's strongest example, its peak in «»; None where there is none."""
    texts: list[str | None] = []
    with Progress("strongest examples", index.n_features, unit="features") as shown:
        for start in range(0, index.n_features, FEATURES_AT_ONCE):
            tops = index.examples("top", start, min(start + FEATURES_AT_ONCE, index.n_features), most=1)
            texts += [_marked(top[0]) if top else None for top in tops]
            shown.advance(len(tops))
    return texts


def looked_at(lab: Lab, index: FeatureIndex, bands: Bands, features: Sequence[int] | None = None) -> list[Seen]:
    """How the firings of some features of the index (default: all) agree; `bands.passes` says what looks meaningful."""
    density = [row["density"] for row in index.table()]
    numbers = range(index.n_features) if features is None else list(features)
    offset_NE = index.offsets("quantile")[list(numbers)]
    found: list[Seen] = []
    with Progress("meaning", len(numbers), unit="features") as shown:
        for offset_BE in torch.split(offset_NE, FEATURES_AT_ONCE):
            for places in places_at(lab.tokens, offset_BE):
                found.append(bands.seen(density[numbers[len(found)]], places))
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
    made = Bands([own[-1] for own in bands], bars)
    seen = [bars[band].seen(own, band) for band, own in zip(cycle(range(n)), places[n * SET :], strict=False)]
    kinds = {"random": seen[: n * HELD], "neurons": seen[n * HELD :]}
    return made, Controls(*(made.share(kind, name) for name, kind in kinds.items()))


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

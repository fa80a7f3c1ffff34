"""Do a feature's logits match what it fires on? S2's guess, "over half do not", as a number.

For each feature with enough examples (one a document, the strongest of the index): under the logits of its direction,
the percentile of the token that really comes next after each example's peak (the share of the vocabulary whose logit
is lower, ties by half), and its mean over the examples. 0.5 is chance only for tokens without favourites, and features
share favourites; so the control is the same mean for the same tokens under the logits of other features, drawn at
random. A feature matches where its own mean exceeds the 95th percentile of its controls: 5 % would by chance.
The same is asked of the token that the feature fires on.

Next tokens of another document, or outside the row, are left out. Nothing is run but the linear path.

Shapes: N features, F of them looked at, E examples, S controls, V = vocabulary, B features at a time.
Source: SCIENCE.md §5 (input–output agreement); the control is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

from monosemy.analysis.attribution import logits_along_path
from monosemy.analysis.chart import Chart, Histogram, Points
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab
from monosemy.analysis.logits import BLOCK_LOGITS
from monosemy.analysis.result import Result, Table
from monosemy.data.tokens import TokenStore
from monosemy.metrics.interval import Share
from monosemy.runtime import Progress, UsageError, generator_for, in_batches, settings_of

BINS = 40
SIDES = {"next_token": "that follows", "own_token": "fired on"}
Tokens = dict[str, torch.Tensor]  # by side


@dataclass(frozen=True)
class AgreementSettings:
    """What is compared."""

    examples: int = 10
    """Strongest examples of each feature, at most."""
    at_least: int = 5
    """Next tokens that a feature must have, or it is left out."""
    controls: int = 200
    """Features whose logits the tokens of all others are held against; at least 2."""
    level: float = 0.95
    """Share of its controls that a feature must exceed to match."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("at_least", 1), ("controls", 2)):
            if getattr(self, name) < least:
                raise UsageError(f"`{name}` (={getattr(self, name)}) must be at least {least}")
        if self.at_least > self.examples:
            raise UsageError(f"`at_least` (={self.at_least}) must be at most `examples` (={self.examples})")
        if not 0 < self.level < 1:
            raise UsageError(f"`level` (={self.level}) must lie between 0 and 1")


@dataclass(frozen=True)
class Match:
    """How a feature's logits rank the tokens of its examples."""

    percentile: float
    """The mean over the examples."""
    limit: float
    """What the controls reach."""
    matches: bool
    """The first is above the second."""


@dataclass(frozen=True)
class FeatureAgreement:
    """One feature's rank of the tokens that follow its examples, and of those that it fires on."""

    feature: int
    next_token: Match
    own_token: Match


@dataclass(frozen=True)
class Agreement(Result):
    """How many features' logits match the tokens that follow their examples, and the tokens they fire on."""

    name = "agreement"
    site: str
    settings: AgreementSettings
    left_out: int
    """Features asked for that have fewer examples than `at_least`."""
    next_token: Share
    own_token: Share
    mean_next_token: float
    """The mean percentile over the features."""
    control_next_token: float
    """The same over their controls."""
    mean_own_token: float
    control_own_token: float
    features: list[FeatureAgreement]

    def table(self) -> Table:
        """A row a feature."""
        columns = ["feature"] + [f"{what}_{field}" for what in SIDES for field in ("percentile", "limit", "matches")]
        return Table(columns, [[f.feature, *astuple(f.next_token), *astuple(f.own_token)] for f in self.features])

    def charts(self) -> Sequence[Chart]:
        """How the mean percentiles spread beside the limits to pass; the token fired on against the next one."""
        edges, charts = [i / BINS for i in range(BINS + 1)], []
        for what, said in SIDES.items():
            matches: list[Match] = [getattr(feature, what) for feature in self.features]
            own = Histogram(edges, _counts([match.percentile for match in matches]), "features")
            limits = Histogram(edges, _counts([match.limit for match in matches]), "limits")
            title = f"Rank of the token {said} among the feature's logits"
            charts.append(Chart(what.replace("_", "-"), title, "mean percentile", "features", [own, limits]))
        x, y = (
            [getattr(feature, what).percentile for feature in self.features] for what in ("own_token", "next_token")
        )
        points = Points(x, y, texts=[f"feature {feature.feature}" for feature in self.features])
        y_label, x_label = (f"mean percentile of the token {said}" for said in SIDES.values())
        return [*charts, Chart("both", "Input and output", x_label, y_label, [points])]


def input_output_agreement(
    lab: Lab, features: Sequence[int] | None = None, settings: AgreementSettings | None = None, **options: Any
) -> Agreement:
    """Compare features' logits with their examples in the index; None: all that have enough of them.

    `options` are fields of AgreementSettings. Raises UsageError without an index or a linear path, or where no feature
    has enough examples, or there are no others to compare with.
    """
    settings = settings or settings_of(AgreementSettings, options)
    if lab.index is None:
        raise UsageError("agreement needs the features' examples: run `monosemy features`, open the lab with index=")
    asked = range(lab.dictionary.width) if features is None else [lab.checked(feature) for feature in features]
    own_NE, next_NE = tokens_at_peaks(lab.index, lab.tokens, settings.examples)
    chosen = [feature for feature in asked if int((next_NE[feature] >= 0).sum()) >= settings.at_least]
    if not chosen:
        raise UsageError(f"no feature has `at_least` (={settings.at_least}) examples with a next token in the index")
    pool = _pool(own_NE, settings)
    sides = {"next_token": next_NE[chosen], "own_token": own_NE[chosen]}
    with Progress("agreement", len(pool) + len(chosen), unit="features") as bar:
        own = _under_own_logits(lab, chosen, sides, bar)
        control = _under_other_logits(lab, pool, sides, bar)
    same_FS = torch.tensor(chosen)[:, None] == torch.tensor(pool)
    limits = {name: values_FS.masked_fill(same_FS, torch.nan).nanquantile(settings.level, dim=1)
              for name, values_FS in control.items()}  # fmt: skip
    found = [
        FeatureAgreement(feature, *(_match(own[name][f], limits[name][f]) for name in SIDES))
        for f, feature in enumerate(chosen)
    ]
    return Agreement(
        site=lab.written_site,
        settings=settings,
        left_out=len(asked) - len(chosen),
        next_token=Share.of(sum(f.next_token.matches for f in found), len(found)),
        own_token=Share.of(sum(f.own_token.matches for f in found), len(found)),
        mean_next_token=float(own["next_token"].mean()),
        control_next_token=float(control["next_token"][~same_FS].mean()),
        mean_own_token=float(own["own_token"].mean()),
        control_own_token=float(control["own_token"][~same_FS].mean()),
        features=found,
    )


def tokens_at_peaks(index: FeatureIndex, store: TokenStore, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of each feature's strongest examples and the tokens after them, `own_NE` and `next_NE`.

    −1 where there is no example, or no next token of the same row and document.
    """
    offset_NE = index.offsets("top")[:, :examples]
    here_NE = offset_NE.clamp_min(0).contiguous()
    after_NE = (here_NE + 1).clamp_max(len(store.tokens_T) - 1)
    row_NE = torch.searchsorted(store.row_starts_R, here_NE, right=True) - 1
    row_end_NE = store.row_starts_R[row_NE] + store.row_lengths_R[row_NE]
    joined_NE = (here_NE + 1 < row_end_NE) & (store.documents_of(after_NE) == store.documents_of(here_NE))
    own_NE, next_NE = store.tokens_T[here_NE].long(), store.tokens_T[after_NE].long()
    return own_NE.masked_fill(offset_NE < 0, -1), next_NE.masked_fill((offset_NE < 0) | ~joined_NE, -1)


def percentiles(logits_BV: torch.Tensor, tokens_BE: torch.Tensor) -> torch.Tensor:
    """The share of the vocabulary with a lower logit than each token, ties and the token itself by half."""
    sorted_BV = logits_BV.sort(dim=1).values
    at_BE = logits_BV.gather(1, tokens_BE).contiguous()
    lower_BE, upto_BE = (torch.searchsorted(sorted_BV, at_BE, right=right) for right in (False, True))
    return (lower_BE + upto_BE) / (2 * logits_BV.shape[1])


def _under_own_logits(lab: Lab, chosen: Sequence[int], sides: Tokens, bar: Progress) -> Tokens:
    """Each feature's mean percentile of its tokens under its own logits, `mean_F` a side."""
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in sides}
    for places_B in torch.split(torch.arange(len(chosen)), max(1, BLOCK_LOGITS // lab.vocab_size)):
        logits_BV = _logits(lab, [chosen[place] for place in places_B.tolist()])
        for name, tokens_FE in sides.items():
            tokens_BE = tokens_FE[places_B]
            pieces[name].append(_mean_over_known(percentiles(logits_BV, tokens_BE.clamp_min(0)), tokens_BE))
        bar.advance(len(places_B))
    return {name: torch.cat(means) for name, means in pieces.items()}


def _under_other_logits(lab: Lab, pool: Sequence[int], sides: Tokens, bar: Progress) -> Tokens:
    """The same for every feature's tokens under the logits of each of the pool, `mean_FS` a side."""
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in sides}
    widest = max(lab.vocab_size, *(tokens_FE.numel() for tokens_FE in sides.values()))
    for others in in_batches(pool, max(1, BLOCK_LOGITS // widest)):
        every_V = torch.arange(lab.vocab_size).expand(len(others), -1)
        percentile_BV = percentiles(_logits(lab, others), every_V)
        for name, tokens_FE in sides.items():
            pieces[name].append(_mean_over_known(percentile_BV[:, tokens_FE.clamp_min(0)], tokens_FE).T)
        bar.advance(len(others))
    return {name: torch.cat(means, dim=1) for name, means in pieces.items()}


def _logits(lab: Lab, features: Sequence[int]) -> torch.Tensor:
    """`logits_BV` on the CPU."""
    return logits_along_path(lab, lab.dictionary.W_dec_ND[list(features)]).float().cpu()


def _mean_over_known(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Over the examples, the last axis, which have a token."""
    known = tokens >= 0
    return (values * known).sum(dim=-1) / known.sum(dim=-1)


def _pool(own_NE: torch.Tensor, settings: AgreementSettings) -> list[int]:
    """The controls: features that fire, drawn at random, the same for all."""
    alive = (own_NE[:, 0] >= 0).nonzero()[:, 0]
    if len(alive) < 2:
        raise UsageError("agreement needs at least two features that fire in the index, to compare one with others")
    order = torch.randperm(len(alive), generator=generator_for("agreement", settings.seed))
    return [int(feature) for feature in alive[order[: settings.controls]]]


def _match(value: torch.Tensor, limit: torch.Tensor) -> Match:
    return Match(float(value), float(limit), bool(value > limit))


def _counts(values: Sequence[float]) -> list[int]:
    counts = torch.histc(torch.tensor(values, dtype=torch.float64), BINS, 0, 1)
    return [int(count) for count in counts]

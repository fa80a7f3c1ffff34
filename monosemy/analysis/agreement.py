"""Do a feature's logits match what it fires on? S2's guess, "over half do not", as a number.

S2 spoke of features with clear activations. So beside the share of all features there is that of those which look
meaningful by the rule of `meaning.py`, which needs the model and the corpus (`meaningful`).

For each feature with enough examples (one a document, the strongest of the index): under the logits of its direction,
the percentile of the token that really comes next after each example's peak (the share of the vocabulary whose logit
is lower, ties by half), and its mean over the examples. 0.5 is chance only for tokens without favourites, and features
share favourites; so the control is the same mean for the same tokens under the logits of other features, drawn at
random. A feature matches where its own mean exceeds the 95th percentile of its controls: 5 % would by chance.
The same is asked of the token that the feature fires on.

Next tokens of another document, or outside the row, are left out. Intervals of shares are Wilson's, features being the
cases; that all share their controls, and which of them look meaningful by chance, is not in them.

Shapes: N features, F of them looked at, E examples, S controls.
Source: SCIENCE.md §5 (input–output agreement); the control is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import torch

from monosemy.analysis.agreement_ranks import Tokens, tokens_at_peaks, under_other_logits, under_own_logits
from monosemy.analysis.chart import Chart, Histogram, Points
from monosemy.analysis.lab import Lab
from monosemy.analysis.meaning import bands_of, looked_at
from monosemy.analysis.result import Result, Table
from monosemy.metrics.interval import Share
from monosemy.runtime import Progress, UsageError, generator_for, settings_of

BINS = 40
SIDES = {"next_token": "that follows", "own_token": "fired on"}


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
    meaningful: bool = True
    """Say it of the features that look meaningful, too: the model reads up to 500,000 tokens of the corpus for that."""
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
    meaningful: bool | None
    """Whether it looks meaningful; None where that was not asked."""


@dataclass(frozen=True)
class Shares:
    """How many of some features match on either side."""

    features: int
    next_token: Share
    own_token: Share


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
    meaningful: Shares | None
    """The same of those that look meaningful, S2's "clear" ones; None where that was not asked."""
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
        rows = [[f.feature, *astuple(f.next_token), *astuple(f.own_token), f.meaningful] for f in self.features]
        return Table([*columns, "meaningful"], rows)

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
        own = under_own_logits(lab, chosen, sides, bar)
        control = under_other_logits(lab, pool, sides, bar)
    same_FS = torch.tensor(chosen)[:, None] == torch.tensor(pool)
    limits = {name: values_FS.masked_fill(same_FS, torch.nan).nanquantile(settings.level, dim=1)
              for name, values_FS in control.items()}  # fmt: skip
    sound: list[bool | None] = [None] * len(chosen)
    if settings.meaningful:
        bands, _ = bands_of(lab, lab.index)
        sound = [bands.passes(seen) for seen in looked_at(lab, lab.index, bands, chosen)]
    found = [
        FeatureAgreement(feature, _match(own, limits, "next_token", f), _match(own, limits, "own_token", f), sound[f])
        for f, feature in enumerate(chosen)
    ]
    every = _shares(found)
    return Agreement(
        site=lab.written_site,
        settings=settings,
        left_out=len(asked) - len(chosen),
        next_token=every.next_token,
        own_token=every.own_token,
        meaningful=_shares([f for f in found if f.meaningful]) if settings.meaningful else None,
        mean_next_token=float(own["next_token"].mean()),
        control_next_token=float(control["next_token"][~same_FS].mean()),
        mean_own_token=float(own["own_token"].mean()),
        control_own_token=float(control["own_token"][~same_FS].mean()),
        features=found,
    )


def _shares(found: Sequence[FeatureAgreement]) -> Shares:
    next_token, own_token = (sum(getattr(f, side).matches for f in found) for side in SIDES)
    return Shares(len(found), Share.of(next_token, len(found)), Share.of(own_token, len(found)))


def _pool(own_NE: torch.Tensor, settings: AgreementSettings) -> list[int]:
    """The controls: features that fire, drawn at random, the same for all."""
    alive = (own_NE[:, 0] >= 0).nonzero()[:, 0]
    if len(alive) < 2:
        raise UsageError("agreement needs at least two features that fire in the index, to compare one with others")
    order = torch.randperm(len(alive), generator=generator_for("agreement", settings.seed))
    return [int(feature) for feature in alive[order[: settings.controls]]]


def _match(own: Tokens, limits: Tokens, side: str, f: int) -> Match:
    value, limit = own[side][f], limits[side][f]
    return Match(float(value), float(limit), bool(value > limit))


def _counts(values: Sequence[float]) -> list[int]:
    counts = torch.histc(torch.tensor(values, dtype=torch.float64), BINS, 0, 1)
    return [int(count) for count in counts]

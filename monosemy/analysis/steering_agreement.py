"""Does steering along a feature give text that matches it? S2's check, as a number.

For each feature and prompt three texts are written from the same random draws: plain, steered by the feature, and
steered by another feature, drawn at random, as control (`steering.py`). The unchanged model reads all three, and the
feature's mean code on the new tokens is compared. A feature agrees where it fires more on text steered by it than on
plain text; it should also fire more than on the control's, as any steering makes text unusual. A feature that fires on
none of its texts says nothing: it is counted as silent and is in no share.

Shapes: R = 1 + 2F rows written from a prompt, C tokens of a row, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import torch

from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.lab import Lab, Prompt, padded
from monosemy.analysis.result import Result, Table
from monosemy.analysis.steering import SteeringSettings, written
from monosemy.metrics.interval import Share
from monosemy.runtime import Progress, UsageError, generator_for, in_batches, settings_of

FEATURES_AT_ONCE = 16


@dataclass(frozen=True)
class SteeredFeature:
    """A feature's mean code on the new tokens of three texts, averaged over the prompts."""

    feature: int
    control: int
    """The other feature that steers in the control."""
    prompts: int
    """At which none of the three texts is empty; only these count."""
    plain: float
    steered: float
    controlled: float


@dataclass(frozen=True)
class SteeringAgreement(Result):
    """How many features fire more on text that is steered by them. Features all of whose texts are empty are absent."""

    name = "steering-agreement"
    settings: SteeringSettings
    features: list[SteeredFeature]
    silent: int
    """Fire on none of their three texts; the shares are of the others."""
    rises: Share
    """Fire more on text steered by them than on plain text."""
    control_rises: Share
    """Fire more on text steered by another feature than on plain text."""
    beats_control: Share
    """Fire more on text steered by them than on text steered by another."""

    def table(self) -> Table:
        """A row a feature."""
        columns = ["feature", "control", "prompts", "plain", "steered", "controlled"]
        return Table(columns, [list(asdict(feature).values()) for feature in self.features])

    def charts(self) -> Sequence[Chart]:
        """Mean code on steered text against plain text, steered by the feature itself and by the control; of a single
        feature, the three as bars."""
        title = "A feature's mean code on new tokens"
        if len(self.features) == 1:
            (one,) = self.features
            labels = ["plain text", "steered by it", f"steered by {one.control}"]
            bars = Bars(labels, [one.plain, one.steered, one.controlled])
            return [Chart("agreement", title, f"text (feature {one.feature})", "mean code", [bars])]
        plain = [feature.plain for feature in self.features]
        names = [f"feature {feature.feature}" for feature in self.features]
        marks = [
            Points(plain, [feature.steered for feature in self.features], "steered by it", names),
            Points(plain, [feature.controlled for feature in self.features], "steered by another", names),
        ]
        return [Chart("agreement", title, "plain text", "steered text", marks)]


def steering_agreement(
    lab: Lab,
    features: Sequence[int],
    prompts: Sequence[Prompt],
    settings: SteeringSettings | None = None,
    **options: Any,
) -> SteeringAgreement:
    """How often a feature fires more on text steered along it.

    `options` are fields of SteeringSettings. Each feature's control is drawn from all others that are not dead. Raises
    UsageError as `steer` does, and where nothing is asked for or there is no other feature.
    """
    settings = settings or settings_of(SteeringSettings, options)
    if not features or not prompts:
        raise UsageError("`features` and `prompts` must each name at least one")
    pairs = list(zip(features, _controls(lab, features, settings.seed), strict=True))
    rows, chunks = [lab.ids(prompt) for prompt in prompts], list(in_batches(pairs, FEATURES_AT_ONCE))
    found: list[list[tuple[float, float, float]]] = [[] for _ in pairs]
    with Progress("steering", len(rows) * len(chunks) * settings.new_tokens, unit="steps") as bar:
        for number, ids in enumerate(rows):
            for first, chunk in enumerate(chunks):
                for place, means in enumerate(_means(lab, ids, chunk, settings, number, bar)):
                    found[first * FEATURES_AT_ONCE + place] += means
    steered = [
        SteeredFeature(feature, control, len(means), *(mean(side) for side in zip(*means, strict=True)))
        for (feature, control), means in zip(pairs, found, strict=True)
        if means
    ]
    fired = [f for f in steered if (f.plain, f.steered, f.controlled) != (0, 0, 0)]
    return SteeringAgreement(
        settings=settings,
        features=steered,
        silent=len(steered) - len(fired),
        rises=Share.of(sum(f.steered > f.plain for f in fired), len(fired)),
        control_rises=Share.of(sum(f.controlled > f.plain for f in fired), len(fired)),
        beats_control=Share.of(sum(f.steered > f.controlled for f in fired), len(fired)),
    )


def _controls(lab: Lab, features: Sequence[int], seed: int) -> list[int]:
    """For each feature another one that is not dead, at random."""
    if lab.index is None:
        raise UsageError("steering agreement needs the features' index: run `monosemy features`, open with index=")
    alive = [row["id"] for row in lab.index.table() if not row["dead"]]
    generator = generator_for("control", seed)
    controls = []
    for feature in features:
        others = [other for other in alive if other != feature]
        if not others:
            raise UsageError(f"`feature` (={feature}) is the only one that is not dead, so nothing can be its control")
        controls.append(others[int(torch.randint(len(others), (), generator=generator))])
    return controls


def _means(
    lab: Lab, ids: list[int], pairs: Sequence[tuple[int, int]], settings: SteeringSettings, prompt: int, bar: Progress
) -> list[list[tuple[float, float, float]]]:
    """For each pair the feature's mean codes on the plain, steered and control text; [] where one is empty."""
    own, others = [feature for feature, _ in pairs], [control for _, control in pairs]
    changes = [None, *(settings.change(lab, feature) for feature in own + others)]
    texts = written(lab, ids, changes, settings.sampling(prompt), bar)
    codes_RCF = lab.codes(padded([[*ids, *text.ids] for text in texts]), own)
    count_R = [len(text.ids) for text in texts]
    found: list[list[tuple[float, float, float]]] = []
    for place in range(len(pairs)):
        three = (0, 1 + place, 1 + len(pairs) + place)
        sums = [float(codes_RCF[row, len(ids) : len(ids) + count_R[row], place].sum()) for row in three]
        plain, steered, controlled = (count_R[row] for row in three)
        full = min(plain, steered, controlled) > 0
        found.append([(sums[0] / plain, sums[1] / steered, sums[2] / controlled)] if full else [])
    return found

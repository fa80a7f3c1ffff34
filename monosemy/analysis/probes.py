"""How many neurons does it take to tell where a feature fires? Sparse probes: k neurons against accuracy.

A logistic probe of k neurons says whether the feature fires on a token. The neurons are chosen on the training tokens,
greedily (default), or as Gurnee et al. do first, by the difference of their means; beside them, probes of k neurons
drawn at random. One neuron that tells nearly everything makes the feature that neuron; a feature that needs many is
spread over them.

Tokens: all on which the feature fires and as many on which it does not, at most PER_CLASS of either, drawn evenly over
the corpus. Documents are never split between training and test. Balanced accuracy does not depend on how rare the
feature is. F1 does, and is that at the feature's own frequency: a sampled negative counts for those that it stands for,
in the score and in the choice of the cut, which is the best one on the training tokens and another than that of the
balanced accuracy (`logistic.py`). Where each negative stands for many, the cut rests on the few nearest ones.

Shapes: X tokens, D neurons, K numbers of neurons. Source: Gurnee et al. 2023, "Finding Neurons in a Haystack",
arXiv 2305.01610; SCIENCE.md §5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from monosemy.analysis.chart import Chart, Curve
from monosemy.analysis.lab import Lab
from monosemy.analysis.logistic import CHOICES, Scores, f1_cut, fitted, held_out, interval_of, telling_columns
from monosemy.analysis.moments import NUMBERS_AT_ONCE, TokenSample, kind_of, pieces
from monosemy.analysis.neurons import coordinates_of
from monosemy.analysis.result import Result, Table
from monosemy.analysis.scan import rows_within
from monosemy.metrics.calibration import Interval
from monosemy.runtime import Progress, UsageError, generator_for

KS = (1, 2, 4, 8, 16, 32)
PER_CLASS = 4096
DRAWS = 5  # sets of random neurons for each k; their scores are averaged


@dataclass(frozen=True)
class KSparseProbe(Result):
    """k neurons against how well they tell where a feature fires, on held-out documents."""

    name: ClassVar[str] = "k-sparse-probe"
    feature: int
    coordinates: str
    """What the neurons are."""
    choose: str
    """How they were chosen."""
    ks: list[int]
    neurons: list[int]
    """Those chosen, the best first: a probe of k has the first k (fewer, where no more tell anything)."""
    accuracy: list[Interval]
    """Balanced accuracy for each k; 0.5 is chance."""
    f1: list[Interval]
    """F1 at the feature's own frequency, of the probe's cut that has the largest one in training."""
    f1_cut: list[float]
    """That cut, for each k: of the probe's log odds where both classes weigh half."""
    random_accuracy: list[Interval]
    """Of k random neurons, the mean over DRAWS sets."""
    random_f1: list[Interval]
    density: float
    """Share of the tokens looked at on which it fires."""
    n_train: tuple[int, int]
    """Tokens of training on which it fires, and on which it does not."""
    n_test: tuple[int, int]

    def table(self) -> Table:
        """A row for each k."""
        names = ("accuracy", "f1", "random_accuracy", "random_f1")
        columns = ["k", *(f"{name}{end}" for name in names for end in ("", "_low", "_high")), "f1_cut", "neurons"]
        rows = []
        for place, k in enumerate(self.ks):
            intervals = [getattr(self, name)[place] for name in names]
            numbers = [number for each in intervals for number in (each.value, each.low, each.high)]
            rows.append([k, *numbers, self.f1_cut[place], " ".join(map(str, self.neurons[:k]))])
        return Table(columns, rows)

    def charts(self) -> list[Chart]:
        """Balanced accuracy, and F1, against k."""
        return [
            self._chart("accuracy", "balanced accuracy", self.accuracy, self.random_accuracy),
            self._chart("f1", f"F1 at {self.density:.2%} of tokens, best cut", self.f1, self.random_f1),
        ]

    def _chart(self, name: str, label: str, chosen: list[Interval], drawn: list[Interval]) -> Chart:
        title = f"Where feature {self.feature} fires, told by k {self.coordinates}: {label}"
        marks = [interval_curve(self.ks, chosen, "chosen"), interval_curve(self.ks, drawn, "at random")]
        return Chart(name, title, "k", label, marks, log_x=True)


def k_sparse_probe(
    lab: Lab,
    feature: int,
    ks: Sequence[int] = KS,
    *,
    choose: str = "forward",
    max_tokens: int | None = None,
    seed: int = 0,
) -> KSparseProbe:
    """Probes of k neurons for where the feature fires, over `max_tokens` tokens (default: all).

    `choose`: "forward" or "difference" (`logistic.telling_columns`). `seed` draws tokens, documents and random neurons.
    Raises UsageError for an unknown feature, a k that the site does not have, or a feature that fires in too few
    documents for a test.
    """
    lab.checked(feature)
    d_in = lab.model.width_of(lab.site)
    if not ks or not 1 <= min(ks) <= max(ks) <= d_in:
        raise UsageError(f"`ks` (={tuple(ks)}) are numbers of neurons: give some, from 1 to {d_in}")
    if choose not in CHOICES:
        raise UsageError(f"`choose` (={choose!r}) must be one of {', '.join(CHOICES)}")
    fires, silent = _sampled(lab, feature, max_tokens, seed)
    if not fires.seen or not silent.seen:
        never = "never" if not fires.seen else "everywhere"
        raise UsageError(f"`feature` (={feature}) fires {never} in the {fires.seen + silent.seen} tokens looked at")
    x_XD = torch.cat([fires.x_XD, silent.x_XD])
    document_X = lab.tokens.documents_of(torch.cat([fires.offset_X, silent.offset_X]).cpu()).to(x_XD.device)
    positive_X = torch.arange(len(x_XD), device=x_XD.device) < len(fires.x_XD)
    test_X = held_out(document_X, positive_X, seed, "document")
    # One sampled negative stands for so many, where one sampled positive stands for one.
    weight = (silent.seen / len(silent.x_XD)) / (fires.seen / len(fires.x_XD))
    scores = Scores(document_X[test_X], positive_X[test_X], weight, seed)
    trained_X = positive_X[~test_X]

    neurons = telling_columns(x_XD[~test_X], trained_X, max(ks), choose)
    drawn = [torch.randperm(d_in, generator=generator_for("random neurons", draw, seed)) for draw in range(DRAWS)]
    found: list[list[Interval]] = []
    cuts: list[float] = []
    with Progress("probes", len(ks) * (1 + DRAWS), unit="probes") as bar:
        for k in ks:
            pairs, told = [], []
            for columns in (neurons[:k], *(order[:k].tolist() for order in drawn)):
                x_XZ = x_XD[:, columns]
                probe = fitted(x_XZ[~test_X], trained_X)
                margin_X = probe.margin(x_XZ)
                told.append(f1_cut(margin_X[~test_X], trained_X, weight))
                balanced_S = scores.balanced_accuracy(margin_X[test_X] > 0)
                pairs.append(torch.stack([balanced_S, scores.f1(margin_X[test_X] > told[-1])]))
                bar.advance()
            cuts.append(told[0])
            found.append([interval_of(each) for each in (*pairs[0], *torch.stack(pairs[1:]).mean(dim=0))])
    accuracy, f1, random_accuracy, random_f1 = (list(column) for column in zip(*found, strict=True))
    sizes = [(int((positive_X & part).sum()), int((~positive_X & part).sum())) for part in (~test_X, test_X)]
    density = fires.seen / (fires.seen + silent.seen)
    return KSparseProbe(
        feature,
        coordinates_of(lab),
        choose,
        list(ks),
        neurons,
        accuracy,
        f1,
        cuts,
        random_accuracy,
        random_f1,
        density,
        *sizes,
    )


def interval_curve(ks: Sequence[int], intervals: Sequence[Interval], name: str) -> Curve:
    """Scores against k, with their intervals shaded."""
    low, high = [each.low for each in intervals], [each.high for each in intervals]
    return Curve(list(ks), [each.value for each in intervals], name, low, high)


def _sampled(lab: Lab, feature: int, max_tokens: int | None, seed: int) -> tuple[TokenSample, TokenSample]:
    """Tokens on which the feature fires and others."""
    device, rows = lab.model.device, rows_within(lab.tokens, max_tokens)
    d_in, at_once = lab.model.width_of(lab.site), NUMBERS_AT_ONCE[kind_of(device)] // lab.dictionary.width
    fires, silent = (TokenSample(PER_CLASS, d_in, device, f"probe {name}", seed) for name in ("fires", "silent"))
    with Progress("tokens", lab.tokens.count_tokens(rows), unit="tokens") as bar:
        for piece in pieces(lab, rows):
            parts = torch.split(piece.x_XD, max(1, at_once))  # codes of all features may be made on the way
            fires_X = torch.cat([lab.encode(x_XD, [feature])[:, 0] > 0 for x_XD in parts])
            fires.add(piece.x_XD[fires_X], piece.offset_X[fires_X])
            silent.add(piece.x_XD[~fires_X], piece.offset_X[~fires_X])
            bar.advance(len(fires_X))
    return fires, silent

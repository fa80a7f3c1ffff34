"""Does the dictionary hold a property of texts in fewer directions than the neurons do? Sparse probing of labels.

Each text is one row: its codes, and its activations, pooled over its tokens by their maximum or their mean. Logistic
probes of the k features, and of the k neurons, that tell the label best are compared on held-out texts, with one of all
neurons as what could be told at all. S1 asks whether a feature "nets us anything over the neuron basis"; the paired
difference of the two answers it, for this property. (SAEBench's sparse probing asks the same of whole dictionaries.)

Features and neurons are chosen on the training texts by the same greedy rule (`logistic.telling_columns`); F1 is that
of the cut which is best on them, not of the balanced accuracy's (`logistic.f1_cut`). Equal texts go to training or to
test together.

Shapes: T texts, C context, D neurons, N features, K numbers of columns.
Source: S1; Gurnee et al. 2023, arXiv 2305.01610; Karvonen et al. 2025, SAEBench, arXiv 2503.09532.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from monosemy.analysis.chart import Chart, Curve
from monosemy.analysis.lab import Lab, Prompt, padded
from monosemy.analysis.logistic import Scores, f1_cut, fitted, held_out, interval_of, telling_columns
from monosemy.analysis.moments import NUMBERS_AT_ONCE, TOKENS_AT_ONCE, kind_of
from monosemy.analysis.neurons import coordinates_of
from monosemy.analysis.probes import interval_curve
from monosemy.analysis.result import Result, Table
from monosemy.metrics.calibration import Interval
from monosemy.runtime import Progress, UsageError

KS = (1, 2, 4, 8, 16)
POOLINGS = ("max", "mean")


@dataclass(frozen=True)
class LabelProbe(Result):
    """How well k features, k neurons and all neurons tell a label, on held-out texts."""

    name: ClassVar[str] = "label-probe"
    labels: tuple[str, str]
    """The negative and the positive one."""
    pooling: str
    coordinates: str
    """What the neurons are."""
    ks: list[int]
    chosen: dict[str, list[int]]
    """"features" and "neurons", the best first: a probe of k has the first k (fewer, where no more tell anything)."""
    accuracy: dict[str, list[Interval]]
    """Balanced accuracy of each for each k; 0.5 is chance."""
    f1: dict[str, list[Interval]]
    """F1 of the positive label, at the cut with the largest one in training."""
    difference: list[Interval]
    """Balanced accuracy of k features less that of k neurons, on the same texts."""
    all_accuracy: Interval
    """Of the whole activation."""
    all_f1: Interval
    n_train: tuple[int, int]
    """Texts of training with the positive label, and with the negative one."""
    n_test: tuple[int, int]

    def table(self) -> Table:
        """A row for each probe."""
        columns = ["of", "k", "accuracy", "accuracy_low", "accuracy_high", "f1", "f1_low", "f1_high", "members"]
        rows = []
        for basis, chosen in self.chosen.items():
            for k, accuracy, f1 in zip(self.ks, self.accuracy[basis], self.f1[basis], strict=True):
                rows.append([basis, k, *_numbers(accuracy), *_numbers(f1), " ".join(map(str, chosen[:k]))])
        rows.append(["all neurons", None, *_numbers(self.all_accuracy), *_numbers(self.all_f1), None])
        return Table(columns, rows)

    def charts(self) -> list[Chart]:
        """Balanced accuracy against k; and what features have over neurons."""
        marks = [interval_curve(self.ks, intervals, basis) for basis, intervals in self.accuracy.items()]
        marks.append(Curve(self.ks, [self.all_accuracy.value] * len(self.ks), "all neurons"))
        title = f"“{self.labels[1]}” told by k columns ({self.pooling} over tokens)"
        gain = [interval_curve(self.ks, self.difference, "features − neurons")]
        return [
            Chart("accuracy", title, "k", "balanced accuracy", marks, log_x=True),
            Chart("difference", "What features tell over neurons", "k", "balanced accuracy", gain, log_x=True),
        ]


def probe_labels(
    lab: Lab,
    texts: Sequence[Prompt],
    labels: Sequence[Hashable],
    ks: Sequence[int] = KS,
    *,
    positive: Hashable | None = None,
    pooling: str = "max",
    seed: int = 0,
) -> LabelProbe:
    """Probes of features and of neurons for the label of a text, which has two values (the larger is the positive one);
    or for one label, `positive`, against all others.

    `pooling`: "max" or "mean" over a text's tokens at which codes count. `seed` divides the texts. Raises UsageError
    unless there are two labels, one for each text, each on several texts; or for a text that the lab does not take.
    """
    if len(texts) != len(labels):
        raise UsageError(f"{len(texts)} `texts` and {len(labels)} `labels`: give one label for each text")
    values: list[Hashable] = sorted(set(labels), key=lambda value: (str(type(value)), value))
    if positive is not None:
        if positive not in values:
            raise UsageError(f"`positive` (={positive}) is none of the labels ({', '.join(map(str, values[:10]))})")
        values = [f"not {positive}", positive]
    if len(values) != 2:
        raise UsageError(
            f"`labels` have {len(values)} values, and a probe tells two apart; ask for one at a time, with `positive`"
        )
    if not ks or min(ks) < 1:
        raise UsageError(f"`ks` (={tuple(ks)}) are numbers of features and neurons: give some, each at least 1")
    if pooling not in POOLINGS:
        raise UsageError(f"`pooling` (={pooling!r}) must be one of {', '.join(POOLINGS)}")
    ids = [lab.ids(text) for text in texts]
    numbers: dict[tuple[int, ...], int] = {}
    group_T = torch.tensor([numbers.setdefault(tuple(each), len(numbers)) for each in ids])
    positive_T = torch.tensor([label == values[1] for label in labels])
    test_T = held_out(group_T, positive_T, seed, "text")
    scores = Scores(group_T[test_T], positive_T[test_T], seed=seed)

    neurons_TD, codes_TN = _pooled(lab, ids, pooling)
    chosen: dict[str, list[int]] = {}
    said: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    with Progress("probes", 2 * len(ks) + 1, unit="probes") as bar:
        for basis, x_TZ in (("features", codes_TN), ("neurons", neurons_TD)):
            chosen[basis] = telling_columns(x_TZ[~test_T], positive_T[~test_T], max(ks), "forward")
            said[basis] = []
            for k in ks:
                said[basis].append(_said(x_TZ[:, chosen[basis][:k]], positive_T, test_T))
                bar.advance()
        at_zero_T, at_cut_T = _said(neurons_TD, positive_T, test_T)
        bar.advance()
    right = {
        basis: [scores.balanced_accuracy(at_zero_T, other=basis == "neurons") for at_zero_T, _ in some]
        for basis, some in said.items()
    }
    accuracy = {basis: [interval_of(each) for each in some] for basis, some in right.items()}
    f1 = {basis: [interval_of(scores.f1(at_cut_T)) for _, at_cut_T in some] for basis, some in said.items()}
    gains = [interval_of(a - b) for a, b in zip(right["features"], right["neurons"], strict=True)]
    whole = (interval_of(scores.balanced_accuracy(at_zero_T)), interval_of(scores.f1(at_cut_T)))
    sizes = [(int((positive_T & part).sum()), int((~positive_T & part).sum())) for part in (~test_T, test_T)]
    named = (str(values[0]), str(values[1]))
    return LabelProbe(
        named, pooling, coordinates_of(lab), list(ks), chosen, accuracy, f1, gains, *whole, n_train=sizes[0],
        n_test=sizes[1],
    )  # fmt: skip


def _said(x_TZ: torch.Tensor, positive_T: torch.Tensor, test_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a probe of these columns says of the test texts: at its balanced cut, and at that for F1."""
    margin_T = fitted(x_TZ[~test_T], positive_T[~test_T]).margin(x_TZ)
    return margin_T[test_T] > 0, margin_T[test_T] > f1_cut(margin_T[~test_T], positive_T[~test_T])


def _pooled(lab: Lab, ids: Sequence[Sequence[int]], pooling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and codes of each text, pooled over its tokens, on the CPU. Texts of like length go together."""
    d_in, width, device = lab.model.width_of(lab.site), lab.dictionary.width, lab.model.device
    neurons_TD, codes_TN = torch.empty(len(ids), d_in), torch.empty(len(ids), width)
    limit = min(TOKENS_AT_ONCE[kind_of(device)], max(1, NUMBERS_AT_ONCE[kind_of(device)] // width))
    order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
    with Progress("texts", len(ids), unit="texts") as bar:
        while order:
            longest = len(ids[order[-1]])
            some, order = order[-max(1, limit // longest) :], order[: -max(1, limit // longest)]
            batch = padded([ids[number] for number in some])
            x_BCD, counts_BC = lab.x(batch), lab.counts(batch)
            if empty := [number for number, row_C in zip(some, counts_BC, strict=True) if not row_C.any()]:
                raise UsageError(
                    f"`texts` number {empty[0]} is BOS alone, which the dictionary never saw; leave it out"
                )
            x_XD = x_BCD[counts_BC.to(x_BCD.device)]
            sizes = counts_BC.sum(dim=1).tolist()
            for pooled_TZ, values_XZ in ((neurons_TD, x_XD), (codes_TN, lab.encode(x_XD))):
                rows = [
                    row.amax(dim=0) if pooling == "max" else row.mean(dim=0) for row in torch.split(values_XZ, sizes)
                ]
                pooled_TZ[some] = torch.stack(rows).cpu()
            bar.advance(len(some))
    return neurons_TD, codes_TN


def _numbers(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high

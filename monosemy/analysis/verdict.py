"""Is a feature a neuron? One verdict each: "a single neuron", "few", "spread", or why there is none.

A feature's codes are predicted linearly from the neurons: from the best one, from the best k (greedily chosen), from
all. Codes are cut off at a threshold, so even a feature that reads a single neuron is not linear in it: if the neuron
is Gaussian and the feature takes its upper per cent, R² is 0.05. But then nothing else tells more. So the verdict asks
for the *share*, the R² of k neurons in that of all of them:

- **dead**: it fires on none of the tokens, here and in the feature index where there is one: what "dead" means
  everywhere (SCIENCE.md §2 names other limits; beside a count stands what it can see, 1/tokens);
- **too rare**: it fires, on fewer than ENOUGH tokens here (S1's limit), which tell nothing of neurons;
- **a single neuron**: the best neuron has at least SHARE of what all tell;
- **few**: the best FEW neurons together have;
- **spread**: the rest, and those of which all neurons tell less than NOTHING.

SHARE is 0.9²: a prediction that correlates at 0.9 with the best linear one, where 0.9 is the cosine from which on S1
and `metrics/recovery.py` take two directions for the same feature. FEW = 8: a direction drawn at random in 172
dimensions has a quarter of its square in its 8 largest coordinates (in 2048, 4 %), far from SHARE. NOTHING is three
times the standard error that an R² of unrelated numbers has (√(2D)/T) at D = 2048 and T = 20,000 tokens.

R² are adjusted (Theil 1961): 1 − (1 − R²)(T − 1)/(T − k − 1), so that 2048 neurons do not win by their number. What
choosing the best of D adds is left in (about 2 ln D / T).

The participation ratio (Σw²)²/Σw⁴ of the feature's direction says over how many coordinates of the written site it is
spread: 1 for a copy of a neuron, D/3 for a random direction. It is evidence beside the verdict and does not enter it.

Work beside the pass: N·D² for "all", N·D·k²/2 for k steps. Shapes: F features, D neurons, K numbers of neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from monosemy.analysis.chart import Bars, Chart, Curve, Histogram
from monosemy.analysis.forward import forward_selection
from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import Moments, feature_moments
from monosemy.analysis.result import Result, Table
from monosemy.runtime import Progress, UsageError

SINGLE, SOME, SPREAD, RARE, DEAD = VERDICTS = ("a single neuron", "few", "spread", "too rare", "dead")
SHARE = 0.9**2
FEW = 8
NOTHING = 0.01
ENOUGH = 10
FEATURES_AT_ONCE = 256
BINS = 20
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Evidence:
    """What one feature's verdict rests on."""

    feature: int
    verdict: str
    neuron: int
    """The neuron whose activation correlates most with the code, by magnitude; −1 where none does."""
    correlation: float
    """With that neuron."""
    r2: list[float]
    """Of the best k neurons, for each of `ks`."""
    r2_all: float
    """Of all neurons; 0 where the adjusted one is below."""
    share_single: float | None
    """The best neuron's part in `r2_all`, at most 1; None where all neurons tell nothing."""
    share_few: float | None
    """That of the best FEW."""
    participation: float
    """Over how many coordinates the direction is spread."""
    count: int
    """Tokens on which it fires."""


@dataclass(frozen=True)
class NeuronVerdicts(Result):
    """A verdict a feature, with its evidence."""

    name: ClassVar[str] = "neuron-verdicts"
    ks: tuple[int, ...]
    tokens: int
    neurons: int
    """D."""
    evidence: list[Evidence]

    def counts(self) -> dict[str, int]:
        """How many features have each verdict."""
        return {verdict: sum(each.verdict == verdict for each in self.evidence) for verdict in VERDICTS}

    def table(self) -> Table:
        """A row a feature."""
        r2 = [f"r2_{k}" for k in self.ks]
        columns = ["feature", "verdict", "neuron", "correlation", *r2, "r2_all", "share_single", "share_few"]
        columns += ["participation", "count", "density"]
        rows = []
        for e in self.evidence:
            told = (*e.r2, e.r2_all, e.share_single, e.share_few)
            density = e.count / self.tokens
            rows.append([e.feature, e.verdict, e.neuron, e.correlation, *told, e.participation, e.count, density])
        return Table(columns, rows)

    def charts(self) -> list[Chart]:
        """How many have each verdict; the shares of one neuron and of few; R² against k."""
        counts, told = self.counts(), [e for e in self.evidence if e.verdict not in (RARE, DEAD)]
        verdicts = Chart("verdicts", "Verdicts", "", "features", [Bars(list(counts), list(counts.values()))])
        edges = [bin / BINS for bin in range(BINS + 1)]
        shares = {"best neuron": [e.share_single for e in told], f"best {FEW}": [e.share_few for e in told]}
        marks = [Histogram(edges, _in_bins(values), name) for name, values in shares.items()]
        title = "Share of what all neurons tell of a feature"
        return [verdicts, Chart("shares", title, "share", "features", marks), _r2_chart(self.ks, told)]


def neuron_verdicts(
    lab: Lab,
    features: Sequence[int] | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    moments: Moments | None = None,
    max_tokens: int | None = None,
) -> NeuronVerdicts:
    """The verdict of some features (default: all), from `moments`, or gathered here over `max_tokens` tokens.

    Raises UsageError for a k below 1, an unknown feature, or no more tokens than twice the neurons.
    """
    if not ks or min(ks) < 1:
        raise UsageError(f"`ks` (={tuple(ks)}) are numbers of neurons: give some, each at least 1")
    gathered = feature_moments(lab, features, max_tokens) if moments is None else moments
    found = gathered if moments is None else gathered.of(features)
    neurons = len(found.mean_D)
    if found.tokens <= 2 * neurons:
        raise UsageError(
            f"{found.tokens} tokens do not tell what {neurons} neurons predict: look at more than {2 * neurons}, "
            f"with a larger `max_tokens` or a larger token store"
        )
    r2_FK, r2_all_F, best_F, correlation_F = _regressions(found, gathered.whitening_DJ, max(*ks, FEW))
    W_FD = lab.dictionary.W_dec_ND[found.features_F].double()
    participation_F = W_FD.square().sum(1).square() / W_FD.pow(4).sum(1).clamp_min(TINY)
    columns = (found.features_F, found.count_F, best_F, correlation_F, r2_FK, r2_all_F, participation_F)
    rows = zip(*(column.tolist() for column in columns), _silent(lab, found), strict=True)
    return NeuronVerdicts(tuple(ks), found.tokens, neurons, [_judged(ks, *row) for row in rows])


def _silent(lab: Lab, found: Moments) -> list[bool]:
    """Which features fire on no token, of these or of the index's."""
    firing = [] if lab.index is None else lab.index.rows("SELECT id FROM feature WHERE NOT dead")
    alive = {row["id"] for row in firing}
    counted = zip(found.features_F.tolist(), found.count_F.tolist(), strict=True)
    return [not count and feature not in alive for feature, count in counted]


def _regressions(
    moments: Moments, W_DJ: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Adjusted R² of 1 … k neurons and of all, the neuron that correlates most, and its correlation."""
    covariance_DD = moments.covariance_DD
    variance_D, rank = covariance_DD.diagonal().contiguous(), W_DJ.shape[1]
    parts: list[tuple[torch.Tensor, ...]] = []
    with Progress("verdicts", len(moments.cross_FD), unit="features") as bar:
        for start in range(0, len(moments.cross_FD), FEATURES_AT_ONCE):
            some = slice(start, start + FEATURES_AT_ONCE)
            cross_BD, variance_B = moments.cross_FD[some].double(), moments.variance_F[some].clamp_min(TINY)
            _, gain_BK = forward_selection(cross_BD, variance_D, covariance_DD.__getitem__, k)
            all_B = (cross_BD @ W_DJ).square().sum(dim=1)
            root_BD = (variance_B[:, None] * variance_D).sqrt()
            correlation_BD = torch.where(root_BD > 0, cross_BD / root_BD, 0.0).clamp(-1, 1)
            best_B = correlation_BD.abs().argmax(dim=1)
            at_best_B = correlation_BD.gather(1, best_B[:, None]).squeeze(1)
            parts.append((gain_BK.cumsum(dim=1) / variance_B[:, None], all_B / variance_B, best_B, at_best_B))
            bar.advance(len(cross_BD))
    r2_FK, r2_all_F, best_F, correlation_F = (torch.cat(each) for each in zip(*parts, strict=True))
    used_K = torch.arange(1, k + 1, device=r2_FK.device).clamp_max(rank)
    return _adjusted(r2_FK, used_K, moments.tokens), _adjusted(r2_all_F, rank, moments.tokens), best_F, correlation_F


def _adjusted(r2: torch.Tensor, used: torch.Tensor | int, tokens: int) -> torch.Tensor:
    return (1 - (1 - r2.clamp(0, 1)) * (tokens - 1) / (tokens - used - 1)).clamp_min(0)


def _judged(
    ks: Sequence[int], feature: int, count: int, neuron: int, correlation: float, r2_K: list[float], r2_all: float,
    participation: float, silent: bool,
) -> Evidence:  # fmt: skip
    told = r2_all >= NOTHING and count >= ENOUGH
    single, few = (min(1.0, r2_K[k - 1] / r2_all) if told else None for k in (1, FEW))
    verdict = DEAD if silent else RARE if count < ENOUGH else _verdict(single, few)
    return Evidence(
        feature, verdict, neuron if correlation else -1, correlation, [r2_K[k - 1] for k in ks], r2_all, single, few,
        participation, count,
    )  # fmt: skip


def _verdict(single: float | None, few: float | None) -> str:
    if single is not None and single >= SHARE:
        return SINGLE
    return SOME if few is not None and few >= SHARE else SPREAD


def _in_bins(values: Sequence[float | None]) -> list[float]:
    known = torch.tensor([value for value in values if value is not None], dtype=torch.float64)
    return torch.bincount((known * BINS).long().clamp(max=BINS - 1), minlength=BINS).double().tolist()


def _r2_chart(ks: Sequence[int], told: Sequence[Evidence]) -> Chart:
    r2_FK = torch.tensor([e.r2 for e in told], dtype=torch.float64).reshape(len(told), len(ks))
    quartiles = r2_FK.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0) if told else r2_FK
    low, middle, high = quartiles.tolist() if told else ([], [], [])
    mark = Curve(list(ks) if told else [], middle, "median and quartiles", low, high)
    return Chart("r2", "How well k neurons predict a feature", "k neurons", "R²", [mark], log_x=True)

"""Are the probabilities that features are present true? Reliability bins and the calibration error, against a world.

Probabilities are calibrated when, of the pairs of a feature and a row that are given probability p, a share p are
present. Pairs are put in bins of equal width in p; a bin's `predicted` is the mean probability in it, `observed` the
share that are present. The expected calibration error is the mean of |observed − predicted| over pairs.

Present is what the world says: a learned feature is present in a row where the true feature that it is matched to,
one-to-one, is active. A learned feature without a match at a cosine above `RECOVERED` (one too many, a copy, a mixture)
is never present: a probability given to it is an error.

Most pairs are clear (p near 0), so the error over all pairs is small for anything that is sparse; the one over unclear
pairs, LOW < p < HIGH, says how far to believe a probability that is not near 0 or 1. The Brier score (mean square) and
the log loss also reward being sharp.

Intervals are 95 % percentiles of a bootstrap over groups of rows: pairs of one row are not independent, rows are.

Shapes: B rows of a batch, X rows, N = width, K bins, Q groups of rows, R resamples.
Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599; Naeini et al. 2015. Left out:
bins of equal count, which here would nearly all be at p = 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from monosemy.data.synthetic import Sample, World
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.matching import Matching, one_to_one
from monosemy.metrics.recovery import RECOVERED
from monosemy.runtime import Progress, UsageError, generator_for

BATCH = 2048
LOW, HIGH = 0.05, 0.95
RESAMPLES = 1000
TINY = 1e-6  # the log loss takes no probability closer to 0 or 1 than this
NAN = float("nan")


@runtime_checkable
class Probabilistic(Protocol):
    """A dictionary that says how probable it is that a feature is present."""

    def presence(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`probability_BN`."""
        ...


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """Predicted beside observed, bin by bin, and what they come to. Per bin: [K] in fp64; NaN where a bin is empty."""

    edges_K1: torch.Tensor
    count_K: torch.Tensor
    """Pairs in a bin."""
    predicted_K: torch.Tensor
    """Mean probability."""
    observed_K: torch.Tensor
    """Share that are present."""
    low_K: torch.Tensor
    """Of the 95 % interval of `observed_K`."""
    high_K: torch.Tensor
    ece: Interval
    """Σ count · |observed − predicted| / Σ count, over all pairs."""
    ece_unclear: Interval
    """The same over pairs with LOW < p < HIGH, in bins of their own; NaN where there are none."""
    brier: float
    """Mean (p − present)²."""
    log_loss: float
    """Mean −log of the probability of what was the case, in nats a pair."""
    expected: float
    """Σ p of a row, its mean: how many features are said to be present …"""
    present: float
    """… and how many are."""
    unclear: float
    """How many of a row are unclear."""
    rows: int

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of it by name, in fp64, to be kept; an interval is its value, low and high."""
        plain = {n: list(v.values()) if isinstance(v, dict) else v for n, v in asdict(self).items()}
        return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in plain.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, torch.Tensor]) -> Reliability:
        """What `tensors()` came from."""
        found: dict[str, Any] = {n: tensor if tensor.ndim else float(tensor) for n, tensor in tensors.items()}
        intervals = {name: Interval(*tensors[name].tolist()) for name in ("ece", "ece_unclear")}
        return cls(**{**found, **intervals, "rows": int(tensors["rows"])})


def calibration(
    dictionary: Dictionary, world: World, rows: int = 32_768, bins: int = 10, groups: int = 64
) -> Reliability:
    """Of a dictionary's presence, on `rows` rows of the world's held-out stream.

    A dictionary without `presence` is taken at its word: probability 1 where a code is not 0, and 0 where it is.
    Raises UsageError for fewer rows than groups, or fewer than 2 groups, or no bin.
    """
    if rows < groups:
        raise UsageError(f"`rows` (={rows}) must be at least `groups` (={groups}), which intervals are made of")
    W_ND = dictionary.W_dec_ND
    matching = one_to_one(world.features_GD.to(W_ND.device), W_ND)
    table = ReliabilityTable(bins, groups)
    with Progress("calibration", rows, unit="rows") as bar:
        for start in range(0, rows, BATCH):
            sample = world.sample(min(BATCH, rows - start), start)
            probability_BN = presence_of(dictionary, sample.x_XD.to(W_ND.device)).cpu()
            group_B = torch.arange(start, start + len(probability_BN)) * groups // rows
            table.add(probability_BN, present_in(sample, matching, dictionary.width), group_B)
            bar.advance(len(probability_BN))
    return table.reliability()


def calibrations(dictionaries: Mapping[int, Dictionary], world: World, rows: int) -> dict[int, Reliability]:
    """`calibration` of each that says how probable presence is, by its number; on few rows with wider intervals."""
    spoken = {n: each for n, each in dictionaries.items() if isinstance(each, Probabilistic)}
    return {n: calibration(each, world, rows, groups=max(2, min(64, rows))) for n, each in spoken.items()}


def calibration_scores(found: Reliability | None) -> dict[str, float | None]:
    """`ece` and `brier`; None where no probabilities are given."""
    return {"ece": found.ece.value if found else None, "brier": found.brier if found else None}


def presence_of(dictionary: Dictionary, x_BD: torch.Tensor) -> torch.Tensor:
    """The dictionary's `probability_BN`, or 0 and 1 from codes where it has none."""
    if isinstance(dictionary, Probabilistic):
        return dictionary.presence(x_BD)
    return (dictionary.encode(x_BD) != 0).float()


def present_in(sample: Sample, matching: Matching, width: int) -> torch.Tensor:
    """Where the true feature that a learned one is matched to is active: bool [X, N]. `matching` is of truth to learned
    features; pairs at a cosine of RECOVERED or less are none."""
    found_P = matching.cosines_P > RECOVERED
    learned_G = torch.full((sample.n_features,), -1)
    learned_G[matching.rows_P[found_P]] = matching.columns_P[found_P]
    learned_F = learned_G[sample.feature_P]
    present_XN = torch.zeros(len(sample.x_XD), width, dtype=torch.bool)
    present_XN[sample.row_P[learned_F >= 0], learned_F[learned_F >= 0]] = True
    return present_XN


class ReliabilityTable:
    """Sums of counts, probabilities and presences by group of rows and bin; batches are added, nothing else is kept."""

    def __init__(self, bins: int = 10, groups: int = 64) -> None:
        if bins < 1 or groups < 2:
            raise UsageError(f"`bins` (={bins}) must be at least 1 and `groups` (={groups}) at least 2; raise them")
        self.bins, self.groups = bins, groups
        # Of all pairs and of the unclear ones: [2, 3, Q, K], the three being count, Σ p, Σ present.
        self.sums = torch.zeros(2, 3, groups, bins, dtype=torch.float64)
        self.square = self.nats = 0.0
        self.rows = 0

    def add(self, probability_BN: torch.Tensor, present_BN: torch.Tensor, group_B: torch.Tensor) -> None:
        """Count these rows in, each in its group (0 … groups − 1). Raises UsageError for a p outside [0, 1]."""
        p_P, present_P = probability_BN.double().flatten(), present_BN.double().flatten()
        if not bool(((p_P >= 0) & (p_P <= 1)).all()):
            raise UsageError("a probability is not in [0, 1], or not a number; calibration is of probabilities only")
        group_P = group_B.repeat_interleave(probability_BN.shape[1])
        for place, (low, high) in enumerate(((0.0, 1.0), (LOW, HIGH))):
            inside_P = (p_P > low) & (p_P < high) if place else torch.ones_like(p_P, dtype=torch.bool)
            part_P = p_P[inside_P]
            bin_P = ((part_P - low) / (high - low) * self.bins).long().clamp(max=self.bins - 1)
            cell_P = group_P[inside_P] * self.bins + bin_P
            for sum_QK, weight_P in zip(
                self.sums[place], (torch.ones_like(part_P), part_P, present_P[inside_P]), strict=True
            ):
                found = torch.bincount(cell_P, weights=weight_P, minlength=sum_QK.numel())
                sum_QK += found.view_as(sum_QK)
        self.square += float((p_P - present_P).square().sum())
        right_P = torch.where(present_P > 0, p_P, 1 - p_P)
        self.nats -= float(right_P.clamp_min(TINY).log().sum())
        self.rows += len(probability_BN)

    def reliability(self) -> Reliability:
        """What was counted. Raises UsageError where nothing was."""
        if not self.rows:
            raise UsageError("no rows were added, so there is nothing to be calibrated; add some")
        generator = generator_for("calibration", self.groups)
        drawn_RQ = torch.randint(self.groups, (RESAMPLES, self.groups), generator=generator)
        times_RQ = torch.zeros(RESAMPLES, self.groups, dtype=torch.float64)
        times_RQ.scatter_add_(1, drawn_RQ, torch.ones_like(times_RQ))
        resampled_2R3K = torch.einsum("rq,scqk->srck", times_RQ, self.sums)
        count_K, probability_K, present_K = self.sums[0].sum(dim=1)
        observed_RK = resampled_2R3K[0, :, 2] / resampled_2R3K[0, :, 0]
        low_K, high_K = observed_RK.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        pairs = float(count_K.sum())
        return Reliability(
            torch.linspace(0, 1, self.bins + 1, dtype=torch.float64),
            count_K,
            probability_K / count_K,
            present_K / count_K,
            low_K,
            high_K,
            _error(self.sums[0].sum(dim=1), resampled_2R3K[0]),
            _error(self.sums[1].sum(dim=1), resampled_2R3K[1]),
            self.square / pairs,
            self.nats / pairs,
            float(probability_K.sum()) / self.rows,
            float(present_K.sum()) / self.rows,
            float(self.sums[1, 0].sum()) / self.rows,
            self.rows,
        )


def _error(sums_3K: torch.Tensor, resampled_R3K: torch.Tensor) -> Interval:
    """The expected calibration error; NaN where there are no pairs."""
    low, high = _gaps(resampled_R3K).nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(_gaps(sums_3K)), low, high)


def _gaps(sums: torch.Tensor) -> torch.Tensor:
    """Σ |Σ present − Σ p| / Σ count, of [..., 3, K]."""
    count, probability, present = sums.unbind(dim=-2)
    return (present - probability).abs().sum(dim=-1) / count.sum(dim=-1)

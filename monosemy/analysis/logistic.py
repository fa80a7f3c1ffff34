"""Probes: logistic regression, a fair split into training and test, and scores with intervals.

A probe is fitted with its classes weighing the same, whatever their numbers:

    min over β, a of  Σ w_x log(1 + exp(−s_x (β·z_x + a))) / Σ w  +  (RIDGE/2) ‖β‖²,   s = ±1,   z standardised

by L-BFGS in fp64 (scikit-learn's `LogisticRegression` with class_weight="balanced" and C = 1/(RIDGE·X) finds the same
one). RIDGE keeps β finite where the classes can be separated.

It has two cuts, for no one cut is right for both scores. At margin 0 both kinds of error cost a class the same share of
itself: for balanced accuracy. Of a rare class nearly all that this cut says is a false positive; so F1 is scored at the
cut that has the largest F1 on the rows of training, each weighing what it stands for (`f1_cut`).

Split: whole groups (documents; equal texts) go to training or to test, never in parts, and groups with and without a
positive are divided alike. Fewer than FEWEST of a class in the test are refused.

Intervals are the mean of a bootstrap over the groups of the test, since tokens of one document are not independent, and
1.96 standard deviations either way, within what occurs (percentiles of few skewed resamples hold too little); all
probes are scored in the same resamples, so that differences have intervals too. Where all is right (or few groups are
there) resamples of what was seen vary too little: so each class has two made-up groups more, one told right and one
wrong, as Agresti and Caffo add to a share; and where two probes are compared each is right on the one on which the
other is wrong, as Bonett and Price add to paired shares. A made-up group has as many rows as one independent case comes
to: the variance of the seen errors over groups, relative to that of independent rows; as many as a mean group where no
row or every row is wrong, since then nothing says how errors keep together. In F1 a made-up group of negatives is one
row, which already counts for all that it stands for.

Shapes: X rows, Z columns of a probe, G groups of the test (with made-up ones M), R resamples, H probes. Sources:
Agresti and Caffo 2000, "Simple and Effective Confidence Intervals for Proportions and Differences of Proportions";
Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference of Binomial Proportions Based on Paired
Data".
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from monosemy.analysis.forward import forward_selection
from monosemy.metrics.calibration import RESAMPLES, Interval
from monosemy.metrics.interval import Z_95
from monosemy.runtime import UsageError, generator_for

FLAT = 1e-5  # a column that varies by no more than this share of its values is constant but for rounding
CHOICES = ("forward", "difference")
RIDGE = 1e-3
STEPS = 200
RIGHT = ((0, 1), (3, 2))  # of the cells of `Scores.counts`: positives told right and wrong, negatives likewise
TEST_SHARE = 0.3
FEWEST = 4
"""Groups of each class in the test, at least: the fewest of which, all told right, Wilson's interval is above chance
(n/(n + 1.96²) > 1/2)."""


@dataclass(frozen=True)
class Probe:
    """Says positive where (x − mean)/spread · β + a is above 0."""

    mean_Z: torch.Tensor
    spread_Z: torch.Tensor
    beta_Z: torch.Tensor
    a: float

    def __call__(self, x_XZ: torch.Tensor) -> torch.Tensor:
        """bool [X]."""
        return self.margin(x_XZ) > 0

    def margin(self, x_XZ: torch.Tensor) -> torch.Tensor:
        """How far on the positive side each row is, fp64 [X]: the log odds where both classes weigh half."""
        return (x_XZ.double() - self.mean_Z) / self.spread_Z @ self.beta_Z + self.a


def fitted(x_XZ: torch.Tensor, positive_X: torch.Tensor, ridge: float = RIDGE) -> Probe:
    """The probe of these rows, both classes weighing half. A constant column is left out (its β is 0)."""
    x_XZ, label_X, weight_X = x_XZ.double(), positive_X.double(), balanced_weights(positive_X)
    mean_Z, spread_Z = x_XZ.mean(dim=0), x_XZ.std(dim=0, correction=0)
    spread_Z = torch.where(spread_Z > FLAT * x_XZ.abs().amax(dim=0), spread_Z, torch.inf)
    z_XZ = (x_XZ - mean_Z) / spread_Z
    weights = torch.zeros(z_XZ.shape[1] + 1, dtype=torch.float64, device=x_XZ.device)
    optimiser = torch.optim.LBFGS(
        [weights], max_iter=STEPS, tolerance_grad=1e-9, tolerance_change=1e-14, history_size=20,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> torch.Tensor:
        beta_Z = weights[:-1]
        logit_X = z_XZ @ beta_Z + weights[-1]
        slope_X = weight_X * (torch.sigmoid(logit_X) - label_X)
        weights.grad = torch.cat([slope_X @ z_XZ + ridge * beta_Z, slope_X.sum()[None]])
        nats_X = torch.nn.functional.softplus(logit_X) - label_X * logit_X
        return (weight_X * nats_X).sum() + ridge / 2 * beta_Z.square().sum()

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return Probe(mean_Z, spread_Z, weights[:-1], float(weights[-1]))


def f1_cut(margin_X: torch.Tensor, positive_X: torch.Tensor, weight: float = 1.0) -> float:
    """The cut above which rows said positive have the largest F1, a negative counting for `weight` rows.

    Midway between two neighbouring margins; −inf where saying all positive is best.
    """
    sorted_X, order_X = margin_X.sort(descending=True)
    found_X = positive_X[order_X].double().cumsum(dim=0)
    wrong_X = weight * (~positive_X[order_X]).double().cumsum(dim=0)
    f1_X = 2 * found_X / (found_X[-1] + found_X + wrong_X)
    below_X = torch.cat([sorted_X[1:], sorted_X.new_full((1,), -torch.inf)])
    best = int(torch.where(sorted_X > below_X, f1_X, -1.0).argmax())  # equal margins are said alike
    return float((sorted_X[best] + below_X[best]) / 2)


def balanced_weights(positive_X: torch.Tensor) -> torch.Tensor:
    """Weights in fp64 that sum to 1, half of it for each class."""
    label_X = positive_X.double()
    return torch.where(positive_X, 0.5 / label_X.sum(), 0.5 / (1 - label_X).sum())


def telling_columns(x_XD: torch.Tensor, positive_X: torch.Tensor, k: int, choose: str) -> list[int]:
    """At most k columns that tell the classes apart, the best first; both classes weigh half.

    "forward": each time the one that lowers the squared error of a linear prediction of the class most, beside those
    chosen before (`forward.py`). "difference": by |mean of positives − mean of negatives| over the spread, one by one.
    """
    weight_X = balanced_weights(positive_X)
    light_X = weight_X.float()
    centred_XD = x_XD - light_X @ x_XD
    cross_1D = ((light_X * positive_X) @ centred_XD).double()[None]
    square_D, variance_D = light_X @ x_XD.square(), (light_X @ centred_XD.square()).double()
    variance_D = torch.where(variance_D > FLAT**2 * square_D, variance_D, 0.0)
    if choose == "difference":
        score_D = torch.where(variance_D > 0, cross_1D[0].square() / variance_D, 0.0)
        best = score_D.topk(min(k, len(score_D)))
        return best.indices[best.values > 0].tolist()

    def columns(j_F: torch.Tensor) -> torch.Tensor:
        return ((centred_XD[:, j_F] * light_X[:, None]).T @ centred_XD).double()

    chosen_K = forward_selection(cross_1D, variance_D, columns, min(k, len(variance_D)))[0][0]
    return chosen_K[chosen_K >= 0].tolist()


def held_out(group_X: torch.Tensor, positive_X: torch.Tensor, seed: int, what: str) -> torch.Tensor:
    """Which rows are for the test, bool [X]: TEST_SHARE of the groups with a positive, and of those without.

    `what` names a group, for the errors. Raises UsageError where training would lack a class, or the test have it in
    fewer than FEWEST groups.
    """
    groups_G, of_X = torch.unique(group_X, return_inverse=True)
    has_G = torch.zeros(len(groups_G), dtype=torch.bool, device=group_X.device)
    has_G[of_X[positive_X]] = True
    test_G = torch.zeros_like(has_G)
    for kind in (True, False):
        members = (has_G == kind).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator_for("held out", kind, seed)).to(members.device)
        count = round(TEST_SHARE * len(members)) or int(len(members) > 1)
        test_G[members[order[:count]]] = True
    test_X = test_G[of_X]
    for name, class_X in (("positive", positive_X), ("negative", ~positive_X)):
        trained, tested = (len(torch.unique(of_X[class_X & part_X])) for part_X in (~test_X, test_X))
        if not trained or tested < FEWEST:
            raise UsageError(
                f"{trained} {what}s with a {name} are left for training and {tested} for the test, of which a probe "
                f"needs {FEWEST} or more; give {ceil(FEWEST / TEST_SHARE)} different ones of either kind, or more"
            )
    return test_X


class Scores:
    """Counts of right and wrong in each group of the test, and what they come to in the same resamples of groups,
    made-up ones among them (see the top).

    `weight` is what a negative counts for in F1, where they were sampled (corpus negatives for one sampled).
    """

    def __init__(self, group_X: torch.Tensor, positive_X: torch.Tensor, weight: float = 1.0, seed: int = 0) -> None:
        groups_G, self._of_X = torch.unique(group_X.cpu(), return_inverse=True)
        self._positive_X, self._weight, self._groups = positive_X.cpu(), weight, len(groups_G)
        made_up = self._groups + 2 * len(RIGHT)
        drawn_RM = torch.randint(made_up, (RESAMPLES, made_up), generator=generator_for("resamples", seed))
        ones_RM = torch.ones(RESAMPLES, made_up, dtype=torch.float64)
        self._times_RM = torch.zeros_like(ones_RM).scatter_add_(1, drawn_RM, ones_RM)

    def counts(self, said_X: torch.Tensor, other: bool = False, lone: bool = False) -> torch.Tensor:
        """Positives found and missed, negatives taken for positives and left: [1 + R, 4], the plain ones first.

        `other`: of the second of two probes that are compared, whose made-up groups are told the other way round.
        `lone`: a made-up group of negatives is one row.
        """
        said_X = said_X.cpu()
        cell_X = torch.where(self._positive_X, torch.where(said_X, 0, 1), torch.where(said_X, 2, 3))
        flat_G4 = torch.bincount(self._of_X * 4 + cell_X, minlength=4 * self._groups).double()
        counts_G4 = flat_G4.view(self._groups, 4)
        made_up_M4 = torch.zeros(2 * len(RIGHT), 4, dtype=torch.float64)
        for place, (right, wrong) in enumerate(RIGHT):
            size = 1.0 if lone and place else rows_of_one(counts_G4[:, right], counts_G4[:, wrong])
            made_up_M4[2 * place + other, right] = made_up_M4[2 * place + (not other), wrong] = size
        return torch.cat([counts_G4.sum(dim=0)[None], self._times_RM @ torch.cat([counts_G4, made_up_M4])])

    def balanced_accuracy(self, said_X: torch.Tensor, other: bool = False) -> torch.Tensor:
        """Mean of the shares of positives and of negatives that are told right, [1 + R]; `other`: as in `counts`."""
        found, missed, wrong, left = self.counts(said_X, other).unbind(dim=1)
        return (found / (found + missed) + left / (wrong + left)) / 2

    def f1(self, said_X: torch.Tensor) -> torch.Tensor:
        """2·found / (2·found + missed + wrong), [1 + R]; 0 where nothing is found. For what `f1_cut` says."""
        found, missed, wrong, _ = self.counts(said_X, lone=True).unbind(dim=1)
        return 2 * found / (2 * found + missed + self._weight * wrong).clamp_min(torch.finfo(torch.float64).tiny)


def rows_of_one(right_G: torch.Tensor, wrong_G: torch.Tensor) -> float:
    """How many rows of a class come to one independent case: from 1 to the mean of the groups that have it."""
    rows_G, share = right_G + wrong_G, float(wrong_G.sum() / (right_G + wrong_G).sum())
    mean = float(rows_G.sum() / (rows_G > 0).sum())
    if not 0 < share < 1:
        return mean
    spread = float((wrong_G - share * rows_G).square().sum() / (share * (1 - share) * rows_G.sum()))
    return min(max(spread, 1.0), mean)


def interval_of(value_S: torch.Tensor) -> Interval:
    """A score with its 95 % interval, which holds it; resamples in which a class is missing are left out."""
    value, drawn_R = float(value_S[0]), value_S[1:][~value_S[1:].isnan()]
    middle, half = float(drawn_R.mean()), Z_95 * float(drawn_R.std())
    low, high = max(middle - half, float(drawn_R.min())), min(middle + half, float(drawn_R.max()))
    return Interval(value, min(low, value), max(high, value))

"""How much of a known truth a dictionary found: its directions, when they fire, and how strongly.

Directions: MCS of each true feature, the one-to-one matching, copies. Firing: of each true feature against the learned
one that is matched to it, precision, recall and F1 over held-out rows (a code other than 0 fires). Strength: the slope
through the origin of learned on true codes over the rows in which the feature truly fires, Σ c·t / Σ t², where 1 is no
shrinkage. Codes are counted in units of length, c·‖W_dec row‖, so that the scale of a direction does not matter.

True codes stay sparse, and of the learned ones only the matched columns are compared.

Shapes: B rows of a batch, G true features, N = width, D = d_in, P = min(G, N) matched pairs, F firings of matched true
features. Sources: SCIENCE.md §3; S4 asks for scores that see copies; recovery by frequency as in its "rarest quarter".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monosemy.data.synthetic import Sample, World
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.matching import Matching, exclusive_mmcs, one_to_one
from monosemy.metrics.recovery import RECOVERED, mcs, redundancy, uniqueness
from monosemy.runtime import Progress, UsageError

BATCH = 4096
NAN = float("nan")


@dataclass(frozen=True)
class TruthScores:
    """Scores of a dictionary against the truth, and what they are means of, per true feature."""

    scores: dict[str, float | int | None]
    """By name; None where undefined.

    Directions: `mmcs_truth`; `recovered`: share of true features with MCS > 0.9; `uniqueness`: number of different
    true features that are nearest to a learned one / N; `redundancy`: learned copies per true feature that has any;
    `mcc_truth`: mean cosine of the matched pairs, and `mcc_gap`, by how much the best matching can be above it;
    `exclusive_mmcs`: of the features that fire in the sample, see `matching.py`.
    Codes: `precision`, `recall`, `f1`: means over the true features that are matched and fire in the sample;
    `code_slope`: Σ c·t / Σ t² over all that are matched at a cosine above 0.9.
    Counts: `rows`; `alive`: learned features that fire in the sample; `silent`: true ones that do not;
    `unmatched`: true ones for which there was no learned feature left."""

    arrays: dict[str, torch.Tensor]
    """Per true feature, [G] in fp64 on the CPU: `mcs`, `matched_cosine`, `probability` (the world's, of firing),
    `precision` (0 where the learned feature never fires), `recall`, `f1`, `slope`. NaN where no learned feature is
    matched or, for the last four, where the true one fires in no row of the sample."""


def truth_scores(dictionary: Dictionary, world: World, rows: int = 65_536) -> TruthScores:
    """Score a dictionary against the world its rows are from, codes on `rows` rows of its held-out stream.

    Raises UsageError where the two differ in D, or there are no rows.
    """
    return truth_scores_of([dictionary], world, rows)[0]


def truth_scores_of(dictionaries: Sequence[Dictionary], world: World, rows: int = 65_536) -> list[TruthScores]:
    """`truth_scores` of each, on the same rows, which are drawn once."""
    if rows < 1:
        raise UsageError(f"`rows` (={rows}) must be at least 1: firing is compared on them")
    directions, collectors = [], []
    with Progress("match", len(dictionaries), unit="dictionaries") as bar:
        for dictionary in dictionaries:
            W_ND = dictionary.W_dec_ND
            truth_GD = world.features_GD.to(W_ND.device)
            matching = one_to_one(truth_GD, W_ND)
            directions.append((mcs(truth_GD, W_ND), matching))
            collectors.append(_Firing(dictionary, matching, len(truth_GD)))
            bar.advance()
    with Progress("truth", rows, unit="rows") as bar:
        for start in range(0, rows, BATCH):
            sample = world.sample(min(BATCH, rows - start), start)
            for firing in collectors:
                firing.add(sample)
            bar.advance(len(sample.x_XD))
    return [_scores(*found, firing, world, rows) for found, firing in zip(directions, collectors, strict=True)]


def recovery_by_frequency(mcs_G: torch.Tensor, probability_G: torch.Tensor, bins: int = 4) -> list[float]:
    """Mean MCS of the true features in each quantile of firing probability, the rarest first.

    Bins are equal in number, up to one. Equally probable features keep their order. Raises UsageError for fewer
    features than bins.
    """
    if not 1 <= bins <= len(mcs_G):
        raise UsageError(f"`bins` (={bins}) must be from 1 to the number of true features (={len(mcs_G)}); change it")
    order = probability_G.argsort(stable=True)
    return [float(part.double().mean()) for part in mcs_G.cpu()[order.cpu()].tensor_split(bins)]


class _Firing:
    """Sums over rows for the matched pairs; `fired_N` for all learned features."""

    def __init__(self, dictionary: Dictionary, matching: Matching, features: int) -> None:
        self.dictionary = dictionary
        self.fired_N = torch.zeros(dictionary.width, dtype=torch.bool, device=dictionary.W_dec_ND.device)
        device = self.fired_N.device
        self.columns_P = matching.columns_P.to(device)
        self.norm_P = dictionary.W_dec_ND[self.columns_P].norm(dim=1).double()
        self.pair_of_G = torch.full((features,), -1, device=device)
        self.pair_of_G[matching.rows_P.to(device)] = torch.arange(len(self.columns_P), device=device)
        self.true_G = torch.zeros(features, dtype=torch.float64, device=device)
        zeros_P = torch.zeros(len(self.columns_P), dtype=torch.float64, device=device)
        self.learned_P, self.both_P, self.product_P, self.square_P = (zeros_P.clone() for _ in range(4))

    def add(self, sample: Sample) -> None:
        """Count these rows in."""
        device = self.fired_N.device
        codes_BN = self.dictionary.encode(sample.x_XD.to(device))
        self.fired_N |= (codes_BN != 0).any(dim=0)
        codes_BP = codes_BN[:, self.columns_P]
        self.learned_P += (codes_BP != 0).sum(dim=0)
        feature_F = sample.feature_P.to(device)
        self.true_G += torch.bincount(feature_F, minlength=len(self.true_G))
        pair_F = self.pair_of_G[feature_F]
        matched_F = pair_F >= 0
        pair_F, row_F = pair_F[matched_F], sample.row_P.to(device)[matched_F]
        true_F, code_F = sample.value_P.to(device)[matched_F].double(), codes_BP[row_F, pair_F].double()
        for sum_P, term_F in (
            (self.both_P, (code_F != 0).double()),
            (self.product_P, code_F * true_F),
            (self.square_P, true_F.square()),
        ):
            sum_P += torch.bincount(pair_F, weights=term_F, minlength=len(sum_P))


def _scores(mcs_G: torch.Tensor, matching: Matching, firing: _Firing, world: World, rows: int) -> TruthScores:
    W_ND = firing.dictionary.W_dec_ND
    truth_GD = world.features_GD.to(W_ND.device)
    true_P = firing.true_G[matching.rows_P.to(W_ND.device)]
    fires_P = true_P > 0
    product_P = firing.product_P * firing.norm_P
    found_P = matching.cosines_P.to(W_ND.device) > RECOVERED
    square = float(firing.square_P[found_P].sum())
    firing_of_P = {
        "precision": firing.both_P / firing.learned_P.clamp_min(1),
        "recall": firing.both_P / true_P,
        "f1": 2 * firing.both_P / (true_P + firing.learned_P),
    }
    scores: dict[str, float | int | None] = {
        "mmcs_truth": float(mcs_G.mean()),
        "recovered": float((mcs_G > RECOVERED).double().mean()),
        "uniqueness": uniqueness(W_ND, truth_GD),
        "redundancy": redundancy(truth_GD, W_ND),
        "mcc_truth": matching.mcc,
        "mcc_gap": matching.gap,
        "exclusive_mmcs": exclusive_mmcs(truth_GD, W_ND[firing.fired_N]),
        **{name: _mean(value_P[fires_P]) for name, value_P in firing_of_P.items()},
        "code_slope": float(product_P[found_P].sum()) / square if square > 0 else None,
        "rows": rows,
        "alive": int(firing.fired_N.sum()),
        "silent": int((firing.true_G == 0).sum()),
        "unmatched": len(truth_GD) - len(true_P),
    }

    def spread(value_P: torch.Tensor) -> torch.Tensor:
        value_G = torch.full((len(truth_GD),), NAN, dtype=torch.float64)
        value_G[matching.rows_P] = value_P.double().cpu()
        return value_G

    arrays = {
        "mcs": mcs_G.double().cpu(),
        "matched_cosine": spread(matching.cosines_P),
        "probability": world.probabilities_G.double(),
        **{name: spread(torch.where(fires_P, value_P, NAN)) for name, value_P in firing_of_P.items()},
        "slope": spread(product_P / firing.square_P),
    }
    return TruthScores(scores, arrays)


def _mean(values: torch.Tensor) -> float | None:
    return float(values.mean()) if len(values) else None

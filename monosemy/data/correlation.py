"""Firings that go together: Gaussian variables with a random correlation matrix, and the copula they make.

Source: the interim report of Dec 2022 ("Taking features out of superposition with sparse autoencoders") for a random
correlation matrix; low rank after SynthSAEBench (arXiv 2602.14687), which keeps 10⁵ features cheap. Feature i fires in
a row where Φ(z_i) < p_i with z ~ N(0, C). At full rank every z is computed. At low rank a row is thinned: candidates at
a few times each feature's own rate, kept by the ratio to the probability that the row's factors give; where that is
larger still, the rest is drawn entry by entry. Both are exact. Products are numpy's: torch's can change their precision
with a global setting, and a firing is a comparison.

Shapes: R features (the roots of a forest), X rows, C rows of a chunk, K rank, P firings, written row·R + feature.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch

from monosemy.data.firing import independent, rescaled, sorted_once, split_key
from monosemy.data.hierarchy import uniform_at
from monosemy.runtime import Progress, UsageError

FULL_RANK_LIMIT = 8192  # features; beyond, a full-rank correlation costs gigabytes and a row of it milliseconds
LOW_RANK_SHARE = 0.5  # of each feature's variance in a random low-rank correlation
THINNING = 8.0  # candidates for each expected firing of a low-rank copula
PAIRS_OF_ESTIMATE = 1024  # opposite draws, for the mean probabilities of mode "batch"
CHUNK = 2**19  # entries of a dense piece: in the cache, and below what torch splits over threads


class Correlation(Protocol):
    """Standard normal variables, one a feature, that go together; `factor` is what is stored of them."""

    @property
    def factor(self) -> np.ndarray:
        """[R, R] or [R, K], fp32."""
        ...

    def normals(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Independent rows z ~ N(0, C), `z_XR`."""
        ...

    def copula(self, probability_R: np.ndarray, rows: int, random: np.random.Generator, key: int) -> np.ndarray:
        """Firings Φ(z) < p of a Gaussian copula, drawn anew for each row; sorted."""
        ...


@dataclass(frozen=True)
class FullRank:
    """C = A·Aᵀ with `factor` A lower triangular [R, R]."""

    factor: np.ndarray

    def normals(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """One product with the factor."""
        return np.asarray(_normal(rows, len(self.factor), random) @ self.factor.T)

    def copula(self, probability_R: np.ndarray, rows: int, random: np.random.Generator, key: int) -> np.ndarray:
        """Every z is computed and compared with its feature's quantile."""
        del key
        return np.flatnonzero(self.normals(rows, random) < _quantile(probability_R))


@dataclass(frozen=True)
class LowRank:
    """C = L·Lᵀ + diag(1 − ‖L_i‖²) with `factor` L [R, K]; C itself is never formed."""

    factor: np.ndarray

    def normals(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Shared factors times loadings, and each feature's own part."""
        features, rank = self.factor.shape
        shared_XR = _normal(rows, rank, random) @ self.factor.T
        shared_XR += _normal(rows, features, random) * _own(self.factor)
        return np.asarray(shared_XR)

    def copula(self, probability_R: np.ndarray, rows: int, random: np.random.Generator, key: int) -> np.ndarray:
        """Thinned, see `_Thinning`; pieces of rows run side by side in threads."""
        features, thinning = len(probability_R), _Thinning(probability_R, self.factor)
        candidate_P = independent(thinning.rate_R[None], rows, random)
        keep_P = random.random(len(candidate_P), dtype=np.float32)
        factor_XK = _normal(rows, self.factor.shape[1], random)
        loading_KR, step = np.ascontiguousarray(self.factor.T), max(1, CHUNK // features)
        bounds = np.searchsorted(candidate_P, np.arange(0, rows + step, step) * features)

        def fired(start: int) -> list[np.ndarray]:
            first, piece = start * features, slice(bounds[start // step], bounds[start // step + 1])
            mean_CR = np.einsum("ck,kr->cr", factor_XK[start : start + step], loading_KR)  # no threads of its own
            kept_P = thinning.kept(mean_CR.ravel(), candidate_P[piece] - first, keep_P[piece])
            return [kept_P + first, thinning.rest(mean_CR, start, key)]

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy and torch let go of the lock
            return sorted_once(np.concatenate(list(chain.from_iterable(pool.map(fired, range(0, rows, step))))))


class _Thinning:
    """Given a row's factors f, feature i fires with q = Φ((Φ⁻¹(p_i) − L_i·f) / own_i), all independent.

    Two independent events make up q: a candidate of rate a = min(1, 8·p_i) that is kept with min(1, q/a), and,
    only where q > a, another of probability (q − a)/(1 − a).
    """

    def __init__(self, probability_R: np.ndarray, loading_RK: np.ndarray) -> None:
        self.rate_R = np.minimum(THINNING * probability_R, 1.0)
        self.rate_R[self.rate_R > 0.5] = 1.0
        self._quantile_R, self._own_R = _quantile(probability_R), _own(loading_RK)
        with np.errstate(invalid="ignore"):  # ∞ − ∞ where p is 0
            self._heavy_below_R = self._quantile_R - self._own_R * _quantile(self.rate_R)
        self._heavy_below_R[probability_R == 0] = -np.inf
        self._rate_R = self.rate_R.astype(np.float32)

    def kept(self, mean_E: np.ndarray, place_P: np.ndarray, keep_P: np.ndarray) -> np.ndarray:
        """Those candidates, places in the flat L·f of some rows, that fire; `keep_P` is uniform."""
        feature_P = split_key(place_P, len(self._rate_R))[1]
        fires_P = keep_P * self._rate_R[feature_P] < self._given_factors(mean_E[place_P], feature_P)
        return np.asarray(place_P[fires_P])

    def rest(self, mean_CR: np.ndarray, row: int, key: int) -> np.ndarray:
        """The firings that are more than candidates can be, in rows from `row` on."""
        place_P = np.flatnonzero(mean_CR < self._heavy_below_R)
        row_P, feature_P = split_key(place_P, len(self._rate_R))
        rate_P = self._rate_R[feature_P]
        rest_P = (self._given_factors(mean_CR.ravel()[place_P], feature_P) - rate_P) / (1.0 - rate_P)
        fires_P = uniform_at(key, row_P + row, feature_P) < rest_P
        return np.asarray((row_P[fires_P] + row) * len(self._rate_R) + feature_P[fires_P])

    def _given_factors(self, mean_P: np.ndarray, feature_P: np.ndarray) -> np.ndarray:
        score_P = (self._quantile_R[feature_P] - mean_P) / self._own_R[feature_P]
        return np.asarray(torch.special.ndtr(torch.from_numpy(score_P)))


def random_correlation(features: int, rank: int, strength: float, seed: int) -> Correlation:
    """A random correlation matrix, unit diagonal, `strength` times its off-diagonal part.

    Full rank (`rank` 0): W·Wᵀ with W square and Gaussian, scaled to unit diagonal, so that correlations are about
    N(0, 1/R). Low rank: half of each variance is shared; loadings are random directions of R^K, so that correlations
    are about N(0, 1/4K).
    """
    random = np.random.Generator(np.random.SFC64(seed))
    if rank:
        direction_RK = random.standard_normal((features, rank))
        direction_RK /= np.linalg.norm(direction_RK, axis=1, keepdims=True)
        return LowRank((direction_RK * np.sqrt(LOW_RANK_SHARE * strength)).astype(np.float32))
    if features > FULL_RANK_LIMIT:
        raise UsageError(
            f"a full-rank correlation of {features} features is too large (at most {FULL_RANK_LIMIT}); set rank to 8"
        )
    factor_RR = random.standard_normal((features, features))
    factor_RR /= np.linalg.norm(factor_RR, axis=1, keepdims=True)
    return given_correlation(factor_RR @ factor_RR.T, strength)


def given_correlation(correlation_RR: np.ndarray, strength: float) -> FullRank:
    """C = (1 − strength)·I + strength·`correlation_RR`. Raises UsageError if that is no correlation matrix."""
    matrix_RR = np.asarray(correlation_RR, dtype=np.float64)
    if not np.isfinite(matrix_RR).all() or np.abs(matrix_RR - matrix_RR.T).max() > 1e-6:
        raise UsageError("`correlation_GG` must be finite and symmetric; give (A + A.T) / 2")
    if np.abs(diagonal := np.diagonal(matrix_RR) - 1.0).max() > 1e-6:
        raise UsageError(f"`correlation_GG` has a diagonal up to {np.abs(diagonal).max():.3g} from 1; it must be 1")
    matrix_RR = strength * matrix_RR
    np.fill_diagonal(matrix_RR, 1.0)
    try:
        return FullRank(np.linalg.cholesky(matrix_RR).astype(np.float32))
    except np.linalg.LinAlgError as error:
        raise UsageError("the correlation matrix is not positive definite; lower `strength`, below 1") from error


def group_probabilities(z_SR: np.ndarray, weight_R: np.ndarray, l0: float, cost_R: np.ndarray) -> np.ndarray:
    """Mode "batch": Φ(z)·weight of each group of rows, rescaled to `l0` (see `rescaled`)."""
    phi_SR = torch.special.ndtr(torch.from_numpy(z_SR).double()).numpy()
    return rescaled(phi_SR * weight_R, l0, cost_R)


def mean_probabilities(
    correlation: Correlation, weight_R: np.ndarray, l0: float, cost_R: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The expectation of `group_probabilities`, estimated; Σ p·cost is `l0` all the same.

    Draws come in pairs ±z, so that the mean of Φ(z) is exactly ½ for each feature and only the scale varies.
    """
    total_R, left = np.zeros(len(weight_R)), PAIRS_OF_ESTIMATE
    with Progress("probabilities", PAIRS_OF_ESTIMATE, unit="pairs") as bar:
        while left:
            pairs = min(left, max(1, CHUNK // len(weight_R)))
            z_SR = correlation.normals(pairs, random)
            for opposite_SR in (z_SR, -z_SR):
                total_R += group_probabilities(opposite_SR, weight_R, l0, cost_R).sum(axis=0)
            left -= pairs
            bar.advance(pairs)
    return np.asarray(total_R / (2 * PAIRS_OF_ESTIMATE))


def _quantile(probability_R: np.ndarray) -> np.ndarray:
    return np.asarray(torch.special.ndtri(torch.from_numpy(probability_R)).float())


def _own(loading_RK: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(1.0 - np.square(loading_RK).sum(axis=1)))


def _normal(rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    """Standard normal [rows, columns] fp32, from torch, which is faster."""
    generator = torch.Generator().manual_seed(int(random.integers(2**63)))
    return np.asarray(torch.randn(rows, columns, generator=generator))

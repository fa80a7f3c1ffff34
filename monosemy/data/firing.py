"""How often features fire, and firings that are independent of each other.

Source: the interim report of Dec 2022 ("Taking features out of superposition with sparse autoencoders") for rescaling
to the L0 that is asked for. Only firings that happen are drawn: a trial of probability p is one in which at least one
event of a Poisson process of rate −ln(1−p) falls, and the events of all trials together are few. That is exact.

Shapes: R features (the roots of a forest), S groups of rows with probabilities of their own, P firings, written as one
whole number, row·R + feature.
"""

from __future__ import annotations

import numpy as np

from monosemy.runtime import UsageError

LEAST_WEIGHT = 1e-280  # of the largest; below, a feature never fires: the scale would overflow


def rescaled(weight_SR: np.ndarray, l0: float, cost_R: np.ndarray) -> np.ndarray:
    """Probabilities p = min(1, s·weight), with s such that Σ p·cost is exactly `l0` in each row of `weight_SR`.

    `cost_R` is how many firings a firing stands for (its tree; 1 in a flat world). A probability that would pass 1 is
    clipped and the others are solved for again. Raises UsageError where even p = 1 throughout does not reach `l0`.
    """
    weight_SR = weight_SR / weight_SR.max(axis=1, keepdims=True)
    weight_SR[weight_SR < LEAST_WEIGHT] = 0.0
    most = float(((weight_SR > 0) * cost_R).sum(axis=1).min())
    if l0 > most * (1 + 1e-12):
        raise UsageError(
            f"`l0` (={l0:g}) is more than can fire at once (={most:g}); lower l0, raise features, or raise decay"
        )
    clipped_SR = np.zeros(weight_SR.shape, dtype=bool)
    while True:
        rest_S = l0 - (clipped_SR * cost_R).sum(axis=1)
        free_S = np.where(clipped_SR, 0.0, weight_SR) @ cost_R
        scale_S = np.divide(rest_S, free_S, out=np.zeros_like(rest_S), where=free_S > 0)
        probability_SR = np.where(clipped_SR, 1.0, weight_SR * scale_S[:, None])
        over_SR = probability_SR > 1.0
        if not over_SR.any():
            return probability_SR
        clipped_SR |= over_SR


def independent(probability_SR: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
    """Firings of S·rows rows, the first `rows` of them with the first probabilities and so on; sorted."""
    groups, features = probability_SR.shape
    often_SR = probability_SR > 0.5
    rate_SR = -np.log1p(-np.where(often_SR, 0.0, probability_SR))
    first_SR = np.arange(groups)[:, None] * rows * features + np.arange(features)  # each trial's key in its first row
    key_P = np.repeat(first_SR.ravel(), random.poisson(rate_SR * rows).ravel())
    key_P += random.integers(rows, size=len(key_P)) * features
    found = sorted_once(key_P)
    if not often_SR.any():
        return found
    group_E, feature_E = often_SR.nonzero()
    entry_P, within_P = (random.random((len(group_E), rows)) < probability_SR[often_SR][:, None]).nonzero()
    dense_P = (group_E[entry_P] * rows + within_P) * features + feature_E[entry_P]
    return np.sort(np.concatenate([found, dense_P]))


def sorted_once(key_P: np.ndarray) -> np.ndarray:
    """The different values, in order; `key_P` itself is sorted."""
    key_P.sort()
    new_P = np.ones(len(key_P), dtype=bool)
    np.not_equal(key_P[1:], key_P[:-1], out=new_P[1:])
    return np.asarray(key_P[new_P])


def split_key(key_P: np.ndarray, features: int) -> tuple[np.ndarray, np.ndarray]:
    """(row, feature) of firings row·features + feature; several times faster than `np.divmod`."""
    row_P = key_P // features
    return row_P, key_P - row_P * features

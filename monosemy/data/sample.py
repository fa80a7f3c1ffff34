"""Rows of a synthetic world with the codes that made them: sparse sums of features, cut and joined with their codes.

Shapes: X rows, D = d_in, G features, P firings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding_bag

JITTER_PIECE = 8192  # firings whose directions are jittered at a time


class Codes(NamedTuple):
    """Firings, sorted by row, then feature, with their magnitudes."""

    row_P: torch.Tensor
    feature_P: torch.Tensor
    value_P: torch.Tensor


class Jitter(NamedTuple):
    """How much directions vary from firing to firing, and the seed of that."""

    size: float
    seed: int


@dataclass(frozen=True)
class Sample:
    """Rows with their true codes, sorted by row, then feature; rows are counted from 0."""

    x_XD: torch.Tensor
    """What an encoder sees."""
    target_XD: torch.Tensor
    """What it should give back; the same tensor as `x_XD` unless the input alone is noisy."""
    row_P: torch.Tensor
    feature_P: torch.Tensor
    value_P: torch.Tensor
    """Magnitudes, fp32, above 0."""
    n_features: int

    def codes_XG(self) -> torch.Tensor:
        """The codes as a dense matrix [X, G]."""
        codes_XG = torch.zeros(len(self.x_XD), self.n_features)
        codes_XG[self.row_P, self.feature_P] = self.value_P
        return codes_XG

    def rows(self, low: int, high: int) -> Sample:
        """Rows `low` … `high` − 1."""
        bounds = torch.searchsorted(self.row_P, torch.tensor([low, high])).tolist()
        firing = slice(bounds[0], bounds[1])
        x_XD = self.x_XD[low:high]
        target_XD = x_XD if self.target_XD is self.x_XD else self.target_XD[low:high]
        return Sample(
            x_XD, target_XD, self.row_P[firing] - low, self.feature_P[firing], self.value_P[firing], self.n_features
        )


def joined(parts: Sequence[Sample]) -> Sample:
    """One sample of the rows of all, in their order."""
    if len(parts) == 1:
        return parts[0]
    x_XD = torch.cat([part.x_XD for part in parts])
    clean = all(part.target_XD is part.x_XD for part in parts)
    target_XD = x_XD if clean else torch.cat([part.target_XD for part in parts])
    starts = np.cumsum([0, *(len(part.x_XD) for part in parts)]).tolist()
    row_P = torch.cat([part.row_P + start for part, start in zip(parts, starts, strict=False)])
    feature_P, value_P = torch.cat([part.feature_P for part in parts]), torch.cat([part.value_P for part in parts])
    return Sample(x_XD, target_XD, row_P, feature_P, value_P, parts[0].n_features)


def sums_of_features(codes: Codes, features_GD: torch.Tensor, rows: int, jitter: Jitter | None) -> torch.Tensor:
    """x = Σ value·F over the firings of each of `rows` rows; with jitter Σ value·normalise(F + size·g/√D), each g of
    N(0, I) drawn for one firing."""
    if jitter is None:
        start_X = torch.searchsorted(codes.row_P, torch.arange(rows))
        return embedding_bag(codes.feature_P, features_GD, start_X, mode="sum", per_sample_weights=codes.value_P)
    d_in = features_GD.shape[1]
    generator, x_XD = torch.Generator().manual_seed(jitter.seed), torch.zeros(rows, d_in)
    for start in range(0, len(codes.row_P), JITTER_PIECE):
        row_P, feature_P, value_P = (part[start : start + JITTER_PIECE] for part in codes)
        direction_PD = torch.randn(len(row_P), d_in, generator=generator).mul_(jitter.size / d_in**0.5)
        direction_PD += features_GD[feature_P]
        direction_PD *= (value_P / direction_PD.norm(dim=1))[:, None]
        x_XD.index_add_(0, row_P, direction_PD)
    return x_XD

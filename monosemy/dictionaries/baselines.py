"""What a dictionary must beat: the same contract, nothing learned or a classical method.

- neuron basis: the activation's own coordinates (S1's question is whether a feature "nets us anything" over them);
- random: unit directions, rectified projections, one scale fitted by least squares;
- PCA: principal directions, signed projections on them.

Codes of the linear ones are signed; a feature counts as active where its code is not 0.
Shapes: X rows, D = d_in, N = width.
"""

from __future__ import annotations

import torch

from monosemy.data.rows import RowSource
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.runtime import UsageError, generator_for

SAMPLE_ROWS = 65536
SAMPLE_BATCH = 4096


class LinearDictionary(Dictionary):
    """Signed codes c = (x − b_dec) W_decᵀ on orthonormal directions."""

    name = "linear"

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN`, of either sign."""
        return (x_BD - self.tensors["b_dec"]) @ self.W_dec_ND.T


def neuron_basis(d_in: int) -> Dictionary:
    """The identity: N = D, each feature one coordinate, x̂ = x."""
    return LinearDictionary({"W_dec": torch.eye(d_in), "b_dec": torch.zeros(d_in)}, {"baseline": "neurons"})


def random_directions(rows: RowSource, width: int, seed: int = 0) -> Dictionary:
    """N random unit directions; codes ReLU(s·(x−mean)·w), with s the scale that reconstructs best."""
    W_ND = torch.randn(width, rows.d_in, generator=generator_for("random directions", width, seed))
    W_ND /= W_ND.norm(dim=1, keepdim=True)
    sample_XD = sample(rows)
    mean_D = rows.statistics().mean_D
    centred_XD = sample_XD - mean_D
    guess_XD = torch.relu(centred_XD @ W_ND.T) @ W_ND
    scale = (centred_XD * guess_XD).sum() / guess_XD.square().sum()
    W_enc_ND = scale * W_ND
    tensors = {"W_enc": W_enc_ND, "b_enc": -(W_enc_ND @ mean_D), "W_dec": W_ND, "b_dec": mean_D.clone()}
    return ReluDictionary(tensors, {"baseline": "random"})


def pca(rows: RowSource, width: int | None = None) -> Dictionary:
    """The `width` (default: all D) principal directions of a sample of the rows, largest variance first."""
    width = rows.d_in if width is None else width
    if not 1 <= width <= rows.d_in:
        raise UsageError(
            f"`width` (={width}) of PCA must be from 1 to d_in (={rows.d_in}): there are no more directions"
        )
    sample_XD = sample(rows).double()
    mean_D = sample_XD.mean(dim=0)
    covariance_DD = (sample_XD - mean_D).T @ (sample_XD - mean_D) / len(sample_XD)
    directions_DD = torch.linalg.eigh(covariance_DD).eigenvectors.flip(1).T  # eigh sorts ascending
    tensors = {"W_dec": directions_DD[:width].float().contiguous(), "b_dec": mean_D.float()}
    return LinearDictionary(tensors, {"baseline": "pca"})


def sample(rows: RowSource, count: int = SAMPLE_ROWS) -> torch.Tensor:
    """Up to `count` shuffled rows `x_XD`, each at most once."""
    total = count if rows.n_rows is None else min(count, rows.n_rows)
    batch = min(SAMPLE_BATCH, total)
    stream = rows.batches(batch, seed=0)
    return torch.cat([x_BD for x_BD, _ in zip(stream, range(-(-total // batch)), strict=False)])[:total]

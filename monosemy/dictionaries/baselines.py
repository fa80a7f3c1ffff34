"""What a dictionary must beat: the same contract, nothing learned or a classical method; and the table of all.

- neuron basis: the activation's own coordinates (S1's question is whether a feature "nets us anything" over them);
- random: unit directions, rectified projections, one scale fitted by least squares;
- PCA: principal directions, signed projections on them;
- ICA, NMF and dictionary learning: see `classical.py`.

Codes of the linear ones (neurons, PCA, ICA) are signed; a feature counts as active where its code is not 0.
Shapes: X rows, D = d_in, N = width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from monosemy.data.rows import RowSource
from monosemy.dictionaries.classical import dictionary_learning, ica, nmf, principal_axes, sample
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.runtime import UsageError, generator_for


class LinearDictionary(Dictionary):
    """Signed codes c = (x − b_dec) W_decᵀ on orthonormal directions."""

    name = "linear"
    separate = True

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
    return ReluDictionary(tensors, {"baseline": "random", "seed": seed})


def pca(rows: RowSource, width: int | None = None) -> Dictionary:
    """The `width` (default: all D) principal directions of a sample of the rows, largest variance first.

    A direction's sign is the one that skews its codes to the positive.
    """
    width = rows.d_in if width is None else width
    if not 1 <= width <= rows.d_in:
        raise UsageError(
            f"`width` (={width}) of PCA must be from 1 to d_in (={rows.d_in}): there are no more directions"
        )
    mean_D, _, axes_DD = principal_axes(sample(rows))
    tensors = {"W_dec": axes_DD[:width].float().contiguous(), "b_dec": mean_D.float()}
    return LinearDictionary(tensors, {"baseline": "pca"})


def _said(dictionary: Dictionary, width: int) -> Dictionary:
    """The same, which says the width that was asked for where it has another."""
    if dictionary.width != width:
        dictionary.settings["asked_width"] = width
    return dictionary


# Every baseline as a function of (rows, width, seed). One that cannot have the width takes what it can, and says so.
BASELINES: dict[str, Callable[[RowSource, int, int], Dictionary]] = {
    "neurons": lambda rows, width, _: _said(neuron_basis(rows.d_in), width),
    "random": random_directions,
    "pca": lambda rows, width, _: _said(pca(rows, min(width, rows.d_in)), width),
    "ica": lambda rows, width, seed: _said(ica(rows, min(width, rows.d_in), seed), width),
    "nmf": lambda rows, width, seed: _said(nmf(rows, width, seed), width),
    "dictionary-learning": lambda rows, width, seed: _said(dictionary_learning(rows, width, seed), width),
}

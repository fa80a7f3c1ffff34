"""The sparse way of a training step: what variants whose codes are few add to the contract.

Only encoding is a dense product. It is made a few rows at a time, and of each piece only the chosen entries stay, so
nothing of the size B·N exists. Everything after that touches the F chosen entries: codes, penalty, decoding, ∂L/∂z.
The weights' gradients are summed feature by feature inside the update itself (`kernels/`).

A variant says which entries are chosen and what they cost; the rest of the step is the same for all
(`training/sparse_step.py`).

Shapes: B rows, R rows of a piece, D = d_in, N = width, F chosen entries of the batch; everything of one member.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from monosemy.dictionaries.variant import Hyper, Params, Variant
from monosemy.kernels.contract import Kernels
from monosemy.kernels.firings import Firings

PIECE = 2**24  # pre-activations of a piece, 64 MB: a product packs W_enc anew for each, so few rows would not pay


@dataclass(frozen=True)
class Encoder:
    """z = x W_encᵀ + b_enc in pieces."""

    x_BD: torch.Tensor
    W_enc_ND: torch.Tensor
    b_enc_N: torch.Tensor
    dtype: torch.dtype
    kernels: Kernels
    piece_RN: torch.Tensor

    @classmethod
    def of(cls, params: Params, x_BD: torch.Tensor, hyper: Hyper, kernels: Kernels, piece_RN: torch.Tensor) -> Encoder:
        """For the effective weights of one member."""
        weight_ND = params.get("W_enc", params["W_dec"])
        return cls(x_BD, weight_ND, params["b_enc"], hyper.dtype, kernels, piece_RN)

    def chosen(self, choose: Callable[[torch.Tensor], Firings]) -> Firings:
        """What `choose` takes of each piece `z_RN`, joined; its values are those of fp32 products.

        With another dtype that dtype decides which entries are chosen; the few that are get their exact z after.
        """
        weight_DN, x_BD = self.W_enc_ND.T, self.x_BD
        if self.dtype != torch.float32:
            weight_DN, x_BD = weight_DN.to(self.dtype), x_BD.to(self.dtype)
        found = []
        for part_RD in torch.split(x_BD, len(self.piece_RN)):
            z_RN = self.piece_RN[: len(part_RD)]
            if self.dtype == torch.float32:
                torch.addmm(self.b_enc_N, part_RD, weight_DN, out=z_RN)
            else:
                torch.add(part_RD @ weight_DN, self.b_enc_N, out=z_RN)
            found.append(choose(z_RN))
        firings = Firings.joined(found)
        if self.dtype == torch.float32:
            return firings
        exact_F = self.kernels.dots(firings, self.x_BD, self.W_enc_ND)
        return Firings(firings.start_B1, firings.feature_F, exact_F + self.b_enc_N[firings.feature_F])


@dataclass(frozen=True)
class Charge:
    """A penalty: its mean over the rows; ∂(its sum over the rows)/∂code of each entry; and by how much of itself each
    decoder row is pulled, where the penalty depends on its length."""

    value: torch.Tensor
    slope_F: torch.Tensor | None = None
    pull_N: torch.Tensor | None = None


@dataclass(frozen=True)
class Backed:
    """∂L/∂z of each entry; gradients of what only this variant has; what its `track` wants."""

    dz_F: torch.Tensor
    own: Params = field(default_factory=dict)
    extra: Params = field(default_factory=dict)


class SparseVariant(Variant):
    """A variant with a linear encoder and few codes: z = W_enc x + b_enc, of which some entries are chosen."""

    counted: ClassVar[bool] = False  # how many entries are chosen is known beforehand: k a row

    @abstractmethod
    def choose(self, params: Params, encoder: Encoder, hyper: Hyper) -> Firings:
        """The entries that matter, with z as their value."""

    def codes(self, params: Params, firings: Firings, hyper: Hyper) -> torch.Tensor:
        """`code_F` from the entries' z."""
        return torch.relu(firings.value_F)

    def charge(self, params: Params, firings: Firings, code_F: torch.Tensor, hyper: Hyper) -> Charge:
        """The penalty on the codes: none."""
        return Charge(code_F.new_zeros(()))

    def back(
        self, params: Params, firings: Firings, code_F: torch.Tensor, dcode_F: torch.Tensor, hyper: Hyper
    ) -> Backed:
        """From ∂L/∂code to ∂L/∂z: ReLU's derivative."""
        return Backed(dcode_F * (code_F != 0))

    def levels(self, width: int) -> tuple[int, ...]:
        """The widths of the nested dictionaries that are each to reconstruct the target; one is the whole."""
        return (width,)

"""The optimiser: Adam on every row of the parameters, with decoder rows kept at norm 1.

One step is torch.optim.Adam's, member by member. What it needs is kept by name: running means of the gradient and of
its square. The step itself is a kernel (`kernels/`): the part of a decoder row's gradient along that row is taken out,
Adam moves the row, its norm is restored, all in one pass. Learning rates are per row, so members may differ in theirs,
and a feature that was resampled can start slowly; a negative one leaves a row as it is.

Shapes: M members, N width; R rows of a parameter laid out as a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from monosemy.dictionaries.stacked import members_of
from monosemy.dictionaries.variant import Params
from monosemy.runtime import UsageError

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Optimiser:
    """What is done to gradients before, and to weights after, a step of Adam."""

    clip: float = 0.1
    """Largest norm of a member's gradient, in units of training; above it the gradient is scaled down (0: never). So
    small a one holds for most of a run: else the large first gradients stay in Adam's second moments for the next
    thousand steps and slow them."""
    ema: float = 0.0
    """Decay of an exponential average of the weights, which is what is exported then (0: the weights themselves)."""

    def __post_init__(self) -> None:
        if not self.clip >= 0:
            raise UsageError(f"`clip` (={self.clip}) must be a norm of at least 0; 0 clips nothing")
        if not 0 <= self.ema < 1:
            raise UsageError(f"`ema` (={self.ema}) must be a decay of at least 0 and below 1; 0 averages nothing")


@dataclass(frozen=True)
class Rates:
    """Learning rates, of a stack or (without M) a member: of each feature's rows, and of what is not a feature's.
    Where one is negative nothing changes."""

    feature_MN: torch.Tensor
    member_M: torch.Tensor

    def of_members(self, part: slice) -> Rates:
        """Those of some members."""
        return Rates(self.feature_MN[part], self.member_M[part])

    def of_member(self, member: int, failed: torch.Tensor) -> Rates:
        """Those of one member; negative where it has failed."""
        return Rates(*(torch.where(failed, -1.0, rate[member]) for rate in (self.feature_MN, self.member_M)))


@dataclass(frozen=True)
class Moments:
    """Adam's running means, by the parameter's name, in its shape."""

    mean: Params
    square: Params

    @classmethod
    def zeros(cls, trained: Mapping[str, torch.Tensor]) -> Moments:
        """Before the first step."""
        return cls(*({name: torch.zeros_like(tensor) for name, tensor in trained.items()} for _ in range(2)))

    def of_members(self, part: slice) -> Moments:
        """Those of some members: views."""
        return Moments(members_of(self.mean, part), members_of(self.square, part))

    def forget(self, member: int, features_U: torch.Tensor, of_member: tuple[str, ...]) -> None:
        """Back to zero for these features of a member."""
        for kept in (self.mean, self.square):
            for name, tensor in kept.items():
                if name not in of_member:
                    tensor[member, features_U] = 0


def clip_factor(square_norm: torch.Tensor, clip: float) -> torch.Tensor:
    """By what a gradient of this squared norm is multiplied (torch.nn.utils.clip_grad_norm_'s formula)."""
    return (clip / (square_norm.sqrt() + 1e-6)).clamp_max(1.0)


def as_rows(tensor: torch.Tensor, leading: int) -> torch.Tensor:
    """A view with the first `leading` axes as rows and the rest as columns (one column where there is no rest)."""
    return tensor.reshape(tensor.shape[:leading].numel(), -1)

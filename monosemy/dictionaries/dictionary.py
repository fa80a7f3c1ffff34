"""The two contracts: `Dictionary`, which everything downstream uses, and `Variant`, which training steps.

A dictionary writes an activation x as codes c ≥ 0 times directions: x̂ = c · W_dec + b_dec. Every metric, analysis,
baseline and imported file speaks only `Dictionary`.

A variant is the recipe for one kind of dictionary, as pure functions on parameters with a leading member axis M:
members of one shape are stepped together. `loss` is the formula of the paper for one member, in plain torch that
autograd can follow; `gradients` is the same, stacked, by hand and into buffers. The first is the oracle of the second.

Shapes: B rows, D = d_in, N = width, M members, K = most active features of any row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

Params = dict[str, torch.Tensor]


class Dictionary(ABC):
    """N directions in activation space and a way to write an activation with few of them.

    Subclasses keep their tensors in `tensors` and their numbers in `settings`, so that any of them can be moved, saved
    and loaded by the same code.
    """

    name: ClassVar[str]

    def __init__(self, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None = None) -> None:
        self.tensors = dict(tensors)
        self.settings = dict(settings or {})

    @property
    def W_dec_ND(self) -> torch.Tensor:
        """The features' directions, one a row."""
        return self.tensors["W_dec"]

    @property
    def width(self) -> int:
        """N, the number of features."""
        return self.W_dec_ND.shape[0]

    @property
    def d_in(self) -> int:
        """D, the width of the activations."""
        return self.W_dec_ND.shape[1]

    @abstractmethod
    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """How much of each feature is in each row: `codes_BN`."""

    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """The rows that codes stand for: `x̂_BD`."""
        bias_D = self.tensors.get("b_dec")
        product_BD = codes_BN @ self.W_dec_ND
        return product_BD if bias_D is None else product_BD + bias_D

    def encode_sparse(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The non-zero codes only: `values_BK` and `indices_BK`, largest magnitude first, padded with zero values."""
        codes_BN = self.encode(x_BD)
        most = int((codes_BN != 0).sum(dim=1).max()) if len(codes_BN) else 0
        indices_BK = codes_BN.abs().topk(most, dim=1).indices
        return codes_BN.gather(1, indices_BK), indices_BK

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """decode(encode(x)): `x̂_BD`."""
        return self.decode(self.encode(x_BD))

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        return type(self)({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.settings)


@dataclass(frozen=True)
class Shape:
    """Members of one stack are alike in this."""

    members: int
    d_in: int
    width: int
    batch: int


@dataclass
class Hyper:
    """Per-member numbers at one step. `l1_M` is λ of the "sum" convention; `k_M` is for variants that keep k codes."""

    l1_M: torch.Tensor
    k_M: torch.Tensor
    norm_weighted: bool = False


@dataclass
class StepStatistics:
    """What a step knows for free: the loss's parts (means over rows) and which features were active at all."""

    reconstruction_M: torch.Tensor
    penalty_M: torch.Tensor
    fired_MN: torch.Tensor

    @property
    def loss_M(self) -> torch.Tensor:
        """Reconstruction + penalty."""
        return self.reconstruction_M + self.penalty_M


@dataclass
class Workspace:
    """Buffers of one stack, allocated once: a step allocates nothing of the size M·B·N or M·N·D."""

    codes_MBN: torch.Tensor
    dcodes_MBN: torch.Tensor
    residual_MBD: torch.Tensor
    grads: Params = field(default_factory=dict)

    @classmethod
    def of(cls, shape: Shape, params: Params) -> Workspace:
        """Buffers for these parameters."""
        example = next(iter(params.values()))
        size_MBN = (shape.members, shape.batch, shape.width)
        return cls(
            example.new_empty(size_MBN),
            example.new_empty(size_MBN),
            example.new_empty(shape.members, shape.batch, shape.d_in),
            {name: torch.zeros_like(tensor) for name, tensor in params.items()},
        )


class Variant(ABC):
    """The recipe for one kind of dictionary. Stateless: parameters go in and out."""

    name: ClassVar[str]
    sparsity: ClassVar[str]  # the dial of this variant: "l1" or "k"

    @abstractmethod
    def init(self, shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
        """Fresh parameters; a member's depend on its own seed and shape only. `mean_D` None: no decoder bias."""

    @abstractmethod
    def loss(self, params: Params, x_BD: torch.Tensor, hyper: Hyper) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction and penalty of one member (parameters without M), differentiable by autograd."""

    @abstractmethod
    def gradients(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> StepStatistics:
        """The gradient of every member's loss, into `work.grads`."""

    @abstractmethod
    def export(self, params: Params, hyper: Hyper, scale: float) -> Dictionary:
        """The dictionary for raw activations, from one member trained on `scale` times them; unit-norm rows."""

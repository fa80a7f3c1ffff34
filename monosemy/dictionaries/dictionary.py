"""The two contracts: `Dictionary`, which everything downstream uses, and `Variant`, which training steps.

A dictionary writes an activation x as codes c ≥ 0 times directions: x̂ = c · W_dec + b_dec. Every metric, analysis,
baseline and imported file speaks only `Dictionary`.

A variant is the recipe for one kind of dictionary, as pure functions on parameters with a leading member axis M:
members of one shape are stepped together. `loss` is the formula of the paper for one member, in plain torch that
autograd can follow; `gradients` is the same, stacked, by hand and into buffers. The first is the oracle of the second.

A stack's gradients are computed a few members at a time on a CPU: codes go through memory a dozen times a step, and
codes of so few stay in its cache. Buffers are features first, `codes_MNB`: every product then has its long side in
rows, and sums over the batch run along memory.

Shapes: B rows, D = d_in, N = width, M members (of the stack, or of the part at hand), K = most active features of any
row.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch

Params = dict[str, torch.Tensor]

PART_CODES = 2**20  # of a CPU's part, so that they and their gradient are 8 MB: in its cache, yet few parts


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
    """Per-member numbers at one step. `l1_M` is λ of the "sum" convention; `k_M` is for variants that keep k codes;
    `noise_M` is σ for variants whose encoder sees x + σ·g, and `noise_BD` this step's g (None: x is seen as it is)."""

    l1_M: torch.Tensor
    k_M: torch.Tensor
    norm_weighted: bool = False
    noise_M: torch.Tensor | None = None
    noise_BD: torch.Tensor | None = None

    def member(self, index: int | slice) -> Hyper:
        """The numbers of one member, without M; or of a slice of them."""
        noise = None if self.noise_M is None else self.noise_M[index]
        return replace(self, l1_M=self.l1_M[index], k_M=self.k_M[index], noise_M=noise)


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

    @classmethod
    def joined(cls, parts: Sequence[StepStatistics]) -> StepStatistics:
        """Of a stack, from those of its parts."""
        if len(parts) == 1:
            return parts[0]
        names = [each.name for each in fields(cls)]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@dataclass
class Workspace:
    """Buffers of one stack, allocated once: a step allocates nothing of the size M·B·N or M·N·D.

    `codes_MNB` and `dcodes_MNB` are of one part of the stack; the others of all of it.
    """

    codes_MNB: torch.Tensor
    dcodes_MNB: torch.Tensor
    residual_MDB: torch.Tensor
    grads: Params = field(default_factory=dict)

    @classmethod
    def of(cls, shape: Shape, params: Params) -> Workspace:
        """Buffers for these parameters."""
        example = next(iter(params.values()))
        members = shape.members
        if example.device.type == "cpu":
            most = max(1, PART_CODES // (shape.batch * shape.width))
            members = math.ceil(members / math.ceil(members / most))  # parts of like size
        size_MNB = (members, shape.width, shape.batch)
        return cls(
            example.new_empty(size_MNB),
            example.new_empty(size_MNB),
            example.new_empty(shape.members, shape.d_in, shape.batch),
            {name: torch.zeros_like(tensor) for name, tensor in params.items()},
        )

    @property
    def residual_MBD(self) -> torch.Tensor:
        """x̂ − target of the last step, rows first: a view."""
        return self.residual_MDB.mT

    def parts(self) -> Iterator[tuple[slice, Workspace]]:
        """The members of each part, and the workspace for them alone."""
        members, most = len(self.residual_MDB), len(self.codes_MNB)
        for first in range(0, members, most):
            part = slice(first, min(first + most, members))
            count = part.stop - first
            grads = {name: tensor[part] for name, tensor in self.grads.items()}
            yield part, Workspace(self.codes_MNB[:count], self.dcodes_MNB[:count], self.residual_MDB[part], grads)


class Variant(ABC):
    """The recipe for one kind of dictionary. Stateless: parameters go in and out.

    What is reconstructed is `target_BD`, or x itself where that is None.
    """

    name: ClassVar[str]
    sparsity: ClassVar[str]  # the dial of this variant: "l1" or "k"
    noisy: ClassVar[bool] = False  # the encoder sees noise, so that members have a `noise`

    @abstractmethod
    def init(self, shape: Shape, seeds: Sequence[int], mean_D: torch.Tensor | None) -> Params:
        """Fresh parameters; a member's depend on its own seed and shape only. `mean_D` None: no decoder bias."""

    def seen(self, x_BD: torch.Tensor, hyper: Hyper) -> torch.Tensor:
        """What the encoder is given for the rows x: they themselves, or `x_MBD` where members see different ones."""
        return x_BD

    @abstractmethod
    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BD: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction and penalty of one member (parameters without M), differentiable by autograd."""

    @abstractmethod
    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """The codes of every member of a part into `work.codes_MNB`."""

    @abstractmethod
    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BD: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """What `gradients` promises, for one part whose codes are in the workspace; `x_BD` is what the encoder saw,
        or `x_MBD`."""

    def gradients(
        self,
        params: Params,
        x_BD: torch.Tensor,
        hyper: Hyper,
        work: Workspace,
        target_BD: torch.Tensor | None = None,
    ) -> StepStatistics:
        """The gradient of every member's loss into `work.grads`, as autograd would give it for `loss`; x̂ − target is
        left in `work.residual_MDB`."""
        # Laid out as the codes are; the copy is that of one batch.
        x_BD = x_BD.T.contiguous().T
        target_BD = x_BD if target_BD is None else target_BD.T.contiguous().T
        found = []
        for part, work_of_part in work.parts():
            own, numbers = {name: tensor[part] for name, tensor in params.items()}, hyper.member(part)
            seen = self.seen(x_BD, numbers)
            self.encode(own, seen, numbers, work_of_part)
            found.append(self.backward(own, seen, target_BD, numbers, work_of_part))
        return StepStatistics.joined(found)

    def mean_l0(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> torch.Tensor:
        """Mean number of active features of these rows: `l0_M`."""
        found = []
        for part, work_of_part in work.parts():
            own, numbers = {name: tensor[part] for name, tensor in params.items()}, hyper.member(part)
            self.encode(own, self.seen(x_BD, numbers), numbers, work_of_part)
            found.append((work_of_part.codes_MNB != 0).sum(dim=(1, 2)) / len(x_BD))
        return torch.cat(found)

    @abstractmethod
    def export(self, params: Params, hyper: Hyper, scale: float) -> Dictionary:
        """The dictionary for raw activations, from one member trained on `scale` times them; unit-norm rows."""

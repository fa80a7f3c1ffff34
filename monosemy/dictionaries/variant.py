"""The contract of training: a `Variant` is the recipe for one kind of dictionary.

It is pure functions on parameters with a leading member axis M: members of one shape are stepped together. `loss` is
the formula of the paper for one member, in plain torch that autograd can follow; `gradients` is the same, stacked, by
hand and into buffers. The first is the oracle of the second.

On a CPU a stack's gradients are computed a few members at a time, whose codes stay in its cache. Buffers are features
first, `codes_MNB`: every product then has its long side in rows, and sums over the batch run along memory. Variants
whose codes are sparse have a second way that never makes anything of the size B·N or N·D (`sparse.py`).

Shapes: B rows, D = d_in, E = d_out, N = width, M members (of the stack, or of the part at hand).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

import torch

from monosemy.dictionaries.dictionary import Dictionary

Params = dict[str, torch.Tensor]

PART_CODES = 2**20  # of a CPU's part, so that they and their gradient are 8 MB: in its cache, yet few parts


@dataclass(frozen=True)
class Shape:
    """Members of one stack are alike in this. `sites` are the widths of sites side by side in a row."""

    members: int
    d_in: int
    width: int
    batch: int
    d_out: int = 0
    sites: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "d_out", self.d_out or self.d_in)


@dataclass(frozen=True)
class Centre:
    """Where the rows lie, in the units of training: what is encoded, and what is reconstructed."""

    seen_D: torch.Tensor
    target_E: torch.Tensor


@dataclass(frozen=True)
class Scaling:
    """Training sees x · seen_D and is to give y · target_E, for raw rows x and targets y."""

    seen_D: torch.Tensor
    target_E: torch.Tensor

    @property
    def is_uniform(self) -> bool:
        """Whether all targets' coordinates are scaled alike, so that all features' lengths are."""
        return bool((self.target_E == self.target_E[0]).all())


@dataclass
class Hyper:
    """Per-member numbers at one step. `l1_M` is λ of the "sum" convention; `k_M` is for variants that count features;
    `noise_M` is σ where the encoder sees x + σ·g, `noise_BD` this step's g (None: x is seen as it is); `progress` is
    the share of the run that is done; `sparsity` is the schedule's factor, in `l1_M` already; `dtype` is products'."""

    l1_M: torch.Tensor
    k_M: torch.Tensor
    norm_weighted: bool = False
    noise_M: torch.Tensor | None = None
    noise_BD: torch.Tensor | None = None
    progress: float = 1.0
    sparsity: float = 1.0
    sites: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32

    def member(self, index: int | slice) -> Hyper:
        """The numbers of one member, without M; or of a slice of them."""
        noise = None if self.noise_M is None else self.noise_M[index]
        return replace(self, l1_M=self.l1_M[index], k_M=self.k_M[index], noise_M=noise)


@dataclass
class StepStatistics:
    """What a step knows for free: the loss's parts (means over rows), which features were active at all, and what a
    variant's `track` wants."""

    reconstruction_M: torch.Tensor
    penalty_M: torch.Tensor
    fired_MN: torch.Tensor
    extra: Params = field(default_factory=dict)

    @property
    def loss_M(self) -> torch.Tensor:
        """Reconstruction + penalty."""
        return self.reconstruction_M + self.penalty_M

    @classmethod
    def joined(cls, parts: Sequence[StepStatistics]) -> StepStatistics:
        """Of a stack, from those of its parts."""
        if len(parts) == 1:
            return parts[0]
        names = [each.name for each in fields(cls) if each.name != "extra"]
        extra = {name: torch.cat([part.extra[name] for part in parts]) for name in parts[0].extra}
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, extra=extra)


@dataclass
class Workspace:
    """Buffers of one stack, allocated once: a dense step allocates nothing of the size M·B·N or M·N·D.

    `codes_MNB` and `dcodes_MNB` are of one part of the stack; the others of all of it.
    """

    codes_MNB: torch.Tensor
    dcodes_MNB: torch.Tensor
    residual_MEB: torch.Tensor
    grads: Params = field(default_factory=dict)

    @classmethod
    def of(cls, shape: Shape, params: Params) -> Workspace:
        """Buffers for these parameters, which gradients train."""
        example = next(iter(params.values()))
        members = shape.members
        if example.device.type == "cpu":
            most = max(1, PART_CODES // (shape.batch * shape.width))
            members = math.ceil(members / math.ceil(members / most))  # parts of like size
        size_MNB = (members, shape.width, shape.batch)
        return cls(
            example.new_empty(size_MNB),
            example.new_empty(size_MNB),
            example.new_empty(shape.members, shape.d_out, shape.batch),
            {name: torch.zeros_like(tensor) for name, tensor in params.items()},
        )

    @property
    def residual_MBE(self) -> torch.Tensor:
        """x̂ − target of the last step, rows first: a view."""
        return self.residual_MEB.mT

    def parts(self) -> Iterator[tuple[slice, Workspace]]:
        """The members of each part, and the workspace for them alone."""
        members, most = len(self.residual_MEB), len(self.codes_MNB)
        for first in range(0, members, most):
            part = slice(first, min(first + most, members))
            yield part, self.of_members(part)

    def of_members(self, part: slice) -> Workspace:
        """The workspace for some members alone."""
        count = part.stop - part.start
        grads = {name: tensor[part] for name, tensor in self.grads.items()}
        return Workspace(self.codes_MNB[:count], self.dcodes_MNB[:count], self.residual_MEB[part], grads)


class Variant(ABC):
    """The recipe for one kind of dictionary. Stateless: parameters go in and out.

    What is reconstructed is `target_BE`, or x itself where that is None. Every variant has `W_enc`, `b_enc` (what is
    encoded before anything is chosen; a tied one has no `W_enc`), `W_dec` and, unless asked for none, `b_dec`."""

    name: ClassVar[str]
    sparsity: ClassVar[Literal["l1", "k"]]  # the dial
    reads: ClassVar[Literal["rows", "pairs", "sites"]] = "rows"  # what it is trained on
    noisy: ClassVar[bool] = False  # the encoder sees noise, so that members have a `noise`
    free_norms: ClassVar[bool] = False  # decoder rows are never put to norm 1 in training
    tracked: ClassVar[tuple[str, ...]] = ()  # parameters that `track` sets, not a gradient
    pace: ClassVar[float] = 1.0  # times the default learning rate (docs/defaults.md)
    usual_l1: ClassVar[float] = 0.06
    of_member: ClassVar[tuple[str, ...]] = ("b_dec",)  # parameters that are not one row a feature

    @abstractmethod
    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """Fresh parameters; a member's depend on its own seed and shape only. `centre` None: no decoder bias."""

    def seen(self, x_BD: torch.Tensor, hyper: Hyper) -> torch.Tensor:
        """What the encoder is given for the rows x: they themselves, or `x_MBD` where members see different ones."""
        return x_BD

    def effective(self, params: Params) -> Params:
        """The weights that are used, where the trained parameters stand for others."""
        return params

    @abstractmethod
    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Reconstruction and penalty of one member (parameters without M), differentiable by autograd."""

    @abstractmethod
    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """The codes of every member of a part into `work.codes_MNB`, with effective weights."""

    @abstractmethod
    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """What `gradients` promises, for one part whose codes are in the workspace; `x_BD` is what the encoder saw,
        or `x_MBD`. Gradients are those of the effective weights."""

    def gradients(
        self,
        params: Params,
        x_BD: torch.Tensor,
        hyper: Hyper,
        work: Workspace,
        target_BE: torch.Tensor | None = None,
    ) -> StepStatistics:
        """The gradient of every member's loss by its effective weights into `work.grads`; x̂ − target is left in
        `work.residual_MEB`. `chain` then makes it what autograd would give for `loss`."""
        # Laid out as the codes are; the copy is that of one batch.
        x_BD = x_BD.T.contiguous().T
        target_BE = x_BD if target_BE is None else target_BE.T.contiguous().T
        found = []
        for own, numbers, work_of_part in self._parts(params, hyper, work):
            seen = self.seen(x_BD, numbers)
            self.encode(own, seen, numbers, work_of_part)
            found.append(self.backward(own, seen, target_BE, numbers, work_of_part))
        return StepStatistics.joined(found)

    def chain(self, params: Params, grads: Params) -> None:
        """From gradients by effective weights to those by the parameters, in place."""

    def track(self, params: Params, statistics: StepStatistics, hyper: Hyper) -> None:
        """Set the `tracked` parameters after a step, in place."""

    def revive(self, params: Params, features_U: torch.Tensor) -> None:
        """What else these features of one member need when they get new encoder and decoder rows, in place."""

    def mean_l0(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> torch.Tensor:
        """Mean number of active features of these rows: `l0_M`."""
        found = []
        for own, numbers, work_of_part in self._parts(params, hyper, work):
            self.encode(own, self.seen(x_BD, numbers), numbers, work_of_part)
            found.append((work_of_part.codes_MNB != 0).sum(dim=(1, 2)) / len(x_BD))
        return torch.cat(found)

    def _parts(self, params: Params, hyper: Hyper, work: Workspace) -> Iterator[tuple[Params, Hyper, Workspace]]:
        for part, work_of_part in work.parts():
            own = {name: tensor[part] for name, tensor in params.items()}
            yield self.effective(own), hyper.member(part), work_of_part

    @abstractmethod
    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """The dictionary for raw activations, from one member's parameters; unit-norm rows."""

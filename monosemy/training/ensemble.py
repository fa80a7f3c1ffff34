"""M dictionaries of one variant and width, stepped together.

A step: gradients by hand (the variant's), the part of them along the unit-norm decoder rows taken out, fused Adam,
rows put back to norm 1. Adam is torch's own, over one parameter group for each run of members with equal learning rate.

Shapes: M members, B rows, N width, D = d_in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import torch

from monosemy.data.rows import RowStatistics
from monosemy.dictionaries.dictionary import Dictionary, Hyper, Params, Shape, StepStatistics, Variant, Workspace
from monosemy.dictionaries.store import VARIANTS
from monosemy.training.settings import Member, TrainSettings

BETAS = (0.9, 0.999)


class Ensemble:
    """A stack in training. `members` are alike in variant and width and ordered by learning rate."""

    def __init__(
        self,
        members: Sequence[Member],
        settings: TrainSettings,
        statistics: RowStatistics,
        device: torch.device,
        batch: int,
    ) -> None:
        self.members = sorted(members, key=lambda member: member.lr)
        self.variant: Variant = VARIANTS[self.members[0].variant]
        self.device, self.settings = device, settings
        self.scale = 1.0 / statistics.mean_norm if settings.scale == "unit" and statistics.mean_norm > 0 else 1.0
        mean_D = statistics.mean_D * self.scale if settings.decoder_bias else None
        self.shape = Shape(len(self.members), len(statistics.mean_D), self.members[0].width, batch)
        params = self.variant.init(self.shape, [member.seed for member in self.members], mean_D)
        self.params: Params = {name: tensor.to(device) for name, tensor in params.items()}
        self.work = Workspace.of(self.shape, self.params)
        self.hyper = self._hyper()
        # Only an L1 penalty can do without unit rows: rescaling rows would change which k codes are the largest.
        self.unit_norm = settings.penalty != "norm-weighted" or self.variant.sparsity != "l1"
        self.adam = self._adam()
        self.step_count = 0
        self.last_fired_MN = torch.zeros(self.shape.members, self.shape.width, dtype=torch.int64, device=device)

    def _hyper(self) -> Hyper:
        weights = [member.penalty_weight(self.settings.penalty, self.shape.d_in) for member in self.members]
        counts = [member.k or 0 for member in self.members]
        l1_M, k_M = torch.tensor(weights, device=self.device), torch.tensor(counts, device=self.device)
        return Hyper(l1_M, k_M, self.settings.penalty == "norm-weighted")

    def _adam(self) -> torch.optim.Adam:
        groups = []
        first = 0
        for lr, run in groupby(self.members, key=lambda member: member.lr):
            last = first + len(list(run))
            slices = []
            for name, tensor in self.params.items():
                piece = tensor[first:last]
                piece.grad = self.work.grads[name][first:last]
                slices.append(piece)
            groups.append({"params": slices, "lr": lr, "full_lr": lr})
            first = last
        return torch.optim.Adam(groups, betas=BETAS, fused=True)

    def step(self, x_BD: torch.Tensor, lr_factor: float = 1.0, l1_factor: float = 1.0) -> StepStatistics:
        """One step of every member on the same raw rows (on this ensemble's device)."""
        hyper = Hyper(self.hyper.l1_M * l1_factor, self.hyper.k_M, self.hyper.norm_weighted)
        rows_BD = x_BD if self.scale == 1.0 else x_BD * self.scale
        statistics = self.variant.gradients(self.params, rows_BD, hyper, self.work)
        if self.unit_norm:
            self._project_gradient()
        for group in self.adam.param_groups:
            group["lr"] = group["full_lr"] * lr_factor
        self.adam.step()
        if self.unit_norm:
            self._restore_norm()
        self.step_count += 1
        self.last_fired_MN.masked_fill_(statistics.fired_MN, self.step_count)
        return statistics

    def _project_gradient(self) -> None:
        """Take out what would change the rows' length: the gradient of the loss as a function of the direction."""
        W_dec_MND, grad_MND = self.params["W_dec"], self.work.grads["W_dec"]
        along_MN = torch.linalg.vecdot(grad_MND, W_dec_MND)
        grad_MND.addcmul_(W_dec_MND, along_MN[:, :, None], value=-1)

    def _restore_norm(self) -> None:
        W_dec_MND = self.params["W_dec"]
        W_dec_MND.div_(torch.linalg.vector_norm(W_dec_MND, dim=2, keepdim=True))

    def metrics(self, statistics: StepStatistics) -> list[dict[str, float]]:
        """Loss parts, mean L0 of the last batch and dead features, one dict a member."""
        l0_M = (self.work.codes_MBN != 0).sum(dim=(1, 2)) / self.shape.batch
        dead_M = (self.step_count - self.last_fired_MN >= self.settings.dead_after).sum(dim=1)
        columns = {
            "loss": statistics.loss_M,
            "reconstruction": statistics.reconstruction_M,
            "l0": l0_M,
            "dead": dead_M,
        }
        rows = torch.stack([column.double() for column in columns.values()], dim=1).tolist()
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def export(self, index: int) -> Dictionary:
        """Member `index` of `members` as a dictionary for raw activations, on the CPU."""
        params = {name: tensor[index].cpu().clone() for name, tensor in self.params.items()}
        hyper = Hyper(self.hyper.l1_M[index].cpu(), self.hyper.k_M[index].cpu(), self.hyper.norm_weighted)
        return self.variant.export(params, hyper, self.scale)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a step depends on, by name."""
        state = {f"params.{name}": tensor for name, tensor in self.params.items()}
        for group, settings in enumerate(self.adam.param_groups):
            for place, piece in enumerate(settings["params"]):
                for name, tensor in self.adam.state[piece].items():
                    state[f"adam.{group}.{place}.{name}"] = tensor
        state["last_fired"] = self.last_fired_MN
        state["step_count"] = torch.tensor(self.step_count)
        return state

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state()` gave."""
        for name, tensor in self.params.items():
            tensor.copy_(state[f"params.{name}"])
        for group, settings in enumerate(self.adam.param_groups):
            for place, piece in enumerate(settings["params"]):
                prefix = f"adam.{group}.{place}."
                found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
                self.adam.state[piece] = {name: value.to(self.device).clone() for name, value in found.items()}
        self.last_fired_MN.copy_(state["last_fired"])
        self.step_count = int(state["step_count"])


def ensembles_of(
    members: Sequence[Member], settings: TrainSettings, statistics: RowStatistics, device: torch.device, batch: int
) -> list[Ensemble]:
    """One stack for each variant and width (padding to the widest would cost more than it gives)."""
    kinds = dict.fromkeys((member.variant, member.width) for member in members)
    return [
        Ensemble([m for m in members if (m.variant, m.width) == kind], settings, statistics, device, batch)
        for kind in kinds
    ]

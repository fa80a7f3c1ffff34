"""M dictionaries of one variant and width, stepped together.

A step: gradients by hand (the variant's, and a remedy's for dead features), the part of them along the unit-norm
decoder rows taken out, fused Adam, rows put back to norm 1. Adam is torch's own, over one parameter group for each run
of members with equal learning rate.

Shapes: M members, B rows, N width, D = d_in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch

from monosemy.data.rows import RowStatistics
from monosemy.dictionaries.dictionary import Dictionary, Hyper, Params, Shape, StepStatistics, Variant, Workspace
from monosemy.dictionaries.store import VARIANTS
from monosemy.runtime import generator_for
from monosemy.training.dead import add_dead_gradients
from monosemy.training.resample import copies, replace_features
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
        self.last_rows_BD: torch.Tensor | None = None
        self.last_fired_MN = torch.zeros(self.shape.members, self.shape.width, dtype=torch.int64, device=device)
        self.resampled_MN = torch.full_like(self.last_fired_MN, -settings.dead.resample_warmup)

    def _hyper(self) -> Hyper:
        weights = [member.penalty_weight(self.settings.penalty, self.shape.d_in) for member in self.members]
        counts = [member.k or 0 for member in self.members]
        l1_M, k_M = torch.tensor(weights, device=self.device), torch.tensor(counts, device=self.device)
        noise_M = None
        if self.variant.noisy:
            noise_M = torch.tensor([member.noise or 0.0 for member in self.members], device=self.device)
        return Hyper(l1_M, k_M, self.settings.penalty == "norm-weighted", noise_M)

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

    def hyper_now(self, l1_factor: float = 1.0) -> Hyper:
        """The members' numbers at the coming step, with its noise for variants that want it."""
        noise_BD = None
        if self.variant.noisy:
            generator = generator_for("noise", self.step_count, device=self.device)
            shape = (self.shape.batch, self.shape.d_in)
            noise_BD = torch.randn(shape, generator=generator, device=self.device)
        return replace(self.hyper, l1_M=self.hyper.l1_M * l1_factor, noise_BD=noise_BD)

    def step(
        self,
        x_BD: torch.Tensor,
        lr_factor: float = 1.0,
        l1_factor: float = 1.0,
        target_BD: torch.Tensor | None = None,
    ) -> StepStatistics:
        """One step of every member on the same raw rows (on this ensemble's device), towards `target_BD` if given."""
        hyper = self.hyper_now(l1_factor)
        rows_BD = self.last_rows_BD = self._scaled(x_BD)
        target_BD = None if target_BD is None else self._scaled(target_BD)
        statistics = self.variant.gradients(self.params, rows_BD, hyper, self.work, target_BD)
        if self.settings.dead.remedy in ("ghost", "auxk") and (dead_MN := self.dead_MN()).any():
            seen = self.variant.seen(rows_BD, hyper)
            add_dead_gradients(self.settings.dead, self.params, seen, dead_MN, self.work)
        if self.unit_norm:
            self._project_gradient()
        for group in self.adam.param_groups:
            group["lr"] = group["full_lr"] * lr_factor
        self._adam_step()
        if self.unit_norm:
            self._restore_norm()
        self.step_count += 1
        self.last_fired_MN.masked_fill_(statistics.fired_MN, self.step_count)
        return statistics

    def dead_MN(self) -> torch.Tensor:
        """Which features were not active in the last `dead_after` steps."""
        return self.step_count - self.last_fired_MN >= self.settings.dead.dead_after

    def resample(self, target_BD: torch.Tensor) -> None:
        """Give dead features new weights, from the raw rows that the last step was to reconstruct (`resample.py`)."""
        target_BD, above = self._scaled(target_BD), self.settings.dead.copy_above
        dead_MN = self.dead_MN() | torch.stack([copies(W_ND, above) for W_ND in self.params["W_dec"]])
        for m in dead_MN.any(dim=1).nonzero().flatten().tolist():
            one = {name: tensor[m] for name, tensor in self.params.items()}
            generator = generator_for("resample", self.members[m].seed, self.step_count)
            replaced_U = replace_features(one, target_BD, self.work.residual_MBD[m], dead_MN[m], generator)
            for moment_NX in self._moments(m):
                moment_NX[replaced_U] = 0
            # Not dead until it had the time to fire.
            self.last_fired_MN[m, replaced_U] = self.resampled_MN[m, replaced_U] = self.step_count

    def _moments(self, member: int) -> list[torch.Tensor]:
        """Adam's running means of what a member has of each feature."""
        first = 0
        for group in self.adam.param_groups:
            pieces = dict(zip(self.params, group["params"], strict=True))
            members = len(pieces["W_dec"])
            if member < first + members:
                own = [self.adam.state[piece] for name, piece in pieces.items() if name != "b_dec"]
                return [state[moment][member - first] for state in own for moment in ("exp_avg", "exp_avg_sq")]
            first += members
        raise IndexError(member)

    def _adam_step(self) -> None:
        """Adam's step; a feature resampled lately takes only part of its own."""
        if self.settings.dead.remedy != "resample":
            self.adam.step()
            return
        age_MN, warmup = self.step_count - self.resampled_MN, self.settings.dead.resample_warmup
        young = (age_MN < warmup).nonzero(as_tuple=True)
        names = [name for name in self.params if name != "b_dec"]
        before = {name: self.params[name][young] for name in names}
        self.adam.step()
        part_U = (age_MN[young] + 1) / warmup
        for name, old in before.items():
            part = part_U if old.ndim == 1 else part_U[:, None]
            self.params[name][young] = torch.lerp(old, self.params[name][young], part)

    def _scaled(self, x_BD: torch.Tensor) -> torch.Tensor:
        return x_BD if self.scale == 1.0 else x_BD * self.scale

    def _project_gradient(self) -> None:
        """Take out what would change the rows' length: the gradient of the loss as a function of the direction."""
        W_dec_MND, grad_MND = self.params["W_dec"], self.work.grads["W_dec"]
        along_MN = torch.linalg.vecdot(grad_MND, W_dec_MND)
        grad_MND.addcmul_(W_dec_MND, along_MN[:, :, None], value=-1)

    def _restore_norm(self) -> None:
        W_dec_MND = self.params["W_dec"]
        W_dec_MND.div_(torch.linalg.vector_norm(W_dec_MND, dim=2, keepdim=True))

    def metrics(self, statistics: StepStatistics) -> list[dict[str, float]]:
        """Loss parts, mean L0 of the last step's rows (as the dictionary is after it, without noise) and dead features,
        one dict a member. Counted here, since counting would be a twentieth of every step."""
        assert self.last_rows_BD is not None, "metrics are a step's"
        l0_M = self.variant.mean_l0(self.params, self.last_rows_BD, self.hyper, self.work)
        dead_M = self.dead_MN().sum(dim=1)
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
        return self.variant.export(params, self.hyper.member(index), self.scale)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a step depends on, by name."""
        state = {f"params.{name}": tensor for name, tensor in self.params.items()}
        for group, settings in enumerate(self.adam.param_groups):
            for place, piece in enumerate(settings["params"]):
                for name, tensor in self.adam.state[piece].items():
                    state[f"adam.{group}.{place}.{name}"] = tensor
        state["last_fired"], state["resampled"] = self.last_fired_MN, self.resampled_MN
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
        self.resampled_MN.copy_(state["resampled"])
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

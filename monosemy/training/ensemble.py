"""M dictionaries of one variant and width, stepped together.

A step: gradients by hand (the variant's, and a remedy's for dead features), clipped where asked, and one kernel that
takes out what is along unit-norm decoder rows, moves every row by Adam and restores its norm. Codes are treated as
dense, members together, or as sparse, one by one (`sparse_step.py`): each member by its own density, so that what it
becomes does not depend on the grid around it.

A member whose loss is not finite makes no more steps, that one included, while the others go on.

Shapes: M members, B rows, N width, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import torch

from monosemy.dictionaries.sparse import PIECE, Encoder, SparseVariant
from monosemy.dictionaries.stacked import member_of, members_of
from monosemy.dictionaries.variant import Hyper, StepStatistics, Workspace
from monosemy.kernels.choose import kernels_for
from monosemy.kernels.firings import AdamStep
from monosemy.runtime import UsageError, generator_for
from monosemy.training import dense_step, sparse_step
from monosemy.training.compute import MEASURE_EVERY, sparse_pays
from monosemy.training.dead import dead_gradient
from monosemy.training.frame import Framed
from monosemy.training.optimiser import BETAS, EPS
from monosemy.training.resample import copies, replace_features
from monosemy.training.settings import Member, TrainSettings
from monosemy.training.sparse_step import SparseWork
from monosemy.training.stack import Stack


class Ensemble(Stack):
    """A stack that makes steps."""

    def __init__(
        self, members: Sequence[Member], settings: TrainSettings, frame: Framed, device: torch.device, batch: int
    ) -> None:
        super().__init__(members, settings, frame, device, batch)
        self.kernels = kernels_for(settings.compute.kernels, device)
        self.sparse_M = self.sparse_next_M = [self._sparse_from_the_start(member) for member in self.members]
        self.last_rows_BD: torch.Tensor | None = None

    def _sparse_from_the_start(self, member: Member) -> bool:
        way = self.settings.compute.way
        if not isinstance(self.variant, SparseVariant):
            if way == "sparse":
                raise UsageError(f"`way` (=sparse): the variant {self.variant.name} has dense steps only; use auto")
            return False
        if way != "auto":
            return way == "sparse"
        return self.variant.counted and self._sparse_pays((member.k or 0) / self.shape.width, sparse_now=False)

    @cached_property
    def work(self) -> Workspace:
        """Buffers of dense steps."""
        return Workspace.of(self.shape, self.trained)

    @cached_property
    def sparse_work(self) -> SparseWork:
        """Buffers of sparse steps."""
        assert isinstance(self.variant, SparseVariant)
        shape, example = self.shape, self.params["W_dec"]
        rows = max(1, min(shape.batch, PIECE // shape.width))
        levels = len(self.variant.levels(shape.width))
        return SparseWork(
            example.new_empty(rows, shape.width), example.new_empty(shape.members, levels, shape.batch, shape.d_out)
        )

    def residual_of(self, member: int) -> torch.Tensor:
        """x̂ − target of the last step's rows, `residual_BE`, in the units of training."""
        return self.sparse_work.residual_of(member) if self.sparse_M[member] else self.work.residual_MBE[member]

    def step(
        self,
        x_BD: torch.Tensor,
        lr_factor: float = 1.0,
        l1_factor: float = 1.0,
        target_BE: torch.Tensor | None = None,
        progress: float = 1.0,
    ) -> StepStatistics:
        """One step of every member on the same raw rows (on this ensemble's device), towards `target_BE` if given."""
        self._go_the_chosen_way()
        hyper = self.hyper_now(l1_factor, progress)
        rows_BD = self.last_rows_BD = x_BD * self._seen_D
        target_BE = rows_BD if target_BE is None else target_BE * self._target_E
        dead_MN = self.dead_MN() if self.settings.dead.remedy in ("ghost", "auxk") else None
        made = []
        for part in self._parts():
            one_step = self._sparse_step if self.sparse_M[part.start] else self._dense_step
            made.append(one_step(part, rows_BD, target_BE, hyper, dead_MN, lr_factor))
        statistics = StepStatistics.joined(made)
        self.step_count += 1
        self.last_fired_MN.masked_fill_(statistics.fired_MN, self.step_count)
        self.track(statistics, hyper)
        self.average_and_keep()
        self._measure_density()
        return statistics

    def _parts(self) -> list[slice]:
        """Neighbours that go the same way."""
        ends = [m + 1 for m in range(len(self)) if self.sparse_M[m : m + 1] != self.sparse_M[m + 1 : m + 2]]
        return [slice(*pair) for pair in pairwise((0, *ends))]

    def _dense_step(
        self, part: slice, rows_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, dead_MN: torch.Tensor | None,
        factor: float,
    ) -> StepStatistics:  # fmt: skip
        """Gradients of these members together, then one kernel a parameter."""
        params, trained = members_of(self.params, part), members_of(self.trained, part)
        hyper, work = hyper.member(part), self.work.of_members(part)
        statistics = self.variant.gradients(params, rows_BD, hyper, work, target_BE)
        if dead_MN is not None:
            seen = self.variant.seen(rows_BD, hyper)
            effective = self.variant.effective(params)
            dense_step.add_dead_gradients(self.settings.dead, effective, seen, dead_MN[part], work)
        self.variant.chain(params, work.grads)
        self.note_failures(statistics, part)
        dense_step.update(
            self.variant, trained, work.grads, self.moments.of_members(part), self._adam(),
            self.rates_now(factor).of_members(part), self.kernels, unit=self.unit_norm,
            clip=self.settings.optimiser.clip,
        )  # fmt: skip
        return statistics

    def _sparse_step(
        self, part: slice, rows_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, dead_MN: torch.Tensor | None,
        factor: float,
    ) -> StepStatistics:  # fmt: skip
        """Member by member, its gradients summed in the update."""
        assert isinstance(self.variant, SparseVariant)
        work, rates, found = self.sparse_work, self.rates_now(factor), []
        rows_BD, target_BE = rows_BD.contiguous(), target_BE.contiguous()
        for m in range(part.start, part.stop):
            params, numbers = member_of(self.params, m), hyper.member(m)
            seen_BD = self.variant.seen(rows_BD, numbers)
            made, statistics = sparse_step.forward(
                self.variant, params, seen_BD, target_BE, numbers, self.kernels, work, m
            )
            self.note_failures(statistics, slice(m, m + 1))
            extra = None
            if dead_MN is not None:
                extra = dead_gradient(self.settings.dead, params, seen_BD, self.residual_of(m), dead_MN[m])
            sparse_step.update(
                self.variant, params, member_of(self.moments.mean, m), member_of(self.moments.square, m), made,
                seen_BD, work.residual_MGBE[m], extra, self._adam(), rates.of_member(m, self.failed_M[m] > 0),
                self.kernels, unit=self.unit_norm, clip=self.settings.optimiser.clip,
            )  # fmt: skip
            found.append(statistics)
        return StepStatistics.joined(found)

    def _adam(self) -> AdamStep:
        return AdamStep(*BETAS, EPS, self.step_count + 1)

    def _go_the_chosen_way(self) -> None:
        self.sparse_M = self.sparse_next_M
        for name, needed in (("sparse_work", any(self.sparse_M)), ("work", not all(self.sparse_M))):
            if not needed:
                self.__dict__.pop(name, None)  # its buffers

    def _measure_density(self) -> None:
        """Every so often, choose the next steps' way by the density of codes, where nothing says how many there are."""
        measured = isinstance(self.variant, SparseVariant) and not self.variant.counted
        if measured and self.settings.compute.way == "auto" and self.step_count % MEASURE_EVERY == 0:
            density_M = (self._l0_M() / self.shape.width).tolist()
            self.sparse_next_M = [self._sparse_pays(*pair) for pair in zip(density_M, self.sparse_M, strict=True)]

    def _sparse_pays(self, density: float, sparse_now: bool) -> bool:
        products = self.shape.batch * self.shape.width * self.shape.d_in
        return sparse_pays(density, products, self.kernels.name, sparse_now)

    def resample(self, target_BE: torch.Tensor) -> None:
        """Give dead features new weights, from the raw rows that the last step was to reconstruct (`resample.py`)."""
        assert self.last_rows_BD is not None, "features are resampled after a step"
        seen = None
        if self.frame.paired:
            centre_D = self.frame.centre.seen_D.to(self.device) if self.frame.centre else 0 * self.last_rows_BD[0]
            seen = (self.last_rows_BD, centre_D)
        above = self.settings.dead.copy_above
        dead_MN = self.dead_MN() | torch.stack([copies(W_NE, above) for W_NE in self.params["W_dec"]])
        for m in dead_MN.any(dim=1).nonzero().flatten().tolist():
            one = member_of(self.params, m)
            generator = generator_for("resample", self.members[m].seed, self.step_count)
            wanted_BE = target_BE * self._target_E - (self.last_rows_BD @ one["W_skip"].T if "W_skip" in one else 0)
            replaced_U = replace_features(one, wanted_BE, self.residual_of(m), dead_MN[m], generator, seen)
            self.variant.revive(one, replaced_U)
            self.moments.forget(m, replaced_U, self.variant.of_member)
            for name in self.average.keys() & self.trained.keys() - set(self.variant.of_member):
                self.average[name][m, replaced_U] = one[name][replaced_U]
            # Not dead until it had the time to fire.
            self.last_fired_MN[m, replaced_U] = self.resampled_MN[m, replaced_U] = self.step_count

    def metrics(self, statistics: StepStatistics) -> list[dict[str, float | None]]:
        """Loss parts, mean L0 of the last step's rows (as the dictionary is after it, without noise) and dead features,
        one dict a member. Counted here, since counting would be a twentieth of every step."""
        columns = {
            "loss": statistics.loss_M,
            "reconstruction": statistics.reconstruction_M,
            "l0": self._l0_M(),
            "dead": self.dead_MN().sum(dim=1),
        }
        rows = torch.stack([column.double() for column in columns.values()], dim=1).tolist()
        found: list[dict[str, float | None]] = [dict(zip(columns, row, strict=True)) for row in rows]
        for row, step in zip(found, self.failed_M.tolist(), strict=True):
            if step:
                row |= {"loss": None, "reconstruction": None, "failed": step}
        return found

    def _l0_M(self) -> torch.Tensor:
        return torch.cat([self._l0_of(part) for part in self._parts()])

    def _l0_of(self, part: slice) -> torch.Tensor:
        assert self.last_rows_BD is not None, "metrics are a step's"
        if not self.sparse_M[part.start]:
            params, work = members_of(self.params, part), self.work.of_members(part)
            return self.variant.mean_l0(params, self.last_rows_BD, self.hyper.member(part), work)
        assert isinstance(self.variant, SparseVariant)
        found = []
        for m in range(part.start, part.stop):
            params, numbers = member_of(self.params, m), self.hyper.member(m)
            encoder = Encoder.of(params, self.last_rows_BD, numbers, self.kernels, self.sparse_work.piece_RN)
            code_F = self.variant.codes(params, self.variant.choose(params, encoder, numbers), numbers)
            found.append((code_F != 0).sum() / len(self.last_rows_BD))
        return torch.stack(found)

    def state(self) -> dict[str, torch.Tensor]:
        """The stack's, and which way each member goes next."""
        return {**super().state(), "sparse": torch.tensor(self.sparse_next_M)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state()` gave."""
        super().load_state(state)
        if self.settings.compute.way == "auto":  # another way may be asked for than the killed run's
            self.sparse_next_M = state["sparse"].tolist()


def ensembles_of(
    members: Sequence[Member], settings: TrainSettings, frame: Framed, device: torch.device, batch: int
) -> list[Ensemble]:
    """One stack for each variant and width (padding to the widest would cost more than it gives)."""
    kinds = dict.fromkeys((member.variant, member.width) for member in members)
    return [
        Ensemble([m for m in members if (m.variant, m.width) == kind], settings, frame, device, batch) for kind in kinds
    ]

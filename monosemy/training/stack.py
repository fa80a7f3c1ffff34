"""What a stack of M dictionaries in training carries from step to step.

Parameters with a leading member axis, Adam's moments, averaged weights, who fired when and whose loss was not finite:
everything that a checkpoint holds and an export is made from. How a step is made is `ensemble.py`.

Shapes: M members, N width, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import VARIANTS
from monosemy.dictionaries.variant import Hyper, Params, Shape, StepStatistics, Variant
from monosemy.runtime import DTYPES, generator_for
from monosemy.training.frame import Framed
from monosemy.training.optimiser import Moments, Rates
from monosemy.training.settings import Member, TrainSettings

KEEP_EVERY = 50
HUGE = 1e6  # of weights, which start at about 1


class Stack:
    """Members of one variant and width, on one device."""

    def __init__(
        self, members: Sequence[Member], settings: TrainSettings, frame: Framed, device: torch.device, batch: int
    ) -> None:
        self.members = list(members)
        self.variant: Variant = VARIANTS[self.members[0].variant]
        self.device, self.settings, self.frame = device, settings, frame
        self._seen_D, self._target_E = frame.scaling.seen_D.to(device), frame.scaling.target_E.to(device)
        self.shape = Shape(len(self.members), frame.d_in, self.members[0].width, batch, frame.d_out, frame.sites)
        params = self.variant.init(self.shape, [member.seed for member in self.members], frame.centre)
        self.params: Params = {name: tensor.contiguous().to(device) for name, tensor in params.items()}
        self.trained = {name: tensor for name, tensor in self.params.items() if name not in self.variant.tracked}
        self.moments = Moments.zeros(self.trained)
        self.average = {name: tensor.clone() for name, tensor in self.params.items()} if settings.optimiser.ema else {}
        self.good = {name: tensor.clone() for name, tensor in self.params.items()}  # what a broken member falls back to
        self.hyper = self._hyper()
        # Only an L1 penalty can do without unit rows: rescaling rows would change which k codes are the largest.
        weighted = settings.penalty == "norm-weighted" and self.variant.sparsity == "l1"
        self.unit_norm = not (weighted or self.variant.free_norms)
        self.step_count = 0
        zeros_MN = torch.zeros(self.shape.members, self.shape.width, dtype=torch.int64, device=device)
        self.last_fired_MN, self.resampled_MN = zeros_MN, zeros_MN - settings.dead.resample_warmup
        self.failed_M = zeros_MN[:, 0].clone()  # the step whose loss was not finite; 0: none
        self.kept_M = zeros_MN[:, 0].clone()  # the step that `good` is of
        self.lr_M = torch.tensor([member.lr for member in self.members], device=device)

    def _hyper(self) -> Hyper:
        weights = [member.penalty_weight(self.settings.penalty, self.shape.d_in) for member in self.members]
        counts = [member.k or 0 for member in self.members]
        l1_M, k_M = torch.tensor(weights, device=self.device), torch.tensor(counts, device=self.device)
        noise_M = None
        if self.variant.noisy:
            noise_M = torch.tensor([member.noise or 0.0 for member in self.members], device=self.device)
        weighted, dtype = self.settings.penalty == "norm-weighted", DTYPES[self.settings.compute.dtype]
        return Hyper(l1_M, k_M, weighted, noise_M, sites=self.shape.sites, dtype=dtype)

    def hyper_now(self, l1_factor: float = 1.0, progress: float = 1.0) -> Hyper:
        """The members' numbers at the coming step, with its noise for variants that want it."""
        noise_BD = None
        if self.variant.noisy:
            generator = generator_for("noise", self.step_count, device=self.device)
            shape = (self.shape.batch, self.shape.d_in)
            noise_BD = torch.randn(shape, generator=generator, device=self.device)
        l1_M = self.hyper.l1_M * l1_factor
        return replace(self.hyper, l1_M=l1_M, noise_BD=noise_BD, progress=progress, sparsity=l1_factor)

    def rates_now(self, factor: float) -> Rates:
        """The coming step's: of features [M, N] and members [M]. A resampled feature's rise from 0."""
        lr_M = torch.where(self.failed_M > 0, -1.0, self.lr_M * factor)
        lr_MN = lr_M[:, None].expand(-1, self.shape.width)
        if self.settings.dead.remedy == "resample":
            warmup = self.settings.dead.resample_warmup
            lr_MN = lr_MN * ((self.step_count - self.resampled_MN + 1) / warmup).clamp_max(1.0)
        return Rates(lr_MN.contiguous(), lr_M)

    def note_failures(self, statistics: StepStatistics, part: slice) -> None:
        """Remember which of these members' loss was not finite at the coming step."""
        failed_M = self.failed_M[part]
        now_M = ~statistics.loss_M.isfinite() & (failed_M == 0)
        failed_M.masked_fill_(now_M, self.step_count + 1)

    def track(self, statistics: StepStatistics, hyper: Hyper) -> None:
        """Let the variant set what no gradient trains; not of members that failed."""
        if not self.variant.tracked:
            return
        before = {name: self.params[name].clone() for name in self.variant.tracked}
        self.variant.track(self.params, statistics, hyper)
        for name, old in before.items():
            failed = (self.failed_M > 0).reshape(-1, *[1] * (old.ndim - 1))
            self.params[name].copy_(torch.where(failed, old, self.params[name]))

    def average_and_keep(self) -> None:
        """After a step: averaged weights follow, and every KEEP_EVERY steps those of sound members are kept as good.

        Averages of few steps are of those steps alone, so that random first weights are soon forgotten.
        """
        decay = min(self.settings.optimiser.ema, self.step_count / (self.step_count + 10))
        for name, average in self.average.items():
            average.lerp_(self.params[name], 1 - decay)
        if self.step_count % KEEP_EVERY == 0:
            now, sound_M = {**self.params, **self.average}, self.failed_M == 0
            for tensor in now.values():  # the step may have broken what its loss did not show
                largest_M = torch.linalg.vector_norm(tensor.reshape(len(tensor), -1), torch.inf, dim=1)
                sound_M = sound_M & largest_M.isfinite()
            for name, tensor in now.items():
                sound = sound_M.reshape(-1, *[1] * (tensor.ndim - 1))
                self.good[name].copy_(torch.where(sound, tensor, self.good[name]))
            self.kept_M.masked_fill_(sound_M, self.step_count)

    def dead_MN(self) -> torch.Tensor:
        """Which features were not active in the last `dead_after` steps."""
        return self.step_count - self.last_fired_MN >= self.settings.dead.dead_after

    def failure(self, index: int) -> str | None:
        """What is known of a member whose loss was not finite, or None."""
        step, member = int(self.failed_M[index]), self.members[index]
        if not step:
            return None
        largest = float(torch.stack([tensor[index].abs().max() for tensor in self.params.values()]).max())
        way_out = f"lower its learning rate (={member.lr})"
        if largest < HUGE:
            way_out += ", or look for outliers in the activations"
        return f"the loss of {member} was not finite at step {step}, with weights of up to {largest:.3g}; {way_out}"

    def __len__(self) -> int:
        return len(self.members)

    def export(self, index: int) -> Dictionary:
        """Member `index` of `members` as a dictionary for raw activations, on the CPU; of one that failed, as it was
        when it was last kept."""
        source = self.good if self.failed_M[index] else {**self.params, **self.average}
        params = {name: tensor[index].cpu().clone() for name, tensor in source.items()}
        if self.unit_norm:  # means of unit rows are shorter
            params["W_dec"] /= torch.linalg.vector_norm(params["W_dec"], dim=1, keepdim=True)
        return self.variant.export(params, self.hyper.member(index), self.frame.scaling)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that a step depends on, by name."""
        groups = {
            "params": self.params, "mean": self.moments.mean, "square": self.moments.square, "average": self.average,
            "good": self.good,
        }  # fmt: skip
        state = {f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}
        state |= {"last_fired": self.last_fired_MN, "resampled": self.resampled_MN}
        state |= {"failed": self.failed_M, "kept": self.kept_M}
        return {**state, "step_count": torch.tensor(self.step_count)}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state()` gave."""
        for name, tensor in Stack.state(self).items():
            tensor.copy_(state[name])
        self.step_count = int(state["step_count"])

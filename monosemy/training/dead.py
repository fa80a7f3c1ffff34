"""Dead features and what is done about them. A feature is dead if it was not active in the last `dead_after` steps.

Each remedy works on any variant, member by member, and leaves a member without dead features as it is.

`ghost` (Anthropic, "Circuits Updates, January 2024"): the dead features alone, with exp for ReLU, predict the residual
e = target − x̂; per row, with q and s constants to autograd, as e is:

    ô = Σ_dead exp(z) W_dec,   q = ‖e‖ / 2‖ô‖,   s = ‖e‖² / ‖qô − e‖²,   L = mean_B s ‖qô − e‖²

`auxk` (Gao et al. 2024, arXiv 2406.04093): the aux_k largest dead z of each row predict it: L = 1/32 mean_B ‖ê − e‖²,
ê = Σ z W_dec, e a constant. As in the paper's formula no ReLU follows TopK: a feature that ReLU has killed has z < 0
nearly everywhere and would learn nothing. Where z is far below 0 it can stay there and be of use with negative codes,
so auxk does not revive what a very negative bias has killed; ghost and resample do.

`ghost` and `auxk` make tensors of B·U and U·D: where most features are dead, as large as a dense step's.

`resample` is in `resample.py`.

Shapes: B rows, N width, D = d_in, E = d_out, U = dead features of one member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from monosemy.dictionaries.variant import Params
from monosemy.kernels.firings import Extra
from monosemy.runtime import UsageError, check_choices

Remedy = Literal["none", "resample", "ghost", "auxk"]

AUXK_WEIGHT = 1 / 32
OF_REMEDY = {"resample_every": "resample", "resample_warmup": "resample", "copy_above": "resample", "aux_k": "auxk"}


@dataclass(frozen=True)
class DeadSettings:
    """When a feature counts as dead, and what is done then."""

    remedy: Remedy = "none"
    """What dead features get: nothing; new weights from badly reconstructed rows (resample); or a gradient (ghost,
    auxk)."""
    dead_after: int = 200
    """A feature that was not active in this many last steps counts as dead."""
    resample_every: int = 250
    """Steps between resamplings; the last is at least as many before the learning rate falls."""
    resample_warmup: int = 100
    """Steps over which the learning rate of a resampled feature rises from 0."""
    copy_above: float = 1.0
    """Resample copies too: one of two features whose directions have a cosine above this (1: none, as in the paper)."""
    aux_k: int = 32
    """Dead features a row that auxk uses; the paper takes about half of d_in."""

    def __post_init__(self) -> None:
        check_choices(self, remedy=get_args(Remedy))
        for field in ("dead_after", "resample_every", "resample_warmup", "aux_k"):
            if getattr(self, field) < 1:
                raise UsageError(f"`{field}` (={getattr(self, field)}) must be at least 1")
        if not 0 < self.copy_above <= 1:
            raise UsageError(f"`copy_above` (={self.copy_above}) is a cosine above 0 and at most 1; 1 keeps all copies")
        for name, remedy in OF_REMEDY.items():
            if remedy != self.remedy and (value := getattr(self, name)) != getattr(DeadSettings, name):
                raise UsageError(
                    f"`{name}` (={value}) does nothing for `remedy` (={self.remedy}); take the one that it is for "
                    f"({remedy}), or leave out {name}"
                )

    def check_steps(self, steps: int, decay: float) -> None:
        """Raise UsageError where the remedy could never act in a run of `steps`."""
        if self.remedy == "resample" and not any(
            self.resamples_after(step, steps, decay) for step in range(self.dead_after, steps)
        ):
            raise UsageError(
                f"`resample_every` (={self.resample_every}) and `dead_after` (={self.dead_after}) leave no step of "
                f"{steps} to resample at before the learning rate falls; lower them or raise `steps`"
            )
        if self.remedy != "none" and self.dead_after >= steps:
            raise UsageError(f"`dead_after` (={self.dead_after}) must be less than `steps` (={steps}); lower it")

    def resamples_after(self, step: int, steps: int, decay: float) -> bool:
        """Whether features are resampled once `step` of `steps` are done."""
        last = steps - round(decay * steps) - self.resample_every
        return self.remedy == "resample" and step <= last and step % self.resample_every == 0


def dead_gradient(
    settings: DeadSettings, params: Params, seen_BD: torch.Tensor, residual_BE: torch.Tensor, dead_N: torch.Tensor
) -> Extra | None:
    """The gradient of ghost's or auxk's loss by one member's effective weights; None where nothing is dead.

    `seen_BD` is what the encoder was given, `residual_BE` x̂ − target.
    """
    dead_U = dead_N.nonzero().flatten()
    if len(dead_U) == 0:
        return None
    encoder_UD = params.get("W_enc", params["W_dec"])[dead_U]  # tied: one matrix in both roles
    W_dec_UE = params["W_dec"][dead_U]
    z_BU = torch.addmm(params["b_enc"][dead_U], seen_BD, encoder_UD.T)
    if settings.remedy == "ghost":
        # Shifting z by a row's largest changes ô by a factor that q takes back, and cannot overflow.
        codes_BU = slope_BU = (z_BU - z_BU.amax(dim=1, keepdim=True)).exp()
        dout_BE = _ghost(codes_BU @ W_dec_UE, residual_BE)
    else:
        top_BK = z_BU.topk(min(settings.aux_k, len(dead_U)), dim=1).indices
        slope_BU = torch.zeros_like(z_BU).scatter_(1, top_BK, 1.0)
        codes_BU = z_BU * slope_BU
        dout_BE = (codes_BU @ W_dec_UE + residual_BE) * (2 * AUXK_WEIGHT / len(seen_BD))
    dz_BU = (dout_BE @ W_dec_UE.T) * slope_BU
    return Extra(dead_U, codes_BU.T @ dout_BE, dz_BU.T @ seen_BD, dz_BU.sum(dim=0))


def _ghost(out_BE: torch.Tensor, residual_BE: torch.Tensor) -> torch.Tensor:
    """∂L/∂ô of the ghost loss, from ô and x̂ − target."""
    tiny = torch.finfo(out_BE.dtype).tiny
    error_B1 = torch.linalg.vector_norm(residual_BE, dim=1, keepdim=True)
    q_B1 = error_B1 / (2 * torch.linalg.vector_norm(out_BE, dim=1, keepdim=True)).clamp_min(tiny)
    miss_BE = q_B1 * out_BE + residual_BE
    s_B1 = error_B1.square() / miss_BE.square().sum(dim=1, keepdim=True).clamp_min(tiny)
    gradient_BE: torch.Tensor = miss_BE * (s_B1 * q_B1 * (2 / len(out_BE)))
    return gradient_BE

"""Spike-and-slab dictionaries: every feature of a row has a probability of being present, and a value if it is.

The model: x = Σ_n s_n w_n W_dec,n + b_dec + noise,  s_n ~ Bernoulli(α_n),  w_n ~ N(m, τ²),  noise ~ N(0, s² I). What is
trained is the evidence lower bound of q(s, w | x) = Π_n [γ_n N(z_n, σ²) + (1 − γ_n) δ_0], whose encoder is linear:

    z = W_enc x + b_enc,   γ_n = sigmoid(gain_n (z_n − threshold_n)),   σ² = s²τ² / (s² + τ²), which is its optimum
    L = mean_B( E‖x − x̂‖² + 2s² KL(q ‖ prior) )           (2s² times the negative bound, but for a constant)
    E‖x − x̂‖² = ‖x − b_dec − Σ γ z W_dec‖² + Σ_n [γ σ² + γ (1 − γ) z²]
    KL = Σ_n [γ log γ/α + (1 − γ) log (1 − γ)/(1 − α) + γ/2 (log τ²/σ² + (σ² + (z − m)²)/τ² − 1)]

The decoder is linear and has unit rows, so the expectation is exact and nothing is sampled.

- s², one m and one τ for all features, and each feature's rate, the mean of γ_n, are running estimates (empirical
  Bayes). With slabs of their own weak features shrank and died.
- s² starts at the rows' own variance and comes to its estimate over ANNEAL of a run (geometrically). Over the second
  half of that the prior's α_n goes from k / N (at most ½) to the feature's rate (in log-odds). With the estimates from
  the start many features die or end as copies; with rates later, presence is sometimes far off at the end.
- So the dial k is the number of features the prior expects at first. It is no target: L0 follows from s², and k moves
  it little. Too small a k loses features; from the number that is expected to three times as many worked.

**Presence.** γ is over-confident, as what maximises a factorised bound is: logit γ is a mean of log-odds, where what z
alone tells is the mean of a probability. So a second reading of z is trained beside it, which changes nothing else, by
cross-entropy to t: the posterior probability of feature n under the model when the others are at their means.

    t = sigmoid( logit α_n + ½ log(s²/(τ²+s²)) + p²/2s² − (p−m)²/2(τ²+s²) ),   p = ⟨x − x̂, W_dec,n⟩ + γ_n z_n

α_n is the rate; the reading is `presence.py`'s. No truth is used; how well calibrated this is where the
truth is known: `benchmarks/calibration.py`. A code is z where γ, with which the decoder was trained, is above ½ and
z > 0; presence is ½ at nearly the same z.

Source: Tonolini, Jensen & Murray-Smith 2019, "Variational Sparse Coding" (UAI). It samples s and w by a relaxed
reparameterisation, since its decoder is deep; the bound in closed form and everything about presence is ours. Left out:
its prior at learned pseudo-inputs; decoder rows of free norm; a sparse training step (every entry has a gradient).

Shapes: M members, B rows, N width, D = d_in, E = d_out; 3 sums of the slab: of γ, γ z, γ (z² + σ²), means over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.presence import log_odds, presence_gradients, readout
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Variant, Workspace

# For rows of norm 1; γ(0) is sigmoid(−3) = 0.05.
GAIN, THRESHOLD, CURVE, SLAB = 10.0, 0.3, 0.05, 0.3
KEEP = 0.99  # of running estimates, a step
ANNEAL = 0.6  # share of a run
LEAST_NOISE, LEAST_RATE = 1e-10, 1e-5
LEAST_SPREAD = 0.01  # τ², as a share of the slab's mean square


class SpikeSlabDictionary(ReluDictionary):
    """Codes with probabilities. Tensors: those of ReLU's, and [N] each: `slope`, `shift`, `curve` of the presence, and
    `gain`, `threshold` of γ."""

    name = "spikeslab"

    def presence(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Probability that a feature is present in a row, `probability_BN`."""
        return torch.sigmoid(log_odds(self.pre_activations(x_BD), self.tensors))

    def gate(self, x_BD: torch.Tensor) -> torch.Tensor:
        """γ, the bound's own probability, which is over-confident: `probability_BN`."""
        z_BN = self.pre_activations(x_BD)
        return torch.sigmoid(self.tensors["gain"] * (z_BN - self.tensors["threshold"]))

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """The value of each feature with γ > ½, if above 0, else 0: `codes_BN`."""
        z_BN = self.pre_activations(x_BD)
        return z_BN * (z_BN > self.tensors["threshold"].clamp_min(0))


class _Prior(NamedTuple):
    """What a step takes as given, with axes that fit codes: s², m, τ², σ², logits of the prior's α_n and the rate."""

    noise: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor
    width: torch.Tensor
    logit: torch.Tensor
    logit_own: torch.Tensor


class SpikeSlab(Variant):
    """Variational spike and slab, in closed form, with a calibrated presence."""

    name = "spikeslab"
    sparsity = "k"
    tracked = ("noise", "slab", "rate")
    of_member = ("b_dec", "noise", "slab")

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_enc, b_enc, W_dec, with a centre b_dec; log_gain, threshold, log_slope, shift, curve, rate [M, N]; noise
        [M, 1]; slab [M, 3]."""
        params = stacked.init_linear(shape, seeds, centre)
        rate = 1 / (1 + math.exp(GAIN * THRESHOLD))
        for name, value in {**_fresh(), "rate": rate}.items():
            params[name] = torch.full_like(params["b_enc"], value)
        params["slab"] = rate * torch.tensor([1.0, SLAB, 2 * SLAB**2]).repeat(shape.members, 1)
        params["noise"] = torch.full((shape.members, 1), 1 / shape.d_out)
        return params

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(E‖target − x̂‖², 2s² (KL + the cross-entropy of presence)), means over rows, for one member."""
        target_BE = x_BD if target_BE is None else target_BE
        stacked_params = {name: tensor[None] for name, tensor in params.items()}
        prior = _Prior(*(each.squeeze() for each in _prior(stacked_params, target_BE, hyper)))
        z_BN = x_BD @ params["W_enc"].T + params["b_enc"]
        u_BN = params["log_gain"].exp() * (z_BN - params["threshold"])
        gate_BN = u_BN.sigmoid()
        codes_BN = gate_BN * z_BN
        error_BE = codes_BN @ params["W_dec"] + params.get("b_dec", 0) - target_BE
        variance_BN = gate_BN * prior.width + gate_BN * (1 - gate_BN) * z_BN.square()
        reconstruction = (error_BE.square().sum(dim=1) + variance_BN.sum(dim=1)).mean()
        kl_BN = (
            gate_BN * (u_BN - prior.logit) - softplus(u_BN) + softplus(prior.logit) + gate_BN * _slab_kl(z_BN, prior)
        )
        with torch.no_grad():
            present_BN = _present(codes_BN - error_BE @ params["W_dec"].T, prior)
        log_odds_BN = log_odds(z_BN.detach(), readout(params))
        entropy_BN = binary_cross_entropy_with_logits(log_odds_BN, present_BN, reduction="none")
        return reconstruction, 2 * prior.noise * (kl_BN + entropy_BN).sum(dim=1).mean()

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """The codes of what has γ > ½; z is left in `work.dcodes_MNB`."""
        z_MNB = work.dcodes_MNB
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], z_MNB, hyper.dtype)
        torch.gt(z_MNB, params["threshold"].clamp_min(0)[..., None], out=work.codes_MNB)
        work.codes_MNB.mul_(z_MNB)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The bound's gradients, then those of presence. Codes are γ z here: all features take part."""
        grads, batch = work.grads, work.codes_MNB.shape[2]
        fired_MN = stacked.fired(work.codes_MNB)
        prior = _prior(params, target_BE, hyper)
        z_MNB, price = work.dcodes_MNB.clone(), 2 * prior.noise
        gain_MN1 = params["log_gain"].exp()[..., None]
        u_MNB = gain_MN1 * (z_MNB - params["threshold"][..., None])
        gate_MNB = u_MNB.sigmoid()
        codes_MNB = torch.mul(gate_MNB, z_MNB, out=work.codes_MNB)
        square_M = stacked.decode_residual(codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        stacked.decoder_gradients(work, hyper.dtype)
        dz_MNB = work.dcodes_MNB
        stacked.code_gradient(work.residual_MEB, params["W_dec"], None, dz_MNB, hyper.dtype)  # of γ z, as yet
        present_MNB = _present(codes_MNB - (batch / 2) * dz_MNB, prior)

        slope_MNB = gate_MNB * (1 - gate_MNB)
        slab_MNB = _slab_kl(z_MNB, prior)
        dgate_MNB = prior.width + (1 - 2 * gate_MNB) * z_MNB.square() + price * (u_MNB - prior.logit + slab_MNB)
        du_MNB = (dgate_MNB / batch + dz_MNB * z_MNB).mul_(slope_MNB)
        grads["log_gain"].copy_((du_MNB * u_MNB).sum(dim=2))
        torch.mul(du_MNB.sum(dim=2), -gain_MN1[..., 0], out=grads["threshold"])
        pull_MNB = 2 * slope_MNB * z_MNB + price * gate_MNB * (z_MNB - prior.mean) / prior.spread
        dz_MNB.mul_(gate_MNB).addcmul_(gain_MN1, du_MNB).add_(pull_MNB, alpha=1 / batch)
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        entropy_M = presence_gradients(params, z_MNB, present_MNB, price / batch, grads)

        variance_MNB = gate_MNB * prior.width + slope_MNB * z_MNB.square()
        reconstruction_M = square_M + variance_MNB.sum(dim=(1, 2)) / batch
        kl_MNB = gate_MNB * (u_MNB - prior.logit + slab_MNB) - softplus(u_MNB) + softplus(prior.logit)
        penalty_M = price[:, 0, 0] * kl_MNB.sum(dim=(1, 2)) / batch + entropy_M
        sums = (gate_MNB, codes_MNB, gate_MNB * (z_MNB.square() + prior.width))
        slab_M3 = torch.stack([each.mean(dim=(1, 2)) for each in sums], dim=1)
        noise_M1 = (reconstruction_M / target_BE.shape[-1])[:, None]
        extra = {"rate": gate_MNB.mean(dim=2), "slab": slab_M3, "noise": noise_M1}
        return StepStatistics(reconstruction_M, penalty_M, fired_MN, extra)

    def track(self, params: Params, statistics: StepStatistics, hyper: Hyper) -> None:
        """Running means of s², of the slab's sums and of γ."""
        for name in self.tracked:
            params[name].lerp_(statistics.extra[name], 1 - KEEP)

    def revive(self, params: Params, features_U: torch.Tensor) -> None:
        """Gate and presence as they started."""
        for name, value in _fresh().items():
            params[name][features_U] = value

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """What is compared with z grows as z does; probabilities stay as they are."""
        tensors, norm_N = stacked.folded(params, scaling)
        used = readout(tensors)
        for name in (*self.tracked, *_fresh()):
            del tensors[name]
        for name in ("shift", "threshold"):
            tensors[name] = params[name] * norm_N
        steep = {"slope": used["slope"] / norm_N, "gain": params["log_gain"].exp() / norm_N}
        return SpikeSlabDictionary({**tensors, **steep, "curve": used["curve"]})


def _fresh() -> dict[str, float]:
    """What gate and presence start from: by name, for every feature."""
    steep = math.log(GAIN)
    return {"log_gain": steep, "threshold": THRESHOLD, "log_slope": steep, "shift": THRESHOLD, "curve": CURVE}


def _prior(params: Params, target_BE: torch.Tensor, hyper: Hyper) -> _Prior:
    """Of a part of a stack, from its running estimates, as far as annealing has come to them."""
    offset = params["b_dec"][:, None] if "b_dec" in params else 0
    start_M = (target_BE - offset).square().mean(dim=(-2, -1)).clamp_min(LEAST_NOISE)
    share = min(1.0, hyper.progress / ANNEAL)
    noise_M = params["noise"][:, 0].clamp_min(LEAST_NOISE).pow(share) * start_M.pow(1 - share)
    rate_M, first_M, second_M = params["slab"].unbind(dim=1)
    mean_M, square_M = first_M / rate_M, second_M / rate_M
    spread_M = torch.maximum(square_M - mean_M.square(), LEAST_SPREAD * square_M)
    width_M = noise_M * spread_M / (noise_M + spread_M)
    alpha_M = (hyper.k_M.reshape(-1) / params["rate"].shape[1]).clamp_max(0.5)
    own_MN = params["rate"].clamp(LEAST_RATE, 0.5)
    own_MN1 = torch.logit(own_MN)[..., None]
    logit_MN1 = torch.lerp(torch.logit(alpha_M)[:, None, None].expand_as(own_MN1), own_MN1, max(0.0, 2 * share - 1))
    of_member = (each[:, None, None] for each in (noise_M, mean_M, spread_M, width_M))
    return _Prior(*(each.detach() for each in (*of_member, logit_MN1, own_MN1)))


def _slab_kl(z: torch.Tensor, prior: _Prior) -> torch.Tensor:
    """KL(N(z, σ²) ‖ N(m, τ²))."""
    ratio = prior.width / prior.spread
    return 0.5 * ((z - prior.mean).square() / prior.spread + (ratio - ratio.log() - 1))


def _present(projection: torch.Tensor, prior: _Prior) -> torch.Tensor:
    """t, from p."""
    wide = prior.spread + prior.noise
    off = projection.square() / (2 * prior.noise)
    on = (projection - prior.mean).square() / (2 * wide)
    return (prior.logit_own + 0.5 * (prior.noise / wide).log() + off - on).sigmoid()

"""JumpReLU dictionaries: a code is z where it is above its feature's own threshold, else 0; thresholds are learned.

    z = W_enc x + b_enc,   c = z · H(z − θ),   x̂ = c W_dec + b_dec,   L = mean_B( ‖x − x̂‖² + λ Σ_n H(z_n − θ_n) )

Source: Rajamanoharan et al. 2024, "Jumping Ahead", arXiv 2407.14435. θ = exp(log θ) gets the paper's
pseudo-derivatives, a rectangle around the threshold, here of width ε θ, so that it means the same at any scale of rows:

    ∂c/∂θ = −(θ/εθ) · [|z − θ| < εθ/2],   ∂H/∂θ = −(1/εθ) · [|z − θ| < εθ/2]

The dial is k, the mean L0 to end at, instead of λ. Two numbers of a member see to it, set after each step:

- `level`: θ_n = exp(level + log_threshold_n). It rises while a batch's L0 is above its target and falls while it is
  below. As it acts on L0 itself, L0 follows within tens of steps, and still does when the learning rate is 0. The
  target is EASE · k at first and falls to k, evenly in its logarithm, over the share EASED of the run: features are
  found while more of them may be active than in the end.
- `multiplier`: λ, the running mean of what an entry on the threshold is worth: the fall of ‖x − x̂‖² that the
  pseudo-derivative sees in it. This is the Lagrange multiplier of "mean L0 = k": with it the thresholds' gradients
  are 0 in sum, and they trade entries of little worth for entries of more, from feature to feature.

A threshold above all z of its feature would never get a gradient again: so features die where all share one budget.
Ours is lowered at every batch of which nothing reaches its window, as by LOWER entries that are worth λ, down to
exp(LEAST + level): a feature with a threshold near 0 would be active nearly everywhere, and stay so.

The schedule's sparsity factor scales λ and the rate of `level`. The paper takes z through a ReLU first; with θ > 0 that
changes nothing but windows that reach below 0, and ε < 2 leaves none. The eased target is ours. Left out: λ as a dial;
the paper's L0 target of a row.

Shapes: M members, B rows, N width, D = d_in, E = d_out, F entries above the lower ends of the windows, W inside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.sparse import Backed, Charge, Encoder, SparseVariant
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Workspace
from monosemy.kernels.firings import Firings

BANDWIDTH = 0.5  # ε: of a window, as a share of its threshold
START = 0.2  # θ, for rows of norm 1
EASE, EASED = 2.0, 0.7  # times k: L0 at first; share of a run over which it falls to k
EASIEST = 1 / 4  # of the width: no higher is L0 eased, or pre-activations below 0 would be wanted
RATE = 0.05  # how much `level` moves a step, for each unit of log(L0 / its target)
LOWER = 5.0  # by how many entries worth λ a threshold is lowered that no entry of a batch reached
LEAST = -1.0  # log_threshold to which it is lowered
FARTHEST = 2.0  # of log(L0 / its target), in a step
KEEP = 0.98  # of the running worth, a step


class JumpReluDictionary(ReluDictionary):
    """c = z where z > θ, else 0. Tensors: those of ReLU's, and `threshold` θ [N] ≥ 0."""

    name = "jumprelu"

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN` ≥ 0."""
        z_BN = self.pre_activations(x_BD)
        return z_BN * (z_BN > self.tensors["threshold"])


class JumpRelu(SparseVariant):
    """Learned thresholds, and k as the mean L0."""

    name = "jumprelu"
    sparsity = "k"
    pace = 2.0
    tracked = ("level", "multiplier")

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_enc, b_enc, W_dec, with a centre b_dec, log_threshold [M, N], level [M] and multiplier [M]."""
        params = stacked.init_linear(shape, seeds, centre)
        level_M = torch.full((shape.members,), START).log()
        log_MN = torch.zeros(shape.members, shape.width)
        return {**params, "log_threshold": log_MN, "level": level_M, "multiplier": torch.zeros(shape.members)}

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², λ L0), means over rows, for one member; pseudo-derivatives by terms that are 0."""
        z_BN = x_BD @ params["W_enc"].T + params["b_enc"]
        log_N = params["level"].detach() + params["log_threshold"]
        theta_N = log_N.detach().exp()
        active_BN = (z_BN > theta_N).to(z_BN.dtype)
        inside_BN = _inside(z_BN.detach(), theta_N).to(z_BN.dtype)
        jump_BN = inside_BN * (log_N.detach() - log_N) / BANDWIDTH
        codes_BN = z_BN * active_BN + theta_N * jump_BN
        error_BE = codes_BN @ params["W_dec"] + params.get("b_dec", 0) - (x_BD if target_BE is None else target_BE)
        price = hyper.sparsity * params["multiplier"].detach()
        far_N = (z_BN.detach().amax(dim=0) <= _lowest(theta_N)) & (params["log_threshold"] > LEAST)
        lowered = (far_N * (log_N - log_N.detach())).sum() * LOWER / (BANDWIDTH * len(x_BD))
        return error_BE.square().sum(dim=1).mean(), price * ((active_BN + jump_BN).sum(dim=1).mean() + lowered)

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """c; z is left in `work.dcodes_MNB`."""
        z_MNB = work.dcodes_MNB
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], z_MNB, hyper.dtype)
        torch.gt(z_MNB, _theta(params)[..., None], out=work.codes_MNB)
        work.codes_MNB.mul_(z_MNB)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """The products of `stacked`; the few entries inside windows by themselves."""
        members, width, batch = work.codes_MNB.shape
        theta_MN, z_MNB = _theta(params), work.dcodes_MNB
        far_MN = (z_MNB.amax(dim=2) <= _lowest(theta_MN)) & (params["log_threshold"] > LEAST)
        inside_3W = _inside(z_MNB, theta_MN[..., None]).nonzero().T
        reconstruction_M = stacked.decode_residual(work.codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        stacked.decoder_gradients(work, hyper.dtype)
        stacked.code_gradient(work.residual_MEB, params["W_dec"], None, work.dcodes_MNB, hyper.dtype)
        member_W, feature_W, row_W = inside_3W
        gain_W = -work.dcodes_MNB[member_W, feature_W, row_W] * theta_MN[member_W, feature_W]
        price_M = hyper.sparsity * params["multiplier"]
        place_W = member_W * width + feature_W
        sum_MN = gain_W.new_zeros(members * width).index_add_(0, place_W, gain_W).view(members, width)
        count_MN = torch.bincount(place_W, minlength=members * width).view(members, width)
        work.grads["log_threshold"].copy_(_slope(sum_MN, count_MN, far_MN, price_M[:, None] / batch))
        stacked.mask_inactive(work)
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        l0_M = (work.codes_MNB > 0).sum(dim=(1, 2)) / batch
        worth_M = batch * sum_MN.sum(dim=1) / count_MN.sum(dim=1)  # NaN where nothing is inside
        extra = {"l0": l0_M, "worth": worth_M}
        return StepStatistics(reconstruction_M, price_M * l0_M, stacked.fired(work.codes_MNB), extra)

    def choose(self, params: Params, encoder: Encoder, hyper: Hyper) -> Firings:
        """z above the lower ends of the windows: codes, and what only thresholds get a gradient from."""
        lowest_N = _lowest(_theta(params))
        return encoder.chosen(lambda z_RN: encoder.kernels.above(z_RN, lowest_N))

    def codes(self, params: Params, firings: Firings, hyper: Hyper) -> torch.Tensor:
        """z where it is above θ."""
        return firings.value_F * (firings.value_F > _theta(params)[firings.feature_F])

    def charge(self, params: Params, firings: Firings, code_F: torch.Tensor, hyper: Hyper) -> Charge:
        """λ L0, which has no derivative by codes."""
        return Charge(hyper.sparsity * params["multiplier"] * (code_F > 0).sum() / firings.rows)

    def back(
        self, params: Params, firings: Firings, code_F: torch.Tensor, dcode_F: torch.Tensor, hyper: Hyper
    ) -> Backed:
        """As `backward`."""
        theta_N = _theta(params)
        theta_F = theta_N[firings.feature_F]
        inside_F = _inside(firings.value_F, theta_F)
        feature_W, gain_W = firings.feature_F[inside_F], -dcode_F[inside_F] * theta_F[inside_F]
        sum_N = torch.zeros_like(theta_N).index_add_(0, feature_W, gain_W)
        count_N = torch.bincount(feature_W, minlength=len(theta_N))
        reached_N = torch.bincount(firings.feature_F[firings.value_F > _lowest(theta_F)], minlength=len(theta_N))
        far_N = (reached_N == 0) & (params["log_threshold"] > LEAST)
        price = hyper.sparsity * params["multiplier"] / firings.rows
        worth = firings.rows * sum_N.sum() / count_N.sum()
        extra = {"l0": (code_F > 0).sum() / firings.rows, "worth": worth}
        return Backed(dcode_F * (code_F != 0), {"log_threshold": _slope(sum_N, count_N, far_N, price)}, extra)

    def track(self, params: Params, statistics: StepStatistics, hyper: Hyper) -> None:
        """level ← level + RATE · log(L0 / its target); λ ← the running mean of an entry's worth, of at least 0."""
        l0_M, worth_M = statistics.extra["l0"], statistics.extra["worth"]
        target_M = target_l0(hyper.k_M, params["log_threshold"].shape[-1], hyper.progress)
        off_M = (l0_M / target_M).log().clamp(-FARTHEST, FARTHEST)
        params["level"].add_(off_M, alpha=RATE * hyper.sparsity)
        old_M = params["multiplier"]
        new_M = torch.lerp(worth_M.clamp_min(0), old_M, KEEP)
        old_M.copy_(torch.where(worth_M.isfinite(), new_M, old_M))

    def revive(self, params: Params, features_U: torch.Tensor) -> None:
        """Thresholds that compare with the new encoder rows as others' do with theirs."""
        lengths_N = params["W_enc"].norm(dim=1).clamp_min(1e-12).log()
        relative_N = params["log_threshold"] - lengths_N
        others_N = torch.ones_like(relative_N, dtype=torch.bool)
        others_N[features_U] = False
        usual = relative_N[others_N].median() if bool(others_N.any()) else relative_N.new_zeros(())
        params["log_threshold"][features_U] = lengths_N[features_U] + usual

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """Thresholds are compared with codes, so they grow as those do."""
        tensors, norm_N = stacked.folded(params, scaling)
        log_N = tensors.pop("level") + tensors.pop("log_threshold")
        del tensors["multiplier"]
        return JumpReluDictionary({**tensors, "threshold": log_N.exp() * norm_N})


def target_l0(k_M: torch.Tensor, width: int, progress: float) -> torch.Tensor:
    """L0 that is aimed at when this share of the run is done: eased at first, k from EASED on."""
    eased_M = (EASE * k_M).clamp_max(EASIEST * width).maximum(k_M)
    return k_M * (eased_M / k_M) ** max(0.0, 1 - progress / EASED)


def _theta(params: Params) -> torch.Tensor:
    """θ, of one member or of several."""
    return (params["level"][..., None] + params["log_threshold"]).exp()


def _inside(z: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Which entries are inside the window around their threshold."""
    return (z - theta).abs() < theta * (BANDWIDTH / 2)


def _lowest(theta: torch.Tensor) -> torch.Tensor:
    """Where windows begin."""
    return theta * (1 - BANDWIDTH / 2)


def _slope(gain: torch.Tensor, count: torch.Tensor, far: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """∂L/∂log_threshold, from the gains of a feature's entries inside its window, how many they are, whether all of its
    entries are below, and λ/B."""
    return (gain - count * price + far * (LOWER * price)) / BANDWIDTH

"""Gated dictionaries: one affine map says which features are active, another, of the same directions, how much.

    a = W_enc x,   π = a + b_enc,   c = H(π) · ReLU(e^r a + b_mag),   x̂ = c W_dec + b_dec
    L = mean_B( ‖x − x̂‖² + λ Σ_n ReLU(π_n) + ‖x − x̂_frozen(ReLU(π))‖² )

The L1 penalty shrinks ReLU(π) and not the codes. The last term decodes ReLU(π) with a decoder that is a constant to
it, so that the gate is trained to find what reconstructs. r and b_mag [N] are a feature's own. Decoder rows have norm
1; with the penalty "norm-weighted" they are free and a gate costs λ ReLU(π_n) ‖W_dec,n‖.

A gate is open where e^r a + b_mag > b_mag − e^r b_enc, so a trained one is exactly a JumpReLU dictionary whose
thresholds are that, or 0 where that is below 0.

Source: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", arXiv 2404.16014.
b_enc is its b_gate. Left out: subtracting b_dec before the encoder (b_enc and b_mag start as if it were); a sparse way.

Shapes: M members, B rows, N width, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.dictionaries import stacked
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.jumprelu import JumpReluDictionary
from monosemy.dictionaries.variant import Centre, Hyper, Params, Scaling, Shape, StepStatistics, Variant, Workspace


class Gated(Variant):
    """Gates with an L1 penalty; magnitudes without."""

    name = "gated"
    sparsity = "l1"
    pace = 4.0
    usual_l1 = 0.1

    def init(self, shape: Shape, seeds: Sequence[int], centre: Centre | None) -> Params:
        """W_enc, b_enc, W_dec, with a centre b_dec, log_scale r [M, N] = 0 and b_mag [M, N] = b_enc."""
        params = stacked.init_linear(shape, seeds, centre)
        return {**params, "log_scale": torch.zeros_like(params["b_enc"]), "b_mag": params["b_enc"].clone()}

    def loss(
        self, params: Params, x_BD: torch.Tensor, hyper: Hyper, target_BE: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(‖target − x̂‖², λ Σ ReLU(π) and the frozen decoder's error), means over rows, for one member."""
        target_BE = x_BD if target_BE is None else target_BE
        a_BN = x_BD @ params["W_enc"].T
        gate_BN = torch.relu(a_BN + params["b_enc"])
        codes_BN = torch.relu(a_BN * params["log_scale"].exp() + params["b_mag"]) * (gate_BN > 0)
        bias = params.get("b_dec", x_BD.new_zeros(()))
        rec_BE = codes_BN @ params["W_dec"] + bias
        frozen_BE = gate_BN @ params["W_dec"].detach() + bias.detach()
        norm_N = params["W_dec"].norm(dim=1) if hyper.norm_weighted else 1
        penalty = hyper.l1_M * (gate_BN * norm_N).sum(dim=1).mean()
        auxiliary = (frozen_BE - target_BE).square().sum(dim=1).mean()
        return (rec_BE - target_BE).square().sum(dim=1).mean(), penalty + auxiliary

    def encode(self, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace) -> None:
        """c; π is left in `work.dcodes_MNB`."""
        codes_MNB, gate_MNB = work.codes_MNB, work.dcodes_MNB
        stacked.pre_activations(x_BD, params["W_enc"], params["b_enc"], gate_MNB, hyper.dtype)
        scale_MN = params["log_scale"].exp()
        offset_MN = params["b_mag"] - scale_MN * params["b_enc"]
        torch.addcmul(offset_MN[..., None], gate_MNB, scale_MN[..., None], out=codes_MNB).relu_()
        codes_MNB.mul_(gate_MNB > 0)

    def backward(
        self, params: Params, x_BD: torch.Tensor, target_BE: torch.Tensor, hyper: Hyper, work: Workspace
    ) -> StepStatistics:
        """Two reconstructions, of which the second trains gates only."""
        codes_MNB, dcodes_MNB, batch = work.codes_MNB, work.dcodes_MNB, work.codes_MNB.shape[2]
        gate_MNB = dcodes_MNB.relu()
        reconstruction_M = stacked.decode_residual(codes_MNB, params, target_BE, work.residual_MEB, hyper.dtype)
        stacked.decoder_gradients(work, hyper.dtype)
        stacked.code_gradient(work.residual_MEB, params["W_dec"], None, dcodes_MNB, hyper.dtype)
        stacked.mask_inactive(work)
        torch.sum(dcodes_MNB, dim=2, out=work.grads["b_mag"])
        slope_MN = torch.linalg.vecdot(dcodes_MNB, codes_MNB)  # by e^r a = c − b_mag, where a code is above 0
        torch.addcmul(slope_MN, params["b_mag"], work.grads["b_mag"], value=-1, out=work.grads["log_scale"])
        dcodes_MNB.mul_(params["log_scale"].exp()[..., None])
        fired_MN = stacked.fired(codes_MNB)

        frozen_MEB, dgate_MNB = torch.empty_like(work.residual_MEB), codes_MNB  # codes are not needed any more
        auxiliary_M = stacked.decode_residual(gate_MNB, params, target_BE, frozen_MEB, hyper.dtype)
        mass_MN = gate_MNB.sum(dim=2) / batch
        norm_MN = params["W_dec"].norm(dim=2).clamp_min(1e-12) if hyper.norm_weighted else torch.ones_like(mass_MN)
        price_MN = hyper.l1_M[:, None] * norm_MN
        stacked.code_gradient(frozen_MEB, params["W_dec"], price_MN, dgate_MNB, hyper.dtype)
        torch.ops.aten.threshold_backward.grad_input(dgate_MNB, gate_MNB, 0.0, grad_input=dgate_MNB)
        if hyper.norm_weighted:
            work.grads["W_dec"].addcmul_(params["W_dec"], (hyper.l1_M[:, None] * mass_MN / norm_MN)[:, :, None])
        dcodes_MNB.add_(dgate_MNB)
        stacked.encoder_gradients(work, x_BD, dtype=hyper.dtype)
        torch.sum(dgate_MNB, dim=2, out=work.grads["b_enc"])
        return StepStatistics(reconstruction_M, (price_MN * mass_MN).sum(dim=1) + auxiliary_M, fired_MN)

    def revive(self, params: Params, features_U: torch.Tensor) -> None:
        """Magnitudes start as the gate's pre-activations again."""
        params["log_scale"][features_U] = 0
        params["b_mag"][features_U] = params["b_enc"][features_U]

    def export(self, params: Params, hyper: Hyper, scaling: Scaling) -> Dictionary:
        """Magnitudes as z, gates as thresholds; both grow as codes do."""
        scale_N, b_mag_N = params["log_scale"].exp(), params["b_mag"]
        linear = {**params, "W_enc": params["W_enc"] * scale_N[:, None], "b_enc": b_mag_N}
        tensors, norm_N = stacked.folded(linear, scaling)
        del tensors["log_scale"], tensors["b_mag"]
        tensors["threshold"] = (b_mag_N - scale_N * params["b_enc"]).clamp_min(0) * norm_N
        return JumpReluDictionary(tensors)

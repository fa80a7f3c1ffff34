"""The linear path from a site to the logits: skips, the down projection, norms' gains, the unembedding.

A norm is linear but for its scale, which depends on the token. `at_end` leaves it out; `scale_of` measures it.

Shapes: N directions, X tokens, D = width of the site, E = width before the unembedding, V = vocabulary.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from monosemy.models.sites import Sites

PROBE = 1e3  # norms add their epsilon to the mean square: at this size it is nothing


def logits_along(sites: Sites, site: str, v_ND: Tensor, fold_norm: bool) -> Tensor | None:
    """`logits_NV` of directions added at the site, or None where no linear path leads on."""
    if obstacle(sites, site) is not None:
        return None
    return at_end(sites, site, v_ND, fold_norm) @ weight_of(sites.places["final"].modules[0]).T


def obstacle(sites: Sites, site: str) -> str | None:
    """Why no linear path leads from the site to the logits; None where one does."""
    if not sites.has_unembedding:
        return "the model has no unembedding"
    if site == "final":
        return None
    if site.endswith(".mlp_in"):
        return "what is added there goes through the MLP's non-linearity"
    if not sites.direct:
        return "norms lie on this model's residual stream, or its head is more than one norm and one linear map"
    return None


def at_end(sites: Sites, site: str, v_ND: Tensor, fold_norm: bool) -> Tensor:
    """The directions where the unembedding takes them, `v_NE`, for sites without an obstacle."""
    if site == "final":
        return v_ND
    written = site.replace("mlp_act", "mlp_out")
    if written != site:
        v_ND = v_ND @ weight_of(sites.places[written].modules[0]).T
    if written in sites.branch_norms:
        v_ND = through_norm(sites.branch_norms[written], v_ND)
    if fold_norm and sites.final_norm is not None:
        v_ND = through_norm(sites.final_norm, v_ND)
    return v_ND


def norms_behind(sites: Sites, site: str) -> dict[str, nn.Module]:
    """The norms that a direction passes from the site on, each by the site that holds what it takes."""
    if site == "final":
        return {}
    written = site.replace("mlp_act", "mlp_out")
    norms = {written: sites.branch_norms[written]} if written in sites.branch_norms else {}
    if sites.final_norm is not None:
        norms[f"layers.{sites.n_layers - 1}.resid_post"] = sites.final_norm
    return norms


def scale_of(norm: nn.Module, x_XD: Tensor) -> Tensor:
    """`scale_X`, so that norm(x) = scale · through_norm(x) + bias: one over the length or deviation that it divides by.

    Measured, as the gain is; the bias is what the norm makes of 0.
    """
    probe = copy.deepcopy(norm).float()
    x_XD = x_XD.float()
    unit_XD = through_norm(norm, x_XD)
    given_XD: Tensor = probe(x_XD) - probe(torch.zeros_like(x_XD[:1]))
    return (given_XD * unit_XD).sum(dim=1) / unit_XD.square().sum(dim=1).clamp_min(1e-30)


def weight_of(linear: nn.Module) -> Tensor:
    """The weight `[out, in]` of a linear map, fp32; GPT-2's Conv1D stores it the other way round."""
    weight = linear.get_parameter("weight").float()
    return weight if isinstance(linear, nn.Linear) else weight.T


def through_norm(norm: nn.Module, v_ND: Tensor) -> Tensor:
    """The directions behind a norm of scale 1: centred if it centres, times its gain.

    Both are measured, since classes differ in how they store them (Gemma's gain is 1 + weight).
    """
    probe = copy.deepcopy(norm).float()
    signs_D = torch.ones(v_ND.shape[1], device=v_ND.device)
    signs_D[1::2] = -1
    if len(signs_D) % 2:
        signs_D[-3:] = torch.tensor([1.0, 1.0, -2.0])  # the mean stays 0
    x_D = PROBE * signs_D
    rise_D = (probe(x_D) - probe(-x_D)) / 2
    gain_D: Tensor = rise_D / (signs_D / signs_D.square().mean().sqrt())
    centres = torch.allclose(probe(x_D + PROBE), probe(x_D), rtol=1e-3)
    seen_ND = v_ND - v_ND.mean(dim=1, keepdim=True) if centres else v_ND
    return seen_ND * gain_D


def stream_scale(embed_BCD: Tensor, once_BCD: Tensor, twice_BCD: Tensor) -> float:
    """c where the stream is c × the embedding + something else, from the stream at 1 and 2 × the embedding; else 0."""
    if embed_BCD.shape != once_BCD.shape:
        return 0.0
    embed_BCD, rise_BCD = embed_BCD.double(), twice_BCD.double() - once_BCD.double()
    scale = float((rise_BCD * embed_BCD).sum() / embed_BCD.square().sum())
    return scale if torch.allclose(rise_BCD, scale * embed_BCD, rtol=0.0, atol=0.1 * float(rise_BCD.std())) else 0.0

"""The linear path from a site to the logits: skips, the down projection, norms' gains, the unembedding.

Shapes: N directions, D = width of the site, V = vocabulary.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from monosemy.models.sites import Sites

PROBE = 1e3  # norms add their epsilon to the mean square: at this size it is nothing


def logits_along(sites: Sites, site: str, v_ND: Tensor, fold_norm: bool) -> Tensor | None:
    """`logits_NV` of directions added at the site, or None where no linear path leads on."""
    at_end_ND = v_ND if site == "final" else _at_end(sites, site, v_ND, fold_norm)
    if at_end_ND is None or not sites.has_unembedding:
        return None
    return at_end_ND @ weight_of(sites.places["final"].modules[0]).T


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


def _at_end(sites: Sites, site: str, v_ND: Tensor, fold_norm: bool) -> Tensor | None:
    part = site.rpartition(".")[2]
    if not sites.direct or part == "mlp_in":
        return None
    if part == "mlp_act":
        site = site.replace("mlp_act", "mlp_out")
        v_ND = v_ND @ weight_of(sites.places[site].modules[0]).T
    if site in sites.branch_norms:
        v_ND = through_norm(sites.branch_norms[site], v_ND)
    if fold_norm and sites.final_norm is not None:
        v_ND = through_norm(sites.final_norm, v_ND)
    return v_ND

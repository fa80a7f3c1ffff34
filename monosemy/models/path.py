"""The linear path from a site to the logits at real tokens: what a change at the site becomes before the unembedding.

`LanguageModel.direction_logits` gives the logits of a direction up to a positive factor a token, the scale of the norms
on the way. Here is that factor, measured at the tokens of a text, so that direct effects are in real logits: a change v
at a token adds `path_scale · directions_at_end(v)` to what the unembedding takes there, all else as it was.

Left out: the norms' own reaction to the change (their scale stays that of the unchanged text).

Shapes: B rows, C context, N directions, D = width of the site, E = width before the unembedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monosemy.models.directions import at_end, norms_behind, obstacle, scale_of
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError


def no_path(model: LanguageModel, site: str) -> str | None:
    """Why there is no linear path from the site to the logits; None where there is one."""
    model.check_site(site)
    if site == "embed" and model._embed_scale == 0:
        return "what the stream takes is no multiple of the token embedding"
    return obstacle(model._sites, site)


def check_path(model: LanguageModel, site: str) -> None:
    """Raises UsageError, saying why, where there is no linear path from the site to the logits."""
    if (why := no_path(model, site)) is not None:
        raise UsageError(
            f"site (={site!r}) has no linear path to the logits: {why}; look at the full ablation effect instead"
        )


@torch.inference_mode()
def directions_at_end(model: LanguageModel, site: str, v_ND: Tensor) -> Tensor:
    """Directions added at the site as the unembedding takes them, `v_NE` in fp32, every norm at scale 1.

    Raises UsageError where there is no linear path.
    """
    check_path(model, site)
    entering = model._embed_scale if site == "embed" else 1.0
    return at_end(model._sites, site, entering * v_ND.to(model.device).float(), fold_norm=True)


@torch.inference_mode()
def path_scale(model: LanguageModel, site: str, ids_BC: Tensor, mask_BC: Tensor | None = None) -> Tensor:
    """What the norms between the site and the unembedding multiply a change by at each token, `scale_BC` in fp32.

    Raises UsageError where there is no linear path.
    """
    check_path(model, site)
    norms = norms_behind(model._sites, site)
    taken = model.capture(ids_BC, list(norms), mask_BC) if norms else {}
    scale_BC = torch.ones(ids_BC.shape, device=model.device)
    for place, norm in norms.items():
        scale_BC = scale_BC * scale_of(norm, taken[place].flatten(0, 1)).view_as(scale_BC)
    return scale_BC

"""What a feature writes: the tokens its direction makes most and least likely (the logit lens on a direction).

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020; the linear path is `LanguageModel.direction_logits`.

Shapes: N features, B of them at a time, V tokens of the vocabulary, L tokens kept.
"""

from __future__ import annotations

from typing import Protocol

import torch

BLOCK_LOGITS = 2**24  # logits that are held at a time


class WritesLogits(Protocol):
    """A model with a linear path from a site to its logits."""

    vocab_size: int
    """Logits of a token, padding of the model's vocabulary included."""

    def direction_logits(self, site: str, v_ND: torch.Tensor, fold_norm: bool = True) -> torch.Tensor | None:
        """`logits_NV` of directions, or None where there is no linear path."""
        ...


def extreme_tokens(
    model: WritesLogits, site: str, directions_ND: torch.Tensor, n_tokens: int, vocab_size: int
) -> dict[str, torch.Tensor] | None:
    """The `n_tokens` tokens of highest and of lowest logit for each direction, the most extreme first.

    Gives `top_ids` int32 and `top_values` fp32 [N, L], `bottom_ids` and `bottom_values` likewise; None where the model
    has no linear path from the site. Columns past the tokenizer's `vocab_size` are padding and never shown.
    """
    block = max(1, BLOCK_LOGITS // model.vocab_size)
    pieces: dict[str, list[torch.Tensor]] = {}
    for directions_BD in torch.split(directions_ND, block):
        logits_BV = model.direction_logits(site, directions_BD)
        if logits_BV is None:
            return None
        logits_BV = logits_BV[:, :vocab_size]
        kept = min(n_tokens, logits_BV.shape[1])
        for side, largest in (("top", True), ("bottom", False)):
            values_BL, ids_BL = logits_BV.topk(kept, dim=1, largest=largest)
            pieces.setdefault(f"{side}_values", []).append(values_BL.float().cpu())
            pieces.setdefault(f"{side}_ids", []).append(ids_BL.int().cpu())
    return {name: torch.cat(parts) for name, parts in pieces.items()}

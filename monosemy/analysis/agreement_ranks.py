"""Where the tokens of features' examples stand among the logits of features: mean percentiles, own and others'.

Shapes: N features, F of them looked at, E examples, S controls, V = vocabulary, B features at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monosemy.analysis.attribution import logits_along_path
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab
from monosemy.analysis.logits import BLOCK_LOGITS
from monosemy.data.tokens import TokenStore
from monosemy.runtime import Progress, in_batches

Tokens = dict[str, torch.Tensor]  # by side


def tokens_at_peaks(index: FeatureIndex, store: TokenStore, examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of each feature's strongest examples and the tokens after them, `own_NE` and `next_NE`.

    −1 where there is no example, or no next token of the same row and document.
    """
    offset_NE = index.offsets("top")[:, :examples]
    here_NE = offset_NE.clamp_min(0).contiguous()
    after_NE = (here_NE + 1).clamp_max(len(store.tokens_T) - 1)
    row_NE = torch.searchsorted(store.row_starts_R, here_NE, right=True) - 1
    row_end_NE = store.row_starts_R[row_NE] + store.row_lengths_R[row_NE]
    joined_NE = (here_NE + 1 < row_end_NE) & (store.documents_of(after_NE) == store.documents_of(here_NE))
    own_NE, next_NE = store.tokens_T[here_NE].long(), store.tokens_T[after_NE].long()
    return own_NE.masked_fill(offset_NE < 0, -1), next_NE.masked_fill((offset_NE < 0) | ~joined_NE, -1)


def percentiles(logits_BV: torch.Tensor, tokens_BE: torch.Tensor) -> torch.Tensor:
    """The share of the vocabulary with a lower logit than each token, ties and the token itself by half."""
    sorted_BV = logits_BV.sort(dim=1).values
    at_BE = logits_BV.gather(1, tokens_BE).contiguous()
    lower_BE, upto_BE = (torch.searchsorted(sorted_BV, at_BE, right=right) for right in (False, True))
    return (lower_BE + upto_BE) / (2 * logits_BV.shape[1])


def under_own_logits(lab: Lab, chosen: Sequence[int], sides: Tokens, bar: Progress) -> Tokens:
    """Each feature's mean percentile of its tokens under its own logits, `mean_F` a side."""
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in sides}
    for places_B in torch.split(torch.arange(len(chosen)), max(1, BLOCK_LOGITS // lab.vocab_size)):
        logits_BV = _logits(lab, [chosen[place] for place in places_B.tolist()])
        for name, tokens_FE in sides.items():
            tokens_BE = tokens_FE[places_B]
            pieces[name].append(_mean_over_known(percentiles(logits_BV, tokens_BE.clamp_min(0)), tokens_BE))
        bar.advance(len(places_B))
    return {name: torch.cat(means) for name, means in pieces.items()}


def under_other_logits(lab: Lab, pool: Sequence[int], sides: Tokens, bar: Progress) -> Tokens:
    """The same for every feature's tokens under the logits of each of the pool, `mean_FS` a side."""
    pieces: dict[str, list[torch.Tensor]] = {name: [] for name in sides}
    widest = max(lab.vocab_size, *(tokens_FE.numel() for tokens_FE in sides.values()))
    for others in in_batches(pool, max(1, BLOCK_LOGITS // widest)):
        every_V = torch.arange(lab.vocab_size).expand(len(others), -1)
        percentile_BV = percentiles(_logits(lab, others), every_V)
        for name, tokens_FE in sides.items():
            pieces[name].append(_mean_over_known(percentile_BV[:, tokens_FE.clamp_min(0)], tokens_FE).T)
        bar.advance(len(others))
    return {name: torch.cat(means, dim=1) for name, means in pieces.items()}


def _logits(lab: Lab, features: Sequence[int]) -> torch.Tensor:
    """`logits_BV` on the CPU."""
    return logits_along_path(lab, lab.dictionary.W_dec_ND[list(features)]).float().cpu()


def _mean_over_known(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Over the examples, the last axis, which have a token."""
    known = tokens >= 0
    return (values * known).sum(dim=-1) / known.sum(dim=-1)

"""What the model loses when a site's activation is replaced by a dictionary's reconstruction of it.

Cross-entropy of the next token with the activation as it is, reconstructed, set to zero, and set to its mean; the share
recovered (CE_zero − CE_rec) / (CE_zero − CE_orig); KL(original ‖ reconstructed) of the next-token distributions; and
the ratio of perplexities. S1 calls the first difference "perplexity diff".

Shapes: B rows, C context, D = d_in, V vocabulary. Source: SCIENCE.md §3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from monosemy.data.tokens import TokenBatch, TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import Progress

LOGIT_BYTES = 256 * 2**20  # of one batch's logits

Edit = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Spliced:
    """Mean cross-entropy in nats, and mean KL from the unedited model's distribution, over `count` predicted tokens."""

    cross_entropy: float
    kl: float
    count: int

    @property
    def perplexity(self) -> float:
        """exp of the cross-entropy."""
        return math.exp(self.cross_entropy)


def replacement(dictionary: Dictionary) -> Edit:
    """The edit that puts x̂ in place of x."""

    def edit(x_BCD: torch.Tensor) -> torch.Tensor:
        flat_XD = x_BCD.flatten(0, 1).to(dictionary.W_dec_ND.dtype)
        return dictionary.reconstruct(flat_XD).view_as(x_BCD).to(x_BCD.dtype)

    return edit


def constant(value_D: torch.Tensor) -> Edit:
    """The edit that puts one vector in place of every x."""

    def edit(x_BCD: torch.Tensor) -> torch.Tensor:
        return value_D.to(x_BCD).expand_as(x_BCD)

    return edit


def splice(
    model: LanguageModel,
    tokens: TokenStore,
    site: str,
    edits: Mapping[str, Edit],
    rows: Sequence[int],
    keep_bos: bool = False,
) -> dict[str, Spliced]:
    """Cross-entropy and KL over these token rows with each edit at `site`, and `original` without.

    `keep_bos` leaves the activation of BOS tokens as it is, for dictionaries that never saw one. Raises UsageError for
    a model that does not predict the next token.
    """
    totals = {name: [0.0, 0.0] for name in ("original", *edits)}
    count = 0
    batch_rows = max(1, LOGIT_BYTES // (4 * model.vocab_size * tokens.context))
    with Progress("splice", len(rows), unit="rows") as bar:
        for batch in tokens.batches(batch_rows, rows):
            for name, sums in _batch_sums(model, batch, site, edits, tokens.edges.bos if keep_bos else None).items():
                totals[name] = [total + value for total, value in zip(totals[name], sums, strict=True)]
            count += int(batch.mask_BC[:, 1:].sum())
            bar.advance(len(batch.ids_BC))
    return {name: Spliced(cross_entropy / count, kl / count, count) for name, (cross_entropy, kl) in totals.items()}


def downstream_scores(results: Mapping[str, Spliced], name: str) -> dict[str, float | None]:
    """The scores of the edit called `name`, beside those of `original`, `zero` and, where it was run, `mean`."""
    original, zero, rebuilt = results["original"], results["zero"], results[name]
    lost = zero.cross_entropy - original.cross_entropy
    recovered = (zero.cross_entropy - rebuilt.cross_entropy) / lost if lost > 0 else None
    return {
        "ce_original": original.cross_entropy,
        "ce_reconstructed": rebuilt.cross_entropy,
        "ce_zero": zero.cross_entropy,
        "ce_mean": results["mean"].cross_entropy if "mean" in results else None,
        "ce_recovered": recovered,
        "kl": rebuilt.kl,
        "perplexity_ratio": math.exp(rebuilt.cross_entropy - original.cross_entropy),
    }


def _batch_sums(
    model: LanguageModel, batch: TokenBatch, site: str, edits: Mapping[str, Edit], bos: int | None
) -> dict[str, tuple[float, float]]:
    """Sums of cross-entropy and KL over the batch's predicted tokens, by edit."""
    ids_BC, mask_BC = batch.ids_BC.to(model.device), batch.mask_BC.to(model.device)
    targets_P = ids_BC[:, 1:][mask_BC[:, 1:]]

    def log_probabilities(edit: Edit | None) -> torch.Tensor:
        wanted = None if edit is None else {site: edit if bos is None else _sparing(edit, ids_BC == bos)}
        logits_BCV = model.logits(ids_BC, mask_BC, wanted)
        return F.log_softmax(logits_BCV[:, :-1][mask_BC[:, 1:]].float(), dim=1)

    original_PV = log_probabilities(None)
    sums = {"original": (float(F.nll_loss(original_PV, targets_P, reduction="sum")), 0.0)}
    probabilities_PV = original_PV.exp()
    for name, edit in edits.items():
        edited_PV = log_probabilities(edit)
        kl = float((probabilities_PV * (original_PV - edited_PV)).sum())
        sums[name] = (float(F.nll_loss(edited_PV, targets_P, reduction="sum")), kl)
    return sums


def _sparing(edit: Edit, spared_BC: torch.Tensor) -> Edit:
    def spare(x_BCD: torch.Tensor) -> torch.Tensor:
        return torch.where(spared_BC[:, :, None], x_BCD, edit(x_BCD))

    return spare

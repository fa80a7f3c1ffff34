"""What the model loses when a site's activation is replaced by a dictionary's reconstruction of it.

Cross-entropy of the next token with the activation as it is, reconstructed, set to zero, and set to its mean; the share
recovered (CE_zero − CE_rec) / (CE_zero − CE_orig); KL(original ‖ reconstructed) of the next-token distributions; and
the ratio of perplexities. S1 calls the first difference "perplexity diff".

Every replacement is computed from the activations of the unedited run. For a transcoder, whose input comes before what
it replaces, that is the run at hand; for a crosscoder it keeps codes that were computed on all sites. Where several
sites are replaced, that is done at all at once and at each alone (as published crosscoders of two models are scored).
Of sites on the residual stream, where all are replaced, the last one hides the others: look at each alone.

Shapes: B rows, C context, X = B·C positions, D = width of a site, V vocabulary. Source: SCIENCE.md §3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from monosemy.data.tokens import TokenBatch, TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import Progress

MOST_NATS = 700.0  # exp of more is not a number; a broken dictionary can cost that
LOGIT_BYTES = 256 * 2**20  # of one batch's logits

Edit = Callable[[torch.Tensor], torch.Tensor]
Values = Mapping[str, torch.Tensor]  # by site: `x_BCD`, or one `x_D` for every position


@dataclass(frozen=True)
class Splice:
    """What goes in at which site, computed from the clean activations of the sites in `reads`."""

    reads: tuple[str, ...]
    values: Callable[[Values], Values]


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


def replacement(dictionary: Dictionary, sites: Sequence[str], target: str | None = None) -> Splice:
    """x̂, rebuilt from `sites` (side by side in a row, in this order), in place of what is at them, or at `target`."""

    def values(clean: Values) -> Values:
        x_BCD = torch.cat([clean[site] for site in sites], dim=-1)
        xhat_XD = dictionary.reconstruct(x_BCD.flatten(0, 1).to(dictionary.W_dec_ND.dtype))
        xhat_BCD = xhat_XD.view(*x_BCD.shape[:2], -1)
        if target is not None:
            return {target: xhat_BCD}
        parts = torch.split(xhat_BCD, [clean[site].shape[-1] for site in sites], dim=-1)
        return dict(zip(sites, parts, strict=True))

    return Splice(tuple(sites), values)


def constant(values: Values) -> Splice:
    """One vector in place of every x, by site."""
    return Splice((), lambda _: values)


def splice(
    model: LanguageModel,
    tokens: TokenStore,
    edits: Mapping[str, Splice],
    rows: Sequence[int],
    keep_bos: bool = False,
) -> dict[str, Spliced]:
    """Cross-entropy and KL over these token rows with each edit by its name, and `original` without.

    An edit of several sites is made at all of them, and under `at(name, site)` at each alone. `keep_bos` leaves the
    activation of BOS tokens as it is, for dictionaries that never saw one. Raises UsageError for a model that does not
    predict the next token.
    """
    totals: dict[str, list[float]] = {}
    count = 0
    batch_rows = max(1, LOGIT_BYTES // (4 * model.vocab_size * tokens.context))
    with Progress("splice", len(rows), unit="rows") as bar:
        for batch in tokens.batches(batch_rows, rows):
            for name, sums in _batch_sums(model, batch, edits, tokens.edges.bos if keep_bos else None):
                before = totals.get(name, [0.0, 0.0])
                totals[name] = [total + value for total, value in zip(before, sums, strict=True)]
            count += int(batch.mask_BC[:, 1:].sum())
            bar.advance(len(batch.ids_BC))
    return {name: Spliced(cross_entropy / count, kl / count, count) for name, (cross_entropy, kl) in totals.items()}


def at(name: str, site: str) -> str:
    """The name of an edit made at one of its sites alone."""
    return f"{name} at {site}"


def downstream_scores(results: Mapping[str, Spliced], name: str) -> dict[str, float | None]:
    """The scores of the edit called `name`, beside those of `original`, `zero` and, where it was run, `mean`."""
    original, zero, rebuilt = results["original"], results["zero"], results[name]
    return {
        "ce_original": original.cross_entropy,
        "ce_reconstructed": rebuilt.cross_entropy,
        "ce_zero": zero.cross_entropy,
        "ce_mean": results["mean"].cross_entropy if "mean" in results else None,
        "ce_recovered": _recovered(original, zero, rebuilt),
        "kl": rebuilt.kl,
        "perplexity_ratio": math.exp(min(rebuilt.cross_entropy - original.cross_entropy, MOST_NATS)),
    }


def site_scores(
    results: Mapping[str, Spliced], name: str, sites: Sequence[str]
) -> dict[str, list[float] | list[float | None]]:
    """The same of each site alone, in the order of `sites`; CE recovered is beside that site alone set to zero."""
    original, zeros = results["original"], [results[at("zero", site)] for site in sites]
    rebuilt = [results[at(name, site)] for site in sites]
    return {
        "ce_reconstructed_sites": [each.cross_entropy for each in rebuilt],
        "ce_recovered_sites": [_recovered(original, zero, each) for zero, each in zip(zeros, rebuilt, strict=True)],
        "kl_sites": [each.kl for each in rebuilt],
    }


def _recovered(original: Spliced, zero: Spliced, rebuilt: Spliced) -> float | None:
    lost = zero.cross_entropy - original.cross_entropy
    return (zero.cross_entropy - rebuilt.cross_entropy) / lost if lost > 0 else None


def _batch_sums(
    model: LanguageModel, batch: TokenBatch, edits: Mapping[str, Splice], bos: int | None
) -> Iterator[tuple[str, tuple[float, float]]]:
    """Sums of cross-entropy and KL over the batch's predicted tokens, by edit."""
    ids_BC, mask_BC = batch.ids_BC.to(model.device), batch.mask_BC.to(model.device)
    targets_P = ids_BC[:, 1:][mask_BC[:, 1:]]
    kept_BC = None if bos is None else ids_BC == bos

    def log_probabilities(wanted: Mapping[str, Edit]) -> torch.Tensor:
        logits_BCV = model.logits(ids_BC, mask_BC, wanted)
        return F.log_softmax(logits_BCV[:, :-1][mask_BC[:, 1:]].float(), dim=1)

    clean: dict[str, torch.Tensor] = {}
    reads = {site for edit in edits.values() for site in edit.reads}
    original_PV = log_probabilities({site: _reader(clean, site) for site in reads})
    yield "original", (float(F.nll_loss(original_PV, targets_P, reduction="sum")), 0.0)
    probabilities_PV = original_PV.exp()
    for name, edit in edits.items():
        values = edit.values(clean)
        alone = {at(name, site): {site: value} for site, value in values.items()} if len(values) > 1 else {}
        for label, part in ({name: values} | alone).items():
            edited_PV = log_probabilities({site: _writer(value, kept_BC) for site, value in part.items()})
            kl = float((probabilities_PV * (original_PV - edited_PV)).sum())
            yield label, (float(F.nll_loss(edited_PV, targets_P, reduction="sum")), kl)


def _reader(found: dict[str, torch.Tensor], site: str) -> Edit:
    def read(x_BCD: torch.Tensor) -> torch.Tensor:
        found[site] = x_BCD.clone()  # some models write into it later
        return x_BCD

    return read


def _writer(value: torch.Tensor, kept_BC: torch.Tensor | None) -> Edit:
    """The edit that puts the value in; where `kept_BC` is true the activation stays."""

    def write(x_BCD: torch.Tensor) -> torch.Tensor:
        new_BCD = value.to(x_BCD).expand_as(x_BCD)
        return new_BCD if kept_BC is None else torch.where(kept_BC[:, :, None], x_BCD, new_BCD)

    return write

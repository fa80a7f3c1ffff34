"""The passes over the corpus that connections are made of: two derivatives, and a run without one feature.

Shapes: B rows, C = context, X tokens where the late codes count, D, E = widths of the sites, N early features, L late
ones, F some of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monosemy.analysis.lab import Batch, Lab
from monosemy.models.gradients import pull, push, rerun
from monosemy.runtime import Progress, UsageError, full_rate_products, generator_for, in_batches

TOKENS_AT_ONCE = {"cpu": 2**11, "cuda": 2**14}  # of a pass that keeps what its gradient needs


def batches_where(lab: Lab, feature: int, most: int, search: int) -> list[Batch]:
    """Rows in which the feature fires, as batches: the first `most` that are found among `search` rows drawn at random.

    Raises UsageError if there is no such feature, or it fires in none of those.
    """
    lab.checked(feature)
    at_once = max(1, TOKENS_AT_ONCE[lab.model.device.type] // lab.tokens.context)
    drawn = torch.randperm(lab.tokens.n_rows, generator=generator_for("circuit rows"))[:search].tolist()
    found: list[int] = []
    with Progress("rows", len(drawn), unit="rows") as bar:
        for rows in in_batches(drawn, at_once):
            fires_B = (lab.codes(_batch(lab, rows), [feature]) != 0).flatten(1).any(dim=1)
            found += [row for row, fires in zip(rows, fires_B.tolist(), strict=True) if fires]
            bar.advance(len(rows))
            if len(found) >= most:
                break
    if not found:
        raise UsageError(
            f"`feature` (={feature}) fires in none of the {len(drawn)} rows searched; take one that fires, or "
            f"search more rows with `search`"
        )
    return [_batch(lab, rows) for rows in in_batches(sorted(found[:most]), at_once)]


def _batch(lab: Lab, rows: Sequence[int]) -> Batch:
    batch = lab.tokens.batch(torch.tensor(rows))
    return Batch(batch.ids_BC, batch.mask_BC)


def given_by_all(early: Lab, late: Lab, batch: Batch, feature: int) -> tuple[Tensor, float, int]:
    """Σ over the firings of what each early feature gives, `total_N`, what none explains, and how many they are."""
    fired = 0

    def number(y_BCE: Tensor) -> Tensor:
        nonlocal fired
        codes_X1 = _encoded(late, batch, y_BCE, [feature])
        fired = int((codes_X1 != 0).sum())
        return codes_X1.sum()

    at, to = early.written_site, late.site
    with full_rate_products(late.model.device):
        x_BCD, grad_BCD = pull(late.model, batch.ids_BC, batch.mask_BC, at, to, number)
        here_BC = early.counts(batch).to(x_BCD.device)
        read_XD, grad_XD = early.x(batch)[here_BC], grad_BCD[here_BC].float()
        along_XN = grad_XD @ early.dictionary.W_dec_ND.T
        total_N = (early.encode(read_XD) * along_XN).sum(dim=0, dtype=torch.float64)
        with torch.inference_mode():
            left_XD = x_BCD[here_BC].float() - early.dictionary.reconstruct(read_XD)
    return total_N.cpu(), float((left_XD * grad_XD).sum(dtype=torch.float64)), fired


def given_by_one(early: Lab, late: Lab, batch: Batch, feature: int) -> tuple[Tensor, Tensor, Tensor]:
    """Late codes and what the early feature gives to them, both [X, L], and its own codes [B, C]."""
    codes_BC = early.codes(batch, [feature])[..., 0]
    change_BCD = codes_BC[..., None] * early.dictionary.W_dec_ND[feature]
    at, to = early.written_site, late.site
    with full_rate_products(late.model.device):
        clean_XL, given_XL = push(
            late.model, batch.ids_BC, batch.mask_BC, at, to, change_BCD, lambda y: _encoded(late, batch, y, None)
        )
    return clean_XL, given_XL, codes_BC


def codes_without(
    early: Lab, late: Lab, batch: Batch, feature: int, codes_BC: Tensor, wanted: Sequence[int] | None
) -> Tensor:
    """Late codes `codes_XF` in a run from which the early feature's contribution is taken out."""
    change_BCD = codes_BC[..., None] * early.dictionary.W_dec_ND[feature]
    with torch.inference_mode(), full_rate_products(late.model.device):
        y_BCE = rerun(
            late.model, batch.ids_BC, batch.mask_BC, early.written_site, late.site, lambda x: x - change_BCD.to(x)
        )
        return _encoded(late, batch, y_BCE, wanted)


def codes_counted(lab: Lab, batch: Batch, wanted: Sequence[int]) -> Tensor:
    """`codes_XF` on the tokens where codes count."""
    codes_BCF = lab.codes(batch, wanted)
    return codes_BCF[lab.counts(batch).to(codes_BCF.device)]


def _encoded(lab: Lab, batch: Batch, x_BCD: Tensor, wanted: Sequence[int] | None) -> Tensor:
    """The same of given activations, in a way that can be differentiated."""
    x_XD = x_BCD[lab.counts(batch).to(x_BCD.device)].float()
    if wanted is None:
        return lab.dictionary.encode(x_XD)
    return lab.dictionary.encode_features(x_XD, torch.tensor(list(wanted), device=x_XD.device))

"""The passes over the corpus that connections are made of: two derivatives, and a run without one feature.

A code that is silent has no slope. What leads to it does: for dictionaries whose code, where it fires, is the
pre-activation z = x W_encᵀ + b_enc (all kinds that are trained here), derivatives are taken of z.

Shapes: B rows, C = context, X tokens where the late codes count, D, E = widths of the sites, N early features, L late
ones, F some of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monosemy.analysis.lab import Batch, Lab
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.models.gradients import pull, push, rerun
from monosemy.runtime import Progress, full_rate_products, generator_for, in_batches

TOKENS_AT_ONCE = {"cpu": 2**11, "cuda": 2**14}  # of a pass that keeps what its gradient needs


@dataclass(frozen=True)
class Rows(Batch):
    """Rows of the corpus, whose tokens know their documents."""

    document_BC: Tensor


@dataclass(frozen=True)
class Effect:
    """What one early feature does to late codes on the tokens where these count."""

    clean_XF: Tensor
    given_XF: Tensor
    """What it gives to them, to first order; where they are silent: to their pre-activations."""
    after_XF: Tensor
    """The codes in a run without it."""
    foreseen_XF: Tensor | None
    """These codes to first order, where the clean ones are silent; None for a dictionary without pre-activations."""


def rows_where(lab: Lab, feature: int, most: int, search: int) -> tuple[list[int], list[int], int]:
    """Rows in which the feature fires and rows in which it does not, and how many were searched.

    The first `most` of each that are found among `search` rows drawn at random; the search ends with the first ones.
    """
    lab.checked(feature)
    at_once = _rows_at_once(lab)
    drawn = torch.randperm(lab.tokens.n_rows, generator=generator_for("circuit rows"))[:search].tolist()
    found: dict[bool, list[int]] = {True: [], False: []}
    with Progress("rows", len(drawn), unit="rows") as bar:
        for rows in in_batches(drawn, at_once):
            fires_B = (lab.codes(_batch(lab, rows), [feature]) != 0).flatten(1).any(dim=1)
            for row, fires in zip(rows, fires_B.tolist(), strict=True):
                found[fires].append(row)
            bar.advance(len(rows))
            if len(found[True]) >= most:
                break
    return sorted(found[True][:most]), sorted(found[False][:most]), len(drawn)


def batches_of(lab: Lab, rows: Sequence[int]) -> list[Rows]:
    """Rows of the corpus as batches."""
    return [_batch(lab, some) for some in in_batches(rows, _rows_at_once(lab))]


def documents_of(lab: Lab, batch: Rows) -> Tensor:
    """The document of each token where codes count, `document_X`."""
    return batch.document_BC[lab.counts(batch)]


def given_by_all(early: Lab, late: Lab, batch: Batch, feature: int) -> tuple[Tensor, float, int]:
    """Σ over the firings of what each early feature gives, `total_N`, what none explains, and how many they are."""
    fired = 0

    def number(y_BCE: Tensor) -> Tensor:
        nonlocal fired
        codes_X1 = _encoded(late, batch, y_BCE, [feature])
        fired = int((codes_X1 != 0).sum())
        return codes_X1.sum()

    given_XN, rest = _given(early, late, batch, number)
    return given_XN.sum(dim=0, dtype=torch.float64).cpu(), rest, fired


def held_by_all(early: Lab, late: Lab, batch: Batch, feature: int) -> Tensor:
    """How far each early feature seems to hold the late one below its threshold, `score_N` ≥ 0: whom to verify.

    What it takes from the late pre-activations z of all silent tokens, to first order, at each token where it fires,
    less what z lacks there; summed where that is above 0. So what it does to later tokens is put down to its own.
    """
    below_BC = torch.zeros(0)

    def number(y_BCE: Tensor) -> Tensor:
        nonlocal below_BC
        z_X = pre_activations(late, _counted(late, batch, y_BCE), [feature])[:, 0]
        with torch.no_grad():
            silent_X = _encoded(late, batch, y_BCE, [feature])[:, 0] == 0
            below_BC = z_X.new_zeros(batch.mask_BC.shape)
            below_BC[late.counts(batch).to(z_X.device)] = (z_X - thresholds(late, [feature])).clamp_max(0)
        return (z_X * silent_X).sum()

    given_XN, _ = _given(early, late, batch, number)
    lacking_X = below_BC[early.counts(batch).to(below_BC.device)]
    return torch.relu(lacking_X[:, None] - given_XN).sum(dim=0, dtype=torch.float64).cpu()


def effect_of(early: Lab, late: Lab, batch: Batch, feature: int, wanted: Sequence[int] | None = None) -> Effect:
    """What an early feature does to the `wanted` late codes, predicted and measured."""
    codes_BC = early.codes(batch, [feature])[..., 0]
    change_BCD = codes_BC[..., None] * early.dictionary.W_dec_ND[feature]
    linear = isinstance(late.dictionary, ReluDictionary)
    seen: list[Tensor] = []

    def read(y_BCE: Tensor) -> Tensor:
        with torch.no_grad():
            seen.append(_encoded(late, batch, y_BCE, wanted))
        if linear:
            return pre_activations(late, _counted(late, batch, y_BCE), wanted)
        return _encoded(late, batch, y_BCE, wanted)

    at, to = early.written_site, late.site
    with full_rate_products(late.model.device):
        value_XF, given_XF = push(late.model, batch.ids_BC, batch.mask_BC, at, to, change_BCD, read)
    after_XF = codes_without(early, late, batch, feature, codes_BC, wanted)
    z_XF = value_XF - given_XF
    foreseen_XF = z_XF * (z_XF > thresholds(late, wanted)) if linear else None
    return Effect(seen[0], given_XF, after_XF, foreseen_XF)


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


def pre_activations(lab: Lab, x_XE: Tensor, wanted: Sequence[int] | None) -> Tensor:
    """`z_XF`, in a way that can be differentiated."""
    W_FE, b_F = (lab.dictionary.tensors[name] for name in ("W_enc", "b_enc"))
    if wanted is not None:
        W_FE, b_F = W_FE[list(wanted)], b_F[list(wanted)]
    return torch.addmm(b_F, x_XE, W_FE.T)


def thresholds(lab: Lab, wanted: Sequence[int] | None) -> Tensor:
    """Above which z a feature fires, `threshold_F` ≥ 0 (a TopK one may still be beaten)."""
    b_N = lab.dictionary.tensors["b_enc"]
    threshold_N = lab.dictionary.tensors.get("threshold", torch.zeros_like(b_N)).clamp_min(0)
    return threshold_N if wanted is None else threshold_N[list(wanted)]


def _given(early: Lab, late: Lab, batch: Batch, number: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
    """What each early feature gives to a number of the late activations, at each token, `given_XN`; what none gives."""
    at, to = early.written_site, late.site
    with full_rate_products(late.model.device):
        x_BCD, grad_BCD = pull(late.model, batch.ids_BC, batch.mask_BC, at, to, number)
        here_BC = early.counts(batch).to(x_BCD.device)
        read_XD, grad_XD = early.x(batch)[here_BC], grad_BCD[here_BC].float()
        given_XN = early.encode(read_XD) * (grad_XD @ early.dictionary.W_dec_ND.T)
        with torch.inference_mode():
            left_XD = x_BCD[here_BC].float() - early.dictionary.reconstruct(read_XD)
    return given_XN, float((left_XD * grad_XD).sum(dtype=torch.float64))


def _counted(lab: Lab, batch: Batch, x_BCD: Tensor) -> Tensor:
    """`x_XD` on the tokens where codes count."""
    return x_BCD[lab.counts(batch).to(x_BCD.device)].float()


def _encoded(lab: Lab, batch: Batch, x_BCD: Tensor, wanted: Sequence[int] | None) -> Tensor:
    """The codes of given activations where they count, in a way that can be differentiated."""
    x_XD = _counted(lab, batch, x_BCD)
    if wanted is None:
        return lab.dictionary.encode(x_XD)
    return lab.dictionary.encode_features(x_XD, torch.tensor(list(wanted), device=x_XD.device))


def _rows_at_once(lab: Lab) -> int:
    return max(1, TOKENS_AT_ONCE[lab.model.device.type] // lab.tokens.context)


def _batch(lab: Lab, rows: Sequence[int]) -> Rows:
    batch = lab.tokens.batch(torch.tensor(rows))
    offset_BC = batch.offset_B[:, None] + torch.arange(batch.ids_BC.shape[1])
    return Rows(batch.ids_BC, batch.mask_BC, lab.tokens.documents_of(offset_BC))

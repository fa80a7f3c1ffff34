"""The vocabulary scan: what every token of the vocabulary does to a feature at the end of a prompt (SCIENCE.md §5).

    change_v = f(prompt with v)[last] − f(prompt)[last]

v is appended, prepended (after BOS, where documents have one), put in the place of a token, or stands alone: [v], or
[BOS, v]; then there is no prompt to compare with, and the change is from 0. Work that rows share is done once
(`models/continuation.py`). `plausible=p` looks only at tokens to which the model gives at least probability p at that
place, from what stands before it (S1's wish); the others are counted.

A change counts if it passes UNCHANGED times the largest code seen (base included): below that it may be rounding; so
does a value. Where the prompt alone has a large code no token may increase it: then what makes the feature fire at that
place are the tokens with the largest values (`strongest`), which the changes do not name.
Source: S1. Left out: scans of two places at once, which are V² rows.

Shapes: V tokens looked at, B rows of a batch, D = width of the site.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import get_args

import torch

from monosemy.analysis.lab import Batch, Lab, Prompt, padded
from monosemy.analysis.scanned import UNCHANGED, ScannedToken, VocabularyScan, Where
from monosemy.data.rows import checked
from monosemy.models.continuation import Slot, last_activations
from monosemy.runtime import Progress, UsageError

__all__ = ["ScannedToken", "VocabularyScan", "Where", "vocabulary_scan"]

EACH_S = 0.5


def vocabulary_scan(
    lab: Lab,
    feature: int,
    prompt: Prompt | None,
    where: Where = "append",
    *,
    position: int | None = None,
    plausible: float | None = None,
    top: int = 50,
    each: Callable[[VocabularyScan], None] | None = None,
) -> VocabularyScan:
    """Put every token of the vocabulary into the prompt and read the feature at the last position.

    `position`: for "replace", which token of the prompt (BOS, where there is one, is number 0). "alone" needs no prompt
    (None). `top`: how many of the most increasing, the most decreasing and the strongest are named. `each` is called
    with what is there so far, at most every EACH_S seconds.

    Raises UsageError if the prompt with one more token is longer than the model takes, there is no such position or
    feature, or no token is as probable as `plausible`.
    """
    feature = lab.checked(feature)
    if top < 1:
        raise UsageError(f"`top` (={top}) must be at least 1")
    ids = [] if where == "alone" else lab.ids("" if prompt is None else prompt)
    slot = _slot(lab, ids, where, position)
    ids_V = torch.arange(lab.vocab_size)
    kept_V = ids_V if plausible is None else _plausible(lab, slot, plausible)
    base = float(lab.last_codes(padded([ids]), [feature])[0, 0]) if ids else 0.0
    shown = lab.texts.sequence(ids)

    def result(value_V: torch.Tensor) -> VocabularyScan:
        done_V = kept_V[: len(value_V)]
        texts = [lab.texts.of(token) for token in done_V.tolist()]
        change_V = value_V - base
        noise = UNCHANGED * max(abs(base), float(value_V.abs().max()))
        up, down = int((change_V > noise).sum()), int((change_V < -noise).sum())

        fires = int((value_V > noise).sum())

        def most(by_V: torch.Tensor, count: int) -> list[ScannedToken]:
            order_V = by_V.argsort(descending=True, stable=True)[: min(top, count)].tolist()
            return [ScannedToken(int(done_V[v]), texts[v], float(value_V[v]), float(change_V[v])) for v in order_V]

        return VocabularyScan(
            feature, where, shown, len(slot.before), base, done_V, value_V, texts,
            most(change_V, up), most(-change_V, down), most(value_V, fires),
            up, down, len(value_V) - up - down, fires, len(kept_V), len(ids_V) - len(kept_V), plausible,
        )  # fmt: skip

    value_V, told = torch.zeros(0), time.monotonic()
    for value_V in _values(lab, feature, slot, kept_V):
        if each is not None and len(value_V) < len(kept_V) and time.monotonic() - told >= EACH_S:
            each(result(value_V))
            told = time.monotonic()
    return result(value_V)


def _values(lab: Lab, feature: int, slot: Slot, ids_V: torch.Tensor) -> Iterator[torch.Tensor]:
    """The first of `value_V`, more and more of them."""
    value_V, done = torch.zeros(len(ids_V)), 0
    with Progress("vocabulary scan", len(ids_V), unit="tokens") as bar:
        for x_BD in last_activations(lab.model, lab.site, slot, ids_V):
            codes_B = lab.encode(checked(x_BD.float()), [feature])[:, 0].cpu()
            row = slice(done, done + len(codes_B))
            last_B1 = (torch.full_like(ids_V[row], slot.after[-1]) if slot.after else ids_V[row])[:, None]
            value_V[row] = codes_B * lab.counts(Batch(last_B1, torch.ones_like(last_B1, dtype=torch.bool)))[:, 0]
            done += len(codes_B)
            bar.advance(len(codes_B))
            yield value_V[:done]


def _slot(lab: Lab, ids: list[int], where: Where, position: int | None) -> Slot:
    """Where the token goes. Raises UsageError if there is no such place, or no room for it."""
    if where not in get_args(Where):
        raise UsageError(f"`where` (={where!r}) must be one of {', '.join(get_args(Where))}")
    if (where == "replace") != (position is not None):
        raise UsageError(f"`position` (={position}) goes with where='replace', which needs it; `where` is {where!r}")
    if position is not None:
        if not 0 <= position < len(ids):
            raise UsageError(f"`position` (={position}) must be from 0 to {len(ids) - 1}: the prompt's tokens")
        return Slot(ids[:position], ids[position + 1 :])
    most = lab.model.max_context
    if most is not None and len(ids) + 1 > most:
        raise UsageError(
            f"`prompt` has {len(ids)} tokens, and the model takes at most {most}: there is no room to {where} one; "
            f"shorten it by one, or use where='replace'"
        )
    bos = lab.tokens.edges.bos
    if where == "alone":
        return Slot([] if bos is None else [bos], [])
    if where == "append":
        return Slot(ids, [])
    first = 1 if ids[0] == bos else 0
    return Slot(ids[:first], ids[first:])


def _plausible(lab: Lab, slot: Slot, least: float) -> torch.Tensor:
    """The tokens of the vocabulary to which the model gives at least this probability at the slot."""
    if not 0 < least < 1:
        raise UsageError(f"`plausible` (={least}) is a probability: it must be above 0 and below 1")
    if not slot.before or not lab.model.is_causal:
        why = "nothing stands before that place" if lab.model.is_causal else "the model is an encoder"
        raise UsageError(f"`plausible` needs the model's next-token probabilities, and {why}; leave it out")
    logits_V = lab.model.logits(torch.tensor([list(slot.before)]))[0, -1].float()
    probability_V = torch.softmax(logits_V, dim=0)[: lab.vocab_size].cpu()
    if float(probability_V.max()) < least:
        best = float(probability_V.max())
        raise UsageError(f"`plausible` (={least}): the most probable token there has {best:.3g}; ask for less")
    return (probability_V >= least).nonzero()[:, 0]

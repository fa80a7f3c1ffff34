"""The vocabulary scan: what every token of the vocabulary does to a feature at the end of a prompt (SCIENCE.md §5).

    change_v = f(prompt with v)[last] − f(prompt)[last]

v is appended, prepended (after BOS, where documents have one), put in the place of a token, or stands alone: [v], or
[BOS, v]; then there is no prompt to compare with, and the change is from 0. Work that rows share is done once
(`models/continuation.py`). `plausible=p` looks only at tokens to which the model gives at least probability p at that
place, from what stands before it (S1's wish); the others are counted.

A change counts if it passes UNCHANGED times the largest code seen (base included): below that it may be rounding.
Source: S1. Left out: scans of two places at once, which are V² rows.

Shapes: V tokens looked at, B rows of a batch, D = width of the site.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from monosemy.analysis.chart import Bars, Chart, Curve, Histogram
from monosemy.analysis.lab import Batch, Lab, Prompt, padded
from monosemy.analysis.result import Result, Table
from monosemy.data.rows import checked
from monosemy.models.continuation import Slot, last_activations
from monosemy.runtime import Progress, UsageError

Where = Literal["append", "prepend", "replace", "alone"]

UNCHANGED = 1e-4
EACH_S = 0.5
CURVE_POINTS, BARS, BINS = 1000, 12, 40


@dataclass(frozen=True)
class ScannedToken:
    """One token of the vocabulary and what it does."""

    id: int
    text: str
    value: float
    """f(prompt with it)[last]."""
    change: float
    """Value minus base."""


@dataclass(frozen=True)
class VocabularyScan(Result):
    """What every token does. A scan that is still running gives these for the tokens done so far."""

    name: ClassVar[str] = "vocabulary"
    feature: int
    where: Where
    prompt: Sequence[str]
    """Texts of the prompt's tokens; empty for "alone"."""
    place: int
    """Where the token stands in its row, from 0; BOS counts."""
    base: float
    """f(prompt)[last]; 0 for "alone"."""
    ids_V: torch.Tensor
    value_V: torch.Tensor
    """f(prompt with the token)[last]."""
    texts_V: Sequence[str]
    increasing: Sequence[ScannedToken]
    """Those that raise it most, the most first."""
    decreasing: Sequence[ScannedToken]
    """Those that lower it most, the most first."""
    n_increase: int
    n_decrease: int
    n_unchanged: int
    """Changed by less than UNCHANGED of the largest code seen."""
    n_tokens: int
    """Tokens to look at in all; more than V while the scan runs."""
    n_implausible: int
    """Tokens left out, being less probable than `plausible`."""
    plausible: float | None

    @property
    def change_V(self) -> torch.Tensor:
        """Value minus base."""
        return self.value_V - self.base

    def summary(self) -> str:
        """The counts as a sentence."""
        left = (
            "" if self.plausible is None else f"; {self.n_implausible} less probable than {self.plausible:g} left out"
        )
        return (
            f"{self.n_increase} tokens increase feature {self.feature}, {self.n_decrease} decrease it, "
            f"{self.n_unchanged} leave it unchanged ({len(self.ids_V)} of {self.n_tokens} looked at{left})"
        )

    def table(self) -> Table:
        """A row a token: id, text, value, change, most increasing first."""
        order_V = self.change_V.argsort(descending=True, stable=True).tolist()
        ids, values, changes = self.ids_V.tolist(), self.value_V.tolist(), self.change_V.tolist()
        return Table(
            ["id", "token", "value", "change"], [[ids[v], self.texts_V[v], values[v], changes[v]] for v in order_V]
        )

    def charts(self) -> list[Chart]:
        """Sorted changes, the most extreme tokens, and the histogram of values."""
        where = {"append": "after the prompt", "prepend": "before the prompt", "alone": "alone"}.get(
            self.where, f"in place of token {self.place} of the prompt"
        )
        changed = "change of the code at the last token"
        ordered_V = self.change_V.sort(descending=True).values
        shown = torch.linspace(0, len(ordered_V) - 1, min(CURVE_POINTS, len(ordered_V))).round().long()
        extremes = [*self.increasing[:BARS], *reversed(self.decreasing[:BARS])]
        counts, edges = _histogram(self.value_V)
        return [
            Chart(
                "changes", f"Every token {where}: change of feature {self.feature}", "tokens, sorted", changed,
                [Curve((shown + 1).tolist(), ordered_V[shown].tolist())],
            ),
            Chart(
                "extremes", f"Tokens {where} that change feature {self.feature} most", "token", changed,
                [Bars([token.text for token in extremes], [token.change for token in extremes])],
            ),
            Chart(
                "values", f"Feature {self.feature} with each token {where}", "code at the last token", "tokens",
                [Histogram(edges, counts)], log_y=True,
            ),
        ]  # fmt: skip


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
    (None). `top`: how many of the most increasing and decreasing are named. `each` is called with what is there so far,
    at most every EACH_S seconds.

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

        def extreme(direction: int, count: int) -> list[ScannedToken]:
            order_V = (direction * change_V).argsort(descending=True, stable=True)[: min(top, count)].tolist()
            return [ScannedToken(int(done_V[v]), texts[v], float(value_V[v]), float(change_V[v])) for v in order_V]

        return VocabularyScan(
            feature, where, shown, len(slot.before), base, done_V, value_V, texts, extreme(1, up), extreme(-1, down),
            up, down, len(value_V) - up - down, len(kept_V), len(ids_V) - len(kept_V), plausible,
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


def _histogram(value_V: torch.Tensor) -> tuple[list[int], list[float]]:
    low, high = float(value_V.min()), float(value_V.max())
    edges = torch.linspace(low, high if high > low else low + 1.0, BINS + 1)
    return value_V.histc(BINS, low, float(edges[-1])).int().tolist(), edges.tolist()

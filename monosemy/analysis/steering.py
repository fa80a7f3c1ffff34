"""Steering: text that the model writes while a feature is added, clamped or removed, beside what it writes without.

Both texts are written at once with the same random draws, and every sampled token feeds back into its own context
(`models/generation.py`). The change is made at every position, the prompt's too: the text is then what one model, the
changed one, makes of the prompt, wherever that ends. Strength is in units of the feature's maximum over the corpus.

Both texts are then read by the unchanged model: the feature's codes on the new tokens, and how probable these are.

Shapes: B rows, C tokens, T new tokens, V = vocabulary. Left out: strengths that change over the text; several
features at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from monosemy.analysis.chart import Chart, Curve
from monosemy.analysis.intervention import HOWS, Change, How, Intervention
from monosemy.analysis.lab import Lab, Prompt, padded
from monosemy.analysis.result import Result, Table
from monosemy.models.generation import Generated, Sampling, generate, stops_of
from monosemy.runtime import Progress, UsageError, check_choices, seed_for, settings_of


@dataclass(frozen=True)
class SteeringSettings:
    """What is done to the feature, and how text is written."""

    how: How = "add"
    """add: x + strength · max · W_dec; clamp: the code becomes strength · max; remove: it becomes 0."""
    strength: float = 1.0
    """In units of the feature's maximum; below 0 steers away. Not used by remove."""
    new_tokens: int = 40
    temperature: float = 1.0
    """0 writes the most likely token each time."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self, how=HOWS)
        if not math.isfinite(self.strength):
            raise UsageError(f"`strength` (={self.strength}) must be a finite number")
        self.sampling()  # its numbers are checked there

    def sampling(self, prompt: int = 0) -> Sampling:
        """How tokens are chosen; the draws of prompt number 0, 1, … are apart."""
        return Sampling(self.new_tokens, self.temperature, seed_for("steer", self.seed, prompt))

    def change(self, lab: Lab, feature: int) -> Change:
        """What this is for a feature. Raises UsageError where its maximum is needed and not known."""
        amount = 0.0 if self.how == "remove" else self.strength * lab.maximum(feature)
        return Change(lab.checked(feature), self.how, amount)


@dataclass(frozen=True)
class WrittenText:
    """New tokens, and how the unchanged model reads them."""

    text: str
    tokens: list[str]
    codes: list[float]
    """The feature's code on each."""
    log_probs: list[float]
    """How probable the unchanged model finds each, in nats."""
    own_log_probs: list[float]
    """How probable the model that wrote it found each."""
    ended: str
    """Why it ends: length, stop (a token that ends a text) or context (the model takes no more)."""


@dataclass(frozen=True)
class Steering(Result):
    """Two continuations of a prompt: plain and steered."""

    name = "steering"
    feature: int
    settings: SteeringSettings
    maximum: float | None
    """The unit of the strength; None for remove."""
    prompt: list[str]
    plain: WrittenText
    steered: WrittenText

    def table(self) -> Table:
        """A row a new token of either text."""
        sides = (("plain", self.plain), ("steered", self.steered))
        rows = [
            [side, place, *row]
            for side, text in sides
            for place, row in enumerate(zip(text.tokens, text.codes, text.log_probs, text.own_log_probs, strict=True))
        ]
        return Table(["text", "position", "token", "code", "log_prob", "own_log_prob"], rows)

    def charts(self) -> Sequence[Chart]:
        """The feature's codes along both texts, and how probable the unchanged model finds them."""
        sides = (("plain", self.plain), ("steered", self.steered))
        codes = [Curve(range(len(text.codes)), text.codes, side) for side, text in sides]
        odds = [Curve(range(len(text.log_probs)), text.log_probs, side) for side, text in sides]
        return [
            Chart("codes", f"Feature {self.feature}, read by the unchanged model", "new token", "code", codes),
            Chart("log-probs", "How probable the unchanged model finds the text", "new token", "log p", odds),
        ]


def steer(lab: Lab, feature: int, prompt: Prompt, settings: SteeringSettings | None = None, **options: Any) -> Steering:
    """Go on from a prompt with the feature changed, and without, from the same random draws.

    `options` are fields of SteeringSettings. Raises UsageError for an encoder, a prompt that fills the context, or
    where the feature's maximum is needed and not known (no index, or the feature is dead).
    """
    settings = settings or settings_of(SteeringSettings, options)
    ids, change = lab.ids(prompt), settings.change(lab, feature)
    with Progress("steer", settings.new_tokens, unit="tokens") as bar:
        plain, steered = written(lab, ids, [None, change], settings.sampling(), bar)
    return Steering(
        feature=feature,
        settings=settings,
        maximum=None if settings.how == "remove" else lab.maximum(feature),
        prompt=lab.texts.sequence(ids),
        plain=_read(lab, feature, ids, plain),
        steered=_read(lab, feature, ids, steered),
    )


def written(
    lab: Lab, ids: list[int], changes: Sequence[Change | None], sampling: Sampling, bar: Progress
) -> list[Generated]:
    """Go on from a prompt once with each change (None: none), all from the same random draws."""
    edges = lab.tokens.edges  # a BOS begins another document, so it ends this one
    stop = stops_of(lab.model) | {edge for edge in (edges.bos, edges.eos) if edge is not None}
    ids_BC = torch.tensor([ids] * len(changes))
    edits = Intervention(lab, changes).edits
    return generate(lab.model, ids_BC, sampling, bar, edits, stop, lab.vocab_size)


def _read(lab: Lab, feature: int, ids: list[int], new: Generated) -> WrittenText:
    batch = padded([[*ids, *new.ids]])
    codes_C = lab.codes(batch, [feature])[0, :, 0]
    log_p_CV = lab.model.logits(batch.ids_BC)[0].float().log_softmax(dim=1)
    next_T1 = torch.tensor(new.ids, dtype=torch.long, device=log_p_CV.device)[:, None]
    tokens = lab.texts.sequence([*ids, *new.ids])[len(ids) :]
    return WrittenText(
        text="".join(tokens),
        tokens=tokens,
        codes=codes_C[len(ids) :].tolist(),
        log_probs=log_p_CV[len(ids) - 1 : -1].gather(1, next_T1)[:, 0].tolist(),
        own_log_probs=new.log_probs,
        ended=new.ended,
    )

"""What removing a feature does to the model's predictions, token by token: directly, and through the rest of the model.

The feature's contribution c · W_dec is taken out wherever it fires (x − c · W_dec, so the dictionary's error stays);
for a transcoder, where it writes. The effect at a position is log p after − log p before, in nats:

- at the true next token: below 0 where the feature helps to predict it;
- at the most suppressed token, the one whose log p falls most: what the feature promotes there.

Direct: the change carried along the linear path to the unembedding, under the norms' real scale at that token, all
else as it was (None where the site has no such path). Full: the model is run again from the site, so later layers
and, through attention, later positions take part.

Shapes: C tokens of a text, W of them shown, V = vocabulary, D = width written. Source: SCIENCE.md §5.
Left out: replacing the code by its mean instead of 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.intervention import Change, Edit, Intervention
from monosemy.analysis.lab import Lab, Prompt, padded
from monosemy.analysis.result import Result, Table
from monosemy.data.tokens import TokenStore
from monosemy.metrics.interval import interval
from monosemy.models.path import directions_at_end, no_path, path_scale
from monosemy.runtime import Progress, UsageError, full_rate_products

BEFORE, AFTER = 24, 8  # tokens shown around an example's peak


@dataclass(frozen=True)
class TokenEffects:
    """Changes of log p in nats, one a position."""

    next_token: list[float | None]
    """At the true next token; None at the end of the text."""
    suppressed: list[float]
    """At the token whose log p falls most; 0 where none falls."""
    suppressed_token: list[str | None]
    """That token; None where none falls."""


@dataclass(frozen=True)
class AblatedText:
    """A text, or the window shown of it, and the effects at each token."""

    tokens: list[str]
    codes: list[float]
    """The feature's code on each token."""
    direct: TokenEffects | None
    full: TokenEffects


@dataclass(frozen=True)
class MeanEffect:
    """The mean over texts of each one's mean over the tokens on which the feature fires; its 95 % interval."""

    mean: float
    low: float | None
    """None for a single text."""
    high: float | None
    texts: int


@dataclass(frozen=True)
class AblationEffect(Result):
    """What removing a feature does, in each text and on average."""

    name = "ablation-effect"
    feature: int
    site: str
    """Where the contribution is removed."""
    texts: list[AblatedText]
    no_direct: str | None
    """Why there is no direct effect; None where there is one."""
    means: dict[str, MeanEffect | None]
    """Of "direct next_token", "direct suppressed", "full next_token", "full suppressed"; None where nothing counts."""

    def table(self) -> Table:
        """A row a token of a text."""
        columns = ["text", "position", "token", "code"]
        kinds = ("direct", "full")
        columns += [f"{kind}_{what}" for kind in kinds for what in ("next_token", "suppressed", "suppressed_token")]
        rows = []
        for number, text in enumerate(self.texts):
            for place, (token, code) in enumerate(zip(text.tokens, text.codes, strict=True)):
                rows.append([number, place, token, code, *_cells(text.direct, place), *_cells(text.full, place)])
        return Table(columns, rows)

    def charts(self) -> Sequence[Chart]:
        """The first text token by token; then the effect against the code, wherever the feature fires."""
        first = self.texts[0]
        bars = [Bars(first.tokens, effects.next_token, kind) for kind, effects in _kinds(first)]
        fall = [Bars(first.tokens, effects.suppressed, kind) for kind, effects in _kinds(first)]
        names = [kind for kind, _ in _kinds(first)]
        points = [Points(*_against_code(self.texts, kind), kind) for kind in names]
        label, said = "log p after − before", f"without feature {self.feature}"
        return [
            Chart("next-token", f"The true next token {said}", "token", label, bars),
            Chart("suppressed", f"The most suppressed token {said}", "token", label, fall),
            Chart("against-code", f"The true next token {said}", "code", label, points),
        ]


def ablation_effect(lab: Lab, feature: int, prompt: Prompt | None = None, examples: int = 10) -> AblationEffect:
    """Remove a feature in a prompt, or else in windows around its `examples` strongest examples.

    Each example's row is read from its start to the end of the window. Raises UsageError for an encoder, or without
    a prompt where the lab has no index or the feature no example.
    """
    lab.checked(feature)
    if not lab.model.is_causal:
        raise UsageError("an encoder predicts no next token; ablation effects need a causal model")
    if prompt is None:
        chosen = _examples(lab, feature, examples)
    else:
        ids = lab.ids(prompt)
        chosen = [(ids, range(len(ids)))]
    why = no_path(lab.model, lab.written_site)
    texts = []
    with Progress("ablation", len(chosen), unit="texts") as bar:
        for ids, shown in chosen:
            texts.append(_ablated(lab, feature, ids, shown, direct=why is None))
            bar.advance()
    means = {
        f"{kind} {what}": _mean(texts, kind, what)
        for kind in ("direct", "full")
        for what in ("next_token", "suppressed")
    }
    return AblationEffect(feature, lab.written_site, texts, why, means)


def _examples(lab: Lab, feature: int, count: int) -> list[tuple[list[int], range]]:
    """The rows of the strongest examples up to the end of their windows, and the windows."""
    if lab.index is None:
        raise UsageError("`prompt`: give one, or open the lab with index= to look at the feature's strongest examples")
    if count < 1:
        raise UsageError(f"`examples` (={count}) must be at least 1")
    offsets = [example.offset for example in lab.index.feature(feature).examples["top"][:count]]
    if not offsets:
        raise UsageError(f"`feature` (={feature}) never fires in the indexed corpus; give a `prompt`")
    return [_row_around(lab.tokens, offset) for offset in offsets]


def _row_around(store: TokenStore, offset: int) -> tuple[list[int], range]:
    row = int(torch.searchsorted(store.row_starts_R, torch.tensor(offset), right=True)) - 1
    start, length = int(store.row_starts_R[row]), int(store.row_lengths_R[row])
    peak = offset - start
    end = min(length, peak + 1 + AFTER)
    read = min(length, end + 1)  # the last token shown has a next one too
    return store.tokens_T[start : start + read].tolist(), range(max(0, peak - BEFORE), end)


def _ablated(lab: Lab, feature: int, ids: list[int], shown: range, direct: bool) -> AblatedText:
    batch = padded([ids])
    next_W = torch.tensor([*ids[1:], -1])[shown.start : shown.stop].to(lab.model.device)
    without = Intervention(lab, [Change(feature, "remove")]).edits(batch.ids_BC)
    before_WV = _log_probabilities(lab, batch.ids_BC, shown, {})
    code_C = lab.codes(batch, [feature])[0, :, 0]
    effects = None
    if direct:
        change_CE = -code_C[:, None] * directions_at_end(
            lab.model, lab.written_site, lab.dictionary.W_dec_ND[feature][None]
        )
        change_CE = change_CE * path_scale(lab.model, lab.written_site, batch.ids_BC)[0, :, None]
        at_final = {"final": lambda x_BCE: x_BCE.float() + change_CE}
        effects = _effects(lab, _log_probabilities(lab, batch.ids_BC, shown, at_final) - before_WV, next_W)
    full = _effects(lab, _log_probabilities(lab, batch.ids_BC, shown, without) - before_WV, next_W)
    tokens = lab.texts.sequence(ids)[shown.start : shown.stop]
    return AblatedText(tokens, code_C[shown.start : shown.stop].tolist(), effects, full)


def _log_probabilities(lab: Lab, ids_BC: torch.Tensor, shown: range, edits: Mapping[str, Edit]) -> torch.Tensor:
    """`log_p_WV` over the tokenizer's vocabulary."""
    with full_rate_products(lab.model.device):
        logits_CV = lab.model.logits(ids_BC, edits=edits)[0]
    return logits_CV[shown.start : shown.stop, : lab.vocab_size].float().log_softmax(dim=1)


def _effects(lab: Lab, change_WV: torch.Tensor, next_W: torch.Tensor) -> TokenEffects:
    at_next_W = change_WV.gather(1, next_W.clamp_min(0)[:, None])[:, 0]
    least = change_WV.min(dim=1)
    falls = [value < 0 for value in least.values.tolist()]
    return TokenEffects(
        [None if token < 0 else value for token, value in zip(next_W.tolist(), at_next_W.tolist(), strict=True)],
        least.values.clamp_max(0).tolist(),
        [lab.texts.of(i) if fell else None for fell, i in zip(falls, least.indices.tolist(), strict=True)],
    )


def _mean(texts: Sequence[AblatedText], kind: str, what: str) -> MeanEffect | None:
    by_text = []
    for text in texts:
        effects = getattr(text, kind)
        values = [] if effects is None else getattr(effects, what)
        firing = [value for value, code in zip(values, text.codes, strict=False) if value is not None and code > 0]
        if firing:
            by_text.append(mean(firing))
    if not by_text:
        return None
    low, high = interval(by_text) if len(by_text) > 1 else (None, None)
    return MeanEffect(mean(by_text), low, high, len(by_text))


def _kinds(text: AblatedText) -> list[tuple[str, TokenEffects]]:
    both = (("direct", text.direct), ("full", text.full))
    return [(kind, effects) for kind, effects in both if effects is not None]


def _cells(effects: TokenEffects | None, place: int) -> list[float | str | None]:
    if effects is None:
        return [None, None, None]
    return [effects.next_token[place], effects.suppressed[place], effects.suppressed_token[place]]


def _against_code(texts: Sequence[AblatedText], kind: str) -> tuple[list[float], list[float | None]]:
    """Codes above 0 and the effects at the next token there."""
    pairs = [
        (code, value)
        for text in texts
        for code, value in zip(text.codes, getattr(text, kind).next_token, strict=True)
        if code > 0
    ]
    return [code for code, _ in pairs], [value for _, value in pairs]

"""What removing a feature does to the model's predictions, token by token: directly, and through the rest of the model.

The feature's contribution c · W_dec is taken out wherever it fires (x − c · W_dec, so the dictionary's error stays);
for a transcoder, where it writes. The effect at a position is log p after − log p before, in nats:

- at the true next token: below 0 where the feature helps to predict it;
- at the most suppressed token, the one whose log p falls most: what the feature promotes there.

Direct: the change carried along the linear path to the unembedding, under the norms' real scale at that token, all
else as it was (None where the site has no such path). Full: the model is run again from the site, so later layers
and, through attention, later positions take part.

Any change of that size lowers some token, and the lowest of a vocabulary is below 0 by construction. So there is a
control: at the same places another feature that is active there, drawn at random, is taken out in its stead, its
contribution scaled to the same norm. `draws` such controls are averaged. Means are given of both and of their
difference (`excess`), each with a 95 % interval: a mean over each text's tokens on which the feature fires, then over
texts, which are of different documents. The excess is what the feature does that other active features do not.

Shapes: C tokens of a text, W of them shown, V = vocabulary, D = width written. Source: SCIENCE.md §5; the control is
ours. Left out: replacing the code by its mean instead of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from monosemy.analysis.ablation_control import Effects, Runs, averages, control_change
from monosemy.analysis.chart import Bars, Chart, Points
from monosemy.analysis.lab import Lab, Prompt, padded
from monosemy.analysis.result import Result, Table
from monosemy.data.tokens import TokenStore
from monosemy.metrics.interval import interval
from monosemy.models.path import no_path
from monosemy.runtime import Progress, UsageError, generator_for

BEFORE, AFTER = 24, 8  # tokens shown around an example's peak
COLUMNS = ("next_token", "suppressed", "suppressed_token", "control_next_token", "control_suppressed")


@dataclass(frozen=True)
class TokenEffects:
    """Changes of log p in nats, one a position."""

    next_token: list[float | None]
    """At the true next token; None at the end of the text."""
    suppressed: list[float]
    """At the token whose log p falls most; 0 where none falls."""
    suppressed_token: list[str | None]
    """That token; None where none falls."""
    control_next_token: list[float | None]
    """As `next_token` in the control; None where no other feature is active in the place of this one."""
    control_suppressed: list[float | None]
    """As `suppressed` in the control, of its own most suppressed token."""


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
    """The mean over texts of each one's mean over the tokens on which the feature fires; its 95 % interval (t)."""

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
    controls: dict[str, MeanEffect | None]
    """The same of the control."""
    excess: dict[str, MeanEffect | None]
    """Effect less control, text by text."""

    def table(self) -> Table:
        """A row a token of a text."""
        columns = ["text", "position", "token", "code"]
        kinds = ("direct", "full")
        columns += [f"{kind}_{what}" for kind in kinds for what in COLUMNS]
        rows = []
        for number, text in enumerate(self.texts):
            for place, (token, code) in enumerate(zip(text.tokens, text.codes, strict=True)):
                rows.append([number, place, token, code, *_cells(text.direct, place), *_cells(text.full, place)])
        return Table(columns, rows)

    def charts(self) -> Sequence[Chart]:
        """The first text token by token, then effects against codes; next tokens only where one follows a firing."""
        first = self.texts[0]
        bars = [Bars(first.tokens, effects.next_token, kind) for kind, effects in _kinds(first)]
        fall = [
            Bars(first.tokens, values, name)
            for kind, effects in _kinds(first)
            for name, values in ((kind, effects.suppressed), (f"{kind}, control", effects.control_suppressed))
        ]
        points = [Points(*_against_code(self.texts, kind), kind) for kind, _ in _kinds(first)]
        label, said = "log p after − before", f"without feature {self.feature}"
        charts = [
            Chart("next-token", f"The true next token {said}", "token", label, bars),
            Chart("suppressed", f"The most suppressed token {said}", "token", label, fall),
            Chart("against-code", f"The true next token {said}, by its code", "code", label, points),
        ]
        return charts if any(y is not None for mark in points for y in mark.y) else charts[1:2]


def ablation_effect(
    lab: Lab, feature: int, prompt: Prompt | None = None, examples: int = 10, *, draws: int = 4, seed: int = 0
) -> AblationEffect:
    """Remove a feature in a prompt, or else in windows around its `examples` strongest examples.

    Each example's row is read from its start to the end of the window. `draws` controls are made, by `seed`; each costs
    as much as the removal. Raises UsageError for an encoder, or without a prompt where the lab has no index or the
    feature no example.
    """
    lab.checked(feature)
    if not lab.model.is_causal:
        raise UsageError("an encoder predicts no next token; ablation effects need a causal model")
    if draws < 0:
        raise UsageError(f"`draws` (={draws}) must not be negative")
    if prompt is None:
        chosen = _examples(lab, feature, examples)
    else:
        ids = lab.ids(prompt)
        chosen = [(ids, range(len(ids)))]
    why, generator = no_path(lab.model, lab.written_site), generator_for("ablation control", seed)
    texts = []
    with Progress("ablation", len(chosen), unit="texts") as bar:
        for ids, shown in chosen:
            runs = Runs(lab, ids, shown, direct=why is None)
            texts.append(_ablated(lab, feature, runs, draws, generator))
            bar.advance()
    kinds = [(kind, what) for kind in ("direct", "full") for what in ("next_token", "suppressed")]
    found = {f"{kind} {what}": _means(texts, kind, what) for kind, what in kinds}
    means, controls, excess = ({name: each[place] for name, each in found.items()} for place in range(3))
    return AblationEffect(feature, lab.written_site, texts, why, means, controls, excess)


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


def _ablated(lab: Lab, feature: int, runs: Runs, draws: int, generator: torch.Generator) -> AblatedText:
    batch, shown = padded([runs.ids]), slice(runs.shown.start, runs.shown.stop)
    code_C = lab.codes(batch, [feature])[0, :, 0]
    change_CD = -code_C[:, None] * lab.dictionary.W_dec_ND[feature]
    effects, controls = runs.effects(change_CD), list[dict[str, Effects]]()
    alone_C = torch.zeros(len(runs.ids), dtype=torch.bool)
    if draws:
        codes_CN = lab.codes(batch)[0]
        for _ in range(draws):
            control_CD, alone_C = control_change(lab, feature, codes_CN, change_CD, generator)
            controls.append(runs.effects(control_CD))
    told = {kind: _told(lab, own, [each[kind] for each in controls], alone_C[shown].tolist())
            for kind, own in effects.items()}  # fmt: skip
    tokens = lab.texts.sequence(runs.ids)[shown]
    return AblatedText(tokens, code_C[shown].tolist(), told.get("direct"), told["full"])


def _told(lab: Lab, own: Effects, controls: Sequence[Effects], alone: Sequence[bool]) -> TokenEffects:
    """What is told of a feature's effects, beside the mean of the controls where the feature is not `alone`."""
    tokens = [lab.texts.of(token) if fall < 0 else None for fall, token in zip(own.suppressed, own.token, strict=True)]
    next_token = averages([each.next_token for each in controls], alone)
    suppressed = averages([each.suppressed for each in controls], alone)
    return TokenEffects(own.next_token, own.suppressed, tokens, next_token, suppressed)


def _means(
    texts: Sequence[AblatedText], kind: str, what: str
) -> tuple[MeanEffect | None, MeanEffect | None, MeanEffect | None]:
    """Means of the effect, of the control, and of their difference, where the feature fires."""
    own, control, excess = [], [], []
    for text in texts:
        effects: TokenEffects | None = getattr(text, kind)
        if effects is None:
            continue
        columns = zip(text.codes, getattr(effects, what), getattr(effects, f"control_{what}"), strict=True)
        firing = [(value, other) for code, value, other in columns if code != 0 and value is not None]
        both = [(value, other) for value, other in firing if other is not None]
        own += [mean(value for value, _ in firing)] if firing else []
        control += [mean(other for _, other in both)] if both else []
        excess += [mean(value - other for value, other in both)] if both else []
    return _mean(own), _mean(control), _mean(excess)


def _mean(by_text: Sequence[float]) -> MeanEffect | None:
    if not by_text:
        return None
    low, high = interval(by_text) if len(by_text) > 1 else (None, None)
    return MeanEffect(mean(by_text), low, high, len(by_text))


def _kinds(text: AblatedText) -> list[tuple[str, TokenEffects]]:
    both = (("direct", text.direct), ("full", text.full))
    return [(kind, effects) for kind, effects in both if effects is not None]


def _cells(effects: TokenEffects | None, place: int) -> list[float | str | None]:
    return [None if effects is None else getattr(effects, column)[place] for column in COLUMNS]


def _against_code(texts: Sequence[AblatedText], kind: str) -> tuple[list[float], list[float | None]]:
    """Codes above 0 and the effects at the next token there."""
    pairs = [
        (code, value)
        for text in texts
        for code, value in zip(text.codes, getattr(text, kind).next_token, strict=True)
        if code > 0
    ]
    return [code for code, _ in pairs], [value for _, value in pairs]

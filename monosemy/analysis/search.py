"""Finding features: by a token, by a text. (By a direction: `neighbours.py`.)

What fires on a token was counted while the index was made (`token_table.py`); a text is put through the model. A
feature's strength in a text is its largest code there relative to its largest in the indexed corpus, so that features
of unlike scales can be compared; above 1 the text is stronger than all of the corpus.

Shapes: C tokens of a text, X of a part, D = d_in, N features, A that fire in the text, F that are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from monosemy.analysis.chart import Bars, Chart, Heat
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.feature_tokens import entries
from monosemy.analysis.lab import Lab, Prompt
from monosemy.analysis.result import Result, Table
from monosemy.runtime import Progress, UsageError

CODES_AT_ONCE = 2**24
ALIKE = 8  # tokens that an unknown text's message names


@dataclass(frozen=True)
class FeatureUse:
    """A feature in a token's list."""

    feature: int
    count: int
    """Its firings on the token."""
    rate: float
    """Those as a share of the token's occurrences."""
    code: float
    """Mean code of those firings."""
    f1: float
    """2·count / (firings of the feature + occurrences of the token): 1 where it fires on this token, always, and on
    nothing else."""


@dataclass(frozen=True)
class TokenFeatures(Result):
    """The features that fire on a token."""

    name: ClassVar[str] = "token_features"
    token: int
    text: str
    seen: int
    """Occurrences of the token in the corpus."""
    strong: list[FeatureUse]
    """By mean code over all its occurrences (rate × code)."""
    telling: list[FeatureUse]
    """By F1."""

    def table(self) -> Table:
        """A row an entry of a list."""
        lists = {"strong": self.strong, "telling": self.telling}
        rows = [(key, e.feature, e.count, e.rate, e.code, e.f1) for key, uses in lists.items() for e in uses]
        return Table(("list", "feature", "count", "rate", "code", "f1"), rows)

    def charts(self) -> Sequence[Chart]:
        """F1 of the most telling features, mean code of the strongest."""
        telling = Bars([str(use.feature) for use in self.telling], [use.f1 for use in self.telling])
        strong = Bars([str(use.feature) for use in self.strong], [use.rate * use.code for use in self.strong])
        return [
            Chart("telling", f"Features that tell “{self.text}”", "feature", "F1", [telling]),
            Chart("strong", f"Features strongest on “{self.text}”", "feature", "mean code", [strong]),
        ]


def features_of_token(index: FeatureIndex, token: int | str) -> TokenFeatures:
    """The features that fire on a token, given by its id or its text (` the`, with the blank that belongs to it).

    Raises UsageError where the corpus has no such token; for a text it names the tokens that look alike.
    """
    found = index.rows("SELECT * FROM token WHERE id = ?", token) if isinstance(token, int) else _by_text(index, token)
    if not found:
        raise UsageError(f"`token` (={token}) does not occur in the indexed corpus; take one of its tokens, or a text")
    row = found[0]
    return TokenFeatures(
        row["id"], row["text"], row["count"], *(_feature_uses(index, key, row) for key in ("strong", "telling"))
    )


def _by_text(index: FeatureIndex, text: str) -> list[dict[str, Any]]:
    """The tokens that read so, the most frequent first."""
    found = index.rows("SELECT * FROM token WHERE text = ? ORDER BY count DESC", text)
    if found or not text:
        return found
    alike = index.rows(
        "SELECT text FROM token WHERE lower(trim(text)) = lower(trim(?)) ORDER BY count DESC LIMIT ?", text, ALIKE
    )
    ids = index.tokenizer.encode(text, add_special_tokens=False).ids
    way = f"tokens like it: {[row['text'] for row in alike]}" if alike else f"it is written {index.texts.sequence(ids)}"
    raise UsageError(f"`token` (={text!r}) is no single token of the indexed corpus; {way}")


def _feature_uses(index: FeatureIndex, key: str, row: dict[str, Any]) -> list[FeatureUse]:
    seen = int(row["count"])
    found = entries(index, f"{key}_feature", int(row["id"]))
    firings = [index.summary(feature).count for feature, _, _ in found]
    return [
        FeatureUse(feature, count, count / seen, total / count, 2 * count / (all_firings + seen))
        for (feature, count, total), all_firings in zip(found, firings, strict=True)
    ]


@dataclass(frozen=True)
class PromptFeature:
    """A feature in a text."""

    feature: int
    strength: float | None
    """Its largest code in the text over its largest in the corpus; None where it never fires there."""
    code: float
    """Its largest code in the text."""
    place: int
    """The token on which it has it."""
    values: list[float]
    """Its code on each token."""


@dataclass(frozen=True)
class PromptFeatures(Result):
    """The strongest features of a text."""

    name: ClassVar[str] = "prompt_features"
    ids: list[int]
    tokens: list[str]
    features: list[PromptFeature]
    """Strongest first; those that never fire in the corpus come last."""
    active: int
    """Features that fire in the text."""

    def table(self) -> Table:
        """A row a feature."""
        rows = [(e.feature, e.strength, e.code, e.place, self.tokens[e.place]) for e in self.features]
        return Table(("feature", "strength", "code", "place", "token"), rows)

    def charts(self) -> Sequence[Chart]:
        """Codes of the features on every token."""
        numbers = [str(entry.feature) for entry in self.features]
        heat = Heat([entry.values for entry in self.features], numbers, self.tokens, "code")
        return [Chart("codes", "Strongest features of the text", "token", "feature", [heat])] if numbers else []


def features_of_prompt(lab: Lab, prompt: Prompt, n: int = 20) -> PromptFeatures:
    """The `n` features that are strongest in a text, by their largest code relative to the largest in the corpus.

    Raises UsageError for a lab without an index, or a text without tokens.
    """
    if lab.index is None:
        raise UsageError(
            "a search by text needs the features' index: run `monosemy features`, open the lab with index="
        )
    if n < 1:
        raise UsageError(f"`n` (={n}) must be at least 1")
    batch = lab.batch([prompt])
    ids, counts_C = batch.ids_BC[0].tolist(), lab.counts(batch)[0]
    parts = torch.split(lab.x(batch)[0][counts_C.to(lab.model.device)], max(1, CODES_AT_ONCE // lab.dictionary.width))
    code_N = torch.zeros(lab.dictionary.width, device=lab.model.device)
    with Progress("features of a text", len(parts)) as bar:
        for x_XD in parts:
            code_N = torch.maximum(code_N, lab.encode(x_XD).amax(dim=0)) if len(x_XD) else code_N
            bar.advance()
    active_A = (code_N > 0).nonzero()[:, 0]
    strength_A = code_N[active_A] / lab.index.max_N.to(code_N.device)[active_A]
    chosen_F = torch.where(strength_A.isfinite(), strength_A, -1).sort(descending=True, stable=True).indices[:n]
    features = active_A[chosen_F].tolist()
    values_FC = torch.zeros(len(features), len(ids))
    if features:
        values_FC[:, counts_C] = torch.cat([lab.encode(x_XD, features) for x_XD in parts]).T.cpu()
    found = zip(features, strength_A[chosen_F].tolist(), values_FC.tolist(), strict=True)
    return PromptFeatures(ids, lab.texts.sequence(ids), [_prompt_feature(*each) for each in found], len(active_A))


def _prompt_feature(feature: int, strength: float, values: list[float]) -> PromptFeature:
    code = max(values)
    return PromptFeature(feature, strength if math.isfinite(strength) else None, code, values.index(code), values)

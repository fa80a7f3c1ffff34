"""Created examples: texts that a person makes up, with the code of features on every token (SCIENCE.md §5).

Of the features asked for, or of all, those that fire in a text are ranked by their largest code in it and by their code
at its last token; so this is also the search for features by prompt.
Source: S1. Left out: ranks relative to each feature's maximum in the corpus, for which one needs an index.

Shapes: C tokens of a text, D = d_in, N features ranked, F features shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from monosemy.analysis.chart import Chart, Heat
from monosemy.analysis.lab import Lab, Prompt
from monosemy.analysis.result import Result, Table
from monosemy.runtime import Progress, UsageError

# Codes held at a time, by kind of device.
CODES_AT_ONCE = {"cpu": 2**23, "cuda": 2**25}


@dataclass(frozen=True)
class CreatedText:
    """One text and the features in it."""

    ids: Sequence[int]
    tokens: Sequence[str]
    by_maximum: Sequence[int]
    """Features by their largest code in the text, strongest first; only such as fire."""
    at_last: Sequence[int]
    """Features by their code at the last token, strongest first; only such as fire there."""
    values: Mapping[int, Sequence[float]]
    """Feature → its code on every token: the features asked for, or all in the two lists."""


@dataclass(frozen=True)
class CreatedExamples(Result):
    """Texts, and codes on every token."""

    name: ClassVar[str] = "created"
    texts: Sequence[CreatedText]

    def table(self) -> Table:
        """A row a feature of each text: its largest code, on which token, and its code at the last token."""
        rows = []
        for number, text in enumerate(self.texts):
            for feature, values in text.values.items():
                peak = max(range(len(values)), key=values.__getitem__)
                rows.append([number, feature, values[peak], peak, text.tokens[peak], values[-1]])
        return Table(["text", "feature", "maximum", "position", "token", "last"], rows)

    def charts(self) -> list[Chart]:
        """A heat map a text: features by tokens."""
        return [
            Chart(
                f"text-{number}", f"text {number}", "token", "feature",
                [Heat(list(text.values.values()), [str(each) for each in text.values], text.tokens, "code")],
            )
            for number, text in enumerate(self.texts) if text.values
        ]  # fmt: skip


def created_examples(
    lab: Lab, texts: Sequence[Prompt], features: Sequence[int] | None = None, *, top: int = 10
) -> CreatedExamples:
    """The codes of `features` on every token of each text; without `features`, of the `top` strongest of all.

    Raises UsageError if a text is empty or too long for the model, or there is no such feature.
    """
    if isinstance(texts, str):
        raise UsageError(f"`texts` (={texts!r}) is one text; give a list of them")
    if top < 1:
        raise UsageError(f"`top` (={top}) must be at least 1")
    asked = None if features is None else list(dict.fromkeys(lab.checked(feature) for feature in features))
    found = []
    with Progress("created examples", len(texts), unit="texts") as bar:
        for text in texts:
            found.append(_looked_at(lab, text, asked, top))
            bar.advance()
    return CreatedExamples(found)


def _looked_at(lab: Lab, text: Prompt, asked: list[int] | None, top: int) -> CreatedText:
    batch = lab.batch([text])
    x_CD = lab.x(batch)[0]
    counts_C = lab.counts(batch)[0].to(x_CD.device)
    ids: list[int] = batch.ids_BC[0].tolist()
    kind = "cuda" if x_CD.device.type == "cuda" else "cpu"
    rows = max(1, CODES_AT_ONCE[kind] // lab.dictionary.width)
    blocks = list(zip(torch.split(x_CD, rows), torch.split(counts_C, rows), strict=True))

    peak_N = torch.full((lab.dictionary.width if asked is None else len(asked),), -torch.inf, device=x_CD.device)
    last_N = peak_N
    for x_XD, counts_X in blocks:
        codes_XN = lab.encode(x_XD, asked) * counts_X[:, None]
        peak_N, last_N = torch.maximum(peak_N, codes_XN.amax(dim=0)), codes_XN[-1]
    by_maximum, at_last = (_strongest(codes_N, asked, top) for codes_N in (peak_N, last_N))
    shown = list(dict.fromkeys([*by_maximum, *at_last])) if asked is None else asked
    parts = [lab.encode(x_XD, shown) * counts_X[:, None] for x_XD, counts_X in blocks] if shown else []
    values = {feature: torch.cat([part[:, f] for part in parts]).tolist() for f, feature in enumerate(shown)}
    return CreatedText(ids, lab.texts.sequence(ids), by_maximum, at_last, values)


def _strongest(codes_N: torch.Tensor, asked: list[int] | None, top: int) -> list[int]:
    """The numbers of the features with the largest codes above 0; of equals the first."""
    order_N = codes_N.argsort(descending=True, stable=True)[: min(top, int((codes_N > 0).sum()))].tolist()
    return [n if asked is None else asked[n] for n in order_N]

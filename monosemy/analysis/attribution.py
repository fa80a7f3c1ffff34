"""What a feature writes into the logits: over the whole vocabulary, and at the end of a prompt.

`logit_attribution` carries the feature's direction along the linear path (SCIENCE.md §5): the down projection and the
unembedding from `mlp_act`, the unembedding alone from a residual site; with the final norm's gain and centring folded
in, and without. Values are logits for a code of 1, up to the norms' scale, which depends on the token.

`prompt_attribution` measures that scale at the prompt's last token, so its numbers are real logits before any capping:

    a_n(t) = scale · c_n · (W_dec,n · path)[t], less its mean over the vocabulary, as softmax does not see the mean.

Features, and what the dictionary leaves over (bias and error), sum to what the whole activation writes there.

Shapes: N features, A active features, B of them at a time, D = width written, V = vocabulary.
Source: nostalgebraist, "interpreting GPT: the logit lens", 2020; Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits" (direct logit attribution). Left out: what later layers make of the feature; see `ablation.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monosemy.analysis.chart import Bars, Chart, Histogram
from monosemy.analysis.lab import Lab, Prompt
from monosemy.analysis.logits import BLOCK_LOGITS
from monosemy.analysis.result import Result, Table
from monosemy.models.path import check_path, path_scale
from monosemy.runtime import Progress, UsageError

BINS = 60


@dataclass(frozen=True)
class TokenLogit:
    """A token and its logit."""

    id: int
    text: str
    logit: float


@dataclass(frozen=True)
class VocabularyLogits:
    """The logits of one direction over the vocabulary."""

    top: list[TokenLogit]
    """The most raised tokens, the most extreme first."""
    bottom: list[TokenLogit]
    """The most lowered, likewise."""
    mean: float
    deviation: float
    skew: float | None
    """m₃ / m₂^1.5 with central moments; None where all logits are equal. Far above 0: a few tokens stand out."""
    kurtosis: float | None
    """m₄ / m₂² − 3; 0 for a normal distribution."""
    edges: list[float]
    counts: list[int]
    """Of tokens between neighbouring edges."""


@dataclass(frozen=True)
class LogitAttribution(Result):
    """What a feature's direction writes over the vocabulary."""

    name = "logit-attribution"
    feature: int
    site: str
    """Where the feature acts."""
    with_norm: VocabularyLogits
    """With the gain and the centring of the final norm."""
    without_norm: VocabularyLogits

    def table(self) -> Table:
        """A row a token shown."""
        sides = (("with", self.with_norm), ("without", self.without_norm))
        rows = [
            [norm, end, rank + 1, token.id, token.text, token.logit]
            for norm, logits in sides
            for end, tokens in (("top", logits.top), ("bottom", logits.bottom))
            for rank, token in enumerate(tokens)
        ]
        return Table(["final_norm", "end", "rank", "id", "token", "logit"], rows)

    def charts(self) -> Sequence[Chart]:
        """Top and bottom tokens, then the histogram of all logits; with the norm, then without."""
        sides = (("with-norm", self.with_norm, ""), ("without-norm", self.without_norm, ", without the final norm"))
        tokens = [
            Chart(f"tokens-{name}", f"Tokens that feature {self.feature} raises and lowers most{said}", "token",
                  "logit", [Bars([t.text for t in both], [t.logit for t in both])])
            for name, logits, said in sides
            if (both := logits.top + logits.bottom[::-1])
        ]  # fmt: skip
        histograms = [
            Chart(f"histogram-{name}", f"Logits of all tokens for feature {self.feature}{said}", "logit", "tokens",
                  [Histogram(logits.edges, logits.counts)], log_y=True)
            for name, logits, said in sides
        ]  # fmt: skip
        return [tokens[0], histograms[0], tokens[1], histograms[1]]


@dataclass(frozen=True)
class Contribution:
    """What one feature adds to the target token's logit at the last token."""

    feature: int
    code: float
    logit: float


@dataclass(frozen=True)
class PromptAttribution(Result):
    """What the features active at a prompt's last token add to the logit of the token that may come next."""

    name = "prompt-attribution"
    site: str
    tokens: list[str]
    target: int
    target_text: str
    target_probability: float
    contributions: list[Contribution]
    """Of the features that matter most, the largest by magnitude first."""
    n_active: int
    features: float
    """The sum over all active features."""
    rest: float
    """What the site's activation adds besides: the dictionary's bias and its error."""

    def table(self) -> Table:
        """A row a feature."""
        return Table(["feature", "code", "logit"], [[c.feature, c.code, c.logit] for c in self.contributions])

    def charts(self) -> Sequence[Chart]:
        """The features' contributions."""
        labels = [str(c.feature) for c in self.contributions]
        bars = Bars(labels, [c.logit for c in self.contributions])
        title = f"What features add to the logit of {self.target_text!r}"
        return [Chart("contributions", title, "feature", "logit above the vocabulary's mean", [bars])]


def logit_attribution(lab: Lab, feature: int, n_tokens: int = 20) -> LogitAttribution:
    """The logits of a feature's direction, with `n_tokens` at either end.

    Raises UsageError where there is no such feature, or no linear path from where it writes, saying why.
    """
    if n_tokens < 1:
        raise UsageError(f"`n_tokens` (={n_tokens}) must be at least 1")
    direction_1D = lab.dictionary.W_dec_ND[lab.checked(feature)][None]
    folded, plain = (
        _over_vocabulary(lab, logits_along_path(lab, direction_1D, fold)[0], n_tokens) for fold in (True, False)
    )
    return LogitAttribution(feature, lab.written_site, folded, plain)


def prompt_attribution(
    lab: Lab, prompt: Prompt, target: int | str | None = None, n_features: int = 20
) -> PromptAttribution:
    """What each feature active at the last token adds directly to the logit of `target`.

    `target`: a token's id, its text, or None for the token that the model finds most likely. Raises UsageError where
    there is no linear path, or the target is no single token of the vocabulary.
    """
    site = lab.written_site
    check_path(lab.model, site)
    batch = lab.batch([prompt])
    odds_V = lab.model.logits(batch.ids_BC)[0, -1].float().softmax(dim=0)[: lab.vocab_size]
    token = int(odds_V.argmax()) if target is None else _token(lab, target)
    scale = float(path_scale(lab.model, site, batch.ids_BC)[0, -1])
    code_N = lab.last_codes(batch)[0].float()
    active_A = code_N.nonzero()[:, 0]
    whole_1D = lab.model.capture(batch.ids_BC, [site])[site][0, -1:].float()
    unit_A = _to_target(lab, lab.dictionary.W_dec_ND[active_A], token)
    logit_A = scale * code_N[active_A] * unit_A
    total = scale * float(_to_target(lab, whole_1D, token)[0])
    order = logit_A.abs().argsort(descending=True)[:n_features].tolist()
    return PromptAttribution(
        site=site,
        tokens=lab.texts.sequence(batch.ids_BC[0].tolist()),
        target=token,
        target_text=lab.texts.of(token),
        target_probability=float(odds_V[token]),
        contributions=[Contribution(int(active_A[i]), float(code_N[active_A[i]]), float(logit_A[i])) for i in order],
        n_active=len(active_A),
        features=float(logit_A.sum()),
        rest=total - float(logit_A.sum()),
    )


def logits_along_path(lab: Lab, directions_BD: torch.Tensor, fold_norm: bool = True) -> torch.Tensor:
    """`logits_BV` of directions where the features write, over the tokenizer's vocabulary.

    Raises UsageError, saying why, where there is no linear path.
    """
    logits_BV = lab.model.direction_logits(lab.written_site, directions_BD, fold_norm)
    if logits_BV is None:
        check_path(lab.model, lab.written_site)
        raise UsageError(f"site (={lab.written_site!r}) has no linear path to the logits")
    return logits_BV[:, : lab.vocab_size]


def _over_vocabulary(lab: Lab, logits_V: torch.Tensor, n_tokens: int) -> VocabularyLogits:
    kept = min(n_tokens, len(logits_V))
    ends = [logits_V.topk(kept, largest=largest) for largest in (True, False)]
    top, bottom = (
        [TokenLogit(i, lab.texts.of(i), value) for value, i in zip(*map(torch.Tensor.tolist, end), strict=True)]
        for end in ends
    )
    exact_V = logits_V.double().cpu()
    away_V = exact_V - exact_V.mean()
    variance = float(away_V.square().mean())
    counts, edges = torch.histogram(exact_V, BINS)
    return VocabularyLogits(
        top=top,
        bottom=bottom,
        mean=float(exact_V.mean()),
        deviation=variance**0.5,
        skew=float(away_V.pow(3).mean()) / variance**1.5 if variance > 0 else None,
        kurtosis=float(away_V.pow(4).mean()) / variance**2 - 3 if variance > 0 else None,
        edges=edges.tolist(),
        counts=counts.long().tolist(),
    )


def _to_target(lab: Lab, directions_AD: torch.Tensor, token: int) -> torch.Tensor:
    """Each direction's logit of the token above its mean over the vocabulary, `logit_A`."""
    block = max(1, BLOCK_LOGITS // lab.vocab_size)
    pieces = [torch.zeros(0, device=directions_AD.device)]
    with Progress("attribution", len(directions_AD), unit="features") as bar:
        for directions_BD in torch.split(directions_AD, block) if len(directions_AD) else ():
            logits_BV = logits_along_path(lab, directions_BD)
            pieces.append(logits_BV[:, token] - logits_BV.mean(dim=1))
            bar.advance(len(directions_BD))
    return torch.cat(pieces)


def _token(lab: Lab, target: int | str) -> int:
    if isinstance(target, str):
        ids = lab.tokens.tokenizer.encode(target, add_special_tokens=False).ids
        if len(ids) != 1:  # some tokenizers put a blank before any text: then it is the token that reads so
            alike = [token for token in range(lab.vocab_size) if lab.texts.of(token) == target]
            if alike:
                return alike[-1]  # single bytes stand before the vocabulary's own tokens
            raise UsageError(f"`target` (={target!r}) is {len(ids)} tokens; give the text of one, or its id")
        return int(ids[0])
    if not 0 <= target < lab.vocab_size:
        raise UsageError(f"`target` (={target}) must be a token's id, from 0 to {lab.vocab_size - 1}")
    return target

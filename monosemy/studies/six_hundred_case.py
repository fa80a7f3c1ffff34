"""The case study of one feature: every plot of S1, in its order, each with the command that makes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monosemy.analysis.ablation import ablation_effect
from monosemy.analysis.attribution import logit_attribution
from monosemy.analysis.chart import figure_of
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import created_examples
from monosemy.analysis.feature import Example
from monosemy.analysis.lab import Lab
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.probes import k_sparse_probe
from monosemy.analysis.result import Result, as_plain
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.report.study import StudyPage
from monosemy.runtime import UsageError
from monosemy.studies.six_hundred import Kept, Stages

BEFORE = 9  # tokens of the prompt before the peak of the strongest example
LENGTHS = sorted(range(2 * BEFORE + 1), key=lambda before: abs(before - BEFORE))  # those nearest to it first
SPREAD = ("spread", "few")  # verdicts of features that are no single neuron


def case_page(page: StudyPage, stages: Stages, rows: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    """Write the page of the feature that was asked for, or of the first one that is no single neuron."""
    feature = stages.settings.feature if stages.settings.feature is not None else _chosen(stages, rows)
    say(f"case study: feature {feature}")
    case = Case(page, stages, feature)
    row = next(row for row in rows if row["feature"] == feature)
    page.title = f"Feature {feature}"
    page.lead = (
        f"MCS {row['mcs']:.3f} to the other seed, {row['wide']:.3f} to the wider dictionary; fires on "
        f"{row['density']:.3%} of tokens; neurons: {row['verdict']}. The prompt, from its strongest "
        f"example: “{case.prompt_text}”"
    )
    case.examples()
    case.prompts()
    case.neurons()
    case.effects()
    page.write()


def _chosen(stages: Stages, rows: Sequence[Mapping[str, Any]]) -> int:
    """Of the features that are no single neuron, and that a text can show, the one with the largest MCS."""
    alive = [row for row in rows if not row["dead"] and row["verdict"] in SPREAD]
    for row in sorted(alive, key=lambda row: -row["mcs"]):
        if prompt_of(stages.lab, stages.index.feature(row["feature"]).examples["top"]) is not None:
            return int(row["feature"])
    raise UsageError("no living feature is anything but a single neuron here; name one with --feature")


class Case:
    """One feature, its prompt, and the page that is written of it."""

    def __init__(self, page: StudyPage, stages: Stages, feature: int) -> None:
        self.page, self.stages, self.feature = page, stages, feature
        self.shown = stages.index.feature(feature)
        text = prompt_of(stages.lab, self.shown.examples["top"])
        if text is None:
            raise UsageError(f"`feature` (={feature}): no text has the tokens on which it is strongest; choose another")
        self.prompt_text = text
        self.prompt = stages.lab.ids(self.prompt_text)
        self.texts = list(stages.settings.text) or [self.prompt_text, self.prompt_text[::-1]]

    def examples(self) -> None:
        """Top activating, uniform and random examples."""
        for group, heading, text in (
            ("top", "Top activating examples", "The strongest, one a document; the peak in «»."),
            ("uniform", "Uniform examples", "Equal steps of strength from the weakest to the strongest, one of each."),
            ("random", "Silent examples", "Windows in which it does not fire at all (checked)."),
        ):
            self.page.section(heading, text)
            self.page.table([line_of(example) for example in self.shown.examples[group][:10]])

    def prompts(self) -> None:
        """Context ablation, created examples, every token before and after."""
        lab, feature, prompt = self.stages.lab, self.feature, self.prompt
        self._add(
            "context", "Context ablation", "What the feature loses when a token is really left out.",
            lambda: context_ablation(lab, feature, prompt), "context", prompt=True,
        )  # fmt: skip
        for where, text in (
            ("prepend", "Every token of the vocabulary before the prompt."),
            ("append", "Every token after it: what makes the feature fire there."),
            ("alone", "Every token on its own."),
        ):
            kept = self._add(
                f"vocabulary-{where}", f"Vocabulary scan: {where}", text,
                lambda where=where: vocabulary_scan(lab, feature, prompt, where),  # type: ignore[misc]
                "vocabulary", prompt=True, where=where,
            )  # fmt: skip
            data = kept.data
            fewer, more = f"{data['n_decrease']:,} of {data['n_tokens']:,}", f"{data['n_increase']:,}"
            self.page.section("", f"{fewer} tokens decrease it, {more} increase it.")
        self._add(
            "created", "Created examples", "Texts of one's own (without any: the prompt, and its letters backwards).",
            lambda: created_examples(lab, self.texts, [feature]), "created",
        )  # fmt: skip

    def neurons(self) -> None:
        """The feature beside the neurons."""
        lab, feature = self.stages.lab, self.feature
        self._add(
            "neurons", "In the neuron basis", "Neurons above t on all of its top ten examples; its own vector.",
            lambda: neuron_comparison(lab, feature), "neurons",
        )  # fmt: skip
        self._add(
            "probe", "Sparse probes", "How many neurons it takes to tell where the feature fires.",
            lambda: k_sparse_probe(lab, feature), "probe",
        )  # fmt: skip

    def effects(self) -> None:
        """What it does to the next token."""
        lab, feature = self.stages.lab, self.feature
        self._add(
            "logits", "Logit lens", "The tokens that its direction makes likely and unlikely.",
            lambda: logit_attribution(lab, feature), "logits",
        )  # fmt: skip
        self._add(
            "ablation", "Ablation effect", "What the model predicts without the feature, around its top examples.",
            lambda: ablation_effect(lab, feature), "ablation",
        )  # fmt: skip

    def _add(
        self, name: str, heading: str, text: str, analysis: Callable[[], Result], command: str, prompt: bool = False,
        **options: str,
    ) -> Kept:  # fmt: skip
        """Run an analysis, or find it, and show its charts."""
        config: dict[str, Any] = {"feature": self.feature, **options}
        if prompt:
            config["prompt"] = self.prompt
        if name == "created":
            config["texts"] = self.texts
        kept = self.stages.keep(f"case-{self.feature}-{name}", analysis, **config)
        words = [f"--prompt={self.prompt_text}"] if prompt else []  # with "=", for it may begin with a hyphen
        words += [f"--{key}={value}" for key, value in options.items()]
        if name == "created":
            words += ["--texts", *self.texts, "--features", str(self.feature)]
        else:
            words += ["--feature", str(self.feature)]
        line = self.stages.analyse(command, *words, out=f"case-{self.feature}-{name}")
        self.page.section(heading, text)
        for chart in kept.charts:
            self.page.figure(figure_of(chart), f"{name}-{chart.name}", chart.title, as_plain(chart), line)
        return kept


def prompt_of(lab: Lab, examples: Sequence[Example]) -> str | None:
    """A text that ends where the feature peaks and whose tokens are those of the corpus there.

    Not every piece of a text is cut into the tokens that it had within it: so about BEFORE tokens before the strongest
    example's peak, fewer or more until a piece is, or else before the next example's. Some tokenizers put a blank
    before any text; so the piece without its own is tried too. None where no piece is, as for
    a feature of the BOS alone.
    """
    pieces = (_piece(lab, example, before) for example in examples for before in LENGTHS)
    texts = ((text, ids) for whole, ids in pieces for text in (whole, whole.removeprefix(" ")))
    return next((text for text, ids in texts if _survives(lab, text, ids)), None)


def _survives(lab: Lab, text: str, ids: Sequence[int]) -> bool:
    bos = lab.tokens.edges.bos
    return bool(text) and lab.ids(text) == [*([] if bos is None else [bos]), *ids]


def _piece(lab: Lab, example: Example, before: int) -> tuple[str, list[int]]:
    """The text and tokens from up to `before` tokens before the peak to it, without a BOS."""
    start = max(example.offset - example.position, example.offset - before)
    ids: list[int] = lab.tokens.tokens_T[start : example.offset + 1].tolist()
    ids = ids[1:] if ids[0] == lab.tokens.edges.bos else ids
    return "".join(lab.texts.sequence(ids)), ids


def line_of(example: Example) -> dict[str, Any]:
    """A table's row: strength, text with its peak in «», document."""
    tokens, peak = example.tokens, example.peak
    text = "".join(tokens[:peak]) + f"«{tokens[peak]}»" + "".join(tokens[peak + 1 :])
    return {"code": example.values[peak], "text": text, "document": example.document}

"""The case study of one feature: every plot of S1, in its order, each with the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monosemy.analysis.ablation import ablation_effect
from monosemy.analysis.attribution import logit_attribution
from monosemy.analysis.chart import figure_of
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import created_examples
from monosemy.analysis.feature import Example
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.probes import k_sparse_probe
from monosemy.analysis.result import Result, as_plain
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.report.study import StudyPage
from monosemy.runtime import UsageError
from monosemy.studies.six_hundred import Kept, Stages

BEFORE = 9  # tokens of the prompt before the peak of the strongest example
SPREAD = ("spread", "few")  # verdicts of features that are no single neuron


def case_page(page: StudyPage, stages: Stages, rows: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    """Write the page of the feature that was asked for, or of the first one that is no single neuron."""
    feature = stages.settings.feature if stages.settings.feature is not None else _chosen(rows)
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


def _chosen(rows: Sequence[Mapping[str, Any]]) -> int:
    alive = [row for row in rows if not row["dead"] and row["verdict"] in SPREAD]
    if not alive:
        raise UsageError("no living feature is anything but a single neuron here; name one with --feature")
    return int(max(alive, key=lambda row: (bool(row["meaningful"]), row["mcs"]))["feature"])


class Case:
    """One feature, its prompt, and the page that is written of it."""

    def __init__(self, page: StudyPage, stages: Stages, feature: int) -> None:
        self.page, self.stages, self.feature = page, stages, feature
        self.shown = stages.index.feature(feature)
        self.prompt = self._prompt(self.shown.examples["top"][0])
        said = [token for token in self.prompt if token != stages.tokens.edges.bos]  # a lab adds it by itself
        self.prompt_text = "".join(stages.lab.texts.sequence(said)).strip()

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
        texts = list(self.stages.settings.text) or [self.prompt_text, self.prompt_text[::-1]]
        self._add(
            "created", "Created examples", "Texts of one's own (without any: the prompt, and its letters backwards).",
            lambda: created_examples(lab, texts, [feature]), "created",
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
            config["texts"] = list(self.stages.settings.text)
        kept = self.stages.keep(f"case-{self.feature}-{name}", analysis, **config)
        words = ["monosemy", "analyse", command, str(self.stages.out), "--feature", str(self.feature)]
        words += ["--prompt", self.prompt_text] if prompt else []
        words += [word for key, value in options.items() for word in (f"--{key}", value)]
        self.page.section(heading, text)
        for chart in kept.charts:
            self.page.figure(figure_of(chart), f"{name}-{chart.name}", chart.title, as_plain(chart), shlex.join(words))
        return kept

    def _prompt(self, example: Example) -> list[int]:
        """The tokens up to the strongest example's peak, with BOS where documents begin with one."""
        store = self.stages.tokens
        ids: list[int] = store.tokens_T[
            max(0, example.offset - BEFORE, example.offset - example.position) : example.offset + 1
        ].tolist()
        bos = store.edges.bos
        return ids if bos is None or ids[0] == bos else [bos, *ids]


def line_of(example: Example) -> dict[str, Any]:
    """A table's row: strength, text with its peak in «», document."""
    tokens, peak = example.tokens, example.peak
    text = "".join(tokens[:peak]) + f"«{tokens[peak]}»" + "".join(tokens[peak + 1 :])
    return {"code": example.values[peak], "text": text, "document": example.document}

"""The case study of one feature: every plot of S1, in its order, each with the command that makes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monosemy.analysis.ablation import ablation_effect
from monosemy.analysis.attribution import logit_attribution
from monosemy.analysis.chart import figure_of, visible
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import created_examples
from monosemy.analysis.feature import Example
from monosemy.analysis.lab import Lab
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.probes import k_sparse_probe
from monosemy.analysis.result import Result, as_plain
from monosemy.analysis.verdict import FEW
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.report.study import StudyPage, shown
from monosemy.runtime import UsageError
from monosemy.studies.six_hundred import Kept, Stages

BEFORE = 9  # tokens of the prompt before the peak of the strongest example
LENGTHS = sorted(range(2 * BEFORE + 1), key=lambda before: abs(before - BEFORE))  # those nearest to it first
SCORES = ("accuracy", "f1", "random_accuracy", "random_f1")
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
            self.page.table([line_of(each, marked=group != "random") for each in self.shown.examples[group][:10]])

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
                # After the prompt, where it is strong already, its values say what makes it fire, not its changes.
                without=("extremes",) if where == "append" else ("strongest",),
            )  # fmt: skip
            self.page.section("", scan_line(kept.data))
        self._add(
            "created", "Created examples", "Texts of one's own (without any: the prompt, and its letters backwards).",
            lambda: created_examples(lab, self.texts, [feature]), "created",
        )  # fmt: skip

    def neurons(self) -> None:
        """The feature beside the neurons."""
        lab, feature = self.stages.lab, self.feature
        kept = self._add(
            "neurons", "In the neuron basis", "Neurons above t on all of its top ten examples; its own vector.",
            lambda: neuron_comparison(lab, feature), "neurons",
        )  # fmt: skip
        self.page.section("", evidence_line(kept.data["evidence"]))
        kept = self._add(
            "probe", "Sparse probes", "How many neurons it takes to tell where the feature fires.",
            lambda: k_sparse_probe(lab, feature), "probe",
        )  # fmt: skip
        self.page.section("", probe_line(kept.data))

    def effects(self) -> None:
        """What it does to the next token."""
        lab, feature = self.stages.lab, self.feature
        self._add(
            "logits", "Logit lens", "The tokens that its direction makes likely and unlikely.",
            lambda: logit_attribution(lab, feature), "logits",
        )  # fmt: skip
        kept = self._add(
            "ablation", "Ablation effect",
            "What the model predicts without the feature, around its top examples; the bars are of the first of them.",
            lambda: ablation_effect(lab, feature), "ablation",
        )  # fmt: skip
        self.page.table(
            effect_rows(kept.data),
            caption=f"Means over {len(kept.data['texts'])} top examples, in nats, with 95 % intervals: of the removal, "
            "of its control (another active feature removed, at the same places and by a change of the same size), and "
            "of the difference.",
        )

    def _add(
        self, name: str, heading: str, text: str, analysis: Callable[[], Result], command: str, prompt: bool = False,
        without: Sequence[str] = (), **options: str,
    ) -> Kept:  # fmt: skip
        """Run an analysis, or find it, and show its charts, but for those named in `without`."""
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
        for chart in (chart for chart in kept.charts if chart.name not in without):
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


def scan_line(data: Mapping[str, Any]) -> str:
    """How many tokens change the feature, and with which it fires."""
    changed = f"{data['n_decrease']:,} of {data['n_tokens']:,} tokens decrease it, {data['n_increase']:,} increase it"
    first = ", ".join(f"“{visible(token['text'])}” ({shown(token['value'])})" for token in data["strongest"][:5])
    return f"{changed}; it fires with {data['n_fires']:,}" + (f", most with {first}." if first else ".")


def evidence_line(told: Mapping[str, Any]) -> str:
    """The verdict on the feature's neurons, and what it rests on."""
    said = f"Verdict: {told['verdict']}."
    if told["neuron"] >= 0:
        said += f" Most like neuron {told['neuron']} (correlation {shown(told['correlation'])})."
    if told["share_single"] is None or told["share_few"] is None:
        return said
    return (
        f"{said} Of what all neurons tell of its code (R² {shown(told['r2_all'])}) the best one tells "
        f"{told['share_single']:.0%}, the best {FEW} tell {told['share_few']:.0%}."
    )


def probe_line(data: Mapping[str, Any]) -> str:
    """How well one neuron, and most of them, tell where the feature fires."""
    scores = {name: [_interval(each, "value") for each in data[name]] for name in SCORES}
    accuracy, f1, random_accuracy, random_f1 = scores.values()
    said = [
        f"{data['ks'][place]} of the neurons: balanced accuracy {accuracy[place]}, F1 {f1[place]}; as many at random: "
        f"{random_accuracy[place]}, {random_f1[place]}."
        for place in (0, -1)
    ]
    at = f"F1 is at its own frequency ({data['density']:.2%}), at the cut that is best in training."
    return " ".join([*said, at])


def effect_rows(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a kind of effect: its mean, its control's and their difference."""
    parts = {"removal": data["means"], "control": data["controls"], "difference": data["excess"]}
    return [
        {"effect": kind} | {name: each[kind] and _interval(each[kind], "mean") for name, each in parts.items()}
        for kind in data["means"]
        if data["means"][kind]
    ]


def _interval(found: Mapping[str, Any], value: str) -> str:
    if found["low"] is None:
        return shown(found[value])
    return f"{shown(found[value])} ({shown(found['low'])} to {shown(found['high'])})"


def line_of(example: Example, marked: bool = True) -> dict[str, Any]:
    """A table's row: strength, text with its peak in «» (a silent one has none: not `marked`), document."""
    tokens, peak = example.tokens, example.peak
    at_peak = f"«{tokens[peak]}»" if marked else tokens[peak]
    text = "".join(tokens[:peak]) + at_peak + "".join(tokens[peak + 1 :])
    return {"code": example.values[peak], "text": text, "document": example.document}

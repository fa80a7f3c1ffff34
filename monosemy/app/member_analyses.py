"""The analyses of a whole member that a browser may ask for, on the member's page."""

from __future__ import annotations

from collections.abc import Mapping

from monosemy.analysis.agreement import AgreementSettings, input_output_agreement
from monosemy.analysis.labelled import labelled_lines
from monosemy.analysis.neuron_curves import neuron_curves
from monosemy.analysis.probing import POOLINGS, probe_labels
from monosemy.app import neuron_words, words
from monosemy.app.offered import MAX_TOKENS, MEMBER, SEED, Analysis, Arguments, Values, own_features, rest_by_name
from monosemy.app.parameters import Choice, Labelled, Whole, Word

PAGE = "/grid"


def _agreement(values: Values) -> Arguments:
    named = rest_by_name(values)[1]
    return [], {**named, "meaningful": values["meaningful"] == "yes"}


def _labelled(values: Values) -> Arguments:
    pairs = labelled_lines(values["lines"], "`lines`")
    texts, labels = [text for _, text in pairs], [label for label, _ in pairs]
    named = {"positive": values["positive"]} if values["positive"] else {}
    return [texts, labels], {**named, "pooling": values["pooling"], "seed": values["seed"]}


OF_MEMBER: Mapping[str, Analysis] = {
    "agreement": Analysis(
        "Input–output agreement",
        "For how many features the logits match what they fire on, beside other features' logits",
        input_output_agreement,
        {
            "examples": Whole("strongest examples of each feature, at most", 1, 50, AgreementSettings.examples),
            "at_least": Whole("examples that a feature must have", 1, 50, AgreementSettings.at_least),
            "controls": Whole("features to hold each against", 2, 1000, AgreementSettings.controls),
            "meaningful": Choice("say it of those that look meaningful, too; reads the corpus", ("no", "yes"), "no"),
            "seed": SEED,
        },
        _agreement,
        words=words.of_agreement,
        common=MEMBER,
        also=own_features,
        page=PAGE,
    ),
    "leading-curves": Analysis(
        "Neuron curves",
        "Neurons above t on all top examples of fifty features, beside directions that know nothing of features",
        neuron_curves,
        {"max_tokens": MAX_TOKENS},
        rest_by_name,
        words=neuron_words.of_curves,
        common=MEMBER,
        page=PAGE,
    ),
    "labels": Analysis(
        "Probe labelled text",
        "Whether k features tell a label better than k neurons, on texts held out",
        probe_labels,
        {
            "lines": Labelled("on each line a label, a tab and a text"),
            "positive": Word("the label to be told from all others; empty: there are two"),
            "pooling": Choice("over the tokens of a text", POOLINGS, POOLINGS[0]),
            "seed": SEED,
        },
        _labelled,
        words=neuron_words.of_labels,
        common=MEMBER,
        page=PAGE,
    ),
}

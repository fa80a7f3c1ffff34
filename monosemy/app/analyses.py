"""The analyses that a browser may run on a feature, and what it may say to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from monosemy.analysis.ablation import AblationEffect, ablation_effect
from monosemy.analysis.attribution import logit_attribution, prompt_attribution
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import CreatedExamples, created_examples
from monosemy.analysis.intervention import HOWS
from monosemy.analysis.logistic import CHOICES
from monosemy.analysis.neuron_curves import FEATURES, neuron_curves
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.probes import k_sparse_probe
from monosemy.analysis.steering import Steering, steer
from monosemy.analysis.steering_agreement import steering_agreement
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.app import neuron_words, words
from monosemy.app.offered import (
    MAX_TOKENS,
    PLAUSIBLE,
    POSITION,
    PROMPT,
    SEED,
    Analysis,
    Arguments,
    Strip,
    Values,
    own_features,
)
from monosemy.app.parameters import Choice, Parameter, Real, Whole, Word
from monosemy.app.references import MomentsOf

FIRES, DOES, NEURONS = "What makes it fire", "What it does", "Beside the neurons"


def _as_typed(values: Values) -> Arguments:
    return [[values["prompt"]]], {"features": [values["feature"]]}


def _with_moments(values: Values) -> Arguments:
    return [values["feature"]], {"moments": MomentsOf(values["dictionaries"], values["member"], values["max_tokens"])}


def _typed(result: CreatedExamples) -> list[Strip]:
    return [Strip("activations", text.tokens, codes) for text in result.texts for codes in text.values.values()]


def _ablated(result: AblationEffect) -> list[Strip]:
    return [Strip("activations", text.tokens, text.codes) for text in result.texts]


def _written(result: Steering) -> list[Strip]:
    sides = (("without", result.plain), (f"steered ({result.settings.how})", result.steered))
    return [Strip(label, text.tokens, text.codes) for label, text in sides]


def _scan(where: str) -> Callable[[Values], Arguments]:
    def arguments(values: Values) -> Arguments:
        named = {"where": where, **({"position": values["position"]} if "position" in values else {})}
        if values.get("plausible"):
            named["plausible"] = values["plausible"]
        return [values["feature"], values.get("prompt")], named

    return arguments


def _to_target(values: Values) -> Arguments:
    return [values["prompt"], values["target"] or None], {"n_features": values["n_features"]}


def _beside_controls(values: Values) -> Arguments:
    return [[values["feature"]]], {"directions": values["directions"], "max_tokens": values["max_tokens"]}


def _many_texts(values: Values) -> Arguments:
    """The prompt several times: each time with draws of its own."""
    settings = {name: value for name, value in values.items() if name in STEERING}
    return [[values["feature"]], [values["prompt"]] * values["texts"]], settings


STEERING: Mapping[str, Parameter] = {
    "how": Choice("add the feature's direction, fix its code, or remove it", HOWS, "add"),
    "strength": Real("in units of the feature's maximum", -4.0, 4.0, 1.0, slider=True),
    "new_tokens": Whole("how many tokens to write", 1, 200, 40),
    "temperature": Real("0 takes the likeliest token each time", 0.0, 4.0, 1.0),
    "seed": SEED,
}


def _scanned(label: str, what: str, where: str, **parameters: Parameter) -> Analysis:
    return Analysis(
        label,
        what,
        vocabulary_scan,
        {**parameters, "plausible": PLAUSIBLE},
        _scan(where),
        words=words.of_scan,
        streams=True,
        group=FIRES,
    )


ANALYSES: Mapping[str, Analysis] = {
    "activations": Analysis(
        "Activations",
        "The feature's code on each token",
        created_examples,
        {"prompt": PROMPT},
        _as_typed,
        _typed,
        quick=True,
    ),
    "context": Analysis(
        "Ablate context",
        "Which tokens the feature needs at the last one",
        context_ablation,
        {"prompt": PROMPT},
        words=words.of_context,
        quick=True,
        group=FIRES,
    ),
    "prepend": _scanned("Scan prepend", "Every token of the vocabulary before the text", "prepend", prompt=PROMPT),
    "append": _scanned("Scan append", "Every token of the vocabulary after the text", "append", prompt=PROMPT),
    "replace": _scanned(
        "Replace",
        "Every token of the vocabulary in the place of one of the text's",
        "replace",
        prompt=PROMPT,
        position=POSITION,
    ),
    "alone": _scanned("Every token alone", "The feature on each token of the vocabulary", "alone"),
    "logits": Analysis(
        "Logits",
        "Which tokens its direction makes likely",
        logit_attribution,
        {},
        words=words.of_logits,
        quick=True,
        group=DOES,
    ),
    "attribution": Analysis(
        "Attribution",
        "What this feature and the others write into the logit of the token after the text",
        prompt_attribution,
        {
            "prompt": PROMPT,
            "target": Word("the token, by its text; empty: the one that the model finds likeliest"),
            "n_features": Whole("features shown, those that matter most", 1, 200, 20),
        },
        _to_target,
        words=words.of_attribution,
        also=own_features,
        group=DOES,
    ),
    "ablation": Analysis(
        "Ablation effect",
        "What the model predicts in this text without the feature",
        ablation_effect,
        {"prompt": PROMPT},
        strips=_ablated,
        words=words.of_ablation,
        group=DOES,
    ),
    "ablation-examples": Analysis(
        "Ablation effect on examples",
        "The same around the feature's strongest examples",
        ablation_effect,
        {"examples": Whole("how many", 1, 30, 10)},
        strips=_ablated,
        words=words.of_ablation,
        group=DOES,
    ),
    "steer": Analysis(
        "Steer",
        "How the model goes on with the feature changed",
        steer,
        {"prompt": PROMPT, **STEERING},
        strips=_written,
        words=words.of_steering,
        group=DOES,
    ),
    "steering-agreement": Analysis(
        "Steering agreement",
        "Whether the feature fires on text that is steered by it, more than on plain text and on another's",
        steering_agreement,
        {"prompt": PROMPT, "texts": Whole("texts of each kind, each with draws of its own", 1, 32, 8), **STEERING},
        _many_texts,
        words=words.of_steering_agreement,
        also=own_features,
        group=DOES,
    ),
    "neurons": Analysis(
        "Neurons",
        "The feature beside the neurons",
        neuron_comparison,
        {"max_tokens": MAX_TOKENS},
        _with_moments,
        words=neuron_words.of_neurons,
        group=NEURONS,
    ),
    "curves": Analysis(
        "Neuron curves",
        "How many neurons are above t on all of its top examples, beside directions that know nothing of features",
        neuron_curves,
        {"directions": Whole("of each control", 1, 200, FEATURES), "max_tokens": MAX_TOKENS},
        _beside_controls,
        words=neuron_words.of_curves,
        group=NEURONS,
    ),
    "probe": Analysis(
        "Sparse probes",
        "How well k neurons tell where it fires",
        k_sparse_probe,
        {"choose": Choice("how the neurons are chosen", CHOICES, CHOICES[0]), "max_tokens": MAX_TOKENS, "seed": SEED},
        words=neuron_words.of_probe,
        group=NEURONS,
    ),
}

"""The analyses that a browser may run on a feature, and what it may say to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monosemy.analysis.ablation import AblationEffect, ablation_effect
from monosemy.analysis.attribution import logit_attribution
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import CreatedExamples, created_examples
from monosemy.analysis.intervention import HOWS
from monosemy.analysis.neurons import neuron_comparison
from monosemy.analysis.result import Result
from monosemy.analysis.steering import Steering, steer
from monosemy.analysis.vocabulary import vocabulary_scan
from monosemy.app.parameters import LARGEST, Choice, Parameter, Real, Text, Whole
from monosemy.app.references import MomentsOf

Values = Mapping[str, Any]
Arguments = tuple[Sequence[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Strip:
    """A text with the feature's code on each token, for the page to shade."""

    label: str
    tokens: Sequence[str]
    values: Sequence[float]


def _feature_and_prompt(values: Values) -> Arguments:
    """`function(lab, feature, prompt, …the rest by name)`."""
    rest = {name: value for name, value in values.items() if name not in (*COMMON, "prompt")}
    return [values["feature"], *([values["prompt"]] if "prompt" in values else [])], rest


def _no_strips(_result: Any) -> list[Strip]:
    return []


def _nothing_more(_given: Sequence[Any], _result: Any) -> Mapping[str, Any]:
    return {}


GRID: Mapping[str, Parameter] = {"dictionaries": Text("the name of a grid in this run", longest=200)}
MEMBER: Mapping[str, Parameter] = {**GRID, "member": Whole("its member", 0, LARGEST)}
COMMON: Mapping[str, Parameter] = {**MEMBER, "feature": Whole("the feature's number", 0, LARGEST)}


@dataclass(frozen=True)
class Analysis:
    """One analysis: what it is called, which function, with what."""

    label: str
    help: str
    function: Callable[..., Result]
    parameters: Mapping[str, Parameter]
    arguments: Callable[[Values], Arguments] = _feature_and_prompt
    """The function's arguments after the first; what a request names is given as a Reference."""
    strips: Callable[[Any], Sequence[Strip]] = _no_strips
    streams: bool = False
    """It takes `each=`, a function that it calls with what it knows so far."""
    common: Mapping[str, Parameter] = field(default_factory=lambda: COMMON)
    """What it is asked of: a feature, a member or a grid; the function's first argument is the lab, or the grid."""
    also: Callable[[Sequence[Any], Any], Mapping[str, Any]] = _nothing_more
    """(all arguments, the result) → what its page is told besides."""
    page: str = "/features"
    """Where it is offered."""
    kept: bool = False
    """Its result is kept, for that page is made of it (`computed.py`)."""
    quick: bool = False
    """It takes about a second at most, so it goes between the pieces of a long one. It names no moments."""


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


PROMPT = Text("a text for the model to read")
PLAUSIBLE = Real("only tokens that the model gives at least this probability there; 0: all", 0.0, 0.999, 0.0)
POSITION = Whole("which token is replaced, from 0; BOS, where there is one, is 0", 0, LARGEST, 0)
STEERING: Mapping[str, Parameter] = {
    "how": Choice("add the feature's direction, fix its code, or remove it", HOWS, "add"),
    "strength": Real("in units of the feature's maximum", -4.0, 4.0, 1.0, slider=True),
    "new_tokens": Whole("how many tokens to write", 1, 200, 40),
    "temperature": Real("0 takes the likeliest token each time", 0.0, 4.0, 1.0),
    "seed": Whole("of the draws", 0, LARGEST, 0),
}

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
        quick=True,
    ),
    "prepend": Analysis(
        "Scan prepend",
        "Every token of the vocabulary before the text",
        vocabulary_scan,
        {"prompt": PROMPT, "plausible": PLAUSIBLE},
        _scan("prepend"),
        streams=True,
    ),
    "append": Analysis(
        "Scan append",
        "Every token of the vocabulary after the text",
        vocabulary_scan,
        {"prompt": PROMPT, "plausible": PLAUSIBLE},
        _scan("append"),
        streams=True,
    ),
    "replace": Analysis(
        "Replace",
        "Every token of the vocabulary in the place of one of the text's",
        vocabulary_scan,
        {"prompt": PROMPT, "position": POSITION, "plausible": PLAUSIBLE},
        _scan("replace"),
        streams=True,
    ),
    "alone": Analysis(
        "Every token alone",
        "The feature on each token of the vocabulary",
        vocabulary_scan,
        {"plausible": PLAUSIBLE},
        _scan("alone"),
        streams=True,
    ),
    "steer": Analysis(
        "Steer",
        "How the model goes on with the feature changed",
        steer,
        {"prompt": PROMPT, **STEERING},
        strips=_written,
    ),
    "ablation": Analysis(
        "Ablation effect",
        "What the model predicts in this text without the feature",
        ablation_effect,
        {"prompt": PROMPT},
        strips=_ablated,
    ),
    "ablation-examples": Analysis(
        "Ablation effect on examples",
        "The same around the feature's strongest examples",
        ablation_effect,
        {"examples": Whole("how many", 1, 30, 10)},
        strips=_ablated,
    ),
    "neurons": Analysis(
        "Neurons",
        "The feature beside the neurons",
        neuron_comparison,
        {"max_tokens": Whole("tokens of the corpus to read", 10_000, 100_000_000, 200_000)},
        _with_moments,
    ),
    "logits": Analysis("Logits", "Which tokens its direction makes likely", logit_attribution, {}, quick=True),
}

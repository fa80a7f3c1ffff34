"""What an analysis is to the app: its function, what a browser may say to it, and what is told of its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monosemy.analysis.lab import Lab
from monosemy.analysis.result import Result
from monosemy.app.parameters import LARGEST, Parameter, Real, Text, Whole
from monosemy.app.references import GridOf, LabOf, Reference

Values = Mapping[str, Any]
Arguments = tuple[Sequence[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Strip:
    """A text with the feature's code on each token, for the page to shade."""

    label: str
    tokens: Sequence[str]
    values: Sequence[float]


GRID: Mapping[str, Parameter] = {"dictionaries": Text("the name of a grid in this run", longest=200)}
MEMBER: Mapping[str, Parameter] = {**GRID, "member": Whole("its member", 0, LARGEST)}
COMMON: Mapping[str, Parameter] = {**MEMBER, "feature": Whole("the feature's number", 0, LARGEST)}

PROMPT = Text("a text for the model to read")
MAX_TOKENS = Whole("tokens of the corpus to read", 10_000, 100_000_000, 200_000)
PLAUSIBLE = Real("only tokens that the model gives at least this probability there; 0: all", 0.0, 0.999, 0.0)
POSITION = Whole("which token is replaced, from 0; BOS, where there is one, is 0", 0, LARGEST, 0)
SEED = Whole("of what is drawn", 0, LARGEST, 0)


def feature_and_prompt(values: Values) -> Arguments:
    """`function(lab, feature, prompt, …the rest by name)`."""
    rest = {name: value for name, value in values.items() if name not in (*COMMON, "prompt")}
    return [values["feature"], *([values["prompt"]] if "prompt" in values else [])], rest


def rest_by_name(values: Values) -> Arguments:
    """`function(lab, …by name)`: of a whole member."""
    return [], {name: value for name, value in values.items() if name not in MEMBER}


def member_or_grid(values: Values) -> Reference:
    """The member that a request names, with its model; where it names none, the grid."""
    if "member" in values:
        return LabOf(values["dictionaries"], values["member"])
    return GridOf(values["dictionaries"])


def _nothing(_result: Any) -> list[Strip]:
    return []


def _nothing_more(_given: Sequence[Any], _result: Any) -> Mapping[str, Any]:
    return {}


def _no_words(_values: Values, _result: Any) -> list[str]:
    return []


@dataclass(frozen=True)
class Analysis:
    """One analysis: what it is called, which function, with what."""

    label: str
    help: str
    function: Callable[..., Result]
    parameters: Mapping[str, Parameter]
    arguments: Callable[[Values], Arguments] = feature_and_prompt
    """The function's arguments after the first; what a request names is given as a Reference."""
    strips: Callable[[Any], Sequence[Strip]] = _nothing
    words: Callable[[Values, Any], Sequence[str]] = _no_words
    """(what was asked, the result) → what it says, in sentences (`words.py`)."""
    streams: bool = False
    """It takes `each=`, a function that it calls with what it knows so far."""
    common: Mapping[str, Parameter] = field(default_factory=lambda: COMMON)
    """What it is asked of: a feature, a member or a grid."""
    of: Callable[[Values], Reference] = member_or_grid
    """The function's first argument."""
    also: Callable[[Sequence[Any], Any], Mapping[str, Any]] = _nothing_more
    """(all arguments, the result) → what its page is told besides."""
    page: str = "/features"
    """Where it is offered."""
    group: str = ""
    """The question that it belongs to there."""
    kept: bool = False
    """Its result is kept, for that page is made of it (`computed.py`)."""
    quick: bool = False
    """It takes about a second at most, so it goes between the pieces of a long one. It names no moments."""


def own_features(given: Sequence[Any], _result: Any) -> Mapping[str, Any]:
    """Where the pages of the features in a result's table are: the index of the lab that was asked."""
    lab: Lab = given[0]
    return {"index": None if lab.index is None else lab.index.artifact.path.name}

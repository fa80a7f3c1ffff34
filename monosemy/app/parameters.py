"""What a browser may say to an analysis: typed values with bounds, checked before anything is done with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monosemy.analysis.labelled import labelled_lines
from monosemy.runtime import UsageError

LONGEST_TEXT = 4000  # characters of a prompt
MOST_TOKENS = 256  # of a prompt
LARGEST = 2**31 - 1
LONGEST_LABELLED, MOST_LINES, LONGEST_LABEL = 200_000, 2000, 100  # characters of all labelled lines; lines; a label's


@dataclass(frozen=True)
class Text:
    """A prompt. It has no default: without one there is nothing to do."""

    help: str
    kind: str = "text"
    longest: int = LONGEST_TEXT

    def checked(self, name: str, value: Any) -> str:
        """The text. Raises UsageError where it is none, empty or too long."""
        if not value:
            raise UsageError(f"`{name}` must be a text that is not empty")
        return checked_text(name, value, self.longest)

    def read(self, value: str) -> list[str]:
        """The texts in it that the model reads."""
        return [value]


@dataclass(frozen=True)
class Name(Text):
    """The name of something: no prompt, so the model does not read it."""

    kind: str = "name"
    longest: int = 200

    def read(self, value: str) -> list[str]:
        """None."""
        return []


@dataclass(frozen=True)
class Labelled(Text):
    """Labelled texts, a line each, as in a file of them (`analysis/labelled.py`)."""

    kind: str = "labelled"
    longest: int = LONGEST_LABELLED

    def checked(self, name: str, value: Any) -> str:
        """The lines. Raises UsageError as Text, for a line of no such form, too long a label, or too many lines."""
        pairs = labelled_lines(super().checked(name, value), f"`{name}`")
        if (longest := max((len(label) for label, _ in pairs), default=0)) > LONGEST_LABEL:
            raise UsageError(f"`{name}` has a label of {longest} characters and may have {LONGEST_LABEL}; shorten it")
        if len(pairs) > MOST_LINES:
            raise UsageError(f"`{name}` has {len(pairs)} lines and may have {MOST_LINES}; leave some out")
        return str(value)

    def read(self, value: str) -> list[str]:
        """The texts after the labels."""
        return [text for _, text in labelled_lines(value, "`lines`")]


@dataclass(frozen=True)
class Word:
    """A short text that may be empty: then it is not said."""

    help: str
    default: str = ""
    kind: str = "word"
    longest: int = 100

    def checked(self, name: str, value: Any) -> str:
        """The text. Raises UsageError where it is none, or too long."""
        return checked_text(name, value, self.longest)


@dataclass(frozen=True)
class Whole:
    """A whole number."""

    help: str
    low: int
    high: int
    default: int | None = None
    kind: str = "whole"

    def checked(self, name: str, value: Any) -> int:
        """The number. Raises UsageError where it is none, or out of bounds."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise UsageError(f"`{name}` (={value!r:.40}) must be a whole number from {self.low} to {self.high}")
        return value


@dataclass(frozen=True)
class Real:
    """A number."""

    help: str
    low: float
    high: float
    default: float | None = None
    kind: str = "real"
    slider: bool = False
    """A page shows it as one."""

    def checked(self, name: str, value: Any) -> float:
        """The number. Raises UsageError where it is none, not finite, or out of bounds."""
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
        if not self.low <= number <= self.high:
            raise UsageError(f"`{name}` (={value!r:.40}) must be a number from {self.low:g} to {self.high:g}")
        return number


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    help: str
    choices: Sequence[str]
    default: str | None = None
    kind: str = "choice"

    def checked(self, name: str, value: Any) -> str:
        """The word. Raises UsageError where it is not one of them."""
        if value not in self.choices or not isinstance(value, str):
            raise UsageError(f"`{name}` (={value!r:.40}) must be one of {', '.join(self.choices)}")
        return value


Parameter = Text | Word | Whole | Real | Choice


def checked_text(name: str, value: Any, longest: int) -> str:
    """The text. Raises UsageError where it is none, or too long."""
    if not isinstance(value, str):
        raise UsageError(f"`{name}` must be a text")
    if len(value) > longest:
        raise UsageError(f"`{name}` has {len(value)} characters and may have {longest}; shorten it")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"`{name}` holds half of a character (a lone surrogate); remove it")
    return value


def checked_values(parameters: Mapping[str, Parameter], given: Any) -> dict[str, Any]:
    """All values of these parameters: those given, and the defaults of the others.

    Raises UsageError for one that is unknown, wrong, or missing without having a default.
    """
    if not isinstance(given, dict):
        raise UsageError("the request must be a JSON object")
    if unknown := sorted(given.keys() - parameters.keys()):
        names = ", ".join(f"`{name[:40]}`" for name in unknown[:5])
        raise UsageError(f"unknown {names}; there are {', '.join(parameters)}")
    values = {}
    for name, parameter in parameters.items():
        default = None if isinstance(parameter, Text) else parameter.default
        if name in given:
            values[name] = parameter.checked(name, given[name])
        elif default is None:
            raise UsageError(f"`{name}` is missing: {parameter.help}")
        else:
            values[name] = default
    return values

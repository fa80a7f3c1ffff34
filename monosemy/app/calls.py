"""From the values of a request to a call of its analysis: everything that it names opened, and the same as Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monosemy.analysis.result import Result
from monosemy.app.job import digest_of
from monosemy.app.offered import Analysis
from monosemy.app.references import Holds, Reference
from monosemy.app.script import Opened, script_of
from monosemy.app.state import Grid


@dataclass(frozen=True)
class Call:
    """An analysis with its arguments."""

    analysis: Analysis
    given: Sequence[Any]
    named: Mapping[str, Any]
    python: str
    """The program that does the same."""

    def run(self, **more: Any) -> Any:
        """Its result. Raises what the analysis raises."""
        result: Result = self.analysis.function(*self.given, **self.named, **more)
        return result


def call_of(analysis: Analysis, values: Mapping[str, Any], state: Holds) -> Call:
    """The call that these values, checked before, ask for. Raises UsageError where what they name is not there."""
    given, named = analysis.arguments(values)
    held = [_opened(value, state) for value in (analysis.of(values), *given)]
    held_named = {name: _opened(value, state) for name, value in named.items()}
    python = script_of(analysis.function, held, held_named)
    return Call(
        analysis, [_value(each) for each in held], {name: _value(each) for name, each in held_named.items()}, python
    )


def key_of(name: str, values: Mapping[str, Any], grid: Grid) -> str:
    """The id of the job that runs analysis `name` with these values; its result is kept under it, too."""
    return digest_of(name, values, grid.artifact.id)


def _opened(value: Any, state: Holds) -> Any:
    return value.open(state) if isinstance(value, Reference) else value


def _value(held: Any) -> Any:
    return held.value if isinstance(held, Opened) else held

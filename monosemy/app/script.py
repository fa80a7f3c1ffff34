"""An analysis as a complete Python program: what "copy as Python" gives. It opens the same files and gives the same
numbers, and a prompt in it is a literal, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Opened:
    """Something that an analysis takes and that is named in a request: its value, and the Python that opens it."""

    name: str
    """Of the variable."""
    value: Any
    lines: Sequence[str]
    imports: Sequence[str] = ()


def script_of(function: Callable[..., Any], given: Sequence[Any], named: Mapping[str, Any]) -> str:
    """The program that calls `function(*given, **named)`; what is Opened is opened first."""
    held = [value for value in (*given, *named.values()) if isinstance(value, Opened)]
    values = [_said(value) for value in given] + [f"{name}={_said(value)}" for name, value in named.items()]
    own = f"from {function.__module__} import {function.__name__}"
    imports = sorted({own, *(line for each in held for line in each.imports)})
    return "\n".join(
        [
            *imports,
            "",
            *(line for each in held for line in each.lines),
            f"result = {function.__name__}({', '.join(values)})",
            "print(result.table().csv())  # result.plot() draws it, result.save(folder) keeps it",
            "",
        ]
    )


def _said(value: Any) -> str:
    return value.name if isinstance(value, Opened) else repr(value)

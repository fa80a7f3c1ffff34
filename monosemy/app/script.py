"""An analysis as a complete Python program: what "copy as Python" gives. It opens the same files and gives the same
numbers, and a prompt in it is a literal, whatever it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.analysis.lab import Lab


def script_of(
    lab: Lab,
    dictionaries: Path,
    member: int,
    function: Callable[..., Any],
    given: Sequence[Any],
    named: Mapping[str, Any],
) -> str:
    """The program that opens `lab`'s files and calls `function(lab, *given, **named)`."""
    opened = {
        "member": member,
        "model": lab.model.as_parent().path,
        "tokens": str(lab.tokens.artifact.path.resolve()),
        "index": None if lab.index is None else str(lab.index.artifact.path.resolve()),
        "device": lab.model.device.type,
    }
    lines = [f"    {name}={value!r}," for name, value in opened.items() if value is not None]
    values = [repr(value) for value in given] + [f"{name}={value!r}" for name, value in named.items()]
    imports = sorted([f"from {function.__module__} import {function.__name__}", f"from {Lab.__module__} import Lab"])
    return "\n".join(
        [
            *imports,
            "",
            "lab = Lab.open(",
            f"    {str(dictionaries.resolve())!r},",
            *lines,
            ")",
            f"result = {function.__name__}({', '.join(['lab', *values])})",
            "print(result.table().csv())  # result.plot() draws it, result.save(folder) keeps it",
            "",
        ]
    )

"""Results of analyses on a terminal, in a pipe or in files."""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import tyro

from monosemy.analysis.chart import visible
from monosemy.analysis.feature import Example
from monosemy.analysis.feature_examples import LEFT, RIGHT, SILENT, FeatureExamples
from monosemy.analysis.result import Result, Table

if TYPE_CHECKING:
    from rich.text import Text

Json = Annotated[bool, tyro.conf.arg(name="json")]
R = TypeVar("R", bound=Result)

SHOWN = 40  # rows of a table
WORDS = {
    "top": "Top activations",
    "uniform": "Equal steps of activation",
    "quantile": "Quantiles of activation",
    "random": "Not activating",
}


def show(result: R, out: Path | None, json: bool, draw: Callable[[R], None] | None = None) -> None:
    """Save a result, or print it as JSON, or as a table: on a terminal by `draw`, where that is given."""
    if out is not None:
        print(result.save(out))
    elif json:
        print(json_format.dumps(result.data(), ensure_ascii=False, allow_nan=False))
    elif sys.stdout.isatty():
        draw(result) if draw is not None else _print(result.table())
    else:
        print(result.table().csv(), end="")


def _print(table: Table) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(*table.columns, box=None)
    for row in table.rows[:SHOWN]:
        texts = (
            visible(value) if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else value
            for value in row
        )
        shown.add_row(*(Text("" if text is None else str(text)) for text in texts))
    Console().print(shown)
    if len(table.rows) > SHOWN:
        print(f"… {len(table.rows) - SHOWN:,} more rows; --out FOLDER keeps all, and the pictures")


def print_examples(found: FeatureExamples) -> None:
    """An example a line, its activation first, the tokens it fires on underlined."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for group, examples in found.examples.items():
        if examples:
            console.print(Text(WORDS[group], style="bold"))
        for each in examples:
            line = Text(f"{each.values[each.peak]:9.4g}  ")
            place = Text(f" {visible(each.document)}:{each.position}", style="dim")
            console.print(_with_tokens(line, group, each), place)
    if not any(found.examples.values()):
        print(f"feature {found.feature} has no such examples")


def _with_tokens(line: Text, group: str, example: Example) -> Text:
    for place, (token, value) in enumerate(zip(example.tokens, example.values, strict=True)):
        shown = token if token.isprintable() else visible(token)
        if place == example.peak and group != SILENT:
            line.append(f"{LEFT}{shown}{RIGHT}", style="bold")
        else:
            line.append(shown, style="underline" if value > 0 else "")
    return line

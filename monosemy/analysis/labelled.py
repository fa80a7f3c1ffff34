"""Labelled texts from a file or a form, for probes (`probing.py`).

    label <tab> text                        one text a line; blank lines are skipped
    {"label": "french", "text": "Bonjour"}  JSON lines; a label is a text, a number or a truth

The labels are taken as texts: a probe tells two of them apart, or one from all others.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from monosemy.runtime import UsageError


def labelled_texts(path: str | Path) -> tuple[list[str], list[str]]:
    """The texts of the file, and the label of each. Raises UsageError, with the line, for what has neither form."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file; name one of labelled texts")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text ({error})") from error
    pairs = labelled_lines(text, str(path))
    if not pairs:
        raise UsageError(f"{path}: is empty; give lines of a label, a tab and a text, or JSON lines")
    return [text for _, text in pairs], [label for label, _ in pairs]


def labelled_lines(text: str, name: str) -> list[tuple[str, str]]:
    """Label and text of each line of `text`, which is called `name`. Raises UsageError as `labelled_texts` does."""
    lines = enumerate(text.split("\n"), 1)
    return [_pair(line.rstrip("\r"), f"{name}, line {number}") for number, line in lines if line.strip()]


def _pair(line: str, where: str) -> tuple[str, str]:
    """A label and its text."""
    if line.startswith("{"):
        label, text = _of_json(line, where)
    elif "\t" in line:
        label, text = line.split("\t", 1)
    else:
        raise UsageError(f"{where}: has no tab between a label and a text, and is no JSON object")
    if not label.strip() or not text.strip():
        raise UsageError(f"{where}: has an empty {'text' if label.strip() else 'label'}; leave the line out")
    return label.strip(), text


def _of_json(line: str, where: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: is no JSON ({error})") from error
    label, text = row.get("label"), row.get("text")
    if not isinstance(label, str | int | float) or not isinstance(text, str):
        raise UsageError(f'{where}: must be as {{"label": "french", "text": "Bonjour"}}')
    if any("\ud800" <= character <= "\udfff" for character in f"{label}{text}"):
        raise UsageError(f"{where}: holds half of a character (a lone surrogate); remove it")
    return str(label), text

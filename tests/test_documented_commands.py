"""Every command line that the documentation and the help show is one that the command line takes."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from monosemy import across_commands, cli, index_commands, lab_commands

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = re.compile(r"^    (monosemy .*)", re.MULTILINE)
EXAMPLE = re.compile(r"For example: (monosemy .*)")


def shown(text: str) -> list[str]:
    """The commands that a page shows, a line each, without what is said beside them."""
    return [re.split(r"\s{2,}#|\s#\s", line)[0].strip() for line in SHOWN.findall(text)]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the command line would run: nothing is run."""
    names: list[str] = []

    def quiet(name: str, command: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(command)
        def note(*_: Any, **__: Any) -> None:
            names.append(name)

        return note

    analyses = {name: quiet(name, command) for name, command in lab_commands.commands().items()}
    monkeypatch.setattr(lab_commands, "commands", lambda: analyses)
    monkeypatch.setattr(cli, "COMMANDS", {name: quiet(name, command) for name, command in cli.COMMANDS.items()})
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_documentation(page: Path, called: list[str]) -> None:
    commands = shown(page.read_text())
    for command in commands:
        words = shlex.split(command)[1:]
        if words[-1] == "--help":
            continue
        cli.main(words)
        assert " ".join(words).startswith(called[-1]), command
    assert len(called) == sum(not command.endswith("--help") for command in commands)


def test_there_are_commands_to_be_looked_at() -> None:
    assert len(shown((ROOT / "README.md").read_text())) > 20
    assert "monosemy analyse --help" in shown((ROOT / "README.md").read_text())


ANALYSES = [*lab_commands.ANALYSES, *index_commands.INDEX, *across_commands.ACROSS]


@pytest.mark.parametrize("name", [*(f"analyse {name}" for name in ANALYSES), "verdicts", "explanations", "serve"])
def test_help_teaches_with_an_example_that_runs(
    name: str, called: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0
    lines = [line.strip(" │") for line in capsys.readouterr().out.splitlines()]
    (example,) = EXAMPLE.findall("\n".join(lines))
    for command in example.split(", or: "):
        cli.main(shlex.split(command)[1:])
        assert called.pop() == name

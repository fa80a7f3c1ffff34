"""The command line: one subcommand a stage, generated from the stages' settings.

A request that cannot be met ends with one line on stderr and exit code 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from typing import Annotated, Any, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from monosemy import index_commands, lab_commands
from monosemy.commands import evaluate, features, harvest, pretrain, report, tokenize, train
from monosemy.runtime import UsageError
from monosemy.world_commands import advise, baselines, demo, dynamics, six_hundred_features, superposition, world

REGISTRY = ConstructorRegistry()
NOTHING_LOST = "nothing finished is lost; run the same command again and it goes on from there"

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "tokenize": tokenize,
    "pretrain": pretrain,
    "harvest": harvest,
    "world": world,
    "train": train,
    "baselines": baselines,
    "evaluate": evaluate,
    "advise": advise,
    "features": features,
    "verdicts": lab_commands.verdicts,
    "explanations": index_commands.explanations,
    "report": report,
    "serve": lab_commands.serve,
    "study superposition": superposition,
    "study dynamics": dynamics,
    "study six-hundred-features": six_hundred_features,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exits with 2 where a request cannot be met."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    commands, first = COMMANDS, arguments[0] if arguments else "--help"
    if first in ("analyse", "--help", "-h"):
        commands = COMMANDS | lab_commands.commands()
    if first in ("study", "analyse"):  # "study superposition" is one name of two words
        asked = arguments[1:2] not in ([], ["--help"], ["-h"])
        commands = {name: each for name, each in commands.items() if name.startswith(first)}
        arguments = [" ".join(arguments[:2]), *arguments[2:]] if asked else arguments[1:]
    if not arguments:
        arguments = ["--help"]
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="monosemy",
            description="Takes features out of superposition. --debug shows the traceback of an error.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
            registry=REGISTRY,
        )
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (UsageError, OSError) as error:
        if debug:
            raise
        print(f"monosemy: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"monosemy: stopped; {NOTHING_LOST}", file=sys.stderr)
        sys.exit(130)


@REGISTRY.struct_rule
def _settings(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Settings as tyro reads them by itself, but for their help: it would keep the line breaks of the source."""
    if not (is_dataclass(info.type) and info.type.__module__.startswith("monosemy.")):  # tyro wraps commands in its own
        return None
    hints = get_type_hints(info.type, include_extras=True)
    specs = []
    for field in fields(info.type):
        default = _default(field, info.default)
        kind: Any = hints[field.name]
        if default == ():  # the value follows from others; the help says how
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
        specs.append(StructFieldSpec(field.name, kind, default, partial(_help, info.type, field.name)))
    return StructConstructorSpec(info.type, tuple(specs))


def _default(field: Field[Any], settings: Any) -> Any:
    if hasattr(settings, field.name):
        return getattr(settings, field.name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is MISSING else field.default


def _help(settings: type, name: str) -> str | None:
    """The text below a field, on one line."""
    texts = {entry.arg_name: entry.description for entry in docstring_parser.parse_from_object(settings).params}
    return " ".join((texts.get(name) or "").split()) or None


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and (error.errno == errno.ENOSPC or "No space left" in text):
        return f"the disk is full ({text}); free some space: {NOTHING_LOST}"
    if isinstance(error, FileExistsError | NotADirectoryError | PermissionError | IsADirectoryError):
        return f"{error.filename}: cannot be written to ({error.strerror}); choose another place with --out"
    return text


if __name__ == "__main__":
    main()

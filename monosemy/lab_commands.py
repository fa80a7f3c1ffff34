"""The lab on the command line: `monosemy analyse NAME RUN …` for each analysis, `monosemy verdicts` and
`monosemy serve RUN`.

An analysis is a plain function of a lab, so its command is made of its signature: the lab becomes a run folder, a grid
and a member of it, everything else stays as it is. The result is printed as a table, or saved with its pictures.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from tyro.conf import Positional

from monosemy.analysis.lab import Lab, Prompt
from monosemy.analysis.verdict_store import VerdictSettings
from monosemy.commands import beside
from monosemy.terminal import Json, show

if TYPE_CHECKING:
    from monosemy.app.state import State

# Command → module in `analysis/` and function, in the order in which one would look at a feature.
ANALYSES = {
    "created": ("created", "created_examples"),
    "context": ("context", "context_ablation"),
    "vocabulary": ("vocabulary", "vocabulary_scan"),
    "neurons": ("neurons", "neuron_comparison"),
    "neuron-curves": ("neuron_curves", "neuron_curves"),
    "verdicts": ("verdict", "neuron_verdicts"),
    "probe": ("probes", "k_sparse_probe"),
    "logits": ("attribution", "logit_attribution"),
    "attribution": ("attribution", "prompt_attribution"),
    "ablation": ("ablation", "ablation_effect"),
    "steer": ("steering", "steer"),
    "steering-agreement": ("steering_agreement", "steering_agreement"),
    "agreement": ("agreement", "input_output_agreement"),
    "search": ("search", "features_of_prompt"),
}
NOT_SAID = ("each", "moments")  # what only a program can give
PREFIX = "analyse "

# What the help of each shows, after `monosemy analyse NAME RUN`.
EXAMPLES = {
    "created": '--texts "Once upon a time" "for i in range" --features 12 31',
    "context": '--feature 12 --prompt "raise ValueError("',
    "vocabulary": '--feature 12 --prompt "for i in" --where prepend --out scan/',
    "neurons": "--feature 12 --max-tokens 200000",
    "neuron-curves": "--max-tokens 200000 --out curves/",
    "verdicts": "--features 12 31 --max-tokens 200000",
    "probe": "--feature 12 --ks 1 4 16",
    "logits": "--feature 12",
    "attribution": '--prompt "import os" --target " path"',
    "ablation": "--feature 12 --examples 5",
    "steer": '--feature 12 --prompt "def " --how add --strength 0.5',
    "steering-agreement": '--features 12 31 --prompts "def " "class "',
    "agreement": "--features 12 31",
    "search": '--prompt "for i in range(10):"',
}
ABOUT = {  # where the function's own first words speak of Python
    "created": "The codes of some features (default: of the strongest) on every token of texts that you type.",
    "neurons": "One feature beside the neurons, on its strongest examples: is it one of them, few, or spread?",
    "neuron-curves": "How many neurons are above t on all top examples: fifty features, and controls.",
    "verdicts": "Is each feature a single neuron, few, or spread? With the evidence. `monosemy verdicts` keeps the "
    "verdicts of all features beside their index, for the app to sort and filter by.",
    "probe": "Which k neurons tell where a feature fires, and how well. `monosemy analyse probe-labels` asks the same "
    "of a label of your own texts.",
    "logits": "The tokens that a feature's direction makes most and least likely.",
    "attribution": "What each feature active at the last token adds directly to the logit of a token.",
    "ablation": "What the model predicts without a feature, in a prompt or around its strongest examples.",
    "agreement": "Whether features' logits match what they fire on, beside other features' logits.",
    "search": "The features that are strongest in a text, each relative to its largest code in the corpus.",
}


def commands() -> dict[str, Callable[..., Any]]:
    """`analyse NAME` → its command."""
    from monosemy.across_commands import ACROSS
    from monosemy.index_commands import INDEX

    found = {name: command(name) for name in ANALYSES}
    return {PREFIX + name: each for name, each in (found | INDEX | ACROSS).items()}


def command(name: str) -> Callable[..., None]:
    """The command that runs the analysis of this name on a run folder."""
    module, function = ANALYSES[name]
    analysis = getattr(import_module(f"monosemy.analysis.{module}"), function)

    def run(
        run: Path, *, member: int | None, dictionaries: str | None, out: Path | None, json: bool, **options: Any
    ) -> None:
        show(analysis(open_lab(run, member, dictionaries), **options), out, json)

    run.__signature__ = _signature(analysis)  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in _signature(analysis).parameters.items()}
    first = (inspect.getdoc(analysis) or "").split("\n\n")[0]  # the rest tells of Python
    about = ABOUT.get(name, " ".join(first.split()))
    shown = f"For example: monosemy analyse {name} runs/demo {EXAMPLES[name]}"
    said = [f"    {each}: {HELP[each]}" for each in _signature(analysis).parameters if each in HELP]
    run.__doc__ = "\n".join([about, "", shown, "", "Args:", *said])
    return run


HELP = {
    "run": "A run folder, with dictionaries, tokens, a model and features.",
    "feature": "The feature's number.",
    "features": "Features by number (default: chosen by the analysis).",
    "prompt": "A text for the model to read; a BOS token is added where the corpus has one.",
    "prompts": "Texts to go on from.",
    "texts": "Texts for the model to read.",
    "where": "Where each token of the vocabulary goes: after the prompt, before it, in place of one token, or alone.",
    "position": "For replace: which token of the prompt; BOS, where there is one, is number 0.",
    "plausible": "Only tokens that the model itself finds at least this probable there.",
    "top": "How many of the strongest are named.",
    "target": "A token, by text or number (default: the one the model finds most likely).",
    "examples": "How many of the feature's strongest examples.",
    "max_tokens": "Look at no more tokens of the corpus than these (default: all).",
    "ks": "How many neurons.",
    "choose": "How neurons are chosen: forward (each time the one that adds most) or difference (of means).",
    "controls": "Directions to compare with.",
    "draws": "How often other active features are drawn and taken out instead, as a control.",
    "n": "How many features.",
    "n_features": "How many features are named.",
    "n_tokens": "How many tokens of either side.",
    "seed": "Of what is drawn.",
    "member": "The dictionary's number (default: the one whose features are indexed).",
    "dictionaries": "The name of the grid, where the run has several (default: the one whose features are indexed).",
    "out": "A folder for the result with its pictures; without it the table is printed: all of it as CSV into a pipe "
    "or file, its beginning on a terminal.",
    "json": "Print JSON instead of a table.",
}


def open_lab(run: Path, member: int | None, dictionaries: str | None = None) -> Lab:
    """The lab of a member of one of the run's grids. Raises UsageError where the run does not hold what that needs."""
    from monosemy.app.state import State

    state = State(run)
    return state.lab(*chosen(state, dictionaries, member))


def chosen(state: State, dictionaries: str | None, member: int | None) -> tuple[str, int]:
    """The grid and the member that are meant: what is not said is that of the first index, where there is one."""
    indexed = state.member_of(state.index()[1])[0] if dictionaries is None and state.indexes else None
    grid = indexed or state.grid(dictionaries)
    if member is None:
        member = next(iter(state.indexed(grid)), grid.chosen or 0)
    return grid.name, member


def serve(run: Positional[Path], /, port: int = 8765, host: str = "127.0.0.1", token: str | None = None) -> None:
    """Look at a run in a browser; the first line printed is the address to open.

    For example: monosemy serve runs/demo --port 8000

    Args:
        run: A run folder.
        port: Where to listen; 0: any port that is free.
        host: Who may come in: 127.0.0.1 is this machine alone; any other needs a token.
        token: What a browser must show to come in.
    """
    from monosemy.app.server import serve as start

    start(run, port=port, host=host, token=token)


def verdicts(
    features: Positional[Path],
    /,
    settings: VerdictSettings,
    dictionaries: Path | None = None,
    model: str | None = None,
    tokens: Path | None = None,
    out: Path | None = None,
) -> None:
    """Is each feature a neuron? The verdicts of all features of an index, for the app to sort and filter by.
    (`monosemy analyse verdicts` prints them with their evidence, and keeps nothing.)

    For example: monosemy verdicts runs/demo/features --max-tokens 200000

    Args:
        features: A folder that `monosemy features` wrote.
        settings: On how much.
        dictionaries: Where the dictionaries are, if they were moved since the index was made.
        model: Where the model is, likewise.
        tokens: Where the tokens are, likewise.
        out: Where the verdicts go (default: `verdicts` beside the index).
    """
    from monosemy.analysis.verdict_store import verdicts as run

    place = beside(features, "verdicts", out)
    store = run(features, dictionaries=dictionaries, model=model, tokens=tokens, out=place, settings=settings)
    told = ", ".join(f"{verdict}: {count:,}" for verdict, count in store.counts.items())
    print(f"{place}: {told}; next: monosemy serve {place.parent}")


def _signature(analysis: Callable[..., Any]) -> inspect.Signature:
    """The analysis' own, with a run for its lab, and what is the same for all."""
    hints = get_type_hints(analysis)
    given = [each for each in inspect.signature(analysis).parameters.values() if each.name not in ("lab", *NOT_SAID)]
    own = [
        each.replace(kind=each.KEYWORD_ONLY, **_said(hints[each.name]))
        for each in given
        if each.kind is not each.VAR_KEYWORD
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Positional[Path]),
            *own,
            inspect.Parameter("member", keyword, default=None, annotation=int | None),
            inspect.Parameter("dictionaries", keyword, default=None, annotation=str | None),
            inspect.Parameter("out", keyword, default=None, annotation=Path | None),
            inspect.Parameter("json", keyword, default=False, annotation=Json),
        ]
    )


def _said(hint: Any) -> Mapping[str, Any]:
    """How a command line says an argument: prompts as text, settings flat with their own defaults."""
    kinds = set(get_args(hint))
    if set(get_args(Prompt)) <= kinds:
        return {"annotation": str | None, "default": None} if type(None) in kinds else {"annotation": str}
    if hint == Sequence[Prompt]:
        return {"annotation": tuple[str, ...]}
    settings = [kind for kind in kinds if getattr(kind, "__module__", "").startswith("monosemy.")]
    if settings:
        return {"annotation": settings[0], "default": inspect.Parameter.empty}
    return {"annotation": hint}

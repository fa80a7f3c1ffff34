"""The commands of the stages, from text to a report: what `monosemy COMMAND` runs, and how it teaches itself."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from monosemy.analysis.index import FeatureSettings
from monosemy.data.tokens import TokenSettings
from monosemy.dictionaries.store import DictionaryStore
from monosemy.metrics.evaluate import EvaluateSettings
from monosemy.models.harvest import HarvestSettings
from monosemy.models.pretrain import PretrainSettings
from monosemy.runtime import UsageError
from monosemy.training.settings import TrainSettings

Others = Annotated[tuple[Path, ...], tyro.conf.arg(help_behavior_hint="")]  # no "(default: )" in the help


def tokenize(source: Positional[str], /, settings: TokenSettings, out: Path = Path("tokens")) -> None:
    """Text into a packed token store.

    Args:
        source: A text file, JSON lines (plain, .gz, .zst), a folder of those, hf:NAME for a Hugging Face data set, or
            `stdlib` for the source text of this Python's standard library.
        settings: How documents become rows.
        out: Where the token store goes.
    """
    from monosemy.data.tokens import tokenize as run

    store = run(source, out=out, settings=settings)
    print(f"{out}: {store.n_tokens:,} tokens in {store.n_rows:,} rows, vocabulary {store.vocab_size:,}")


def pretrain(tokens: Positional[Path], /, settings: PretrainSettings, out: Path | None = None) -> None:
    """Train a small GPT on a token store, in a form that `transformers` loads too.

    Args:
        tokens: A folder that `monosemy tokenize` wrote.
        settings: The network and how it is trained.
        out: Where the model goes (default: `model` beside the tokens).
    """
    from monosemy.models.pretrain import pretrain as run

    model = run(tokens, out=beside(tokens, "model", out), settings=settings)
    loss = model.info["validation_loss"]
    held_out = "nothing was held out" if loss is None else f"held-out loss {loss:.4f} nats a token"
    print(f"{model.path}: {model.info['parameters']:,} parameters, {held_out}")


def harvest(
    model: Positional[str], tokens: Positional[Path], /, settings: HarvestSettings, out: Path | None = None
) -> None:
    """The activations of a model at one site, or at several in one pass, on disk.

    Args:
        model: A local folder in Hugging Face format, or a Hub name.
        tokens: A folder that `monosemy tokenize` wrote with the model's tokenizer.
        settings: Which site or sites, and how they are stored.
        out: Where the activations go; of several sites, the folder with one store each, named by its site (default:
            `activations` beside the tokens).
    """
    from monosemy.models.harvest import harvest as run
    from monosemy.models.harvest import harvest_sites

    place = beside(tokens, "activations", out)
    if len(settings.sites) > 1:
        stores = list(harvest_sites(model, tokens, out=place, settings=settings).values())
    else:
        stores = [run(model, tokens, out=place, settings=settings)]
    for store in stores:
        print(f"{store.artifact.path}: {store.n_all:,} rows of width {store.d_in} from {store.site}")


def train(
    activations: Positional[Path],
    /,
    settings: TrainSettings,
    target: Path | None = None,
    others: Others = (),
    wandb: str | None = None,
    out: Path | None = None,
) -> None:
    """Train a grid of dictionaries in one pass over the activations.

    A dictionary whose loss stops being finite ends with its last good weights, and says why; the others go on.

    Args:
        activations: A folder that `monosemy harvest` or `monosemy world` wrote.
        settings: The grid and how it is trained; several values of one setting make a grid.
        target: Activations of another site, to be rebuilt from these (transcoders).
        others: Activations of further sites, rebuilt with these from shared codes (crosscoders).
        wandb: A project of Weights & Biases that metrics are sent to, besides metrics.jsonl.
        out: Where the dictionaries go (default: `dictionaries` beside the activations).
    """
    from monosemy.training.sweep import train as run

    store = run(
        activations,
        target=target,
        others=others,
        wandb=wandb,
        out=beside(activations, "dictionaries", out),
        settings=settings,
    )
    for member in store.members:
        if member["failure"]:
            print(f"member {member['member']} failed: {member['failure']}")
    if derived := _derived(store, settings):
        print(f"not given, so: {derived}")
    path, count = store.artifact.path, len(store)
    following = shlex.join(["monosemy", "evaluate", str(path), str(activations)])
    kinds = ", ".join(dict.fromkeys(member["variant"] for member in store.members))
    print(f"{path}: {count} {'dictionary' if count == 1 else 'dictionaries'} ({kinds}); next: {following}")


def evaluate(
    dictionaries: Positional[Path],
    activations: Positional[Path],
    /,
    settings: EvaluateSettings,
    target: Path | None = None,
    others: Others = (),
    model: str | None = None,
    tokens: Path | None = None,
    out: Path | None = None,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Score every dictionary of a grid on held-out activations, and spliced into the model.

    Args:
        dictionaries: A folder that `monosemy train` wrote.
        activations: The activations they were trained on.
        settings: On how much.
        target: Where a transcoder's target is, if not where it was when it was trained.
        others: Where a crosscoder's further sites are, if not where they were, in the same order.
        model: The model that was harvested; without it cross-entropy and KL are left blank.
        tokens: Where the tokens are, if they were moved since the harvest.
        out: Where the scores go (default: `scores` beside the dictionaries).
        json: Print one JSON object a member instead of a table.
    """
    from monosemy.metrics.evaluate import evaluate as run

    scores = run(
        dictionaries,
        activations,
        target=target,
        others=others,
        out=beside(dictionaries, "scores", out),
        model=model,
        tokens=tokens,
        settings=settings,
    )
    if not scores.artifact.info["held_out"]:
        print("monosemy: no rows were held out, so these scores are on rows that were trained on", file=sys.stderr)
    if json:
        _print_json_lines(scores.rows)
        return
    from monosemy.report.run import sites_in_words
    from monosemy.report.table import print_scores

    print_scores(scores.rows, scores.chosen, sites_in_words(scores.artifact.info))
    print(f"\nlook first at member {scores.chosen}: {scores.why}")


def features(
    dictionaries: Positional[Path],
    /,
    settings: FeatureSettings,
    member: int,
    model: str,
    tokens: Path,
    out: Path | None = None,
) -> None:
    """Index the features of one dictionary: examples, densities, logits, in one pass over the tokens.

    Args:
        dictionaries: A folder that `monosemy train` wrote.
        settings: How many examples, how wide.
        member: The number of the dictionary (`monosemy evaluate` lists them).
        model: The model it was trained on.
        tokens: The token store to search.
        out: Where the index goes (default: `features` beside the dictionaries).
    """
    from monosemy.analysis.index import features as run

    index = run(
        dictionaries,
        member=member,
        model=model,
        tokens=tokens,
        out=beside(dictionaries, "features", out),
        settings=settings,
    )
    print(f"{index.artifact.path}: {index.n_features:,} features; next: monosemy report {index.artifact.path.parent}")


def report(
    run: Positional[Path], /, out: Path | None = None, static: bool = False, features: int | None = None
) -> None:
    """One page that shows a run: scores, densities, every feature; it works offline.

    Args:
        run: A folder that holds dictionaries, scores or features.
        out: The page (default: report.html in the folder; with --static NAME.html, NAME that of the folder).
        static: What `monosemy serve` shows, in one file to be mailed.
        features: With --static: of so many features of each index the page (default: 200).
    """
    from monosemy.app.export import FEATURES, export
    from monosemy.report.page import write_report

    if features is not None and not static:
        raise UsageError(f"`features` (={features}) goes with --static; a report has all that its page can hold")
    print(export(run, out, features=FEATURES if features is None else features) if static else write_report(run, out))


def beside(path: Path, name: str, out: Path | None) -> Path:
    """Where a stage writes by default: a folder of this name beside the one it reads."""
    return path.resolve().parent / name if out is None else out


def _derived(store: DictionaryStore, settings: TrainSettings) -> str:
    """What followed from the data, since the settings left it open."""
    parts = []
    for name in ("width", "k", "l1", "lr"):
        values = dict.fromkeys(member[name] for member in store.members if member[name] is not None)
        if values and not getattr(settings, name):
            parts.append(f"{name} {', '.join(f'{value:.6g}' for value in values)}")
    if settings.steps is None:
        parts.append(f"{store.artifact.config['steps']:,} steps of {settings.batch:,} rows")
    return "; ".join(parts)


def _print_json_lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(row, allow_nan=False))

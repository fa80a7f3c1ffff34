"""Commands over an index of features: `monosemy analyse examples | tokens | neighbours RUN`, which need no model;
`probe-labels`, which brings texts of one's own; and `monosemy explanations`, which keeps what is said of features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from monosemy.analysis.probing import KS
from monosemy.commands import beside
from monosemy.lab_commands import chosen, open_lab
from monosemy.runtime import UsageError
from monosemy.terminal import Json, print_examples, show

if TYPE_CHECKING:
    from monosemy.analysis.feature import FeatureIndex
    from monosemy.app.state import State

From = Annotated[Path, tyro.conf.arg(name="from")]
FromFiles = Annotated[tuple[Path, ...], tyro.conf.arg(name="from")]


def examples(
    run: Positional[Path],
    /,
    feature: int,
    groups: tuple[Literal["top", "uniform", "quantile", "random"], ...] = ("top", "uniform", "quantile", "random"),
    top: int | None = None,
    member: int | None = None,
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """The texts on which a feature fires most, at every strength, and not at all; the token that each was drawn for
    is marked.

    For example: monosemy analyse examples runs/demo --feature 12 --groups top

    Args:
        run: A run folder with features.
        feature: The feature's number.
        groups: The strongest (top), one for each equal step of activation (uniform), some of each quantile, and
            texts in which it does not fire (random).
        top: No more of the strongest than these.
        member: The dictionary's number (default: the one whose features are indexed).
        dictionaries: The name of the grid, where the run has several.
        out: A folder for the result with its picture; without it the texts are printed, as CSV into a pipe or file.
        json: Print JSON instead.
    """
    from monosemy.analysis.feature_examples import examples_of_feature

    index = _index(_state(run), dictionaries, member)
    show(examples_of_feature(index, feature, groups, top=top), out, json, print_examples)


def tokens(
    run: Positional[Path],
    /,
    feature: int | None = None,
    token: str | None = None,
    member: int | None = None,
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """The tokens that a feature fires on and those that follow; or the features that fire on a token.

    For example: monosemy analyse tokens runs/demo --feature 12, or: monosemy analyse tokens runs/demo --token " return"

    Args:
        run: A run folder with features.
        feature: The feature's number.
        token: The token's text, with the blank that belongs to it.
        member: The dictionary's number (default: the one whose features are indexed).
        dictionaries: The name of the grid, where the run has several.
        out: A folder for the result with its pictures; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.feature_tokens import tokens_of_feature
    from monosemy.analysis.search import features_of_token

    if (feature is None) == (token is None):
        raise UsageError("give one of --feature (whose tokens?) and --token (which features fire on it?)")
    index = _index(_state(run), dictionaries, member)
    if feature is not None:
        show(tokens_of_feature(index, feature), out, json)
    elif token is not None:
        show(features_of_token(index, token), out, json)


def neighbours(
    run: Positional[Path],
    /,
    feature: int,
    n: int = 10,
    member: int | None = None,
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """The features of the same dictionary whose directions are nearest to a feature's, by cosine.

    For example: monosemy analyse neighbours runs/demo --feature 12 --n 5

    Args:
        run: A run folder with dictionaries.
        feature: The feature's number.
        n: How many.
        member: The dictionary's number (default: the one whose features are indexed).
        dictionaries: The name of the grid, where the run has several.
        out: A folder for the result with its picture; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.neighbours import nearest_features

    state = _state(run)
    name, number = chosen(state, dictionaries, member)
    show(nearest_features(state.directions(state.grid(name), number), feature, n), out, json)


def probe_labels(
    run: Positional[Path],
    /,
    source: From,
    positive: str | None = None,
    ks: tuple[int, ...] = KS,
    pooling: Literal["max", "mean"] = "max",
    seed: int = 0,
    member: int | None = None,
    dictionaries: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """How well k features, and k neurons, tell a label of your own texts, on texts held out of training.

    For example: monosemy analyse probe-labels runs/demo --from reviews.tsv --positive good

    Args:
        run: A run folder, with dictionaries, tokens, a model and features.
        source: A file of labelled texts: label, tab, text on each line; or JSON lines of {"label": …, "text": …}.
        positive: The label that is told from all others (default: of two labels the one that is later in the alphabet).
        ks: How many features, and neurons.
        pooling: What a text's tokens come to: the largest code, or the mean.
        seed: Of the division into training and test.
        member: The dictionary's number (default: the one whose features are indexed).
        dictionaries: The name of the grid, where the run has several.
        out: A folder for the result with its pictures; without it the table is printed.
        json: Print JSON instead of a table.
    """
    from monosemy.analysis.labelled import labelled_texts
    from monosemy.analysis.probing import probe_labels as run_probe

    texts, labels = labelled_texts(source)
    found = run_probe(
        open_lab(run, member, dictionaries), texts, labels, ks, positive=positive, pooling=pooling, seed=seed
    )
    show(found, out, json)


INDEX: dict[str, Callable[..., Any]] = {
    "examples": examples,
    "tokens": tokens,
    "neighbours": neighbours,
    "probe-labels": probe_labels,
}


def explanations(
    features: Positional[Path], /, source: FromFiles, author: str | None = None, out: Path | None = None
) -> None:
    """Keep explanations of features beside their index, for the app to show, sort and filter by.

    All of an index are brought at once: the app shows one such folder of an index, and names the others.

    For example: monosemy explanations runs/demo/features --from people.csv models.jsonl --author ann

    Args:
        features: A folder that `monosemy features` wrote.
        source: Files of explanations, packed with gzip or not: JSON lines of {"feature": 12, "text": …}, with an
            author and a score or not; Neuronpedia's explanation rows; CSV with such a header; or a review's CSV.
        author: Whose those are that name no author: a person or a model.
        out: Where the explanations go (default: `explanations` beside the index).
    """
    from monosemy.explain.store import explanations as run

    place = beside(features, "explanations", out)
    store = run(features, source, author=author, out=place)
    by = ", ".join(f"{author or 'no author'}: {count:,}" for author, count in store.authors.items())
    left = ", ".join(f"{count:,} {why}" for why, count in store.left_out.items() if count)
    said = f"{place}: {store.count:,} explanations of {store.explained:,} features ({by})"
    print(f"{said}{f'; left out: {left}' if left else ''}; next: monosemy serve {place.parent}")


def _state(run: Path) -> State:
    from monosemy.app.state import State

    return State(run)


def _index(state: State, dictionaries: str | None, member: int | None) -> FeatureIndex:
    """The index of the member that is meant. Raises UsageError where it has none."""
    if dictionaries is None and member is None:
        return state.index()[1]
    name, number = chosen(state, dictionaries, member)
    found = state.indexed(state.grid(name)).get(number)
    if found is None:
        known = ", ".join(str(each) for each in state.indexed(state.grid(name)))
        raise UsageError(
            f"`member` (={number}) of {name} has no index of its features; "
            f"{f'there is one of {known}' if known else 'there is none of its grid'}; make it with `monosemy features`"
        )
    return state.indexes[found]

"""The `evaluate` stage: every score of every dictionary in a grid, on rows that training never saw.

One pass over the held-out activations scores fidelity; one over held-out tokens scores what the model loses; the
directions of all members are compared with each other. Undefined scores are None, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, Parent, load, load_parent, make
from monosemy.data.activations import ActivationStore
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.draft import Draft
from monosemy.metrics.downstream import Spliced, constant, downstream_scores, replacement, splice
from monosemy.metrics.fidelity import Fidelity
from monosemy.metrics.recovery import mmcs
from monosemy.metrics.selection import choose
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import Progress, UsageError, full_rate_products, pick_device, settings_of

BATCH = 4096
IDENTITY = ("member", "variant", "width", "l1", "k", "seed", "lr")
DOWNSTREAM = ("ce_original", "ce_reconstructed", "ce_zero", "ce_mean", "ce_recovered", "kl", "perplexity_ratio")


@dataclass(frozen=True)
class EvaluateSettings:
    """How much held-out data the scores are measured on."""

    rows: int = 65536
    """Held-out activation rows for fidelity."""
    token_rows: int = 64
    """Held-out token rows for cross-entropy and KL."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        for name in ("rows", "token_rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` (={getattr(self, name)}) must be at least 1")


class Scores:
    """A finished table of scores: `rows[i]` are member i's; `chosen` is the member to look at first."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.rows: list[dict[str, Any]] = json.loads((artifact.path / "scores.json").read_text())
        self.chosen: int = artifact.info["chosen"]
        self.why: str = artifact.info["why"]

    @classmethod
    def open(cls, path: str | Path | Scores) -> Scores:
        """Open and check the scores at `path`; scores that are open already are given back."""
        return path if isinstance(path, Scores) else cls(load(path, "scores"))


def evaluate(
    dictionaries: str | Path | DictionaryStore,
    activations: str | Path | ActivationStore,
    *,
    out: str | Path,
    model: str | Path | LanguageModel | None = None,
    tokens: str | Path | None = None,
    settings: EvaluateSettings | None = None,
    **options: Any,
) -> Scores:
    """Score every member of `dictionaries` on `activations`, and spliced into `model` if one is given.

    The tokens are those that the activations came from; say where they are if they were moved. `options` are fields of
    EvaluateSettings. Raises UsageError where widths differ or the model is not the one that was harvested.
    """
    settings = settings or settings_of(EvaluateSettings, options)
    grid, store = DictionaryStore.open(dictionaries), ActivationStore.open(activations)
    if grid.d_in != store.d_in:
        raise UsageError(
            f"{grid.artifact.path}: dictionaries for width {grid.d_in}, {store.artifact.path} holds rows of width "
            f"{store.d_in}; evaluate on the site they were trained on"
        )
    parents: dict[str, Parent] = {"dictionaries": grid.artifact.as_parent(), "activations": store.artifact.as_parent()}
    network = None
    if model is not None:
        network = model if isinstance(model, LanguageModel) else LanguageModel.load(model, device=settings.device)
        parents["model"] = network.as_parent()
        _check_model(store, network)
    config = asdict(settings)
    del config["device"]
    config["model_dtype"] = None if network is None else str(network.dtype)

    def write(draft: Draft) -> dict[str, Any]:
        rows, info = _score(grid, store, network, tokens, settings)
        draft.file("scores.json").write_text(json.dumps(rows, indent=1))
        chosen, why = choose(rows)
        return {"chosen": chosen, "why": why, **info}

    return Scores(make(out, "scores", config, parents, write))


def _score(
    grid: DictionaryStore,
    store: ActivationStore,
    network: LanguageModel | None,
    tokens: str | Path | None,
    settings: EvaluateSettings,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One row a member, and over how much it was measured."""
    device = network.device if network is not None else pick_device(settings.device)
    members = [grid.dictionary(member, device) for member in range(len(grid))]
    with full_rate_products(device), torch.inference_mode():
        fidelity = _fidelity(members, store, settings.rows, device)
        spliced = _splice(members, store, network, tokens, settings.token_rows)
    agreement = _agreement(grid)
    rows = []
    for number, member in enumerate(grid.members):
        downstream = downstream_scores(spliced, str(number)) if spliced else dict.fromkeys(DOWNSTREAM)
        identity = {name: member[name] for name in IDENTITY}
        rows.append({**identity, **fidelity[number].scores(), **downstream, **agreement[number]})
    n_tokens = spliced["original"].count if spliced else 0
    return rows, {"n_rows": fidelity[0].rows, "n_tokens": n_tokens, "held_out": store.n_held_out < store.n_all}


def _fidelity(
    members: Sequence[Dictionary], store: ActivationStore, limit: int, device: torch.device
) -> list[Fidelity]:
    collectors = [Fidelity(member) for member in members]
    total = min(limit, store.n_held_out)
    with Progress("fidelity", total, unit="rows") as bar:
        for x_BD in store.held_out(BATCH, total):
            for collector in collectors:
                collector.add(x_BD.to(device))
            bar.advance(len(x_BD))
    return collectors


def _splice(
    members: Sequence[Dictionary],
    store: ActivationStore,
    network: LanguageModel | None,
    tokens: str | Path | None,
    limit: int,
) -> dict[str, Spliced]:
    """Results by member number as text, `original`, `zero` and `mean`; nothing without a model of next tokens."""
    if network is None or not network.is_causal:
        return {}
    text = TokenStore(load_parent(store.artifact, "tokens", tokens))
    network.check_tokens(text)
    edits = {str(number): replacement(member) for number, member in enumerate(members)}
    edits["zero"] = constant(torch.zeros(store.d_in))
    edits["mean"] = constant(store.statistics().mean_D)
    rows = text.spread(text.holdout_rows or text.train_rows, limit)
    return splice(network, text, store.site, edits, rows, keep_bos=store.artifact.config.get("skip_bos", False))


def _agreement(grid: DictionaryStore) -> list[dict[str, float | None]]:
    """MMCS with larger dictionaries of the same sparsity (S4), and with the same dictionary from other seeds."""
    directions = [grid.directions(member) for member in range(len(grid))]

    def mean_mmcs(member: int, others: list[int]) -> float | None:
        found = [mmcs(directions[member], directions[other]) for other in others]
        return sum(found) / len(found) if found else None

    with Progress("compare", len(grid), unit="dictionaries") as bar:
        rows: list[dict[str, float | None]] = []
        for member in range(len(grid)):
            larger, twins = _larger(grid, member), grid.siblings(member, differ="seed")
            rows.append({"mmcs_with_larger": mean_mmcs(member, larger), "mmcs_other_seed": mean_mmcs(member, twins)})
            bar.advance()
    return rows


def _larger(grid: DictionaryStore, member: int) -> list[int]:
    mine = grid.members[member]
    return [
        other
        for other, row in enumerate(grid.members)
        if row["width"] > mine["width"] and all(row[name] == mine[name] for name in ("variant", "l1", "k"))
    ]


def _check_model(store: ActivationStore, network: LanguageModel) -> None:
    harvested, given = store.artifact.parent("model"), network.as_parent()
    if harvested.id != given.id:
        raise UsageError(
            f"model (={given.path}): not the one that {store.artifact.path} was harvested from ({harvested.path}); "
            f"name that one with --model"
        )

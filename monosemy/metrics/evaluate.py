"""The `evaluate` stage: every score of every dictionary in a grid, on rows that training never saw.

One pass over the held-out rows scores fidelity; one over held-out tokens scores what the model loses; the directions of
all members are compared with each other, and with the truth where the rows are a synthetic world's. Transcoders are
scored against the site that they write and spliced in there; crosscoders at all of their sites together, and at each
(`fvu_sites`, `ce_recovered_sites` …, in the order of the sites). Undefined scores are None, never 0.

Shapes: M members, G true features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, Parent, load_parent, make
from monosemy.data.activations import ActivationStore
from monosemy.data.joined import Pairs
from monosemy.data.source import (
    AnySource,
    d_out_of,
    n_held_out,
    open_like,
    origin_of,
    parents_of,
    stores_of,
    widths_of,
    world_of,
)
from monosemy.data.synthetic import World
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.draft import Draft
from monosemy.files import save_tensors
from monosemy.metrics.calibration import Reliability, calibration_scores, calibrations
from monosemy.metrics.downstream import Spliced, constant, downstream_scores, replacement, site_scores, splice
from monosemy.metrics.scores import CALIBRATION, IDENTITY, TRUTH, Scores
from monosemy.metrics.scoring import agreement_of, defined, fidelity_of
from monosemy.metrics.selection import choose
from monosemy.metrics.truth import TruthScores, truth_scores_of
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, full_rate_products, pick_device, settings_of

SITES = ("site", "target_site", "sites")  # what the scores say of where the rows are from
TRUTH_ROWS = 8192  # codes are compared feature by feature: fewer rows than for fidelity will do
BY_FEATURE = ("mcs", "matched_cosine", "f1", "slope")
SITE_BY_SITE = ("ce_reconstructed_sites", "ce_recovered_sites", "kl_sites")
DOWNSTREAM = ("ce_original", "ce_reconstructed", "ce_zero", "ce_mean", "ce_recovered", "kl", "perplexity_ratio")


@dataclass(frozen=True)
class EvaluateSettings:
    """How much held-out data the scores are measured on."""

    rows: int = 65536
    """Held-out rows for fidelity, and for the firing of true features."""
    token_rows: int = 64
    """Held-out token rows for cross-entropy and KL."""
    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        for name in ("rows", "token_rows"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` (={getattr(self, name)}) must be at least 1")


def evaluate(
    dictionaries: str | Path | DictionaryStore,
    activations: str | Path | AnySource,
    *,
    out: str | Path,
    target: str | Path | ActivationStore | None = None,
    others: Sequence[str | Path | ActivationStore] = (),
    model: str | Path | LanguageModel | None = None,
    tokens: str | Path | None = None,
    settings: EvaluateSettings | None = None,
    **options: Any,
) -> Scores:
    """Score every member of `dictionaries` on `activations` (or a world), and spliced into `model` if one is given.

    A transcoder's `target` and a crosscoder's `others`, and the tokens that the activations came from, are found from
    the lineage; say where they are if they were moved. `options` are fields of EvaluateSettings. Raises UsageError
    where widths or sites differ, the model is not the one that was harvested, or a target lies before its input in it.
    """
    settings = settings or settings_of(EvaluateSettings, options)
    grid = DictionaryStore.open(dictionaries)
    source = open_like(grid.artifact, activations, target, others)
    rows_from, origin = origin_of(source)
    _check_fit(grid, source, rows_from, origin)
    parents: dict[str, Parent] = {"dictionaries": grid.artifact.as_parent(), **parents_of(source)}
    network = None
    if model is not None:
        if "model" not in rows_from.manifest["parents"]:
            raise UsageError(f"{rows_from.path}: comes from no model, so none can be spliced; leave out --model")
        network = model if isinstance(model, LanguageModel) else LanguageModel.load(model, device=settings.device)
        parents["model"] = network.as_parent()
        _check_model(rows_from, network)
        _check_order(source, network)
    config = asdict(settings)
    del config["device"]
    config["model_dtype"] = None if network is None else str(network.dtype)

    def write(draft: Draft) -> dict[str, Any]:
        rows, info, truth, calibrated = _score(grid, source, network, tokens, settings)
        draft.file("scores.json").write_text(json.dumps(rows, indent=1, allow_nan=False))
        if truth:
            save_tensors(draft.file(TRUTH), truth)
        if calibrated:
            kept = {
                f"{number}.{name}": t for number, found in calibrated.items() for name, t in found.tensors().items()
            }
            save_tensors(draft.file(CALIBRATION), kept)
        chosen, why = choose(rows)
        return {"chosen": chosen, "why": why, **info, **{name: origin.get(name) for name in SITES}}

    return Scores(make(out, "scores", config, parents, write))


def _score(
    grid: DictionaryStore,
    source: AnySource,
    network: LanguageModel | None,
    tokens: str | Path | None,
    settings: EvaluateSettings,
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, torch.Tensor], dict[int, Reliability]]:
    """One row a member; over how much it was measured; the truth feature by feature; calibration by member."""
    device = network.device if network is not None else pick_device(settings.device)
    members = [grid.dictionary(member, device) for member in range(len(grid))]
    world = world_of(source)
    with full_rate_products(device), torch.inference_mode():
        fidelity = fidelity_of(members, source, settings.rows, device)
        spliced = _splice(members, source, network, tokens, settings.token_rows)
        agreement = agreement_of(grid.members, members, [collector.active_N > 0 for collector in fidelity])
        truth = truth_scores_of(members, world, min(settings.rows, TRUTH_ROWS)) if world else []
        sound = {number: each for number, each in enumerate(members) if not grid.members[number].get("failure")}
        calibrated = calibrations(sound, world, min(settings.rows, TRUTH_ROWS)) if world else {}
    rows = []
    for number, member in enumerate(grid.members):
        identity = {name: member.get(name) for name in IDENTITY}
        known = {**truth[number].scores, **calibration_scores(calibrated.get(number))} if truth else {}
        # Of scores in both, such as `alive`, those of fidelity: they are measured on more rows.
        own = {**known, **fidelity[number].scores(), **fidelity[number].site_scores()}
        row = {**identity, **own, **_downstream(spliced, number, source), **agreement[number]}
        failed = {"failed": member.get("training", {}).get("failed"), "failure": member.get("failure")}
        rows.append({name: defined(value) for name, value in row.items()} | failed)
    held_out = isinstance(source, World) or source.n_held_out < source.n_all
    n_tokens = spliced["original"].count if spliced else 0
    info = {"n_rows": n_held_out(source, settings.rows), "n_tokens": n_tokens, "held_out": held_out}
    return rows, info, _by_feature(truth, world) if world else {}, calibrated


def _splice(
    members: Sequence[Dictionary],
    source: AnySource,
    network: LanguageModel | None,
    tokens: str | Path | None,
    limit: int,
) -> dict[str, Spliced]:
    """Results by member number as text, `original`, `zero` and `mean`; nothing without a model of next tokens."""
    if network is None or not network.is_causal or isinstance(source, World):
        return {}
    reads, writes = stores_of(source)
    text = TokenStore(load_parent(reads[0].artifact, "tokens", tokens))
    network.check_tokens(text)
    sites = [store.site for store in reads]
    target = writes[0].site if writes != reads else None
    edits = {str(number): replacement(member, sites, target) for number, member in enumerate(members)}
    edits["zero"] = constant({store.site: torch.zeros(store.d_in) for store in writes})
    edits["mean"] = constant({store.site: store.statistics().mean_D for store in writes})
    rows = text.spread(text.holdout_rows or text.train_rows, limit)
    return splice(network, text, edits, rows, keep_bos=reads[0].artifact.config.get("skip_bos", False))


def _downstream(spliced: dict[str, Spliced], number: int, source: AnySource) -> dict[str, Any]:
    """What splicing member `number` in costs; None throughout where nothing was spliced."""
    several = bool(widths_of(source))
    if not spliced or isinstance(source, World):
        return dict.fromkeys((*DOWNSTREAM, *(SITE_BY_SITE if several else ())))
    sites = [store.site for store in stores_of(source)[1]]
    by_site = site_scores(spliced, str(number), sites) if several else {}
    return {**downstream_scores(spliced, str(number)), **by_site}


def _by_feature(truth: Sequence[TruthScores], world: World) -> dict[str, torch.Tensor]:
    columns = {name: torch.stack([scores.arrays[name] for scores in truth]) for name in BY_FEATURE}
    return {**columns, "probability": world.probabilities_G}


def _check_fit(grid: DictionaryStore, source: AnySource, rows_from: Artifact, origin: dict[str, Any]) -> None:
    """Raises UsageError unless these dictionaries read such rows and rebuild such targets, and one is trained."""
    if all(member.get("failure") for member in grid.members):
        raise UsageError(
            f"{grid.artifact.path}: the training of every member failed, so none can be chosen; train again at a lower "
            "learning rate"
        )
    if grid.d_in != source.d_in:
        raise UsageError(
            f"{grid.artifact.path}: dictionaries for width {grid.d_in}, {rows_from.path} holds rows of width "
            f"{source.d_in}; evaluate on the site they were trained on"
        )
    if (d_out := grid.directions(0).shape[1]) != d_out_of(source):
        raise UsageError(
            f"{grid.artifact.path}: dictionaries that rebuild rows of width {d_out}, not {d_out_of(source)}; evaluate "
            f"with the --target they were trained on"
        )
    trained = grid.artifact.info.get("sites")
    if trained and trained != origin.get("sites"):
        raise UsageError(
            f"{grid.artifact.path}: dictionaries of {', '.join(trained)}, not of {', '.join(origin.get('sites', []))}; "
            f"evaluate on the same sites in the same order, the first one first and the others with --others"
        )


def _check_model(activations: Artifact, network: LanguageModel) -> None:
    harvested, given = activations.parent("model"), network.as_parent()
    if harvested.id != given.id:
        raise UsageError(
            f"model (={given.path}): not the one that {activations.path} was harvested from ({harvested.path}); "
            f"name that one with --model"
        )


def _check_order(source: AnySource, network: LanguageModel) -> None:
    if not isinstance(source, Pairs):
        return
    site, target, order = source.inputs.site, source.targets.site, network.sites()
    if order.index(target) < order.index(site):
        raise UsageError(
            f"target (={target}): is computed before {site}, so what is rebuilt from that cannot be spliced in there; "
            f"leave out --model, or train with --target on a site that comes after the input"
        )

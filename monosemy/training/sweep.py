"""A grid of dictionaries from one pass over the rows: the `train` stage, and `fit` for rows that are just there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.artifact import make
from monosemy.data.activations import ActivationStore
from monosemy.data.rows import ArrayRows, RowSource, rows_of
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import DictionaryStore, member_file, save_dictionary
from monosemy.draft import Draft
from monosemy.runtime import UsageError, pick_device, settings_of
from monosemy.training.ensemble import Ensemble, ensembles_of
from monosemy.training.loop import train_stacks
from monosemy.training.settings import Member, TrainSettings, default_steps, grid

LISTS = ("variant", "width", "l1", "k", "seed", "lr")


def train(
    activations: str | Path | ActivationStore, *, out: str | Path, settings: TrainSettings | None = None, **options: Any
) -> DictionaryStore:
    """Train the grid on the training rows of `activations`, into `out`.

    `options` are fields of TrainSettings; where it takes several values, one alone will do. Raises UsageError for a
    grid that makes no sense and for NaN or Inf.
    """
    settings = settings or settings_from(**options)
    store = ActivationStore.open(activations)
    members = grid(settings, store.d_in)
    steps = settings.steps or default_steps(settings.batch, store.n_rows)
    config = {**asdict(settings), "width": list(dict.fromkeys(member.width for member in members)), "steps": steps}
    del config["device"]

    def write(draft: Draft) -> dict[str, Any]:
        stacks = _stacks(members, settings, store)
        metrics = train_stacks(stacks, store, settings, steps, draft.path)
        trained = [(stack, i, member) for stack in stacks for i, member in enumerate(stack.members)]
        rows = []
        for (stack, i, member), last in zip(trained, metrics, strict=True):
            number = members.index(member)
            save_dictionary(draft.file(member_file(number)), stack.export(i))
            rows.append({"member": number, **asdict(member), "training": last})
        rows.sort(key=lambda row: row["member"])
        model = store.artifact.manifest["parents"].get("model")
        origin = {"model": model and model["id"], "skip_bos": store.artifact.config.get("skip_bos", False)}
        return {"members": rows, "d_in": store.d_in, "site": store.site, **origin}

    return DictionaryStore(make(out, "dictionaries", config, {"activations": store.artifact.as_parent()}, write))


def fit(
    x: np.ndarray | torch.Tensor | RowSource | Iterable[np.ndarray | torch.Tensor],
    *,
    settings: TrainSettings | None = None,
    **options: Any,
) -> Dictionary:
    """One dictionary for rows that are just there: an array, tensor, memory map or iterator of pieces `[rows, d_in]`.

    An iterator of up to 1 GiB is gathered and read in shuffled order, as often as `steps` asks; a longer one once, in
    its own order.

    `options` are fields of TrainSettings. Raises UsageError if they make a grid (use `fit_grid`), or rows are not
    finite.
    """
    dictionaries = fit_grid(x, settings=settings, **options)
    if len(dictionaries) != 1:
        raise UsageError(f"these settings make {len(dictionaries)} dictionaries; call fit_grid for a grid")
    return dictionaries[0][1]


def fit_grid(
    x: np.ndarray | torch.Tensor | RowSource | Iterable[np.ndarray | torch.Tensor],
    *,
    settings: TrainSettings | None = None,
    **options: Any,
) -> list[tuple[Member, Dictionary]]:
    """Every dictionary of a grid, trained in one pass, with the member it is; in memory."""
    rows = _rows(x)
    settings = settings or settings_from(**options)
    if rows.n_rows is not None and rows.n_rows < settings.batch:
        settings = replace(settings, batch=rows.n_rows)
    members = grid(settings, rows.d_in)
    stacks = _stacks(members, settings, rows)
    train_stacks(stacks, rows, settings, settings.steps or default_steps(settings.batch, rows.n_rows), None)
    found = {member: stack.export(i) for stack in stacks for i, member in enumerate(stack.members)}
    return [(member, found[member]) for member in members]


def settings_from(**options: Any) -> TrainSettings:
    """TrainSettings from keywords, where a field that takes several values may be given one."""
    for name in LISTS:
        if name in options:
            value = options[name]
            values = (value,) if isinstance(value, str | int | float | np.generic) else tuple(value)
            options[name] = tuple(item.item() if isinstance(item, np.generic) else item for item in values)
    return settings_of(TrainSettings, options)


def _stacks(members: list[Member], settings: TrainSettings, rows: RowSource) -> list[Ensemble]:
    if len(set(members)) != len(members):
        raise UsageError("the grid holds the same member twice; name each variant, width, l1, k, lr and seed once")
    return ensembles_of(members, settings, rows.statistics(), pick_device(settings.device), settings.batch)


def _rows(x: Any) -> RowSource:
    if isinstance(x, np.ndarray | torch.Tensor):
        return ArrayRows(x)
    if hasattr(x, "batches") and hasattr(x, "statistics"):
        rows: RowSource = x
        return rows
    if isinstance(x, str | bytes) or not isinstance(x, Iterable):
        raise UsageError(f"`x` is of type {type(x).__name__}; give an array, a tensor or an iterator of them")
    return rows_of(x)

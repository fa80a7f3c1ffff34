"""A grid of dictionaries from one pass over the rows: the `train` stage, and `fit` for rows that are just there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.artifact import make
from monosemy.data.activations import ActivationStore
from monosemy.data.rows import ArrayRows, RowSource, rows_of
from monosemy.data.source import AnySource, open_joined, origin_of, parents_of
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import VARIANTS, DictionaryStore, member_file, save_dictionary
from monosemy.draft import Draft
from monosemy.runtime import UsageError, pick_device
from monosemy.training.ensemble import Ensemble, ensembles_of
from monosemy.training.frame import framed
from monosemy.training.loop import Watch, train_stacks
from monosemy.training.settings import Member, TrainSettings, default_steps, grid
from monosemy.training.tracking import Wandb

WORDS = {"rows": "rows of one site", "pairs": "rows with those of another site", "sites": "rows of several sites"}


def train(
    activations: str | Path | AnySource,
    *,
    out: str | Path,
    target: str | Path | ActivationStore | None = None,
    others: Sequence[str | Path | ActivationStore] = (),
    wandb: str | None = None,
    settings: TrainSettings | None = None,
    **options: Any,
) -> DictionaryStore:
    """Train the grid on the training rows of `activations` (or on the rows of a saved world), into `out`.

    Transcoders rebuild the rows of `target` from them, crosscoders those of `others` beside them. `wandb` names a
    project that metrics are sent to. `options` are fields of TrainSettings and of its groups; where several values can
    be given, one alone will do. Raises UsageError for a grid that makes no sense, for NaN or Inf in the rows, and where
    no member's loss stays finite; `out` then holds each as it was when it was last kept, as it does of one that failed
    among others.
    """
    settings = settings or settings_from(**options)
    source = open_joined(activations, target, others)
    members = grid(settings, source.d_in, source.n_rows)
    steps = settings.steps or default_steps(settings.batch, source.n_rows)
    config = {**asdict(settings), "width": list(dict.fromkeys(member.width for member in members)), "steps": steps}
    config["compute"] = {"dtype": settings.compute.dtype}  # on what it is computed changes rounding only
    _, origin = origin_of(source)

    def write(draft: Draft) -> dict[str, Any]:
        stacks = _stacks(members, settings, source)
        tracker = Wandb(wandb, config, draft.path) if wandb else None
        metrics = train_stacks(stacks, source, settings, steps, draft.path, tracker=tracker)
        trained = [(stack, i, member) for stack in stacks for i, member in enumerate(stack.members)]
        rows = []
        for (stack, i, member), last in zip(trained, metrics, strict=True):
            number = members.index(member)
            save_dictionary(draft.file(member_file(number)), stack.export(i))
            failure = stack.failure(i)
            if failure is not None:
                failure += f"; its weights of step {int(stack.kept_M[i])} are kept"
            rows.append({"member": number, **asdict(member), "training": last, "failure": failure})
        rows.sort(key=lambda row: row["member"])
        return {"members": rows, "d_in": source.d_in, **origin}

    store = DictionaryStore(make(out, "dictionaries", config, parents_of(source), write))
    if lost := _none_left([member["failure"] for member in store.members]):
        where = f"in {store.artifact.path}{' beside the others' if len(store) > 1 else ''}"
        raise UsageError(f"{lost} {where}; to train again name another --out, or delete that folder")
    return store


def fit(
    x: np.ndarray | torch.Tensor | RowSource | Iterable[np.ndarray | torch.Tensor],
    *,
    settings: TrainSettings | None = None,
    **options: Any,
) -> Dictionary:
    """One dictionary for rows that are just there: an array, tensor, memory map or iterator of pieces `[rows, d_in]`.

    An iterator of up to 1 GiB is gathered and read in shuffled order, as often as `steps` asks; a longer one once, in
    its own order.

    `options` are fields of TrainSettings. Raises UsageError if they make a grid (use `fit_grid`), rows are not finite,
    or the loss does not stay finite.
    """
    rows = _rows(x)
    settings = settings or settings_from(**options)
    if (count := len(grid(settings, rows.d_in, rows.n_rows))) != 1:
        raise UsageError(f"these settings make {count} dictionaries; call fit_grid for a grid")
    [(_, dictionary)] = fit_grid(rows, settings=settings)
    return dictionary


def fit_grid(
    x: np.ndarray | torch.Tensor | RowSource | Iterable[np.ndarray | torch.Tensor],
    *,
    settings: TrainSettings | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> list[tuple[Member, Dictionary]]:
    """Every dictionary of a grid, trained in one pass, with the member it is; in memory.

    A member whose loss did not stay finite is named on stderr and left out; UsageError where that is every one.
    `watch(step, stacks)` is called before the first step and after each.
    """
    rows = _rows(x)
    settings = settings or settings_from(**options)
    if rows.n_rows is not None and rows.n_rows < settings.batch:
        settings = replace(settings, batch=rows.n_rows)
    members = grid(settings, rows.d_in, rows.n_rows)
    stacks = _stacks(members, settings, rows)
    steps = settings.steps or default_steps(settings.batch, rows.n_rows)
    train_stacks(stacks, rows, settings, steps, None, watch)
    trained = [(member, stack, i) for stack in stacks for i, member in enumerate(stack.members)]
    if lost := _none_left([stack.failure(i) for _, stack, i in trained]):
        raise UsageError(lost)
    found = {member: stack.export(i) for member, stack, i in trained if stack.failure(i) is None}
    return [(member, found[member]) for member in members if member in found]


def _none_left(failures: Sequence[str | None]) -> str | None:
    """What is said where every member failed; None where one did not."""
    first = failures[0]
    if first is None or not all(failures):
        return None
    return first if len(failures) == 1 else f"all {len(failures)} members failed, the first so: {first}"


def settings_from(**options: Any) -> TrainSettings:
    """TrainSettings from flat keywords: `warmup=0.1` is the schedule's. One value will do where several can be given.

    Raises UsageError for a name that there is not.
    """
    own = vars(TrainSettings())
    groups = {name: value for name, value in own.items() if is_dataclass(value)}
    homes = {inner.name: name for name, group in groups.items() for inner in fields(group)}
    unknown = sorted(options.keys() - own.keys() - homes.keys())
    if unknown:
        known = [*(name for name in own if name not in groups), *homes]
        raise UsageError(f"unknown settings {', '.join(unknown)}; there are {', '.join(known)}")
    chosen = {name: _plain(value, several=isinstance(own.get(name), tuple)) for name, value in options.items()}
    for name, group in groups.items():
        parts = {inner: chosen.pop(inner) for inner, home in homes.items() if home == name and inner in chosen}
        chosen[name] = replace(chosen.get(name, group), **parts)
    return TrainSettings(**chosen)


def _plain(value: Any, several: bool) -> Any:
    """The value in Python's own types; in a tuple where several can be given."""
    if not several:
        return value.item() if isinstance(value, np.generic) else value
    values = (value,) if isinstance(value, str | int | float | np.generic) else tuple(value)
    return tuple(_plain(item, several=False) for item in values)


def _stacks(members: list[Member], settings: TrainSettings, rows: RowSource) -> list[Ensemble]:
    _check_rows(members, rows)
    return ensembles_of(
        members, settings, framed(rows, settings.frame), pick_device(settings.compute.device), settings.batch
    )


def _check_rows(members: Sequence[Member], rows: RowSource) -> None:
    """Transcoders read pairs, crosscoders several sites, all others rows of one site."""
    given = "pairs" if hasattr(rows, "target_statistics") else "sites" if hasattr(rows, "sites") else "rows"
    ways = {"rows": "leave out --target and --others", "pairs": "name a --target", "sites": "name --others"}
    for name in dict.fromkeys(member.variant for member in members):
        if (wanted := VARIANTS[name].reads) != given:
            raise UsageError(f"`variant` (={name}) reads {WORDS[wanted]}, not {WORDS[given]}; {ways[wanted]}")


def _rows(x: Any) -> RowSource:
    if isinstance(x, np.ndarray | torch.Tensor):
        return ArrayRows(x)
    if hasattr(x, "batches") and hasattr(x, "statistics"):
        rows: RowSource = x
        return rows
    if isinstance(x, str | bytes) or not isinstance(x, Iterable):
        raise UsageError(f"`x` is of type {type(x).__name__}; give an array, a tensor or an iterator of them")
    return rows_of(x)

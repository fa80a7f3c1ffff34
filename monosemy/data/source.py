"""Where rows come from, on disk: an activation store, stores of several sites, or a synthetic world.

Training and scoring take any of them. A store that was written from a world knows it as its parent, so the truth is
found again from there; dictionaries know all stores that they were trained on as theirs.

Shapes: B rows, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, Parent, is_artifact, load_parent
from monosemy.data.activations import ActivationStore
from monosemy.data.joined import JoinedRows, Pairs, Sites
from monosemy.data.synthetic import World
from monosemy.runtime import UsageError

Source = ActivationStore | World
AnySource = Source | Pairs | Sites

TARGET = "target"  # the parent that a transcoder is to give
OTHER = "activations-"  # and its number: the further sites of a crosscoder


def open_source(path: str | Path | Source) -> Source:
    """The activations or the world at `path`; one that is open already is given back."""
    if isinstance(path, ActivationStore | World):
        return path
    return World.open(path) if is_artifact(path, "world") else ActivationStore.open(path)


def open_joined(
    activations: str | Path | AnySource,
    target: str | Path | ActivationStore | None = None,
    others: Sequence[str | Path | ActivationStore] = (),
) -> AnySource:
    """The rows of `activations`; with those of `target` to be rebuilt from them, or with those of `others` beside them.

    Raises UsageError where that cannot be: a world, which has targets of its own, or stores of other tokens.
    """
    if target is None and not others:
        return activations if isinstance(activations, JoinedRows) else open_source(activations)
    if target is not None and others:
        raise UsageError("`target` is for transcoders and `others` for crosscoders; give one of the two")
    option = "target" if target is not None else "others"
    first = activations if isinstance(activations, JoinedRows) else open_source(activations)
    if not isinstance(first, ActivationStore):
        which = "a world's rows are of no site" if isinstance(first, World) else "these rows are joined already"
        raise UsageError(f"`{option}` stands beside the activations of one site, and {which}; leave out --{option}")
    if target is not None:
        return Pairs(first, ActivationStore.open(target))
    return Sites([first, *map(ActivationStore.open, others)])


def open_like(
    made: Artifact,
    activations: str | Path | AnySource,
    target: str | Path | ActivationStore | None = None,
    others: Sequence[str | Path | ActivationStore] = (),
) -> AnySource:
    """Rows for the dictionaries `made`, the stores that are not given found from what these were trained on.

    Raises UsageError where those are gone, or what is given is not of the kind that they were trained on.
    """
    if isinstance(activations, JoinedRows):
        return open_joined(activations, target, others)
    parents = made.manifest["parents"]
    names = sorted((name for name in parents if name.startswith(OTHER)), key=lambda name: int(name[len(OTHER) :]))
    if "activations" in parents:
        if target is not None and TARGET not in parents:
            raise UsageError(f"{made.path}: rebuild what they read, not another site; leave out --target")
        if others and len(others) != len(names):
            raise UsageError(
                f"{made.path}: take {len(names)} further sites, {len(others)} were given; give as many with --others"
            )
    if target is None and TARGET in parents:
        target = ActivationStore(load_parent(made, TARGET))
    return open_joined(activations, target, others or [_other(made, name) for name in names])


def _other(made: Artifact, name: str) -> ActivationStore:
    try:
        return ActivationStore(load_parent(made, name))
    except UsageError as error:
        place = made.parent(name).path
        raise UsageError(
            f"{place}: not the activations that {made.path} was trained on, or not there any more; say where all "
            f"further sites are with --others"
        ) from error


def world_of(source: AnySource) -> World | None:
    """The world that the rows are from, or None where nobody knows the truth.

    Raises UsageError if a store names a world that is no longer where it was.
    """
    if isinstance(source, World):
        return source
    if isinstance(source, JoinedRows) or "world" not in source.artifact.manifest["parents"]:
        return None
    try:
        return World.open(load_parent(source.artifact, "world").path)
    except UsageError as error:
        place = source.artifact.parent("world").path
        raise UsageError(
            f"{source.artifact.path}: its rows are from a world that is not at {place} (any more); put it back there"
        ) from error


def n_held_out(source: AnySource, limit: int) -> int:
    """How many rows `held_out_pairs` gives: a world never runs out."""
    return limit if isinstance(source, World) else min(limit, source.n_held_out)


def held_out_pairs(source: AnySource, batch: int, limit: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Up to `limit` rows that training never saw, as (x_BD, target_BE); the two are one where x itself is rebuilt."""
    if isinstance(source, JoinedRows):
        yield from source.held_out_pairs(batch, limit)
        return
    if isinstance(source, ActivationStore):
        yield from ((x_BD, x_BD) for x_BD in source.held_out(batch, limit))
        return
    for start in range(0, limit, batch):
        sample = source.sample(min(batch, limit - start), start)
        yield sample.x_XD, sample.target_XD


def d_out_of(source: AnySource) -> int:
    """The width E of what is to be rebuilt."""
    return source.d_out if isinstance(source, JoinedRows) else source.d_in


def widths_of(source: AnySource) -> tuple[int, ...]:
    """The widths of the sites that lie side by side in a row; none where there is one site."""
    return source.sites if isinstance(source, Sites) else ()


def stores_of(source: ActivationStore | Pairs | Sites) -> tuple[tuple[ActivationStore, ...], ...]:
    """The stores that a row is made of, and those of what is to be rebuilt."""
    if isinstance(source, Pairs):
        return (source.inputs,), (source.targets,)
    stores = source.stores if isinstance(source, Sites) else (source,)
    return stores, stores


def parents_of(source: AnySource) -> dict[str, Parent]:
    """The artifacts that the rows are from, as a child's manifest names them: `world`, or `activations` beside `target`
    or `activations-1`, `activations-2` …"""
    if isinstance(source, JoinedRows):
        names = [TARGET] if isinstance(source, Pairs) else [f"{OTHER}{i}" for i in range(1, len(source.stores))]
        named = zip(["activations", *names], source.stores, strict=True)
        return {name: store.artifact.as_parent() for name, store in named}
    artifact, _ = origin_of(source)
    return {artifact.kind: artifact.as_parent()}


def origin_of(source: AnySource) -> tuple[Artifact, dict[str, Any]]:
    """The artifact that the (first) rows are from, and what dictionaries trained on them say of it: site, model, BOS;
    `target_site` where another one is rebuilt; `sites` instead of a site where there are several.

    Raises UsageError for a world that lies in memory only.
    """
    if isinstance(source, Sites):
        artifact, origin = origin_of(source.stores[0])
        return artifact, {**origin, "site": None, "sites": [store.site for store in source.stores]}
    if isinstance(source, Pairs):
        artifact, origin = origin_of(source.inputs)
        return artifact, {**origin, "target_site": source.targets.site}
    if isinstance(source, World):
        if source.artifact is None:
            raise UsageError("this world is not on disk, so nothing on disk can name it: call its `save` first")
        return source.artifact, {"site": None, "model": None, "skip_bos": False}
    artifact = source.artifact
    model = artifact.manifest["parents"].get("model")
    skip_bos = artifact.config.get("skip_bos", False)
    return artifact, {"site": source.site, "model": model and model["id"], "skip_bos": skip_bos}

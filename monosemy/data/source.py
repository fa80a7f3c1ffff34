"""Where rows come from, on disk: an activation store, or a synthetic world that makes them as they are asked for.

Training and scoring take either. A store that was written from a world knows it as its parent, so the truth is found
again from there.

Shapes: B rows, D = d_in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from monosemy.artifact import Artifact, is_artifact, load_parent
from monosemy.data.activations import ActivationStore
from monosemy.data.synthetic import World
from monosemy.runtime import UsageError

Source = ActivationStore | World


def open_source(path: str | Path | Source) -> Source:
    """The activations or the world at `path`; one that is open already is given back."""
    if isinstance(path, ActivationStore | World):
        return path
    return World.open(path) if is_artifact(path, "world") else ActivationStore.open(path)


def world_of(source: Source) -> World | None:
    """The world that the rows are from, or None where nobody knows the truth.

    Raises UsageError if a store names a world that is no longer where it was.
    """
    if isinstance(source, World):
        return source
    if "world" not in source.artifact.manifest["parents"]:
        return None
    try:
        return World.open(load_parent(source.artifact, "world").path)
    except UsageError as error:
        place = source.artifact.parent("world").path
        raise UsageError(
            f"{source.artifact.path}: its rows are from a world that is not at {place} (any more); put it back there"
        ) from error


def n_held_out(source: Source, limit: int) -> int:
    """How many rows `held_out_pairs` gives: a world never runs out."""
    return limit if isinstance(source, World) else min(limit, source.n_held_out)


def held_out_pairs(source: Source, batch: int, limit: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Up to `limit` rows that training never saw, as (x_BD, target_BD); the two are one where nothing is denoised."""
    if isinstance(source, ActivationStore):
        yield from ((x_BD, x_BD) for x_BD in source.held_out(batch, limit))
        return
    for start in range(0, limit, batch):
        sample = source.sample(min(batch, limit - start), start)
        yield sample.x_XD, sample.target_XD


def origin_of(source: Source) -> tuple[Artifact, dict[str, Any]]:
    """The artifact that the rows are from, and what dictionaries trained on them say of it: site, model, BOS.

    Raises UsageError for a world that lies in memory only.
    """
    if isinstance(source, World):
        if source.artifact is None:
            raise UsageError("this world is not on disk, so nothing on disk can name it: call its `save` first")
        return source.artifact, {"site": None, "model": None, "skip_bos": False}
    artifact = source.artifact
    model = artifact.manifest["parents"].get("model")
    skip_bos = artifact.config.get("skip_bos", False)
    return artifact, {"site": source.site, "model": model and model["id"], "skip_bos": skip_bos}

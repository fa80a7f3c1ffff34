"""What a sparse step takes: nothing of the size B·N (codes, their gradient) or N·D (the weights' gradients).

Torch's allocator reports each block to the profiler, numpy's arrays are counted by tracemalloc, and what a stack holds
from step to step is found by walking through it. Loops compiled by numba are not seen; of arrays they make rows only.

Shapes: B rows, N width, D = d_in; all of one member.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from monosemy.data.rows import ArrayRows
from monosemy.training import ensemble
from monosemy.training.ensemble import Ensemble
from monosemy.training.frame import framed
from monosemy.training.settings import grid
from monosemy.training.sweep import settings_from

B, N, D, K, R = 64, 2048, 64, 4, 16
DEAD = N // 10
LARGE = min(B * N, N * D)
FLOAT = 4  # bytes
X = torch.randn(1024, D, generator=torch.Generator().manual_seed(0))
SPARSE = ["topk", "batchtopk", "jumprelu"]


@dataclass(frozen=True)
class Taken:
    """Bytes of a step's largest torch tensor, of its numpy arrays at their most, and of what lives after it."""

    torch_block: int
    numpy_peak: int
    held: dict[str, int]

    @property
    def within(self) -> bool:
        """Whether all of it is small."""
        return max(self.torch_block, self.numpy_peak, *self.held.values()) < FLOAT * LARGE


def stack(name: str, **options: Any) -> Ensemble:
    settings = settings_from(variant=name, width=N, k=K, batch=B, lr=3e-3, device="cpu", **options)
    return Ensemble(grid(settings, D), settings, framed(ArrayRows(X), settings.frame), torch.device("cpu"), B)


def step_of(made: Ensemble, before: int, dead: int = 0) -> Taken:
    """A step after `before` others (the first makes buffers; a threshold takes a while to pass few), with `dead` dead
    features for the remedy."""
    stream = ArrayRows(X).batches(B, 0)
    with torch.no_grad():
        for _ in range(before):
            made.step(next(stream))
        if dead:
            made.last_fired_MN[0, :dead] = -made.settings.dead.dead_after
            assert made.dead_MN().sum() == dead
        x_BD = next(stream)
        tracemalloc.start()
        try:
            with profile(profile_memory=True) as seen:
                made.step(x_BD)
            numpy_peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    blocks = [event.nbytes() for event in seen.kineto_results.events() if event.name() == "[memory]"]
    assert max(blocks) >= FLOAT * B  # the profiler sees what there is
    return Taken(max(blocks), numpy_peak, held(made))


def held(made: Ensemble) -> dict[str, int]:
    """Bytes of every tensor that a stack holds beside parameters, Adam's moments, averages and the good copy."""
    own = {"params": made.params, "mean": made.moments.mean, "square": made.moments.square}
    kept = [own, made.trained, made.average, made.good]
    counted = {tensor.untyped_storage().data_ptr() for _, tensor in tensors_in(kept, "")}
    found = {tensor.untyped_storage().data_ptr(): (path, tensor) for path, tensor in tensors_in(vars(made), "")}
    return {path: tensor.untyped_storage().nbytes() for place, (path, tensor) in found.items() if place not in counted}


def tensors_in(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts, lists and dataclasses, with the names that lead to it."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from tensors_in(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from tensors_in(inner, f"{path}.{i}")
    elif is_dataclass(value):
        for each in fields(value):
            yield from tensors_in(getattr(value, each.name), f"{path}.{each.name}")


@pytest.fixture(autouse=True)
def _few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As at full size, where PIECE is far below B·N."""
    monkeypatch.setattr(ensemble, "PIECE", R * N)


@pytest.mark.parametrize(
    "options",
    [{"clip": 0.0}, {"clip": 0.05}, {"clip": 0.05, "remedy": "auxk", "dead_after": 1000}],
    ids=["plain", "clipped", "auxk"],
)
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_step_makes_nothing_of_the_size_of_codes_or_weights(name: str, options: dict[str, Any]) -> None:
    made = stack(name, way="sparse", kernels="numba", **options)
    found = step_of(made, before=40 if name == "jumprelu" else 3, dead=DEAD if "remedy" in options else 0)
    assert made.sparse_M == [True]
    assert found.within, found
    # z of a few rows, the residual, the last rows, two step numbers a feature; the rest is of a coordinate or a member.
    assert sum(found.held.values()) < FLOAT * (R * N + B * D + B * D) + 2 * 8 * N + FLOAT * N


@pytest.mark.parametrize("name", SPARSE)
def test_the_dense_way_would_be_seen_in_what_is_held(name: str) -> None:
    found = step_of(stack(name, way="dense", kernels="numba"), before=3)
    large = {path.rpartition(".")[2] for path, size in found.held.items() if size >= FLOAT * LARGE}
    assert large == {"codes_MNB", "dcodes_MNB", "W_enc", "W_dec"}
    assert not found.within


def test_gradients_of_the_plain_kernels_would_be_seen_as_they_are_made() -> None:
    """The reference sums each weight's gradient in a matrix; its stack holds no more than numba's."""
    found = step_of(stack("topk", way="sparse", kernels="torch"), before=3)
    assert found.torch_block >= FLOAT * N * D
    assert max(found.held.values()) < FLOAT * LARGE


def test_a_numpy_array_of_the_size_of_the_codes_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array of that size that lives for a moment inside a kernel."""
    made = stack("topk", way="sparse", kernels="numba")
    columns = made.kernels.columns

    def wasteful(*arguments: Any) -> Any:
        torch.zeros(1).numpy().repeat(B * N)
        return columns(*arguments)

    monkeypatch.setattr(made.kernels, "columns", wasteful)
    found = step_of(made, before=3)
    assert found.numpy_peak >= FLOAT * B * N
    assert found.torch_block < FLOAT * LARGE

"""The activation store: what is written comes back, in any dtype, in any order, and bad rows never get in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monosemy.artifact import load, make
from monosemy.data import activations
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.draft import Draft
from monosemy.runtime import UsageError

D = 8


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activations, "SHARD_BYTES", 100 * D * 4)


def store_of(path: Path, x_XD: torch.Tensor, n_train: int, dtype: torch.dtype = torch.float32) -> ActivationStore:
    def write(draft: Draft) -> dict[str, Any]:
        writer = ActivationWriter(draft, D, dtype)
        for start in range(0, len(x_XD), 37):
            piece = x_XD[start : start + 37]
            writer.add(piece, 1000 + start + torch.arange(len(piece)))
        return writer.finish(n_train)

    return ActivationStore(make(path, "activations", {"site": "here"}, {}, write))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_come_back_as_stored_with_their_tokens(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.randn(530, D)
    store = store_of(tmp_path / "a", x, 500, dtype)
    assert len(list((tmp_path / "a").glob("shard-*"))) > 2
    rows = np.random.default_rng(0).integers(0, 530, 200)
    assert torch.equal(store.take(rows), x.to(dtype).float()[rows])
    assert torch.equal(store.offsets(rows), torch.from_numpy(rows) + 1000)


def test_training_reads_only_training_rows_and_held_out_are_the_rest(tmp_path: Path) -> None:
    x = torch.arange(530.0)[:, None].expand(530, D).contiguous()
    store = store_of(tmp_path / "a", x, 450)
    stream = store.batches(90, seed=0)
    epoch = torch.cat([next(stream)[:, 0] for _ in range(5)])
    assert sorted(epoch.tolist()) == list(range(450))
    assert torch.cat(list(store.held_out(33, 1000)))[:, 0].tolist() == list(range(450, 530))
    assert torch.cat(list(store.held_out(33, 40)))[:, 0].tolist() == list(range(450, 530, 2))
    assert store.n_held_out == 80
    later = store.batches(90, seed=0, start=7)
    for _ in range(2):
        next(stream)
    assert torch.equal(next(stream), next(later))


@pytest.mark.parametrize("n_train", [530, 450, 400, 250, 3, 0])
def test_statistics_are_those_of_the_training_rows(tmp_path: Path, n_train: int) -> None:
    x = torch.randn(530, D) + 2
    found = store_of(tmp_path / "a", x, n_train).statistics()
    seen = x[:n_train] if n_train else x
    torch.testing.assert_close(found.mean_D, seen.mean(0))
    assert found.mean_norm == pytest.approx(float(seen.norm(dim=1).mean()))
    assert found.mean_square_norm == pytest.approx(float(seen.square().sum(1).mean()))
    assert found.count == len(seen)


def test_a_writer_goes_on_after_the_whole_shards_of_an_earlier_one(tmp_path: Path) -> None:
    x = torch.randn(350, D)
    draft = Draft(tmp_path)
    first = ActivationWriter(draft, D, torch.float32)
    first.add(x[:250], torch.arange(250))  # two whole shards of 100, 50 rows waiting: lost with the process
    second = ActivationWriter(draft, D, torch.float32)
    assert second.rows_written == 200
    second.add(x[200:], torch.arange(200, 350))
    assert second.finish(300)["n_rows"] == 350


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_are_refused_with_their_token(tmp_path: Path, bad: float) -> None:
    x = torch.randn(50, D)
    x[17, 3] = bad
    writer = ActivationWriter(Draft(tmp_path), D, torch.float32)
    with pytest.raises(UsageError, match=r"NaN or Inf.*token 517"):
        writer.add(x, torch.arange(500, 550))


def test_values_too_large_for_the_dtype_are_refused_with_the_way_out(tmp_path: Path) -> None:
    writer = ActivationWriter(Draft(tmp_path), D, torch.float16)
    with pytest.raises(UsageError, match=r"reach 7e\+04.*bf16"):
        writer.add(torch.full((3, D), 7e4), torch.arange(3))


def test_mixed_widths_and_empty_stores_are_refused(tmp_path: Path) -> None:
    writer = ActivationWriter(Draft(tmp_path), D, torch.float32)
    with pytest.raises(UsageError, match="widths cannot be mixed"):
        writer.add(torch.zeros(3, D + 1), torch.arange(3))
    with pytest.raises(UsageError, match="no activations"):
        writer.finish(0)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_shard_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    store_of(tmp_path / "a", torch.randn(330, D), 300)
    shard = tmp_path / "a/shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    if damage == "truncated":
        data = data[:-10]
    else:
        data[-10] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UsageError, match=r"shard-00001\.safetensors"):
        load(tmp_path / "a", "activations")

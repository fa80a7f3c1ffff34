"""The activation store: rows of one site on disk, in shards, with their statistics, read in shuffled order.

Each shard is a safetensors file with `x` [rows, D] and `offset` [rows], the place of each row's token in the token
stream, so every row can be traced to its document and position. Rows lie in the order of the tokens; the last ones,
from held-out token rows, are never given to training. Shards are memory-mapped, so reading needs no memory of its own.

Shapes: B rows of a batch, D = d_in, X rows of a shard.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from monosemy.artifact import Artifact, load
from monosemy.data.rows import RowStatistics, checked, shuffled_rows
from monosemy.draft import Draft
from monosemy.files import load_tensors, map_tensors, save_tensors
from monosemy.runtime import UsageError

SHARD_BYTES = 64 * 2**20
SUM_ROWS = 256


class ActivationWriter:
    """Collects rows and writes whole shards into a draft; a second one over the same draft goes on after the last."""

    def __init__(self, draft: Draft, d_in: int, dtype: torch.dtype) -> None:
        self.draft, self.d_in, self.dtype = draft, d_in, dtype
        self.shard_rows = max(1, SHARD_BYTES // (d_in * dtype.itemsize))
        self.shards = sorted(draft.path.glob("shard-*.safetensors"))
        self.rows_written = self.shard_rows * len(self.shards)
        self._x_XD = torch.empty(self.shard_rows, d_in, dtype=dtype)  # the shard that is being filled
        self._offset_X = torch.empty(self.shard_rows, dtype=torch.int64)
        self._filled = 0

    def add(self, x_XD: torch.Tensor, offset_X: torch.Tensor) -> None:
        """Append rows. Raises UsageError at NaN, Inf, or a value that the store's dtype cannot hold."""
        if x_XD.ndim != 2 or x_XD.shape[1] != self.d_in:
            raise UsageError(
                f"rows of shape {list(x_XD.shape)} in a store of width {self.d_in}: widths cannot be mixed"
            )
        while len(x_XD):
            room = self.shard_rows - self._filled
            self._fill(x_XD[:room], offset_X[:room])
            x_XD, offset_X = x_XD[room:], offset_X[room:]
            if self._filled == self.shard_rows:
                self._write_shard()

    def _fill(self, x_XD: torch.Tensor, offset_X: torch.Tensor) -> None:
        place = slice(self._filled, self._filled + len(x_XD))
        self._x_XD[place], self._offset_X[place] = x_XD, offset_X
        stored_XD = self._x_XD[place]
        if not torch.isfinite(stored_XD.sum(dtype=torch.float32)) and not torch.isfinite(stored_XD).all():
            _explain_bad_values(x_XD, offset_X, self.dtype)
        self._filled += len(x_XD)

    def finish(self, n_train: int) -> dict[str, float | int]:
        """Write what is left, and the statistics of the first `n_train` rows, those that training will see (of all
        rows where that is none); gives what belongs into the manifest."""
        if self._filled:
            self._write_shard()
        if not self.shards:
            raise UsageError("no activations were written: the token rows are empty")
        sum_D, norms = torch.zeros(self.d_in, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        n_rows, counted = 0, 0
        for shard in self.shards:
            tensors = map_tensors(shard)  # of most shards only the sums are read
            rows = len(tensors["offset"])
            wanted = min(rows, max(0, n_train - n_rows)) if n_train else rows
            parts = (tensors["sum"], tensors["norms"]) if wanted == rows else _sums(tensors["x"][:wanted])
            sum_D, norms = sum_D + parts[0], norms + parts[1]
            n_rows, counted = n_rows + rows, counted + wanted
        save_tensors(self.draft.file("statistics.safetensors"), {"mean": (sum_D / counted).float()})
        return {
            "n_rows": n_rows,
            "n_train": n_train,
            "d_in": self.d_in,
            "shard_rows": self.shard_rows,
            "mean_norm": float(norms[0] / counted),
            "mean_square_norm": float(norms[1] / counted),
        }

    def _write_shard(self) -> None:
        x_XD, offset_X = self._x_XD[: self._filled], self._offset_X[: self._filled]
        sum_D, norms = _sums(x_XD)
        shard = self.draft.file(f"shard-{len(self.shards):05}.safetensors")
        save_tensors(shard, {"x": x_XD, "offset": offset_X, "sum": sum_D, "norms": norms})
        self.shards.append(shard)
        self.rows_written += self._filled
        self._filled = 0


class ActivationStore:
    """A finished activation store; a `RowSource` over its training rows."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        info = artifact.info
        names = sorted(name for name in artifact.manifest["files"] if name.startswith("shard-"))
        shards = [map_tensors(artifact.path / name) for name in names]
        self._x, self._offset = [shard["x"] for shard in shards], [shard["offset"] for shard in shards]
        self._shard_rows: int = info["shard_rows"]
        self.stored_dtype = self._x[0].dtype
        self.d_in: int = info["d_in"]
        self.n_rows: int | None = info["n_train"]
        self.n_all: int = info["n_rows"]
        self.site: str = artifact.config["site"]

    @classmethod
    def open(cls, path: str | Path | ActivationStore) -> ActivationStore:
        """Open and check the store at `path`; a store that is open already is given back."""
        return path if isinstance(path, ActivationStore) else cls(load(path, "activations"))

    @property
    def n_held_out(self) -> int:
        """How many rows `held_out` gives."""
        return self.n_all - (self.n_rows or 0) or self.n_all

    def statistics(self) -> RowStatistics:
        """Mean and norms of the training rows (of all rows where there are none)."""
        info = self.artifact.info
        mean_D = load_tensors(self.artifact.path / "statistics.safetensors")["mean"]
        return RowStatistics(mean_D, info["mean_norm"], info["mean_square_norm"], info["n_train"] or info["n_rows"])

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """An endless stream of shuffled training rows `x_BD` fp32, from batch `start` on."""
        if not self.n_rows:
            raise UsageError(f"{self.artifact.path}: holds no training rows; tokenize more text or lower --holdout")
        for rows in shuffled_rows(self.n_rows, batch, seed, start):
            yield checked(self.take(rows))

    def held_out(self, batch: int, limit: int) -> Iterator[torch.Tensor]:
        """Up to `limit` held-out rows, evenly spaced, `x_BD` fp32; of all rows where none were held out."""
        count = min(limit, self.n_held_out)
        rows = self.n_all - self.n_held_out + np.arange(count) * self.n_held_out // count
        for start in range(0, count, batch):
            yield checked(self.take(rows[start : start + batch]))

    def take(self, rows: np.ndarray) -> torch.Tensor:
        """The rows with these numbers, fp32, in the order asked for."""
        x_BD = torch.empty(len(rows), self.d_in)
        for shard, order_X, local_X in self._split(rows):
            x_BD[order_X] = self._x[shard][local_X].float()
        return x_BD

    def offsets(self, rows: np.ndarray) -> torch.Tensor:
        """The place of each row's token in the token stream."""
        offset_B = torch.empty(len(rows), dtype=torch.int64)
        for shard, order_X, local_X in self._split(rows):
            offset_B[order_X] = self._offset[shard][local_X]
        return offset_B

    def _split(self, rows: np.ndarray) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """For each shard that holds some of the rows: where they go, and their numbers inside the shard."""
        shard_of = rows // self._shard_rows
        order = np.argsort(shard_of, kind="stable")
        bounds = np.flatnonzero(np.diff(shard_of[order])) + 1
        for piece in np.split(order, bounds):
            shard = int(shard_of[piece[0]])
            yield shard, torch.from_numpy(piece), torch.from_numpy(rows[piece] - shard * self._shard_rows)


def _sums(x_XD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Σx, and [Σ‖x‖, Σ‖x‖²], in float64; within a piece, which stays in the cache, in fp32."""
    sum_D, norms = torch.zeros(x_XD.shape[1], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(x_XD), SUM_ROWS):
        rows_XD = x_XD[start : start + SUM_ROWS].float()
        square_X = rows_XD.square().sum(1).double()
        sum_D += rows_XD.sum(0)
        norms += torch.stack([square_X.sqrt().sum(), square_X.sum()])
    return sum_D, norms


def _explain_bad_values(x_XD: torch.Tensor, offset_X: torch.Tensor, dtype: torch.dtype) -> None:
    bad_X = ~torch.isfinite(x_XD.to(dtype)).all(dim=1)
    place = int(offset_X[bad_X.cpu().nonzero()[0, 0]])
    if torch.isfinite(x_XD).all():
        raise UsageError(
            f"activations reach {float(x_XD.abs().max()):.3g}, more than {dtype} holds (first at token {place}); "
            f"use --dtype bf16 or fp32"
        )
    raise UsageError(
        f"activations hold NaN or Inf (first at token {place}): the model computes them; use --model-dtype fp32, "
        f"or check its weights"
    )

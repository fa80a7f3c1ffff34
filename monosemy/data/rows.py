"""Rows of any origin, in shuffled order: what training reads.

A `RowSource` gives an endless stream of batches `x_BD` in fp32. Batch t is rows t·B … (t+1)·B of a sequence of
epochs, each epoch one permutation of all rows; so a stream can start at any batch, and equals the one that never
stopped. The permutation is a small keyed cipher over the row numbers (a Feistel network with cycle walking: Black and
Rogaway, "Ciphers with Arbitrary Finite Domains", 2002), so mixing over the whole store needs no memory.

Shapes: B rows of a batch, D = d_in.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, cast

import numpy as np
import torch

from monosemy.runtime import UsageError, seed_for

ROUNDS = 4
GATHER_BYTES = 2**30  # of an iterator's rows that are kept in memory to be shuffled


@dataclass(frozen=True)
class RowStatistics:
    """What scale the rows have: `mean_D`, E‖x‖ and E‖x‖² over `count` rows."""

    mean_D: torch.Tensor
    mean_norm: float
    mean_square_norm: float
    count: int


class RowSource(Protocol):
    """Anything that training can read rows from. `n_rows` is None where the rows are not counted beforehand."""

    d_in: int
    n_rows: int | None

    def statistics(self) -> RowStatistics:
        """Mean and norms of the rows."""
        ...

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """An endless stream of `x_BD` fp32, from batch number `start` on."""
        ...


class Permutation:
    """A permutation of 0 … n−1 that is computed, not stored. The same n and seed give the same one on any machine."""

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise UsageError(f"there are {n} rows to shuffle; at least 1 is needed")
        bits = max(n - 1, 1).bit_length()
        self.n = n
        self._low_bits, self._high_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self._keys = np.random.default_rng(seed).integers(1, 2**63, size=ROUNDS, dtype=np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The row at each position; int64 in, int64 out."""
        found = self._encrypt(positions.astype(np.uint64))
        while (outside := found >= self.n).any():  # the cipher's domain is a power of two below 2n: walk back in
            found[outside] = self._encrypt(found[outside])
        return found.astype(np.int64)

    def _encrypt(self, value: np.ndarray) -> np.ndarray:
        # An unbalanced Feistel network: the halves swap sizes at each round, so ROUNDS is even.
        low_bits, high_bits = self._low_bits, self._high_bits
        for key in self._keys:
            low, high = value & _ones(low_bits), value >> low_bits
            high ^= _mix(low, key) & _ones(high_bits)
            value = (low << high_bits) | high
            low_bits, high_bits = high_bits, low_bits
        return value


def _ones(bits: np.uint64) -> np.uint64:
    return (np.uint64(1) << bits) - np.uint64(1)


def _mix(value: np.ndarray, key: np.uint64) -> np.ndarray:
    """A keyed 64-bit hash (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        mixed = value + key
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return cast(np.ndarray, mixed ^ (mixed >> np.uint64(31)))


def shuffled_rows(n: int, batch: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Row numbers of batch `start`, `start`+1, …: each epoch every one of the n rows once, in another order."""
    position, epoch, shuffle = start * batch, -1, None
    while True:
        rows = np.empty(batch, dtype=np.int64)
        filled = 0
        while filled < batch:
            if shuffle is None or epoch != position // n:
                epoch = position // n
                shuffle = Permutation(n, seed_for("epoch", seed, epoch))
            take = min(batch - filled, n - position % n)
            rows[filled : filled + take] = shuffle(np.arange(take) + position % n)
            filled, position = filled + take, position + take
        yield rows


class ArrayRows:
    """Rows that lie in an array, tensor or memory map `[rows, D]`."""

    def __init__(self, x: np.ndarray | torch.Tensor) -> None:
        rows_XD = _as_tensor(x) if isinstance(x, np.ndarray) else x.detach()
        if rows_XD.ndim != 2 or 0 in rows_XD.shape:
            raise UsageError(f"`x` has shape {list(rows_XD.shape)}; rows must be [rows, d_in], neither of them 0")
        self.x_XD = rows_XD
        self.n_rows: int | None = rows_XD.shape[0]
        self.d_in = rows_XD.shape[1]

    def statistics(self) -> RowStatistics:
        """Mean and norms over all rows, read in pieces."""
        return statistics_of(torch.split(self.x_XD, 65536))

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """Shuffled batches; raises UsageError at a row with NaN or Inf."""
        for rows in shuffled_rows(self.x_XD.shape[0], batch, seed, start):
            yield checked(self.x_XD[torch.from_numpy(rows).to(self.x_XD.device)].float())


class IteratorRows:
    """Rows from an iterator of pieces `[any, D]`, taken in their order. It cannot be read twice, so never resumed."""

    def __init__(self, pieces: Iterable[np.ndarray | torch.Tensor], head_bytes: int) -> None:
        self._pieces = (torch.as_tensor(piece).float() for piece in pieces)
        self.head: list[torch.Tensor] = []  # what was read ahead
        self.ended = True
        left = head_bytes
        for piece in self._pieces:
            if piece.ndim != 2:
                raise UsageError(f"`x` gave a piece of shape {list(piece.shape)}; pieces must be [rows, d_in]")
            self._check_width(piece)
            self.head.append(piece)
            left -= piece.nbytes
            if left <= 0:
                self.ended = False
                break
        if not self.head:
            raise UsageError("`x` gave no rows; an iterator must give arrays of shape [rows, d_in]")
        self.d_in = self.head[0].shape[1]
        self.n_rows: int | None = None

    def _check_width(self, piece: torch.Tensor) -> None:
        if self.head and piece.shape[1:] != self.head[0].shape[1:]:
            width = self.head[0].shape[1]
            raise UsageError(f"`x` gave a piece of shape {list(piece.shape)} after rows of width {width}")

    def statistics(self) -> RowStatistics:
        """Mean and norms of the first rows."""
        return statistics_of(self.head)

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """Batches in the order of the iterator, until it ends; `seed` changes nothing."""
        del seed
        if start:
            raise UsageError("rows from an iterator cannot be read again: store them first, or start over")
        pieces = chain(self.head, self._pieces)
        self.head = []  # not kept: a stream may be long
        waiting: list[torch.Tensor] = []
        have = 0
        for piece in pieces:
            if piece.shape[1:] != (self.d_in,):
                raise UsageError(f"`x` gave a piece of shape {list(piece.shape)} after rows of width {self.d_in}")
            start = 0
            while have + len(piece) - start >= batch:
                end = start + batch - have
                yield checked(torch.cat([*waiting, piece[start:end]]))
                waiting, have, start = [], 0, end
            if start < len(piece):
                waiting.append(piece[start:])
                have += len(piece) - start


def rows_of(pieces: Iterable[np.ndarray | torch.Tensor]) -> RowSource:
    """Rows of an iterator: one that ends within GATHER_BYTES is gathered and shuffled, a longer one is a stream."""
    stream = IteratorRows(pieces, GATHER_BYTES)
    return ArrayRows(torch.cat(stream.head)) if stream.ended else stream


def _as_tensor(x: np.ndarray) -> torch.Tensor:
    """The array's own memory as a tensor; copied only where its strides are negative."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # rows are only read, so a read-only memory map is fine
        return torch.from_numpy(x if all(stride >= 0 for stride in x.strides) else x.copy())


def checked(x_BD: torch.Tensor) -> torch.Tensor:
    """The batch itself; UsageError if it holds NaN or Inf."""
    if not torch.isfinite(x_BD.sum()) and not torch.isfinite(x_BD).all():
        row = int((~torch.isfinite(x_BD)).any(dim=1).nonzero()[0])
        raise UsageError(f"activations hold NaN or Inf (first in row {row} of a batch); find where they come from")
    return x_BD


def statistics_of(pieces: Iterable[torch.Tensor]) -> RowStatistics:
    """Mean and norms of all rows in the pieces, summed in float64."""
    total_D: torch.Tensor | None = None
    count, norms, squares = 0, 0.0, 0.0
    for piece in pieces:
        rows_XD = piece.double()
        norm_X = rows_XD.norm(dim=1)
        total_D = rows_XD.sum(0) if total_D is None else total_D + rows_XD.sum(0)
        count, norms, squares = count + len(rows_XD), norms + float(norm_X.sum()), squares + float((norm_X**2).sum())
    if total_D is None or count == 0:
        raise UsageError("there are no rows to take statistics of")
    if not np.isfinite(squares):
        raise UsageError("activations hold NaN or Inf; find where they come from")
    return RowStatistics((total_D / count).float().cpu(), norms / count, squares / count, count)

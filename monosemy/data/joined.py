"""Stores of several sites of one model, read side by side: what transcoders and crosscoders are trained on.

One harvest of several sites writes stores whose row i is the same token's in each. `Pairs` gives the rows of one as
inputs and those of another as what is to be rebuilt (a transcoder reads one site and writes another: Dunefsky, Chlenski
and Nanda, "Transcoders find interpretable LLM feature circuits", 2024); `Sites` gives the rows of all in one, block
beside block (a crosscoder rebuilds every site from shared codes: Lindsey et al., "Sparse crosscoders for cross-layer
features and model diffing", 2024). Both are `RowSource`s in the order that a single store is read in.
Left out: sites of two models in one row.

Shapes: B rows of a batch, D = d_in (of `Sites`: the sum of its widths), E = d_out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from monosemy.artifact import Artifact
from monosemy.data.activations import ActivationStore
from monosemy.data.rows import RowStatistics, checked, statistics_of
from monosemy.runtime import Progress, UsageError

NORM_ROWS = 16384  # of the joined rows, for their mean norm: no store knows it
PIECE = 4096
OFFSET_ROWS = 2**20  # compared at once


class JoinedRows:
    """Stores that hold the same tokens, row by row. Raises UsageError, naming two of them, where they do not."""

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        self.stores = tuple(stores)
        for other in self.stores[1:]:
            _check_same_tokens(self.stores[0], other)
        self.n_rows: int | None = self.stores[0].n_rows
        self.n_all = self.stores[0].n_all
        self.n_held_out = self.stores[0].n_held_out


class Pairs(JoinedRows):
    """Rows x of one site, and of another what is to be rebuilt from them; a `RowSource` over the training rows."""

    paired = True

    def __init__(self, inputs: ActivationStore, targets: ActivationStore) -> None:
        super().__init__((inputs, targets))
        self.inputs, self.targets = inputs, targets
        self.d_in, self.d_out = inputs.d_in, targets.d_in

    def statistics(self) -> RowStatistics:
        """Mean and norms of the inputs."""
        return self.inputs.statistics()

    def target_statistics(self) -> RowStatistics:
        """Mean and norms of the targets."""
        return self.targets.statistics()

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """The inputs `x_BD` of `pairs`."""
        return self.inputs.batches(batch, seed, start)

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """An endless stream of shuffled training rows, `x_BD` and `target_BE` fp32, from batch `start` on."""
        return zip(self.inputs.batches(batch, seed, start), self.targets.batches(batch, seed, start), strict=True)

    def held_out_pairs(self, batch: int, limit: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Up to `limit` held-out rows, evenly spaced, as `x_BD` and `target_BE`."""
        return zip(self.inputs.held_out(batch, limit), self.targets.held_out(batch, limit), strict=True)


class Sites(JoinedRows):
    """Rows of several sites side by side, in the order given; `sites` are their widths."""

    def __init__(self, stores: Sequence[ActivationStore]) -> None:
        names = [store.site for store in stores]
        if len(set(names)) != len(names):
            raise UsageError(f"the sites {', '.join(names)} are to be joined; name each site once")
        super().__init__(stores)
        self.sites = tuple(store.d_in for store in self.stores)
        self.d_in = self.d_out = sum(self.sites)
        self._statistics: RowStatistics | None = None

    def statistics(self) -> RowStatistics:
        """Mean and norms of the joined rows. The mean norm is that of up to 16,384 training rows, evenly spaced."""
        if self._statistics is None:
            parts = self.site_statistics()
            square = sum(part.mean_square_norm for part in parts)
            mean_D = torch.cat([part.mean_D for part in parts])
            self._statistics = RowStatistics(mean_D, self._mean_norm(), square, parts[0].count)
        return self._statistics

    def site_statistics(self) -> list[RowStatistics]:
        """Mean and norms of the rows of each site."""
        return [store.statistics() for store in self.stores]

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """An endless stream of shuffled training rows `x_BD` fp32, from batch `start` on."""
        streams = [store.batches(batch, seed, start) for store in self.stores]
        return (torch.cat(parts, dim=1) for parts in zip(*streams, strict=True))

    def held_out(self, batch: int, limit: int) -> Iterator[torch.Tensor]:
        """Up to `limit` held-out rows, evenly spaced, `x_BD` fp32; of all rows where none were held out."""
        streams = [store.held_out(batch, limit) for store in self.stores]
        return (torch.cat(parts, dim=1) for parts in zip(*streams, strict=True))

    def held_out_pairs(self, batch: int, limit: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same rows, as input and target."""
        return ((x_BD, x_BD) for x_BD in self.held_out(batch, limit))

    def _mean_norm(self) -> float:
        trained = self.n_rows or self.n_all
        count = min(NORM_ROWS, trained)
        rows = np.arange(count) * trained // count
        return statistics_of(self._pieces(rows)).mean_norm

    def _pieces(self, rows: np.ndarray) -> Iterator[torch.Tensor]:
        with Progress("statistics", len(rows), unit="rows") as bar:
            for start in range(0, len(rows), PIECE):
                piece = rows[start : start + PIECE]
                yield checked(torch.cat([store.take(piece) for store in self.stores], dim=1))
                bar.advance(len(piece))


def _check_same_tokens(one: ActivationStore, other: ActivationStore) -> None:
    """Raises UsageError unless row i of both is the same token's."""
    for part in ("model", "tokens", "world"):
        if _parent_id(one.artifact, part) != _parent_id(other.artifact, part):
            raise _unlike(one, other, f"are from another {part}")
    for name in ("max_tokens", "skip_bos", "rows", "holdout"):
        ours, theirs = one.artifact.config.get(name), other.artifact.config.get(name)
        if ours != theirs:
            raise _unlike(one, other, f"were made with `{name}` = {theirs}, not {ours}")
    if (one.n_all, one.n_rows) != (other.n_all, other.n_rows):
        raise _unlike(one, other, f"are {other.n_all:,}, of which {other.n_rows:,} to train on; not those numbers")
    for start in range(0, one.n_all, OFFSET_ROWS):
        rows = np.arange(start, min(start + OFFSET_ROWS, one.n_all))
        if not torch.equal(one.offsets(rows), other.offsets(rows)):
            raise _unlike(one, other, "are of other tokens")


def _parent_id(artifact: Artifact, name: str) -> str | None:
    parent = artifact.manifest["parents"].get(name)
    return None if parent is None else str(parent["id"])


def _unlike(one: ActivationStore, other: ActivationStore, how: str) -> UsageError:
    return UsageError(
        f"{one.artifact.path} and {other.artifact.path}: the rows of the second {how}, so the two cannot be joined; "
        f"harvest both sites in one pass: --site {one.site} {other.site}"
    )

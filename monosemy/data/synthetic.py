"""Synthetic worlds: rows that are sparse sums of known directions, so that what a dictionary finds can be checked.

Source: the interim report of Dec 2022 ("Taking features out of superposition with sparse autoencoders") and its
variations; Zipfian firing, hierarchy and size after SynthSAEBench (arXiv 2602.14687). x = Σ magnitude·F_i over the
features i that fire; a row in which none fires is zero, and is data. Rows come in blocks, block b of a stream from
seeds of its own, so row i of a stream depends on the settings and on i alone, never on the batch. The same machine,
threads and library versions give the same bits. Left out: features that drift, and rows that depend on the row before.

Shapes: B rows of a batch, X rows of a sample, D = d_in, G features, R roots (all features in a flat world), P firings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.artifact import Artifact, load, make
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.data.correlation import (
    Correlation,
    FullRank,
    LowRank,
    given_correlation,
    group_probabilities,
    mean_probabilities,
    random_correlation,
)
from monosemy.data.firing import independent, rescaled, split_key
from monosemy.data.hierarchy import Hierarchy
from monosemy.data.rows import RowStatistics, statistics_of
from monosemy.data.sample import Codes, Jitter, Sample, joined, sums_of_features
from monosemy.data.world_settings import WorldSettings, magnitudes
from monosemy.draft import Draft
from monosemy.files import load_tensors, save_tensors
from monosemy.runtime import Progress, UsageError, generator_for, seed_for

__all__ = ["Sample", "World", "WorldSettings"]

GROUP_ROWS = 256  # rows that share their probabilities in mode "batch": the batch of the interim report
BLOCK_ROWS = 16 * GROUP_ROWS
STATISTICS_ROWS = 65_536
TENSORS = "world.safetensors"
GIVEN = "correlation_given"  # in the manifest: hash of the factor of a matrix that the caller gave, or ""


class World:
    """Rows without end from known features; a `RowSource`."""

    n_rows: int | None = None

    def __init__(
        self,
        settings: WorldSettings | None = None,
        correlation_GG: torch.Tensor | np.ndarray | None = None,
        artifact: Artifact | None = None,
    ) -> None:
        """Draw the world of these settings, or read it from `artifact`.

        `correlation_GG` stands in for the random correlation matrix (of the roots, where there is a hierarchy).
        Raises UsageError for a world that cannot be.
        """
        self.settings = settings = settings or WorldSettings()
        self.artifact = artifact
        self.d_in = settings.d_in
        self.paired = settings.noise > 0 and settings.noise_on == "input"
        roots = settings.hierarchy.roots(settings.features)
        rank_R = np.arange(roots, dtype=np.float64)
        self._weight_R = settings.decay**rank_R * (rank_R + 1) ** -settings.zipf
        self._cost_R = settings.hierarchy.tree_sizes(settings.features)
        self._given = artifact.config[GIVEN] if artifact else ""
        self._statistics: RowStatistics | None = None
        self._correlation: Correlation | None = None
        if artifact is None:
            root_R = rescaled(self._weight_R[None], settings.l0, self._cost_R)[0]  # first: it refuses, and is quick
            self._correlation = self._drawn_correlation(correlation_GG)
            if self._correlation is not None and settings.correlation == "batch":
                random = _generator(seed_for("mean probabilities", settings.seed))
                root_R = mean_probabilities(self._correlation, self._weight_R, settings.l0, self._cost_R, random)
            self.features_GD = _directions(settings)
            self.probabilities_G = torch.from_numpy(settings.hierarchy.spread(root_R, settings.features))
            return
        stored = load_tensors(artifact.path / TENSORS)
        self.features_GD, self.probabilities_G = stored["features"], stored["probabilities"]
        if "correlation" in stored:
            self._correlation = (LowRank if settings.rank else FullRank)(stored["correlation"].numpy())

    @classmethod
    def open(cls, path: str | Path | World) -> World:
        """The saved world at `path`, with its stored tensors; a world that is open already is given back."""
        if isinstance(path, World):
            return path
        artifact = load(path, "world")
        config = {name: value for name, value in artifact.config.items() if name != GIVEN}
        return cls(WorldSettings(**{**config, "hierarchy": Hierarchy(**config["hierarchy"])}), artifact=artifact)

    def save(self, out: str | Path) -> World:
        """Write the world to `out`; gives the same world, with its artifact."""
        tensors = {"features": self.features_GD, "probabilities": self.probabilities_G}
        if self._correlation is not None:
            tensors["correlation"] = torch.from_numpy(self._correlation.factor)

        def write(draft: Draft) -> dict[str, Any]:
            save_tensors(draft.file(TENSORS), tensors)
            return {}

        return World.open(make(out, "world", {**asdict(self.settings), GIVEN: self._given}, {}, write).path)

    def store(self, out: str | Path, rows: int, holdout: float = 0.1) -> ActivationStore:
        """Write `rows` rows (inputs) of the stream "store" as an activation store, whose offsets are row numbers: the
        codes of row i are those of `sample(1, i, "store")`. The last `holdout` of them are held out.

        Raises UsageError where the world itself is not saved, or no row would be left to train on.
        """
        if self.artifact is None:
            raise UsageError("the world must be saved before rows of it are stored, so that they can name it; save it")
        if not 0 <= holdout < 1 or (n_train := rows - round(rows * holdout)) < 1:
            raise UsageError(f"`rows` (={rows}) without `holdout` (={holdout}) leave none to train on; raise rows")

        def write(draft: Draft) -> dict[str, Any]:
            writer = ActivationWriter(draft, self.d_in, torch.float32)
            done = writer.rows_written
            samples = self._samples("store", done, BLOCK_ROWS)
            with Progress("store", rows, start=done, unit="rows") as bar:
                for start in range(done, rows, BLOCK_ROWS):
                    x_XD = next(samples).x_XD[: rows - start]
                    writer.add(x_XD, torch.arange(start, start + len(x_XD)))
                    bar.advance(len(x_XD))
            return writer.finish(n_train)

        config = {"site": "world", "rows": rows, "holdout": holdout}
        return ActivationStore(make(out, "activations", config, {"world": self.artifact.as_parent()}, write))

    @property
    def correlation_RR(self) -> torch.Tensor | None:
        """The correlation matrix of the roots; None where they fire independently, or there are too many to write it
        down (low rank)."""
        factor = None if self._correlation is None or self.settings.rank else self._correlation.factor
        return None if factor is None else torch.from_numpy(factor @ factor.T)

    def statistics(self) -> RowStatistics:
        """Mean and norms of 65,536 rows of a stream of their own."""
        if self._statistics is None:
            samples, count = self._samples("statistics", 0, BLOCK_ROWS), STATISTICS_ROWS // BLOCK_ROWS
            with Progress("statistics", count, unit="blocks") as bar:
                self._statistics = statistics_of(_counted(samples, count, bar))
        return self._statistics

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """An endless stream of inputs `x_BD` fp32, from batch `start` on; each seed is another stream."""
        return (x_BD for x_BD, _ in self.pairs(batch, seed, start))

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same stream as (input, target); the two are one tensor unless `paired`."""
        return ((sample.x_XD, sample.target_XD) for sample in self._samples(f"train {seed}", start * batch, batch))

    def sample(self, count: int, start: int = 0, stream: str = "held out") -> Sample:
        """Rows `start` … `start` + `count` − 1 of a named stream. `pairs` with a seed reads "train SEED", and `store`
        writes "store"; any other name is a stream that no training reads."""
        if count < 1 or start < 0:
            raise UsageError(f"`count` (={count}) must be at least 1 and `start` (={start}) at least 0; raise them")
        return next(self._samples(stream, start, count))

    def _samples(self, stream: str, start: int, count: int) -> Iterator[Sample]:
        """`count` rows at a time from row `start` on; the newest block is kept."""
        number, block = -1, None
        while True:
            parts = []
            for wanted in range(start // BLOCK_ROWS, (start + count - 1) // BLOCK_ROWS + 1):
                if block is None or wanted != number:
                    number, block = wanted, self._block(stream, wanted)
                first = wanted * BLOCK_ROWS
                parts.append(block.rows(max(start - first, 0), min(start + count - first, BLOCK_ROWS)))
            yield joined(parts)
            start += count

    def _block(self, stream: str, number: int) -> Sample:
        settings = self.settings

        def key(part: str) -> int:
            return seed_for("world", settings.seed, part, stream, number)

        random = _generator(key("firing"))
        row_P, feature_P = split_key(self._root_firings(random, key("copula")), len(self._weight_R))
        if settings.hierarchy.depth:
            row_P, feature_P = settings.hierarchy.grow(key("children"), row_P, feature_P, settings.features)
            order = np.lexsort((feature_P, row_P))
            row_P, feature_P = row_P[order], feature_P[order]
        value_P = magnitudes(settings, key("magnitude"), row_P, feature_P)
        codes = Codes(torch.from_numpy(row_P), torch.from_numpy(feature_P), value_P)
        jitter = Jitter(settings.jitter, key("jitter")) if settings.jitter else None
        x_XD = clean_XD = sums_of_features(codes, self.features_GD, BLOCK_ROWS, jitter)
        if settings.noise:
            generator = torch.Generator().manual_seed(key("noise"))
            x_XD = torch.randn(clean_XD.shape, generator=generator).mul_(settings.noise).add_(clean_XD)
        return Sample(x_XD, clean_XD if self.paired else x_XD, *codes, settings.features)

    def _root_firings(self, random: np.random.Generator, key: int) -> np.ndarray:
        probability_R = self.probabilities_G[: len(self._weight_R)].numpy()
        if self._correlation is None:
            return independent(probability_R[None], BLOCK_ROWS, random)
        if self.settings.correlation == "sample":
            return self._correlation.copula(probability_R, BLOCK_ROWS, random, key)
        z_SR = self._correlation.normals(BLOCK_ROWS // GROUP_ROWS, random)
        return independent(
            group_probabilities(z_SR, self._weight_R, self.settings.l0, self._cost_R), GROUP_ROWS, random
        )

    def _drawn_correlation(self, correlation_GG: torch.Tensor | np.ndarray | None) -> Correlation | None:
        settings, roots = self.settings, len(self._weight_R)
        if correlation_GG is None:
            seed = seed_for("correlation", settings.seed)
            drawn = settings.correlation != "none"
            return random_correlation(roots, settings.rank, settings.strength, seed) if drawn else None
        if settings.correlation == "none" or settings.rank:
            raise UsageError("`correlation_GG` needs correlation `sample` or `batch`, and rank 0; change the settings")
        if tuple(correlation_GG.shape) != (roots, roots):
            raise UsageError(
                f"`correlation_GG` is {tuple(correlation_GG.shape)}; it must be {(roots, roots)}, the roots"
            )
        given = given_correlation(np.asarray(correlation_GG), settings.strength)
        self._given = hashlib.sha256(given.factor.tobytes()).hexdigest()
        return given


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


def _directions(settings: WorldSettings) -> torch.Tensor:
    generator = generator_for("world features", settings.seed)
    direction_GD = torch.randn(settings.features, settings.d_in, generator=generator)
    if settings.positive:
        direction_GD.abs_()
    norm_G1: torch.Tensor = direction_GD.double().norm(dim=1, keepdim=True)
    return direction_GD / norm_G1.float()


def _counted(samples: Iterator[Sample], count: int, bar: Progress) -> Iterator[torch.Tensor]:
    for sample in islice(samples, count):
        yield sample.x_XD
        bar.advance()

"""Worlds of SynthSAEBench's kind, ours and SAELens' own: our best dictionary beside SAELens' best, on the same rows.

    .bench-env/bin/python benchmarks/synthsaebench.py [--rows 640000] [--width 512] [--batch 256]

Both worlds are of a middle size: 1,024 features in 128 dimensions, 7.3 of them in a row, firing after Zipf (0.5),
correlated at low rank, in trees of 4 exclusive children a feature. "sae_lens.synthetic" is SynthSAEBench-16k's recipe
(arXiv 2602.14687) cut to that size: magnitudes near 5, a bias, directions made more orthogonal, two thirds of the
features in trees. "monosemy" is our generator's nearest world. As recommended there, dictionaries are narrower than the
truth. Every dictionary sees the same rows once. Each library runs several of its recipes at several learning rates;
SAELens' default (3e-4) is left out: it is far too slow for so few rows. The last lines of a world repeat the best of
each library by MCC.

One implementation, ours, scores every dictionary. As a check, SAELens' own code scores the same dictionary on the same
rows: "MCC by SAELens" (which takes the absolute cosine), "F1 by SAELens" of the pairs that our matching made, and
"F1 of SAELens" as it is defined there: a mean over the learned features, each against the true one that is nearest, so
copies count and features that nobody found do not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any, cast

import torch
from contest import CHUNK, HELD_OUT, Entry, scores, train_ours, train_peers, with_best
from peers import Peer, quietly, saelens
from record import table, write_record

from monosemy.data.hierarchy import Hierarchy
from monosemy.data.rows import RowStatistics, statistics_of
from monosemy.data.synthetic import Sample, World, WorldSettings
from monosemy.metrics.matching import one_to_one
from monosemy.runtime import seed_for

D, G = 128, 1024
L0 = 7.3  # what SAELens' generator gives at this size
L1 = (0.03, 0.06, 0.12, 0.24)  # of the rows' mean norm
K = (8, 12)
OUR_LR = (3e-3, 1e-2)  # the first is our default
STANDARD_LR, BATCHTOPK_LR = (3e-3, 1e-2), 3e-3
STATISTICS_DRAWS = 16


class SaeLensWorld:
    """SAELens' synthetic model behind the interface of our `World`: batches, held-out samples, the truth.

    Its generator draws from torch's global state, so every draw of CHUNK rows has a seed of its own. Held-out samples
    are kept: they are drawn slowly and read for each dictionary.
    """

    n_rows: int | None = None
    paired = False

    def __init__(self) -> None:
        from sae_lens import synthetic

        config = synthetic.SyntheticModelConfig(
            num_features=G,
            hidden_dim=D,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(exponent=0.5, max_prob=0.4, min_prob=5e-4),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=8,
                branching_factor=4,
                max_depth=3,
                mutually_exclusive_portion=1.0,
                compensate_probabilities=True,
            ),
            orthogonalization=synthetic.OrthogonalizationConfig(num_steps=100, lr=3e-4),
            correlation=synthetic.LowRankCorrelationConfig(rank=25, correlation_scale=0.1),
            mean_firing_magnitudes=synthetic.LinearMagnitudeConfig(start=5.0, end=4.0),
            std_firing_magnitudes=synthetic.FoldedNormalMagnitudeConfig(mean=0.5, std=0.5),
            seed=0,
        )
        self.model: Any = quietly(lambda: synthetic.SyntheticModel(config))
        self.d_in = D
        self._kept: dict[tuple[str, int, int], Sample] = {}
        self.features_GD: torch.Tensor = self.model.feature_dict.feature_vectors.detach()
        fired_G = torch.zeros(G)
        for start in range(0, STATISTICS_DRAWS * CHUNK, CHUNK):
            fired_G += (self._draw("frequencies", start, CHUNK)[1] > 0).sum(dim=0)
        self.probabilities_G = fired_G.double() / (STATISTICS_DRAWS * CHUNK)

    def _draw(self, stream: str, number: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`x_BD` and the true codes [B, G]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_for("sae_lens.synthetic", stream, number, count))
            x_BD, codes_BG = self.model.sample_with_features(count)
        return x_BD, codes_BG

    def statistics(self) -> RowStatistics:
        """Mean and norms of some rows."""
        return statistics_of(self._draw("statistics", i, CHUNK)[0] for i in range(STATISTICS_DRAWS))

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """An endless stream of `x_BD`, CHUNK // batch of them from one draw."""
        draw, skip = divmod(start, per_draw := max(1, CHUNK // batch))
        while True:
            x_XD, _ = self._draw(f"train {seed}", draw, per_draw * batch)
            yield from x_XD.split(batch)[skip:]
            draw, skip = draw + 1, 0

    def sample(self, count: int, start: int = 0, stream: str = "held out") -> Sample:
        """Held-out rows and their true codes; equal arguments give equal rows."""
        if (stream, start, count) not in self._kept:
            x_XD, codes_XG = self._draw(stream, start, count)
            row_P, feature_P = codes_XG.nonzero(as_tuple=True)
            sample = Sample(x_XD, x_XD, row_P, feature_P, codes_XG[row_P, feature_P], G)
            self._kept[stream, start, count] = sample
        return self._kept[stream, start, count]


def our_world() -> World:
    """The nearest of ours."""
    return World(
        WorldSettings(
            d_in=D,
            features=G,
            l0=L0,
            decay=1.0,
            zipf=0.5,
            rank=25,
            strength=0.5,
            magnitude="log-normal",
            hierarchy=Hierarchy(depth=2, branching=4, share=0.2),
        )
    )


def peers_of(world: World, width: int, steps: int, batch: int) -> list[Peer]:
    """SAELens' recipes."""
    penalties = [round(l1 * world.statistics().mean_norm, 3) for l1 in L1]
    peers: list[Peer] = []
    shared: dict[str, Any] = {"d_in": D, "width": width, "steps": steps, "batch": batch}
    for lr in STANDARD_LR:
        peers += [saelens("standard", **shared, lr=lr, l1_coefficient=penalty) for penalty in penalties]
    peers += [saelens("batchtopk", **shared, lr=BATCHTOPK_LR, k=float(k)) for k in K]
    nested = [width // 8, width // 2, width]
    peers.append(saelens("matryoshka", **shared, lr=BATCHTOPK_LR, k=float(K[0]), matryoshka_widths=nested))
    return peers


def by_saelens(entry: Entry, world: World) -> dict[str, float]:
    """SAELens' metrics of the same dictionary on the same rows."""
    from sae_lens.synthetic import ClassificationMetricsCalculator, mean_correlation_coefficient

    W_ND, truth_GD = entry.dictionary.W_dec_ND, world.features_GD
    pairs = one_to_one(truth_GD, W_ND)
    fires_G = torch.zeros(G, dtype=torch.bool)
    nearest = ClassificationMetricsCalculator(W_ND, truth_GD)
    matched = ClassificationMetricsCalculator(W_ND[pairs.columns_P], truth_GD)
    matched.best_matches = pairs.rows_P
    for start in range(0, HELD_OUT, CHUNK):
        sample = world.sample(CHUNK, start)
        codes_BN, true_BG = entry.dictionary.encode(sample.x_XD), sample.codes_XG()
        nearest.add_batch(codes_BN, true_BG)
        matched.add_batch(codes_BN[:, pairs.columns_P], true_BG)
        fires_G |= (true_BG > 0).any(dim=0)
    return {
        "MCC by SAELens": mean_correlation_coefficient(W_ND, truth_GD),
        "F1 of SAELens": nearest.compute().f1_score,
        # It counts true features that fire in none of the rows as 0; ours leaves them out.
        "F1 by SAELens": matched.compute().f1_score / float(fires_G[pairs.rows_P].double().mean()),
    }


def compare(name: str, world: World, width: int, steps: int, batch: int) -> list[dict[str, Any]]:
    """Both libraries on one world."""
    entries = [
        *train_ours(world, steps, batch, width=width, variant=("relu", "topk"), l1=L1, k=K, lr=OUR_LR),
        *train_peers(world, quietly(lambda: peers_of(world, width, steps, batch)), steps, batch),
    ]
    pairs = zip(scores(entries, world), entries, strict=True)
    rows = with_best({**row, **by_saelens(entry, world)} for row, entry in pairs)
    return [{"world": name, **row} for row in rows]


def main() -> None:
    """Print and record the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=640_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    theirs = cast(World, SaeLensWorld())
    rows = []
    for name, world in (("monosemy", our_world()), ("sae_lens.synthetic", theirs)):
        rows += compare(name, world, options.width, options.rows // options.batch, options.batch)
    print("\n".join(table(rows)))
    print(write_record("synthsaebench", rows, f"python benchmarks/synthsaebench.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

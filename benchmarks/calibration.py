"""Are the spike-and-slab dictionary's probabilities true? Against the true codes of worlds, beside other dictionaries.

    python benchmarks/calibration.py [--steps 2500] [--seeds 3] [--no-record]

On every world the same rows are learned by spike and slab (k is the same everywhere, the world's l0 is not told), by
ReLU-L1 at several L1, and by TopK, which is told l0. Of ReLU the L1 with the best MMCS is shown, chosen by the truth,
in its favour. Spike and slab has two rows, its presence and the bound's own γ; the others say 1 where a code is above 0
and 0 elsewhere, whose log loss only says how often they are wrong. ECE, Brier score and log loss are over all pairs of
a feature and a row; `ECE unclear` is over those with 0.05 < p < 0.95. ± is half of the 95 % interval over seeds (of the
initial weights). `said` and `present` are features a row, the latter counted where a learned feature is matched to a
true one at a cosine above 0.9. The second table has the bins of presence, first seed; the reliability diagram of the
world FIGURE, first seed, goes to docs/figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import table, write_record

from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.spikeslab import SpikeSlabDictionary
from monosemy.metrics.calibration import Reliability, calibration
from monosemy.metrics.fidelity import fidelity
from monosemy.metrics.interval import half_width
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.report.reliability import reliability_diagram
from monosemy.training.sweep import fit_grid

DIAGRAM = Path(__file__).parent.parent / "docs" / "figures" / "reliability.png"
SMALL = {"d_in": 32, "features": 64, "l0": 3.0, "decay": 0.98}
WORLDS: dict[str, tuple[WorldSettings, int]] = {  # and the width over the number of features
    "clean": (WorldSettings(**SMALL), 2),
    "clean, width G": (WorldSettings(**SMALL), 1),
    "noise": (WorldSettings(**SMALL, noise=0.05), 2),
    "Zipf": (WorldSettings(**{**SMALL, "decay": 1.0}, zipf=1.0), 2),
    "half-normal": (WorldSettings(**SMALL, magnitude="folded-normal", noise=0.02), 2),
    "larger": (WorldSettings(d_in=64, features=128, l0=5.0), 2),
}
FIGURE = "noise"
K = 4
L1 = (0.15, 0.3)
BATCH, LR, ROWS = 256, 3e-3, 16_384


class _Gate(SpikeSlabDictionary):
    """The same with γ as its presence."""

    presence = SpikeSlabDictionary.gate


def learned(world: World, width: int, steps: int, seeds: int) -> dict[str, list[Dictionary]]:
    """A dictionary a seed, by what is said of presence."""
    grid = {"width": width, "steps": steps, "batch": BATCH, "lr": LR, "seed": range(seeds)}
    spikes = [dictionary for _, dictionary in fit_grid(world, variant="spikeslab", k=K, **grid)]
    topk = [dictionary for _, dictionary in fit_grid(world, variant="topk", k=round(world.settings.l0), **grid)]
    relu: dict[float | None, list[Dictionary]] = {}
    for member, dictionary in fit_grid(world, variant="relu", l1=L1, **grid):
        relu.setdefault(member.l1, []).append(dictionary)
    best = max(relu, key=lambda l1: statistics.mean(mmcs(world, each) for each in relu[l1]))
    return {
        "spike and slab: presence": spikes,
        "spike and slab: γ": [_Gate(dictionary.tensors) for dictionary in spikes],
        f"ReLU, λ {best:g}: code > 0": relu[best],
        "TopK, k = l0: code > 0": topk,
    }


def mmcs(world: World, dictionary: Dictionary) -> float:
    """MMCS to the truth."""
    return float(mmcs_to_truth(world.features_GD, dictionary.W_dec_ND))


def row(name: str, said: str, world: World, found: Sequence[tuple[Dictionary, Reliability]]) -> dict[str, Any]:
    """A line of the table: means over seeds."""
    x_XD = world.sample(ROWS).x_XD
    scores = [fidelity(dictionary, x_XD) for dictionary, _ in found]
    columns: dict[str, list[float]] = {
        "MMCS": [mmcs(world, dictionary) for dictionary, _ in found],
        "FVU": [each["fvu"] for each in scores],
        "L0": [each["l0"] for each in scores],
        "ECE": [each.ece.value for _, each in found],
        "ECE unclear": [each.ece_unclear.value for _, each in found],
        "unclear": [each.unclear for _, each in found],
        "Brier ×1000": [1000 * each.brier for _, each in found],
        "log loss ×1000": [1000 * each.log_loss for _, each in found],
        "said": [each.expected for _, each in found],
        "present": [each.present for _, each in found],
    }
    line: dict[str, Any] = {"world": name, "what": said}
    for column, values in columns.items():
        mean = statistics.mean(values)
        known = mean == mean  # there may be no unclear pairs
        line[column] = mean if known else None
        if column in ("MMCS", "ECE", "ECE unclear"):
            line[f"± {column}"] = half_width(values) if known else None
    return line


def lines_of(found: Reliability) -> list[dict[str, Any]]:
    """A line for every bin that is not empty."""
    columns = {
        "pairs": found.count_K,
        "predicted": found.predicted_K,
        "observed": found.observed_K,
        "from": found.low_K,
        "to": found.high_K,
    }
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, line, strict=True)) for line in lines if line[0] > 0]


def main() -> None:
    """Print and record the table; draw the diagram."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worlds", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    rows, bins = [], []
    for name in options.worlds:
        settings, times = WORLDS[name]
        world = World(settings)
        series = {}
        for said, dictionaries in learned(world, times * settings.features, options.steps, options.seeds).items():
            found = [(dictionary, calibration(dictionary, world, ROWS)) for dictionary in dictionaries]
            rows.append(row(name, said, world, found))
            series[said] = found[0][1]
        presence = series["spike and slab: presence"]
        bins += [{"world": name, **line} for line in lines_of(presence)]
        if name == FIGURE and not options.no_record:
            DIAGRAM.parent.mkdir(parents=True, exist_ok=True)
            reliability_diagram(series).savefig(DIAGRAM, dpi=160)
    print("\n".join(table(rows)))
    if not options.no_record:
        print(
            write_record(
                "calibration", rows, f"python benchmarks/calibration.py {' '.join(sys.argv[1:])}".strip(), bins
            )
        )


if __name__ == "__main__":
    main()

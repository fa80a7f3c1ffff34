"""The study behind the defaults of learning rate, batch and width; it writes the page `docs/defaults.md`.

    python benchmarks/defaults.py [--rows 200000] [--width 128 512 2048] [--batch 256 1024 2048] [--seeds 0 1]

ReLU-L1, Gated and TopK on stories260K's activations and on a world, every learning rate × batch × width × seed, each
from the same number of rows: a smaller batch takes more steps. FVU, L0 and dead features are of held-out rows, MMCS of
the world's truth. A penalty trades FVU for L0, so rates of ReLU are compared by what it minimises, FVU + λ·(L1 norm of
the codes) in units of the rows' variance; TopK has one L0 and is compared by FVU. Gated's penalty is not on its codes:
its rates are compared by 1 − MMCS, where there is a truth. A grid of one batch size is one pass. What was measured is
kept in `runs/defaults`, so a killed study goes on; `--record FILE` writes the page again from a record, without
training. About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from defaults_page import page, rules
from front_parts import ROOT, here, prepare, source_of
from record import RECORDS, table, write_record

from monosemy.data.rows import RowSource
from monosemy.data.synthetic import World
from monosemy.files import write_whole
from monosemy.metrics.fidelity import Fidelity
from monosemy.metrics.scoring import fidelity_of
from monosemy.metrics.truth import truth_scores_of
from monosemy.training.settings import default_lr
from monosemy.training.sweep import fit_grid

PAGE, KEPT = ROOT / "docs" / "defaults.md", ROOT / "runs" / "defaults"
DATA = {
    "stories": "stories260K, layers.2.resid_post",
    "hierarchy": "a hierarchical world, 128 features in 64 dimensions",
}
LR = (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)
DIALS: dict[str, dict[str, Any]] = {"relu": {"l1": 0.06}, "gated": {"l1": 0.12}, "topk": {"k": 8}}
HELD_OUT, TRUTH_ROWS = 16_384, 8192
NEAR = 0.05  # a rate this near to the best is as good

Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One pass: every learning rate and seed of a variant, at one batch size and width."""

    data: str
    variant: str
    batch: int
    width: int
    rows: int
    seeds: tuple[int, ...]


def measured(cell: Cell) -> list[Row]:
    """The rows of a cell, from where they were kept or by training."""
    folders = [ROOT / "monosemy" / name for name in ("dictionaries", "training", "kernels")]
    sources = [Path(__file__), *sorted(path for folder in folders for path in folder.glob("*.py"))]
    digest = hashlib.sha256(repr((cell, LR, DIALS)).encode() + b"".join(path.read_bytes() for path in sources))
    path = KEPT / f"{cell.data}-{cell.variant}-{cell.batch}-{cell.width}-{digest.hexdigest()[:12]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(_train(cell)).encode())
    found: list[Row] = json.loads(path.read_text())
    return found


def _train(cell: Cell) -> list[Row]:
    rows, steps = source_of(cell.data).rows, cell.rows // cell.batch
    began = time.perf_counter()
    trained = fit_grid(
        rows, variant=cell.variant, width=cell.width, batch=cell.batch, steps=steps, lr=LR, seed=cell.seeds,
        device="cpu", **DIALS[cell.variant],
    )  # fmt: skip
    seconds = (time.perf_counter() - began) / len(trained)
    dictionaries = [dictionary for _, dictionary in trained]
    fidelities, mmcs = _scores(rows, dictionaries)
    found = []
    for (member, _), fidelity, recovered in zip(trained, fidelities, mmcs, strict=True):
        scores = fidelity.scores()
        found.append(
            {
                "data": cell.data, "variant": member.variant, "width": member.width, "batch": cell.batch,
                "steps": steps, "lr": member.lr, "seed": member.seed, "FVU": scores["fvu"], "L0": scores["l0"],
                "dead": scores["dead"] / member.width, "MMCS": recovered, "s": seconds,
                "loss": _loss(scores, member.l1, rows),
            }
        )  # fmt: skip
    return found


def _scores(rows: RowSource, dictionaries: Sequence[Any]) -> tuple[list[Fidelity], list[float | None]]:
    """Fidelity on held-out rows, and MMCS with the truth where that is known."""
    if not isinstance(rows, World):
        return fidelity_of(dictionaries, rows, HELD_OUT, torch.device("cpu")), [None] * len(dictionaries)
    found = [Fidelity(dictionary) for dictionary in dictionaries]
    for start in range(0, HELD_OUT, 4096):
        x_BD = rows.sample(4096, start).x_XD
        for each in found:
            each.add(x_BD)
    truths = truth_scores_of(dictionaries, rows, rows=TRUTH_ROWS)
    return found, [truth.scores["mmcs_truth"] for truth in truths]


def _loss(scores: dict[str, Any], l1: float | None, rows: RowSource) -> float | None:
    """What was minimised, in units of the rows' variance; FVU for variants without a penalty. None: it diverged."""
    fvu = scores["fvu"]
    if fvu is None or not math.isfinite(fvu):
        return None
    if l1 is None:
        return float(fvu)
    about = rows.statistics()
    variance = about.mean_square_norm - float(about.mean_D.square().sum())
    return float(fvu + l1 * about.mean_norm * scores["l1_norm"] / variance)


def summary(rows: Sequence[Row]) -> list[Row]:
    """Means over seeds."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in ("data", "variant", "width", "batch", "lr")), []).append(row)
    means, seeds = [], len({row["seed"] for row in rows})
    for same in groups.values():
        first = same[0]
        averaged = {name: _mean(row[name] for row in same) for name in ("loss", "FVU", "L0", "dead", "MMCS", "s")}
        if len(same) < seeds:  # training left out those that diverged
            averaged["loss"] = None
        means.append({name: first[name] for name in ("data", "variant", "width", "batch", "steps", "lr")} | averaged)
    return means


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else statistics.mean(v for v in known if v is not None)


def judged(means: Sequence[Row]) -> list[Row]:
    """The means with the loss that rates are compared by: for Gated 1 − MMCS, and none where there is no truth."""
    return [{**row, "loss": _missed(row["MMCS"])} if row["variant"] == "gated" else dict(row) for row in means]


def _missed(mmcs: float | None) -> float | None:
    return None if mmcs is None else 1 - mmcs


def best_rates(means: Sequence[Row]) -> list[Row]:
    """For each data, variant, width and batch with a loss: the rate with the lowest, those as good, the default's."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in means:
        if row["loss"] is not None:
            groups.setdefault(tuple(row[name] for name in ("data", "variant", "width", "batch")), []).append(row)
    found = []
    for (data, variant, width, batch), known in groups.items():
        best = min(known, key=lambda row: row["loss"])
        good = [row["lr"] for row in known if row["loss"] <= (1 + NEAR) * best["loss"]]
        own = default_lr(variant, width, batch, best["steps"])
        nearest = min(known, key=lambda row: abs(math.log(row["lr"] / own)))
        found.append(
            {
                "data": data, "variant": variant, "width": width, "batch": batch, "best lr": best["lr"],
                "as good": f"{min(good):g} … {max(good):g}", "default lr": own,
                "FVU": best["FVU"], "L0": best["L0"], "dead": best["dead"], "MMCS": best["MMCS"],
                "loss of the default / best": nearest["loss"] / best["loss"], "loss": best["loss"], "s": best["s"],
            }
        )  # fmt: skip
    return found


def main() -> None:
    """Train, print, record, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--batch", type=int, nargs="+", default=[256, 1024, 2048])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data", nargs="+", choices=tuple(DATA), default=list(DATA))
    parser.add_argument("--record", type=Path, help="write the page from this record, without training")
    parser.add_argument("--no-page", action="store_true", help="only print, to see that it runs")
    options = parser.parse_args()
    found = from_record(options.record) if options.record else summary(_rows(options))
    means = judged(found)
    best = best_rates(means)
    told = rules(best, NEAR, [f"{lr:g}" for lr in LR])
    print("\n".join([*table(best), "", *told]))
    if options.no_page:
        return
    command = f"python benchmarks/defaults.py {' '.join(sys.argv[1:])}".strip()
    record = options.record or write_record("defaults", best, command, found)
    dials = "; ".join(f"{v} with {' '.join(f'{k} {x}' for k, x in dial.items())}" for v, dial in DIALS.items())
    used = dict.fromkeys(row["data"] for row in means)
    about = f"Variants: {dials}. Data: {', and '.join(DATA[name] for name in used)}."
    PAGE.write_text(page(best, means, told, about, printed(record), longer_runs()))
    print(PAGE)


def from_record(file: Path) -> list[Row]:
    """The means that a record of this command holds."""
    block = file.read_text().split("```json\n")[2].split("```")[0]
    return [json.loads(line) for line in block.splitlines()]


def printed(record: Path) -> str:
    """By what command, when and where a record was made, and a link to it."""
    lines = record.read_text().splitlines()
    command, date, where = (
        next(line for line in lines if line.startswith(f"- {name}: ")).partition(": ")[2]
        for name in ("command", "date", "machine")
    )
    return f"{command} on {date[:10]} ({where}; [the record](../benchmarks/records/{record.name}))"


def longer_runs() -> list[str]:
    """What the newest record of `long_runs.py` says: by what it was printed, and its table; nothing without one."""
    records = sorted(RECORDS.glob("*-long-runs.md"))
    if not records:
        return []
    lines = records[-1].read_text().splitlines()
    return [f"Printed by {printed(records[-1])}.", "", *(line for line in lines if line.startswith("|"))]


def _rows(options: argparse.Namespace) -> list[Row]:
    data = [name for name in options.data if here(name)]
    for name in data:
        prepare(name)
    cells = [
        Cell(name, variant, batch, width, options.rows, tuple(options.seeds))
        for name in data
        for variant in DIALS
        for width in options.width
        for batch in options.batch
    ]
    rows = []
    for number, cell in enumerate(cells, 1):
        print(f"{number}/{len(cells)}: {cell.data}, {cell.variant}, width {cell.width}, batch {cell.batch}", flush=True)
        rows += measured(cell)
    return rows


if __name__ == "__main__":
    main()

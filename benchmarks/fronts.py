"""Quality beside speed: our variants and the peers' own trainers on the same rows at the same width, several seeds.

    .bench-env/bin/python benchmarks/fronts.py [--part stories gpt worlds] [--kinds relu topk] [--seeds 0 1 2]

FVU and lost cross-entropy against L0 on activations of a model that nobody here wrote (stories260K) and of our own
GPT (the demo's), and what is recovered of a flat and of a hierarchical world. What is trained, and with which
settings: `front_runs.py`. How fronts are compared: `front_math.py`; a line of the table compares a variant with the
same kind of a peer's, or all of ours with all of a peer's, and says whether ours is better, not worse within the 95 %
interval over seeds, or worse. The last table ranks our variants: the place of each (0 best, 1 worst) by each score of
a part, and the mean over parts.

Each job (part, library, seed) is kept in `runs/fronts/jobs`, so a killed run goes on; a job whose code has changed is
run again. Jobs run side by side, one thread each. About an hour on two cores. A run of all parts leaves a record, one
of all kinds the figure too; a shorter one only prints its tables.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from front_figure import draw
from front_parts import PARTS, ROOT, RUN, TEXT_PARTS, Part, here, prepare
from front_runs import CANDIDATES, LEARNING, OURS, SAELENS, kinds_of, rates_of, run
from front_tables import Row, points, ranking, verdicts
from peers import quietly
from record import table, write_record

from monosemy.files import write_whole
from monosemy.runtime import Progress

PACKAGES = {SAELENS: "sae_lens", LEARNING: "dictionary_learning"}
POLL_S = 1.0


@dataclass(frozen=True)
class Job:
    """Some kinds of one library, one seed, one part; `path` is where its rows are kept."""

    part: Part
    library: str
    kinds: tuple[str, ...]
    seed: int
    path: Path


def job_of(part: Part, library: str, kinds: tuple[str, ...], seed: int) -> Job:
    """A job, its path another one for every setting and every state of the code behind it."""
    folder = Path(__file__).parent
    sources = [folder / "front_parts.py", folder / "front_runs.py"]
    if library == OURS:
        package = [ROOT / "monosemy" / name for name in ("dictionaries", "training", "kernels")]
        sources += sorted(path for each in package for path in each.glob("*.py"))
        version = ""
    else:
        sources.append(folder / "peers.py")
        version = importlib.metadata.version(PACKAGES[library])
    text = json.dumps([asdict(part), library, kinds, seed, version]).encode()
    digest = hashlib.sha256(text + b"".join(path.read_bytes() for path in sources)).hexdigest()
    return Job(part, library, kinds, seed, RUN / "jobs" / f"{part.name}-{library}-{seed}-{digest[:12]}.json")


def run_all(jobs: Sequence[Job]) -> list[Row]:
    """The rows of all jobs; those that are not there yet are run, one a core."""
    waiting = [job for job in jobs if not job.path.exists()]
    # The longest first, so that the last ones to end are short.
    waiting.sort(key=lambda job: (job.part.name not in TEXT_PARTS, job.library == OURS))
    context = multiprocessing.get_context("spawn")
    done = context.Value("d", 0.0)
    cores = min(len(os.sched_getaffinity(0)), max(1, len(waiting)))
    with context.Pool(cores, _start, (done,)) as pool, Progress("fronts", len(waiting), unit="jobs") as bar:
        results = [pool.apply_async(_run, (job,)) for job in waiting]
        while results:
            time.sleep(POLL_S)
            bar.advance(done.value - bar.done)
            for result in [result for result in results if result.ready()]:
                result.get()
                results.remove(result)
    return [row for job in jobs for row in json.loads(job.path.read_text())]


def _start(done: Any) -> None:
    torch.set_num_threads(1)
    globals()["_done"] = done


def _run(job: Job) -> None:
    def tick() -> None:
        with globals()["_done"].get_lock():
            globals()["_done"].value += 1 / job.part.steps

    rows = quietly(lambda: run(job.part, job.library, job.kinds, job.seed, tick))
    job.path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(job.path, json.dumps(rows).encode())


def main() -> None:
    """Print and record the tables, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=(*TEXT_PARTS, "worlds"), default=[*TEXT_PARTS, "worlds"])
    parser.add_argument("--kinds", nargs="+", choices=CANDIDATES, default=CANDIDATES, help="and the peers' like them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of each part, to see that it runs")
    parser.add_argument("--rates", action="store_true", help="only show what other learning rates do for the peers")
    options = parser.parse_args()
    wanted = [name for name in PARTS if (name if name in TEXT_PARTS else "worlds") in options.part]
    parts = [replace(PARTS[name], steps=options.steps or PARTS[name].steps) for name in wanted if here(name)]
    libraries = [
        OURS,
        *(name for name, package in PACKAGES.items() if importlib.util.find_spec(package.replace("-", "_"))),
    ]
    for part in parts:
        prepare(part.name)
    if options.rates:
        print("\n".join(table([row for name in libraries[1:] for row in rates_of(parts[0], name)])))
        return
    kinds = {library: kinds_of(library, options.kinds) for library in libraries}
    rows = run_all(
        [
            job_of(part, library, kinds[library], seed)
            for part, library, seed in product(parts, libraries, options.seeds)
            if kinds[library]
        ]
    )
    every_kind = set(options.kinds) == set(CANDIDATES)
    lines = [line for part in parts for line in verdicts(part.name, _of(part, rows), every_kind)]
    print("\n".join([*table(lines), ""]) if lines else "no peers are installed: make bench-env")
    whole = options.steps is None and len(parts) == len(PARTS)
    command = f"python benchmarks/fronts.py {' '.join(sys.argv[1:])}".strip()
    if not every_kind:
        if whole and lines:
            print(write_record(f"fronts-{'-'.join(options.kinds)}", lines, command, counted(lines), points(rows)))
        return
    ranks = ranking(rows)
    print("\n".join([*table(ranks), "", f"best default by mean place: {ranks[0]['variant']}"]))
    if whole:
        draw(rows, ROOT / "docs" / "figures" / "fronts.png")
        more = [counted(lines), ranks] if lines else []
        print(write_record("fronts", lines or ranks, command, *more, points(rows)))


def counted(lines: Sequence[Row]) -> list[Row]:
    """How many lines have each verdict."""
    return [{"verdict": verdict, "lines": n} for verdict, n in Counter(line["verdict"] for line in lines).items()]


def _of(part: Part, rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["part"] == part.name]


if __name__ == "__main__":
    main()

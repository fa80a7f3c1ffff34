"""One training step, ours beside the peers', from the same weights on the same rows with the same work: the table of
targets, with what was reached.

    .bench-env/bin/python benchmarks/steps.py [--work topk relu grid] [--rounds 5] [--bf16-rounds 2] [--shapes small]
                                              [--no-memory]

Every arm steps once a round, in turn, in one process, so that a machine whose speed drifts does so for all; a ratio is
the median over rounds of theirs / ours. "Full rate": the peers as they are, with torch allowed the faster fp32
products that ours asks for. bf16: ours computes in bf16 on fp32 weights, the peers run under autocast, as SAELens
offers and as the others do on a GPU; the target is of theirs in fp32 over ours in bf16. Memory is the peak of a
process that takes three steps of one arm, above its parameters and Adam's two moments, which everybody must hold; what
compiling or importing costs is gone before it is measured. GPU work is measured where there is a GPU. `--shapes small`
only shows that all of it runs. What the arms are: `step_arms.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from record import table, write_record
from step_arms import (
    SMALL,
    WORKS,
    Arm,
    Work,
    at_full_rate,
    batches_of,
    encode_product,
    installed,
    ours,
    prepare,
    theirs,
)
from step_tables import BF16, FULL, OURS, PRODUCT, Found, details, verdicts

from monosemy.runtime import Progress

WARM_UP = 2  # rounds that are not counted
MEMORY_STEPS = 3
MB = 1e6


def arm_of(work: Work, name: str, first_BD: torch.Tensor, folder: Path) -> Arm:
    """The arm called so: a library's, ", full rate" and ", bf16" after its name."""
    bf16, full = name.endswith(BF16), name.endswith(FULL)
    library = name.removesuffix(BF16).removesuffix(FULL)
    if library == PRODUCT:
        return encode_product(work, bf16)
    if library == OURS:
        return ours(work, first_BD, folder, bf16)
    arm = theirs(work, library, folder, bf16)
    return at_full_rate(arm, work.device) if full else arm


def names_of(work: Work, bf16: bool) -> list[str]:
    """All arms of a work."""
    names = [OURS, *(name for peer in installed(work) for name in (peer, peer + FULL))]
    if bf16:
        names += [OURS + BF16, *(peer + BF16 for peer in installed(work))]
    if work.variant == "topk":
        names += [PRODUCT, *([PRODUCT + BF16] if bf16 else [])]
    return names


def measure(work: Work, folder: Path, bf16_rounds: int, peaks: bool) -> dict[str, Found]:
    """Time every arm of a work, in turn; then the memory of each, in a process of its own, if `peaks`."""
    batches = batches_of(work, WARM_UP + work.rounds)
    arms: dict[str, Arm] = {}
    for name in names_of(work, bf16_rounds > 0):
        plain = arms.get(name.removesuffix(FULL))
        arms[name] = at_full_rate(plain, work.device) if plain else arm_of(work, name, batches[0], folder)
    times: dict[str, list[float]] = {name: [] for name in arms}
    with Progress(work.name, len(batches) * len(arms)) as bar:
        for number, x_BD in enumerate(batches):
            for name, arm in arms.items():
                if not arm.bf16 or number < WARM_UP + bf16_rounds:
                    ms = _milliseconds(arm, x_BD)
                    if number >= WARM_UP:
                        times[name].append(ms)
                bar.advance()
    density = {name: _density(arm, batches[-1]) if work.late_steps else None for name, arm in arms.items()}
    del arms
    gc.collect()
    peak = _peaks(work, list(times), folder) if peaks else {}
    return {name: Found(times[name], density[name], peak.get(name)) for name in times}


def _milliseconds(arm: Arm, x_BD: torch.Tensor) -> float:
    began = time.perf_counter()
    arm.step(x_BD)
    if x_BD.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


def _density(arm: Arm, x_BD: torch.Tensor) -> float | None:
    """Mean share of features that are active."""
    shares = [float((d.encode(x_BD.cpu()) != 0).float().mean()) for d in arm.dictionaries()]
    return statistics.mean(shares) if shares else None


def _peaks(work: Work, names: list[str], folder: Path) -> dict[str, float | None]:
    found: dict[str, float | None] = dict.fromkeys(names)
    wanted = [name for name in names if not name.startswith(PRODUCT) and not name.endswith(FULL)]
    request = folder / "work.json"
    with Progress(f"memory: {work.name}", len(wanted), unit="arms") as bar:
        for name in wanted:
            key = next(key for key, known in WORKS.items() if known.name == work.name.removesuffix(SMALL))
            request.write_text(json.dumps({"work": key, "small": work.name.endswith(SMALL), "arm": name}))
            out = subprocess.run(
                [sys.executable, __file__, "--memory", str(request)], check=True, stdout=subprocess.PIPE, text=True
            ).stdout
            found[name] = json.loads(out.splitlines()[-1])["peak"]
            bar.advance()
    return found


def memory(request: Path) -> float | None:
    """The peak of one arm in this process in MB, above parameters and moments; None where the system does not tell."""
    wanted = json.loads(request.read_text())
    full = WORKS[wanted["work"]]
    work = full.small() if wanted["small"] else full
    tiny = replace(full.small(), late_steps=0)
    first = batches_of(tiny, 1)
    arm_of(tiny, wanted["arm"], first[0], request.parent).step(first[0])  # imports and compiles
    batches = batches_of(work, MEMORY_STEPS)
    gc.collect()
    before = _reset_peak(work.device)
    if before is None:
        return None
    arm = arm_of(work, wanted["arm"], batches[0], request.parent)
    for x_BD in batches:
        arm.step(x_BD)
    held = 3 * 4 * arm.parameters
    return (_peak(work.device) - before - held) / MB


def _reset_peak(device: str) -> float | None:
    """Bytes in use now, from which a new peak is counted."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return float(torch.cuda.memory_allocated())
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")
    return _peak(device)


def _peak(device: str) -> float:
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated())
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * float(status["VmHWM"].split()[0])


def main() -> None:
    """Print and record both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--rounds", type=int, help="rounds that count (default: 5 to 7)")
    parser.add_argument("--bf16-rounds", type=int, default=2, help="of these, rounds in which bf16 is measured, too")
    parser.add_argument("--shapes", choices=("full", "small"), default="full")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--memory", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps({"peak": memory(options.memory)}))
        return
    summary, arms = [], []
    for work in (WORKS[key] for key in options.work):
        work = work.small() if options.shapes == "small" else work
        work = replace(work, rounds=options.rounds or work.rounds)
        found: dict[str, Found] = {}
        if work.device == "cpu" or torch.cuda.is_available():
            with tempfile.TemporaryDirectory() as folder:
                prepare(work, Path(folder))
                found = measure(work, Path(folder), options.bf16_rounds, not options.no_memory)
            arms += details(work, found)
        summary += verdicts(work, found)
        print("\n".join(table(summary[-len(work.asked) :])), flush=True)
    print("\n".join(table(arms)))
    if options.shapes == "full":
        command = f"python benchmarks/steps.py {' '.join(sys.argv[1:])}".strip()
        print(write_record("steps", summary, command, *([arms] if arms else [])))


if __name__ == "__main__":
    main()

"""Is bf16 harmless? The same dictionaries trained with products in fp32 and in bf16, from the same seeds.

    python benchmarks/bf16.py [--part stories world] [--seeds 3]

Weights, moments and losses stay in fp32 either way; only products are made in bf16, and where codes are treated as
sparse bf16 decides which are chosen and their values are computed in fp32. Every figure is the mean over seeds of
bf16 minus fp32 with its 95 % interval: FVU, L0, MMCS to the truth (worlds) or the loss of the model with x̂ spliced
in (text). bf16 counts as shown harmless where no interval reaches further to the worse side than MATTERS of the fp32
value. It would be a default only where it is so everywhere and faster (`benchmarks/steps.py`).
"""

from __future__ import annotations

import argparse
import math
import sys
from statistics import mean, stdev
from typing import Any

from front_parts import PARTS, here, prepare, source_of
from record import table, write_record
from scipy.stats import t as student

from monosemy.training.sweep import fit_grid

VARIANTS = ("relu", "topk", "batchtopk", "jumprelu", "gated")
MATTERS = 0.01
WORSE = {"fvu": 1, "ce_lost": 1, "mmcs": -1, "mcc": -1}  # the sign of a change for the worse


def trained(part: str, seeds: int, dtype: str) -> dict[tuple[str, float, int], dict[str, Any]]:
    """Scores by variant, dial and seed."""
    chosen, source = PARTS[part], source_of(part)
    found = fit_grid(
        source.rows, variant=VARIANTS, width=chosen.width, k=chosen.k[1:2], l1=chosen.l1[1:2],
        seed=tuple(range(seeds)), batch=chosen.batch, steps=chosen.steps, device="cpu", dtype=dtype,
    )  # fmt: skip
    scores = source.score([dictionary for _, dictionary in found])
    keys = [(member.variant, float(member.l1 or member.k or 0), member.seed) for member, _ in found]
    return dict(zip(keys, scores, strict=True))


def compared(part: str, seeds: int) -> list[dict[str, Any]]:
    """One row a variant and score."""
    exact, rough = (trained(part, seeds, dtype) for dtype in ("fp32", "bf16"))
    rows = []
    for variant, dial in dict.fromkeys(key[:2] for key in exact):
        for name in next(iter(exact.values())):
            if name == "dead":
                continue
            pairs = [(exact[variant, dial, seed][name], rough[variant, dial, seed][name]) for seed in range(seeds)]
            rows.append({"part": part, "variant": variant, "dial": dial, "score": name, **_difference(name, pairs)})
    return rows


def _difference(name: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    changes = [rough - exact for exact, rough in pairs]
    half = student.ppf(0.975, len(changes) - 1) * stdev(changes) / math.sqrt(len(changes))
    level, change = mean(exact for exact, _ in pairs), mean(changes)
    harm = WORSE.get(name, 0) * change
    return {
        "fp32": level,
        "bf16 − fp32": change,
        "± 95 %": half,
        "harmless": "–" if name not in WORSE else "yes" if harm + half <= MATTERS * abs(level) else "no",
    }


def main() -> None:
    """Print and record the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=["stories", "world"], choices=list(PARTS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for part in filter(here, options.part):
        prepare(part)
        rows += compared(part, options.seeds)
    print("\n".join(table(rows)))
    print(write_record("bf16", rows, f"python benchmarks/bf16.py {' '.join(sys.argv[1:])}".strip()))


if __name__ == "__main__":
    main()

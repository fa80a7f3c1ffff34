"""Dictionaries of several libraries on the same rows of a world whose features are known, scored by one set of metrics.

Every dictionary has the same width and sees each row of the same stream once, in batches of one size; those of ours
are one grid, the peers are stepped side by side.

Shapes: B rows of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peers import Peer

from monosemy.data.synthetic import World
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.fidelity import Fidelity
from monosemy.metrics.truth import TruthScores, recovery_by_frequency, truth_scores_of
from monosemy.runtime import Progress
from monosemy.training.loop import ROW_ORDER_SEED
from monosemy.training.settings import Member
from monosemy.training.sweep import fit_grid

OURS = "monosemy"
HELD_OUT = 32_768  # rows on which codes are scored
CHUNK = 4096


@dataclass(frozen=True)
class Entry:
    """A trained dictionary, and the seconds its training took (for ours: the grid's, divided by its members)."""

    library: str
    recipe: str
    dictionary: Dictionary
    seconds: float


def train_peers(world: World, peers: Sequence[Peer], steps: int, batch: int) -> list[Entry]:
    """Every peer on the first `steps` batches of the training stream."""
    stream = world.batches(batch, ROW_ORDER_SEED)
    seconds = [0.0] * len(peers)
    with Progress(f"peers ×{len(peers)}", steps) as bar:
        for _ in range(steps):
            x_BD = next(stream)
            for place, peer in enumerate(peers):
                began = time.perf_counter()
                peer.step(x_BD)
                seconds[place] += time.perf_counter() - began
            bar.advance()
    return [Entry(peer.library, peer.recipe, peer.dictionary(), s) for peer, s in zip(peers, seconds, strict=True)]


def train_ours(world: World, steps: int, batch: int, **options: Any) -> list[Entry]:
    """A grid of ours on the same batches; `options` are fields of TrainSettings, everything else is the default."""
    began = time.perf_counter()
    grid = fit_grid(world, steps=steps, batch=batch, device="cpu", **options)
    seconds = (time.perf_counter() - began) / len(grid)
    return [Entry(OURS, _recipe(member), dictionary, seconds) for member, dictionary in grid]


def scores(entries: Sequence[Entry], world: World) -> list[dict[str, Any]]:
    """The rows of the table.

    MMCS is over all true features; MCC and F1 (of firing: is the learned feature active where the true one is?) are
    means over the pairs that are matched one to one; "rarest" and "frequent" are the mean MCS of the quarter of the
    true features that fire least and most often.
    """
    fidelities = [Fidelity(entry.dictionary) for entry in entries]
    for start in range(0, HELD_OUT, CHUNK):
        x_BD = world.sample(CHUNK, start).x_XD
        for fidelity in fidelities:
            fidelity.add(x_BD)
    truths = truth_scores_of([entry.dictionary for entry in entries], world, rows=HELD_OUT)
    return [
        {
            "library": entry.library,
            "recipe": entry.recipe,
            "MCC": truth.scores["mcc_truth"],
            "F1": truth.scores["f1"],
            "MMCS": truth.scores["mmcs_truth"],
            **_quarters(truth),
            **{name: fidelity.scores()[key] for name, key in (("L0", "l0"), ("FVU", "fvu"), ("dead", "dead"))},
            "s": entry.seconds,
        }
        for entry, truth, fidelity in zip(entries, truths, fidelities, strict=True)
    ]


def _quarters(truth: TruthScores) -> dict[str, float]:
    means = recovery_by_frequency(truth.arrays["mcs"], truth.arrays["probability"])
    return dict(zip(("rarest", "2nd", "3rd", "frequent"), means, strict=True))


def with_best(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, and after them the best of each library by MCC."""
    rows = list(rows)
    libraries = dict.fromkeys(row["library"] for row in rows)
    best = [max((row for row in rows if row["library"] == name), key=lambda row: row["MCC"]) for name in libraries]
    return [*rows, *({**row, "library": f"{row['library']}, best"} for row in best)]


def _recipe(member: Member) -> str:
    dial = f"l1 {member.l1:.3g}" if member.l1 is not None else f"k {member.k}"
    return f"{member.variant}, {dial}, lr {member.lr:.3g}"

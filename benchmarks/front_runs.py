"""What `fronts.py` trains on the rows of a part: our variants and the peers' trainers.

A run is one library and one seed: all its kinds at all their sparsities, on the same batches as everybody else's. Ours
run with their defaults. Peers run with what their authors recommend: rows scaled as their training functions scale
them, learning rate and sparsity warmed up, the rate falling to 0 over the last fifth (dictionary_learning's demo
configuration, SAELens' tutorials), their own initial weights and auxiliary losses. Their learning rates are meant for a
hundred times more rows; with so few all of their kinds are better off at ours (`fronts.py --rates` shows it on
`stories`), so here they have that of our TopK, and their kinds with an L1 penalty have twice that, too: what counts is
the better of the two. An L1 is in units of rows of mean norm 1.

Shapes: B rows, D = d_in, N = width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from front_parts import HELD_OUT, Part, fidelity_row, source_of
from peers import Peer, dictionary_learning, saelens

from monosemy.data.rows import RowSource
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.scoring import fidelity_of
from monosemy.runtime import Progress
from monosemy.training.loop import ROW_ORDER_SEED
from monosemy.training.settings import default_lr, takers
from monosemy.training.sweep import fit_grid

CANDIDATES = (
    "relu", "tied", "denoising", "topk", "batchtopk", "jumprelu", "gated", "matryoshka", "panneal", "aligned",
    "spikeslab",
)  # fmt: skip
OURS, SAELENS, LEARNING = "monosemy", "SAELens", "dictionary_learning"
KINDS = {
    SAELENS: ("standard", "gated", "topk", "batchtopk", "matryoshka", "jumprelu"),
    LEARNING: ("standard", "gated", "panneal", "topk", "batchtopk", "matryoshka", "jumprelu"),
}
FASTER = {"standard": (1.0, 2.0), "gated": (1.0, 2.0), "panneal": (1.0, 2.0)}  # times our rate; others: 1
COUNTERPART = {"standard": "relu"}  # of a peer's kind among our variants, where the names differ
TRIED = (1e-3, 3e-3)
DECAY = 0.2  # share of a run
NESTED = (1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2)  # Matryoshka's groups: ours, which are about the paper's
L0_PRICE = 0.6  # SAELens' JumpReLU: coefficient · k / D


Ticker = Callable[[], None]


def kinds_of(library: str, variants: Collection[str]) -> tuple[str, ...]:
    """What a library calls those of our variants that it has."""
    if library == OURS:
        return tuple(name for name in CANDIDATES if name in variants)
    return tuple(kind for kind in KINDS[library] if COUNTERPART.get(kind, kind) in variants)


def run(part: Part, library: str, kinds: Sequence[str], seed: int, tick: Ticker) -> list[dict[str, Any]]:
    """Train and score these kinds of one library's dictionaries from one seed; `tick` is called after each step."""
    source = source_of(part.name)
    if library == OURS:
        trained = _ours(part, kinds, source.rows, seed, tick)
    else:
        stream = source.rows.batches(part.batch, ROW_ORDER_SEED)
        lr = default_lr("topk", part.width, part.batch, part.steps)
        rates = {kind: tuple(factor * lr for factor in FASTER.get(kind, (1.0,))) for kind in kinds}
        peers = peers_of(library, part, source.rows, seed, rates)
        for _ in range(part.steps):
            x_BD = next(stream)
            for _, _, peer in peers:
                peer.step(x_BD)
            tick()
        trained = [(kind, lr, peer.recipe, peer.dictionary()) for kind, lr, peer in peers]
    scores = source.score([dictionary for *_, dictionary in trained])
    about = {"part": part.name, "library": library, "seed": seed}
    return [
        {**about, "kind": kind, "lr": lr, "recipe": recipe, **found}
        for (kind, lr, recipe, _), found in zip(trained, scores, strict=True)
    ]


def _ours(
    part: Part, kinds: Sequence[str], rows: RowSource, seed: int, tick: Ticker
) -> list[tuple[str, float | None, str, Dictionary]]:
    dials = {dial: getattr(part, dial) for dial in ("k", "l1") if set(takers(dial)) & set(kinds)}
    found = fit_grid(
        rows, variant=tuple(kinds), width=part.width, **dials, seed=seed, batch=part.batch, steps=part.steps,
        device="cpu", watch=lambda step, _: tick() if step else None,
    )  # fmt: skip
    named = [f"l1 {m.l1}" if m.l1 is not None else f"k {m.k}" for m, _ in found]
    return [
        (m.variant, m.lr, f"{m.variant}, {dial}, lr {m.lr:.3g}", dictionary)
        for (m, dictionary), dial in zip(found, named, strict=True)
    ]


def peers_of(
    library: str, part: Part, rows: RowSource, seed: int, rates: Mapping[str, tuple[float | None, ...]]
) -> list[tuple[str, float | None, Peer]]:
    """Each kind that has `rates` at every sparsity and each of them (None: its own default), with kind and rate."""
    statistics, d_in = rows.statistics(), rows.d_in
    sizes = {"d_in": d_in, "width": part.width, "steps": part.steps, "seed": seed, "decay": DECAY}
    if library == SAELENS:  # `expected_average_only_in`
        make, more = saelens, {"batch": part.batch, "scale": math.sqrt(d_in) / statistics.mean_norm}
    else:  # `normalize_activations`
        make, more = dictionary_learning, {"scale": 1 / math.sqrt(statistics.mean_square_norm)}
    found: list[tuple[str, float | None, Peer]] = []
    for kind, tried in rates.items():
        by_k = "topk" in kind or kind in ("matryoshka", "jumprelu")
        for dial in part.k if by_k else part.l1:
            options = _options(library, kind, dial, part, d_in)
            for lr in tried:
                rated = {} if lr is None else {"lr": lr}
                found.append((kind, lr, make(kind, **sizes, **more, **rated, **options)))
    return found


def _options(library: str, kind: str, dial: float, part: Part, d_in: int) -> dict[str, Any]:
    width, rise = part.width, part.steps // 20
    if library == LEARNING:
        return {
            "standard": {"l1_penalty": dial},
            "gated": {"l1_penalty": dial},
            "panneal": {"initial_sparsity_penalty": dial},
            "jumprelu": {"target_l0": float(dial)},
            "matryoshka": {"k": dial, "group_fractions": list(NESTED)},
        }.get(kind, {"k": dial})
    l1 = {"l1_coefficient": dial * math.sqrt(d_in), "l1_warm_up_steps": rise}
    ends = [round(sum(NESTED[: level + 1]) * width) for level in range(len(NESTED))]
    return {
        "standard": l1,
        "gated": l1,
        "topk": {"k": dial},
        "batchtopk": {"k": float(dial)},
        "matryoshka": {"k": float(dial), "matryoshka_widths": ends},
        "jumprelu": {"l0_coefficient": L0_PRICE * d_in / dial, "l0_warm_up_steps": rise},
    }[kind]


def rates_of(part: Part, library: str) -> list[dict[str, Any]]:
    """What each kind leaves at its middle sparsity, with its own learning rate and others; one seed."""
    source = source_of(part.name)
    middle = replace(part, k=part.k[1:2], l1=part.l1[1:2])
    rows = []
    for lr in (None, *TRIED):
        peers = peers_of(library, middle, source.rows, 0, dict.fromkeys(KINDS[library], (lr,)))
        stream = source.rows.batches(part.batch, ROW_ORDER_SEED)
        with Progress(f"{library}, lr {lr}", part.steps) as bar:
            for _ in range(part.steps):
                x_BD = next(stream)
                for _, _, peer in peers:
                    peer.step(x_BD)
                bar.advance()
        found = fidelity_of([peer.dictionary() for _, _, peer in peers], source.rows, HELD_OUT, torch.device("cpu"))
        rows += [
            {"library": library, "recipe": peer.recipe, **fidelity_row(each)}
            for (_, _, peer), each in zip(peers, found, strict=True)
        ]
    return sorted(rows, key=lambda row: row["recipe"])

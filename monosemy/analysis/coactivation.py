"""How features of two dictionaries fire on the same rows: correlations and joint counts of chosen pairs, in one pass.

Only the pairs that are asked for are counted, so memory is a block of codes of each dictionary (turned, so that a
feature's codes lie side by side) and a few numbers a pair, however wide the dictionaries are.

Shapes: X rows of a block, N = width, P pairs, D = d_in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from monosemy.analysis.lab import Batch, Lab
from monosemy.data.activations import ActivationStore
from monosemy.data.rows import checked
from monosemy.runtime import Progress, in_batches

Rows = Lab | ActivationStore | Tensor
"""Where rows come from: a lab's corpus through its model, a store's held-out rows, or a tensor [rows, D]."""

BLOCK = 1024
PAIRS_AT_ONCE = 4096
TOKENS_AT_ONCE = 2**13


def blocks_of(rows: Rows, limit: int, label: str) -> Iterator[Tensor]:
    """Up to `limit` rows, evenly spread where there are more, as `x_XD` fp32 of at most BLOCK rows."""
    with Progress(label, _count(rows, limit), unit="rows") as bar:
        for x_XD in _pieces(rows, limit):
            for block_XD in torch.split(x_XD, BLOCK):
                yield block_XD
                bar.advance(len(block_XD))


class PairSums:
    """Running sums of pairs of variables, from which their correlations follow: float64, a few numbers a pair."""

    def __init__(self, pairs: int, device: torch.device | str = "cpu") -> None:
        self._sums_6P = torch.zeros(6, pairs, dtype=torch.float64, device=device)

    def add(self, a_PX: Tensor, b_PX: Tensor, pairs: slice = slice(None)) -> None:
        """Add a block of some of the pairs, one row a pair."""
        self._sums_6P[0, pairs] += a_PX.shape[1]
        for place, term_PX in enumerate((a_PX, b_PX, a_PX * a_PX, b_PX * b_PX, a_PX * b_PX), 1):
            self._sums_6P[place, pairs] += term_PX.sum(dim=1, dtype=torch.float64)

    def correlation(self) -> Tensor:
        """Pearson's r, `r_P` in [−1, 1] on the CPU; NaN where either never varies."""
        count_P, *sums = self._sums_6P.cpu()
        a_P, b_P, aa_P, bb_P, ab_P = (sum_P / count_P for sum_P in sums)
        var_a_P, var_b_P = aa_P - a_P.square(), bb_P - b_P.square()
        varies_P = (var_a_P > 1e-12 * aa_P) & (var_b_P > 1e-12 * bb_P)
        r_P = (ab_P - a_P * b_P) / (var_a_P * var_b_P).clamp_min(1e-300).sqrt()
        return torch.where(varies_P, r_P, torch.nan).clamp(-1, 1)


class AbsorptionCounts:
    """Of a feature f, its twin g elsewhere and K others h of f's dictionary: on how many rows which of them fire.

    All are counted where g fires: `twin_P` (g), `missed_P` (g, not f), `both_PK` (g, h), `taken_PK` (g, h, not f); and
    `other_PK` (h anywhere).
    """

    def __init__(self, f_P: Tensor, g_P: Tensor, h_PK: Tensor) -> None:
        self.f_P, self.g_P, self.h_PK = f_P, g_P, h_PK
        self.twin_P, self.missed_P = torch.zeros_like(f_P), torch.zeros_like(f_P)
        self.both_PK, self.taken_PK, self.other_PK = (torch.zeros_like(h_PK) for _ in range(3))

    def add(self, own_NX: Tensor, twins_LX: Tensor) -> None:
        """Add a block of firings (True) of f's dictionary and of g's."""
        for pairs in slices(len(self.f_P)):
            g_PX = twins_LX[self.g_P[pairs]]
            missed_PX = g_PX & ~own_NX[self.f_P[pairs]]
            self.twin_P[pairs] += g_PX.sum(dim=1)
            self.missed_P[pairs] += missed_PX.sum(dim=1)
            for k in range(self.h_PK.shape[1]):
                h_PX = own_NX[self.h_PK[pairs, k]]
                self.both_PK[pairs, k] += (h_PX & g_PX).sum(dim=1)
                self.taken_PK[pairs, k] += (h_PX & missed_PX).sum(dim=1)
                self.other_PK[pairs, k] += h_PX.sum(dim=1)


def slices(pairs: int) -> Iterator[slice]:
    """Pairs in pieces, so that what is gathered for them stays small."""
    return (slice(first, first + PAIRS_AT_ONCE) for first in range(0, pairs, PAIRS_AT_ONCE))


def pearson(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's r of two lists; None for fewer than three numbers, or where one list is constant."""
    if len(a) < 3:
        return None
    sums = PairSums(1)
    sums.add(torch.tensor([a], dtype=torch.float64), torch.tensor([b], dtype=torch.float64))
    r = float(sums.correlation())
    return None if math.isnan(r) else r


def _count(rows: Rows, limit: int) -> int:
    if isinstance(rows, Lab):
        return min(limit, rows.tokens.n_tokens)
    return min(limit, rows.n_held_out if isinstance(rows, ActivationStore) else len(rows))


def _pieces(rows: Rows, limit: int) -> Iterator[Tensor]:
    if isinstance(rows, Lab):
        yield from _from_model(rows, limit)
    elif isinstance(rows, ActivationStore):
        yield from rows.held_out(BLOCK, limit)
    else:
        yield checked(rows[torch.arange(_count(rows, limit)) * len(rows) // _count(rows, limit)].float())


def _from_model(lab: Lab, limit: int) -> Iterator[Tensor]:
    """The rows where codes count, of token rows that are evenly spread."""
    store = lab.tokens
    chosen = store.spread(range(store.n_rows), max(1, limit * store.n_rows // store.n_tokens))
    left = limit
    for numbers in in_batches(chosen, max(1, TOKENS_AT_ONCE // store.context)):
        batch = store.batch(torch.tensor(numbers))
        wanted = Batch(batch.ids_BC, batch.mask_BC)
        x_XD = lab.x(wanted)[lab.counts(wanted).to(lab.model.device)][:left]
        left -= len(x_XD)
        yield x_XD

"""Uniform examples: k bins of equal width between a feature's smallest and largest firing, one random firing of each.

In one pass the bins' edges are known only at its end. But few firings can still be shown in the end. Every firing has a
random key (`Keys`), and a bin shows that of its firings which has the largest. Let L be the strength of the nearest
weaker firing with a larger key and R that of the nearest stronger one: a firing can be its bin's only if the bin lies
between L and R. Bins are w = (largest − smallest) / k wide, and w only grows while firings come, so a firing with
R − L ≤ w can go for good. (Nothing fires below 0: where there is no L it is 0. Where there is no R it is ∞.) What is
shown is therefore drawn from all firings of its bin with equal chances, and the same however the corpus is cut.

What stays is little. Where firings are dense, those with a larger key than a given firing have some density μ, so it
stays with probability exp(−μw)(1 + μw), and ∫ of this over μ, 2 / w, is how many stay in a stretch of length 1: 2k in
all, whatever the distribution, and at the upper end as many more as the logarithm of the firings. The table of slots
grows where a feature has more. A second table, of cells, shuts most firings out before anything is sorted.

A bin holds its lower edge, the last one both. A bin without firings shows none.

Shapes: X tokens of a block, N features, F of them, P firings, Q places, S slots, C cells, K bins, W = window.
"""

from __future__ import annotations

import torch

from monosemy.analysis.examples import OFFERS_PER_SLOT, Keys, Offer, rank_in_group
from monosemy.analysis.firings import Block, Window, places_of

CELLS = 4  # to a bin: the finer, the fewer firings have to be looked at in vain
NO_KEY = -1  # below every key
EVERY_KEY = 2**62  # above every key
SLACK = 1e-6  # of a bin's width: far more than a strength's bin can be off by rounding


class UniformExamples:
    """For each feature the firings that may be drawn in the end, in no order; `key_NS` is −1 where a slot is free."""

    def __init__(self, n_features: int, window: Window, device: torch.device, bins: int, seed: int) -> None:
        self.window, self.bins = window, bins
        self._keys = Keys(n_features, device, "uniform", seed)
        self._n_cells = CELLS * bins
        self._low_N = torch.full((n_features,), torch.inf, device=device)
        self._high_N = torch.zeros(n_features, device=device)
        # one cell more on either side, for strengths out of the range so far
        self._floor_NC = torch.full((n_features, self._n_cells + 2), NO_KEY, dtype=torch.int64, device=device)
        self.key_NS = torch.full((n_features, 3 * bins), NO_KEY, dtype=torch.int64, device=device)
        self.offset_NS = torch.full_like(self.key_NS, -1)
        self.strength_NS = torch.zeros(n_features, 3 * bins, device=device)
        self.values_NSW = torch.zeros(n_features, 3 * bins, window.size, device=device)

    def add(self, block: Block) -> None:
        """Look through a block."""
        key_P = self._keys.of(block.offset_X, block.token_P, block.feature_P)
        offer, strength_P = Offer(block.feature_P, block.token_P, key_P), block.value_P
        at_once = OFFERS_PER_SLOT * self.key_NS.numel()
        while True:
            chosen = places_of(self._may_stay(offer, strength_P))
            offer, strength_P = offer[chosen], strength_P[chosen]
            if not len(chosen):
                return
            self._merge(block, offer[:at_once], strength_P[:at_once])
            offer, strength_P = offer[at_once:], strength_P[at_once:]

    def drawn(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The firing of each bin, the weakest bin first: `offset_NK` (−1: there is none) and `values_NKW`."""
        low_N1, width_N1 = self._low_N[:, None].double(), self._width(slice(None))[:, None]
        bin_NS = ((self.strength_NS.double() - low_N1) / width_N1.clamp_min(torch.finfo(torch.float64).tiny)).long()
        feature_Q, slot_Q = (self.key_NS >= 0).nonzero().unbind(1)
        bin_Q = bin_NS[feature_Q, slot_Q].clamp_(max=self.bins - 1)
        order_Q = self.offset_NS[feature_Q, slot_Q].argsort()  # equal keys: the earlier place
        order_Q = order_Q[self.key_NS[feature_Q, slot_Q][order_Q].argsort(descending=True, stable=True)]
        order_Q = order_Q[(feature_Q * self.bins + bin_Q)[order_Q].argsort(stable=True)]
        order_Q = order_Q[rank_in_group((feature_Q * self.bins + bin_Q)[order_Q]) == 0]
        feature_Q, slot_Q, bin_Q = feature_Q[order_Q], slot_Q[order_Q], bin_Q[order_Q]
        offset_NK = self.offset_NS.new_full((len(self.key_NS), self.bins), -1)
        values_NKW = self.values_NSW.new_zeros(*offset_NK.shape, self.window.size)
        offset_NK[feature_Q, bin_Q] = self.offset_NS[feature_Q, slot_Q]
        values_NKW[feature_Q, bin_Q] = self.values_NSW[feature_Q, slot_Q]
        return offset_NK, values_NKW

    def _width(self, features: slice | torch.Tensor) -> torch.Tensor:
        """w of some features, fp64; 0 where one strength is all there is, below 0 where there is none."""
        return (self._high_N[features].double() - self._low_N[features].double()) / self.bins

    def _cells(self, feature_Q: torch.Tensor, strength_Q: torch.Tensor) -> torch.Tensor:
        """Each strength's cell: 1 to C within the range so far, 0 below and C + 1 above it."""
        low_N, n_cells = self._low_N, self._n_cells
        per_cell_N = (n_cells / (self._high_N - low_N)).nan_to_num_(0.0, 0.0, 0.0)  # a range of no length is one cell
        cell_Q = (strength_Q - low_N[feature_Q]) * per_cell_N[feature_Q]
        cell_Q = cell_Q.clamp_(0, n_cells - 1).long() + 1
        above_Q, below_Q = strength_Q > self._high_N[feature_Q], strength_Q < low_N[feature_Q]
        return cell_Q.masked_fill_(above_Q, n_cells + 1).masked_fill_(below_Q, 0)

    def _may_stay(self, offer: Offer, strength_Q: torch.Tensor) -> torch.Tensor:
        slot_Q = offer.feature_Q * (self._n_cells + 2) + self._cells(offer.feature_Q, strength_Q)
        return offer.key_Q >= self._floor_NC.view(-1)[slot_Q]

    def _merge(self, block: Block, offer: Offer, strength_Q: torch.Tensor) -> None:
        """Decide anew about every feature that something was offered for."""
        self._low_N.scatter_reduce_(0, offer.feature_Q, strength_Q, "amin")
        self._high_N.scatter_reduce_(0, offer.feature_Q, strength_Q, "amax")
        touched_N = torch.zeros_like(self._low_N, dtype=torch.bool)
        touched_N[offer.feature_Q] = True
        touched_F = touched_N.nonzero().squeeze(1)
        row_O, slot_O = (self.key_NS[touched_F] >= 0).nonzero().unbind(1)
        feature_O = touched_F[row_O]
        feature = torch.cat([feature_O, offer.feature_Q])
        strength = torch.cat([self.strength_NS[feature_O, slot_O], strength_Q])
        key = torch.cat([self.key_NS[feature_O, slot_O], offer.key_Q])

        order = ((feature << 32) | strength.view(torch.int32)).argsort()  # positive floats are ordered as their bits
        stays = torch.empty_like(feature, dtype=torch.bool)
        stays[order] = stay(feature[order], strength[order], key[order], self._width(feature[order]))
        gone_O = ~stays[: len(slot_O)]
        self.key_NS[feature_O[gone_O], slot_O[gone_O]] = NO_KEY
        self.offset_NS[feature_O[gone_O], slot_O[gone_O]] = -1
        new = stays[len(slot_O) :].nonzero().squeeze(1)
        self._put(block, offer[new], strength_Q[new])
        order = order[stays[order]]
        self._raise_floors(feature[order], strength[order], key[order])

    def _put(self, block: Block, offer: Offer, strength_Q: torch.Tensor) -> None:
        """Write firings into free slots of their features, of which there are made as many as it takes."""
        order_Q = offer.feature_Q.argsort(stable=True)
        offer, strength_Q = offer[order_Q], strength_Q[order_Q]
        feature_F, count_F = torch.unique_consecutive(offer.feature_Q, return_counts=True)
        free_F = (self.key_NS[feature_F] < 0).sum(dim=1)
        self._grow(int((count_F - free_F).clamp_min(0).max()) if len(feature_F) else 0)
        free_FS = self.key_NS[feature_F] < 0
        taken_FS = free_FS & (free_FS.cumsum(dim=1) <= count_F[:, None])
        place = (offer.feature_Q, taken_FS.nonzero()[:, 1])
        self.key_NS[place], self.offset_NS[place] = offer.key_Q, block.offset_X[offer.token_Q]
        self.strength_NS[place] = strength_Q
        self.values_NSW[place] = block.values_around(offer.token_Q, offer.feature_Q, self.window)

    def _grow(self, slots: int) -> None:
        if slots:
            pad = torch.nn.functional.pad
            self.key_NS = pad(self.key_NS, (0, slots), value=NO_KEY)
            self.offset_NS = pad(self.offset_NS, (0, slots), value=-1)
            self.strength_NS = pad(self.strength_NS, (0, slots))
            self.values_NSW = pad(self.values_NSW, (0, 0, 0, slots))

    def _raise_floors(self, feature_Q: torch.Tensor, strength_Q: torch.Tensor, key_Q: torch.Tensor) -> None:
        """Note what shuts firings out: all firings of some features that stayed, in the order of feature, strength.

        Between two of them that are no more than w apart a firing needs a key as large as the smaller of theirs. In a
        cell it needs the least that is asked for anywhere in it.
        """
        first_Q = torch.ones_like(feature_Q, dtype=torch.bool)
        first_Q[1:] = feature_Q[1:] != feature_Q[:-1]
        row_Q = first_Q.cumsum(0) - 1
        last_Q = first_Q.roll(-1)
        weaker_Q = strength_Q.double().roll(1).masked_fill_(first_Q, 0)
        near_Q = strength_Q - weaker_Q <= self._width(feature_Q) * (1 - SLACK)
        before_Q = torch.where(near_Q, torch.where(first_Q, key_Q, torch.minimum(key_Q, key_Q.roll(1))), NO_KEY)
        after_Q = before_Q.roll(-1).masked_fill_(last_Q, EVERY_KEY)

        cell_Q, n_cells = self._cells(feature_Q, strength_Q), self._n_cells + 2
        flat_Q = row_Q * n_cells + cell_Q
        passed_FC = row_Q.new_full(
            (int(row_Q[-1]) + 1, n_cells), -1
        )  # the last firing in the cells before, which may be none
        passed_FC.view(-1).scatter_reduce_(0, flat_Q + 1, torch.arange(len(row_Q), device=row_Q.device), "amax")
        passed_FC = passed_FC.cummax(dim=1).values
        floor_FC = torch.where(passed_FC < 0, before_Q[first_Q][:, None], after_Q[passed_FC])
        floor_FC.view(-1).scatter_reduce_(0, flat_Q, torch.minimum(before_Q, after_Q), "amin")
        floor_FC[:, 0] = floor_FC[:, -1] = NO_KEY  # what is out of the range is let through: it moves the bins
        self._floor_NC[feature_Q[first_Q]] = floor_FC


def stay(feature_Q: torch.Tensor, strength_Q: torch.Tensor, key_Q: torch.Tensor, width_Q: torch.Tensor) -> torch.Tensor:
    """Which firings, in the order of feature and strength, may be their bin's: R − L exceeds its width."""
    n_places = len(feature_Q)
    place_Q = torch.arange(n_places, device=feature_Q.device)
    end = torch.full_like(place_Q[:1], n_places)
    key_S = torch.cat([key_Q, torch.full_like(end, EVERY_KEY)])  # the place after the last stands for either end
    same_Q = feature_Q[1:] == feature_Q[:-1]
    weaker_Q = torch.cat([end, torch.where(same_Q, place_Q[:-1], n_places)])
    stronger_Q = torch.cat([torch.where(same_Q, place_Q[1:], n_places), end])
    edge = strength_Q.new_zeros(1).double()
    left_Q = torch.cat([strength_Q.double(), edge])[_larger(weaker_Q, key_S)]
    right_Q = torch.cat([strength_Q.double(), edge + torch.inf])[_larger(stronger_Q, key_S)]
    apart_Q = (left_Q < strength_Q) & (strength_Q < right_Q)  # of equal strengths the largest key alone
    return apart_Q & (right_Q - left_Q > width_Q * (1 - SLACK))


def _larger(next_Q: torch.Tensor, key_S: torch.Tensor) -> torch.Tensor:
    """The nearest place with a larger key in the direction of `next_Q`, by pointer jumping: a neighbour whose key is
    not larger hands on its own; everything between has smaller keys, so nothing is passed over."""
    next_S = torch.cat([next_Q, torch.full_like(next_Q[:1], len(next_Q))])
    jump = places_of(key_S[next_S[:-1]] <= key_S[:-1])
    while len(jump):
        next_S[jump] = next_S[next_S[jump]]
        jump = jump[key_S[next_S[jump]] <= key_S[jump]]
    return next_S[:-1]

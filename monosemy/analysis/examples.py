"""Examples of every feature, found in one pass: where it fires most, where it fires at all, where it is silent.

- top: the strongest firings, one a document;
- quantile: a uniform sample of all firings, ordered by strength and cut into groups of equal size;
- random: windows drawn uniformly over the corpus in which the feature does not fire at all. `CANDIDATES` windows of
  the corpus are tried (all, in a corpus of fewer tokens), so a feature that is silent in less than a hundredth of
  them can have fewer examples than asked for; one shown is always silent.

All three are the same thing: the E places of each feature with the largest keys, kept while blocks go by. The key is
the code for "top" and random for the others. Random keys are a hash of place, feature and seed (the finaliser of
splitmix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014), so the sample is the same
however the corpus is cut into blocks. Equal keys: the earlier place wins.

Shapes: X tokens of a block, N features, F of them, P firings, A candidate windows, Q places, E examples, W = window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from monosemy.analysis.firings import Block, Window, places_of
from monosemy.runtime import seed_for

KEY_BITS = 40
CANDIDATES = 1024  # windows tried for silence, over the whole corpus
OFFERS_PER_SLOT = 4  # places that are merged at once, for each place that is kept
ODD, MIX_1, MIX_2 = (constant - 2**64 for constant in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True)
class Offer:
    """Places that may become examples, in the order of the tokens, and how good each is (0 ≤ key < 2^KEY_BITS)."""

    feature_Q: torch.Tensor
    token_Q: torch.Tensor
    key_Q: torch.Tensor

    def __getitem__(self, chosen: slice | torch.Tensor) -> Offer:
        return Offer(self.feature_Q[chosen], self.token_Q[chosen], self.key_Q[chosen])


class Best:
    """The E places of each feature with the largest keys, best first, and the codes in a window around each.

    `key_NE` and `offset_NE` are −1 where a feature has fewer. `doc_starts`: keep one place a document.
    """

    def __init__(
        self, n_features: int, window: Window, device: torch.device, size: int, doc_starts: torch.Tensor | None = None
    ) -> None:
        self.window = window
        self._doc_starts = doc_starts
        self.key_NE = torch.full((n_features, size), -1, dtype=torch.int64, device=device)
        self.offset_NE = torch.full_like(self.key_NE, -1)
        self.values_NEW = torch.zeros(n_features, size, window.size, device=device)

    def offer(self, block: Block, offer: Offer) -> None:
        """Keep what is better than what is kept. Many places come in pieces: the first ones shut out most others."""
        at_once = OFFERS_PER_SLOT * self.key_NE.numel()
        while len((offer := self.better(offer)).key_Q):
            self._merge(block, offer[:at_once])
            offer = offer[at_once:]

    def better(self, offer: Offer) -> Offer:
        """The places whose key exceeds that of the last one kept for their feature (−1 while there is room)."""
        return offer[places_of(offer.key_Q > self.key_NE[:, -1].contiguous()[offer.feature_Q])]

    def _merge(self, block: Block, offer: Offer) -> None:
        touched_N = torch.zeros(len(self.key_NE), dtype=torch.bool, device=self.key_NE.device)
        touched_N[offer.feature_Q] = True
        touched_F = touched_N.nonzero().squeeze(1)
        row_O, old_slot_O = (self.key_NE[touched_F] >= 0).nonzero().unbind(1)
        old_feature_O = touched_F[row_O]
        feature_Q = torch.cat([old_feature_O, offer.feature_Q])
        key_Q = torch.cat([self.key_NE[old_feature_O, old_slot_O], offer.key_Q])
        offset_Q = torch.cat([self.offset_NE[old_feature_O, old_slot_O], block.offset_X[offer.token_Q]])

        order_Q = by_feature_then_key(feature_Q, key_Q)
        if self._doc_starts is not None:
            document_Q = torch.searchsorted(self._doc_starts, offset_Q, right=True)
            order_Q = order_Q[_first_of_each_pair(feature_Q[order_Q], document_Q[order_Q])]
        rank_Q = rank_in_group(feature_Q[order_Q])
        slot_Q = torch.cat([old_slot_O, torch.full_like(offer.key_Q, -1)])
        moved = (rank_Q < self.key_NE.shape[1]) & (rank_Q != slot_Q[order_Q])
        order_Q, rank_Q = order_Q[moved], rank_Q[moved]

        values_QW = self._values(block, offer, old_feature_O, old_slot_O, order_Q)
        place = (feature_Q[order_Q], rank_Q)
        self.key_NE[place], self.offset_NE[place] = key_Q[order_Q], offset_Q[order_Q]
        self.values_NEW[place] = values_QW

    def _values(
        self, block: Block, offer: Offer, old_feature_O: torch.Tensor, old_slot_O: torch.Tensor, order_Q: torch.Tensor
    ) -> torch.Tensor:
        """The windows of the chosen places: those kept before from here, the new ones from the block."""
        n_old = len(old_feature_O)
        is_old_Q = order_Q < n_old
        old, new = order_Q[is_old_Q], order_Q[~is_old_Q] - n_old
        values_QW = self.values_NEW.new_empty(len(order_Q), self.window.size)
        values_QW[is_old_Q] = self.values_NEW[old_feature_O[old], old_slot_O[old]]
        values_QW[~is_old_Q] = block.values_around(offer.token_Q[new], offer.feature_Q[new], self.window)
        return values_QW


class TopExamples:
    """Each feature's strongest firings, one a document."""

    def __init__(
        self, n_features: int, window: Window, device: torch.device, size: int, doc_starts: torch.Tensor
    ) -> None:
        self._doc_starts = doc_starts.to(device)
        self.best = Best(n_features, window, device, size, self._doc_starts)

    def add(self, block: Block) -> None:
        """Look through a block."""
        key_P = block.value_P.view(torch.int32)  # positive floats are ordered as their bits are
        offer = self.best.better(Offer(block.feature_P, block.token_P, key_P))
        document_X = torch.searchsorted(self._doc_starts, block.offset_X, right=True)
        self.best.offer(block, _best_of_each_document(offer, document_X - document_X[0], len(self.best.key_NE)))


class SampledExamples:
    """A uniform sample of each feature's firings."""

    def __init__(self, n_features: int, window: Window, device: torch.device, size: int, seed: int) -> None:
        self.best = Best(n_features, window, device, size)
        self._keys = Keys(n_features, device, "quantile", seed)

    def add(self, block: Block) -> None:
        """Look through a block."""
        key_P = self._keys.of(block.offset_X, block.token_P, block.feature_P)
        self.best.offer(block, Offer(block.feature_P, block.token_P, key_P))


class SilentExamples:
    """A uniform sample of the candidate windows in which each feature is silent."""

    def __init__(
        self, n_features: int, window: Window, device: torch.device, size: int, seed: int, n_tokens: int
    ) -> None:
        self.best = Best(n_features, window, device, size)
        self._keys = Keys(n_features, device, "random", seed)
        self._candidates = Keys(1, device, "candidates", seed)
        self._limit = int(2**KEY_BITS * min(1.0, CANDIDATES / n_tokens))

    def add(self, block: Block) -> None:
        """Try those of a block's windows that are candidates."""
        everywhere_X = torch.arange(len(block.offset_X), device=block.offset_X.device)
        drawn_X = self._candidates.of(block.offset_X, everywhere_X, torch.zeros_like(everywhere_X)) < self._limit
        token_A = drawn_X.nonzero().squeeze(1)
        if len(token_A):
            self._try(block, token_A)

    def _try(self, block: Block, token_A: torch.Tensor) -> None:
        token_AW, _ = block.around(token_A, self.best.window)
        bounds_2A = torch.stack([token_AW.amin(dim=1), token_AW.amax(dim=1) + 1])
        silent_AN = torch.ones(len(token_A), len(self.best.key_NE), dtype=torch.bool, device=token_A.device)
        for silent_N, first, end in zip(silent_AN, *torch.searchsorted(block.token_P, bounds_2A).tolist(), strict=True):
            silent_N[block.feature_P[first:end]] = False
        index_Q, feature_Q = silent_AN.nonzero().unbind(1)
        token_Q = token_A[index_Q]
        self.best.offer(block, Offer(feature_Q, token_Q, self._keys.of(block.offset_X, token_Q, feature_Q)))


class Keys:
    """Random numbers below 2^KEY_BITS, one for each place and feature; `purpose` and `seed` choose which."""

    def __init__(self, n_features: int, device: torch.device, purpose: str, seed: int) -> None:
        self._salt = seed_for(purpose, "place", seed)
        index_N = torch.arange(n_features, device=device)
        self._feature_N = _mixed(index_N * ODD + seed_for(purpose, "feature", seed))

    def of(self, offset_X: torch.Tensor, token_Q: torch.Tensor, feature_Q: torch.Tensor) -> torch.Tensor:
        """The keys of (token, feature) pairs, `key_Q`; a token is known by its place in the stream."""
        place_X = _mixed(offset_X * ODD + self._salt)
        return _mixed(place_X[token_Q].bitwise_xor_(self._feature_N[feature_Q])).bitwise_and_(2**KEY_BITS - 1)


def into_groups(best: Best, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample's examples ordered by strength and cut into `groups` of equal size (within one).

    Gives `offset_NE` and `values_NEW` where group g, weakest first, has the g-th E/groups slots, the weakest of
    the group first; slots without an example hold −1 and 0.
    """
    offset_NE, values_NEW = best.offset_NE, best.values_NEW
    n_slots = offset_NE.shape[1]
    peak_NE = torch.where(offset_NE >= 0, values_NEW[:, :, best.window.before], torch.inf)
    order_NE = peak_NE.sort(dim=1, stable=True).indices
    count_N1 = (offset_NE >= 0).sum(dim=1, keepdim=True)
    rank_E = torch.arange(n_slots, device=offset_NE.device)
    group_NE = rank_E * groups // count_N1.clamp_min(1)
    first_NE = (group_NE * count_N1 + groups - 1) // groups  # the least rank of the group
    slot_NE = torch.where(rank_E < count_N1, group_NE * (n_slots // groups) + rank_E - first_NE, n_slots)
    feature_N1 = torch.arange(len(offset_NE), device=offset_NE.device)[:, None]
    grouped_offset = offset_NE.new_full((len(offset_NE), n_slots + 1), -1)  # the last slot takes what is not there
    grouped_values = values_NEW.new_zeros(len(offset_NE), n_slots + 1, values_NEW.shape[2])
    grouped_offset[feature_N1, slot_NE] = offset_NE.gather(1, order_NE)
    grouped_values[feature_N1, slot_NE] = values_NEW[feature_N1, order_NE]
    return grouped_offset[:, :n_slots], grouped_values[:, :n_slots]


def _mixed(value: torch.Tensor) -> torch.Tensor:
    """splitmix64's finaliser; `value` is overwritten. int64 products wrap around, as meant."""
    value.bitwise_xor_((value >> 30).bitwise_and_(2**34 - 1)).mul_(MIX_1)
    value.bitwise_xor_((value >> 27).bitwise_and_(2**37 - 1)).mul_(MIX_2)
    return value.bitwise_xor_((value >> 31).bitwise_and_(2**33 - 1))


def by_feature_then_key(feature_Q: torch.Tensor, key_Q: torch.Tensor) -> torch.Tensor:
    """The order by feature, then key, largest first; equal keys stay in their order."""
    rank_Q = (feature_Q << KEY_BITS) | (2**KEY_BITS - 1 - key_Q)
    return torch.sort(rank_Q, stable=True).indices


def _best_of_each_document(offer: Offer, document_X: torch.Tensor, n_features: int) -> Offer:
    """Of the places in one document (numbered from 0) that a feature has, those with its largest key there."""
    slot_Q = document_X[offer.token_Q] * n_features + offer.feature_Q
    largest = offer.key_Q.new_zeros((int(document_X[-1]) + 1) * n_features)
    largest.scatter_reduce_(0, slot_Q, offer.key_Q, "amax")
    chosen = offer[places_of(offer.key_Q == largest[slot_Q])]
    return Offer(chosen.feature_Q, chosen.token_Q, chosen.key_Q.long())


def _first_of_each_pair(feature_Q: torch.Tensor, document_Q: torch.Tensor) -> torch.Tensor:
    """True at the first place of each (feature, document); `feature_Q` is sorted."""
    ranked, order_Q = torch.sort(feature_Q * (document_Q.max() + 1) + document_Q, stable=True)
    first_Q = torch.ones_like(ranked, dtype=torch.bool)
    first_Q[order_Q[1:]] = ranked[1:] != ranked[:-1]
    return first_Q


def rank_in_group(group_Q: torch.Tensor) -> torch.Tensor:
    """0, 1, 2 … within each run of equal numbers."""
    counts = torch.unique_consecutive(group_Q, return_counts=True)[1]
    start_Q: torch.Tensor = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.arange(len(group_Q), device=group_Q.device) - start_Q

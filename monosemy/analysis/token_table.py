"""Which features fire on which tokens: counted in the pass over the corpus, kept where it says something.

Of each pair of a feature n and a token t: c firings of n on t, and s, the sum of the codes there. With n_t occurrences
of t and c_n firings of n:

- a feature's "frequent" tokens have the largest c; its "strong" ones the largest mean code over all occurrences, s/n_t
  (the code where it fires × how often it does), among tokens that occur `SEEN` times or more; its "next" ones follow
  its firings in their row most often;
- a token's "strong" features have the largest s/n_t; its "telling" ones the largest F1 of "n fires" as a test for "the
  token is t", 2c/(c_n + n_t): 1 where n fires on t always and on nothing else.

Equals are in the order of their numbers. All counts are exact. There can be more pairs than fit into memory, so firings
are summed up in runs sorted by pair, runs go to disk, and features are read back some at a time (an external merge
sort; Knuth, "The Art of Computer Programming" 3, §5.4).

Shapes: X tokens of a block, P firings, Q pairs, N features, V tokens of the vocabulary, E entries of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from monosemy.analysis.examples import by_feature_then_key, rank_in_group
from monosemy.analysis.firings import Block
from monosemy.runtime import Progress

FIRINGS_AT_ONCE = 2**21  # firings of a run, and about as many pairs when runs are merged
SEEN = 3  # occurrences from which on a token's mean code is worth a place in a feature's list
FEATURE_LISTS, TOKEN_LISTS = ("frequent", "strong", "next"), ("strong", "telling")


@dataclass(frozen=True)
class Pairs:
    """Pairs of a feature and a token, what is known of each; no pair twice, by rising feature, then token."""

    feature_Q: torch.Tensor
    token_Q: torch.Tensor
    count_Q: torch.Tensor
    sum_Q: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor) -> Pairs:
        return Pairs(self.feature_Q[chosen], self.token_Q[chosen], self.count_Q[chosen], self.sum_Q[chosen])


class PairSums:
    """Counts and sums of (feature, token) pairs, in bounded memory. Runs lie in `folder`, each named `{name}-{i}`."""

    def __init__(self, n_features: int, n_tokens: int, folder: Path, name: str) -> None:
        self._n_features, self._n_tokens = n_features, n_tokens
        self._folder, self._name = folder, name
        self._keys: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._held = 0
        self._runs: list[Run] = []

    def add(self, feature_P: torch.Tensor, token_P: torch.Tensor, value_P: torch.Tensor) -> None:
        """Count one firing a place."""
        self._keys.append((feature_P * self._n_tokens + token_P).cpu().numpy())
        self._values.append(value_P.cpu().numpy())
        self._held += len(value_P)
        if self._held >= FIRINGS_AT_ONCE:
            self._end_run()

    def groups(self, bar: Progress) -> Iterator[Pairs]:
        """All pairs, some features at a time, in the order of the features."""
        self._end_run()
        total = sum(int(run.start_N1[-1]) for run in self._runs)
        at_once = max(1, self._n_features * FIRINGS_AT_ONCE // max(total, 1))
        for first in range(0, self._n_features if total else 0, at_once):
            end = min(first + at_once, self._n_features)
            parts = zip(*(run.read(first, end) for run in self._runs), strict=True)
            key_Q, sums_Q2 = (torch.from_numpy(column) for column in _summed(*map(np.concatenate, parts)))
            feature_Q = torch.div(key_Q, self._n_tokens, rounding_mode="floor")
            count_Q, sum_Q = sums_Q2.unbind(1)
            yield Pairs(feature_Q, key_Q - feature_Q * self._n_tokens, count_Q.long(), sum_Q)
            bar.advance(end - first)

    def _end_run(self) -> None:
        if not self._held:
            return
        value_P = np.concatenate(self._values)
        sums_P2 = np.stack([np.ones_like(value_P), value_P], axis=1, dtype=np.float64)
        key_Q, sums_Q2 = _summed(np.concatenate(self._keys), sums_P2)
        self._keys, self._values, self._held = [], [], 0
        file = self._folder / f"{self._name}-{len(self._runs)}"
        with file.open("wb") as out:
            key_Q.tofile(out)
            sums_Q2.tofile(out)
        first_N1 = np.arange(self._n_features + 1) * self._n_tokens
        self._runs.append(Run(file, np.searchsorted(key_Q, first_N1)))


@dataclass(frozen=True)
class Run:
    """A file of Q pairs: keys int64 [Q], then count and sum fp64 [Q, 2]. It is read, not mapped: mapped pages would
    count as this process's memory."""

    file: Path
    start_N1: np.ndarray
    """Where each feature's pairs begin; the last entry is Q."""

    def read(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys and sums of the features from `first` up to `end`."""
        start, stop, total = (int(self.start_N1[place]) for place in (first, end, -1))
        key_Q = np.fromfile(self.file, np.int64, stop - start, offset=8 * start)
        sums_Q = np.fromfile(self.file, np.float64, 2 * (stop - start), offset=8 * total + 16 * start)
        return key_Q, sums_Q.reshape(-1, 2)


class Lists:
    """The E best entries of each of G groups, best first; `number_GE` is −1 where a group has fewer."""

    def __init__(self, n_groups: int, size: int) -> None:
        self._key_GE = torch.full((n_groups, size), -1, dtype=torch.int64)
        self.number_GE = torch.full((n_groups, size), -1, dtype=torch.int32)
        self.count_GE = torch.zeros(n_groups, size, dtype=torch.int64)
        self.sum_GE = torch.zeros(n_groups, size)

    def take(self, group_Q: torch.Tensor, number_Q: torch.Tensor, key_Q: torch.Tensor, pairs: Pairs) -> None:
        """Keep what is better than what is kept. Of equal keys (0 ≤ key < 2^40) what came first stays first."""
        better_Q = key_Q > self._key_GE[group_Q, -1]
        group_Q, columns = group_Q[better_Q], (key_Q, number_Q.int(), pairs.count_Q, pairs.sum_Q.float())
        touched_G = torch.zeros(len(self._key_GE), dtype=torch.bool)
        touched_G[group_Q] = True
        old_G = touched_G[:, None] & (self._key_GE >= 0)
        all_Q = torch.cat([old_G.nonzero()[:, 0], group_Q])
        kept = (self._key_GE, self.number_GE, self.count_GE, self.sum_GE)
        merged = [torch.cat([old[old_G], new[better_Q]]) for old, new in zip(kept, columns, strict=True)]
        order_Q = by_feature_then_key(all_Q, merged[0])
        rank_Q = rank_in_group(all_Q[order_Q])
        best_Q = rank_Q < self._key_GE.shape[1]
        place = (all_Q[order_Q][best_Q], rank_Q[best_Q])
        for tensor, column in zip(kept, merged, strict=True):
            tensor[place] = column[order_Q[best_Q]]


class TokenTable:
    """Collects the firings of every feature by the token that they are on, and by the one after it."""

    def __init__(self, n_features: int, vocab_size: int, tokens_T: torch.Tensor, folder: Path) -> None:
        self._n_features, self._tokens_T = n_features, tokens_T
        self._seen_V = torch.zeros(vocab_size, dtype=torch.int64)
        self._on = PairSums(n_features, vocab_size, folder, "on")
        self._next = PairSums(n_features, vocab_size + 1, folder, "next")  # token V: the row ends there

    def add(self, block: Block) -> None:
        """Count a block's firings."""
        device, vocab_size = block.token_P.device, len(self._seen_V)
        offset_X, last_X = block.offset_X.cpu(), (block.place_X + 1 == block.length_X).cpu()
        token_X = self._tokens_T[offset_X].long()
        next_X = self._tokens_T[torch.where(last_X, 0, offset_X + 1)].long().masked_fill_(last_X, vocab_size)
        self._seen_V += torch.bincount(token_X, minlength=vocab_size)
        self._on.add(block.feature_P, token_X.to(device)[block.token_P], block.value_P)
        self._next.add(block.feature_P, next_X.to(device)[block.token_P], block.value_P)

    def lists(self, per_feature: int, per_token: int) -> dict[str, torch.Tensor]:
        """The tensors of `tokens.safetensors`: of each list the entries, best first.

        Of features `frequent_token`, `strong_token` and `next_token`, int32 [N, E] (−1: no entry); of tokens
        `strong_feature` and `telling_feature`, int32 [V, E]; with each its `…_count` int64 and `…_sum` fp32. `seen`
        int64 [V] is how often each token occurs.
        """
        n_features = self._n_features
        features = {name: Lists(n_features, per_feature) for name in FEATURE_LISTS}
        tokens = {name: Lists(len(self._seen_V), per_token) for name in TOKEN_LISTS}
        with Progress("tokens of features", 2 * n_features, unit="features") as bar:
            for pairs in self._on.groups(bar):
                self._take(pairs, features, tokens)
            for pairs in self._next.groups(bar):
                inside = pairs[pairs.token_Q < len(self._seen_V)]
                features["next"].take(inside.feature_Q, inside.token_Q, inside.count_Q, inside)
        return {
            "seen": self._seen_V,
            **{name: tensor for key, lists in features.items() for name, tensor in _named(f"{key}_token", lists)},
            **{name: tensor for key, lists in tokens.items() for name, tensor in _named(f"{key}_feature", lists)},
        }

    def _take(self, pairs: Pairs, features: dict[str, Lists], tokens: dict[str, Lists]) -> None:
        seen_Q = self._seen_V[pairs.token_Q]
        firings_N = torch.zeros(self._n_features, dtype=torch.int64)
        firings_N.index_add_(0, pairs.feature_Q, pairs.count_Q)  # a group has all pairs of its features
        mean_Q = _key_of(pairs.sum_Q / seen_Q)
        f1_Q = _key_of(2 * pairs.count_Q / (firings_N[pairs.feature_Q] + seen_Q).double())
        features["frequent"].take(pairs.feature_Q, pairs.token_Q, pairs.count_Q, pairs)
        often_Q = seen_Q >= SEEN
        often = pairs[often_Q]
        features["strong"].take(often.feature_Q, often.token_Q, mean_Q[often_Q], often)
        tokens["strong"].take(pairs.token_Q, pairs.feature_Q, mean_Q, pairs)
        tokens["telling"].take(pairs.token_Q, pairs.feature_Q, f1_Q, pairs)


def _named(prefix: str, lists: Lists) -> list[tuple[str, torch.Tensor]]:
    return [(prefix, lists.number_GE), (f"{prefix}_count", lists.count_GE), (f"{prefix}_sum", lists.sum_GE)]


def _key_of(value_Q: torch.Tensor) -> torch.Tensor:
    """Positive fp32 numbers are ordered as their bits are."""
    return value_Q.float().view(torch.int32).long()


def _summed(key_Q: np.ndarray, sums_Q2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rising keys, each once, with its sums added up in the order in which they came.

    Keys are sorted with their places in the low bits: one sort of plain numbers, several times faster than of pairs.
    """
    if not len(key_Q):
        return key_Q, sums_Q2
    bits, least = len(key_Q).bit_length(), key_Q.min()
    packed_Q = ((key_Q - least) << bits) | np.arange(len(key_Q))
    packed_Q.sort()
    sorted_Q = (packed_Q >> bits) + least
    first_U = np.concatenate([[0], np.flatnonzero(sorted_Q[1:] != sorted_Q[:-1]) + 1])
    sums_U2 = np.add.reduceat(sums_Q2[packed_Q & (2**bits - 1)], first_U, axis=0)
    return sorted_Q[first_U], sums_U2

"""Consensus dictionaries: what several dictionaries agree on, merged; what they do not, dropped.

S4 proposes it for noisy data: dictionaries trained from different seeds on different rows err differently, so features
that come back are real and their mean is nearer to the truth than each (independent errors: 1/M of the squared error),
while features made of noise do not come back. As measured (`benchmarks/consensus.py`): against one dictionary of all
the members' rows, a consensus of dictionaries wider than the truth was purer and more stable, but found no more
features and rebuilt noisy rows less well. Members that have not found the features agree on nothing.

Matching treats all dictionaries alike. Each two are matched one-to-one; pairs are joined from the most alike to the
least, never two features of one dictionary in one group. The means of the groups are then matched with every dictionary
anew until nothing changes. The merged feature is the mean of its members as functions: mean direction, mean encoder row
and bias, then put to norm 1. In the end no number depends on the order of the dictionaries.

Source: Sharkey et al. 2022 (S4); SCIENCE.md §2. Left out: variants other than plain ReLU, whose codes depend on each
other, so that a feature cannot be taken out of its dictionary.

Shapes: M dictionaries, N width, C groups, P pairs, D = d_in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from monosemy.data.rows import ArrayRows, RowSource, RowStatistics
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary, unit_decoder
from monosemy.metrics.matching import one_to_one
from monosemy.runtime import UsageError, seed_for
from monosemy.training.loop import PairedRows
from monosemy.training.settings import default_steps
from monosemy.training.sweep import fit, settings_from

THRESHOLD = 0.7
ROUNDS = 20  # of matching means with dictionaries anew; it settles in two or three
NONE = -1


@dataclass(frozen=True)
class Consensus:
    """What came out, feature by feature: those with the most support first."""

    dictionary: ReluDictionary
    """The merged features."""
    support_N: torch.Tensor
    """How many dictionaries have each of them."""
    agreement_N: torch.Tensor
    """Length of the mean of the members' unit directions: 1 where they are equal."""
    dropped: tuple[int, ...]
    """How many features of each dictionary are in none of them."""


def consensus(dictionaries: Sequence[Dictionary], threshold: float = THRESHOLD, quorum: int | None = None) -> Consensus:
    """Merge the features that at least `quorum` dictionaries (default: half of them, and two) have.

    They have a feature in common where one-to-one matching pairs them at a cosine of at least `threshold`. Widths may
    differ. Raises UsageError for fewer than two dictionaries, forms other than relu, different d_in, and where nothing
    is agreed on.
    """
    quorum = max(2, -(-len(dictionaries) // 2)) if quorum is None else quorum
    _check(dictionaries, threshold, quorum)
    # One order whatever the given one, so that ties and rounding do not depend on it either.
    order = sorted(range(len(dictionaries)), key=lambda m: _fingerprint(dictionaries[m]))
    members = [unit_decoder(dictionaries[m].tensors) for m in order]
    directions = [member["W_dec"] for member in members]
    feature_MC = _settled(directions, _joined(directions, threshold), threshold, quorum)
    support_C = (feature_MC != NONE).sum(dim=0)
    if not len(support_C):
        raise UsageError(
            f"no feature is in `quorum` (={quorum}) of the {len(members)} dictionaries at `threshold` (={threshold}); "
            "lower one of them, or train longer"
        )
    merged = {name: _mean([member[name] for member in members], feature_MC) for name in ("W_dec", "W_enc", "b_enc")}
    agreement_C = merged["W_dec"].norm(dim=1)
    ranking = (support_C + agreement_C.clamp(max=1 - 1e-6)).argsort(descending=True, stable=True)
    tensors = {name: tensor[ranking] for name, tensor in unit_decoder(merged).items()}
    biases = [member["b_dec"] for member in members if "b_dec" in member]
    if biases:
        tensors["b_dec"] = torch.stack(biases).sum(dim=0) / len(members)  # without one it is 0
    settings = {"consensus_of": len(members), "threshold": threshold, "quorum": quorum}
    dropped = {m: directions[place].shape[0] - int((feature_MC[place] != NONE).sum()) for place, m in enumerate(order)}
    return Consensus(
        ReluDictionary(tensors, settings),
        support_C[ranking],
        agreement_C[ranking],
        tuple(dropped[m] for m in range(len(dictionaries))),
    )


def fit_consensus(
    rows: RowSource | torch.Tensor | np.ndarray,
    *,
    members: int = 4,
    threshold: float = THRESHOLD,
    quorum: int | None = None,
    **options: Any,
) -> Consensus:
    """Train `members` dictionaries, each from its own seed on its own share of the rows, and merge them.

    Together they read the rows that one dictionary of the same `options` (those of `fit`) would: `steps` is what they
    share. Raises UsageError as `fit` and `consensus`, and for steps too few to share.
    """
    settings = settings_from(**{"variant": "relu", **options})
    if len(settings.seed) != 1:
        raise UsageError(f"`seed` (={settings.seed}) must be one; the {members} members' seeds follow from it")
    source = ArrayRows(rows) if isinstance(rows, np.ndarray | torch.Tensor) else rows
    total = settings.steps or default_steps(settings.batch, source.n_rows)
    if not 2 <= members <= total:
        raise UsageError(f"`members` (={members}) must be from 2 to the number of steps they share (={total})")
    steps = total // members
    found: list[Dictionary] = []
    for number in range(members):
        own = replace(settings, steps=steps, seed=(seed_for("consensus", settings.seed[0], number),))
        found.append(fit(Share(source, number * steps), settings=own))
        _check_forms(found)
    return consensus(found, threshold, quorum)


class Share:
    """A `RowSource` that starts at batch `first` of another one's stream."""

    def __init__(self, rows: RowSource, first: int) -> None:
        self.rows, self.first = rows, first
        self.d_in, self.n_rows = rows.d_in, rows.n_rows
        self.paired = isinstance(rows, PairedRows) and rows.paired

    def statistics(self) -> RowStatistics:
        """Those of all rows."""
        return self.rows.statistics()

    def batches(self, batch: int, seed: int, start: int = 0) -> Iterator[torch.Tensor]:
        """The other one's batches from `first` + `start` on."""
        return self.rows.batches(batch, seed, self.first + start)

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same with targets; without any of its own, a row is its own target."""
        if isinstance(self.rows, PairedRows):
            return self.rows.pairs(batch, seed, self.first + start)
        return ((x_BD, x_BD) for x_BD in self.batches(batch, seed, start))


def _joined(directions: Sequence[torch.Tensor], threshold: float) -> torch.Tensor:
    """Groups from the pairs of each two dictionaries: `feature_MC`, which feature of m is in group c, or NONE."""
    pairs = []
    for a in range(len(directions)):
        for b in range(a + 1, len(directions)):
            matching = one_to_one(directions[a], directions[b])
            ends = zip(matching.rows_P.tolist(), matching.columns_P.tolist(), matching.cosines_P.tolist(), strict=True)
            pairs += [(-cosine, (a, row), (b, column)) for row, column, cosine in ends if cosine >= threshold]
    group_of: dict[tuple[int, int], dict[int, int]] = {}
    for _, one, other in sorted(pairs):
        first = group_of.setdefault(one, {one[0]: one[1]})
        second = group_of.setdefault(other, {other[0]: other[1]})
        if not first.keys() & second.keys():
            first.update(second)
            group_of.update(dict.fromkeys(second.items(), first))
    groups = list({id(group): group for group in group_of.values()}.values())
    feature_MC = torch.full((len(directions), len(groups)), NONE)
    for c, group in enumerate(groups):
        for m, feature in group.items():
            feature_MC[m, c] = feature
    return feature_MC


def _settled(
    directions: Sequence[torch.Tensor], feature_MC: torch.Tensor, threshold: float, quorum: int
) -> torch.Tensor:
    """Groups of at least `quorum`, whose means have been matched with every dictionary until nothing changed."""
    for _ in range(ROUNDS):
        feature_MC = feature_MC[:, (feature_MC != NONE).sum(dim=0) >= quorum]
        if not feature_MC.shape[1]:
            break
        centre_CD = _mean(directions, feature_MC)
        again_MC = torch.full_like(feature_MC, NONE)
        for m, W_ND in enumerate(directions):
            matching = one_to_one(centre_CD, W_ND)
            near_P = matching.cosines_P >= threshold
            again_MC[m, matching.rows_P[near_P]] = matching.columns_P[near_P]
        if torch.equal(again_MC, feature_MC):
            break
        feature_MC = again_MC
    return feature_MC[:, (feature_MC != NONE).sum(dim=0) >= quorum]


def _mean(tensors: Sequence[torch.Tensor], feature_MC: torch.Tensor) -> torch.Tensor:
    """Mean over the members of each group, of rows of the dictionaries' tensors: `mean_CD` (or `mean_C`)."""
    total = tensors[0].new_zeros(feature_MC.shape[1], *tensors[0].shape[1:])
    for tensor, feature_C in zip(tensors, feature_MC, strict=True):
        present_C = feature_C != NONE
        total[present_C] += tensor[feature_C[present_C]]
    support_C = (feature_MC != NONE).sum(dim=0)
    return total / support_C.reshape(-1, *[1] * (total.ndim - 1))


def _check(dictionaries: Sequence[Dictionary], threshold: float, quorum: int) -> None:
    if len(dictionaries) < 2:
        raise UsageError(f"`dictionaries` has {len(dictionaries)}; a consensus needs at least 2")
    if not 0 < threshold < 1:
        raise UsageError(f"`threshold` (={threshold}) must be a cosine above 0 and below 1")
    if not 1 <= quorum <= len(dictionaries):
        raise UsageError(f"`quorum` (={quorum}) must be from 1 to the number of dictionaries (={len(dictionaries)})")
    _check_forms(dictionaries)


def _check_forms(dictionaries: Sequence[Dictionary]) -> None:
    for number, dictionary in enumerate(dictionaries):
        if type(dictionary) is not ReluDictionary:
            raise UsageError(f"dictionary {number} is of form {dictionary.name!r}; a consensus is of relu dictionaries")
        if dictionary.d_in != dictionaries[0].d_in:
            raise UsageError(f"dictionary {number} has d_in {dictionary.d_in}, the first {dictionaries[0].d_in}")


def _fingerprint(dictionary: Dictionary) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(dictionary.tensors):
        digest.update(dictionary.tensors[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()

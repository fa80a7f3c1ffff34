"""Consensus dictionaries: what is merged, what is dropped, by how much the mean is nearer to the truth."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, permutations

import pytest
import torch

from monosemy.data.rows import ArrayRows
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.metrics.matching import one_to_one
from monosemy.metrics.recovery import mcs, mmcs_to_truth
from monosemy.runtime import UsageError
from monosemy.training.consensus import Share, consensus, fit_consensus
from monosemy.training.settings import TrainSettings
from monosemy.training.sweep import fit

D, G = 48, 60


def unit(directions: torch.Tensor) -> torch.Tensor:
    return directions / directions.norm(dim=1, keepdim=True)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TRUTH = unit(torch.randn(G, D, generator=generator(0)))


def noisy_copy(seed: int, noise: float = 0.3, spurious: int = 0, shuffled: bool = True) -> ReluDictionary:
    """The truth with an error of relative length `noise` on every direction, and directions of no meaning."""
    g = generator(1000 + seed)
    W_ND = torch.cat([TRUTH + noise * torch.randn(G, D, generator=g) / D**0.5, torch.randn(spurious, D, generator=g)])
    W_ND = unit(W_ND)[torch.randperm(len(W_ND), generator=g)] if shuffled else unit(W_ND)
    W_enc_ND = W_ND + 0.1 * torch.randn(W_ND.shape, generator=g)
    b_enc_N, b_dec_D = torch.randn(len(W_ND), generator=g), torch.randn(D, generator=g)
    return ReluDictionary({"W_enc": W_enc_ND, "b_enc": b_enc_N, "W_dec": W_ND, "b_dec": b_dec_D})


def squared_error(directions_ND: torch.Tensor) -> float:
    """Mean squared tangent of the angle to the nearest true direction: σ² (D−1)/D for one noisy copy."""
    cosine_G = mcs(TRUTH, directions_ND).double()
    return float((1 / cosine_G.square() - 1).mean())


def test_the_squared_error_falls_with_the_number_of_dictionaries() -> None:
    """Independent errors: 1/M. 60 features × 47 free directions: the ratio's own relative error is about 3 %."""
    for count in (3, 6):
        copies = [noisy_copy(seed) for seed in range(count)]
        found = consensus(copies)
        assert found.dictionary.width == G
        assert found.support_N.tolist() == [count] * G
        single = sum(squared_error(copy.W_dec_ND) for copy in copies) / count
        assert single == pytest.approx(0.3**2, rel=0.1)
        assert squared_error(found.dictionary.W_dec_ND) == pytest.approx(single / count, rel=0.15)
        best = max(mmcs_to_truth(TRUTH, copy.W_dec_ND) for copy in copies)
        assert 1 - mmcs_to_truth(TRUTH, found.dictionary.W_dec_ND) < (1 - best) * 1.3 / count


def test_spurious_features_are_dropped_and_the_support_is_counted() -> None:
    copies: list[Dictionary] = [noisy_copy(seed, spurious=20) for seed in range(4)]
    found = consensus(copies)
    assert found.dictionary.width == G
    assert found.dropped == (20, 20, 20, 20)
    half = G // 2
    partial = ReluDictionary(
        {n: t if n == "b_dec" else t[:half] for n, t in noisy_copy(9, shuffled=False).tensors.items()}
    )
    found = consensus([*copies[:2], partial])
    assert found.dictionary.width == G
    assert found.support_N.tolist() == [3] * half + [2] * half  # the most supported first
    matched = mcs(found.dictionary.W_dec_ND[:half], TRUTH[:half])
    assert matched.min() > 0.9
    assert consensus([*copies[:2], partial], quorum=3).dictionary.width == half
    assert consensus([*copies[:2], partial], quorum=3).dropped == (G + 20 - half, G + 20 - half, 0)


def test_the_order_of_the_dictionaries_changes_nothing() -> None:
    copies = [noisy_copy(seed, noise=0.8, spurious=seed) for seed in range(3)]  # far apart: some pairs are doubtful
    first = consensus(copies)
    assert first.dictionary.width < G
    for order in permutations(range(3)):
        again = consensus([copies[m] for m in order])
        for name, tensor in first.dictionary.tensors.items():
            assert torch.equal(again.dictionary.tensors[name], tensor), (name, order)
        assert torch.equal(again.support_N, first.support_N)
        assert again.dropped == tuple(first.dropped[m] for m in order)


def test_equal_dictionaries_have_themselves_as_consensus_whatever_their_decoders_lengths() -> None:
    one = noisy_copy(0)
    length_N = torch.rand(G, generator=generator(5)) + 0.5
    tensors = one.tensors
    longer = {
        **tensors,
        "W_dec": tensors["W_dec"] * length_N[:, None],
        "W_enc": tensors["W_enc"] / length_N[:, None],
        "b_enc": tensors["b_enc"] / length_N,
    }
    x_BD = torch.randn(50, D, generator=generator(6))
    for other in (one, ReluDictionary(longer)):
        found = consensus([one, other, other])
        torch.testing.assert_close(found.dictionary.reconstruct(x_BD), one.reconstruct(x_BD), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.agreement_N, torch.ones(G))
        torch.testing.assert_close(found.dictionary.W_dec_ND.norm(dim=1), torch.ones(G))


def test_a_merged_feature_is_the_mean_of_its_members() -> None:
    copies = [noisy_copy(seed, shuffled=False) for seed in range(3)]
    found = consensus(copies).dictionary
    place_G = one_to_one(TRUTH, found.W_dec_ND).columns_P
    mean = {name: sum(copy.tensors[name] for copy in copies) / 3 for name in found.tensors}
    length_G = mean["W_dec"].norm(dim=1)
    torch.testing.assert_close(found.W_dec_ND[place_G], mean["W_dec"] / length_G[:, None])
    torch.testing.assert_close(found.tensors["W_enc"][place_G], mean["W_enc"] * length_G[:, None])
    torch.testing.assert_close(found.tensors["b_enc"][place_G], mean["b_enc"] * length_G)
    torch.testing.assert_close(found.tensors["b_dec"], mean["b_dec"])


def test_without_decoder_biases_there_is_none() -> None:
    bare = [ReluDictionary({n: t for n, t in noisy_copy(s).tensors.items() if n != "b_dec"}) for s in range(2)]
    assert "b_dec" not in consensus(bare).dictionary.tensors
    with_one = noisy_copy(3)
    torch.testing.assert_close(consensus([*bare, with_one]).dictionary.tensors["b_dec"], with_one.tensors["b_dec"] / 3)


def test_what_cannot_be_merged_is_refused() -> None:
    one, other = noisy_copy(0), noisy_copy(1)
    topk = TopKDictionary(one.tensors, {"k": 3})
    narrow = ReluDictionary({"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": torch.eye(3)})
    for dictionaries, options, message in (
        ([one], {}, "at least 2"),
        ([one, topk], {}, "form 'topk'"),
        ([one, narrow], {}, "d_in 3"),
        ([one, other], {"threshold": 1.0}, "`threshold`"),
        ([one, other], {"quorum": 3}, "`quorum`"),
        ([one, other], {"quorum": 0}, "`quorum`"),
        ([noisy_copy(0, noise=50), noisy_copy(1, noise=50)], {}, "no feature"),
    ):
        with pytest.raises(UsageError, match=message):
            consensus(dictionaries, **options)
    x = torch.randn(100, 4)
    for options, message in (
        ({"members": 1}, "`members`"),
        ({"members": 5, "steps": 4}, "`members`"),
        ({"seed": (0, 1)}, "`seed`"),
        ({"variant": "topk", "k": 2, "steps": 10}, "form 'topk'"),
    ):
        with pytest.raises(UsageError, match=message):
            fit_consensus(x, **options)


class Paired(ArrayRows):
    """Rows whose targets are their negatives."""

    paired = True

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((x_BD, -x_BD) for x_BD in self.batches(batch, seed, start))


def test_shares_are_the_streams_own_batches() -> None:
    x = torch.arange(80.0).reshape(40, 2)
    whole = list(islice(ArrayRows(x).batches(5, seed=3), 12))
    shares = [list(islice(Share(ArrayRows(x), first).batches(5, seed=3), 4)) for first in (0, 4, 8)]
    assert torch.equal(torch.stack(whole), torch.stack([batch for share in shares for batch in share]))
    assert torch.equal(next(Share(ArrayRows(x), 4).batches(5, seed=3, start=2)), whole[6])
    assert not Share(ArrayRows(x), 4).paired
    x_BD, target_BD = next(Share(ArrayRows(x), 4).pairs(5, seed=3, start=1))
    assert torch.equal(x_BD, whole[5])
    assert torch.equal(target_BD, whole[5])
    paired = Share(Paired(x), 4)
    assert paired.paired
    assert torch.equal(next(paired.pairs(5, seed=3))[1], -whole[4])


def test_members_read_together_what_one_dictionary_would(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int, tuple[int, ...]]] = []

    def note(rows: Share, *, settings: TrainSettings) -> Dictionary:
        read.append((rows.first, settings.steps or 0, settings.seed))
        return noisy_copy(len(read))

    monkeypatch.setattr("monosemy.training.consensus.fit", note)
    fit_consensus(torch.randn(100, D), members=3, steps=31, seed=7)
    assert [(first, steps) for first, steps, _ in read] == [(0, 10), (10, 10), (20, 10)]
    assert len({seed for _, _, seed in read}) == 3


def test_on_a_noisy_sparse_world_the_consensus_beats_its_members() -> None:
    """Over 8 such worlds its MMCS was 0.01 to 0.04 above the mean of members that each saw a quarter of the rows."""
    g = torch.Generator().manual_seed(1)
    directions = unit(torch.randn(24, 16, generator=g))
    codes = (torch.rand(60_000, 24, generator=g) < 1.5 / 24) * torch.rand(60_000, 24, generator=g)
    rows = ArrayRows(codes @ directions + 0.1 * torch.randn(60_000, 16, generator=g))
    options = {"width": 24, "l1": 0.3, "lr": 2e-2, "batch": 256}
    found = fit_consensus(rows, members=4, steps=1200, **options)
    members = [fit(Share(rows, 300 * m), steps=300, seed=m, **options) for m in range(4)]
    mean = sum(mmcs_to_truth(directions, member.W_dec_ND) for member in members) / 4
    assert mmcs_to_truth(directions, found.dictionary.W_dec_ND) > mean + 0.01
    assert 20 <= found.dictionary.width <= 28
    assert found.dictionary.settings["consensus_of"] == 4

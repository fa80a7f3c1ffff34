"""Rows in shuffled order: a permutation that is computed, streams that can start anywhere, statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from monosemy.data import rows as rows_module
from monosemy.data.rows import ArrayRows, IteratorRows, Permutation, rows_of, shuffled_rows, statistics_of
from monosemy.runtime import UsageError


@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 1000, 4097])
def test_it_is_a_permutation(n: int) -> None:
    for seed in (0, 1):
        assert sorted(Permutation(n, seed)(np.arange(n)).tolist()) == list(range(n))


def test_it_mixes_across_the_whole_store() -> None:
    """Where the first 4,000 of 100,000 positions land is uniform over 20 stretches (chi-squared, 1 in 10^6)."""
    for seed in range(5):
        landed = Permutation(100_000, seed)(np.arange(4000)) // 5000
        counts = np.bincount(landed, minlength=20)
        assert ((counts - 200) ** 2 / 200).sum() < chi2.ppf(1 - 1e-6, 19)


def test_neighbours_do_not_stay_neighbours() -> None:
    landed = Permutation(100_000, 0)(np.arange(100_000))
    assert (np.abs(np.diff(landed)) == 1).mean() < 1e-3


def test_each_epoch_gives_every_row_once_in_another_order_and_any_batch_can_be_first() -> None:
    n, batch = 103, 10
    stream = shuffled_rows(n, batch, seed=7)
    batches = [next(stream) for _ in range(40)]
    flat = np.concatenate(batches)
    epochs = [flat[e * n : (e + 1) * n] for e in range(3)]
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(n))
    assert not np.array_equal(epochs[0], epochs[1])
    for start in (0, 1, 10, 11, 39):
        assert np.array_equal(next(shuffled_rows(n, batch, seed=7, start=start)), batches[start])
    assert not np.array_equal(next(shuffled_rows(n, batch, seed=8)), batches[0])


def test_a_batch_larger_than_the_store_wraps_around() -> None:
    rows = next(shuffled_rows(3, 10, seed=0))
    assert sorted(rows[:9].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_statistics_equal_a_direct_computation() -> None:
    x = torch.randn(1000, 7) * 3 + 1
    found = statistics_of(torch.split(x, 300))
    torch.testing.assert_close(found.mean_D, x.mean(0))
    assert found.mean_norm == pytest.approx(float(x.norm(dim=1).mean()))
    assert found.mean_square_norm == pytest.approx(float(x.square().sum(1).mean()))
    assert found.count == 1000


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_refused(bad: float) -> None:
    x = torch.randn(50, 4)
    x[17, 2] = bad
    with pytest.raises(UsageError, match="NaN or Inf"):
        ArrayRows(x).statistics()
    with pytest.raises(UsageError, match="NaN or Inf"):
        next(ArrayRows(x).batches(50, seed=0))


def test_arrays_of_other_shapes_are_refused() -> None:
    for shape in [(5,), (0, 3), (3, 0), (2, 2, 2)]:
        with pytest.raises(UsageError, match="shape"):
            ArrayRows(np.zeros(shape))


def test_an_iterator_is_rebatched_in_its_order() -> None:
    x = torch.arange(60.0).view(20, 3)
    rows = IteratorRows(iter(torch.split(x, 7)), head_bytes=100)
    assert not rows.ended
    assert rows.d_in == 3
    assert torch.equal(torch.cat(list(rows.batches(4, seed=0))), x)


def test_an_iterator_of_mixed_widths_is_refused() -> None:
    widths = (torch.zeros(5000, width) for width in (3, 3, 4))
    stream = IteratorRows(widths, head_bytes=60_000).batches(5000, seed=0)
    next(stream)
    next(stream)
    with pytest.raises(UsageError, match=r"4\] after rows of width 3"):
        next(stream)
    with pytest.raises(UsageError, match="no rows"):
        IteratorRows(iter(()), 100)
    with pytest.raises(UsageError, match="after rows of width 3"):
        rows_of(torch.zeros(5, width) for width in (3, 4))


def test_a_short_iterator_is_gathered_and_a_long_one_is_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(60.0).view(20, 3)
    gathered = rows_of(torch.split(x, 7))
    assert gathered.n_rows == 20
    assert sorted(next(gathered.batches(20, seed=0))[:, 0].tolist()) == x[:, 0].tolist()
    monkeypatch.setattr(rows_module, "GATHER_BYTES", 100)
    stream = rows_of(torch.split(x, 7))
    assert stream.n_rows is None
    assert torch.equal(next(stream.batches(20, seed=0)), x)

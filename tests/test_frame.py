"""Frames: scales, centres, and what becomes of them in exported dictionaries (test_variants.py folds them back)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from monosemy.data.rows import ArrayRows, RowStatistics, rows_of, statistics_of
from monosemy.runtime import UsageError
from monosemy.training.frame import Frame, framed, geometric_median
from monosemy.training.sweep import fit

D = 6
G = torch.Generator().manual_seed(0)
X = torch.randn(5000, D, generator=G) * torch.logspace(-1, 1, D) + torch.arange(D)


def test_unit_scale_makes_the_mean_norm_one() -> None:
    frame = framed(ArrayRows(X), Frame())
    assert (X * frame.scaling.seen_D).norm(dim=1).mean() == pytest.approx(1, abs=1e-4)
    assert frame.scaling.is_uniform
    assert frame.centre is not None
    torch.testing.assert_close(frame.centre.seen_D, X.mean(dim=0) * frame.scaling.seen_D, rtol=1e-4, atol=1e-5)
    assert (frame.d_in, frame.d_out) == (D, D)


def test_whitened_coordinates_have_equal_variance_and_rows_a_mean_square_norm_of_one() -> None:
    frame = framed(ArrayRows(X), Frame(scale="whiten"))
    seen = X * frame.scaling.seen_D
    torch.testing.assert_close(seen.std(dim=0), torch.full((D,), D**-0.5), rtol=0.02, atol=0)
    assert (seen - seen.mean(dim=0)).square().sum(dim=1).mean() == pytest.approx(1, rel=0.02)
    assert not frame.scaling.is_uniform


def test_a_coordinate_that_never_varies_is_not_blown_up() -> None:
    x = X.clone()
    x[:, 2] = 3
    scale_D = framed(ArrayRows(x), Frame(scale="whiten")).scaling.seen_D
    least = 1e-3 * x.std(dim=0).square().mean().sqrt()
    assert scale_D[2] == pytest.approx(float(1 / (least * D**0.5)), rel=0.05)


def test_no_scale_and_no_bias() -> None:
    frame = framed(ArrayRows(X), Frame(scale="none", b_dec="none"))
    assert (frame.scaling.seen_D == 1).all()
    assert frame.centre is None
    assert "b_dec" not in fit(X, width=4, b_dec="none", batch=100, steps=3).tensors


def test_the_geometric_median_has_the_smallest_mean_distance() -> None:
    median_D = geometric_median(X)
    best = (X - median_D).norm(dim=1).mean()
    for step in 0.01 * torch.eye(D):
        assert (X - median_D - step).norm(dim=1).mean() > best
        assert (X - median_D + step).norm(dim=1).mean() > best


def test_outliers_hardly_move_the_median() -> None:
    x = torch.cat([X, torch.full((50, D), 1e4)])
    middle_D = geometric_median(X)
    assert (geometric_median(x) - middle_D).norm() < 0.5
    assert (x.mean(dim=0) - middle_D).norm() > 50
    assert geometric_median(x[:1]).tolist() == x[0].tolist()  # a row on the median itself
    found = fit(x, width=4, b_dec="median", scale="none", batch=100, steps=1, lr=1e-9)
    torch.testing.assert_close(found.tensors["b_dec"], middle_D, rtol=0, atol=0.5)


def test_streams_are_framed_by_what_was_read_ahead() -> None:
    rows = rows_of(iter(torch.split(X, 500)))
    frame = framed(rows, Frame(scale="whiten", b_dec="median"))
    whole = framed(ArrayRows(X), Frame(scale="whiten", b_dec="median"))
    torch.testing.assert_close(frame.scaling.seen_D, whole.scaling.seen_D, rtol=0.02, atol=0)


class Two(ArrayRows):
    """Rows of two sites, or inputs with targets of another site."""

    def __init__(self, x: torch.Tensor, target: torch.Tensor | None = None, sites: tuple[int, ...] = ()) -> None:
        super().__init__(x)
        if sites:
            self.sites = sites
            self.site_statistics = lambda: [statistics_of([part]) for part in x.split(sites, dim=1)]
        if target is not None:
            self.paired, self.target = True, ArrayRows(target)
            self.target_statistics = self.target.statistics

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Both in one order."""
        return zip(self.batches(batch, seed, start), self.target.batches(batch, seed, start), strict=True)

    def statistics(self) -> RowStatistics:
        """Of the inputs."""
        return statistics_of([self.x_XD])


@pytest.mark.parametrize("scale", ["unit", "whiten"])
def test_targets_of_another_site_have_a_frame_of_their_own(scale: str) -> None:
    target = 50 * torch.randn(5000, 4, generator=G) + 9
    frame = framed(Two(X, target), Frame(scale=scale))  # type: ignore[arg-type]
    assert (frame.d_in, frame.d_out, frame.paired) == (D, 4, True)
    scaled = target * frame.scaling.target_E
    assert scaled.norm(dim=1).mean() == pytest.approx(1, rel=0.05)
    assert frame.centre is not None
    torch.testing.assert_close(frame.centre.target_E, scaled.mean(dim=0), rtol=1e-2, atol=1e-3)


def test_every_site_of_a_row_has_mean_norm_one() -> None:
    x = torch.cat([X, 1000 * X[:, :2]], dim=1)
    frame = framed(Two(x, sites=(D, 2)), Frame())
    for part in (x * frame.scaling.seen_D).split((D, 2), dim=1):
        assert part.norm(dim=1).mean() == pytest.approx(1, abs=1e-3)
    assert frame.sites == (D, 2)


@pytest.mark.parametrize(("options", "words"), [({"scale": "units"}, "`scale`"), ({"b_dec": "mode"}, "`b_dec`")])
def test_unknown_words_are_explained(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Frame(**options)  # type: ignore[arg-type]

"""How sure a share of meaningful features is: its interval against known shares, and against Wilson's alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import norm

from monosemy.analysis import meaning, meaning_bars
from monosemy.analysis.meaning_bars import CHANCE, EXAMPLES, Bands, Bar, Seen
from monosemy.metrics.interval import Share

LIMIT = norm.ppf(1 - CHANCE / 2)  # what random directions exceed with probability CHANCE / 2
Draw = Callable[[np.random.Generator, int], np.ndarray]


def positive(values: np.ndarray) -> np.ndarray:
    """In the same order, above 0, as what is reached is."""
    found: np.ndarray = np.exp(values)
    return found


def bands_of(random: np.random.Generator) -> Bands:
    """Bars of directions whose two numbers are Gaussian and independent."""
    drawn = positive(random.standard_normal((meaning.BANDS, meaning.SET, 2)))
    bars = [Bar([()] * meaning.SET, {EXAMPLES: torch.from_numpy(own)}) for own in drawn]
    return Bands([float(band) for band in range(meaning.BANDS)], bars)


def seen_of(values: np.ndarray) -> list[Seen]:
    return [Seen(n % meaning.BANDS, EXAMPLES, *pair) for n, pair in enumerate(positive(values).tolist())]


def shifted(random: np.random.Generator, count: int) -> np.ndarray:
    """Peaks around the bar, where it matters most that the bar is uncertain; contexts far below."""
    return np.stack([random.normal(2, 1, count), np.full(count, -10.0)], axis=1)


def mixed(random: np.random.Generator, count: int) -> np.ndarray:
    """Three of ten far above, the others as random directions."""
    above = random.random(count) < 0.3
    return random.standard_normal((count, 2)) + 20 * above[:, None]


def chance(random: np.random.Generator, count: int) -> np.ndarray:
    """As random directions."""
    return random.standard_normal((count, 2))


NOBODY = 1 - (1 - CHANCE / 2) ** 2
CASES: dict[str, tuple[Draw, int, float]] = {
    "near the bar": (shifted, 344, float(1 - norm.cdf(LIMIT - 2))),
    "near the bar, few": (shifted, 30, float(1 - norm.cdf(LIMIT - 2))),
    "a third": (mixed, 344, 0.3 + 0.7 * NOBODY),
    "by chance": (chance, 480, NOBODY),
    "by chance, few": (chance, 60, NOBODY),
}


@pytest.mark.parametrize("case", CASES)
def test_intervals_hold_known_shares_about_as_often_as_they_say(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share is that of features above what random directions really exceed with probability CHANCE / 2."""
    monkeypatch.setattr(meaning_bars, "DRAWS", 100)
    draw, count, truth = CASES[case]
    trials, held, plain = 200, 0, 0
    for trial in range(trials):
        random = np.random.default_rng((trial, count))
        bands, seen = bands_of(random), seen_of(draw(random, count))
        found = bands.share(seen, trial)
        alone = Share.of(found.count, found.total)
        assert found.low is not None and found.high is not None  # noqa: PT018
        assert alone.low is not None and alone.high is not None  # noqa: PT018
        held += found.low <= truth <= found.high
        plain += alone.low <= truth <= alone.high
    assert 0.90 <= held / trials <= 0.99
    if case == "near the bar":
        assert plain / trials < 0.88  # the features' chance alone is too narrow


def test_a_share_counts_and_keeps_its_bounds() -> None:
    bands = bands_of(np.random.default_rng(0))
    none, all_of = seen_of(np.full((40, 2), -20.0)), seen_of(np.full((40, 2), 20.0))
    for seen, share in ((none, 0.0), (all_of, 1.0)):
        found = bands.share(seen)
        assert found.share == share
        assert (found.low, found.high)[int(share)] == share
        wide = (found.high, found.low)[int(share)]
        assert wide is not None
        assert abs(wide - share) == pytest.approx(0.06, abs=0.03)
    assert bands.share([]) == Share.of(0, 0)
    mute = [Seen(0, 0, 1e9, 1e9)] * 3  # too few documents to tell
    assert bands.share(mute).count == 0
    assert not any(map(bands.passes, mute))
    same = bands.share(all_of[:20] + none, "x")
    assert same == bands.share(all_of[:20] + none, "x")
    assert same != bands.share(all_of[:20] + none, "y")


def test_drawn_bars_are_the_bars_of_what_was_drawn() -> None:
    """Directions that fire too seldom to be compared are left out, and the rank goes by those that remain."""
    random = np.random.default_rng(1)
    reached = torch.from_numpy(random.random((119, 2)))
    reached[::3] = -1.0
    bar = Bar([()] * 119, {EXAMPLES: reached})
    drawn_RS = torch.from_numpy(random.integers(0, 119, (50, 119)))
    drawn_RS[0] = torch.arange(119)
    drawn_RS[1] = 0  # none of them fires often enough
    limits_R2 = bar.drawn(EXAMPLES, drawn_RS)
    for row, limits in zip(drawn_RS.tolist(), limits_R2.tolist(), strict=True):
        for side in (0, 1):
            values = sorted((float(reached[n, side]) for n in row if float(reached[n, side]) >= 0), reverse=True)
            rank = int((len(values) + 1) * CHANCE / 2 + 1e-9)
            assert limits[side] == (values[rank - 1] if rank else float("inf"))
    assert bar.limits(EXAMPLES) == tuple(limits_R2[0].tolist())

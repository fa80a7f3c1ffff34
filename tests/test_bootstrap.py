"""Intervals by drawing cases anew: how often they hold a known ratio, and what they are by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm, t

from monosemy.analysis import bootstrap
from monosemy.analysis.bootstrap import expanded_tail, ratio_interval
from monosemy.runtime import generator_for


def test_an_interval_is_that_of_draws_by_hand() -> None:
    part, whole = np.random.default_rng(0).random((2, 12)).tolist()
    drawn = torch.randint(12, (bootstrap.DRAWS, 12), generator=generator_for("bootstrap", "x", 3)).tolist()
    ratios = [sum(part[case] for case in row) / sum(whole[case] for case in row) for row in drawn]
    tail = norm.cdf(-((12 / 11) ** 0.5) * t.ppf(0.975, 11))
    expected = np.quantile(ratios, (tail, 1 - tail))
    assert ratio_interval(torch.tensor(part), torch.tensor(whole), "x", 3) == pytest.approx(tuple(expected))
    assert ratio_interval(torch.tensor(part), torch.tensor(whole), "x", 4) != pytest.approx(tuple(expected))
    assert ratio_interval(torch.tensor([1.0]), torch.tensor([2.0])) == (None, None)
    assert expanded_tail(2) < expanded_tail(5) < expanded_tail(100) < 0.025


@pytest.mark.parametrize("documents", [6, 16, 60])
def test_it_holds_a_known_ratio_about_as_often_as_it_says(documents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents of unequal length whose tokens go together: what they say differs by document, not by token."""
    monkeypatch.setattr(bootstrap, "DRAWS", 400)
    random, held, trials = np.random.default_rng(documents), 0, 400
    for trial in range(trials):
        length = random.integers(1, 30, documents).astype(float)
        each = 0.7 + random.standard_normal(documents)
        low, high = ratio_interval(torch.tensor(each * length), torch.tensor(length), trial)
        assert low is not None
        assert high is not None
        held += low <= 0.7 <= high
    assert 0.90 <= held / trials <= 0.99

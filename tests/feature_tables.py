"""Feature tables with ties, missing values and hostile words, written over those of a small index."""

from __future__ import annotations

from typing import Any

import numpy as np

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.feature_table import COLUMNS, write_tables


def random_rows(n: int) -> list[tuple[Any, ...]]:
    """Ties in every column, and a few values that are missing."""
    dice = np.random.default_rng(5)
    words = [" the", "The", "50%", "a_b", "'; DROP TABLE feature; --", None]
    return [
        (i, c / 100, c, float(dice.integers(9)), float(dice.integers(9)) / 2, int(c == 0),
         None if dice.random() < 0.2 else float(dice.integers(20)) / 20, words[int(dice.integers(6))])
        for i, c in enumerate(dice.integers(0, 30, size=n).tolist())
    ]  # fmt: skip


def with_rows(index: FeatureIndex, n: int) -> list[dict[str, Any]]:
    """Leave the index nothing but a table of `n` features, and give its rows."""
    rows = random_rows(n)
    words = sorted({row[-1] for row in rows if row[-1] is not None})
    write_tables(index.artifact.path / "features.sqlite", rows, [], [(i, word, 1) for i, word in enumerate(words)])
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]

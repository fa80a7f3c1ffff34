"""Advice on grids made by hand, whose answer is known, and on random ones against a search cell by cell."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from monosemy.metrics.selection import Table, advise, choose, ssll
from monosemy.runtime import UsageError

WIDTHS = (8, 16, 32)
L1S = (0.01, 0.03, 0.1, 0.3, 1.0)
Values = Sequence[Sequence[float | None]]

# A grid on which all methods agree: peaks at L1 0.1; features die above it; 7 of 8 features of width 8 are shared.
AGREED: dict[str, Values] = {
    "dead": [[0, 0, 0, 1, 2]] * 3,
    "mse": [[1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 4.0, 2.0, 1.0]],
    "l1_norm": [[1.0] * 5] * 3,
    "mmcs_with_larger": [[0.5, 0.6, 0.9, 0.6, 0.5], [0.4, 0.5, 0.8, 0.5, 0.4], [None] * 5],
    "shared_with_next": [[2, 3, 7, 3, 2], [1, 2, 6, 2, 1], [None] * 5],
    "alive": [[8, 8, 8, 7, 6], [16, 16, 16, 15, 14], [32, 32, 32, 31, 30]],
}


def grid(l1s: Sequence[float] = L1S, widths: Sequence[int] = WIDTHS, seed: int = 0, **changed: Values) -> list[Any]:
    """Rows of the grid that the methods agree on, but for the fields that are given."""
    fields = AGREED | changed
    return [
        {"member": 0, "seed": seed, "width": width, "l1": l1} | {name: fields[name][w][i] for name in fields}
        for w, width in enumerate(widths)
        for i, l1 in enumerate(l1s)
    ]


def cell(finding: Any) -> tuple[int | None, float | None]:
    return finding.width, finding.l1


def test_methods_that_agree_raise_no_warning() -> None:
    advice = advise(grid())
    assert [finding.method for finding in advice.findings] == [
        "no dead features",
        "loss stickiness",
        "MMCS with larger",
    ]
    assert [cell(finding) for finding in advice.findings] == [(32, 0.1), (32, 0.1), (8, 0.1)]
    assert cell(advice.consensus) == (16, 0.1)  # the larger of the two widths that share the most
    assert advice.consensus.confidence == 7 / 8
    assert "width 8 shares up to 7 of its 8 live features" in advice.consensus.evidence
    assert advice.warning == ""


def test_the_order_of_the_rows_and_rows_without_l1_change_nothing() -> None:
    rows = grid()
    others = [{"member": 9, "width": 64, "l1": None, "shared_with_next": 60, "dead": 0}]
    shuffled = random.Random(0).sample(rows + others, len(rows) + 1)
    assert advise(shuffled) == advise(rows)


@pytest.mark.parametrize(
    ("dead", "expected", "confidence"),
    [
        ([[0] * 5, [0, 0, 3, 5, 9], [1, 2, 4, 5, 20]], (16, 0.03), 1.0),
        ([[0] * 5, [0, 2, 0, 5, 9], [1] * 5], (16, 0.1), 4 / 5),  # features die at a smaller L1 too
        ([[0] * 5, [0] * 5, [1, 1, 1, 1, 0]], (32, 1.0), 1 / 5),
        ([[1, 0, 1, 1, 1], [1] * 5, [None] * 5], (8, 0.03), 4 / 5),  # not measured is not alive
        ([[1] * 5, [2] * 5, [3] * 5], (None, None), 0.0),
    ],
)
def test_no_dead_features_names_the_largest_width_then_the_largest_l1(
    dead: Values, expected: tuple[int | None, float | None], confidence: float
) -> None:
    finding = advise(grid(dead=dead)).findings[0]
    assert cell(finding) == expected
    assert finding.found == (expected[0] is not None)
    assert finding.confidence == pytest.approx(confidence)


def test_seeds_are_averaged() -> None:
    """One seed alone would peak at (16, 0.3) with 9 shared features; both together at (8, 0.1), where 7 are."""
    high = [[2, 3, 7, 3, 2], [1, 2, 6, 9, 1], [None] * 5]
    low = [[2, 3, 7, 3, 2], [1, 2, 6, 1, 1], [None] * 5]
    assert cell(advise(grid(shared_with_next=high)).consensus) == (32, 0.3)
    both = grid(shared_with_next=high) + grid(shared_with_next=low, seed=1)
    assert cell(advise(both).consensus) == (16, 0.1)
    assert Table(both).field("shared_with_next")[1].tolist() == [1, 2, 6, 5, 1]
    dead_once = grid() + grid(seed=1, dead=[[0, 0, 0, 1, 2]] * 2 + [[0, 0, 1, 1, 2]])
    assert cell(advise(dead_once).findings[0]) == (32, 0.03)
    blank_once = Table(grid() + grid(seed=1, shared_with_next=[[None] * 5] * 3)).field("shared_with_next")
    np.testing.assert_array_equal(blank_once, Table(grid()).field("shared_with_next"))  # what is undefined is no 0


def test_ssll_is_the_sum_of_standardised_logs_over_the_defined_cells() -> None:
    draw = random.Random(1)
    losses: dict[str, list[list[float | None]]] = {
        name: [[draw.lognormvariate(0, 2) for _ in L1S] for _ in WIDTHS] for name in ("mse", "l1_norm")
    }
    losses["mse"][0][0] = 0.0
    losses["mse"][2][1] = None
    losses["l1_norm"][1][4] = 0.0
    expected = np.zeros((len(WIDTHS), len(L1S)))
    for values in losses.values():
        logs = [[math.log(v) if v else None for v in line] for line in values]
        defined = [v for line in logs for v in line if v is not None]
        assert len(defined) < len(WIDTHS) * len(L1S)
        mean, spread = statistics.fmean(defined), statistics.pstdev(defined)
        expected += [[math.nan if v is None else (v - mean) / spread for v in line] for line in logs]
    found = ssll(Table(grid(**losses)))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    assert int(np.isnan(found).sum()) == 3


def test_ssll_where_a_loss_is_the_same_everywhere_or_defined_nowhere() -> None:
    found = ssll(Table(grid()))
    assert np.isfinite(found).all()
    assert found.std() == pytest.approx(1)  # of the other loss alone
    nothing = grid(l1_norm=[[0.0] * 5] * 3)
    assert np.isnan(ssll(Table(nothing))).all()
    assert not advise(nothing).findings[1].found


@pytest.mark.parametrize(
    ("logs", "l1", "confidence"),
    [
        ([0, 3, 5, 4, 2], 0.1, 3 / 5),  # falls by 5 and by 3, of 5
        ([0, 1, 1, 4, 4.5], 1.0, 0.0),  # at the edge
        ([5, 3, 2, 1, 0], 0.01, 0.0),
        ([0, 1, 5, None, None], 0.1, 0.0),  # beyond it all codes are 0: nobody knows that it falls
        ([None, None, 5, 4, 0], 0.1, 0.0),
        ([None, 1, 5, 4, None], 0.1, 1 / 4),
        ([3, 3, 3, 3, 3], 0.01, 0.0),
    ],
)
def test_stickiness_is_a_peak_of_the_largest_width(logs: list[float | None], l1: float, confidence: float) -> None:
    """L1 losses are 1 everywhere, so SSLL follows the logs; narrower widths score higher, and do not count."""
    mse = [[math.exp(9 - i) for i in range(5)]] * 2 + [[0.0 if v is None else math.exp(v) for v in logs]]
    finding = advise(grid(mse=mse)).findings[1]
    assert cell(finding) == (32, l1)
    assert finding.confidence == pytest.approx(confidence, abs=1e-9)
    assert ("no peak" in finding.evidence) == (confidence == 0)


def test_agreement_is_blank_and_not_0_at_the_largest_width() -> None:
    below = [[-0.5, -0.4, -0.3, -0.4, -0.5], [-0.6, -0.5, -0.4, -0.2, -0.6], [None] * 5]
    rows = grid(mmcs_with_larger=below)
    assert np.isnan(Table(rows).field("mmcs_with_larger")[2]).all()
    finding = advise(rows).findings[2]
    assert cell(finding) == (16, 0.3)  # a blank that counted as 0 would be the largest
    middle = statistics.median([v for line in below for v in line if v is not None])
    assert finding.confidence == pytest.approx((-0.2 - middle) / (1 - middle))


def test_the_consensus_counts_where_method_3_takes_means() -> None:
    """Width 8 shares all of its features, width 16 more of them."""
    shared: Values = [[8, 8, 8, 8, 8], [1, 2, 12, 3, 1], [None] * 5]
    advice = advise(grid(shared_with_next=shared))
    assert cell(advice.findings[2]) == (8, 0.1)
    assert cell(advice.consensus) == (32, 0.1)
    assert advice.consensus.confidence == 12 / 16
    plateau = advise(grid(shared_with_next=[[1, 12, 10, 9, 8], [1, 12, 1, 1, 1], [None] * 5]))
    assert cell(plateau.consensus) == (16, 0.1)  # the narrowest of equals; 12, 10, 9 are its plateau, 8 is below
    even = advise(grid(shared_with_next=[[1, 12, 10, 1, 1], [1] * 5, [None] * 5]))
    assert cell(even.consensus) == (16, 0.1)  # of two in the middle, the larger L1
    apart = advise(grid(shared_with_next=[[12, 1, 12, 1, 12], [1] * 5, [None] * 5]))
    assert cell(apart.consensus) == (16, 0.01)  # a plateau has no holes
    nothing = advise(grid(shared_with_next=[[0] * 5] * 2 + [[None] * 5]))
    assert not nothing.consensus.found
    assert nothing.warning.startswith("there is no consensus")


def test_the_warning_names_the_methods_that_are_far_from_the_consensus() -> None:
    late = [[0, 0, 0, 0, 0]] * 3  # no feature dies: method 1 says L1 1, ten times that of the consensus
    assert advise(grid(dead=late)).warning == "the methods disagree: no dead features names width 32, L1 1"
    near = [[0, 0, 0, 0, 1]] * 3  # L1 0.3: three times, within a factor of √10
    assert advise(grid(dead=near)).warning == ""
    wide = advise(grid(widths=(8, 16, 128)))  # width 128 is 8 times the consensus's
    assert "no dead features names width 128, L1 0.1; loss stickiness names width 128, L1 0.1" in wide.warning
    assert "MMCS" not in wide.warning
    none = advise(grid(dead=[[1] * 5] * 3))  # a method that names no cell does not disagree
    assert none.warning == ""


@pytest.mark.parametrize(("place", "l1"), [(0, 0.01), (4, 1.0)])
def test_the_warning_says_where_the_grid_ends(place: int, l1: float) -> None:
    shared = [[9 if i == place else 1 for i in range(5)], [0] * 5, [None] * 5]
    advice = advise(grid(shared_with_next=shared))
    assert cell(advice.consensus) == (16, l1)
    assert f"L1 {l1:.3g} is at the edge of the grid" in advice.warning
    inside = [[9 if i == 2 else 1 for i in range(5)], [0] * 5, [None] * 5]
    assert "edge" not in advise(grid(shared_with_next=inside)).warning


def test_the_warning_says_where_there_is_no_wider_one() -> None:
    shared: Values = [[1] * 5, [1, 1, 9, 1, 1], [None] * 5]
    assert advise(grid(shared_with_next=shared)).warning.startswith("width 32 is the largest of the grid")
    two: dict[str, Values] = {name: [values[0], values[2]] for name, values in AGREED.items()}
    assert advise(grid(widths=(8, 32), **two)).warning == ""  # of two widths there is no other choice


def test_an_l1_of_nothing_agrees_with_itself() -> None:
    early = {
        "dead": [[0, 1, 1, 1, 2]] * 3,
        "mse": [[1.0] * 5] * 2 + [[5.0, 4.0, 3.0, 2.0, 1.0]],
        "mmcs_with_larger": [[0.9, 0.5, 0.5, 0.5, 0.5]] * 2 + [[None] * 5],
        "shared_with_next": [[7, 3, 2, 2, 2], [1] * 5, [None] * 5],
    }
    advice = advise(grid(l1s=(0.0, 0.1, 0.2, 0.3, 0.4), **early))
    assert {finding.l1 for finding in (*advice.findings, advice.consensus)} == {0.0}
    assert advice.warning == "L1 0 is at the edge of the grid: train beyond it"


def test_random_grids_against_a_search() -> None:
    """200 grids with holes: the cells that the methods name are those that a search over all rows finds."""
    draw = random.Random(2)
    holes = 0
    for _ in range(200):
        widths = sorted(draw.sample(range(1, 100), draw.randint(2, 4)))
        l1s = sorted(draw.uniform(0.01, 1) for _ in range(draw.randint(3, 6)))
        rows = []
        for width in widths:
            for l1 in l1s:
                larger = width < widths[-1]
                rows.append(
                    {
                        "width": width, "l1": l1, "dead": draw.choice((0, 0, 1, 2, None)), "alive": draw.randint(1, 50),
                        "mse": draw.choice((0.0, None, draw.random())), "l1_norm": draw.random(),
                        "mmcs_with_larger": draw.choice((0.1, 0.2, 0.3)) if larger else None,
                        "shared_with_next": draw.randint(0, 4) if larger else None,
                    }
                )  # fmt: skip
        no_dead, sticky, agreed = advise(rows).findings
        alive = [(row["width"], row["l1"]) for row in rows if row["dead"] == 0]
        assert cell(no_dead) == max(alive, default=(None, None))
        top = max(row["mmcs_with_larger"] for row in rows if row["mmcs_with_larger"] is not None)
        assert cell(agreed) == min((row["width"], row["l1"]) for row in rows if row["mmcs_with_larger"] == top)
        score = dict(zip(l1s, ssll(Table(rows))[-1], strict=True))
        defined = {l1: value for l1, value in score.items() if not math.isnan(value)}
        assert cell(sticky) == ((widths[-1], max(defined, key=lambda l1: defined[l1])) if defined else (None, None))
        assert all(0 <= finding.confidence <= 1 for finding in (no_dead, sticky, agreed))
        holes += not alive or not defined
    assert holes > 5  # grids on which a method names no cell


def test_what_gives_no_advice_is_explained() -> None:
    with pytest.raises(UsageError, match=r"2 widths and 3 values of L1, these scores have 1 and 5"):
        advise([row for row in grid() if row["width"] == 8])
    with pytest.raises(UsageError, match=r"these scores have 3 and 2"):
        advise([row for row in grid() if row["l1"] < 0.1])
    with pytest.raises(UsageError, match=r"these scores have 0 and 0"):
        advise([{**row, "l1": None} for row in grid()])
    with pytest.raises(UsageError, match=r"no `shared_with_next`; run `monosemy evaluate` again"):
        advise([{name: value for name, value in row.items() if name != "shared_with_next"} for row in grid()])
    smallest = [row for row in grid() if row["width"] > 8 and row["l1"] > 0.02][:3] + grid()[11:14]
    assert cell(advise(smallest).consensus) == (32, 0.1)


def scored(member: int, **values: float | None) -> dict[str, float | int | None]:
    blank = {"ce_recovered": None, "explained_variance": 0.5, "mmcs_other_seed": None, "l0": 10.0}
    return {"member": member, **blank, **values}


def test_choose_gives_the_members_own_number_and_says_why() -> None:
    rows = [
        scored(7, explained_variance=0.95, mmcs_other_seed=0.6, l0=3.0),
        scored(5, explained_variance=0.91, mmcs_other_seed=0.8, l0=9.0),
        scored(3, explained_variance=0.92, mmcs_other_seed=0.8, l0=8.0),  # of equal agreement the sparser one
        scored(1, explained_variance=0.89, mmcs_other_seed=0.9, l0=1.0),
        scored(2, explained_variance=None, mmcs_other_seed=1.0, l0=1.0),
    ]
    number, why = choose(rows)
    assert number == 3
    assert why.startswith("of the 3 with explained variance ≥ 0.90, the one whose features agree best")
    assert "MMCS 0.800" in why


def test_choose_prefers_the_models_loss_where_any_member_has_one() -> None:
    rows = [
        scored(0, ce_recovered=0.95, explained_variance=0.1),
        scored(1, ce_recovered=0.2, explained_variance=0.99, l0=1.0),
        scored(2, explained_variance=0.99, l0=1.0),  # not measured
    ]
    number, why = choose(rows)
    assert number == 0
    assert "of the 1 with CE recovered ≥ 0.90, the one with the lowest L0" in why


def test_several_variants_are_advised_one_at_a_time() -> None:
    rows = [{**row, "variant": variant} for variant in ("relu", "tied") for row in grid()]
    with pytest.raises(UsageError, match=r"several variants \(relu, tied\); name one with --variant relu"):
        advise(rows)
    assert advise(rows, "tied") == advise(grid())

"""Reliability bins, calibration errors and their intervals; presence against the truth of a world; the diagram."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics.calibration import (
    HIGH,
    LOW,
    ReliabilityTable,
    calibration,
    presence_of,
    present_in,
)  # fmt: skip
from monosemy.metrics.evaluate import evaluate
from monosemy.metrics.matching import one_to_one
from monosemy.report.page import write_report
from monosemy.report.reliability import FEWEST, reliability_diagram
from monosemy.runtime import UsageError
from monosemy.training.sweep import train

WORLD = World(WorldSettings(d_in=16, features=20, l0=2.0))


def table_of(p_BN: torch.Tensor, present_BN: torch.Tensor, bins: int = 10, groups: int = 50) -> ReliabilityTable:
    table = ReliabilityTable(bins, groups)
    group_B = torch.arange(len(p_BN)) * groups // len(p_BN)
    for part in torch.arange(len(p_BN)).split(1000):
        table.add(p_BN[part], present_BN[part], group_B[part])
    return table


def drawn(seed: int, rows: int = 5000, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p_BN = torch.rand(rows, width, generator=generator)
    return p_BN, torch.rand(rows, width, generator=generator) < p_BN


def test_bins_and_errors_equal_a_loop_over_pairs() -> None:
    p_BN, present_BN = drawn(0, rows=300, width=5)
    p_BN[0, :2] = torch.tensor([0.0, 1.0])
    found = table_of(p_BN, present_BN).reliability()
    for kept, low, high, ece in (
        (p_BN >= 0, 0.0, 1.0, found.ece),
        ((p_BN.double() > LOW) & (p_BN.double() < HIGH), LOW, HIGH, found.ece_unclear),
    ):
        bins: list[list[tuple[float, float]]] = [[] for _ in range(10)]
        for p, y in zip(p_BN[kept].tolist(), present_BN[kept].tolist(), strict=True):
            bins[min(9, int((p - low) / (high - low) * 10))].append((p, float(y)))
        gap = sum(abs(sum(y - p for p, y in pairs)) for pairs in bins)
        assert ece.value == pytest.approx(gap / int(kept.sum()), abs=1e-9)
        if low == 0:
            assert found.count_K.tolist() == [len(pairs) for pairs in bins]
            means = [sum(p for p, _ in pairs) / len(pairs) for pairs in bins]
            torch.testing.assert_close(found.predicted_K, torch.tensor(means, dtype=torch.float64))
    assert found.brier == pytest.approx(float((p_BN - present_BN.float()).square().mean()), rel=1e-5)
    inside = p_BN.clamp(1e-6, 1 - 1e-6)
    nats = torch.where(present_BN, inside.log(), (1 - inside).log()).mean()
    assert found.log_loss == pytest.approx(-float(nats), rel=1e-4)
    assert found.expected == pytest.approx(float(p_BN.sum(dim=1).mean()), rel=1e-5)
    assert found.present == pytest.approx(float(present_BN.sum(dim=1).float().mean()), rel=1e-5)


def test_true_probabilities_are_calibrated_and_distorted_ones_by_how_much_they_are() -> None:
    """40,000 pairs in ten bins: a bin's |observed − p| has mean ≤ 0.8 · ½ / √4000 = 0.0063. Said p² instead of p the
    error is E(p − p²) = 1/6 up to the same noise."""
    p_BN, present_BN = drawn(1)
    assert table_of(p_BN, present_BN).reliability().ece.value < 0.0126
    assert table_of(p_BN.square(), present_BN).reliability().ece.value == pytest.approx(1 / 6, abs=0.0126)


def test_an_observed_share_is_in_its_interval_95_times_of_100() -> None:
    """Of 30 draws × 10 bins, 95 % hold the true mean of p; 50 groups lose a little: allow 90 % (5 standard errors
    would be 89 %). And pairs that come in copies, eight a row, make an interval √8 wider than independent ones."""
    inside = []
    for seed in range(30):
        found = table_of(*drawn(seed, rows=1000)).reliability()
        inside.append((found.low_K <= found.predicted_K) & (found.predicted_K <= found.high_K))
    assert torch.stack(inside).double().mean() > 0.90
    p_BN, present_BN = drawn(3, rows=4000)
    copied = table_of(p_BN[:, :1].repeat(1, 8), present_BN[:, :1].repeat(1, 8)).reliability()
    free = table_of(p_BN, present_BN).reliability()
    ratio = (copied.high_K - copied.low_K) / (free.high_K - free.low_K)
    assert ratio.mean().item() == pytest.approx(math.sqrt(8), rel=0.25)


def test_presence_in_a_world_equals_brute_force_and_strangers_are_never_present() -> None:
    generator = torch.Generator().manual_seed(0)
    truth_GD = WORLD.features_GD
    order = torch.randperm(20, generator=generator)[:15]
    strange_SD = torch.nn.functional.normalize(torch.randn(10, 16, generator=generator), dim=1)
    learned_ND = torch.cat([strange_SD, truth_GD[order]])
    sample = WORLD.sample(200)
    present_XN = present_in(sample, one_to_one(truth_GD, learned_ND), len(learned_ND))
    assert not present_XN[:, :10].any()
    assert torch.equal(present_XN[:, 10:], sample.codes_XG()[:, order] > 0)


class Perfect(ReluDictionary):
    """Knows when it is right: the true codes of the rows asked for are looked up."""

    def presence(self, x_BD: torch.Tensor) -> torch.Tensor:
        sample = WORLD.sample(3000)
        places = {tuple(row): number for number, row in enumerate(sample.x_XD.tolist())}
        return (sample.codes_XG() > 0).float()[[places[tuple(row)] for row in x_BD.tolist()]]


def test_a_dictionary_that_knows_has_no_error_and_one_of_codes_has_that_of_its_mistakes() -> None:
    eye = {"W_dec": WORLD.features_GD, "W_enc": WORLD.features_GD, "b_enc": torch.full((20,), -0.2)}
    perfect = calibration(Perfect(eye), WORLD, rows=3000)
    assert (perfect.ece.value, perfect.brier, perfect.unclear) == (0, 0, 0)
    assert math.isnan(perfect.ece_unclear.value)
    sample, plain = WORLD.sample(3000), ReluDictionary(eye)
    said_XN, true_XG = presence_of(plain, sample.x_XD), sample.codes_XG() > 0
    found = calibration(plain, WORLD, rows=3000)
    assert found.brier == pytest.approx(float((said_XN != true_XG).double().mean()), abs=1e-9)
    missed, invented = (true_XG & (said_XN == 0)).sum(), (~true_XG & (said_XN == 1)).sum()
    assert found.ece.value == pytest.approx(float(missed + invented) / true_XG.numel(), abs=1e-9)


def test_errors_name_the_rule() -> None:
    with pytest.raises(UsageError, match="`groups`"):
        ReliabilityTable(10, 1)
    with pytest.raises(UsageError, match="`rows`"):
        calibration(ReluDictionary({"W_dec": WORLD.features_GD}), WORLD, rows=10)
    with pytest.raises(UsageError, match="not in"):
        ReliabilityTable().add(torch.tensor([[1.5]]), torch.tensor([[True]]), torch.tensor([0]))
    with pytest.raises(UsageError, match="not in"):
        ReliabilityTable().add(torch.tensor([[float("nan")]]), torch.tensor([[True]]), torch.tensor([0]))
    with pytest.raises(UsageError, match="no rows"):
        ReliabilityTable().reliability()
    with pytest.raises(UsageError, match="`series`"):
        reliability_diagram({})


def test_the_diagram_has_a_point_a_bin_of_enough_pairs_and_its_interval() -> None:
    p_BN, present_BN = drawn(0, rows=300)
    few_BN = torch.where(p_BN > 0.9, torch.tensor(0.05), p_BN)
    few_BN[:2] = 0.97  # 16 pairs
    found = {"all": table_of(p_BN, present_BN).reliability(), "few": table_of(few_BN, present_BN).reliability()}
    figure = reliability_diagram(found, "title")
    above, below = figure.axes
    lines = {str(line.get_label()).split(":")[0]: line for line in above.lines}
    for name, kept in (("all", 10), ("few", 9)):
        assert int((found[name].count_K >= FEWEST).sum()) == kept
        x, y = lines[name].get_data()
        torch.testing.assert_close(torch.tensor(x), found[name].predicted_K[:kept])
        torch.testing.assert_close(torch.tensor(y), found[name].observed_K[:kept])
    segments = above.collections[0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [
        list(pair) for pair in zip(found["all"].low_K.tolist(), found["all"].high_K.tolist(), strict=True)
    ]
    assert below.patches[0].get_data().values.tolist() == found["all"].count_K.tolist()
    assert f"ECE {found['all'].ece.value:.2g}" in figure.legends[0].get_texts()[0].get_text()


def test_evaluating_on_a_world_scores_presence_and_the_report_draws_it(tmp_path: Path) -> None:
    world = World(WORLD.settings).save(tmp_path / "world")
    made = train(
        world, out=tmp_path / "dictionaries", variant=("topk", "spikeslab"), width=20, k=2, steps=60, lr=(1e-2, 1e30),
        warmup=0.0, device="cpu",
    )  # fmt: skip
    failed = [bool(member["failure"]) for member in made.members]
    assert failed == [False, True, False, True]
    scores = evaluate(made, world, out=tmp_path / "scores", rows=500, device="cpu")
    direct = calibration(made.dictionary(2), world, rows=500)
    assert [row["ece"] for row in scores.rows] == [None, None, pytest.approx(direct.ece.value), None]
    assert scores.rows[2]["brier"] == pytest.approx(direct.brier)
    assert list(scores.reliability()) == [2]
    for name, value in asdict(scores.reliability()[2]).items():
        torch.testing.assert_close(value, asdict(direct)[name], equal_nan=True)
    page = write_report(tmp_path).read_text()
    assert page.count("Present, against the probability of being present</figcaption>") == 1
    assert f"member 2: ECE {direct.ece.value:.2g}" in page
    plain = evaluate(made, world, out=tmp_path / "few" / "scores", rows=10, device="cpu")
    assert plain.rows[2]["ece"] is not None  # fewer rows than groups of them


def test_without_presence_or_truth_there_is_no_diagram(tmp_path: Path) -> None:
    world = World(WORLD.settings).save(tmp_path / "world")
    made = train(world, out=tmp_path / "dictionaries", width=20, k=2, steps=5, device="cpu")
    assert evaluate(made, world, out=tmp_path / "scores", rows=100, device="cpu").reliability() == {}
    assert "Present, against" not in write_report(tmp_path).read_text()

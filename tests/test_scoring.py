"""Scores of many dictionaries together: fidelity against clean targets, and agreement against loops over pairs."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.baselines import neuron_basis
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.metrics import scoring
from monosemy.metrics.fidelity import fidelity
from monosemy.metrics.recovery import SHARED
from monosemy.metrics.scoring import agreement_of, fidelity_of

CPU = torch.device("cpu")
D = 8


def world(**settings: Any) -> World:
    return World(WorldSettings(d_in=D, features=12, l0=2.0, correlation="none", **settings))


def relu_dictionary(width: int, seed: int, d_in: int = D) -> ReluDictionary:
    W_ND = torch.randn(width, d_in, generator=torch.Generator().manual_seed(seed))
    return ReluDictionary(
        {"W_enc": W_ND, "b_enc": torch.full((width,), -0.5), "W_dec": W_ND, "b_dec": torch.zeros(d_in)}
    )


def test_a_reconstruction_is_scored_against_the_clean_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neuron basis gives back its input, noise and all: its error is the noise's."""
    monkeypatch.setattr(scoring, "BATCH", 100)
    noisy, limit = world(noise=0.3, noise_on="input"), 1050  # the last batch is half a one
    learned = relu_dictionary(5, 0)
    basis, other = fidelity_of([neuron_basis(D), learned], noisy, limit, CPU)
    sample = noisy.sample(limit)
    assert basis.rows == other.rows == limit
    noise = float((sample.x_XD - sample.target_XD).square().mean())
    assert noise == pytest.approx(0.3**2, rel=0.1)  # 8,400 squares: a relative error of 1.5 %
    assert basis.scores()["mse"] == pytest.approx(noise, rel=1e-5)
    error = learned.reconstruct(sample.x_XD) - sample.target_XD
    square = sample.target_XD.double().square().sum(1).mean() - sample.target_XD.double().mean(0).square().sum()
    assert other.scores()["mse"] == pytest.approx(float(error.square().mean()), rel=1e-5)
    assert other.scores()["fvu"] == pytest.approx(float(error.double().square().sum(1).mean() / square), rel=1e-5)


def test_noise_that_is_on_both_is_to_be_rebuilt() -> None:
    noisy = world(noise=0.3, noise_on="both")
    [basis] = fidelity_of([neuron_basis(D)], noisy, 500, CPU)
    assert basis.scores()["mse"] == 0
    learned = relu_dictionary(5, 0)
    [found] = fidelity_of([learned], noisy, 500, CPU)
    assert found.scores() == pytest.approx(fidelity(learned, noisy.sample(500).x_XD))


def test_a_store_is_scored_on_its_held_out_rows_and_no_others(tmp_path: Path) -> None:
    store = world(noise=0.3, noise_on="input").save(tmp_path / "world").store(tmp_path / "rows", 1000, holdout=0.2)
    learned = relu_dictionary(5, 0)
    for limit, rows in ((10_000, 200), (50, 50)):
        [found] = fidelity_of([learned], store, limit, CPU)
        assert found.rows == rows
    [found] = fidelity_of([learned], store, 10_000, CPU)
    last_XD = torch.cat(list(store.held_out(64, 200)))
    assert found.scores() == pytest.approx(fidelity(learned, last_XD))


def brute_mmcs(a: torch.Tensor, b: torch.Tensor) -> float:
    reference, other = (a, b) if len(a) <= len(b) else (b, a)
    return sum(max(cosine(r, o) for o in other) for r in reference) / len(reference)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a, b) / (a.norm() * b.norm()))


def brute_shared(a: torch.Tensor, b: torch.Tensor) -> int:
    """Pairs that are each other's nearest, at a cosine above SHARED."""
    cosines = [[cosine(x, y) for y in b] for x in a]
    return sum(
        cosines[i][j] > SHARED
        and cosines[i][j] == max(cosines[i])
        and cosines[i][j] == max(line[j] for line in cosines)
        for i in range(len(a))
        for j in range(len(b))
    )


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def test_agreement_against_loops_over_all_pairs() -> None:
    """In two dimensions cosines above 0.95 are common, so some features are shared, and some contested."""
    dials = [
        *({"variant": "relu", "l1": l1, "k": None} for l1 in (0.1, 0.2)),  # without `noise`: older grids have none
        *({"variant": "denoising", "l1": 0.1, "k": None, "noise": noise} for noise in (0.1, 0.2)),
        *({"variant": "topk", "l1": None, "k": k, "noise": None} for k in (2, 3)),
    ]
    members: list[dict[str, Any]] = [
        {**dial, "width": width, "lr": lr, "seed": seed}
        for dial, width, lr, seed in product(dials, (3, 5, 8), (1e-3, 3e-3), (0, 1))
    ]
    generator = torch.Generator().manual_seed(4)
    dictionaries: list[Dictionary] = [relu_dictionary(m["width"], seed, d_in=2) for seed, m in enumerate(members)]
    alive = [torch.rand(member["width"], generator=generator) < 0.7 for member in members]
    alive[0][:] = False  # one in which nothing lives
    found = agreement_of(members, dictionaries, alive)

    W = [dictionary.W_dec_ND for dictionary in dictionaries]
    live = [directions[mask] for directions, mask in zip(W, alive, strict=True)]
    everyone = range(len(members))
    expected = []
    for i, mine in enumerate(members):
        alike = [j for j in everyone if all(members[j].get(n) == mine.get(n) for n in ("variant", "l1", "k", "noise"))]
        next_width = {3: 5, 5: 8, 8: None}[mine["width"]]
        expected.append(
            {
                "mmcs_with_larger": mean(
                    [brute_mmcs(W[i], W[j]) for j in alike if members[j]["width"] > mine["width"]]
                ),
                "shared_with_next": mean(
                    [brute_shared(live[i], live[j]) for j in alike if members[j]["width"] == next_width]
                ),
                "mmcs_other_seed": mean(
                    [
                        brute_mmcs(W[i], W[j])
                        for j in alike
                        if members[j]["width"] == mine["width"]
                        and members[j]["lr"] == mine["lr"]
                        and members[j]["seed"] != mine["seed"]
                    ]
                ),
            }
        )
    assert found == [pytest.approx(row, abs=1e-5) for row in expected]
    for row, member in zip(found, members, strict=True):
        for name in ("mmcs_with_larger", "shared_with_next"):
            assert (row[name] is None) == (member["width"] == 8)  # undefined for the largest, never 0
        assert row["mmcs_other_seed"] is not None
    assert found[0]["shared_with_next"] == 0  # nothing lives: that is a number
    assert len({row["shared_with_next"] for row in found}) > 5


def test_the_dead_and_copies_are_not_shared() -> None:
    small, large = torch.eye(4)[:3], torch.eye(4)[[0, 0, 1, 2, 3]]
    members = [
        {"variant": "relu", "width": width, "l1": 0.1, "k": None, "noise": None, "lr": 1e-3, "seed": 0}
        for width in (3, 5)
    ]
    bias = torch.zeros(4)
    pair: list[Dictionary] = [
        ReluDictionary({"W_enc": W, "b_enc": torch.zeros(len(W)), "W_dec": W, "b_dec": bias}) for W in (small, large)
    ]
    masks = [torch.ones(3, dtype=torch.bool), torch.ones(5, dtype=torch.bool)]
    narrow, wide = agreement_of(members, pair, masks)
    assert narrow == {"mmcs_with_larger": 1, "shared_with_next": 3, "mmcs_other_seed": None}
    assert wide == {"mmcs_with_larger": None, "shared_with_next": None, "mmcs_other_seed": None}
    masks[1][3] = False  # the larger one's copy of the third never fires
    narrow, _ = agreement_of(members, pair, masks)
    assert narrow == {"mmcs_with_larger": 1, "shared_with_next": 2, "mmcs_other_seed": None}
    masks[0][0] = False
    assert agreement_of(members, pair, masks)[0]["shared_with_next"] == 1


def test_only_the_next_larger_width_is_counted() -> None:
    """The middle width has none of the features, the largest all."""
    eye = torch.eye(6)
    members = [
        {"variant": "relu", "width": width, "l1": 0.1, "k": None, "noise": None, "lr": 1e-3, "seed": 0}
        for width in (2, 3, 6)
    ]
    directions = [eye[:2], eye[2:5], eye]
    dictionaries: list[Dictionary] = [
        ReluDictionary({"W_enc": W, "b_enc": torch.zeros(len(W)), "W_dec": W, "b_dec": torch.zeros(6)})
        for W in directions
    ]
    rows = agreement_of(members, dictionaries, [torch.ones(len(W), dtype=torch.bool) for W in directions])
    assert [row["shared_with_next"] for row in rows] == [0, 3, None]
    assert [row["mmcs_with_larger"] for row in rows] == [0.5, 1, None]  # (0 + 1) / 2

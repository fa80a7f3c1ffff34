"""Clipping against torch's, averaged weights, precision, and members whose loss is not finite."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dials import taken

from monosemy.data.rows import ArrayRows
from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.store import VARIANTS
from monosemy.metrics.evaluate import evaluate
from monosemy.metrics.fidelity import fidelity
from monosemy.report.table import print_scores
from monosemy.runtime import UsageError
from monosemy.training.ensemble import Ensemble
from monosemy.training.frame import framed
from monosemy.training.loop import train_stacks
from monosemy.training.settings import grid
from monosemy.training.stack import KEEP_EVERY
from monosemy.training.sweep import fit, fit_grid, settings_from, train

D, N, B = 12, 24, 40
X = torch.relu(torch.randn(4000, D, generator=torch.Generator().manual_seed(0)))
ROWS = ArrayRows(X)


def stack(**options: Any) -> Ensemble:
    dials = {"variant": "topk", "width": N, "k": 3, "batch": B, "device": "cpu", "lr": 1e-2, **options}
    settings = settings_from(**taken(**dials))
    return Ensemble(grid(settings, D), settings, framed(ROWS, settings.frame), torch.device("cpu"), B)


@pytest.mark.parametrize("name", ["relu", "tied", "topk", "skip-transcoder"])
def test_clipping_is_torchs(name: str) -> None:
    """Autograd, clip_grad_norm_ on a member's parameters, Adam; the decoder's gradient along its rows not counted."""
    made = stack(variant=name, l1=0.1, clip=0.02, seed=(0, 1))
    oracles = []
    for m in range(2):
        params = {key: tensor[m].clone().requires_grad_() for key, tensor in made.trained.items()}
        oracles.append((params, torch.optim.Adam(list(params.values()), lr=1e-2)))
    stream = ROWS.batches(B, 0)
    clipped = 0
    for _ in range(20):
        x_BD = next(stream)
        made.step(x_BD)
        for m, (params, adam) in enumerate(oracles):
            adam.zero_grad()
            forward = {**params, "W_dec": params["W_dec"] / params["W_dec"].norm(dim=1, keepdim=True)}
            sum(VARIANTS[name].loss(forward, x_BD * made.frame.scaling.seen_D, made.hyper.member(m))).backward()
            norm = torch.nn.utils.clip_grad_norm_(params.values(), 0.02)
            clipped += bool(norm > 0.02)
            adam.step()
            with torch.no_grad():
                params["W_dec"] /= params["W_dec"].norm(dim=1, keepdim=True)
            for key, tensor in params.items():
                torch.testing.assert_close(made.params[key][m], tensor.detach(), rtol=1e-3, atol=2e-5, msg=key)
    assert clipped >= 10


def test_averaged_weights_are_exported_and_average() -> None:
    """The weight of the past is at most ema, and t / (t + 10) after t steps: what was drawn at random is forgotten."""
    made = stack(ema=0.9, scale="none", variant="relu")
    expected = {key: tensor.clone() for key, tensor in made.params.items()}
    stream = ROWS.batches(B, 0)
    for step in range(1, 201):
        made.step(next(stream))
        decay = min(0.9, step / (step + 10))
        for key, tensor in expected.items():
            tensor.mul_(decay).add_(made.params[key], alpha=1 - decay)
    for key, tensor in expected.items():
        torch.testing.assert_close(made.average[key], tensor)
    direction_ND = torch.nn.functional.normalize(expected["W_dec"][0], dim=1)
    torch.testing.assert_close(made.export(0).W_dec_ND, direction_ND)
    assert not torch.allclose(direction_ND, made.params["W_dec"][0], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].reads == "rows"])
def test_averaging_changes_little_where_training_has_settled(name: str) -> None:
    """L0 and FVU of the averaged weights are about those of the last ones; rows have norm 1 all the same."""
    found = []
    for ema in (0.0, 0.95):
        dials = taken(name, width=N, k=3, l1=0.05, batch=B, lr=1e-2, ema=ema)
        dictionary = fit(X, steps=240, device="cpu", **dials)
        torch.testing.assert_close(dictionary.W_dec_ND.norm(dim=1), torch.ones(N))
        found.append(fidelity(dictionary, X))
    assert found[1]["fvu"] == pytest.approx(found[0]["fvu"], rel=0.1, abs=0.03)
    assert found[1]["l0"] == pytest.approx(found[0]["l0"], rel=0.1, abs=0.1)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_products_in_bf16_leave_weights_in_fp32_and_end_about_the_same(name: str) -> None:
    """FVU within a twentieth of the variance. Whether it is harmless on real rows: `benchmarks/bf16.py`."""
    found = {}
    for dtype in ("fp32", "bf16"):
        options = taken(name, width=N, k=3, l1=0.05, batch=B, steps=150, lr=1e-2)
        settings = settings_from(**options, dtype=dtype, device="cpu")
        made = Ensemble(grid(settings, D), settings, framed(ROWS, settings.frame), torch.device("cpu"), B)
        train_stacks([made], ROWS, settings, 150, None)
        assert all(tensor.dtype == torch.float32 for tensor in made.state().values() if tensor.is_floating_point())
        found[dtype] = fidelity(made.export(0), X)["fvu"]
    assert found["bf16"] != found["fp32"]
    assert found["bf16"] == pytest.approx(found["fp32"], abs=0.05)


@pytest.mark.parametrize("way", ["dense", "sparse"])
def test_a_broken_member_stays_as_it_was_and_the_others_go_on_as_if_it_were_not_there(
    way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"width": 8, "warmup": 0.0, "l1": 0.1, "batch": B, "steps": 60, "way": way, "device": "cpu"}
    stacks: list[Ensemble] = []
    [(good, found)] = fit_grid(X, lr=(1e-3, 1e30), **options, watch=lambda _, now: stacks.extend(now))
    assert good.lr == 1e-3  # the other is left out
    alone = fit(X, lr=1e-3, **options)
    for key, tensor in alone.tensors.items():
        assert torch.equal(found.tensors[key], tensor)
    start = stack(width=8, l1=0.1, variant="relu").export(0)  # it broke before it was ever kept
    for key, tensor in start.tensors.items():
        torch.testing.assert_close(stacks[-1].export(1).tensors[key], tensor)
    said = capsys.readouterr().err
    assert "the loss of Member(variant='relu'" in said
    assert "not finite at step 2" in said
    assert "lower its learning rate (=1e+30); the other members go on" in said


def test_weights_that_a_step_broke_are_not_kept_as_good() -> None:
    made = stack(variant="jumprelu", seed=(0, 1))
    made.step(X[:B])
    before = {key: tensor.clone() for key, tensor in made.good.items()}
    made.params["W_enc"][1, 3, 2] = float("nan")
    made.step_count = KEEP_EVERY
    made.average_and_keep()
    for key, tensor in made.good.items():
        assert torch.equal(tensor[0], made.params[key][0])
        assert torch.equal(tensor[1], before[key][1])


@pytest.mark.parametrize("way", ["dense", "sparse"])
def test_the_step_before_is_what_a_broken_member_keeps(way: str) -> None:
    """Rows that overflow make the loss infinite: no weight, moment or tracked number moves at that step or later."""
    made = stack(variant="batchtopk", seed=(0, 1), way=way, ema=0.9)
    made.step(X[:B])
    made.params["W_dec"][1] *= 1e30  # finite, but its squares are not
    own = ("params", "mean", "square", "good")
    kept = {key: tensor[1].clone() for key, tensor in made.state().items() if key.split(".")[0] in own}
    for _ in range(3):
        made.step(X[B : 2 * B])
    for key, tensor in made.state().items():
        if key in kept:
            assert torch.equal(tensor[1], kept[key]), key
    assert made.failed_M.tolist() == [0, 2]
    assert made.metrics(made.step(X[:B]))[1]["failed"] == 2
    assert made.failure(0) is None
    assert "lower its learning rate (=0.01)" in str(made.failure(1))


@pytest.mark.parametrize("way", ["dense", "sparse"])
def test_a_failure_says_what_to_look_at(way: str) -> None:
    """Rows without NaN (others are refused before) of which a few are enormous: the learning rate may be innocent."""
    outlier = stack(variant="batchtopk", way=way)
    outlier.step(1e30 * X[:B])
    assert "or look for outliers in the activations" in str(outlier.failure(0))


def test_a_run_with_a_broken_member_says_so_in_its_files(tmp_path: Path) -> None:
    settings = settings_from(width=8, lr=(1e-3, 1e30), warmup=0.0, batch=B, steps=120, device="cpu")
    made = [Ensemble(grid(settings, D), settings, framed(ROWS, settings.frame), torch.device("cpu"), B)]
    last = train_stacks(made, ROWS, settings, 120, tmp_path)
    assert last[0]["loss"] is not None
    assert (last[1]["loss"], last[1]["failed"]) == (None, 2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["members"][1]["failed"] for line in lines] == [2, 2, 2]


@pytest.mark.parametrize(("options", "words"), [({"clip": -1.0}, "`clip`"), ({"ema": 1.0}, "`ema`.*below 1")])
def test_bad_numbers_are_explained(options: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit(X, **options)


def test_a_failed_member_is_scored_but_never_chosen(tmp_path: Path) -> None:
    world = World(WorldSettings(d_in=8, features=12, l0=2)).save(tmp_path / "world")
    options = {"width": 12, "lr": (3e-3, 1e30), "warmup": 0.0, "batch": 64, "steps": 60}
    made = train(world, out=tmp_path / "d", **options)
    assert made.members[0]["failure"] is None
    assert "not finite at step" in made.members[1]["failure"]
    scores = evaluate(made, world, out=tmp_path / "scores", rows=500)
    assert scores.chosen == 0
    assert scores.rows[1]["failure"] == made.members[1]["failure"]
    assert scores.rows[1]["failed"] == made.members[1]["training"]["failed"]
    line = capture(print_scores, scores.rows, scores.chosen).splitlines()[2]
    assert line.split() == ["1", "gated", "12", "0.1", "0", *f"failed at step {scores.rows[1]['failed']}".split()]


def capture(show: Any, *arguments: Any) -> str:
    """What is printed."""
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        show(*arguments)
    return heard.getvalue()

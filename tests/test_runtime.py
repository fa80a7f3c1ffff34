"""Errors, seeds, the matrix-product probe, the metric log, progress."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from monosemy import runtime
from monosemy.runtime import (
    MetricLog,
    Progress,
    UsageError,
    full_rate_products,
    listening,
    pick_device,
    pick_dtype,
    seed_for,
)


def test_unknown_devices_and_dtypes_are_explained() -> None:
    with pytest.raises(UsageError, match="abacus"):
        pick_device("abacus")
    with pytest.raises(UsageError, match="fp32, fp16, bf16"):
        pick_dtype("fp8")
    assert pick_dtype("bf16") is torch.bfloat16


def test_seeds_of_different_parts_are_unrelated_and_stable() -> None:
    seeds = {seed_for(*parts) for parts in [("init", 0), ("init", 1), ("noise", 0), ("ini", "t0"), ("init", "0", "")]}
    assert len(seeds) == 5
    assert seed_for("init", 0) == 7884630180130331091


def test_full_rate_products_keep_fp32_accuracy_and_restore_the_users_setting() -> None:
    before = torch.get_float32_matmul_precision()
    a, b = torch.randn(200, 300), torch.randn(300, 100)
    with full_rate_products(torch.device("cpu")):
        error = ((a @ b).double() - a.double() @ b.double()).norm() / (a.double() @ b.double()).norm()
    assert error < 1e-6
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ValueError, match="stop"), full_rate_products(torch.device("cpu")):
        raise ValueError("stop")
    assert torch.get_float32_matmul_precision() == before


def test_the_metric_log_drops_what_lies_past_the_step_and_half_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path, 0)
    for step in (10, 20, 30):
        log.write(step, {"loss": step})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    log = MetricLog(path, 20)
    log.write(30, {"loss": -1})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [10, 20, -1]


def test_progress_is_silent_when_quick_and_tells_the_time_left_when_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Progress("quick", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""
    clock = iter(float(second) for second in range(0, 1000, 5))
    monkeypatch.setattr(runtime.time, "monotonic", lambda: next(clock))
    with Progress("slow", 100, unit="rows") as bar:
        for _ in range(10):
            bar.advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5  # one every ten seconds
    assert "slow  10 %" in lines[0]
    assert "s left" in lines[0]


def test_a_listener_hears_all_progress_and_can_stop_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, float, float | None]] = []

    def listener(label: str, done: float, total: float | None) -> None:
        heard.append((label, done, total))
        if done >= 3:
            raise ValueError("enough")

    def work() -> None:
        with Progress("scan", 5) as bar:
            for _ in range(5):
                bar.advance()

    with pytest.raises(ValueError, match="enough"), listening(listener):
        work()
    assert heard == [("scan", 1, 5), ("scan", 2, 5), ("scan", 3, 5)]
    with Progress("scan", 1) as bar:
        bar.advance()
    assert len(heard) == 3
    assert capsys.readouterr().err == ""

"""The loop: batches in; checkpoints and metrics out; resume.

It sees an iterator of `x_BD` and cannot tell stored rows from any others; where rows come in pairs, what is to be
reconstructed is the `target_BE` beside them. Every batch is read once and stepped through every stack. A checkpoint
holds parameters, Adam's state and the step; since the rows' order is computed from the step, a run that goes on from
any checkpoint ends bit for bit where the uninterrupted one does.

A member whose loss is not finite is named, with the step, and makes no more steps; what is exported of it is as it was
when it was last kept (`stack.py`). The others go on; where none is left the run ends there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from statistics import median
from typing import Protocol, runtime_checkable

import torch

from monosemy.data.rows import RowSource
from monosemy.files import load_tensors, save_tensors
from monosemy.runtime import MetricLog, Progress, UsageError, full_rate_products
from monosemy.training.ensemble import Ensemble
from monosemy.training.frame import ROW_ORDER_SEED
from monosemy.training.settings import TrainSettings
from monosemy.training.tracking import Wandb

CHECKPOINT_EVERY_S = 20.0
LOG_EVERY = 50

Watch = Callable[[int, Sequence[Ensemble]], None]  # called with the steps done and the stacks
Metrics = dict[str, float | None]  # of one member


@runtime_checkable
class PairedRows(Protocol):
    """Rows that can come with a target that is not the row itself: they do where `paired` is true."""

    paired: bool

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """An endless stream of `x_BD` and `target_BE`, fp32, from batch number `start` on."""
        ...


def train_stacks(
    stacks: Sequence[Ensemble],
    rows: RowSource,
    settings: TrainSettings,
    steps: int,
    folder: Path | None,
    watch: Watch | None = None,
    tracker: Wandb | None = None,
) -> list[Metrics]:
    """Train all stacks for `steps` steps; the last metrics of every member, stack by stack.

    With a `folder`, metrics go to `metrics.jsonl` in it (and to `tracker`) and checkpoints under `scratch/`; a
    checkpoint found there is gone on from. `watch` is called before the first step and after each. Ends early where no
    member's loss is finite any more. Raises UsageError at NaN or Inf in the rows.
    """
    settings.dead.check_steps(steps, settings.schedule.decay)
    checkpoint = folder / "scratch" / "checkpoint.safetensors" if folder is not None else None
    start = _resume(stacks, checkpoint)
    log = MetricLog(folder / "metrics.jsonl", start) if folder is not None else None
    device, batch = stacks[0].device, stacks[0].shape.batch
    members = sum(stack.shape.members for stack in stacks)
    stream = _stream(rows, batch, start)
    saved_at = time.monotonic()
    metrics: list[Metrics] = []
    failures = _failures(stacks)
    with (
        closing(tracker) if tracker is not None else nullcontext(),
        full_rate_products(device),
        torch.no_grad(),
        Progress(f"train ×{members}", steps, start) as bar,
    ):
        if watch is not None and start == 0:
            watch(0, stacks)
        for step in range(start, steps):
            pair = next(stream, None)
            if pair is None:
                raise UsageError(f"the rows ended after {step} of {steps} steps; lower `steps` or give more rows")
            x_BD = pair[0].to(device)
            target_BE = None if pair[1] is None else pair[1].to(device)
            factors = settings.schedule.factors(step, steps)
            statistics = [stack.step(x_BD, *factors, target_BE, progress=step / steps) for stack in stacks]
            done, note = step + 1, ""
            if settings.dead.resamples_after(done, steps, settings.schedule.decay):
                for stack in stacks:
                    stack.resample(x_BD if target_BE is None else target_BE)
            if watch is not None:
                watch(done, stacks)
            if done % LOG_EVERY == 0 or done == steps:
                metrics = [row for stack, found in zip(stacks, statistics, strict=True) for row in stack.metrics(found)]
                failures = _tell_of_failures(stacks, failures)
                _record(done, metrics, log, tracker)
                if all(failures):
                    break
                note = _note(metrics)
            # Never after the last step: a run that goes on must have a step to take its last metrics from.
            if checkpoint is not None and done < steps and time.monotonic() - saved_at > CHECKPOINT_EVERY_S:
                _save(stacks, done, checkpoint)
                saved_at = time.monotonic()
            bar.advance(note=note)
    return metrics


def _stream(rows: RowSource, batch: int, start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Batches with their target, None where it is the row itself."""
    if isinstance(rows, PairedRows) and rows.paired:
        yield from rows.pairs(batch, ROW_ORDER_SEED, start)
    else:
        yield from ((x_BD, None) for x_BD in rows.batches(batch, ROW_ORDER_SEED, start))


def _record(step: int, metrics: list[Metrics], log: MetricLog | None, tracker: Wandb | None) -> None:
    if log is not None:
        log.write(step, {"members": metrics})
    if tracker is not None:
        tracker.write(step, metrics)


def _note(metrics: Sequence[Metrics]) -> str:
    """What is shown beside the bar: medians over the members that did not fail (at least one), and how many did."""
    sound = [row for row in metrics if "failed" not in row]
    l0, loss = (median(row[name] or 0.0 for row in sound) for name in ("l0", "loss"))
    failed = f", {len(metrics) - len(sound)} failed" if len(sound) < len(metrics) else ""
    return f"{'median ' if len(sound) > 1 else ''}L0 {l0:.3g}, loss {loss:.3g}{failed}"


def _save(stacks: Sequence[Ensemble], step: int, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    state = {
        f"{number}.{name}": tensor for number, stack in enumerate(stacks) for name, tensor in stack.state().items()
    }
    save_tensors(path, {**state, "step": torch.tensor(step)})


def _resume(stacks: Sequence[Ensemble], path: Path | None) -> int:
    """The step to go on from: 0 where there is no checkpoint."""
    if path is None or not path.exists():
        return 0
    state = load_tensors(path)
    for number, stack in enumerate(stacks):
        prefix = f"{number}."
        stack.load_state({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})
    return int(state["step"])


def _failures(stacks: Sequence[Ensemble]) -> list[str | None]:
    """What went wrong with each member, None where nothing did."""
    return [stack.failure(i) for stack in stacks for i in range(len(stack))]


def _tell_of_failures(stacks: Sequence[Ensemble], before: Sequence[str | None]) -> list[str | None]:
    """Say what is new. Of a member that is alone the caller says it."""
    now = _failures(stacks)
    if len(now) > 1:
        new = [text for text, old in zip(now, before, strict=True) if text and not old]
        rest = "" if all(now) else "; the other members go on"
        for text in new:
            print(f"monosemy: {text}{rest}", file=sys.stderr)
    return now

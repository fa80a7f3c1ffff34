"""A run of which no member is left ends there, and what was last good of each is in the folder that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monosemy import cli
from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.runtime import UsageError
from monosemy.training import loop
from monosemy.training.ensemble import Ensemble
from monosemy.training.stack import KEEP_EVERY
from monosemy.training.sweep import fit_grid, train

OPTIONS: dict[str, Any] = {"width": 12, "batch": 64, "steps": 600, "device": "cpu"}
Kept = dict[tuple[str, int], Dictionary]


def world(folder: Path) -> World:
    return World(WorldSettings(d_in=8, features=12, l0=2)).save(folder / "world")


def broken_at(monkeypatch: pytest.MonkeyPatch, last: dict[tuple[str, int], int]) -> Kept:
    """From now on the weights of member i of a variant's stack overflow after `last[variant, i]` steps. What is given
    back fills with these members as they are when they are kept for the last time before."""
    kept: Kept = {}
    step: Callable[..., Any] = Ensemble.step

    def overflowing(stack: Ensemble, *arguments: Any, **options: Any) -> Any:
        statistics = step(stack, *arguments, **options)
        for (name, i), end in last.items():
            if name == stack.variant.name and stack.step_count == end // KEEP_EVERY * KEEP_EVERY:
                kept[name, i] = stack.export(i)
            if name == stack.variant.name and stack.step_count == end:
                stack.params["W_dec"][i] *= 1e30  # finite, but its squares are not
        return statistics

    monkeypatch.setattr(Ensemble, "step", overflowing)
    return kept


def same(found: Dictionary, expected: Dictionary) -> bool:
    return all(torch.equal(found.tensors[name], tensor) for name, tensor in expected.tensors.items())


@pytest.mark.parametrize("options", [{"variant": "gated"}, {"variant": "topk", "k": 2, "ema": 0.9}], ids=str)
def test_the_last_good_weights_of_a_dictionary_alone_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    rows = world(tmp_path)
    kept = broken_at(monkeypatch, {(options["variant"], 0): 120})
    with pytest.raises(UsageError) as raised:
        train(rows, out=tmp_path / "d", **OPTIONS, **options)
    text = str(raised.value)
    assert text.startswith(f"the loss of Member(variant='{options['variant']}'")
    assert "was not finite at step 121, with weights of up to " in text
    assert f"its weights of step 100 are kept in {tmp_path / 'd'}; to train again name another --out" in text
    store = DictionaryStore.open(tmp_path / "d")
    assert same(store.dictionary(0), kept[options["variant"], 0])
    assert store.members[0]["training"]["failed"] == 121
    assert "lower its learning rate" in store.members[0]["failure"]
    lines = (tmp_path / "d/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 100, 150]  # not a step more than it takes to see it
    assert not list(tmp_path.glob(".d.partial"))


def test_asked_again_it_says_the_same_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = world(tmp_path)
    broken_at(monkeypatch, {("gated", 0): 60})
    with pytest.raises(UsageError) as first:
        train(rows, out=tmp_path / "d", **OPTIONS)
    before = {file.name: file.read_bytes() for file in (tmp_path / "d").iterdir()}
    with pytest.raises(UsageError) as again:
        train(rows, out=tmp_path / "d", **OPTIONS)
    assert str(again.value) == str(first.value)
    with pytest.raises(UsageError, match=r"`lr`.*choose another --out, or delete it"):
        train(rows, out=tmp_path / "d", **OPTIONS, lr=1e-3)
    assert {file.name: file.read_bytes() for file in (tmp_path / "d").iterdir()} == before


def test_killed_between_failing_and_ending_it_keeps_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which step the kept weights are of is in the checkpoint."""
    rows = world(tmp_path)
    broken_at(monkeypatch, {("gated", 0): 60})
    with pytest.raises(UsageError):
        train(rows, out=tmp_path / "whole", **OPTIONS)
    save = loop._save

    def dying(stacks: Any, step: int, path: Path) -> None:
        save(stacks, step, path)
        if step == 70:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
        patch.setattr(loop, "_save", dying)
        with pytest.raises(KeyboardInterrupt):
            train(rows, out=tmp_path / "killed", **OPTIONS)
    assert not (tmp_path / "killed").exists()  # whole or not at all
    with pytest.raises(UsageError, match=r"not finite at step 61.*its weights of step 50 are kept"):
        train(rows, out=tmp_path / "killed", **OPTIONS)
    whole, killed = (DictionaryStore.open(tmp_path / name) for name in ("whole", "killed"))
    assert whole.artifact.id == killed.artifact.id
    assert whole.members == killed.members


def test_a_grid_whose_members_all_fail_keeps_each_as_it_last_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two stacks, members that fail one after another, and two at once."""
    rows = world(tmp_path)
    last = {("topk", 0): 60, ("topk", 1): 170, ("relu", 0): 110, ("relu", 1): 170}
    kept = broken_at(monkeypatch, last)
    grid = {**OPTIONS, "variant": ("topk", "relu"), "k": 2, "l1": 0.1, "seed": (0, 1)}
    with pytest.raises(UsageError) as raised:
        train(rows, out=tmp_path / "d", **grid)
    text = str(raised.value)
    assert text.startswith("all 4 members failed, the first so: the loss of Member(variant='topk'")
    assert "was not finite at step 61, with weights of up to " in text
    assert f"its weights of step 50 are kept in {tmp_path / 'd'} beside the others" in text
    said = capsys.readouterr().err.splitlines()
    assert [" go on" in line for line in said if "the loss of" in line] == [True, True, False, False]
    store = DictionaryStore.open(tmp_path / "d")
    assert len(kept) == len(store) == 4
    for number, key in enumerate(last):
        assert same(store.dictionary(number), kept[key])
        assert f"at step {last[key] + 1}, " in store.members[number]["failure"]
        kept_at = last[key] // KEEP_EVERY * KEEP_EVERY
        assert store.members[number]["failure"].endswith(f"its weights of step {kept_at} are kept")
    steps = [json.loads(line)["step"] for line in (tmp_path / "d/metrics.jsonl").read_text().splitlines()]
    assert steps == [50, 100, 150, 200]


def test_in_memory_there_is_nothing_to_keep_and_no_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broken_at(monkeypatch, {("relu", 0): 10, ("relu", 1): 20})
    x = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UsageError, match=r"^all 2 members failed, the first so: .*not finite at step 11, .*") as raised:
        fit_grid(x, **OPTIONS, l1=0.1, seed=(0, 1))
    assert "kept" not in str(raised.value)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and a failing status; no stage takes what is kept for a trained dictionary, and a report can show it."""
    world(tmp_path)

    def fails(command: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(command.split())
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    for lr, lead in (("1e30", "the loss of"), ("1e30 1e25", "all 2 members failed")):
        out = tmp_path / f"run{len(lr)}/dictionaries"
        line = fails(f"train {tmp_path}/world --lr {lr} --warmup 0 --width 12 --batch 64 --steps 60 --out {out}")
        assert line.startswith(f"monosemy: {lead}")
        assert "not finite at step 2" in line
        assert f"its weights of step 0 are kept in {out}" in line
        assert DictionaryStore.open(out).dictionary(0).width == 12
        line = fails(f"evaluate {out} {tmp_path}/world")
        assert line.startswith(f"monosemy: {out}: the training of every member failed, so none can be chosen")
        cli.main(["report", str(out.parent)])
        assert "failed at step 2" in (out.parent / "report.html").read_text()

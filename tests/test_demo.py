"""The demo, small: killed with kill -9 at several points it ends with the same numbers; a second run only reads."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from processes import killed_when

from monosemy import cli
from monosemy.artifact import load

KINDS = ("tokens", "model", "activations", "dictionaries", "scores", "features")


def test_killed_at_every_stage_it_ends_with_the_same_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").mkdir()
    library = Path(textwrap.__file__).parent
    for name in ("enum", "heapq"):
        (tmp_path / f"text/{name}.py").write_text((library / f"{name}.py").read_text())

    def command(out: str) -> str:
        small = "--pretrain-steps 8 --max-tokens 10000 --width 64 128 --l1 0.1 --seed 0 1 --train-steps 60"
        return f"demo --source {tmp_path}/text --out {tmp_path}/{out} {small}"

    def finish(out: str) -> str:
        """The printed table and the choice, without times and paths."""
        cli.main(command(out).split())
        printed = capsys.readouterr().out.splitlines()
        return "\n".join(line for line in printed if not line.startswith(("[", "done in")))

    # Each run is killed a moment after a further artifact has begun, so every stage is struck at least once.
    for kind in KINDS:
        begun = [tmp_path / "killed" / f".{kind}.partial/draft.json", tmp_path / "killed" / kind]

        def reached(begun: list[Path] = begun) -> bool:
            return any(place.exists() for place in begun)

        killed_when(reached, command("killed"), tmp_path / "log.txt", checkpoint_every_s=0.1)
    killed, whole = finish("killed"), finish("whole")
    for kind in KINDS:
        assert load(tmp_path / "whole" / kind).id == load(tmp_path / "killed" / kind).id, kind
    assert "chosen: member" in whole
    assert whole == killed
    assert finish("killed") == killed
    assert not (tmp_path / "killed/.report.html.tmp").exists()

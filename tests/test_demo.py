"""The demo, small: killed with kill -9 at several points it ends with the same numbers; a second run only reads."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from monosemy.artifact import load

KINDS = ("tokens", "model", "activations", "dictionaries", "scores", "features")

PROGRAM = textwrap.dedent(
    """
    import sys
    from monosemy import cli
    from monosemy.models import pretrain
    from monosemy.training import loop
    pretrain.CHECKPOINT_EVERY_S = loop.CHECKPOINT_EVERY_S = 0.1
    cli.main(sys.argv[1:])
    """
)


def command(folder: Path, out: str) -> list[str]:
    small = "--pretrain-steps 12 --max-tokens 20000 --width 64 128 --l1 0.03 0.1 --seed 0 1 --train-steps 60"
    arguments = f"demo --source {folder}/text --out {folder}/{out} {small}"
    return [sys.executable, "-c", PROGRAM, *arguments.split()]


def test_killed_at_every_stage_it_ends_with_the_same_numbers(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    library = Path(textwrap.__file__).parent
    for name in ("argparse", "ast", "dis", "enum", "heapq", "inspect", "pathlib", "random", "typing", "zipfile"):
        (tmp_path / f"text/{name}.py").write_text((library / f"{name}.py").read_text())
    whole = subprocess.run(command(tmp_path, "whole"), check=True, capture_output=True, text=True).stdout

    # Each run is killed a moment after a further artifact has begun, so every stage is struck at least once.
    for kind in KINDS:
        begun = [tmp_path / "killed" / f".{kind}.partial/draft.json", tmp_path / "killed" / kind]
        with subprocess.Popen(command(tmp_path, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            while run.poll() is None and not any(place.exists() for place in begun):
                time.sleep(0.002)
            time.sleep(0.05)
            run.send_signal(signal.SIGKILL)
        assert run.returncode == -signal.SIGKILL, f"the run was over before it was killed at {kind}"
    killed = subprocess.run(command(tmp_path, "killed"), check=True, capture_output=True, text=True).stdout

    for kind in KINDS:
        assert load(tmp_path / "whole" / kind).id == load(tmp_path / "killed" / kind).id, kind
    assert _numbers(whole) == _numbers(killed)
    again = subprocess.run(command(tmp_path, "killed"), check=True, capture_output=True, text=True)
    assert _numbers(again.stdout) == _numbers(killed)
    assert not (tmp_path / "killed/.report.html.tmp").exists()


def _numbers(output: str) -> str:
    """The printed table and the choice, without times and paths."""
    return "\n".join(line for line in output.splitlines() if not line.startswith(("[", "done in")))

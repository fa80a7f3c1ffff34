"""The command line in processes that can be killed: forked from one that has torch imported, so each starts at once."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "monosemy.cli",
        "monosemy.studies.demo",
        "monosemy.kernels.cpu",
        "torch._dynamo",  # which the first optimiser imports
        "transformers.models.gpt2.modeling_gpt2",
        "matplotlib.figure",
    ]
)


def _run(arguments: list[str], log: Path, checkpoint_every_s: float, threads: int) -> None:
    from monosemy import cli
    from monosemy.models import pretrain
    from monosemy.training import loop

    torch.set_num_threads(threads)  # sums are the same bit for bit where as many threads make them
    pretrain.CHECKPOINT_EVERY_S = loop.CHECKPOINT_EVERY_S = checkpoint_every_s
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        cli.main(arguments)


def killed_when(reached: Callable[[], bool], command: str, log: Path, checkpoint_every_s: float) -> None:
    """Start `monosemy COMMAND` and end it by SIGKILL once `reached()`; it fails if it was over before."""
    run: BaseProcess = SERVER.Process(
        target=_run, args=(command.split(), log, checkpoint_every_s, torch.get_num_threads())
    )
    run.start()
    while run.is_alive() and not reached():
        time.sleep(0.01)
    run.kill()
    run.join()
    said = log.read_text() if log.exists() else ""
    assert run.exitcode == -signal.SIGKILL, f"the run was over before it was killed: {said}"

"""Half-written artifacts: a folder beside the place of the finished one, which one process at a time may write.

The folder holds what was asked for (`draft.json`), a lock, the files of the artifact and, under `scratch/`, what its
writer needs to go on after a kill. A draft of another request is emptied.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monosemy.files import write_whole
from monosemy.runtime import UsageError

MANIFEST = "manifest.json"
DRAFT = "draft.json"
LOCK = "lock"
SCRATCH = "scratch"  # what a writer keeps there is dropped in the end


class Draft:
    """The half-written directory that `make` hands to a writer; what an earlier, killed run left is still in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, name: str) -> Path:
        """A path inside; folders on the way are made."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


@contextmanager
def locked_draft(path: Path, wanted: Mapping[str, Any]) -> Iterator[Draft | None]:
    """The draft for `wanted`, this process's alone; None where the finished artifact is there by now."""
    partial = _partial(path)
    partial.mkdir(exist_ok=True)
    with (partial / LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"{path}: another process is writing it; wait for that one, or stop it") from error
        if (path / MANIFEST).exists():
            shutil.rmtree(partial, ignore_errors=True)
            yield None
            return
        if _draft_request(partial) != wanted:
            for entry in partial.iterdir():
                if entry.name != LOCK:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            write_whole(partial / DRAFT, json.dumps(wanted).encode())
        yield Draft(partial)


def _draft_request(partial: Path) -> Any:
    try:
        return json.loads((partial / DRAFT).read_text())
    except (ValueError, OSError):
        return None


def tidy(path: Path) -> None:
    """Remove what only a draft needs."""
    shutil.rmtree(path / SCRATCH, ignore_errors=True)
    for name in (DRAFT, LOCK):
        (path / name).unlink(missing_ok=True)


def file_names(path: Path) -> list[str]:
    """What belongs to the artifact in a draft's folder."""
    names = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return sorted(name for name in names if name not in (MANIFEST, DRAFT, LOCK) and not name.startswith(f"{SCRATCH}/"))


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def partial_hint(path: Path) -> str:
    """What to do where an artifact is not there."""
    if _partial(path).exists():
        return "it is half-written: run the stage that makes it again and it goes on from there"
    return "run the stage that makes it first"

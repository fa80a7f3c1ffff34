"""Files: tensors, writes that appear whole or not at all, checksums.

Tensors are `safetensors`; nothing is pickled. A file is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from monosemy.runtime import Progress, UsageError


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old file or the new one, never half (temporary name, sync, rename)."""
    partial = path.with_name(f".{path.name}.tmp")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], note: tuple[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file that appears whole or not at all. Raises OSError if it cannot.

    `note` is an entry of the file's metadata. There can be one only: safetensors writes several in random order, and
    equal content must give equal bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(f".{path.name}.tmp")
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(ready, partial, metadata=None if note is None else dict([note]))
        sync(partial)
        partial.replace(path)
    except SafetensorError as error:
        partial.unlink(missing_ok=True)
        raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Read a safetensors file. Raises UsageError naming the file if it is not one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path, device=str(device)))
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{path}: cannot be read as safetensors ({error}); it is damaged or of another format"
        ) from error


def map_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The file's tensors, memory-mapped: nothing is read before it is used."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safe_open is no mapping)


@contextmanager
def new_database(path: Path) -> Iterator[sqlite3.Connection]:
    """A new SQLite file, committed and closed at the end. Raises OSError if it cannot be written."""
    path.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path)) as connection, connection:
            yield connection
    except sqlite3.Error as error:
        code = errno.ENOSPC if "full" in str(error) else errno.EIO
        raise OSError(code, str(error), str(path)) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(path: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of files under `path`, by their name there."""
    files = [path / name for name in names]
    digests = []
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress("checksums", len(files), unit="files") as bar:
        for digest in pool.map(file_digest, files):
            digests.append(digest)
            bar.advance()
    return {
        name: {"bytes": file.stat().st_size, "sha256": digest}
        for name, file, digest in zip(names, files, digests, strict=True)
    }


# Files this process has already found whole: (path, size, time of change). A stage often opens what the one before
# it in the same process has just opened.
_verified: set[tuple[str, int, int]] = set()


def verify(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse, by its name, a file under `path` that is missing, cut short or altered against `checksums`' entries."""
    waiting: list[tuple[Path, str, tuple[str, int, int]]] = []
    for name, entry in files.items():
        file = path / name
        if not file.is_file():
            raise UsageError(f"{file}: missing from its artifact; copy it back or make {path} again")
        stat = file.stat()
        if stat.st_size != entry["bytes"]:
            raise UsageError(
                f"{file}: has {stat.st_size} bytes, its manifest says {entry['bytes']}: cut short or altered; "
                f"copy it back or make {path} again"
            )
        mark = (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
        if mark not in _verified:
            waiting.append((file, entry["sha256"], mark))
    with ThreadPoolExecutor(os.cpu_count()) as pool, Progress(f"check {path.name}", len(waiting), unit="files") as bar:
        for (file, expected, mark), digest in zip(
            waiting, pool.map(file_digest, [file for file, _, _ in waiting]), strict=True
        ):
            if digest != expected:
                raise UsageError(
                    f"{file}: its checksum is not the one in its manifest: altered; copy it back or make {path} again"
                )
            _verified.add(mark)
            bar.advance()


def sync(path: Path) -> None:
    """Have the system write a file or folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(path: Path) -> None:
    """`sync` everything under `path`."""
    for entry in [*path.rglob("*"), path]:
        sync(entry)

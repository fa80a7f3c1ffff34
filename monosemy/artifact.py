"""Artifacts: what one stage finishes and the next one reads.

An artifact is a directory with a `manifest.json`: its kind, the config that made it, its parents by content hash,
library versions, and the size and SHA-256 of every file. It is written under a temporary name beside its place,
synced and renamed, so it is there whole or not at all. `make` is the one way to write one:

- a finished artifact with the same config and parents is reused;
- with another config it is refused: nothing is overwritten;
- a half-written one with the same config is handed back to its writer, which goes on from its own checkpoints;
  any other half-written one is removed.

`load` checks every byte against the manifest and refuses a damaged artifact by the file's name.
Tensors are `safetensors`, rows are SQLite, everything else is JSON or text; nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from monosemy.draft import MANIFEST, Draft, file_names, locked_draft, partial_hint, tidy
from monosemy.files import checksums, sync, sync_tree, verify, write_whole
from monosemy.runtime import UsageError, versions

FORMAT = 1

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Parent:
    """What an artifact was made from: its kind, its content hash, and where it was then."""

    kind: str
    id: str
    path: str


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its place and what its manifest says."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Which stage's output this is: tokens, model, activations, dictionaries, scores, features."""
        return str(self.manifest["kind"])

    @property
    def config(self) -> dict[str, Any]:
        """The settings that made it."""
        return dict(self.manifest["config"])

    @property
    def info(self) -> dict[str, Any]:
        """What its writer found out: counts, statistics, a summary."""
        return dict(self.manifest["info"])

    @property
    def id(self) -> str:
        """Content hash: kind, config, parents' hashes and every file's checksum."""
        parents = {name: parent["id"] for name, parent in self.manifest["parents"].items()}
        files = {name: entry["sha256"] for name, entry in self.manifest["files"].items()}
        return _digest([self.kind, self.config, parents, files])

    def as_parent(self) -> Parent:
        """This artifact as a child's manifest names it."""
        return Parent(self.kind, self.id, str(self.path.resolve()))

    def parent(self, name: str) -> Parent:
        """The parent called `name`, its path as it is seen from here."""
        entry = self.manifest["parents"][name]
        here = os.path.normpath(self.path.resolve() / entry["path"])
        return Parent(entry["kind"], entry["id"], here if Path(here).exists() else entry["path"])  # or a Hub name


def make(
    path: str | Path,
    kind: str,
    config: Config,
    parents: Mapping[str, Parent],
    write: Callable[[Draft], Mapping[str, Any]],
) -> Artifact:
    """The artifact at `path`: the finished one if it has this config and these parents, or a new one.

    `write` fills the draft and returns `info` for the manifest; scratch files it leaves under `scratch/` are dropped.
    Raises UsageError if `path` holds something else, or another process is writing it.
    """
    path = Path(path)
    wanted = _request(kind, config, parents)
    if path.exists() and any(path.iterdir() if path.is_dir() else [path]):
        return _reuse(path, kind, wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked_draft(path, wanted) as draft:
        if draft is None:  # another process finished it while this one came to the lock
            return _reuse(path, kind, wanted)
        info = write(draft)
        manifest = {
            "kind": kind,
            "format": FORMAT,
            "config": wanted["config"],
            "parents": {name: _parent_entry(path, parent) for name, parent in parents.items()},
            "info": _plain(info),
            "versions": versions(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": checksums(draft.path, file_names(draft.path)),
        }
        write_whole(draft.path / MANIFEST, json.dumps(manifest, indent=1).encode())
        sync_tree(draft.path)
        draft.path.rename(path)  # until here a kill leaves a draft that can be gone on from
        sync(path.parent)
        tidy(path)
    return Artifact(path, json.loads((path / MANIFEST).read_text()))


def load(path: str | Path, kind: str | None = None) -> Artifact:
    """Open a finished artifact and check every file against its manifest.

    Raises UsageError if there is none, it is of another kind or format, or a file is missing, cut short or altered.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"{path}: no such artifact; {partial_hint(path)}")
    if not (path / MANIFEST).is_file():
        raise UsageError(f"{path}: not a monosemy artifact (it has no {MANIFEST}); name the folder a stage wrote")
    manifest = _read_manifest(path)
    if kind is not None and manifest["kind"] != kind:
        raise UsageError(f"{path}: holds {manifest['kind']}, where {kind} are needed; name the {kind} folder")
    verify(path, manifest["files"])
    return Artifact(path, manifest)


def is_artifact(path: str | Path, kind: str) -> bool:
    """Whether `path` is a finished artifact of this kind (its files are not checked)."""
    path = Path(path)
    return (path / MANIFEST).is_file() and _read_manifest(path)["kind"] == kind


def load_parent(artifact: Artifact, name: str, override: str | Path | None = None) -> Artifact:
    """Open a parent where the manifest says it was, or at `override`; refuse another one in its place."""
    parent = artifact.parent(name)
    place = Path(override) if override is not None else artifact.path / parent.path  # absolute, where it exists
    if not place.exists():
        raise UsageError(f"{place}: the {name} that {artifact.path} was made from are gone; say where with --{name}")
    found = load(place, parent.kind)
    if found.id != parent.id:
        raise UsageError(
            f"{place}: not the {name} that {artifact.path} was made from "
            f"(content {found.id[:12]}, expected {parent.id[:12]}); say where those are with --{name}"
        )
    return found


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """As JSON would give it back, so that what is compared later is what is compared now."""
    return json.loads(json.dumps(value))


def _request(kind: str, config: Config, parents: Mapping[str, Parent]) -> dict[str, Any]:
    return {
        "kind": kind,
        "format": FORMAT,
        "config": _plain(dict(config)),
        "parents": {name: parent.id for name, parent in parents.items()},
    }


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except (ValueError, OSError) as error:
        raise UsageError(f"{path / MANIFEST}: damaged ({error}); make the artifact again") from error
    if not isinstance(manifest, dict) or not manifest.keys() >= {"kind", "config", "parents", "info", "files"}:
        raise UsageError(f"{path / MANIFEST}: not a manifest of this library; make the artifact again")
    if manifest.get("format") != FORMAT:
        raise UsageError(f"{path}: format {manifest.get('format')}, this version reads {FORMAT}; make it again")
    return manifest


def _parent_entry(path: Path, parent: Parent) -> dict[str, str]:
    """Relative, so that a run folder can be moved whole."""
    where = os.path.relpath(parent.path, path.resolve()) if Path(parent.path).exists() else parent.path
    return {"kind": parent.kind, "id": parent.id, "path": where}


def _reuse(path: Path, kind: str, wanted: Mapping[str, Any]) -> Artifact:
    if not (path.is_dir() and (path / MANIFEST).is_file()):
        raise UsageError(f"{path}: exists and is not a monosemy artifact; choose another place with --out")
    found = load(path, kind)
    tidy(path)
    have = _request(kind, found.config, {name: found.parent(name) for name in found.manifest["parents"]})
    if have != wanted:
        raise UsageError(f"{path}: made before with {_difference(have, wanted)}; choose another --out, or delete it")
    return found


def _difference(have: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    for part in ("config", "parents"):
        for name in sorted(have[part].keys() | wanted[part].keys()):
            old, new = have[part].get(name), wanted[part].get(name)
            if old != new:
                return f"other {name}" if part == "parents" else f"`{name}` = {old!r}, now {new!r}"
    return "other settings"

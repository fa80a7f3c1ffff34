"""A run folder, read for showing: which artifacts lie in it, what they say, and what to warn the reader of.

Only scores and features are checked byte by byte, for only their contents are shown; of the others the manifest is
enough, so a report of a run with a terabyte of activations does not read a terabyte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monosemy.analysis.feature import FeatureIndex
from monosemy.artifact import Artifact, is_artifact
from monosemy.draft import MANIFEST
from monosemy.metrics.calibration import Reliability
from monosemy.metrics.scores import IDENTITY, Scores
from monosemy.runtime import UsageError

# In the order in which they are made.
KINDS = ("tokens", "model", "activations", "dictionaries", "scores", "features", "verdicts", "explanations")
SHOWABLE = ("dictionaries", "scores", "features")

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What a run folder holds: one artifact a kind, the grid's rows, the chosen member, the index of its features."""

    path: Path
    artifacts: Mapping[str, Artifact]
    notes: Sequence[str]
    rows: Sequence[Row]
    """One a member: its scores, or only what it is: where there are none yet, or its training failed."""
    features: FeatureIndex | None

    chosen: int | None
    """The member to look at first, and why; None where nothing was scored."""
    why: str
    reliability: Mapping[int, Reliability] = field(default_factory=dict)
    """By member: how calibrated its presence is, where the truth is known."""

    @property
    def scored(self) -> bool:
        """Whether the rows hold scores."""
        return "scores" in self.artifacts

    @property
    def where(self) -> str:
        """The site or sites of the model that the dictionaries are of, in words; empty for a world's."""
        made = self.artifacts.get("dictionaries", self.artifacts.get("scores"))
        return sites_in_words(made.info) if made else ""

    @property
    def indexed(self) -> int | None:
        """The member whose features are in the index."""
        return self.features.artifact.config.get("member") if self.features else None


def open_run(path: str | Path) -> Run:
    """Read the finished artifacts directly inside the folder `path`.

    Raises UsageError if it is no folder, holds nothing to show, or what it holds is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise UsageError(f"`run` (={str(path)!r}) is not a folder; name the folder that holds a run's artifacts")
    artifacts, notes = _select(path)
    if not any(kind in artifacts for kind in SHOWABLE):
        raise UsageError(
            f"{path}: holds no finished dictionaries, scores or features, so there is nothing to show; "
            f"train dictionaries there first, or name another run"
        )
    scores = Scores.open(artifacts["scores"].path) if "scores" in artifacts else None
    rows = without_failed(scores.rows if scores else _members(artifacts.get("dictionaries")))
    features = FeatureIndex.open(artifacts["features"].path) if "features" in artifacts else None
    chosen, why = (scores.chosen, scores.why) if scores else (None, "")
    reliability = scores.reliability() if scores else {}
    run = Run(path, artifacts, [*notes, *_strangers(artifacts)], rows, features, chosen, why, reliability)
    indexed = next((row for row in rows if row["member"] == run.indexed and "failed" in row), None)
    if indexed is None:
        return run
    note = f"The features shown are those of member {run.indexed}, whose training {indexed['failed']}."
    return replace(run, notes=[*run.notes, note])


def sites_in_words(info: Mapping[str, Any]) -> str:
    """What dictionaries or their scores say of the sites of a model; empty where the rows are of none."""
    if sites := info.get("sites"):
        return f"sites {' / '.join(sites)}, side by side"
    if target := info.get("target_site"):
        return f"site {info['site']}, from which {target} is rebuilt"
    return f"site {info['site']}" if info.get("site") else ""


def without_failed(rows: Sequence[Row]) -> list[Row]:
    """The rows, where of a member whose training failed only what it is remains, with `failed` in words and why in
    `failure`: its scores are those of weights that were given up."""
    shown = []
    for row in rows:
        if not row.get("failure"):
            shown.append({name: value for name, value in row.items() if name not in ("failed", "failure")})
            continue
        step = row.get("failed")
        failed = "failed" if step is None else f"failed at step {step:,}"
        identity = {name: row.get(name) for name in IDENTITY}
        shown.append({**identity, "failed": failed, "failure": row["failure"]})
    return shown


def _select(path: Path) -> tuple[dict[str, Artifact], list[str]]:
    """One artifact a kind, and a note for each kind of which there are several."""
    artifacts: dict[str, Artifact] = {}
    notes: list[str] = []
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    for kind in KINDS:
        found = [_manifest_only(folder) for folder in folders if is_artifact(folder, kind)]
        if not found:
            continue
        named = [artifact for artifact in found if artifact.path.name == kind]
        artifacts[kind] = named[0] if named else max(found, key=lambda artifact: str(artifact.manifest["created"]))
        if len(found) > 1:
            reason = "named like its kind" if named else "the newest"
            names = ", ".join(artifact.path.name for artifact in found)
            notes.append(f"Several {kind} here ({names}); shown: {artifacts[kind].path.name}, {reason}.")
    return artifacts, notes


def _manifest_only(path: Path) -> Artifact:
    """Its files unchecked: they may be far larger than what is shown of them."""
    return Artifact(path, json.loads((path / MANIFEST).read_text()))


def _members(artifact: Artifact | None) -> list[Row]:
    if artifact is None:
        return []
    members = []
    for number, member in enumerate(artifact.info["members"]):
        own = {name: value for name, value in member.items() if name != "training"}
        members.append({"member": number, **own, "failed": member.get("training", {}).get("failed")})
    return members


def _strangers(artifacts: Mapping[str, Artifact]) -> list[str]:
    """A note for each artifact that was made from another one than the one shown beside it."""
    shown = {kind: artifact.id for kind, artifact in artifacts.items()}
    notes = []
    for kind, artifact in artifacts.items():
        for name, parent in artifact.manifest["parents"].items():
            if shown.get(parent["kind"], parent["id"]) != parent["id"]:
                notes.append(f"The {kind} were made from other {name} than the {parent['kind']} shown here.")
    return notes

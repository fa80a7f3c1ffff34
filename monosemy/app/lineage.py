"""The artifacts of a run and what each was made from, as a table and as a small graph.

Parents are named by content hash: an artifact that was made again from other settings is no longer its children's
parent, and the graph shows the one they were made from as missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monosemy.artifact import Artifact

COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 168, 50, 138, 38, 6  # pixels of the graph


def lineage(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """`artifacts`: one entry each, with its parents; `graph`: boxes and links between them, placed in pixels."""
    return {"artifacts": [_entry(name, artifacts) for name in artifacts], "graph": _graph(artifacts)}


def _entry(name: str, artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    artifact = artifacts[name]
    here = {each.id: own for own, each in artifacts.items()}
    parents = artifact.manifest["parents"]
    return {
        "name": name,
        "kind": artifact.kind,
        "id": artifact.id,
        "created": artifact.manifest["created"],
        "bytes": sum(file["bytes"] for file in artifact.manifest["files"].values()),
        "config": artifact.config,
        "parents": [
            {"name": role, "kind": parent["kind"], "id": parent["id"], "here": here.get(parent["id"])}
            for role, parent in parents.items()
        ],
        "versions": dict(artifact.manifest["versions"]),
    }


def _graph(artifacts: Mapping[str, Artifact]) -> dict[str, Any]:
    """A column for each step from what has no parents; what is not in the folder has a box too, marked as elsewhere.

    A link that a longer way through other artifacts implies is left out.
    """
    boxes = {artifact.id: (artifact.kind, name, True) for name, artifact in artifacts.items()}
    parents: dict[str, set[str]] = {}
    for artifact in artifacts.values():
        mine = artifact.manifest["parents"].values()
        for parent in mine:
            boxes.setdefault(parent["id"], (parent["kind"], parent["path"].rstrip("/").split("/")[-1], False))
        parents[artifact.id] = {parent["id"] for parent in mine}
    above = {key: _above(key, parents) for key in boxes}
    depth = {key: _depth(key, parents) for key in boxes}
    places, rows = {}, [0] * (max(depth.values()) + 1)
    for key in boxes:
        places[key] = (MARGIN + depth[key] * COLUMN, MARGIN + rows[depth[key]] * ROW)
        rows[depth[key]] += 1
    links = [
        _link(places[parent], places[key])
        for key, mine_too in parents.items()
        for parent in sorted(mine_too)
        if not any(parent in above[other] for other in mine_too - {parent})
    ]
    return {
        "width": 2 * MARGIN + (len(rows) - 1) * COLUMN + WIDTH,
        "height": 2 * MARGIN + (max(rows) - 1) * ROW + HEIGHT,
        "boxes": [
            {"name": name, "kind": kind, "here": here, "x": places[key][0], "y": places[key][1]}
            for key, (kind, name, here) in boxes.items()
        ],
        "links": links,
        "box": {"width": WIDTH, "height": HEIGHT},
    }


def _above(key: str, parents: Mapping[str, set[str]]) -> set[str]:
    """Everything that an artifact was made from, near and far."""
    mine = parents.get(key, set())
    return mine.union(*(_above(parent, parents) for parent in mine))


def _depth(key: str, parents: Mapping[str, set[str]]) -> int:
    return max((1 + _depth(parent, parents) for parent in parents.get(key, ())), default=0)


def _link(start: tuple[int, int], end: tuple[int, int]) -> list[int]:
    """Where a line leaves its parent on the right, and where it comes to its child on the left."""
    return [start[0] + WIDTH, start[1] + HEIGHT // 2, end[0], end[1] + HEIGHT // 2]

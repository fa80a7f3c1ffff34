"""The run that a server shows: what its folder held at the start, by name.

A request names things (an artifact's folder, a member's number, a feature's number); they are looked up in the tables
here, so no path from a request reaches the file system. Feature indexes, their verdicts and scores are checked byte by
byte when they are opened, a member's file when it is first needed; of everything else the manifest is enough. The model
is opened by the first live analysis, not before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import torch

from monosemy.analysis.feature import Feature, FeatureIndex
from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import Moments, feature_moments
from monosemy.analysis.result import Result
from monosemy.analysis.verdict_store import VerdictStore
from monosemy.app.recent import Recent
from monosemy.artifact import Artifact, Parent, is_artifact
from monosemy.dictionaries.store import DictionaryStore, member_file
from monosemy.draft import MANIFEST
from monosemy.explain.store import ExplanationStore
from monosemy.files import verify
from monosemy.metrics.scores import Scores
from monosemy.models.language_model import LanguageModel
from monosemy.report.run import KINDS, SHOWABLE, Row, without_failed
from monosemy.runtime import UsageError

Store = TypeVar("Store", VerdictStore, ExplanationStore)

LABS, MODELS = 4, 2  # dictionaries and models held open for live analyses
DIRECTIONS = 16  # of members, mapped from their files
MOMENTS = 2  # of dictionaries' neurons; each has N·D numbers and D²
RESULTS = 16  # of analyses that whole pages are made of


class NotFound(UsageError):
    """There is nothing of that name or number in this run."""


@dataclass(frozen=True)
class Grid:
    """A grid of dictionaries in the folder."""

    name: str
    artifact: Artifact
    rows: Sequence[Row]
    """One a member: its scores, or only what it is, where there are none or its training failed."""
    chosen: int | None
    """The member to look at first; None where nothing was scored."""
    why: str

    def row(self, member: int) -> Row:
        """A member's row. Raises NotFound."""
        for row in self.rows:
            if row["member"] == member:
                return row
        raise NotFound(f"`member` (={member}) must be from 0 to {len(self.rows) - 1} in {self.name}")


class State:
    """What is in the run folder `path`. Raises UsageError if it is no folder, holds nothing to show, or is damaged."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise UsageError(f"`run` (={str(path)!r}) is not a folder; name the folder that holds a run's artifacts")
        self.name = self.path.resolve().name
        self.artifacts = _found(self.path)
        if not any(artifact.kind in SHOWABLE for artifact in self.artifacts.values()):
            raise UsageError(
                f"{self.path}: holds no finished dictionaries, scores or features, so there is nothing to show; "
                f"train dictionaries there first, or name another run"
            )
        scores = [Scores.open(artifact.path) for artifact in self._of("scores").values()]
        self.grids = {name: _grid(name, artifact, scores) for name, artifact in self._of("dictionaries").items()}
        self.indexes = {name: FeatureIndex.open(artifact.path) for name, artifact in self._of("features").items()}
        stores = [VerdictStore.open(artifact.path) for artifact in self._of("verdicts").values()]
        self.verdicts = {name: next(iter(_beside(index, stores)), None) for name, index in self.indexes.items()}
        said = [ExplanationStore.open(artifact.path) for artifact in self._of("explanations").values()]
        self.explanations = {name: _beside(index, said) for name, index in self.indexes.items()}
        self._grid_of = {index: self._made_of(index) for index in self.indexes.values()}
        self._labs: Recent[Lab] = Recent(LABS)
        self._moments: Recent[Moments] = Recent(MOMENTS)
        self._models: Recent[LanguageModel] = Recent(MODELS)
        self._directions: Recent[torch.Tensor] = Recent(DIRECTIONS)
        self._opening = Lock()
        self.results: Recent[Result] = Recent(RESULTS)

    def grid(self, name: str | None = None) -> Grid:
        """The grid of that name; without one, the first. Raises NotFound."""
        if not self.grids:
            raise NotFound(f"{self.name} holds no finished dictionaries; train some with `monosemy train`")
        if name is None:
            return next(iter(self.grids.values()))
        if name not in self.grids:
            raise NotFound(f"`grid` (={name!r}) must be one of {', '.join(self.grids)}")
        return self.grids[name]

    def index(self, name: str | None = None) -> tuple[str, FeatureIndex]:
        """The feature index of that name; without one, the first. Raises NotFound."""
        if not self.indexes:
            raise NotFound(f"{self.name} holds no feature index; make one with `monosemy features`")
        if name is None:
            return next(iter(self.indexes.items()))
        if name not in self.indexes:
            raise NotFound(f"`index` (={name!r}) must be one of {', '.join(self.indexes)}")
        return name, self.indexes[name]

    def feature(self, index: FeatureIndex, i: int) -> Feature:
        """Feature `i` of an index. Raises NotFound."""
        return index.feature(self.checked(index, i))

    def checked(self, index: FeatureIndex, i: int) -> int:
        """The feature's number. Raises NotFound where the index has none of that number."""
        if not 0 <= i < index.n_features:
            raise NotFound(f"`feature` (={i}) must be from 0 to {index.n_features - 1}")
        return i

    def indexed(self, grid: Grid) -> dict[int, str]:
        """The members of a grid whose features are indexed: the name of the (first) index of each."""
        found: dict[int, str] = {}
        for name, index in self.indexes.items():
            if index.artifact.parent("dictionaries").id == grid.artifact.id:
                found.setdefault(index.artifact.config["member"], name)
        return found

    def member_of(self, index: FeatureIndex) -> tuple[Grid | None, int]:
        """The grid in this folder and the member that an index is of; None where the grid is not here."""
        return self._grid_of[index], index.artifact.config["member"]

    def _made_of(self, index: FeatureIndex) -> Grid | None:
        made = index.artifact.parent("dictionaries").id
        return next((grid for grid in self.grids.values() if grid.artifact.id == made), None)

    def directions(self, grid: Grid, member: int) -> torch.Tensor:
        """W_dec_ND of a member, memory-mapped; its file is checked when it is first asked for. Raises NotFound."""
        grid.row(member)
        found = self._directions.get((grid.name, member))
        if found is None:
            path, name = grid.artifact.path, member_file(member)
            verify(path, {name: grid.artifact.manifest["files"][name]})
            found = self._directions.put((grid.name, member), DictionaryStore(grid.artifact).directions(member))
        return found

    def lab(self, dictionaries: str, member: int) -> Lab:
        """A member of the grid called `dictionaries` with its model and corpus, for live analyses; opened once.

        Raises NotFound for a name or number that is not here, UsageError where model or tokens are gone.
        """
        grid = self.grid(dictionaries)
        grid.row(member)
        with self._opening:
            return self._labs.get((grid.name, member)) or self._labs.put(
                (grid.name, member), self._open_lab(grid, member)
            )

    def moments(self, dictionaries: str, member: int, max_tokens: int) -> Moments:
        """The moments of all features of a member over `max_tokens` tokens of its corpus; gathered once, and kept whole
        or not at all. Raises as `lab` does."""
        key = (dictionaries, member, max_tokens)
        found = self._moments.get(key)
        if found is None:
            found = self._moments.put(key, feature_moments(self.lab(dictionaries, member), max_tokens=max_tokens))
        return found

    def activations(self, grid: Grid) -> Path:
        """The folder of the activations that the grid was trained on. Raises UsageError where there are none."""
        if "activations" not in grid.artifact.manifest["parents"]:
            raise UsageError(f"{grid.name}: was not trained on a model's activations, so nothing can be put through it")
        place = Path(self._place(grid.artifact.parent("activations")))
        if not (place / MANIFEST).is_file():
            raise UsageError(f"{place}: the activations that {grid.name} was trained on are gone; copy them back")
        return place

    def source(self, grid: Grid) -> Artifact:
        """What names the model and the tokens of a grid: an index of its features, else its activations.

        Raises UsageError where there is neither.
        """
        name = next(iter(self.indexed(grid).values()), None)
        return _manifest_only(self.activations(grid)) if name is None else self.indexes[name].artifact

    def model_of(self, grid: Grid) -> str | None:
        """The id of the model whose activations a grid is of; None where nothing that is still there says it."""
        try:
            return self.source(grid).parent("model").id
        except UsageError:
            return None

    def _open_lab(self, grid: Grid, member: int) -> Lab:
        name = self.indexed(grid).get(member)
        index = None if name is None else self.indexes[name]
        source = index.artifact if index is not None else self.source(grid)
        model, tokens = source.parent("model"), source.parent("tokens")
        network = self._models.get(model.id) or self._models.put(model.id, LanguageModel.load(self._place(model)))
        return Lab.open(grid.artifact.path, member=member, model=network, tokens=self._place(tokens), index=index)

    def _place(self, parent: Parent) -> str:
        """Where a parent lies: in this folder, where its content is here, else where it was."""
        here = (artifact.path for artifact in self.artifacts.values() if artifact.id == parent.id)
        return str(next(here, parent.path))

    def _of(self, kind: str) -> Mapping[str, Artifact]:
        return {name: artifact for name, artifact in self.artifacts.items() if artifact.kind == kind}


def _found(path: Path) -> dict[str, Artifact]:
    """Every finished artifact in the folder by its name: in the order of the stages, one named like its kind first."""
    folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    found = [_manifest_only(folder) for folder in folders if any(is_artifact(folder, kind) for kind in KINDS)]
    found.sort(key=lambda artifact: (KINDS.index(artifact.kind), artifact.path.name != artifact.kind, artifact.path))
    return {artifact.path.name: artifact for artifact in found}


def _beside(index: FeatureIndex, stores: Sequence[Store]) -> list[Store]:
    """Those of the neuron verdicts, or explanations, that are of an index."""
    return [each for each in stores if each.artifact.parent("features").id == index.artifact.id]


def _grid(name: str, artifact: Artifact, scores: Sequence[Scores]) -> Grid:
    mine = next((each for each in scores if each.artifact.parent("dictionaries").id == artifact.id), None)
    if mine is not None:
        return Grid(name, artifact, without_failed(mine.rows), mine.chosen, mine.why)
    members = [
        {"member": number, **{key: value for key, value in member.items() if key != "training"}}
        | {"failed": member.get("training", {}).get("failed")}
        for number, member in enumerate(artifact.info["members"])
    ]
    return Grid(name, artifact, without_failed(members), None, "")


def _manifest_only(path: Path) -> Artifact:
    """Its files unchecked: they may be far larger than what is shown of them."""
    manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    return Artifact(path, manifest)

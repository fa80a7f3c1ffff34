"""What a request names and an analysis takes opened: a member with its model, a grid, the rows it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.lab import Lab
from monosemy.analysis.moments import Moments, feature_moments
from monosemy.app.script import Opened
from monosemy.app.state import Grid
from monosemy.data.activations import ActivationStore


class Holds(Protocol):
    """What is needed of the `State`."""

    @property
    def indexes(self) -> Mapping[str, FeatureIndex]:
        """Every feature index by its name."""

    def grid(self, name: str | None = None) -> Grid:
        """The grid of dictionaries of that name."""

    def lab(self, dictionaries: str, member: int) -> Lab:
        """A member of it with its model and its corpus."""

    def moments(self, dictionaries: str, member: int, max_tokens: int) -> Moments:
        """The moments of all features of a member."""

    def indexed(self, grid: Grid) -> Mapping[int, str]:
        """The names of the indexes of its members."""

    def activations(self, grid: Grid) -> Path:
        """Where the rows lie that a grid was trained on."""


@dataclass(frozen=True)
class LabOf:
    """A member of a grid with its model and its corpus."""

    dictionaries: str
    member: int
    name: str = "lab"

    def open(self, state: Holds) -> Opened:
        """Raises UsageError where it is not there, or what it needs is gone."""
        lab = state.lab(self.dictionaries, self.member)
        path = state.grid(self.dictionaries).artifact.path
        options = {
            "member": self.member,
            "model": lab.model.as_parent().path,
            "tokens": str(lab.tokens.artifact.path.resolve()),
            "index": None if lab.index is None else str(lab.index.artifact.path.resolve()),
            "device": lab.model.device.type,
        }
        lines = [f"    {name}={value!r}," for name, value in options.items() if value is not None]
        lines = [f"{self.name} = Lab.open(", f"    {str(path.resolve())!r},", *lines, ")"]
        return Opened(self.name, lab, lines, [f"from {Lab.__module__} import Lab"])


@dataclass(frozen=True)
class GridOf:
    """A grid of dictionaries, by its folder."""

    dictionaries: str

    def open(self, state: Holds) -> Opened:
        """Raises NotFound where it is not there."""
        path = str(state.grid(self.dictionaries).artifact.path.resolve())
        return Opened("grid", path, [f"grid = {path!r}"])


@dataclass(frozen=True)
class MemberOf:
    """A member of a grid, as comparisons of dictionaries take it: the grid's folder and the member's number."""

    dictionaries: str
    member: int
    name: str

    def open(self, state: Holds) -> Opened:
        """Raises NotFound where it is not there."""
        grid = state.grid(self.dictionaries)
        grid.row(self.member)
        value = (str(grid.artifact.path.resolve()), self.member)
        return Opened(self.name, value, [f"{self.name} = {value!r}"])


@dataclass(frozen=True)
class MembersOf:
    """Several members, likewise."""

    dictionaries: str
    members: Sequence[int]
    name: str

    def open(self, state: Holds) -> Opened:
        """Raises NotFound where one is not there."""
        value = [MemberOf(self.dictionaries, member, "").open(state).value for member in self.members]
        return Opened(self.name, value, [f"{self.name} = {value!r}"])


@dataclass(frozen=True)
class IndexOf:
    """The index of a member's features, by its folder; None where they are not indexed."""

    dictionaries: str
    member: int

    def open(self, state: Holds) -> Opened:
        """Raises NotFound where the grid is not there."""
        name = state.indexed(state.grid(self.dictionaries)).get(self.member)
        value = None if name is None else str(state.indexes[name].artifact.path.resolve())
        return Opened("index", value, [f"index = {value!r}"])


@dataclass(frozen=True)
class IndexesOf:
    """The indexes of several members (None: of all), likewise."""

    dictionaries: str
    members: Sequence[int] | None

    def open(self, state: Holds) -> Opened:
        """Raises NotFound where the grid is not there."""
        rows = state.grid(self.dictionaries).rows
        members = [row["member"] for row in rows] if self.members is None else self.members
        value = [IndexOf(self.dictionaries, member).open(state).value for member in members]
        return Opened("indexes", value, [f"indexes = {value!r}"])


@dataclass(frozen=True)
class RowsOf:
    """The activations that a grid was trained on."""

    dictionaries: str

    def open(self, state: Holds) -> Opened:
        """Raises UsageError where they are gone."""
        path = state.activations(state.grid(self.dictionaries)).resolve()
        imports = [f"from {ActivationStore.__module__} import ActivationStore"]
        return Opened("rows", ActivationStore.open(path), [f"rows = ActivationStore.open({str(path)!r})"], imports)


@dataclass(frozen=True)
class MomentsOf:
    """The moments of all features of a member, which serve every one of them."""

    dictionaries: str
    member: int
    max_tokens: int

    def open(self, state: Holds) -> Opened:
        """Raises UsageError as LabOf; the Python needs its `lab`."""
        value = state.moments(self.dictionaries, self.member, self.max_tokens)
        lines = [f"moments = {feature_moments.__name__}(lab, max_tokens={self.max_tokens})"]
        imports = [f"from {feature_moments.__module__} import {feature_moments.__name__}"]
        return Opened("moments", value, lines, imports)


Reference = LabOf | GridOf | MemberOf | MembersOf | IndexOf | IndexesOf | RowsOf | MomentsOf

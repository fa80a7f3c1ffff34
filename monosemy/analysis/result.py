"""What an analysis gives: a typed result that tabulates, plots and saves itself, and has a JSON twin.

A result is a frozen dataclass of numbers, texts and tensors. It says what its `table` and its `charts` are; the rest
is the same for all: `data` (what a server sends and a file keeps), `csv`, `plot`, `save`.
"""

from __future__ import annotations

import csv
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from monosemy.analysis.chart import Chart, figure_of
from monosemy.figure import svg_file, svg_source
from monosemy.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a text that begins so


@dataclass(frozen=True)
class Table:
    """Named columns and rows of numbers, texts, truths and None."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def csv(self) -> str:
        """As comma-separated values; None is empty, and no text is a formula to a spreadsheet."""
        text = io.StringIO()
        writer = csv.writer(text)  # its own line end, CRLF, has it quote a token that is one of the two
        writer.writerow(self.columns)
        writer.writerows([[_cell(value) for value in row] for row in self.rows])
        return text.getvalue()


class Result(ABC):
    """What every result of an analysis can do. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    """What the analysis is called: in file names and on the server."""

    @abstractmethod
    def table(self) -> Table:
        """Its numbers, one row a thing that was measured."""

    @abstractmethod
    def charts(self) -> Sequence[Chart]:
        """Its pictures, in the order in which one would look."""

    def data(self) -> dict[str, Any]:
        """All of it as JSON would hold it; tensors are lists, what is not finite is None."""
        plain: dict[str, Any] = as_plain(self)
        return {"analysis": self.name, **plain}

    def plot(self, which: int = 0) -> Figure:
        """Its picture number `which` as a matplotlib figure."""
        return figure_of(self.charts()[which])

    def save(self, folder: str | Path) -> Path:
        """Write `{name}.json`, `{name}.csv` and a picture a chart, `{name}-{chart}.svg`; gives the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{self.name}.json", json.dumps(self.data(), ensure_ascii=False).encode())
        write_whole(folder / f"{self.name}.csv", self.table().csv().encode())
        for chart in self.charts():
            source = svg_source(figure_of(chart), chart.name)
            write_whole(folder / f"{self.name}-{chart.name}.svg", svg_file(source))
        return folder


def as_plain(value: Any) -> Any:
    """A value as JSON would give it back: dataclasses are objects, tensors lists, what is not finite None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, torch.Tensor):
        return as_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list | range):
        return [as_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value

"""Reading a feature index: one row a feature in SQLite, its examples, histogram and logits in memory-mapped tensors.

Shapes: N features, E examples, W = window, H histogram bins, L tokens of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from monosemy.analysis import feature_table
from monosemy.analysis.feature_query import Beside, FeatureQuery
from monosemy.analysis.texts import TokenTexts
from monosemy.artifact import Artifact, load
from monosemy.files import map_tensors
from monosemy.runtime import UsageError, in_batches

GROUPS = ("top", "uniform", "quantile", "random")
PARTS = ("offset", "document", "tokens", "values")
VALUES_AT_ONCE = 10_000  # bound in one query
DOCUMENTS = 50_000  # whose names are kept, about


@dataclass(frozen=True)
class Example:
    """A window of text and the feature's code on each of its tokens. Windows end where their row ends."""

    document: str
    """Where the text came from."""
    offset: int
    """The place of the peak in the token stream."""
    position: int
    """The place of the peak in its document, from 0."""
    peak: int
    """Which of `tokens` the window was drawn for: the firing, or in "random" the middle."""
    tokens: list[str]
    """Text of each token; where several make one character, the first has it and the others are empty."""
    values: list[float]
    """The code on each token."""
    group: int
    """In "uniform" the number of the bin, in "quantile" of the group, the weakest 0; else 0."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A feature's row in the index."""

    id: int
    density: float
    """Share of the tokens on which it fires; 0 means less than the index's detection limit."""
    count: int
    """Tokens on which it fires."""
    max: float
    """Largest code; 0 where it never fires."""
    mean: float
    """Mean code over the tokens on which it fires; 0 where it never does."""
    dead: bool
    """It fires on no token of the corpus."""
    mcs_other_seed: float | None
    """Largest cosine with a feature of the same dictionary from another seed; None where there is none."""
    top_token: str | None = None
    """Text of the token on which it fires most often; None where it never fires."""


@dataclass(frozen=True, kw_only=True)
class Feature(Summary):
    """Everything the index says of one feature."""

    histogram: tuple[list[float], list[int]]
    """Edges of the bins (one more than bins) and firings in each."""
    top_logits: list[tuple[str, float]]
    """Tokens that the feature's direction makes most likely, and by how much; empty where the site has no such path."""
    bottom_logits: list[tuple[str, float]]
    """Tokens that it makes least likely, the most extreme first."""
    examples: dict[str, list[Example]]
    """"top", strongest first; "uniform" and "quantile", weakest first; "random", in which it does not fire. "uniform"
    is empty in an index that was made before there was any."""


class FeatureIndex:
    """A finished feature index. Make one with `features`, open one with `FeatureIndex.open`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        info = artifact.info
        self.n_features: int = info["n_features"]
        self.n_tokens: int = info["n_tokens"]
        self.detection_limit: float = info["detection_limit"]
        self.has_logits: bool = info["logits"]
        self._before: int = artifact.config["before"]
        self._per_group = {"uniform": 1, "quantile": artifact.config["per_quantile"]}
        self._examples = _mapped(artifact.path / "examples.safetensors")
        for part in PARTS:  # an index that was made before there was "uniform" has none
            self._examples.setdefault(f"uniform_{part}", np.zeros((self.n_features, 0)))
        self._histogram = _mapped(artifact.path / "histogram.safetensors")
        self._logits = _mapped(artifact.path / "logits.safetensors") if self.has_logits else {}
        self._known_documents: dict[int, tuple[str, int]] = {}
        self._database = artifact.path / "features.sqlite"
        self._query = FeatureQuery(self._database)

    @classmethod
    def open(cls, path: str | Path | FeatureIndex) -> FeatureIndex:
        """Open and check the index at `path`; one that is open already is given back."""
        return path if isinstance(path, FeatureIndex) else cls(load(path, "features"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the corpus."""
        return Tokenizer.from_file(str(self.artifact.path / "tokenizer" / "tokenizer.json"))

    @cached_property
    def texts(self) -> TokenTexts:
        """Token ids as text."""
        return TokenTexts(self.tokenizer)

    @cached_property
    def token_lists(self) -> dict[str, torch.Tensor]:
        """Tokens of each feature and features of each token, memory-mapped (`TokenTable.lists`).

        Raises UsageError where the index was made before there were any.
        """
        file = self.artifact.path / "tokens.safetensors"
        if not file.exists():
            raise UsageError(
                f"{self.artifact.path}: holds no tokens of features; make it anew with `monosemy features`"
            )
        return map_tensors(file)

    @cached_property
    def max_N(self) -> torch.Tensor:
        """Every feature's largest code, fp32 [N]; 0 where it never fires."""
        return torch.tensor(feature_table.column_of(self._database, "max"))

    def table(self) -> list[dict[str, Any]]:
        """One row a feature: id, density, count, max, mean, dead, mcs_other_seed, top_token."""
        return self.rows("SELECT * FROM feature ORDER BY id")

    def page(
        self,
        sort: str = "id",
        descending: bool = False,
        limit: int = 50,
        offset: int = 0,
        beside: Sequence[Beside] = (),
        **filters: Any,
    ) -> tuple[list[dict[str, Any]], int]:
        """`limit` rows of the table from row `offset` on, in the order of the column `sort`, and how many there are.

        Equals are in the order of their ids, which turns with `descending`; what has no value (None) counts as the
        smallest. `filters`: `column=value` is equal (None: has no value), `column_min` and `column_max` are bounds that
        belong to it; `top_token="the"` is there where the text contains it, in capitals or not. All filters must hold.
        Tables `beside` add their columns to the rows, to sort and to filter by. Raises UsageError for names that are no
        columns, values that are no numbers, a limit over 10,000, a table beside that lacks features.
        """
        return self._query.page(sort, descending, limit, offset, filters, beside)

    def summary(self, i: int) -> Summary:
        """The row of feature `i`. Raises UsageError if there is none of that number."""
        if not 0 <= i < self.n_features:
            raise UsageError(f"`feature` (={i}) must be from 0 to {self.n_features - 1} in {self.artifact.path}")
        (row,) = self.rows("SELECT * FROM feature WHERE id = ?", i)
        return Summary(**{**row, "dead": bool(row["dead"])})

    def feature(self, i: int) -> Feature:
        """Everything about feature `i`. Raises UsageError if there is none of that number."""
        return Feature(
            **vars(self.summary(i)),
            histogram=(self._histogram["edges"].tolist(), self._histogram["counts"][i].tolist()),
            top_logits=self._tokens("top", i),
            bottom_logits=self._tokens("bottom", i),
            examples=self._groups(i),
        )

    def offsets(self, group: str) -> torch.Tensor:
        """Places in the token stream of all features' examples in a group, int64 [N, E], memory-mapped; −1: none."""
        return torch.from_numpy(self._examples[f"{group}_offset"])

    def examples(self, group: str, start: int, end: int, most: int | None = None) -> list[list[Example]]:
        """The examples of the features `start` … `end` − 1 in one group (no more than `most` of each), read at once."""
        kept = self._kept(group, slice(start, end), most)
        return self._in_group(group, kept, self._documents({number for row in kept[1] for number in row}))

    def _tokens(self, side: str, i: int) -> list[tuple[str, float]]:
        if not self.has_logits:
            return []
        ids_L, values_L = self._logits[f"{side}_ids"][i].tolist(), self._logits[f"{side}_values"][i].tolist()
        return [(self.texts.of(token_id), value) for token_id, value in zip(ids_L, values_L, strict=True)]

    def _groups(self, i: int) -> dict[str, list[Example]]:
        """The examples of a feature by group."""
        kept = {group: self._kept(group, slice(i, i + 1)) for group in GROUPS}
        documents = self._documents({number for parts in kept.values() for number in parts[1][0]})
        return {group: self._in_group(group, parts, documents)[0] for group, parts in kept.items()}

    def _kept(self, group: str, features: slice, most: int | None = None) -> list[Any]:
        """The PARTS of examples of some features, as lists at once: a page has over a thousand tokens."""
        return [self._examples[f"{group}_{part}"][features, :most].tolist() for part in PARTS]

    def _in_group(self, group: str, kept: list[Any], documents: Mapping[int, tuple[str, int]]) -> list[list[Example]]:
        found: list[list[Example]] = []
        for rows in zip(*kept, strict=True):
            found.append([])
            per_group = self._per_group.get(group, len(rows[0]))
            for e, (offset, document, ids_W, values_W) in enumerate(zip(*rows, strict=True)):
                if offset >= 0:
                    found[-1].append(self._example(documents[document], offset, ids_W, values_W, e // per_group))
        return found

    def _example(
        self, document: tuple[str, int], offset: int, ids_W: list[int], values_W: list[float], group: int
    ) -> Example:
        outside, end = 0, len(ids_W)
        while ids_W[outside] < 0:  # before its row's first token
            outside += 1
        while ids_W[end - 1] < 0:
            end -= 1
        name, start = document
        return Example(
            document=name, offset=offset, position=offset - start, peak=self._before - outside,
            tokens=self.texts.sequence(ids_W[outside:end]), values=values_W[outside:end], group=group,
        )  # fmt: skip

    def _documents(self, numbers: set[int]) -> dict[int, tuple[str, int]]:
        """Name and first place in the token stream, by number; what was read is kept, for features share documents."""
        known = self._known_documents
        found = {number: about for number in numbers if (about := known.get(number)) is not None}
        for some in in_batches(numbers - found.keys() - {-1}, VALUES_AT_ONCE):
            marks = ", ".join("?" * len(some))
            rows = self.rows(f"SELECT * FROM document WHERE id IN ({marks})", *some)
            found |= {row["id"]: (row["name"], row["start"]) for row in rows}
        if len(known) > DOCUMENTS:
            known.clear()
        known.update(found)
        return found

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """What an SQL query of the tables `feature`, `document` and `token` finds. Read only, from any thread."""
        return feature_table.rows_of(self._database, query, *values)


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """A file's tensors, memory-mapped, as arrays: one feature's numbers are read from those in a tenth of the time."""
    return {name: tensor.numpy() for name, tensor in map_tensors(path).items()}

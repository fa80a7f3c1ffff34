"""Reading a feature index: one row a feature in SQLite, its examples, histogram and logits in memory-mapped tensors.

Shapes: N features, E examples, W = window, H histogram bins, L tokens of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

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
        self._examples = map_tensors(artifact.path / "examples.safetensors")
        for part in PARTS:  # an index that was made before there was "uniform" has none
            self._examples.setdefault(f"uniform_{part}", torch.zeros(self.n_features, 0))
        self._histogram = map_tensors(artifact.path / "histogram.safetensors")
        self._logits = map_tensors(artifact.path / "logits.safetensors") if self.has_logits else {}
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
            **asdict(self.summary(i)),
            histogram=(self._histogram["edges"].tolist(), self._histogram["counts"][i].tolist()),
            top_logits=self._tokens("top", i),
            bottom_logits=self._tokens("bottom", i),
            examples=self._groups(i),
        )

    def offsets(self, group: str) -> torch.Tensor:
        """The places in the token stream of every feature's examples in one group, int64 [N, E], memory-mapped; −1
        where a feature has fewer."""
        return self._examples[f"{group}_offset"]

    def examples(self, group: str, start: int, end: int, most: int | None = None) -> list[list[Example]]:
        """The examples of the features `start` … `end` − 1 in one group (no more than `most` of each), read at once."""
        numbers_BE = self._examples[f"{group}_document"][start:end, :most]
        return self._in_group(group, slice(start, end), self._documents({*numbers_BE.flatten().tolist()}), most)

    def _tokens(self, side: str, i: int) -> list[tuple[str, float]]:
        if not self.has_logits:
            return []
        ids_L, values_L = self._logits[f"{side}_ids"][i].tolist(), self._logits[f"{side}_values"][i].tolist()
        return [(self.texts.of(token_id), value) for token_id, value in zip(ids_L, values_L, strict=True)]

    def _groups(self, i: int) -> dict[str, list[Example]]:
        """The examples of a feature by group."""
        numbers = {number for group in GROUPS for number in self._examples[f"{group}_document"][i].tolist()}
        documents = self._documents(numbers)
        return {group: self._in_group(group, slice(i, i + 1), documents)[0] for group in GROUPS}

    def _in_group(
        self, group: str, features: slice, documents: Mapping[int, tuple[str, int]], most: int | None = None
    ) -> list[list[Example]]:
        """As lists at once: a page has over a thousand tokens."""
        kept = [self._examples[f"{group}_{part}"][features, :most].tolist() for part in PARTS]
        sizes = {"uniform": 1, "quantile": self.artifact.config["per_quantile"]}
        found = []
        for rows in zip(*kept, strict=True):
            per_group = sizes.get(group, len(rows[0]))
            found.append(
                [
                    self._example(documents[document], offset, ids_W, values_W, e // per_group)
                    for e, (offset, document, ids_W, values_W) in enumerate(zip(*rows, strict=True))
                    if offset >= 0
                ]
            )
        return found

    def _example(
        self, document: tuple[str, int], offset: int, ids_W: list[int], values_W: list[float], group: int
    ) -> Example:
        outside = next(place for place, token in enumerate(ids_W) if token >= 0)  # before its row's first token
        end = len(ids_W) - next(place for place, token in enumerate(reversed(ids_W)) if token >= 0)
        name, start = document
        return Example(
            document=name,
            offset=offset,
            position=offset - start,
            peak=self.artifact.config["before"] - outside,
            tokens=self.texts.sequence(ids_W[outside:end]),
            values=values_W[outside:end],
            group=group,
        )

    def _documents(self, numbers: set[int]) -> dict[int, tuple[str, int]]:
        """Name and first place in the token stream, by number."""
        found = {}
        for some in in_batches(numbers, VALUES_AT_ONCE):
            marks = ", ".join("?" * len(some))
            for row in self.rows(f"SELECT * FROM document WHERE id IN ({marks})", *some):
                found[row["id"]] = row["name"], row["start"]
        return found

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """What an SQL query of the tables `feature`, `document` and `token` finds. Read only, from any thread."""
        return feature_table.rows_of(self._database, query, *values)

    @property
    def _database(self) -> Path:
        return self.artifact.path / "features.sqlite"

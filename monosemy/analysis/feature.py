"""Reading a feature index: one row a feature in SQLite, its examples, histogram and logits in memory-mapped tensors.

Shapes: N features, E examples, W = window, H histogram bins, L tokens of the logits.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from monosemy.analysis.texts import TokenTexts
from monosemy.artifact import Artifact, load
from monosemy.files import map_tensors
from monosemy.runtime import UsageError

GROUPS = ("top", "quantile", "random")


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
    """In "quantile" the number of the group, weakest 0; else 0."""


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Feature(Summary):
    """Everything the index says of one feature."""

    histogram: tuple[list[float], list[int]]
    """Edges of the bins (one more than bins) and firings in each."""
    top_logits: list[tuple[str, float]]
    """Tokens that the feature's direction makes most likely, and by how much; empty where the site has no such path."""
    bottom_logits: list[tuple[str, float]]
    """Tokens that it makes least likely, the most extreme first."""
    examples: dict[str, list[Example]]
    """"top", strongest first; "quantile", weakest first; "random", in which it does not fire."""


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
        self._histogram = map_tensors(artifact.path / "histogram.safetensors")
        self._logits = map_tensors(artifact.path / "logits.safetensors") if self.has_logits else {}

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

    def table(self) -> list[dict[str, Any]]:
        """One row a feature: id, density, count, max, mean, dead, mcs_other_seed."""
        return self._rows("SELECT * FROM feature ORDER BY id")

    def summary(self, i: int) -> Summary:
        """The row of feature `i`. Raises UsageError if there is none of that number."""
        if not 0 <= i < self.n_features:
            raise UsageError(f"`feature` (={i}) must be from 0 to {self.n_features - 1} in {self.artifact.path}")
        (row,) = self._rows("SELECT * FROM feature WHERE id = ?", i)
        return Summary(**{**row, "dead": bool(row["dead"])})

    def feature(self, i: int) -> Feature:
        """Everything about feature `i`. Raises UsageError if there is none of that number."""
        return Feature(
            **asdict(self.summary(i)),
            histogram=(self._histogram["edges"].tolist(), self._histogram["counts"][i].tolist()),
            top_logits=self._tokens("top", i),
            bottom_logits=self._tokens("bottom", i),
            examples={group: self._group(group, i) for group in GROUPS},
        )

    def _tokens(self, side: str, i: int) -> list[tuple[str, float]]:
        if not self.has_logits:
            return []
        ids_L, values_L = self._logits[f"{side}_ids"][i].tolist(), self._logits[f"{side}_values"][i].tolist()
        return [(self.texts.of(token_id), value) for token_id, value in zip(ids_L, values_L, strict=True)]

    def _group(self, group: str, i: int) -> list[Example]:
        offset_E, document_E = self._examples[f"{group}_offset"][i], self._examples[f"{group}_document"][i]
        tokens_EW, values_EW = self._examples[f"{group}_tokens"][i], self._examples[f"{group}_values"][i]
        documents = self._documents(document_E)
        per_group = self.artifact.config["per_quantile"] if group == "quantile" else len(offset_E)
        return [
            self._example(*documents[int(document_E[e])], int(offset_E[e]), tokens_EW[e], values_EW[e], e // per_group)
            for e in (offset_E >= 0).nonzero().squeeze(1).tolist()
        ]

    def _example(
        self, name: str, start: int, offset: int, ids_W: torch.Tensor, values_W: torch.Tensor, group: int
    ) -> Example:
        real_W = ids_W >= 0
        return Example(
            document=name,
            offset=offset,
            position=offset - start,
            peak=int(real_W[: self.artifact.config["before"]].sum()),
            tokens=self.texts.sequence(ids_W[real_W].tolist()),
            values=values_W[real_W].tolist(),
            group=group,
        )

    def _documents(self, document_E: torch.Tensor) -> dict[int, tuple[str, int]]:
        """Name and first place in the token stream, by number."""
        numbers = torch.unique(document_E[document_E >= 0]).tolist()
        marks = ", ".join("?" * len(numbers))
        rows = self._rows(f"SELECT * FROM document WHERE id IN ({marks})", *numbers)
        return {row["id"]: (row["name"], row["start"]) for row in rows}

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        place = f"{(self.artifact.path / 'features.sqlite').resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(place, uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, values)]

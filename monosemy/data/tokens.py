"""Documents → a packed token store, in which every token still knows its row, its document and its position.

All tokens lie in one flat stream, document after document in a seeded order. A row is a stretch of that stream:
packed, every `context` tokens (documents may share a row, with the tokenizer's separator between them); unpacked,
one document a row, cut at `context`. The last `holdout` share of the rows is never trained on by any stage.

Shapes: T tokens in the stream, R rows, B rows of a batch, C = context.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from tokenizers import Tokenizer

from monosemy.artifact import Artifact, load, make
from monosemy.data.corpus import Corpus, Document, open_corpus
from monosemy.data.tokenizer import Edge, Edges, edges_of, fingerprint, open_tokenizer, train_bpe
from monosemy.draft import Draft
from monosemy.files import map_tensors, new_database, save_tensors, write_whole
from monosemy.runtime import Progress, UsageError, check_choices, in_batches, seed_for, settings_of

ENCODE_BATCH = 64


@dataclass(frozen=True)
class TokenSettings:
    """How documents become rows of tokens."""

    tokenizer: str = "bpe:4096"
    """A folder, a tokenizer.json, a Hub name, or bpe:SIZE to train a byte-pair tokenizer on the source itself."""
    context: int = 256
    """Tokens a row."""
    packed: bool = True
    """Join documents into full rows; otherwise one document a row, cut at `context`."""
    holdout: float = 0.1
    """Share of the rows that no stage trains on; scores are measured there."""
    bos: Edge = "auto"
    """Put the tokenizer's BOS before every document: auto does where the tokenizer itself does."""
    eos: Edge = "auto"
    """Put the tokenizer's EOS after every document: auto does where there is no BOS."""
    text_field: str = "text"
    """The field of a JSON line or data set row that holds the text."""
    seed: int = 0
    """Of the order of the documents."""

    def __post_init__(self) -> None:
        check_choices(self, bos=get_args(Edge), eos=get_args(Edge))
        if self.context < 2:
            raise UsageError(f"`context` (={self.context}) must be at least 2: a loss needs a next token")
        if not 0 <= self.holdout < 1:
            raise UsageError(f"`holdout` (={self.holdout}) must be at least 0 and below 1")


@dataclass(frozen=True)
class TokenBatch:
    """Rows of tokens. `ids_BC` is padded with 0 on the right; `mask_BC` is True on real tokens; `offset_B` is each
    row's first place in the flat stream, so token (b, c) is the stream's token `offset_B[b] + c`."""

    ids_BC: torch.Tensor
    mask_BC: torch.Tensor
    offset_B: torch.Tensor


class TokenStore:
    """A finished token store. Build one with `tokenize`, open one with `TokenStore.open`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        tensors = map_tensors(artifact.path / "tokens.safetensors")
        self.tokens_T, self.doc_starts_D = tensors["tokens"], tensors["doc_starts"]
        self.row_starts_R, self.row_lengths_R = tensors["row_starts"], tensors["row_lengths"]
        info = artifact.info
        self.context: int = artifact.config["context"]
        self.vocab_size: int = info["vocab_size"]
        self.n_tokens, self.n_rows = len(self.tokens_T), len(self.row_starts_R)
        self.train_rows = range(info["n_train_rows"])
        self.holdout_rows = range(info["n_train_rows"], self.n_rows)
        self.edges = Edges(info["bos"], info["eos"])

    @classmethod
    def open(cls, path: str | Path | TokenStore) -> TokenStore:
        """Open and check the store at `path`; a store that is open already is given back."""
        return path if isinstance(path, TokenStore) else cls(load(path, "tokens"))

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made it."""
        return Tokenizer.from_file(str(self.artifact.path / "tokenizer" / "tokenizer.json"))

    @property
    def tokenizer_fingerprint(self) -> str:
        """Hash of the tokenizer's vocabulary."""
        return str(self.artifact.info["tokenizer"])

    def batches(self, batch_rows: int, rows: Sequence[int] | None = None) -> Iterator[TokenBatch]:
        """The rows in order, `batch_rows` at a time."""
        for chunk in in_batches(range(self.n_rows) if rows is None else rows, batch_rows):
            yield self.batch(torch.tensor(chunk))

    def batch(self, rows_B: torch.Tensor) -> TokenBatch:
        """The rows with these numbers."""
        starts_B, lengths_B = self.row_starts_R[rows_B], self.row_lengths_R[rows_B].long()
        place_C = torch.arange(int(lengths_B.max()))
        mask_BC = place_C < lengths_B[:, None]
        ids_BC = self.tokens_T[torch.where(mask_BC, starts_B[:, None] + place_C, 0)].long()
        return TokenBatch(torch.where(mask_BC, ids_BC, 0), mask_BC, starts_B)

    def documents_of(self, offsets: torch.Tensor) -> torch.Tensor:
        """The document number of each place in the flat stream; same shape."""
        return torch.searchsorted(self.doc_starts_D, offsets.contiguous(), right=True) - 1

    def document_names(self) -> list[str]:
        """Where each document came from, by document number."""
        with sqlite3.connect(f"file:{self.artifact.path / 'documents.sqlite'}?mode=ro", uri=True) as rows:
            return [name for (name,) in rows.execute("SELECT name FROM document ORDER BY id")]

    def spread(self, rows: range, count: int) -> list[int]:
        """`count` of these rows (or all), evenly spaced, so that they come from many documents."""
        count = min(count, len(rows))
        return [rows[i * len(rows) // count] for i in range(count)]

    def count_tokens(self, rows: range | None = None) -> int:
        """Tokens in these rows, padding left out."""
        span = range(self.n_rows) if rows is None else rows
        return int(self.row_lengths_R[span.start : span.stop].sum())


def tokenize(source: str, *, out: str | Path, settings: TokenSettings | None = None, **options: Any) -> TokenStore:
    """Tokenize the documents of `source` into the store `out`.

    `options` are fields of TokenSettings. Raises UsageError for a source or tokenizer that cannot be read, or a
    source without text.
    """
    settings = settings or settings_of(TokenSettings, options)
    corpus = open_corpus(source, settings.text_field)
    config = {"source": corpus.source, "text": corpus.fingerprint, **asdict(settings)}

    def write(draft: Draft) -> dict[str, Any]:
        return _write_store(draft, corpus, settings)

    return TokenStore(make(out, "tokens", config, {}, write))


def _write_store(draft: Draft, corpus: Corpus, settings: TokenSettings) -> dict[str, Any]:
    tokenizer, folder = _tokenizer_for(corpus, settings.tokenizer)
    edges = edges_of(tokenizer, folder, settings.bos, settings.eos)
    documents, names = _encode_all(corpus, tokenizer, edges, settings)
    order = np.random.default_rng(seed_for("documents", settings.seed)).permutation(len(documents))
    documents, names = [documents[i] for i in order], [names[i] for i in order]
    lengths = np.array([len(document) for document in documents])
    row_starts, row_lengths = _rows(lengths, settings)
    n_holdout = int(settings.holdout * len(row_starts))
    save_tensors(
        draft.file("tokens.safetensors"),
        {
            "tokens": torch.from_numpy(np.concatenate(documents)),
            "doc_starts": torch.from_numpy(np.cumsum(lengths) - lengths),
            "row_starts": torch.from_numpy(row_starts),
            "row_lengths": torch.from_numpy(row_lengths.astype(np.int32)),
        },
    )
    write_whole(draft.file("tokenizer/tokenizer.json"), tokenizer.to_str(pretty=True).encode())
    _write_names(draft.file("documents.sqlite"), names)
    return {
        "n_documents": len(documents),
        "n_tokens": int(lengths.sum()),
        "n_rows": len(row_starts),
        "n_train_rows": len(row_starts) - n_holdout,
        "vocab_size": tokenizer.get_vocab_size(),
        "tokenizer": fingerprint(tokenizer),
        "bos": edges.bos,
        "eos": edges.eos,
        "skipped_files": corpus.skipped,
    }


def _tokenizer_for(corpus: Corpus, name: str) -> tuple[Tokenizer, Path | None]:
    if not name.startswith("bpe:"):
        return open_tokenizer(name)
    size = name.removeprefix("bpe:")
    if not size.isdigit():
        raise UsageError(f"tokenizer (={name!r}): the size must be a whole number, as in bpe:4096")
    # Merging pairs, after the texts are read, is the shorter part.
    return train_bpe((document.text for document in _watched(corpus, "tokenizer")), int(size)), None


def _watched(corpus: Corpus, label: str) -> Iterator[Document]:
    """The documents, with a bar that moves as they are read."""
    with Progress(label, total=corpus.size, unit="bytes") as bar:
        for document in corpus.read():
            yield document
            bar.advance(document.read - bar.done)


def _encode_all(
    corpus: Corpus, tokenizer: Tokenizer, edges: Edges, settings: TokenSettings
) -> tuple[list[np.ndarray], list[str]]:
    """Every document's ids (int32), with its edge tokens, and its name."""
    encoded: list[np.ndarray] = []
    names: list[str] = []
    for documents in in_batches(_watched(corpus, "tokenize"), ENCODE_BATCH):
        encoded += _encode(documents, tokenizer, edges, settings)
        names += [document.name for document in documents]
    if not encoded:
        raise UsageError(f"source (={corpus.source!r}): holds no text; every document is empty")
    return encoded, names


def _encode(documents: list[Document], tokenizer: Tokenizer, edges: Edges, settings: TokenSettings) -> list[np.ndarray]:
    before = [] if edges.bos is None else [edges.bos]
    after = [] if edges.eos is None else [edges.eos]
    limit = None if settings.packed else settings.context
    encodings = tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
    return [np.array([*before, *encoding.ids, *after][:limit], dtype=np.int32) for encoding in encodings]


def _rows(lengths: np.ndarray, settings: TokenSettings) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of every row in the flat stream; a row of one token, which predicts nothing, is left out."""
    if settings.packed:
        total = int(lengths.sum())
        starts = np.arange(0, total, settings.context)
        sizes = np.minimum(settings.context, total - starts)
    else:
        starts, sizes = np.cumsum(lengths) - lengths, lengths
    keep = sizes >= 2
    if not keep.any():
        raise UsageError("the source is too short: its text makes fewer than two tokens")
    return starts[keep].astype(np.int64), sizes[keep]


def _write_names(path: Path, names: list[str]) -> None:
    with new_database(path) as rows:
        rows.execute("CREATE TABLE document (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        rows.executemany("INSERT INTO document VALUES (?, ?)", enumerate(names))

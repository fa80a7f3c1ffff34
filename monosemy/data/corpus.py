"""Text documents from wherever they are: files, folders, JSON lines, Hugging Face data sets, this Python's library.

A source is a string; `open_corpus` says what it means and gives documents that can be read more than once (a
tokenizer is trained on them before they are tokenized). Documents are never joined or cut here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from monosemy.runtime import Progress, UsageError

JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson")
BLOCK_BYTES = 2**24
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "__pycache__"}


@dataclass(frozen=True)
class Document:
    """One text, where it came from, and how far into the source it ends (in the units of `Corpus.size`)."""

    name: str
    text: str
    read: int


@dataclass(frozen=True)
class Corpus:
    """Documents that can be read again and again. `fingerprint` changes when the text does; `size` is in bytes on disk
    (rows of a data set, where they are counted), for progress."""

    source: str
    read: Callable[[], Iterator[Document]]
    fingerprint: str
    size: int | None
    skipped: list[str] = field(default_factory=list)  # files in a folder that are not text


def open_corpus(source: str, text_field: str = "text") -> Corpus:
    """The documents that `source` names.

    `stdlib` is the source text of this Python's standard library without its tests; `hf:NAME[:SPLIT]` a Hugging Face
    data set (a Hub name or a local folder); otherwise a path: a text file (one document), JSON lines (plain, .gz or
    .zst; one document a line, its text in `text_field`) or a folder of such files.
    Raises UsageError for a path that is not there, a file that is not UTF-8 text, a line without the field.
    """
    if source == "stdlib":
        return _stdlib()
    if source.startswith("hf:"):
        return _hub_dataset(source, text_field)
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(source, path, text_field)
    if not path.is_file():
        raise UsageError(
            f"source (={source!r}): no such file or folder; name a path, `stdlib`, or hf:NAME for a Hub data set"
        )
    return _of_files(source, [path], path.parent, text_field)


def _stdlib() -> Corpus:
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted(root.rglob("*.py")) if not NOT_LIBRARY & set(file.relative_to(root).parts)]
    return _of_files("stdlib", files, root, "text")


def _folder(source: str, root: Path, text_field: str) -> Corpus:
    visible = (
        file for file in sorted(root.rglob("*")) if not any(p.startswith(".") for p in file.relative_to(root).parts)
    )
    files: list[Path] = []
    skipped: list[Path] = []
    for file in visible:
        if file.is_file():
            (files if _is_json_lines(file) or _is_text(file) else skipped).append(file)
    if not files:
        raise UsageError(f"source (={source!r}): the folder holds no text files; name one with .txt or .jsonl files")
    corpus = _of_files(source, files, root, text_field)
    return replace(corpus, skipped=[str(file.relative_to(root)) for file in skipped])


def _of_files(source: str, files: list[Path], root: Path, text_field: str) -> Corpus:
    def read() -> Iterator[Document]:
        before = 0
        for file in files:
            for document in _file_documents(file, str(file.relative_to(root)), text_field):
                yield replace(document, read=before + document.read)
            before += file.stat().st_size

    size = sum(file.stat().st_size for file in files)
    return Corpus(source, read, _fingerprint(files, root), size)


def _hub_dataset(source: str, text_field: str) -> Corpus:
    try:
        import datasets
    except ImportError as error:
        raise UsageError(f"source (={source!r}) needs the `datasets` package: pip install 'monosemy[hub]'") from error
    name, _, split = source.removeprefix("hf:").partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=True)
        content = _dataset_content(name)
    except Exception as error:  # the package raises a dozen kinds; what the user can do is the same
        raise UsageError(
            f"source (={source!r}): cannot be loaded ({_first_line(error)}); check the name and the connection, or "
            f"name a local folder"
        ) from error

    def read() -> Iterator[Document]:
        for number, row in enumerate(rows):
            yield Document(f"{name}:{number}", _text_of(row, text_field, f"{source}, row {number}"), number + 1)

    counted = (rows.info.splits or {}).get(split or "train")
    size = getattr(counted, "num_examples", None) or None
    return Corpus(source, read, f"hf:{name}:{split or 'train'}:{content}", size)


def _dataset_content(name: str) -> str:
    """What changes when the data set does: a hash of a local folder's files, the commit of one on the Hub."""
    local = Path(name)
    if local.is_dir():
        return _fingerprint([file for file in sorted(local.rglob("*")) if file.is_file()], local)
    from huggingface_hub import HfApi

    return str(HfApi().dataset_info(name).sha)


def _file_documents(file: Path, name: str, text_field: str) -> Iterator[Document]:
    """The documents of one file; `read` counts its bytes on disk."""
    if not _is_json_lines(file):
        text = _decoded(file.read_bytes(), file)
        if text.strip():
            yield Document(name, text, file.stat().st_size)
        return
    with file.open("rb") as raw:
        for number, line in enumerate(_lines(file, raw), start=1):
            place = f"{file}, line {number}"
            text = _line_text(_decoded(line, place), text_field, place)
            if text.strip():
                yield Document(f"{name}:{number}", text, raw.tell())


def _lines(file: Path, raw: IO[bytes]) -> Iterator[bytes]:
    """The unpacked lines. Raises UsageError where a packed file is cut short or damaged."""
    import zstandard

    try:
        if file.suffix == ".gz":
            yield from gzip.GzipFile(fileobj=raw)
        elif file.suffix == ".zst":
            yield from _split(_zst_blocks(raw))
        else:
            yield from raw
    except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
        raise UsageError(f"{file}: cut short, damaged or not a {file.suffix} file ({error}); get it again") from error


def _zst_blocks(raw: IO[bytes]) -> Iterator[bytes]:
    """Unpacked blocks of any number of frames; unlike zstandard's own reader, it minds where the file ends."""
    import zstandard

    unpacker = zstandard.ZstdDecompressor().decompressobj()
    while block := raw.read(2**16):
        while block:
            if unpacker.eof:
                unpacker = zstandard.ZstdDecompressor().decompressobj()
            yield unpacker.decompress(block)
            block = unpacker.unused_data if unpacker.eof else b""
    if not unpacker.eof:
        raise zstandard.ZstdError("it ends in the middle of a frame")


def _split(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines of a text that comes in blocks."""
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    yield rest


def _line_text(line: str, text_field: str, place: str) -> str:
    if not line.strip():
        return ""
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{place}: not JSON ({error}); every line must be one JSON object") from error
    return _text_of(row, text_field, place)


def _text_of(row: object, text_field: str, place: str) -> str:
    text = row.get(text_field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        have = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
        raise UsageError(f"{place}: has no text field {text_field!r} (it has: {have}); name it with --text-field")
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError(f"{place}: holds half of a character (a lone surrogate); mend or leave out this row")
    return text


def _decoded(raw: bytes, place: object) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{place}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error
    if "\0" in text:
        raise UsageError(f"{place}: binary data (it holds NUL characters); name a text file")
    return text


def _is_json_lines(file: Path) -> bool:
    return file.name.endswith(JSON_LINES)


def _is_text(file: Path) -> bool:
    with file.open("rb") as stream:
        head = stream.read(4096)
    try:
        return b"\0" not in head and bool(head.decode("utf-8", errors="strict") or True)
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character cut at the end of what was read


def _fingerprint(files: list[Path], root: Path) -> str:
    """A hash of the files' names and bytes."""
    digest = hashlib.sha256()
    with Progress("read source", sum(file.stat().st_size for file in files), unit="bytes") as bar:
        for file in files:
            digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
                    bar.advance(len(block))
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

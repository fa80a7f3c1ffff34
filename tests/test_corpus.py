"""Documents from every kind of source, and what is said of bad ones."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from monosemy.data.corpus import open_corpus
from monosemy.runtime import UsageError

ROWS = [{"text": "one ünï"}, {"text": "two\nlines"}, {"text": "  "}, {"text": "three"}]
TEXTS = ["one ünï", "two\nlines", "three"]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def texts(source: str | Path, **options: str) -> list[str]:
    return [document.text for document in open_corpus(str(source), **options).read()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES)),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress(LINES)),
        ("b.jsonl.zst", b"".join(zstandard.ZstdCompressor().compress(half) for half in (LINES[:20], LINES[20:]))),
    ],
    ids=["plain", "gzip", "zstd", "zstd in two frames"],
)
def test_json_lines_plain_and_compressed(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert texts(tmp_path / name) == TEXTS
    assert texts(tmp_path / name) == TEXTS  # and again


def test_a_text_file_is_one_document_and_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("b text")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/c.md").write_text("c text")
    (tmp_path / "d.jsonl").write_bytes(LINES)
    (tmp_path / "image.bin").write_bytes(b"\x00\x01\x02")
    (tmp_path / ".hidden").write_text("no")
    assert texts(tmp_path / "b.txt") == ["b text"]
    corpus = open_corpus(str(tmp_path))
    assert [document.text for document in corpus.read()] == ["c text", "b text", *TEXTS]
    assert corpus.skipped == ["image.bin"]


def test_the_fingerprint_follows_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    before = open_corpus(str(tmp_path / "a.txt")).fingerprint
    assert open_corpus(str(tmp_path / "a.txt")).fingerprint == before
    (tmp_path / "a.txt").write_text("b")
    assert open_corpus(str(tmp_path / "a.txt")).fingerprint != before


def test_the_standard_library_is_there_without_its_tests() -> None:
    documents = list(open_corpus("stdlib").read())
    names = {document.name for document in documents}
    assert {"json/decoder.py", "ast.py"} <= names
    assert not any("test" in Path(name).parts for name in names)
    assert sum(len(document.text) for document in documents) > 8e6


def test_a_local_hugging_face_data_set(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"body": "hello"}\n{"body": "there"}\n')
    assert texts(f"hf:{tmp_path}", text_field="body") == ["hello", "there"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nowhere.txt", "no such file or folder.*hf:NAME"),
        (lambda p: _write(p / "x.txt", b"\xff\xfe\x00"), "not UTF-8.*convert"),
        (lambda p: _write(p / "x.txt", b"abc\x00def"), "binary"),
        (lambda p: _write(p / "x.jsonl", b'{"text": "a"}\n{"text": \n'), "line 2: not JSON"),
        (lambda p: _write(p / "x.jsonl", b'{"body": "a"}\n'), "'text'.*it has: body.*--text-field"),
        (lambda p: _write(p / "x.jsonl", b"[1]\n"), "it has: list"),
        (lambda p: p, "holds no text files"),
        (lambda p: _write(p / "x.jsonl.gz", gzip.compress(LINES)[:-12]), r"x\.jsonl\.gz.*cut short"),
        (lambda p: _write(p / "x.jsonl.gz", LINES), "not a .gz file"),
        (lambda p: _write(p / "x.jsonl.zst", zstandard.ZstdCompressor().compress(LINES)[:-5]), "cut short"),
        (lambda p: _write(p / "x.jsonl.zst", LINES), "not a .zst file"),
        (lambda p: _write(p / "x.jsonl", b'{"text": "\\ud800"}\n'), "half of a character"),
        (lambda _: "hf:nobody/nothing-of-this-name", "cannot be loaded.*local folder"),
    ],
)
def test_bad_sources_are_explained(tmp_path: Path, make, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=words):
        texts(make(tmp_path))


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path

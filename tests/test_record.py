"""Records of benchmarks: which commit they say they were made with."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "record.py"


@pytest.fixture(scope="module")
def record() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_record", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_commit_and_whether_the_tree_is_it(record: Any, tmp_path: Path) -> None:
    benchmarks = tmp_path / "benchmarks"
    (benchmarks / "records").mkdir(parents=True)
    (tmp_path / "code.py").write_text("1")
    assert record.commit(benchmarks) == "unknown"
    git(tmp_path, "init", "--quiet")
    assert record.commit(benchmarks) == "unknown"  # nothing was committed yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    short = git(tmp_path, "rev-parse", "--short", "HEAD").strip()
    assert record.commit(benchmarks) == short
    (benchmarks / "records" / "2026-01-01-basics.md").write_text("figures")
    assert record.commit(benchmarks) == short
    (tmp_path / "new.py").write_text("1")
    assert record.commit(benchmarks) == f"{short} + changes"
    (tmp_path / "new.py").unlink()
    (tmp_path / "code.py").write_text("2")
    assert record.commit(benchmarks) == f"{short} + changes"


def test_without_git_it_is_not_known(record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert record.commit() == "unknown"


def test_a_record_says_it(record: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(record, "BEGAN_WITH", "0123abc + changes")
    file = record.write_record("basics", [{"what": "a step", "seconds": 0.5}], "python benchmarks/basics.py")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-basics.md", file.name)
    head = file.read_text().split("\n\n")[1].splitlines()
    assert [line.split(":")[0] for line in head] == ["- date", "- command", "- commit", "- machine", "- versions"]
    assert head[2] == "- commit: 0123abc + changes"

"""Artifacts: whole or not at all, reused, resumed, refused."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monosemy import artifact
from monosemy.artifact import load, load_parent, make
from monosemy.draft import MANIFEST, Draft
from monosemy.files import load_tensors, save_tensors
from monosemy.runtime import UsageError


def writing(text: str, calls: list[str] | None = None) -> Callable[[Draft], dict[str, Any]]:
    def write(draft: Draft) -> dict[str, Any]:
        if calls is not None:
            calls.append(text)
        draft.file("sub/data.txt").write_text(text)
        return {"length": len(text)}

    return write


def test_a_finished_artifact_is_whole_and_says_what_made_it(tmp_path: Path) -> None:
    made = make(tmp_path / "a", "things", {"n": 1}, {}, writing("hello"))
    assert made.info == {"length": 5}
    assert made.config == {"n": 1}
    found = load(tmp_path / "a", "things")
    assert found.id == made.id
    assert (found.path / "sub/data.txt").read_text() == "hello"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a"]  # nothing half-written beside it


def test_same_config_and_parents_reuse_it(tmp_path: Path) -> None:
    calls: list[str] = []
    parent = make(tmp_path / "p", "things", {}, {}, writing("p"))
    for _ in range(2):
        make(tmp_path / "a", "things", {"n": (1, 2)}, {"p": parent.as_parent()}, writing("a", calls))
    assert calls == ["a"]


def test_another_config_or_parent_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    one, two = (make(tmp_path / name, "things", {}, {}, writing(name)) for name in ("one", "two"))
    make(tmp_path / "a", "things", {"n": 1}, {"p": one.as_parent()}, writing("a"))
    with pytest.raises(UsageError, match=r"`n` = 1, now 2.*another --out"):
        make(tmp_path / "a", "things", {"n": 2}, {"p": one.as_parent()}, writing("b"))
    with pytest.raises(UsageError, match="other p"):
        make(tmp_path / "a", "things", {"n": 1}, {"p": two.as_parent()}, writing("b"))
    assert (tmp_path / "a/sub/data.txt").read_text() == "a"


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not a monosemy artifact"):
        make(tmp_path / "a", "things", {}, {}, writing("a"))


def test_a_failed_writer_leaves_nothing_finished_and_its_draft_is_gone_on_from(tmp_path: Path) -> None:
    def broken(draft: Draft) -> dict[str, Any]:
        draft.file("scratch/progress").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        make(tmp_path / "a", "things", {"n": 1}, {}, broken)
    assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match="half-written"):
        load(tmp_path / "a")

    def going_on(draft: Draft) -> dict[str, Any]:
        return {"found": draft.file("scratch/progress").read_text()}

    made = make(tmp_path / "a", "things", {"n": 1}, {}, going_on)
    assert made.info == {"found": "half"}
    assert not (made.path / "scratch").exists()


def test_a_draft_of_another_config_is_removed(tmp_path: Path) -> None:
    def broken(draft: Draft) -> dict[str, Any]:
        draft.file("scratch/progress").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        make(tmp_path / "a", "things", {"n": 1}, {}, broken)

    def fresh(draft: Draft) -> dict[str, Any]:
        assert not draft.file("scratch/progress").exists()
        return {}

    make(tmp_path / "a", "things", {"n": 2}, {}, fresh)


def test_two_processes_cannot_write_one_artifact(tmp_path: Path) -> None:
    child = textwrap.dedent(
        f"""
        import time
        from monosemy.artifact import make
        def write(draft):
            print("writing", flush=True)
            time.sleep(60)
            return {{}}
        make({str(tmp_path / "a")!r}, "things", {{}}, {{}}, write)
        """
    )
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "writing\n"
        with pytest.raises(UsageError, match="another process"):
            make(tmp_path / "a", "things", {}, {}, writing("a"))
        other.kill()
    assert make(tmp_path / "a", "things", {}, {}, writing("a")).info == {"length": 1}


def _damages() -> dict[str, Callable[[Path], object]]:
    return {
        "missing": Path.unlink,
        "cut short or altered": lambda file: file.write_text("hell"),
        "altered": lambda file: file.write_text("jello"),
    }


@pytest.mark.parametrize("damage", list(_damages()))
def test_a_damaged_artifact_is_refused_by_the_files_name(tmp_path: Path, damage: str) -> None:
    make(tmp_path / "a", "things", {}, {}, writing("hello"))
    _damages()[damage](tmp_path / "a/sub/data.txt")
    with pytest.raises(UsageError, match=rf"data\.txt.*{damage}"):
        load(tmp_path / "a")
    with pytest.raises(UsageError, match=r"data\.txt"):  # nor is it reused
        make(tmp_path / "a", "things", {}, {}, writing("hello"))


def test_a_damaged_manifest_another_kind_or_format_are_refused(tmp_path: Path) -> None:
    make(tmp_path / "a", "things", {}, {}, writing("hello"))
    with pytest.raises(UsageError, match="holds things, where tokens are needed"):
        load(tmp_path / "a", "tokens")
    manifest = tmp_path / "a" / MANIFEST
    text = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(UsageError, match="format 99"):
        load(tmp_path / "a")
    manifest.write_text(text[:50])
    with pytest.raises(UsageError, match="damaged"):
        load(tmp_path / "a")
    with pytest.raises(UsageError, match="no such artifact"):
        load(tmp_path / "nowhere")


def test_parents_are_found_when_the_run_folder_moves_and_refused_when_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    parent = make(tmp_path / "run/p", "things", {}, {}, writing("p"))
    make(tmp_path / "run/a", "others", {}, {"p": parent.as_parent()}, writing("a"))
    (tmp_path / "run").rename(tmp_path / "moved")
    child = load(tmp_path / "moved/a")
    assert load_parent(child, "p").id == parent.id
    (tmp_path / "moved/p").rename(tmp_path / "moved/q")
    with pytest.raises(UsageError, match="gone; say where with --p"):
        load_parent(child, "p")
    assert load_parent(child, "p", tmp_path / "moved/q").id == parent.id
    make(tmp_path / "moved/p", "things", {}, {}, writing("another"))
    with pytest.raises(UsageError, match="not the p that"):
        load_parent(child, "p")


def test_the_id_follows_the_content(tmp_path: Path) -> None:
    a, b, c = (make(tmp_path / name, "t", {}, {}, writing(text)) for name, text in (("a", "x"), ("b", "x"), ("c", "y")))
    assert a.id == b.id != c.id


def test_tensors_round_trip_and_damage_is_named(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 4).bfloat16(), "n": torch.tensor(7)}
    save_tensors(tmp_path / "t.safetensors", tensors)
    for name, tensor in load_tensors(tmp_path / "t.safetensors").items():
        assert torch.equal(tensor, tensors[name])
    (tmp_path / "t.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UsageError, match=r"t\.safetensors"):
        load_tensors(tmp_path / "t.safetensors")


class _Killed(Exception):
    pass


@pytest.mark.parametrize("moment", ["checksums", "sync_tree", "write_whole"])
def test_killed_while_it_is_being_finished_its_draft_is_still_gone_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def write(draft: Draft) -> dict[str, Any]:
        progress = draft.file("scratch/progress")
        found = progress.exists()
        progress.write_text("all of it")
        draft.file("data.txt").write_text("data")
        return {"went_on": found}

    real = getattr(artifact, moment)

    def dying(place: Path, *rest: Any) -> Any:
        if moment != "write_whole" or place.name == MANIFEST:
            raise _Killed
        return real(place, *rest)

    monkeypatch.setattr(artifact, moment, dying)
    with pytest.raises(_Killed):
        make(tmp_path / "a", "things", {}, {}, write)
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(artifact, moment, real)
    made = make(tmp_path / "a", "things", {}, {}, write)
    assert made.info == {"went_on": True}
    assert sorted(entry.name for entry in made.path.iterdir()) == ["data.txt", "manifest.json"]


def test_a_process_that_comes_to_the_lock_after_the_end_reuses_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = artifact.locked_draft

    def late(path: Path, wanted: Any) -> Any:
        monkeypatch.setattr(artifact, "locked_draft", real)
        make(path, "things", {"n": 1}, {}, writing("first", calls))  # another process, just before this one's lock
        return real(path, wanted)

    monkeypatch.setattr(artifact, "locked_draft", late)
    made = make(tmp_path / "a", "things", {"n": 1}, {}, writing("second", calls))
    assert calls == ["first"]
    assert (made.path / "sub/data.txt").read_text() == "first"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("text", ["[]", '"x"', '{"format": 1}', '{"format": 1, "kind": "things"}'])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    make(tmp_path / "a", "things", {}, {}, writing("hello"))
    (tmp_path / "a" / MANIFEST).write_text(text)
    with pytest.raises(UsageError, match="not a manifest"):
        load(tmp_path / "a")

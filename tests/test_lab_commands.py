"""The lab on the command line: every analysis, from a run folder to a table, JSON or files; one line for mistakes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from lab_run import lab_run

from monosemy import cli, lab_commands
from monosemy.analysis.context import context_ablation

PROMPT = "Once upon a time there was"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab_run(tmp_path_factory.mktemp("lab"))


def arguments(name: str, run: Path, feature: int) -> list[str]:
    """What each analysis needs at least."""
    lab = lab_commands.open_lab(run, None)
    words = ["analyse", name, str(run)]
    options = {
        "created": ["--texts", PROMPT, "a b"],
        "neuron-curves": ["--max-tokens", "4000"],
        "verdicts": ["--max-tokens", "4000"],
        "steering-agreement": ["--features", str(feature), "--prompts", PROMPT, "--new-tokens", "4"],
        "agreement": ["--features", str(feature), str((feature + 1) % lab.dictionary.width)],
        "search": ["--prompt", PROMPT],
        "attribution": ["--prompt", PROMPT],
        "logits": ["--feature", str(feature)],
        "neurons": ["--feature", str(feature), "--max-tokens", "4000"],
        "probe": ["--feature", str(feature), "--max-tokens", "8000"],
        "steer": ["--feature", str(feature), "--prompt", PROMPT, "--new-tokens", "4"],
    }
    return words + options.get(name, ["--feature", str(feature), "--prompt", PROMPT])


def strongest(run: Path) -> int:
    """The feature that fires most."""
    index = lab_commands.open_lab(run, None).index
    assert index is not None
    return int(max(index.table(), key=lambda row: row["count"])["id"])


@pytest.mark.parametrize("name", lab_commands.ANALYSES)
def test_every_analysis_has_a_command(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(arguments(name, run, strongest(run)))
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) > 1
    assert len({len(row) for row in rows}) == 1


def test_the_same_as_the_function_gives_as_json_and_in_files(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feature = strongest(run)
    expected = context_ablation(lab_commands.open_lab(run, 1), feature, PROMPT)
    words = [*arguments("context", run, feature), "--member", "1"]
    cli.main([*words, "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected.data()))
    cli.main([*words, "--out", str(tmp_path / "kept")])
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".json", ".csv", ".svg"}
    assert json.loads((tmp_path / "kept" / "context.json").read_text()) == json.loads(json.dumps(expected.data()))


def test_a_terminal_sees_the_beginning(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    cli.main(["analyse", "vocabulary", str(run), "--feature", "0", "--prompt", PROMPT])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == lab_commands.SHOWN + 2
    assert lines[-1].startswith("… 472 more rows")


def test_mistakes_end_in_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        (["context", str(run), "--feature", "48", "--prompt", "a"], "from 0 to 47"),
        (["context", str(run), "--feature", "1", "--prompt", "a", "--member", "7"], "`member` (=7)"),
        (["context", str(tmp_path), "--feature", "1", "--prompt", "a"], "holds no finished"),
        (["logits", str(run / "nothing"), "--feature", "1"], "is not a folder"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["analyse", *words])
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert why in error
        assert error.count("\n") == 1


def test_help_lists_every_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["analyse"], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert all(f"analyse {name}" in shown for name in lab_commands.ANALYSES)

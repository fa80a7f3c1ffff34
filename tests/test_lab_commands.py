"""The lab on the command line: every analysis, from a run folder to a table, JSON or files; one line for mistakes."""

from __future__ import annotations

import csv
import inspect
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from lab_run import lab_run
from network_labs import two_site_run

from monosemy import across_commands, cli, index_commands, lab_commands, terminal
from monosemy.analysis.atlas import atlas
from monosemy.analysis.attribution import logit_attribution
from monosemy.analysis.circuits import children, parents
from monosemy.analysis.context import context_ablation
from monosemy.analysis.lab import Lab
from monosemy.analysis.mcs_table import mcs_table
from monosemy.analysis.probing import probe_labels
from monosemy.analysis.splitting import splitting_tree
from monosemy.analysis.verdict import neuron_verdicts
from monosemy.analysis.verdict_store import VerdictStore
from monosemy.app.state import State
from monosemy.data.activations import ActivationStore
from monosemy.dictionaries.store import DictionaryStore

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


def test_every_analysis_reaches_the_other_grids_of_a_run(
    sites: tuple[Path, Lab, Lab], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, late = sites
    words = ["analyse", "logits", str(run), "--feature", "1", "--json"]
    cli.main([*words, "--dictionaries", "late"])
    assert json.loads(printed(capsys)) == json.loads(json.dumps(logit_attribution(late, 1).data()))
    wide = lab_commands.open_lab(run, 1, "late")
    assert (wide.site, wide.dictionary.width) == (late.site, 2 * late.dictionary.width)
    for name in (*lab_commands.ANALYSES, *index_commands.INDEX):
        run_it = lab_commands.commands()[f"analyse {name}"]
        assert "dictionaries" in inspect.signature(run_it).parameters
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert lab_commands.chosen(State(copy), None, 0) == ("dictionaries", 0)
    shutil.rmtree(copy / "features")
    assert lab_commands.chosen(State(copy), None, None) == ("late", 0)  # the only grid that is indexed
    assert lab_commands.chosen(State(copy), None, 1) == ("late", 1)
    assert lab_commands.chosen(State(copy), "dictionaries", None) == ("dictionaries", 0)


def test_labels_of_ones_own_texts(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "labelled.tsv"
    ends = {"dog": "He had a big dog.", "cat": "She saw the cat", "sun": "The sun was hot!"}
    starts = ("One day", "Then", "In the park", "Tom said so", "Lily and Ben", "At home", "Mom was glad", "It was fun",
              "It rained", "Tim ran", "Sue sat down", "They went out", "So it was", "Mia saw it")  # fmt: skip
    texts = [(label, f"{start}. {end}") for label, end in ends.items() for start in starts]
    source.write_text("\n".join("\t".join(pair) for pair in texts))
    words = ["analyse", "probe-labels", str(run), "--from", str(source), "--ks", "1", "2"]
    cli.main([*words, "--positive", "dog", "--json"])
    lab = lab_commands.open_lab(run, None)
    labels = [label for label, _ in texts]
    found = probe_labels(lab, [text for _, text in texts], labels, (1, 2), positive="dog")
    assert json.loads(printed(capsys)) == json.loads(json.dumps(found.data()))
    assert found.labels == ("not dog", "dog")
    same = probe_labels(lab, [text for _, text in texts], [label == "dog" for label in labels], (1, 2))
    assert (found.chosen, found.accuracy, found.n_test) == (same.chosen, same.accuracy, same.n_test)
    for more, why in (
        ([], "`labels` have 3 values"),
        (["--positive", "fox"], "`positive` (=fox) is none of the labels"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main([*words, *more])
        assert ended.value.code == 2
        assert why in capsys.readouterr().err


def test_a_terminal_sees_the_beginning(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    cli.main(["analyse", "vocabulary", str(run), "--feature", "0", "--prompt", PROMPT])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == terminal.SHOWN + 2
    assert lines[-1].startswith("… 472 more rows")


def test_verdicts_are_kept_beside_an_index(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "verdicts"
    cli.main(["verdicts", str(run / "features"), "--max-tokens", "4000", "--out", str(out)])
    printed = capsys.readouterr().out
    store = VerdictStore.open(out)
    assert printed.startswith(f"{out}: a single neuron: {store.counts['a single neuron']}, few: ")
    assert printed.endswith(f"next: monosemy serve {tmp_path}\n")
    lab = lab_commands.open_lab(run, 0)
    assert [store.evidence(i) for i in range(48)] == neuron_verdicts(lab, ks=(1, 8), max_tokens=4000).evidence
    with pytest.raises(SystemExit) as ended:
        cli.main(["verdicts", str(run / "tokens"), "--out", str(tmp_path / "other")])
    assert ended.value.code == 2
    assert "holds tokens, where features are needed" in capsys.readouterr().err


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


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lab, Lab]:
    folder = tmp_path_factory.mktemp("sites")
    return folder, *two_site_run(folder)


def test_connections_between_two_grids_have_commands(
    sites: tuple[Path, Lab, Lab], capsys: pytest.CaptureFixture[str]
) -> None:
    run, early, late = sites
    few = ["--feature", "1", "--top", "4", "--rows", "6"]
    cli.main(["analyse", "parents", str(run), *few, "--dictionaries", "late", "--early", "dictionaries"])
    assert printed(capsys) == parents(late, 1, early, top=4, rows=6).table().csv()
    cli.main(["analyse", "children", str(run), *few, "--late", "late"])  # the indexed member, as that of `dictionaries`
    assert printed(capsys) == children(early, 1, late, top=4, rows=6).table().csv()
    cli.main(["analyse", "children", str(run), *few, "--late", "late", "--late-member", "1", "--json"])
    other = replace(late, dictionary=DictionaryStore.open(run / "late").dictionary(1), index=None)
    assert json.loads(printed(capsys)) == json.loads(json.dumps(children(early, 1, other, top=4, rows=6).data()))


def test_comparisons_of_a_grid_have_commands(
    sites: tuple[Path, Lab, Lab], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _, late = sites
    grid = folder / "late"
    cli.main(["analyse", "splitting", str(folder), "--dictionaries", "late"])
    assert printed(capsys) == splitting_tree(grid).table().csv()
    cli.main(["analyse", "atlas", str(folder), "--dictionaries", "late", "--members", "1", "0"])
    assert printed(capsys) == atlas(grid, [1, 0], indexes=[None, late.index]).table().csv()
    cli.main(["analyse", "mcs", str(folder), "--dictionaries", "late"])
    assert printed(capsys) == mcs_table((grid, 0), [(grid, 1)], index=late.index).sorted_by("mcs").csv()
    cli.main(["analyse", "mcs", str(folder), "--dictionaries", "late", "--sort", "density", "--ascending"])
    densities = [float(row["density"]) for row in csv.DictReader(io.StringIO(printed(capsys)))]
    assert densities == sorted(densities) != densities[::-1]
    cli.main(["analyse", "mcs", str(folder), "--dictionaries", "late", "--member", "1", "--out", str(tmp_path / "mcs")])
    assert {path.suffix for path in (tmp_path / "mcs").iterdir()} == {".json", ".csv", ".svg", ".xlsx"}
    capsys.readouterr()
    cli.main(["analyse", "atlas", str(run), "--codes", "--limit", "1000"])
    rows = ActivationStore.open(run / "activations")
    indexes = [run / "features", run / "features-1"]
    assert printed(capsys) == atlas(run / "dictionaries", rows=rows, indexes=indexes, limit=1000).table().csv()
    cli.main(["analyse", "mcs", str(run), "--others", "1", "--meaningful"])
    meaningful = [row["meaningful"] for row in csv.DictReader(io.StringIO(printed(capsys)))]
    assert set(meaningful) & {"True", "False"}


def test_mistakes_across_dictionaries_end_in_one_line(
    sites: tuple[Path, Lab, Lab], capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(sites[0])
    for words, why in (
        (["parents", run, "--feature", "1", "--early", "nothing"], "must be one of"),
        (["parents", run, "--feature", "1", "--early", "late"], "exchange them"),
        (["children", run, "--feature", "99", "--late", "late"], "`feature` (=99)"),
        (["splitting", run], "each of another width"),
        (["atlas", run, "--dictionaries", "late", "--codes"], "was not trained on a model's activations"),
        (["mcs", run], "`others` is empty"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(["analyse", *words])
        assert ended.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("monosemy: ")
        assert why in error


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_help_lists_every_analysis(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["analyse"], ["--help"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        names = (*lab_commands.ANALYSES, *index_commands.INDEX, *across_commands.ACROSS)
        assert all(f"analyse {name}" in shown for name in names)

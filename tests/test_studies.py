"""The studies of S3 and S4 from start to end on tiny worlds; the claims that their reports make, on small ones."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared

from monosemy.artifact import load
from monosemy.cli import main
from monosemy.data.synthetic import World, WorldSettings
from monosemy.data.tokens import tokenize
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.metrics.scoring import agreement_of, fidelity_of
from monosemy.metrics.selection import advise
from monosemy.report.study import StudyPage
from monosemy.runtime import UsageError
from monosemy.studies import dynamics as s3
from monosemy.studies import superposition as s4
from monosemy.training.sweep import fit_grid

TINY = s4.Scale(
    WorldSettings(d_in=8, features=12, l0=1.0),
    batch=64,
    steps=40,
    lr=0.02,
    l1=(0.1, 0.3, 1.0, 3.0),
    ratios=(0.5, 1.0, 2.0, 4.0),
    few_l1=(0.1, 0.3, 1.0),
    few_ratios=(1.0, 2.0, 4.0),
    noise=(0.0, 0.1),
    rows=512,
    model_tokens=3000,
    baselines=("neurons", "random", "pca"),
)
FEW = {name: s4.VARIATIONS[name] for name in ("noise", "features")}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """S4 at its tiniest, on the world and on every layer of stories260K."""
    folder = tmp_path_factory.mktemp("study")
    model = shared("models/stories260K")
    text = folder / "text.txt"
    text.write_text("Once upon a time a little dog went to the big park. It was happy. " * 400)
    tokens = tokenize(str(text), tokenizer=str(model), context=64, holdout=0.1, out=folder / "tokens")
    settings = s4.SuperpositionSettings(model=str(model), tokens=tokens.artifact.path, site="resid_post")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s4, "VARIATIONS", FEW)
        s4.superposition(folder / "s4", settings, TINY)
    return folder / "s4"


def test_every_part_has_its_page_and_every_figure_its_data_and_command(study: Path) -> None:
    pages = {path.stem for path in study.glob("*.html")}
    assert pages == {"index", "denoising", "noise", "features", "layers"}
    for page in pages:
        text = (study / f"{page}.html").read_text()
        assert "The source found" in text
        assert "monosemy study superposition --scale small --part" in text
    pictures = {path.stem for path in (study / "figures").glob("*.svg")}
    twins = {path.stem for path in (study / "figures").glob("*.json")}
    assert pictures == twins
    assert {"grid-mmcs-truth", "grid-dead-share", "grid-ssll", "grid-mmcs-with-larger", "layers-ssll"} <= pictures


def test_the_heatmaps_data_are_the_scores_blank_where_undefined_and_marked(study: Path) -> None:
    rows = json.loads((study / "grid" / "scores" / "scores.json").read_text())
    shown = json.loads((study / "figures" / "grid-mmcs-with-larger.json").read_text())
    cells = {(cell["x"], cell["y"]): cell["value"] for cell in shown["cells"]}
    assert cells == {(row["l1"], row["width"]): pytest.approx(row["mmcs_with_larger"]) for row in rows}
    assert {y for (_, y), value in cells.items() if value is None} == {48}
    truth = {(row["l1"], row["width"]): row["mmcs_truth"] for row in rows}
    assert truth[tuple(shown["best"])] == max(truth.values())
    assert tuple(shown["advised"]) in truth


def test_layers_of_a_model_stand_beside_the_world(study: Path) -> None:
    shown = json.loads((study / "figures" / "layers-mmcs-with-larger.json").read_text())
    assert list(shown) == ["toy world", *(f"layers.{layer}.resid_post" for layer in range(5))]
    assert all(len(found["cells"]) == 9 for found in shown.values())


def test_a_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before its denoising part, and run again, it makes what is missing and keeps what is there."""
    settings = s4.SuperpositionSettings(part=("grid", "denoising"))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(s4, "denoising", stop)
        with pytest.raises(KeyboardInterrupt):
            s4.superposition(tmp_path, settings, TINY)
    made = load(tmp_path / "grid" / "dictionaries")
    monkeypatch.setattr(StudyPage, "figure", lambda *_, **__: None)  # they are drawn for `study`
    s4.superposition(tmp_path, settings, TINY)
    assert load(tmp_path / "grid" / "dictionaries").manifest == made.manifest
    assert (tmp_path / "denoising.html").exists()


def test_dynamics_makes_every_figure_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scale = s3.Scale(
        rows=256, epochs=4, frame_every=2, worlds=2, high_width=48, high_steps=60, seeds=(0, 1), look_every=20,
        high=WorldSettings(d_in=8, features=12, l0=1.0), resample={"resample_every": 15, "dead_after": 10},
    )  # fmt: skip
    page = s3.dynamics(tmp_path, s3.DynamicsSettings(), scale)
    figures = tmp_path / "figures"
    gifs = sorted(path.stem for path in figures.glob("*.gif"))
    assert len(gifs) == 12
    assert {path.stem for path in figures.glob("learning-*.html")} == set(gifs)
    frames = json.loads((figures / f"{gifs[0]}.json").read_text())
    assert frames["epochs"] == [0, 2, 4]
    assert len(frames["learned"]) == 3
    course = json.loads((figures / "course-dead.json").read_text())
    assert list(course) == list(s3.REMEDIES)
    assert {path.stem for path in figures.glob("*.svg")} >= {"step-data", "matrix-mmcs-truth", "firing-6", "baselines"}
    before = page.read_text()
    monkeypatch.setattr(StudyPage, "animation", lambda *_, **__: None)  # they are on another page
    assert s3.dynamics(tmp_path, s3.DynamicsSettings(), scale).read_text() == before


def test_s4s_claims_on_a_small_world() -> None:
    """MMCS ≥ 0.97 in the zone at width G, > 0.9 for widths to 4 G at their best L1, worse on both sides of the zone."""
    world = World(s4.SCALES["small"].world)
    small = s4.SCALES["small"]
    trained = fit_grid(
        world, width=[64, 128, 256], l1=[0.0178, 0.316, 1.0, 3.16, 31.6], penalty="interim", scale="none",
        b_dec="none", lr=small.lr, batch=small.batch, steps=small.steps,
    )  # fmt: skip
    found = {(m.width, m.l1): mmcs_to_truth(world.features_GD, dictionary.W_dec_ND) for m, dictionary in trained}
    assert found[64, 0.316] >= 0.97
    for width in (64, 128, 256):
        best = max(found[width, l1] for l1 in (0.316, 1.0, 3.16))
        assert best > 0.9
        assert found[width, 0.0178] < best - 0.2
        assert found[width, 31.6] < best - 0.2
    assert found[256, 3.16] > found[256, 0.316]  # the diagonal: larger dictionaries need larger L1 …
    assert found[64, 3.16] < found[64, 0.316]  # … than width G does
    members = [asdict(member) for member, _ in trained]
    dictionaries = [dictionary for _, dictionary in trained]
    scored = fidelity_of(dictionaries, world, 4096, torch.device("cpu"))
    agreement = agreement_of(members, dictionaries, [fidelity.active_N > 0 for fidelity in scored])
    rows = [{**m, **f.scores(), **a} for m, f, a in zip(members, scored, agreement, strict=True)]
    advised = advise(rows).consensus  # it does not see the truth
    assert max(found.values()) - found[advised.width, advised.l1] <= 0.05


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["world", "--l0", "600"], "`l0` (=600.0) must be above 0 and at most the number of features"),
        (["world", "--rows", "-5"], "`rows` (=-5) must be at least 0"),
        (["world", "--noise", "-1"], "`noise` (=-1.0) must be finite and at least 0"),
        (["world", "--decay", "1.5"], "`decay` (=1.5) must be above 0 and at most 1"),
        (["world", "--depth", "2", "--share", "0.9"], "adds up to more than 1"),
        (["study", "superposition", "--model", "nowhere"], "needs `tokens`"),
        (["advise", "nowhere"], "nowhere: no such artifact"),
        (["baselines", "nowhere"], "nowhere: no such artifact"),
    ],
)
def test_bad_requests_end_with_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert words in printed
    assert "\n" not in printed


def test_a_world_by_command_line_trained_scored_and_advised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path)
    main(["world", "--d-in", "8", "--features", "12", "--l0", "1", "--out", f"{run}/world", "--rows", "500"])
    grid = ["--width", "12", "24", "48", "--l1", "0.1", "0.3", "1", "--lr", "0.02", "--steps", "400", "--batch", "64"]
    main(["train", f"{run}/world", *grid])
    main(["evaluate", f"{run}/dictionaries", f"{run}/world", "--rows", "512"])
    assert "mmcs_truth" in capsys.readouterr().out
    main(["advise", f"{run}/scores"])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0].strip() for line in printed] == [
        "no dead features", "loss stickiness", "MMCS with larger", "consensus",
    ]  # fmt: skip
    main(["advise", f"{run}/scores", "--json"])
    assert json.loads(capsys.readouterr().out)["consensus"]["width"] in (24, 48)
    main(["baselines", f"{run}/activations", "--names", "pca", "random"])
    main(["evaluate", f"{run}/baselines", f"{run}/activations", "--out", f"{run}/baseline-scores"])
    assert "pca" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["study"], ["study", "--help"], ["study", "dynamics", "--help"]])
def test_the_studies_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 0
    assert "S3: six features" in " ".join(capsys.readouterr().out.split())


def test_a_part_run_again_makes_nothing_anew_and_leaves_the_other_pages_within_reach(study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in study.rglob("manifest.json")}
    text = (study / "index.html").read_text()
    page = s4.superposition(study, s4.SuperpositionSettings(part=("grid",)), TINY)
    assert {path: path.stat().st_mtime_ns for path in study.rglob("manifest.json")} == before
    assert page.read_text() == text
    assert 'href="denoising.html"' in text


def test_a_model_needs_its_tokens(tmp_path: Path) -> None:
    settings = replace(s4.SuperpositionSettings(), model="somewhere")
    with pytest.raises(UsageError, match="needs `tokens`"):
        s4.superposition(tmp_path, settings, TINY)

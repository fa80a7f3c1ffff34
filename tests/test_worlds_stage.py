"""Stages on a synthetic world, on disk: where rows come from, truth in the scores, reuse, refusals, kills."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from monosemy.artifact import Artifact, make
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.data.source import held_out_pairs, n_held_out, open_source, origin_of, world_of
from monosemy.data.synthetic import World, WorldSettings
from monosemy.dictionaries.store import DictionaryStore
from monosemy.draft import Draft
from monosemy.metrics import evaluate as evaluate_module
from monosemy.metrics.evaluate import BY_FEATURE, EvaluateSettings, evaluate
from monosemy.metrics.recovery import mcs
from monosemy.metrics.scores import Scores
from monosemy.metrics.truth import truth_scores
from monosemy.runtime import UsageError
from monosemy.studies.measure import RESULT, measured
from monosemy.training import baselines as baselines_module
from monosemy.training import loop, sweep
from monosemy.training.baselines import BaselineSettings, baselines
from monosemy.training.sweep import train

D, G = 8, 12
SIMPLE = ("neurons", "random", "pca")
OPTIONS: dict[str, Any] = {"width": (8, 16), "l1": (0.1, 0.3), "batch": 64, "steps": 60, "device": "cpu"}
ROWS: dict[str, Any] = {"rows": 2000, "device": "cpu"}


def settings(**changes: Any) -> WorldSettings:
    return WorldSettings(**{"d_in": D, "features": G, "l0": 1.5, "correlation": "none", "noise": 0.01, **changes})


def plain_store(path: Path) -> ActivationStore:
    """Rows whose truth nobody knows."""

    def write(draft: Draft) -> dict[str, Any]:
        writer = ActivationWriter(draft, D, torch.float32)
        writer.add(World(settings()).sample(500).x_XD, torch.arange(500))
        return writer.finish(400)

    return ActivationStore(make(path, "activations", {"site": "here"}, {}, write))


def never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("done before: it should have been read")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a world, a store of its rows, grids trained on both and their scores."""
    folder = tmp_path_factory.mktemp("run")
    world = World(settings()).save(folder / "world")
    store = world.store(folder / "activations", 3000)
    train(world, out=folder / "d-world", **OPTIONS)
    train(folder / "activations", out=folder / "d-store", **OPTIONS)
    evaluate(folder / "d-world", world, out=folder / "s-world", **ROWS)
    evaluate(folder / "d-store", store, out=folder / "s-store", **ROWS)
    return folder


# ------------------------------------------------------------------------------------------------ sources


def test_a_source_is_opened_by_what_lies_there(run: Path) -> None:
    world, store = open_source(run / "world"), open_source(str(run / "activations"))
    assert isinstance(world, World)
    assert isinstance(store, ActivationStore)
    assert open_source(world) is world
    assert open_source(store) is store
    with pytest.raises(UsageError, match="no such artifact"):
        open_source(run / "nothing")
    with pytest.raises(UsageError, match="holds dictionaries, where activations are needed"):
        open_source(run / "d-world")


def test_the_world_is_found_from_its_rows(run: Path, tmp_path: Path) -> None:
    world, store = World.open(run / "world"), open_source(run / "activations")
    assert world_of(world) is world
    found = world_of(store)
    assert found is not None
    assert found.settings == world.settings
    assert torch.equal(found.features_GD, world.features_GD)
    assert world_of(plain_store(tmp_path / "rows")) is None


def test_held_out_rows_of_a_world(run: Path) -> None:
    world = World.open(run / "world")
    pairs = list(held_out_pairs(world, 100, 250))
    assert [len(x_BD) for x_BD, _ in pairs] == [100, 100, 50]
    assert n_held_out(world, 250) == 250
    x_XD, target_XD = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert torch.equal(x_XD, world.sample(250).x_XD)
    assert torch.equal(x_XD, target_XD)
    stream = world.batches(250, loop.ROW_ORDER_SEED)
    trained_XD = torch.cat([next(stream) for _ in range(20)])
    assert torch.cdist(x_XD, trained_XD).min() > 0  # noise makes every row another


def test_held_out_rows_of_a_denoising_world_have_clean_targets() -> None:
    world = World(settings(noise=0.2, noise_on="input"))
    [(x_BD, target_BD)] = held_out_pairs(world, 100, 100)
    sample = world.sample(100)
    assert torch.equal(x_BD, sample.x_XD)
    torch.testing.assert_close(target_BD, sample.codes_XG() @ world.features_GD)
    assert not torch.equal(x_BD, target_BD)


def test_held_out_rows_of_a_store_are_its_last(run: Path) -> None:
    world, store = World.open(run / "world"), open_source(run / "activations")
    assert n_held_out(store, 10_000) == 300
    assert n_held_out(store, 70) == 70
    for x_BD, target_BD in held_out_pairs(store, 1000, 10_000):
        assert torch.equal(x_BD, world.sample(300, 2700, "store").x_XD)
        assert torch.equal(x_BD, target_BD)
    assert sum(len(x_BD) for x_BD, _ in held_out_pairs(store, 32, 70)) == 70


def test_the_origin_of_rows_must_be_on_disk(run: Path, tmp_path: Path) -> None:
    artifact, origin = origin_of(World.open(run / "world"))
    assert artifact.kind == "world"
    assert origin == {"site": None, "model": None, "skip_bos": False}
    artifact, origin = origin_of(open_source(run / "activations"))
    assert artifact.kind == "activations"
    assert origin == {"site": "world", "model": None, "skip_bos": False}
    unsaved = World(settings())
    stages: list[Callable[[], Any]] = [
        lambda: origin_of(unsaved),
        lambda: train(unsaved, out=tmp_path / "x", **OPTIONS),
        lambda: baselines(unsaved, out=tmp_path / "x"),
        lambda: evaluate(run / "d-world", unsaved, out=tmp_path / "x"),
    ]
    for stage in stages:
        with pytest.raises(UsageError, match=r"not on disk.*call its `save` first"):
            stage()
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- stages


@pytest.mark.parametrize("kind", ["world", "store"])
def test_scores_on_a_world_hold_the_truth(run: Path, kind: str) -> None:
    world, grid = World.open(run / "world"), DictionaryStore.open(run / f"d-{kind}")
    scores = Scores.open(run / f"s-{kind}")
    truth = scores.truth()
    assert truth.keys() == {*BY_FEATURE, "probability"}
    assert all(truth[name].shape == (len(grid), G) for name in BY_FEATURE)
    assert torch.equal(truth["probability"], world.probabilities_G)
    for number, row in enumerate(scores.rows):
        dictionary = grid.dictionary(number)
        expected = truth_scores(dictionary, world, 2000)
        for name in BY_FEATURE:
            torch.testing.assert_close(truth[name][number], expected.arrays[name], equal_nan=True)
        torch.testing.assert_close(truth["mcs"][number], mcs(world.features_GD, dictionary.W_dec_ND).double())
        assert row["mmcs_truth"] == pytest.approx(float(truth["mcs"][number].mean()))
        assert row["f1"] == pytest.approx(expected.scores["f1"])
    assert len({row["mmcs_truth"] for row in scores.rows}) == len(grid)
    n_rows = 2000 if kind == "world" else 300
    assert (scores.artifact.info["n_rows"], scores.artifact.info["held_out"]) == (n_rows, True)
    assert scores.artifact.parent("dictionaries").id == grid.artifact.id


def test_training_on_a_world_finds_its_features(run: Path, tmp_path: Path) -> None:
    """On six such worlds the MMCS was 0.946 to 0.982; of 200 random dictionaries the best had 0.65 to 0.71."""
    train(run / "world", out=tmp_path / "d", width=G, l1=0.3, batch=64, steps=600, lr=1e-2, device="cpu")
    [row] = evaluate(tmp_path / "d", run / "world", out=tmp_path / "s", **ROWS).rows
    assert row["mmcs_truth"] > 0.9


def test_lineage(run: Path) -> None:
    world, store = World.open(run / "world").artifact, open_source(run / "activations").artifact
    assert world is not None
    assert store is not None
    grids = {kind: DictionaryStore.open(run / f"d-{kind}") for kind in ("world", "store")}
    assert grids["world"].artifact.parent("world").id == world.id
    assert grids["store"].artifact.parent("activations").id == store.id
    assert store.parent("world").id == world.id
    assert (grids["world"].site, grids["store"].site) == (None, "world")
    assert Scores.open(run / "s-world").artifact.parent("world").id == world.id
    assert Scores.open(run / "s-store").artifact.parent("activations").id == store.id


def test_the_truth_is_found_where_the_run_was_moved(tmp_path: Path) -> None:
    store = World(settings()).save(tmp_path / "here/world").store(tmp_path / "here/rows", 500)
    train(store, out=tmp_path / "here/d", **OPTIONS | {"steps": 5})
    (tmp_path / "here").rename(tmp_path / "there")
    scores = evaluate(tmp_path / "there/d", tmp_path / "there/rows", out=tmp_path / "there/s", **ROWS)
    assert scores.truth()["mcs"].shape == (4, G)


def test_baselines_are_scored_like_any_grid(run: Path) -> None:
    world = World.open(run / "world")
    grid = baselines(run / "world", out=run / "baselines", names=SIMPLE, width=10, rows=1000, seed=3)
    assert [(row["variant"], row["width"]) for row in grid.members] == [("neurons", D), ("random", 10), ("pca", D)]
    assert all(row["l1"] is row["k"] is row["noise"] is row["lr"] is None for row in grid.members)
    assert world.artifact is not None
    assert grid.artifact.parent("world").id == world.artifact.id
    scores = evaluate(grid, world, out=run / "s-baselines", **ROWS)
    assert scores.truth()["f1"].shape == (len(SIMPLE), G)
    neurons, random, pca = scores.rows
    assert neurons["mse"] < 1e-10 > pca["mse"]  # bases of the whole space
    assert random["fvu"] > 0.01
    assert neurons["mmcs_truth"] == pytest.approx(float(world.features_GD.amax(dim=1).mean()), rel=1e-5)
    assert all(row[name] is None for row in scores.rows for name in ("mmcs_with_larger", "shared_with_next", "kl"))
    on_rows = baselines(run / "activations", out=run / "baselines-of-rows", names=SIMPLE, rows=1000)
    assert [row["width"] for row in on_rows.members] == [D, 2 * D, D]
    assert on_rows.artifact.parent("activations").kind == "activations"


def test_a_baseline_follows_the_rows_and_the_seed(run: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"names": ("random", "pca"), "rows": 500}
    changes: list[dict[str, Any]] = [{}, {}, {"seed": 1}, {"rows": 600}]
    made = [
        baselines(run / "world", out=tmp_path / str(number), **options | change)
        for number, change in enumerate(changes)
    ]
    directions = [(grid.directions(0), grid.directions(1)) for grid in made]
    assert torch.equal(directions[0][0], directions[1][0])
    assert torch.equal(directions[0][1], directions[1][1])
    assert not torch.equal(directions[0][0], directions[2][0])
    assert torch.equal(directions[0][1], directions[2][1])  # PCA draws nothing
    assert not torch.equal(directions[0][1], directions[3][1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ("pca", "magic")}, r"`names` \(=magic\) must be of neurons, random, pca, ica, nmf"),
        ({"names": ()}, "`names` is empty"),
        ({"width": 0}, r"`width` \(=0\) must be at least 1"),
        ({"rows": 0}, r"`rows` \(=0\) must be at least 1"),
        ({"rows": 100_000}, r"`rows` \(=100000\) must be at most 65536"),
        ({"wdth": 3}, "unknown settings wdth"),
    ],
)
def test_bad_baselines_are_explained(run: Path, tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        baselines(run / "world", out=tmp_path / "x", **options)
    assert BaselineSettings().rows == 65536


def test_finished_stages_are_read_and_not_made_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simple: dict[str, Any] = {"names": ("random",), "rows": 500, "out": run / "again"}
    first = baselines(run / "world", **simple)
    monkeypatch.setattr(sweep, "train_stacks", never)
    monkeypatch.setattr(evaluate_module, "fidelity_of", never)
    monkeypatch.setattr(baselines_module, "sample", never)
    for kind, source in (("world", "world"), ("store", "activations")):
        assert train(run / source, out=run / f"d-{kind}", **OPTIONS).artifact.id == _id(run / f"d-{kind}")
        again = evaluate(run / f"d-{kind}", run / source, out=run / f"s-{kind}", **ROWS)
        assert again.rows == Scores.open(run / f"s-{kind}").rows
    assert baselines(run / "world", **simple).artifact.id == first.artifact.id
    with pytest.raises(UsageError, match=r"`rows` = 500, now 501"):
        baselines(run / "world", **simple | {"rows": 501})


def _id(path: Path) -> str:
    return DictionaryStore.open(path).artifact.id


def test_a_world_that_was_changed_is_another_parent(run: Path, tmp_path: Path) -> None:
    other = World(settings(seed=1)).save(tmp_path / "world")
    with pytest.raises(UsageError, match="other world"):
        train(other, out=run / "d-world", **OPTIONS)
    with pytest.raises(UsageError, match="other world"):
        evaluate(run / "d-world", other, out=run / "s-world", **ROWS)
    with pytest.raises(UsageError, match="other world"):
        other.store(run / "activations", 3000)
    with pytest.raises(UsageError, match="`seed` = 0, now 1"):
        World(settings(seed=1)).save(run / "world")
    store = other.store(tmp_path / "rows", 3000)
    (tmp_path / "world").rename(tmp_path / "away")
    World(settings(seed=2)).save(tmp_path / "world")
    with pytest.raises(UsageError, match=r"from a world that is not at .*put it back there"):
        world_of(store)


def test_worlds_of_another_width_and_models_are_refused(run: Path, tmp_path: Path) -> None:
    World(settings(d_in=6)).save(tmp_path / "narrow")
    with pytest.raises(UsageError, match=r"dictionaries for width 8, .*narrow holds rows of width 6"):
        evaluate(run / "d-world", World.open(tmp_path / "narrow"), out=tmp_path / "x", **ROWS)
    for source in ("world", "activations"):
        with pytest.raises(UsageError, match=rf"{source}: comes from no model.*leave out --model"):
            evaluate(run / "d-world", run / source, model="any", out=tmp_path / "x", **ROWS)
    for name in ("rows", "token_rows"):
        with pytest.raises(UsageError, match=rf"`{name}` \(=0\) must be at least 1"):
            EvaluateSettings(**{name: 0})


def test_scores_of_rows_without_truth_say_so(run: Path, tmp_path: Path) -> None:
    scores = evaluate(run / "d-world", plain_store(tmp_path / "rows"), out=tmp_path / "s", **ROWS)
    assert "mmcs_truth" not in scores.rows[0]
    with pytest.raises(UsageError, match="holds no truth; only scores on a synthetic world do"):
        scores.truth()


def test_live_features_are_counted_on_all_rows(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes are compared with the truth on fewer rows, on which fewer features fire."""
    monkeypatch.setattr(evaluate_module, "TRUTH_ROWS", 3)
    scores = evaluate(run / "d-world", run / "world", out=tmp_path / "s", **ROWS)
    world, grid = World.open(run / "world"), DictionaryStore.open(run / "d-world")
    for number, row in enumerate(scores.rows):
        few = truth_scores(grid.dictionary(number), world, 3).scores
        assert row["alive"] + row["dead"] == row["width"]
        assert row["alive"] > few["alive"]
        assert row["recall"] == few["recall"]


def test_training_on_a_denoising_world_aims_at_the_clean_rows(tmp_path: Path) -> None:
    """Both see the same inputs; one is asked for the clean rows, one for the inputs themselves. On six such worlds the
    first had 0.45 to 0.49 of the second's error."""
    clean = World(settings(noise=0.15, noise_on="input")).save(tmp_path / "clean")
    noisy = World(settings(noise=0.15, noise_on="both")).save(tmp_path / "noisy")
    assert torch.equal(next(clean.batches(64, 0)), next(noisy.batches(64, 0)))
    options = OPTIONS | {"width": 16, "l1": 0.01, "steps": 400, "lr": 1e-2}
    errors = []
    for name in ("clean", "noisy"):
        train(tmp_path / name, out=tmp_path / f"d-{name}", **options)
        errors.append(evaluate(tmp_path / f"d-{name}", clean, out=tmp_path / f"s-{name}", **ROWS).rows[0]["mse"])
    assert errors[0] < 0.6 * errors[1]


class _Killed(Exception):
    pass


@pytest.mark.parametrize("noise_on", ["both", "input"])
def test_a_killed_run_on_a_world_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noise_on: str
) -> None:
    """Batches cross the borders of the blocks that rows are made in."""
    world = World(settings(noise=0.1, noise_on=noise_on)).save(tmp_path / "world")
    options = OPTIONS | {"batch": 300, "variant": ("relu", "denoising"), "dead_after": 10}
    whole = train(world, out=tmp_path / "whole", **options).artifact
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    save = loop._save
    for fatal in (7, 52):

        def dying(stacks: Any, step: int, path: Path, fatal: int = fatal) -> None:
            save(stacks, step, path)
            if step == fatal:
                raise _Killed

        monkeypatch.setattr(loop, "_save", dying)
        with pytest.raises(_Killed):
            train(tmp_path / "world", out=tmp_path / "killed", **options)
    monkeypatch.setattr(loop, "_save", save)
    killed = train(tmp_path / "world", out=tmp_path / "killed", **options).artifact
    assert killed.id == whole.id  # of every file's checksum
    for file in whole.manifest["files"]:
        assert (whole.path / file).read_bytes() == (killed.path / file).read_bytes()


# ------------------------------------------------------------------------------------------- measurements


def parent(path: Path, number: int = 0) -> Artifact:
    return make(path, "thing", {"number": number}, {}, lambda _: {})


def test_a_measurement_is_made_once_and_read_then(tmp_path: Path) -> None:
    calls = []

    def measure(draft: Draft) -> Any:
        calls.append(draft.path)
        draft.file("deep/picture.txt").write_text("seen")
        draft.file("scratch/half").write_text("gone")
        return {"pair": (1, 2.5), "none": None, 3: "three"}

    config, parents = {"steps": 3, "at": (1, 2)}, {"thing": parent(tmp_path / "thing")}
    found = [measured(tmp_path / "m", config, parents, measure) for _ in range(3)]
    assert len(calls) == 1
    assert found == [{"pair": [1, 2.5], "none": None, "3": "three"}] * 3  # the first as the later ones: as JSON has it
    assert (tmp_path / "m/deep/picture.txt").read_text() == "seen"
    assert not (tmp_path / "m/scratch").exists()
    assert json.loads((tmp_path / "m/manifest.json").read_text())["files"].keys() == {RESULT, "deep/picture.txt"}


def test_another_measurement_in_its_place_is_refused(tmp_path: Path) -> None:
    thing = parent(tmp_path / "thing")
    assert measured(tmp_path / "m", {"steps": 3}, {"thing": thing}, lambda _: 1) == 1
    with pytest.raises(UsageError, match="`steps` = 3, now 4"):
        measured(tmp_path / "m", {"steps": 4}, {"thing": thing}, never)
    with pytest.raises(UsageError, match="`version`"):
        measured(tmp_path / "m", {"steps": 3}, {"thing": thing}, never, version=2)  # the rule has changed since
    with pytest.raises(UsageError, match="other thing"):
        measured(tmp_path / "m", {"steps": 3}, {"thing": parent(tmp_path / "other", 1)}, never)
    (tmp_path / "m" / RESULT).write_text("2")
    with pytest.raises(UsageError, match=RESULT):
        measured(tmp_path / "m", {"steps": 3}, {"thing": thing}, never)


def test_a_measurement_that_failed_is_made_again(tmp_path: Path) -> None:
    def failing(draft: Draft) -> Any:
        draft.file("first.txt").write_text("half")
        raise _Killed

    with pytest.raises(_Killed):
        measured(tmp_path / "m", {}, {}, failing)
    assert not (tmp_path / "m").exists()
    assert measured(tmp_path / "m", {}, {}, lambda draft: draft.file("first.txt").read_text()) == "half"
    with pytest.raises(ValueError, match="JSON"):
        measured(tmp_path / "nan", {}, {}, lambda _: float("nan"))
    assert not (tmp_path / "nan").exists()

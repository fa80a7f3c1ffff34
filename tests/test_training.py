"""The loop and its grids: recovery on rows whose features are known, resume, schedules, bad requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dials import taken
from processes import killed_when
from two_sites import TwoSites, rows_for

from monosemy import cli
from monosemy.artifact import Artifact, make
from monosemy.data import rows as rows_module
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.data.rows import ArrayRows
from monosemy.dictionaries.sparse import SparseVariant
from monosemy.dictionaries.store import VARIANTS, DictionaryStore, load_dictionary, save_dictionary
from monosemy.draft import Draft
from monosemy.metrics.fidelity import fidelity
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.runtime import Progress, UsageError
from monosemy.training import loop
from monosemy.training.dead import DeadSettings
from monosemy.training.ensemble import Ensemble, ensembles_of
from monosemy.training.frame import framed
from monosemy.training.schedule import Schedule
from monosemy.training.settings import (
    DEFAULT_VARIANT,
    Member,
    TrainSettings,
    default_k,
    default_lr,
    default_steps,
    grid,
)
from monosemy.training.sweep import fit, fit_grid, settings_from, train

D, G = 24, 32


def world(rows: int = 20_000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """True directions F_GD and rows that are sparse sums of them."""
    g = torch.Generator().manual_seed(seed)
    F_GD = torch.nn.functional.normalize(torch.randn(G, D, generator=g), dim=1)
    return F_GD, world_codes(rows, seed) @ F_GD


def world_codes(rows: int = 20_000, seed: int = 0) -> torch.Tensor:
    """The sparse codes of `world`."""
    g = torch.Generator().manual_seed(seed + 1000)
    return (torch.rand(rows, G, generator=g) < 2 / G) * torch.rand(rows, G, generator=g)


def store_of(path: Path, x_XD: torch.Tensor, site: str = "here") -> ActivationStore:
    def write(draft: Draft) -> dict[str, Any]:
        writer = ActivationWriter(draft, x_XD.shape[1], torch.float32)
        writer.add(x_XD, torch.arange(len(x_XD)))
        return writer.finish(len(x_XD) * 9 // 10)

    return ActivationStore(make(path, "activations", {"site": site}, {}, write))


@pytest.mark.parametrize(
    ("variant", "options", "least"),
    [
        ("relu", {"l1": 0.1}, 0.97),
        ("tied", {"l1": 0.3}, 0.93),
        ("denoising", {"l1": 0.1, "noise": 0.05}, 0.97),
        ("topk", {"k": 3}, 0.9),
        ("batchtopk", {"k": 3}, 0.9),
        ("matryoshka", {"k": 2}, 0.75),
        ("jumprelu", {"k": 3}, 0.9),
        ("gated", {"l1": 0.4}, 0.85),
        ("panneal", {"l1": 0.1}, 0.95),
        ("aligned", {"k": 3}, 0.9),
    ],
)
def test_known_features_are_found(variant: str, options: dict[str, Any], least: float) -> None:
    """The small dictionaries nested in a Matryoshka must each explain all: features that have no order suffer."""
    F_GD, x = world()
    found = fit(x, variant=variant, width=G, lr=1e-2, batch=128, steps=600, **options)
    assert mmcs_to_truth(F_GD, found.W_dec_ND) > least
    scores = fidelity(found, x)
    assert scores["fvu"] is not None
    assert scores["fvu"] < 0.2


@pytest.mark.parametrize("variant", ["transcoder", "skip-transcoder", "crosscoder"])
def test_features_of_two_sites_are_found(variant: str) -> None:
    """The same codes make both sites' rows, of different widths and scales."""
    F_GD, x = world()
    generator = torch.Generator().manual_seed(1)
    H_GE = torch.nn.functional.normalize(torch.randn(G, 16, generator=generator), dim=1)
    codes_XG = world_codes()
    y = 7 * codes_XG @ H_GE
    torch.testing.assert_close(codes_XG @ F_GD, x)
    crosses = variant == "crosscoder"
    rows = TwoSites(x, y, side_by_side=crosses)
    dial = {"l1": 0.1} if crosses else {"k": 3}
    found = fit(rows, variant=variant, width=G, lr=1e-2, batch=128, steps=800, **dial)
    target = torch.cat([x, y], dim=1) if crosses else y
    seen = target if crosses else x
    error = (found.reconstruct(seen) - target).square().sum() / (target - target.mean(dim=0)).square().sum()
    assert error < 0.2
    truth = torch.cat([F_GD, 7 * H_GE], dim=1) if crosses else H_GE
    # What a linear path explains the features of a skip transcoder need not.
    assert (
        mmcs_to_truth(truth, found.W_dec_ND) > {"transcoder": 0.9, "skip-transcoder": 0.6, "crosscoder": 0.95}[variant]
    )


@pytest.mark.parametrize("kind", ["numpy", "memmap", "tensor", "iterator"])
def test_fit_takes_rows_of_any_kind(tmp_path: Path, kind: str) -> None:
    x = world(3000)[1]
    rows: Any = x
    if kind == "numpy":
        rows = x.numpy()
    elif kind == "memmap":
        rows = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=tuple(x.shape))
        rows[:] = x.numpy()
    elif kind == "iterator":
        rows = (piece for _ in range(20) for piece in torch.split(x, 700))
    found = fit(rows, width=16, batch=128, steps=20)
    assert found.encode(x).shape == (3000, 16)


def test_fit_is_deterministic_and_follows_its_seed() -> None:
    x = world(3000)[1]
    a, b, c = (fit(x, width=16, batch=128, steps=20, seed=seed).W_dec_ND for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_grid_is_every_combination_of_the_variants_own_dials() -> None:
    settings = TrainSettings(variant=("relu", "topk"), width=(8, 16), l1=(0.1, 0.2), k=(4,), seed=(0, 1))
    members = grid(settings, d_in=D)
    assert len(members) == 2 * 2 * 2 + 2 * 1 * 2
    assert len(set(members)) == len(members)
    assert all((member.l1 is None) == (member.variant == "topk") for member in members)
    assert [member.width for member in grid(TrainSettings(), d_in=D)] == [2 * D]


def test_widths_and_variants_can_be_mixed_in_one_pass() -> None:
    x = world(3000)[1]
    found = fit_grid(x, variant=("topk", "relu", "tied"), width=(16, 8), k=(2,), l1=(0.1, 0.2), batch=128, steps=20)
    for member, dictionary in found:
        alone = fit(
            x, variant=member.variant, width=member.width, batch=128, steps=20,
            **({"k": member.k} if member.k else {"l1": member.l1}),
        )  # fmt: skip
        torch.testing.assert_close(dictionary.W_dec_ND, alone.W_dec_ND, rtol=0, atol=1e-6)


def test_the_shortest_request_follows_from_what_it_says() -> None:
    """Nothing: the default kind with its usual L1. Only l1: ReLU. Only k: TopK. k follows from the width."""
    [plain] = grid(settings_from(width=256, steps=500), d_in=D)
    assert (plain.variant, plain.k, plain.l1) == (DEFAULT_VARIANT, None, 0.1)
    [relu] = grid(settings_from(width=256, variant="relu", steps=500), d_in=D)
    assert (relu.l1, relu.lr) == (0.06, 0.02)
    [topk] = grid(settings_from(width=2048, variant="topk", batch=256, steps=500), d_in=D)
    assert (topk.k, topk.lr) == (32, 0.0025)
    assert plain.lr == 0.04
    assert [default_k(width) for width in (8, 64, 512, 16_384)] == [1, 4, 32, 32]
    [l1] = grid(settings_from(width=8, l1=0.1), d_in=D)
    assert (l1.variant, l1.k, l1.l1) == ("relu", None, 0.1)
    [k] = grid(settings_from(width=8, k=3), d_in=D)
    assert (k.variant, k.k) == ("topk", 3)


def test_interim_weights_follow_the_formula() -> None:
    assert Member("relu", 512, 0.1, None, 1e-3, 0).penalty_weight("interim", 256) == pytest.approx(0.05)
    assert Member("relu", 512, 0.1, None, 1e-3, 0).penalty_weight("sum", 256) == 0.1
    assert Member("topk", 512, None, 8, 1e-3, 0).penalty_weight("sum", 256) == 0


def test_the_schedule_rises_holds_and_falls() -> None:
    schedule = Schedule(warmup=0.1, decay=0.2)
    lr, l1 = zip(*(schedule.factors(step, 100) for step in range(100)), strict=True)
    assert lr[0] == l1[0] == pytest.approx(0.1)
    assert lr[10:80] == (1.0,) * 70
    assert l1[10:] == (1.0,) * 90
    assert lr[99] == pytest.approx(0.05)
    assert list(lr[80:]) == sorted(lr[80:], reverse=True)


def test_default_steps_read_the_rows_four_times_within_bounds() -> None:
    assert default_steps(1000, 2_000_000) == 8000
    assert default_steps(1000, 10) == 1000
    assert default_steps(1000, 10**10) == 100_000
    assert default_steps(1000, None) == 1000


def test_long_runs_take_lower_rates() -> None:
    assert default_lr("topk", 512, 1024, 10) == default_lr("topk", 512, 1024, 500) == pytest.approx(1e-2)
    assert default_lr("topk", 2048, 256, 2000) == pytest.approx(1e-2 / 8)
    assert grid(settings_from(variant="topk", width=512, steps=2000), 8)[0].lr == pytest.approx(5e-3)
    no_steps = settings_from(variant="topk", width=512, batch=2000)  # without an end: 1,000,000 rows
    assert [grid(no_steps, 8, rows)[0].lr for rows in (None, 1_000_000)] == pytest.approx([1e-2, 5e-3])


def test_flat_names_find_their_group() -> None:
    settings = settings_from(warmup=0.9, decay=0.1, remedy="ghost", l1=np.float32(0.5), seed=3)
    assert settings.schedule == Schedule(warmup=0.9, decay=0.1)
    assert settings.dead == DeadSettings(remedy="ghost")
    assert (settings.l1, settings.seed) == ((0.5,), (3,))
    assert settings_from(schedule=Schedule(warmup=0.3), decay=0.4).schedule == Schedule(warmup=0.3, decay=0.4)


def test_a_watcher_sees_the_stacks_before_training_and_after_each_step() -> None:
    x = world(1000)[1]
    seen = []

    def watch(step: int, stacks: Sequence[Ensemble]) -> None:
        seen.append((step, [stack.step_count for stack in stacks], stacks[0].export(0).W_dec_ND))

    options: dict[str, Any] = {"variant": ("relu", "topk"), "width": 8, "k": 2, "batch": 100, "steps": 7}
    found = fit_grid(x, watch=watch, **options)
    assert [(step, counts) for step, counts, _ in seen] == [(step, [step, step]) for step in range(8)]
    assert torch.equal(seen[-1][2], found[0][1].W_dec_ND)
    assert not torch.equal(seen[0][2], seen[1][2])
    assert torch.equal(found[0][1].W_dec_ND, fit_grid(x, **options)[0][1].W_dec_ND)


class Pairs(ArrayRows):
    """Rows with noise, and what they are without it."""

    paired = True

    def __init__(self, clean: torch.Tensor) -> None:
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
        super().__init__(clean + 0.1 * noise)
        self.clean = clean

    def pairs(self, batch: int, seed: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The same shuffled rows of both."""
        yield from zip(self.batches(batch, seed, start), ArrayRows(self.clean).batches(batch, seed, start), strict=True)


def test_rows_in_pairs_are_trained_towards_their_target() -> None:
    """A clean target is reconstructed better by training towards it than towards the noisy rows themselves."""
    noisy = Pairs(world(5000)[1])
    options: dict[str, Any] = {"width": G, "l1": 0.02, "lr": 1e-2, "batch": 128, "steps": 300}
    towards_clean, towards_itself = fit(noisy, **options), fit(noisy.x_XD, **options)
    errors = [float((d.reconstruct(noisy.x_XD) - noisy.clean).square().sum()) for d in (towards_clean, towards_itself)]
    assert errors[0] < 0.8 * errors[1]


def test_dead_features_are_those_not_active_in_the_last_steps() -> None:
    x = world(3000)[1]
    settings = settings_from(width=16, l1=50.0, batch=128, dead_after=15, steps=40, lr=0.01)
    rows = ArrayRows(x)
    [stack] = ensembles_of(grid(settings, D), settings, framed(rows, settings.frame), torch.device("cpu"), 128)
    fired = []
    stream = rows.batches(128, 0)
    for _ in range(40):
        statistics = stack.step(next(stream))
        fired.append((stack.work.codes_MNB > 0).any(dim=2))
        assert torch.equal(fired[-1], statistics.fired_MN)
        expected = (~torch.stack(fired[-15:]).any(dim=0)).sum() if len(fired) >= 15 else torch.tensor(0)
        assert stack.metrics(statistics)[0]["dead"] == expected
    assert expected > 0


def test_train_writes_members_metrics_and_lineage(tmp_path: Path) -> None:
    store = store_of(tmp_path / "activations", world(4000)[1])
    made = train(store, out=tmp_path / "d", width=(8, 16), l1=(0.1,), seed=(0, 1), batch=100, steps=120, device="cpu")
    again = DictionaryStore.open(tmp_path / "d")
    assert [member["width"] for member in again.members] == [8, 8, 16, 16]
    assert again.dictionary(2).W_dec_ND.shape == (16, D)
    assert torch.equal(again.directions(3), again.dictionary(3).W_dec_ND)
    assert again.siblings(2, differ="seed") == [3]
    assert again.site == "here"
    assert again.artifact.parent("activations").id == store.artifact.id
    lines = [json.loads(line) for line in (tmp_path / "d/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 120]
    assert made.members[0]["training"]["loss"] == lines[-1]["members"][0]["loss"]
    with pytest.raises(UsageError, match=r"from 0 to 3"):
        again.dictionary(4)


def test_progress_shows_medians_over_members_that_did_not_fail() -> None:
    sound: list[loop.Metrics] = [{"loss": loss, "l0": 3 * loss} for loss in (0.25, 0.5, 4.0)]
    assert loop._note(sound[:1]) == "L0 0.75, loss 0.25"
    assert loop._note([*sound, {"loss": None, "l0": 99.0, "failed": 7.0}]) == "median L0 1.5, loss 0.5, 1 failed"


def test_progress_keeps_the_last_note(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[tuple[float, str]] = []
    monkeypatch.setattr(Progress, "__exit__", lambda bar, *_: notes.append((bar.done, bar.note)))
    fit(world(1000)[1], width=8, batch=100, steps=51)
    [(done, note)] = [entry for entry in notes if entry[0] == 51]
    assert done == 51
    assert note.startswith("L0 ")


class _Killed(Exception):
    pass


def kinds() -> dict[tuple[str, str], list[str]]:
    """Variants that can be in one grid: by what they read and the way their steps go."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, variant in VARIANTS.items():
        way = "sparse" if isinstance(variant, SparseVariant) else "auto"
        found.setdefault((variant.reads, way), []).append(name)
    return found


@pytest.mark.parametrize(("reads", "way"), list(kinds()))
def test_a_killed_run_goes_on_and_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: str, way: str
) -> None:
    """Whatever a step depends on is in a checkpoint: moments, thresholds, averages, who failed, which way is taken.
    Every variant is in one of the grids."""
    names = kinds()[reads, way]
    dials = {VARIANTS[name].sparsity: {"l1": (0.1,), "k": (3,)}[VARIANTS[name].sparsity] for name in names}
    options: dict[str, Any] = {
        **stores_for(reads, tmp_path), **dials, "variant": names, "width": (8,), "lr": (1e-3, 1e30), "batch": 100,
        "steps": 110, "device": "cpu", "ema": 0.9, "clip": 1.0, "remedy": "resample", "dead_after": 20,
        "resample_every": 30, "way": way,
    }  # fmt: skip
    whole = train(out=tmp_path / "whole", **options).artifact
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    save = loop._save
    for fatal in (7, 55, 109):  # there is no checkpoint after the last step

        def dying(stacks: Any, step: int, path: Path, fatal: int = fatal) -> None:
            if step == fatal:
                save(stacks, step, path)
                raise _Killed

        monkeypatch.setattr(loop, "_save", dying)
        with pytest.raises(_Killed):
            train(out=tmp_path / "killed", **options)
    monkeypatch.setattr(loop, "_save", save)
    assert train(out=tmp_path / "killed", **options).artifact.id == whole.id
    expected, found = _files(whole), _files(Artifact(tmp_path / "killed", whole.manifest))
    assert [name for name in expected if found[name] != expected[name]] == []


def stores_for(reads: str, folder: Path) -> dict[str, Any]:
    """What a variant reads: rows, rows with those of another site, rows of two sites."""
    first = store_of(folder / "activations", world(4000)[1])
    if reads == "rows":
        return {"activations": first}
    second = store_of(folder / "other", world(4000)[1][:, : D // 2] ** 2, site="there")
    return {"activations": first} | ({"target": second} if reads == "pairs" else {"others": [second]})


@pytest.mark.parametrize(
    ("reads", "options"),
    [
        ("rows", "--k 4 --steps 100"),
        ("pairs", "--target FOLDER/other --k 4 --steps 300"),
        ("sites", "--others FOLDER/other --steps 300"),
    ],
    ids=["rows", "pairs", "sites"],
)
def test_kill_9_at_several_points_ends_bit_for_bit_the_same(tmp_path: Path, reads: str, options: str) -> None:
    """One grid with every variant that reads such rows, killed twice in the middle of its steps."""
    stores_for(reads, tmp_path)
    variants = " ".join(name for name, variant in VARIANTS.items() if variant.reads == reads)
    own = options.replace("FOLDER", str(tmp_path))

    def command(out: str) -> str:
        return (
            f"train {tmp_path}/activations --out {tmp_path}/{out} --variant {variants} --width 32 {own} "
            "--batch 128 --remedy auxk --dead-after 20 --clip 1 --ema 0.9"
        )

    checkpoint = tmp_path / ".killed.partial/scratch/checkpoint.safetensors"
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

        def another(before: int = before) -> bool:
            return checkpoint.exists() and checkpoint.stat().st_mtime_ns > before

        killed_when(another, command("killed"), tmp_path / "log.txt", checkpoint_every_s=0.05)
    for out in ("whole", "killed"):
        cli.main(command(out).split())
    whole, killed = (DictionaryStore.open(tmp_path / name).artifact for name in ("whole", "killed"))
    assert whole.id == killed.id
    assert _files(whole) == _files(killed)


def _files(artifact: Artifact) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in artifact.path.iterdir() if file.name != "manifest.json"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"variant": "magic"}, "must be one of relu, tied, denoising, "),
        ({"variant": "topk", "k": 512, "width": 256}, r"`k` \(=512\) must be at most the dictionary width \(=256\)"),
        ({"width": 0}, "`width`.*at least 1"),
        ({"l1": -1.0}, "`l1`.*at least 0"),
        ({"l1": float("nan")}, "`l1`"),
        ({"warmup": 0.9, "decay": 0.2}, "add up"),
        ({"seed": (0, 0)}, "same member twice"),
        ({"width": (8, 16)}, "make 2 dictionaries"),
        ({"wdth": 3}, "unknown settings.*width"),
        ({"penalty": "sums"}, "`penalty`.*sum, interim, norm-weighted"),
        (
            {"variant": ("topk", "jumprelu"), "penalty": "interim"},
            r"`penalty` \(=interim\) does nothing for `variant` \(=topk, jumprelu\).*\(relu, .*leave out penalty",
        ),
        ({"scale": "units"}, "`scale`.*unit, whiten, none"),
        ({"seed": ()}, "`seed` is empty"),
        (
            {"variant": "relu", "k": 8},
            r"`k` \(=8\) does nothing for `variant` \(=relu\); name one .*\(topk.*leave out k",
        ),
        ({"l1": (0.1, 0.3), "k": 8}, r"`l1` \(=0.1, 0.3\) does nothing for `variant` \(=topk\).*\(relu, tied"),
        ({"variant": ("relu", "topk"), "noise": 0.3}, r"`noise` \(=0.3\).*\(denoising\)"),
        ({"variant": "denoising", "noise": -0.1}, "`noise`.*at least 0"),
        ({"variant": "denoising", "noise": (0.1, 0.2)}, "make 2 dictionaries"),
        ({"lr": 1e30, "width": 8, "warmup": 0.0}, "the loss of Member.*lower its learning rate"),
    ],
)
def test_bad_requests_are_explained(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit(world(1000)[1], batch=100, steps=60, **options)


def test_nan_in_the_rows_stops_training(monkeypatch: pytest.MonkeyPatch) -> None:
    x = world(1000)[1]
    x[500, 3] = float("nan")
    with pytest.raises(UsageError, match="NaN or Inf"):
        fit(x, width=8, batch=100)
    monkeypatch.setattr(rows_module, "GATHER_BYTES", 100)
    with pytest.raises(UsageError, match="ended after 10 of 60 steps"):
        fit(iter([world(1000)[1]]), width=8, batch=100, steps=60)


def test_dictionaries_round_trip_through_files(tmp_path: Path) -> None:
    x = world(1000)[1]
    for variant in VARIANTS:
        rows: Any = rows_for(variant, x)
        found = fit(rows, **taken(variant, width=8, k=3, batch=100, steps=5))
        save_dictionary(tmp_path / "d.safetensors", found)
        again = load_dictionary(tmp_path / "d.safetensors")
        assert type(again) is type(found)
        assert torch.equal(again.reconstruct(rows.x_XD), found.reconstruct(rows.x_XD))


@pytest.mark.parametrize("x", [None, "activations", 3])
def test_fit_says_what_it_takes(x: Any) -> None:
    with pytest.raises(UsageError, match="give an array"):
        fit(x)


def test_fit_takes_numpy_numbers_odd_strides_and_read_only_rows(tmp_path: Path) -> None:
    x = world(500)[1].numpy()
    np.save(tmp_path / "x.npy", x)
    read_only = np.load(tmp_path / "x.npy", mmap_mode="r")
    options: dict[str, Any] = {"width": np.int64(8), "l1": np.float32(0.1), "batch": 50, "steps": 5}
    plain = fit(read_only, **options)
    assert plain.width == 8
    assert torch.equal(fit(x[::-1][::-1], **options).W_dec_ND, plain.W_dec_ND)
    assert fit(x[::-1], **options).width == 8
    assert fit(torch.from_numpy(x).requires_grad_(), **options).width == 8


def test_the_order_of_widths_is_part_of_the_settings(tmp_path: Path) -> None:
    store = store_of(tmp_path / "activations", world(2000)[1])
    train(store, out=tmp_path / "d", width=(8, 16), batch=100, steps=3)
    with pytest.raises(UsageError, match="`width`"):
        train(store, out=tmp_path / "d", width=(16, 8), batch=100, steps=3)


def test_metrics_go_to_weights_and_biases_too(tmp_path: Path) -> None:
    """The real package, offline: its run folder holds what was sent; nothing of it lies in the artifact."""
    program = textwrap.dedent(
        """
        import sys, torch, monosemy
        from monosemy.data.synthetic import World, WorldSettings
        world = World(WorldSettings(d_in=8, features=12, l0=2)).save("world")
        made = monosemy.train("world", out="d", width=8, l1=(0.1, 0.2), batch=64, steps=60, wandb="project")
        print(sorted(file.name for file in made.artifact.path.iterdir()))
        """
    )
    environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(Path.cwd())}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    files = ["manifest.json", "member-0000.safetensors", "member-0001.safetensors", "metrics.jsonl"]
    assert run.stdout.splitlines()[-1] == str(files)
    [log] = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"loss/member 1" in log.read_bytes()

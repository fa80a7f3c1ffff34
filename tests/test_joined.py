"""Several sites side by side: one harvest of them, their rows joined, and what transcoders and crosscoders score."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import network
from torch.nn import functional as F

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.logits import extreme_tokens
from monosemy.artifact import make
from monosemy.data import activations, joined
from monosemy.data.activations import ActivationStore, ActivationWriter
from monosemy.data.joined import Pairs, Sites
from monosemy.data.rows import shuffled_rows
from monosemy.data.source import (
    AnySource,
    d_out_of,
    held_out_pairs,
    n_held_out,
    open_joined,
    origin_of,
    parents_of,
    widths_of,
    world_of,
)
from monosemy.data.synthetic import World, WorldSettings
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.store import DictionaryStore, member_file, save_dictionary
from monosemy.draft import Draft
from monosemy.metrics.downstream import Spliced, at, constant, downstream_scores, replacement, site_scores, splice
from monosemy.metrics.evaluate import evaluate
from monosemy.metrics.scores import Scores
from monosemy.metrics.scoring import fidelity_of
from monosemy.models import harvest as harvest_module
from monosemy.models.harvest import harvest, harvest_sites
from monosemy.models.language_model import LanguageModel
from monosemy.report.fields import shown
from monosemy.report.page import write_report
from monosemy.runtime import UsageError

CPU = torch.device("cpu")
IN, ACT, OUT = "layers.1.mlp_in", "layers.1.mlp_act", "layers.1.mlp_out"
EARLY, LATE = "layers.0.resid_post", "layers.2.resid_pre"
SITES = (OUT, EARLY, ACT)  # in no order, of widths 16, 16 and 64
D_IN, D_ACT, D_OUT = 16, 64, 16


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models, packed tokens, unpacked ones with a BOS before each document, and stores of each
    site of the first model."""
    folder = tmp_path_factory.mktemp("joined")
    lines = [f'{{"text": "story {i}: {"the cat sat on the mat and saw a dog. " * (1 + i % 5)}"}}' for i in range(40)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    text = str(folder / "text.jsonl")
    tokenize(text, tokenizer="bpe:280", context=16, out=folder / "packed")
    own = folder / "packed" / "tokenizer"
    tokenize(text, tokenizer=str(own), context=32, packed=False, bos="yes", out=folder / "unpacked")
    for name in ("gpt2", "neox-parallel"):
        grown = network(name)
        grown.resize_token_embeddings(280)
        grown.save_pretrained(folder / name)
        (folder / name / "tokenizer.json").write_bytes((own / "tokenizer.json").read_bytes())
    names = (*SITES, IN, LATE)
    harvest_sites(folder / "gpt2", folder / "packed", out=folder / "stores", site=names, dtype="fp32")
    harvest_sites(folder / "gpt2", folder / "unpacked", out=folder / "spared", site=names, dtype="fp32", skip_bos=True)
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 37 rows of the wide site and 148 of the narrow ones: resumed, they start at different rows."""
    monkeypatch.setattr(activations, "SHARD_BYTES", 37 * D_ACT * 2)


def opened(place: Path, site: str, folder: str = "stores") -> ActivationStore:
    return ActivationStore.open(place / folder / site)


def all_rows(store: ActivationStore) -> torch.Tensor:
    return store.take(np.arange(store.n_all))


# ---- one pass over the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind", "sites", "options"),
    [
        ("gpt2", "packed", SITES, {}),
        ("gpt2", "unpacked", ("embed", IN, "final"), {"skip_bos": True, "max_tokens": 301, "batch_rows": 3}),
        ("neox-parallel", "packed", ("layers.2.mlp_act", "layers.0.attn_out", "layers.2.mlp_out"), {}),
    ],
)
def test_each_store_is_the_one_that_a_harvest_of_its_site_alone_makes(
    model: str,
    kind: str,
    sites: tuple[str, ...],
    options: dict[str, Any],
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = LanguageModel.load(place / model)
    capture, asked = lm.capture, []

    def counting(ids_BC: Any, names: Any, mask_BC: Any) -> Any:
        asked.append(tuple(names))
        return capture(ids_BC, names, mask_BC)

    monkeypatch.setattr(lm, "capture", counting)
    found = harvest_sites(lm, place / kind, out=tmp_path / "together", site=sites, **options)
    passes = list(asked)
    assert set(passes) == {sites}
    assert tuple(found) == sites
    for site, store in found.items():
        assert store.artifact.path == tmp_path / "together" / site
        asked.clear()
        alone = harvest(lm, place / kind, out=tmp_path / site, site=site, **options)
        assert len(asked) == len(passes)
        assert store.artifact.id == alone.artifact.id  # byte for byte
        assert store.site == site
    assert not [path for path in (tmp_path / "together").iterdir() if path.name.startswith(".")]


def test_rows_are_the_models_own(place: Path) -> None:
    """The output of the MLP is what its modules make of its input; the residual streams on both sides of it agree."""
    inputs, out, act = (all_rows(opened(place, site)) for site in (IN, OUT, ACT))
    with torch.inference_mode():
        mlp = LanguageModel.load(place / "gpt2").model.transformer.h[1].mlp
        torch.testing.assert_close(out, mlp(inputs), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(act, mlp.act(mlp.c_fc(inputs)), rtol=1e-4, atol=1e-5)
    assert out.std() > 0.1


@pytest.mark.usefixtures("small_shards")
def test_a_killed_harvest_of_several_sites_ends_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"site": SITES, "batch_rows": 5, "max_tokens": 700}
    whole = harvest_sites(place / "gpt2", place / "packed", out=tmp_path / "whole", **options)
    lm = LanguageModel.load(place / "gpt2")
    capture, real_finish, calls = lm.capture, ActivationWriter.finish, 0

    def fail_at_times(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (4, 9):
            raise KeyboardInterrupt
        return capture(*args)

    def killed() -> None:
        with pytest.raises(KeyboardInterrupt):
            harvest_sites(lm, place / "packed", out=tmp_path / "killed", **options)

    monkeypatch.setattr(lm, "capture", fail_at_times)
    for kill in range(2):
        killed()
        options["batch_rows"] = 2 + kill  # a resumed harvest keeps the batches it began with
    finished: list[str] = []

    def finish_once(self: ActivationWriter, n_train: int) -> Any:
        if finished:
            raise KeyboardInterrupt
        finished.append("one")
        return real_finish(self, n_train)

    with monkeypatch.context() as patch:  # the last shards are there, one site's manifest is not
        patch.setattr(ActivationWriter, "finish", finish_once)
        killed()

    def make_and_stop(*args: Any) -> Any:
        make(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # one store is finished, the others are not
        patch.setattr(harvest_module, "make", make_and_stop)
        killed()
    assert len([site for site in SITES if (tmp_path / "killed" / site).exists()]) == 1
    resumed = harvest_sites(lm, place / "packed", out=tmp_path / "killed", **options)
    assert {site: store.artifact.id for site, store in resumed.items()} == {
        site: store.artifact.id for site, store in whole.items()
    }
    assert all((store.n_rows, store.n_all) == (whole[OUT].n_rows, 700) for store in resumed.values())
    assert calls < 2 * -(-700 // (5 * 16))


@pytest.mark.usefixtures("small_shards")
def test_sites_that_are_there_are_not_harvested_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(place / "gpt2")
    harvest(lm, place / "packed", out=tmp_path / "x" / OUT, site=OUT)
    capture, asked = lm.capture, set()

    def noting(ids_BC: Any, names: Any, mask_BC: Any) -> Any:
        asked.add(tuple(names))
        return capture(ids_BC, names, mask_BC)

    monkeypatch.setattr(lm, "capture", noting)
    found = harvest_sites(lm, place / "packed", out=tmp_path / "x", site=SITES)
    assert asked == {(EARLY, ACT)}
    again = harvest_sites(lm, place / "packed", out=tmp_path / "x", site=SITES)
    assert asked == {(EARLY, ACT)}
    assert {site: store.artifact.id for site, store in again.items()} == {
        site: store.artifact.id for site, store in found.items()
    }
    with pytest.raises(UsageError, match="made before with `max_tokens`"):
        harvest_sites(lm, place / "packed", out=tmp_path / "x", site=(IN, *SITES), max_tokens=20)
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == sorted(SITES)  # and no draft of the new one


@pytest.mark.usefixtures("small_shards")
def test_halves_of_two_harvests_are_finished_each_in_its_own_batches(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = LanguageModel.load(place / "gpt2")
    capture, calls = lm.capture, 0

    def fail_at_fourth(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return capture(*args)

    for site, rows in ((OUT, 4), (ACT, 7)):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(lm, "capture", fail_at_fourth)
            with pytest.raises(KeyboardInterrupt):
                harvest(lm, place / "packed", out=tmp_path / "x" / site, site=site, batch_rows=rows)
    shapes: dict[tuple[str, ...], set[int]] = {}

    def noting(ids_BC: Any, names: Any, mask_BC: Any) -> Any:
        shapes.setdefault(tuple(names), set()).add(len(ids_BC))
        return capture(ids_BC, names, mask_BC)

    monkeypatch.setattr(lm, "capture", noting)
    found = harvest_sites(lm, place / "packed", out=tmp_path / "x", site=SITES)
    assert {names: max(rows) for names, rows in shapes.items()} == {(OUT, EARLY): 4, (ACT,): 7}
    torch.testing.assert_close(all_rows(found[OUT]), all_rows(opened(place, OUT)), rtol=1e-2, atol=1e-3)
    assert len(Sites(list(found.values())).sites) == 3  # the same tokens, however they were read


def test_bad_requests_of_several_sites(place: Path, tmp_path: Path) -> None:
    def run(call: Callable[..., Any] = harvest_sites, **options: Any) -> None:
        call(place / "gpt2", place / "packed", out=options.pop("out", tmp_path / "x"), **options)

    with pytest.raises(UsageError, match=r"`site` \(=final, final\) must name at least one site, and each once"):
        run(site=("final", "final"))
    with pytest.raises(UsageError, match="at least one site"):
        run(site=())
    with pytest.raises(UsageError, match="layers 0 to 2"):
        run(site=("final", "layers.3.mlp_in"))
    with pytest.raises(UsageError, match="names several; call `harvest_sites`"):
        run(harvest, site=("final", "embed"))
    with pytest.raises(UsageError, match="a finished artifact, where a folder of stores is to be"):
        run(site=("final", "embed"), out=place / "stores" / OUT)
    with pytest.raises(UsageError, match=r"exists and is not a monosemy artifact.*--out"):
        run(harvest, site=OUT, out=place / "stores")
    assert not (tmp_path / "x").exists()


# ---- rows --------------------------------------------------------------------------------------------------------


def test_pairs_are_rows_of_the_same_tokens_in_the_order_of_one_store(place: Path) -> None:
    inputs, targets = opened(place, IN), opened(place, ACT)
    rows = open_joined(place / "stores" / IN, target=place / "stores" / ACT)
    assert isinstance(rows, Pairs)
    assert (rows.paired, rows.d_in, rows.d_out, rows.n_rows) == (True, D_IN, D_ACT, inputs.n_rows)
    assert (d_out_of(rows), widths_of(rows), world_of(rows)) == (D_ACT, (), None)
    stream, order = rows.pairs(64, seed=3), shuffled_rows(inputs.n_rows or 0, 64, 3)
    for (x_BD, target_BE), numbers, alone in zip(stream, order, inputs.batches(64, 3), strict=False):
        assert torch.equal(x_BD, all_rows(inputs)[numbers])
        assert torch.equal(target_BE, all_rows(targets)[numbers])
        assert torch.equal(x_BD, alone)
        break
    later = rows.pairs(64, seed=3, start=2)
    for _ in range(1):
        next(stream)
    for found, expected in zip(next(later), next(stream), strict=True):
        assert torch.equal(found, expected)
    assert torch.equal(next(rows.batches(64, 3)), next(rows.pairs(64, 3))[0])
    assert torch.equal(rows.statistics().mean_D, inputs.statistics().mean_D)
    assert rows.target_statistics().mean_norm == targets.statistics().mean_norm
    assert open_joined(rows) is rows


def test_joined_rows_are_blocks_in_the_order_given(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined, "PIECE", 50)
    stores = [opened(place, site) for site in SITES]
    rows = open_joined(stores[0], others=[place / "stores" / site for site in SITES[1:]])
    assert isinstance(rows, Sites)
    assert (rows.sites, rows.d_in, d_out_of(rows)) == ((D_OUT, 16, D_ACT), 96, 96)
    assert widths_of(rows) == rows.sites
    whole = torch.cat([all_rows(store) for store in stores], dim=1)
    n_rows = rows.n_rows
    assert n_rows is not None
    assert 0 < n_rows < rows.n_all
    stream = rows.batches(70, seed=1)
    numbers = next(shuffled_rows(n_rows, 70, 1))
    assert torch.equal(next(stream), whole[numbers])
    assert torch.equal(next(stream), next(rows.batches(70, 1, start=1)))
    seen = whole[:n_rows]
    found = rows.statistics()
    torch.testing.assert_close(found.mean_D, seen.mean(0))
    assert found.mean_norm == pytest.approx(float(seen.norm(dim=1).mean()), rel=1e-5)  # fewer rows than NORM_ROWS
    assert found.mean_square_norm == pytest.approx(float(seen.square().sum(1).mean()), rel=1e-5)
    assert found.count == n_rows
    for statistics, store in zip(rows.site_statistics(), stores, strict=True):
        own = all_rows(store)[:n_rows]
        assert statistics.mean_norm == pytest.approx(float(own.norm(dim=1).mean()), rel=1e-5)
    monkeypatch.setattr(joined, "NORM_ROWS", 200)
    sampled = Sites(stores).statistics().mean_norm
    evenly = seen[torch.arange(200) * n_rows // 200].norm(dim=1).mean()
    assert sampled == pytest.approx(float(evenly), rel=1e-5)
    assert sampled != found.mean_norm


@pytest.mark.parametrize("kind", ["pairs", "sites"])
def test_held_out_rows_are_those_of_each_store(place: Path, kind: str) -> None:
    a, b = opened(place, IN), opened(place, ACT)
    rows: AnySource = Pairs(a, b) if kind == "pairs" else Sites([a, b])
    x_XD, y_XE = (all_rows(store)[store.n_rows :] for store in (a, b))
    assert n_held_out(rows, 10**6) == len(x_XD) > 40
    pairs = list(held_out_pairs(rows, 33, 10**6))
    seen, target = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert torch.equal(seen, x_XD if kind == "pairs" else torch.cat([x_XD, y_XE], dim=1))
    assert torch.equal(target, y_XE if kind == "pairs" else seen)
    assert sum(len(x_BD) for x_BD, _ in held_out_pairs(rows, 9, 40)) == n_held_out(rows, 40) == 40


def test_origin_and_parents_name_every_store(place: Path) -> None:
    stores = [opened(place, site) for site in SITES]
    model = stores[0].artifact.parent("model").id
    common = {"model": model, "skip_bos": False}
    assert origin_of(Pairs(*stores[:2])) == (stores[0].artifact, {"site": OUT, "target_site": EARLY, **common})
    assert origin_of(Sites(stores)) == (stores[0].artifact, {"site": None, "sites": list(SITES), **common})
    ids = [store.artifact.id for store in stores]
    assert {name: parent.id for name, parent in parents_of(stores[0]).items()} == {"activations": ids[0]}
    named = {name: parent.id for name, parent in parents_of(Pairs(*stores[:2])).items()}
    assert named == {"activations": ids[0], "target": ids[1]}
    named = {name: parent.id for name, parent in parents_of(Sites(stores)).items()}
    assert named == {"activations": ids[0], "activations-1": ids[1], "activations-2": ids[2]}


def test_stores_of_other_tokens_are_not_joined(place: Path, tmp_path: Path) -> None:
    store = opened(place, IN)

    def refused(other: ActivationStore, words: str) -> None:
        for join in (lambda: Pairs(store, other), lambda: Sites([store, other])):
            with pytest.raises(UsageError, match=words) as caught:
                join()
            text = str(caught.value)
            assert str(store.artifact.path) in text
            assert str(other.artifact.path) in text
            assert f"--site {IN} {other.site}" in text

    refused(opened(place, OUT, "spared"), "are from another tokens")
    neox = harvest(place / "neox-parallel", place / "packed", out=tmp_path / "neox", site=OUT)
    refused(neox, "are from another model")
    few = harvest(place / "gpt2", place / "packed", out=tmp_path / "few", site=OUT, max_tokens=100)
    refused(few, "were made with `max_tokens` = 100, not None")
    bos = harvest(place / "gpt2", place / "unpacked", out=tmp_path / "bos", site=EARLY)
    with pytest.raises(UsageError, match="`skip_bos` = False, not True"):
        Pairs(opened(place, IN, "spared"), bos)

    def plain(name: str, shift: int, rows: int = 50, n_train: int = 40) -> ActivationStore:
        def write(draft: Draft) -> dict[str, Any]:
            writer = ActivationWriter(draft, 4, torch.float32)
            writer.add(torch.randn(rows, 4), torch.arange(rows) + shift * (torch.arange(rows) == 30))
            return writer.finish(n_train)

        return ActivationStore(make(tmp_path / name, "activations", {"site": name}, {}, write))

    first = plain("a", 0)
    assert Pairs(first, plain("b", 0)).n_held_out == 10
    for other, words in (
        (plain("c", 1), "are of other tokens"),
        (plain("d", 0, n_train=41), "are 50, of which 41 to train on"),
        (plain("e", 0, rows=51), "are 51, of which 40 to train on"),
    ):
        with pytest.raises(UsageError, match=words):
            Pairs(first, other)
    with pytest.raises(UsageError, match=rf"sites {re.escape(f'{IN}, {OUT}, {IN}')} are to be joined; name each"):
        Sites([store, opened(place, OUT), store])


def test_what_cannot_stand_beside_another_site(place: Path, tmp_path: Path) -> None:
    world = World(WorldSettings(d_in=6, features=8, l0=2, noise=0.1, noise_on="input")).save(tmp_path / "world")
    found = open_joined(tmp_path / "world")  # which has targets of its own
    assert isinstance(found, World)
    assert found.paired
    assert (d_out_of(found), widths_of(found)) == (6, ())
    assert parents_of(found).keys() == {"world"}
    store = opened(place, IN)
    with pytest.raises(UsageError, match="a world's rows are of no site; leave out --target"):
        open_joined(world, target=store)
    with pytest.raises(UsageError, match="a world's rows are of no site; leave out --others"):
        open_joined(tmp_path / "world", others=[store])
    with pytest.raises(UsageError, match="joined already; leave out --target"):
        open_joined(Sites([store, opened(place, OUT)]), target=store)
    with pytest.raises(UsageError, match="give one of the two"):
        open_joined(store, target=store, others=[store])
    with pytest.raises(UsageError, match="holds world, where activations are needed"):
        open_joined(store, target=tmp_path / "world")


# ---- fidelity ----------------------------------------------------------------------------------------------------


class Skipping(Dictionary):
    """Constant codes, and a linear path from input to output beside them."""

    name = "skipping"

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(x_BD), self.width)

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(x_BD)) + x_BD @ self.tensors["skip"]


def random_dictionary(d_in: int, d_out: int, seed: int = 0, **settings: Any) -> ReluDictionary:
    g = torch.Generator().manual_seed(seed)
    tensors = {"W_enc": (20, d_in), "b_enc": (20,), "W_dec": (20, d_out), "b_dec": (d_out,)}
    drawn = {name: torch.randn(*size, generator=g) / 4 for name, size in tensors.items()}
    return ReluDictionary(drawn, settings)


def brute_fvu(target: torch.Tensor, rebuilt: torch.Tensor) -> float:
    target, rebuilt = target.double(), rebuilt.double()
    return float((target - rebuilt).square().sum() / (target - target.mean(0)).square().sum())


def test_a_transcoder_is_scored_against_its_target(place: Path) -> None:
    rows = Pairs(opened(place, IN), opened(place, ACT))
    pairs = list(held_out_pairs(rows, 10**6, 10**6))
    x_XD, y_XE = pairs[0]
    mean_E = y_XE.mean(0)
    silent = ReluDictionary(
        {"W_enc": torch.zeros(3, D_IN), "b_enc": -torch.ones(3), "W_dec": torch.zeros(3, D_ACT), "b_dec": mean_E}
    )
    best = torch.linalg.lstsq(torch.cat([x_XD, torch.ones(len(x_XD), 1)], 1).double(), y_XE.double()).solution.float()
    skip = Skipping({"W_dec": best[-1:], "W_enc": torch.zeros(1, D_IN), "skip": best[:-1]})
    other = random_dictionary(D_IN, D_ACT)
    scores = [each.scores() for each in fidelity_of([silent, skip, other], rows, 10**6, CPU)]
    assert scores[0]["fvu"] == pytest.approx(1, abs=1e-5)  # the targets' mean explains nothing of them
    linear = brute_fvu(y_XE, x_XD @ best[:-1] + best[-1])
    assert 0.01 < linear < 0.9
    assert scores[1]["fvu"] == pytest.approx(linear, rel=1e-4)
    xhat_XE = other.reconstruct(x_XD)
    assert scores[2]["fvu"] == pytest.approx(brute_fvu(y_XE, xhat_XE), rel=1e-5)
    assert scores[2]["mse"] == pytest.approx(float((y_XE - xhat_XE).square().mean()), rel=1e-5)
    assert scores[2]["l0"] == pytest.approx(float((other.encode(x_XD) > 0).sum(1).float().mean()), rel=1e-6)
    cosine = F.cosine_similarity(y_XE, xhat_XE).mean()
    assert scores[2]["cosine"] == pytest.approx(float(cosine), rel=1e-4)


def test_every_site_of_a_crosscoder_has_its_own_fvu(place: Path) -> None:
    rows = Sites([opened(place, site) for site in SITES])
    x_XD = torch.cat([x_BD for x_BD, _ in held_out_pairs(rows, 40, 10**6)])
    learned = random_dictionary(96, 96)
    [found] = fidelity_of([learned], rows, 10**6, CPU)
    rebuilt = learned.reconstruct(x_XD)
    blocks = zip(x_XD.split(rows.sites, dim=1), rebuilt.split(rows.sites, dim=1), strict=True)
    assert found.site_scores()["fvu_sites"] == pytest.approx([brute_fvu(x, xhat) for x, xhat in blocks], rel=1e-5)
    assert found.scores()["fvu"] == pytest.approx(brute_fvu(x_XD, rebuilt), rel=1e-5)
    [single] = fidelity_of([random_dictionary(D_IN, D_IN)], opened(place, IN), 100, CPU)
    assert single.site_scores() == {}


# ---- spliced into the model --------------------------------------------------------------------------------------

Hook = Callable[[str, torch.Tensor], torch.Tensor | None]  # of a site and what is there, to what goes on from there


def by_hand(lm: LanguageModel, ids_BC: torch.Tensor, hook: Hook) -> torch.Tensor:
    """Log-probabilities of every next token, with hooks of our own on a GPT-2's modules."""
    blocks = lm.model.transformer.h
    sites: dict[str, tuple[torch.nn.Module, str]] = {
        IN: (blocks[1].mlp, "in"),
        ACT: (blocks[1].mlp.c_proj, "in"),
        OUT: (blocks[1].mlp, "out"),
        EARLY: (blocks[0], "out"),
    }
    handles = []
    for site, (module, side) in sites.items():

        def before(_: object, args: Any, site: str = site) -> Any:
            new = hook(site, args[0].clone())
            return args if new is None else (new, *args[1:])

        def after(_: object, __: object, output: Any, site: str = site) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            new = hook(site, x.clone())
            return output if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

        register = module.register_forward_pre_hook if side == "in" else module.register_forward_hook
        handles.append(register(before if side == "in" else after))
    with torch.inference_mode():
        found = lm.model(ids_BC).logits[:, :-1].log_softmax(-1)
    for handle in handles:
        handle.remove()
    return found


def losses_by_hand(
    lm: LanguageModel, tokens: TokenStore, hook_of: Callable[[torch.Tensor], Hook], rows: range
) -> tuple[float, float]:
    """Mean cross-entropy and KL, one unpadded row at a time; `hook_of(ids)` is asked before each edited pass."""
    nats, kl, count = 0.0, 0.0, 0
    for row in rows:
        ids = tokens.batch(torch.tensor([row])).ids_BC
        plain = by_hand(lm, ids, lambda *_: None)
        edited = by_hand(lm, ids, hook_of(ids))
        nats -= float(edited[0].gather(1, ids[0, 1:, None]).sum())
        kl += float((plain.exp() * (plain - edited)).sum())
        count += ids.shape[1] - 1
    return nats / count, kl / count


def spared(ids: torch.Tensor, bos: int | None, x: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    return new if bos is None else torch.where((ids == bos)[:, :, None], x, new)


ROWS = range(6)


@pytest.mark.parametrize("keep_bos", [False, True])
def test_a_transcoder_is_spliced_in_the_pass_that_it_reads(place: Path, keep_bos: bool) -> None:
    lm, tokens = LanguageModel.load(place / "gpt2"), TokenStore.open(place / "unpacked")
    bos = tokens.edges.bos if keep_bos else None
    learned = Skipping({**random_dictionary(D_IN, D_OUT).tensors, "skip": torch.randn(D_IN, D_OUT) / 3})
    mean_D = torch.linspace(-1, 1, D_OUT)
    edits = {
        "0": replacement(learned, [IN], OUT),
        "zero": constant({OUT: torch.zeros(D_OUT)}),
        "mean": constant({OUT: mean_D}),
    }
    with torch.inference_mode():
        found = splice(lm, tokens, edits, ROWS, keep_bos)
    assert found.keys() == {"original", *edits}

    def transcoded(ids: torch.Tensor) -> Hook:
        seen: list[torch.Tensor] = []

        def hook(site: str, x: torch.Tensor) -> torch.Tensor | None:
            if site == IN:
                seen.append(x)
            return spared(ids, bos, x, learned.reconstruct(seen.pop()[0])[None]) if site == OUT else None

        return hook

    def put(value: torch.Tensor) -> Callable[[torch.Tensor], Hook]:
        return lambda ids: lambda site, x: spared(ids, bos, x, value.expand_as(x)) if site == OUT else None

    hands = {"0": transcoded, "zero": put(torch.zeros(D_OUT)), "mean": put(mean_D)}
    losses = {name: losses_by_hand(lm, tokens, hand, ROWS) for name, hand in hands.items()}
    for name, (cross_entropy, kl) in losses.items():
        assert found[name].cross_entropy == pytest.approx(cross_entropy, abs=2e-5), name
        assert found[name].kl == pytest.approx(kl, abs=2e-5), name
        assert kl > 2e-3
    assert len({round(kl, 3) for _, kl in losses.values()}) == 3  # they are different edits


@pytest.mark.parametrize("keep_bos", [False, True])
def test_a_crosscoder_keeps_the_codes_of_the_clean_run(place: Path, keep_bos: bool) -> None:
    lm, tokens = LanguageModel.load(place / "gpt2"), TokenStore.open(place / "unpacked")
    bos = tokens.edges.bos if keep_bos else None
    learned = random_dictionary(96, 96)
    widths = dict(zip(SITES, (D_OUT, 16, D_ACT), strict=True))
    edits = {
        "7": replacement(learned, SITES),
        "zero": constant({site: torch.zeros(width) for site, width in widths.items()}),
    }
    with torch.inference_mode():
        found = splice(lm, tokens, edits, ROWS, keep_bos)
    alone = [at(name, site) for name in edits for site in SITES]
    assert found.keys() == {"original", *edits, *alone}

    def crosscoded(*where: str) -> Callable[[torch.Tensor], Hook]:
        def hook_of(ids: torch.Tensor) -> Hook:
            clean: dict[str, torch.Tensor] = {}
            by_hand(lm, ids, lambda site, x: clean.update({site: x}))
            rebuilt = learned.reconstruct(torch.cat([clean[site][0] for site in SITES], dim=1))
            parts = dict(zip(SITES, rebuilt.split(list(widths.values()), dim=1), strict=True))
            return lambda site, x: spared(ids, bos, x, parts[site][None]) if site in where else None

        return hook_of

    def zeroed(*where: str) -> Callable[[torch.Tensor], Hook]:
        return lambda ids: lambda site, x: spared(ids, bos, x, torch.zeros_like(x)) if site in where else None

    hands = {"7": crosscoded(*SITES), "zero": zeroed(*SITES)}
    hands |= {at("7", site): crosscoded(site) for site in SITES} | {at("zero", site): zeroed(site) for site in SITES}
    losses = {name: losses_by_hand(lm, tokens, hand, ROWS) for name, hand in hands.items()}
    for name, (cross_entropy, kl) in losses.items():
        assert found[name].cross_entropy == pytest.approx(cross_entropy, abs=2e-5), name
        assert found[name].kl == pytest.approx(kl, abs=2e-5), name
    assert len({round(kl, 3) for _, kl in losses.values()}) >= len(losses) - 1  # they are different edits
    scores = site_scores(found, "7", SITES)
    assert scores["ce_reconstructed_sites"] == [found[at("7", site)].cross_entropy for site in SITES]
    assert scores["kl_sites"] == pytest.approx([losses[at("7", site)][1] for site in SITES], abs=1e-4)


def test_scores_of_each_site_alone() -> None:
    """A random network loses nothing that could be recovered, so the arithmetic is checked on made-up results."""
    values = {"original": 2.0, "zero": 5.0, "0": 3.0, "zero at a": 4.0, "0 at a": 2.5, "zero at b": 1.9, "0 at b": 2.0}
    results = {name: Spliced(value, value / 10, 7) for name, value in values.items()}
    assert site_scores(results, "0", ["b", "a"]) == {
        "ce_reconstructed_sites": [2.0, 2.5],
        "ce_recovered_sites": [None, 0.75],  # at b zero costs nothing
        "kl_sites": [0.2, 0.25],
    }
    assert downstream_scores(results, "0")["ce_recovered"] == pytest.approx(2 / 3)


# ---- the evaluate stage ------------------------------------------------------------------------------------------


def grid_of(rows: AnySource, members: list[Dictionary], out: Path) -> Path:
    """Dictionaries on disk, as the train stage leaves them."""

    def write(draft: Draft) -> dict[str, Any]:
        for number, dictionary in enumerate(members):
            save_dictionary(draft.file(member_file(number)), dictionary)
        dials = {"variant": "relu", "width": 20, "l1": 0.1, "k": None, "noise": None, "lr": 1e-3}
        listed = [{"member": number, **dials, "seed": number} for number in range(len(members))]
        _, origin = origin_of(rows)
        return {"members": listed, "d_in": rows.d_in, **origin}

    return make(out, "dictionaries", {}, parents_of(rows), write).path


def test_transcoders_are_evaluated_with_the_target_they_were_trained_on(place: Path, tmp_path: Path) -> None:
    inputs, targets = opened(place, IN), opened(place, ACT)
    rows = Pairs(inputs, targets)
    members: list[Dictionary] = [random_dictionary(D_IN, D_ACT, seed) for seed in range(2)]
    grid = grid_of(rows, members, tmp_path / "d")
    scores = evaluate(grid, inputs, model=place / "gpt2", out=tmp_path / "s", token_rows=5)
    assert scores.artifact.manifest["parents"].keys() == {"dictionaries", "activations", "target", "model"}
    assert scores.artifact.parent("target").id == targets.artifact.id
    fidelity = fidelity_of(members, rows, 65536, CPU)
    lm, tokens = LanguageModel.load(place / "gpt2"), TokenStore.open(place / "packed")
    edits = {str(number): replacement(member, [IN], ACT) for number, member in enumerate(members)}
    edits |= {"zero": constant({ACT: torch.zeros(D_ACT)}), "mean": constant({ACT: targets.statistics().mean_D})}
    with torch.inference_mode():
        spliced = splice(lm, tokens, edits, tokens.spread(tokens.holdout_rows, 5))
    for number, row in enumerate(scores.rows):
        assert row["fvu"] == pytest.approx(fidelity[number].scores()["fvu"])
        for name, value in downstream_scores(spliced, str(number)).items():
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
        assert "fvu_sites" not in row
    assert scores.rows[0]["fvu"] != scores.rows[1]["fvu"]
    with_target = evaluate(grid, inputs, target=targets, model=lm, out=tmp_path / "s", token_rows=5)
    assert with_target.artifact.id == scores.artifact.id
    other = evaluate(grid, opened(place, IN, "spared"), target=opened(place, ACT, "spared"), out=tmp_path / "other")
    assert other.rows[0]["fvu"] != scores.rows[0]["fvu"]
    assert other.rows[0]["kl"] is None

    def fails(words: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=words):
            evaluate(grid, options.pop("activations", inputs), out=tmp_path / "x", **options)

    fails("harvest both sites in one pass", activations=opened(place, IN, "spared"))  # the target of other tokens
    fails("rebuild rows of width 64, not 16; evaluate with the --target", target=opened(place, OUT))
    fails("take 0 further sites, 1 were given; give as many with --others", others=[targets])


def test_a_target_before_the_input_cannot_be_spliced(place: Path, tmp_path: Path) -> None:
    rows = Pairs(opened(place, LATE), opened(place, EARLY))
    grid = grid_of(rows, [random_dictionary(16, 16)], tmp_path / "d")
    scores = evaluate(grid, rows, out=tmp_path / "s")  # without the model it is a dictionary like any
    assert scores.rows[0]["fvu"] > 0
    with pytest.raises(UsageError, match=rf"target \(={EARLY}\): is computed before {LATE}.*leave out --model"):
        evaluate(grid, rows, model=place / "gpt2", out=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_crosscoders_are_evaluated_on_all_their_sites(place: Path, tmp_path: Path) -> None:
    stores = [opened(place, site) for site in SITES]
    rows = Sites(stores)
    learned = random_dictionary(96, 96, sites=list(rows.sites))
    grid = grid_of(rows, [learned], tmp_path / "d")
    lm = LanguageModel.load(place / "gpt2")
    scores = evaluate(grid, stores[0], model=lm, out=tmp_path / "s", token_rows=5)
    assert scores.artifact.manifest["parents"].keys() == {
        *("dictionaries", "activations", "activations-1", "activations-2", "model")
    }
    [row] = scores.rows
    [fidelity] = fidelity_of([learned], rows, 65536, CPU)
    assert row["fvu_sites"] == pytest.approx(fidelity.site_scores()["fvu_sites"])
    tokens = TokenStore.open(place / "packed")
    zeros = {store.site: torch.zeros(store.d_in) for store in stores}
    means = {store.site: store.statistics().mean_D for store in stores}
    edits = {"0": replacement(learned, SITES), "zero": constant(zeros), "mean": constant(means)}
    with torch.inference_mode():
        spliced = splice(lm, tokens, edits, tokens.spread(tokens.holdout_rows, 5))
    for name, value in (downstream_scores(spliced, "0") | site_scores(spliced, "0", SITES)).items():
        if isinstance(value, list):
            assert row[name] == [None if each is None else pytest.approx(each, rel=1e-5) for each in value], name
        else:
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-5)), name
    blank = evaluate(grid, stores[0], others=stores[1:], out=tmp_path / "blank").rows[0]
    assert blank.keys() == row.keys()
    assert blank["kl"] is blank["kl_sites"] is None
    with pytest.raises(UsageError, match=rf"dictionaries of {', '.join(SITES)}, not of .*in the same order"):
        evaluate(grid, stores[1], others=[stores[0], stores[2]], out=tmp_path / "x")
    with pytest.raises(UsageError, match="take 2 further sites, 1 were given; give as many with --others"):
        evaluate(grid, stores[0], others=stores[1:2], out=tmp_path / "x")
    with pytest.raises(UsageError, match="not another site; leave out --target"):
        evaluate(grid, stores[0], target=stores[1], out=tmp_path / "x")


def test_stores_that_were_moved_must_be_named(place: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "stores", {"site": (IN, ACT, OUT), "max_tokens": 200}
    stores = list(harvest_sites(place / "gpt2", place / "packed", out=folder, **options).values())
    pair = grid_of(Pairs(*stores[:2]), [random_dictionary(D_IN, D_ACT)], tmp_path / "pair")
    joint = grid_of(Sites(stores), [random_dictionary(96, 96)], tmp_path / "joint")
    (folder / ACT).rename(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"the target that .* gone; say where with --target"):
        evaluate(pair, folder / IN, out=tmp_path / "x")
    with pytest.raises(UsageError, match=rf"{ACT}: not the activations that .*say where all further sites .*--others"):
        evaluate(joint, folder / IN, out=tmp_path / "x")
    found = evaluate(pair, folder / IN, target=tmp_path / "moved", out=tmp_path / "a")
    assert found.rows[0]["fvu"] > 0
    found = evaluate(joint, folder / IN, others=[tmp_path / "moved", folder / OUT], out=tmp_path / "b")
    assert len(found.rows[0]["fvu_sites"]) == 3


def test_from_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from monosemy.cli import main

    tokens, out = str(place / "packed"), tmp_path / "activations"
    main(["harvest", str(place / "gpt2"), tokens, "--site", IN, ACT, "--dtype", "fp32", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(out / IN), str(out / ACT)]
    assert ActivationStore.open(out / ACT).artifact.id == opened(place, ACT).artifact.id
    main(["harvest", str(place / "gpt2"), tokens, "--site", IN, "--out", str(tmp_path / "one")])
    assert ActivationStore.open(tmp_path / "one").site == IN
    grid = grid_of(Pairs(*(opened(place, site) for site in (IN, ACT))), [random_dictionary(16, 64)], tmp_path / "d")
    capsys.readouterr()
    command = ["evaluate", str(grid), str(out / IN), "--target", str(out / ACT), "--out", str(tmp_path / "s"), "--json"]
    main(command)
    assert '"fvu"' in capsys.readouterr().out
    joint = grid_of(Sites([opened(place, IN), opened(place, ACT)]), [random_dictionary(80, 80)], tmp_path / "joint")
    command = ["evaluate", str(joint), str(out / IN), "--others", str(out / ACT), "--out", str(tmp_path / "t")]
    main([*command, "--model", str(place / "gpt2")])
    assert " kl" in capsys.readouterr().out.splitlines()[0]


def test_a_transcoder_from_training_to_the_report(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every public stage, and the page: what is shown of features is what the stored dictionary says of the model."""
    from monosemy.cli import main

    stores, model = place / "stores", str(place / "gpt2")
    dials = [
        "--variant",
        "transcoder",
        "skip-transcoder",
        "--k",
        "4",
        "--width",
        "24",
        "--steps",
        "150",
        "--batch",
        "64",
    ]
    main(["train", str(stores / IN), "--target", str(stores / ACT), *dials, "--out", str(tmp_path / "dictionaries")])
    made = str(tmp_path / "dictionaries")
    capsys.readouterr()
    main(["evaluate", made, str(stores / IN), "--model", model, "--token-rows", "5"])
    printed = capsys.readouterr().out
    where = f"site {IN}, from which {ACT} is rebuilt"
    assert where in printed.splitlines()
    rows = Scores.open(tmp_path / "scores").rows
    assert all(0 < row["fvu"] < 0.9 for row in rows)  # learned, where 1 is the mean
    assert all(row["ce_recovered"] is not None for row in rows)
    main(["features", made, "--member", "0", "--model", model, "--tokens", str(place / "packed")])
    index = FeatureIndex.open(tmp_path / "features")
    grid, lm = DictionaryStore.open(made), LanguageModel.load(model)
    codes_XN = grid.dictionary(0).encode(all_rows(opened(place, IN)))
    counts = [row["count"] for row in index.table()]
    assert counts == pytest.approx((codes_XN != 0).sum(dim=0).tolist(), abs=2)
    assert index.n_features == 24
    most = max(range(24), key=counts.__getitem__)
    direct = extreme_tokens(lm, ACT, grid.directions(0), 10, 280)
    assert direct is not None
    assert [value for _, value in index.feature(most).top_logits] == pytest.approx(direct["top_values"][most].tolist())
    main(["report", str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert f'<span class="dim">{where}</span>' in page
    assert "by site" not in page


def test_a_crosscoder_from_training_to_the_report(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from monosemy.cli import main

    first, *others = (str(place / "stores" / site) for site in SITES)
    made, model = str(tmp_path / "dictionaries"), str(place / "gpt2")
    dials = ["--variant", "crosscoder", "--l1", "0.01", "--width", "24", "--steps", "150", "--batch", "64"]
    main(["train", first, "--others", *others, *dials, "--out", made])
    capsys.readouterr()
    main(["evaluate", made, first, "--model", model, "--token-rows", "5"])
    printed = capsys.readouterr().out.splitlines()
    [row] = Scores.open(tmp_path / "scores").rows
    assert 0 < row["fvu"] < 0.9
    where = f"sites {' / '.join(SITES)}, side by side"
    assert where in printed
    assert " / ".join(f"{each:.3f}" for each in row["fvu_sites"]) in printed[1]
    assert " / ".join(f"{each:.3f}" for each in row["kl_sites"]) in printed[1]
    with pytest.raises(UsageError, match="rows of no single site of a model"):
        features(made, member=0, model=model, tokens=place / "packed", out=tmp_path / "features")
    page = write_report(tmp_path).read_text()
    assert where in page
    assert ">FVU by site</button>" in page
    assert f">{' / '.join(shown('fvu_sites', each) for each in row['fvu_sites'])}</td>" in page
    assert "[0." not in page.split("<tbody>")[1]
    assert shown("kl_sites", [0.5, None]) == "0.5000 / –"

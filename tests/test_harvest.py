"""Stored activations are the model's own, row for row, however often the harvest was killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared
from networks import network, save_network
from processes import SERVER

from monosemy.data import activations
from monosemy.data.activations import ActivationStore
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.models.harvest import HarvestSettings, harvest
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

SITE = "layers.1.mlp_act"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, packed tokens, and unpacked tokens of the same text."""
    folder = tmp_path_factory.mktemp("harvest")
    lines = [f'{{"text": "story {i}: {"the cat sat on the mat and saw a dog. " * (1 + i % 5)}"}}' for i in range(40)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    save_network("gpt2", folder / "bare")
    tokenize(str(folder / "text.jsonl"), tokenizer="bpe:280", context=16, out=folder / "packed")
    own = folder / "packed" / "tokenizer"
    tokenize(str(folder / "text.jsonl"), tokenizer=str(own), context=32, packed=False, out=folder / "unpacked")
    grown = network("gpt2")
    grown.resize_token_embeddings(280)
    grown.save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_bytes((own / "tokenizer.json").read_bytes())
    return folder


def direct_rows(model: Path, tokens: TokenStore, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, Any]:
    """Every token's activation at SITE by a hook of our own, one row of tokens at a time, and its offset."""
    import transformers

    gpt2 = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
    seen: list[torch.Tensor] = []
    gpt2.transformer.h[1].mlp.c_proj.register_forward_hook(lambda _, args, __: seen.append(args[0][0]))
    offsets = []
    with torch.inference_mode():
        for start, length in zip(tokens.row_starts_R.tolist(), tokens.row_lengths_R.tolist(), strict=True):
            gpt2(input_ids=tokens.tokens_T[None, start : start + length].long())
            offsets += range(start, start + length)
    return torch.cat(seen), np.array(offsets)


def stored(store: ActivationStore) -> tuple[torch.Tensor, torch.Tensor]:
    rows = np.arange(store.n_all)
    return store.take(rows), store.offsets(rows)


@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_rows_are_the_models_own(kind: str, place: Path, tmp_path: Path) -> None:
    tokens = TokenStore.open(place / kind)
    store = harvest(place / "model", place / kind, out=tmp_path / "x", site=SITE, dtype="fp32", device="cpu")
    expected, offsets = direct_rows(place / "model", tokens)
    rows, found = stored(store)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)
    assert (found.numpy() == offsets).all()
    assert store.n_all == tokens.count_tokens()
    assert store.n_rows == tokens.count_tokens(tokens.train_rows)
    assert (store.d_in, store.site) == (64, SITE)
    assert {name: store.artifact.parent(name).path for name in ("model", "tokens")} == {
        "model": str(place / "model"),
        "tokens": str(place / kind),
    }
    torch.testing.assert_close(store.statistics().mean_D, expected[: store.n_rows].mean(0), rtol=1e-4, atol=1e-6)
    texts = [tokens.tokenizer.decode([int(tokens.tokens_T[offset])], skip_special_tokens=False) for offset in found[:3]]
    assert "".join(texts).startswith("story")


def test_what_is_stored_in_other_dtypes(place: Path, tmp_path: Path) -> None:
    expected, _ = direct_rows(place / "model", TokenStore.open(place / "packed"))
    half = harvest(place / "model", place / "packed", out=tmp_path / "half", site=SITE)
    torch.testing.assert_close(stored(half)[0], expected, rtol=1e-3, atol=1e-5)
    fast = harvest(place / "model", place / "packed", out=tmp_path / "fast", site=SITE, model_dtype="bf16")
    error = (stored(fast)[0] - expected).norm() / expected.norm()
    assert 1e-5 < error < 0.05
    assert fast.artifact.id != half.artifact.id


def test_an_open_model_makes_the_same_artifact(place: Path, tmp_path: Path) -> None:
    settings = HarvestSettings(SITE, model_dtype="bf16")
    by_name = harvest(place / "model", place / "packed", out=tmp_path / "x", settings=settings)
    lm = LanguageModel.load(place / "model", dtype="bf16")
    again = harvest(lm, TokenStore.open(place / "packed"), out=tmp_path / "x", settings=settings)  # reused, not refused
    assert again.artifact.id == by_name.artifact.id
    with pytest.raises(UsageError, match="made before with `site`"):
        harvest(lm, place / "packed", out=tmp_path / "x", site="final", model_dtype="bf16")


def test_max_tokens_keeps_both_training_and_held_out_rows(place: Path, tmp_path: Path) -> None:
    tokens = TokenStore.open(place / "packed")
    whole = harvest(place / "model", tokens, out=tmp_path / "whole", site=SITE)
    some = harvest(place / "model", tokens, out=tmp_path / "some", site=SITE, max_tokens=501, batch_rows=3)
    assert some.n_all == 501
    assert whole.n_rows is not None
    assert some.n_rows is not None
    assert some.n_rows == round(501 * whole.n_rows / whole.n_all)
    train, held_out = np.arange(some.n_rows), whole.n_rows + np.arange(501 - some.n_rows)
    rows = np.concatenate([train, held_out])
    assert torch.equal(some.offsets(np.arange(501)), whole.offsets(rows))
    torch.testing.assert_close(some.take(np.arange(501)), whole.take(rows), rtol=1e-2, atol=1e-4)
    more = harvest(place / "model", tokens, out=tmp_path / "more", site=SITE, max_tokens=10**9)
    assert (more.n_rows, more.n_all) == (whole.n_rows, whole.n_all)


def test_skip_bos(place: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no BOS"):
        harvest(place / "model", place / "packed", out=tmp_path / "x", site=SITE, skip_bos=True)
    own, text = str(place / "packed" / "tokenizer"), str(place / "text.jsonl")
    for packed in (True, False):
        out = tmp_path / f"tokens-{packed}"
        tokens = tokenize(text, tokenizer=own, context=16, packed=packed, bos="yes", out=out)
        store = harvest(place / "model", tokens, out=tmp_path / f"x-{packed}", site=SITE, skip_bos=True, batch_rows=7)
        assert store.n_all == tokens.count_tokens() - 40
        assert not (tokens.tokens_T[stored(store)[1]] == tokens.edges.bos).any()
        expected, offsets = direct_rows(place / "model", tokens)
        kept = tokens.tokens_T[torch.from_numpy(offsets)] != tokens.edges.bos
        torch.testing.assert_close(stored(store)[0], expected[kept], rtol=1e-2, atol=1e-4)


# ---- killed and resumed -----------------------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 37 rows, so that hardly any ends where a batch or a token row does."""
    monkeypatch.setattr(activations, "SHARD_BYTES", 37 * 64 * 2)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("kind", ["packed", "unpacked"])
def test_a_killed_harvest_ends_the_same(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"site": SITE, "batch_rows": 5, "max_tokens": 700}
    whole = harvest(place / "model", place / kind, out=tmp_path / "whole", **options)
    lm = LanguageModel.load(place / "model")
    capture, calls = lm.capture, 0

    def fail_at_times(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in (3, 6, 8):
            raise KeyboardInterrupt
        return capture(*args)

    monkeypatch.setattr(lm, "capture", fail_at_times)
    for kill in range(3):
        with pytest.raises(KeyboardInterrupt):
            harvest(lm, place / kind, out=tmp_path / "killed", **options)
        assert not (tmp_path / "killed").exists()
        options["batch_rows"] = 2 + kill  # a resumed harvest keeps the batches it began with
    resumed = harvest(lm, place / kind, out=tmp_path / "killed", **options)
    needed = -(-len(TokenStore.open(place / kind).row_starts_R) // 5)
    assert calls < 2 * needed
    assert resumed.artifact.id == whole.artifact.id
    assert (resumed.n_rows, resumed.n_all) == (whole.n_rows, whole.n_all) == (whole.n_rows, 700)


def harvest_and_die(model: str, tokens: str, out: str, threads: int) -> None:
    """A harvest that kills its own process at its fourth batch."""
    activations.SHARD_BYTES = 37 * 64 * 2
    torch.set_num_threads(threads)
    capture, calls = LanguageModel.capture, []

    def killed(self: LanguageModel, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return capture(self, *args)

    LanguageModel.capture = killed  # type: ignore[method-assign]
    harvest(model, tokens, out=out, site=SITE, batch_rows=5)


@pytest.mark.usefixtures("small_shards")
def test_kill_9_and_resume(place: Path, tmp_path: Path) -> None:
    model, tokens, out = str(place / "model"), str(place / "packed"), str(tmp_path / "killed")
    run = SERVER.Process(target=harvest_and_die, args=(model, tokens, out, torch.get_num_threads()))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    assert not Path(out).exists()
    resumed = harvest(model, tokens, out=out, site=SITE, batch_rows=5)
    whole = harvest(model, tokens, out=tmp_path / "whole", site=SITE, batch_rows=5)
    assert resumed.artifact.id == whole.artifact.id


@pytest.mark.usefixtures("small_shards")
def test_killed_after_the_last_shard(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = harvest(place / "model", place / "packed", out=tmp_path / "whole", site=SITE)
    finish = activations.ActivationWriter.finish

    def killed(self: Any, n_train: int) -> Any:
        finish(self, n_train)
        raise KeyboardInterrupt

    monkeypatch.setattr(activations.ActivationWriter, "finish", killed)
    with pytest.raises(KeyboardInterrupt):
        harvest(place / "model", place / "packed", out=tmp_path / "x", site=SITE)
    monkeypatch.undo()
    monkeypatch.setattr(activations, "SHARD_BYTES", 37 * 64 * 2)
    assert harvest(place / "model", place / "packed", out=tmp_path / "x", site=SITE).artifact.id == whole.artifact.id


# ---- what a user gets wrong -------------------------------------------------------------------------------------


def test_bad_requests(place: Path, tmp_path: Path) -> None:
    def run(**options: Any) -> None:
        harvest(options.pop("model", place / "model"), place / "packed", out=tmp_path / "x", **options)

    with pytest.raises(UsageError, match="layers 0 to 2"):
        run(site="layers.3.mlp_act")
    with pytest.raises(UsageError, match=r"holds token \d+, and .*vocabulary of 61"):
        run(site=SITE, model=place / "bare")
    with pytest.raises(UsageError, match="no such folder"):
        run(site=SITE, model=place / "nowhere")
    with pytest.raises(UsageError, match="`dtype`"):
        run(site=SITE, dtype="int8")
    with pytest.raises(UsageError, match="`model_dtype`"):
        run(site=SITE, model_dtype="fp16")
    with pytest.raises(UsageError, match="`max_tokens` \\(=0\\)"):
        run(site=SITE, max_tokens=0)
    assert not (tmp_path / "x").exists()


def test_bad_activations_are_refused(place: Path, tmp_path: Path) -> None:
    lm = LanguageModel.load(place / "model")
    lm.model.transformer.h[1].mlp.c_fc.bias[3] = 1e6
    with pytest.raises(UsageError, match=r"more than torch.float16 holds .* use --dtype"):
        harvest(lm, place / "packed", out=tmp_path / "x", site=SITE)
    lm.model.transformer.h[1].mlp.c_fc.bias[3] = torch.nan
    with pytest.raises(UsageError, match="NaN"):
        harvest(lm, place / "packed", out=tmp_path / "x", site=SITE)


def test_rows_of_a_trained_model(tmp_path: Path) -> None:
    folder, text = shared("models/stories260K"), shared("text/tinystories.jsonl.gz")
    tokens = tokenize(str(text), tokenizer=str(folder), context=128, out=tmp_path / "tokens")
    site = "layers.2.mlp_act"
    store = harvest(folder, tokens, out=tmp_path / "x", site=site, max_tokens=20_000)
    lm = LanguageModel.load(folder)
    rows = torch.tensor([0, 7, 99])
    batch = tokens.batch(rows)
    expected = lm.capture(batch.ids_BC, [site])[site].flatten(0, 1)
    offsets = (batch.offset_B[:, None] + torch.arange(128)).flatten()
    assert torch.equal(store.offsets(offsets.numpy()), offsets)  # packed rows: activation i is token i
    torch.testing.assert_close(store.take(offsets.numpy()), expected, rtol=1e-2, atol=1e-3)

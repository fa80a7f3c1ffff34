"""Our own GPT and its training: causal, reproducible, resumable, readable by transformers (the last in test_cli)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from processes import killed_when
from torch.nn import functional as F

from monosemy import cli
from monosemy.artifact import Artifact, load
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.models.gpt import Gpt, GptShape
from monosemy.models.pretrain import cosine, pretrain, validation_loss
from monosemy.runtime import UsageError

SHAPE = GptShape(vocab_size=50, context=12, layers=2, d_model=16, heads=4)


@pytest.fixture
def tokens(tmp_path: Path) -> TokenStore:
    (tmp_path / "text.txt").write_text(" ".join(f"word{i % 7} and then {i % 13}" for i in range(3000)))
    return tokenize(str(tmp_path / "text.txt"), tokenizer="bpe:300", context=32, out=tmp_path / "tokens")


def test_a_position_sees_only_what_comes_before() -> None:
    model = Gpt(SHAPE)
    ids = torch.randint(0, 50, (2, 12))
    changed = ids.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7:], after[:, 7:])


def test_the_loss_is_the_mean_over_real_targets() -> None:
    model = Gpt(SHAPE)
    ids = torch.randint(0, 50, (3, 12))
    mask = torch.arange(12) < torch.tensor([12, 5, 2])[:, None]
    logits = model(ids)
    places = [(row, place) for row in range(3) for place in range(int(mask[row].sum()) - 1)]
    expected = [F.cross_entropy(logits[row, place], ids[row, place + 1]) for row, place in places]
    torch.testing.assert_close(model.loss(ids, mask), torch.stack(expected).mean())


def test_initial_weights_follow_the_seed_and_predict_nothing() -> None:
    a, b, c = Gpt(SHAPE, 0), Gpt(SHAPE, 0), Gpt(SHAPE, 1)
    assert torch.equal(a.h[0].mlp.c_fc.weight, b.h[0].mlp.c_fc.weight)  # type: ignore[union-attr, union-attr]
    assert not torch.equal(a.wte.weight, c.wte.weight)
    ids = torch.randint(0, 50, (4, 12))
    loss = a.loss(ids, torch.ones_like(ids, dtype=torch.bool)).item()
    assert loss == pytest.approx(3.912, abs=0.1)  # ln 50


def test_the_schedule_is_a_rise_then_a_cosine_to_a_tenth() -> None:
    factors = [cosine(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == 1
    assert factors[55] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)


def test_it_learns_and_never_sees_held_out_rows(tokens: TokenStore, tmp_path: Path) -> None:
    made = pretrain(tokens, layers=1, d_model=32, heads=2, steps=150, out=tmp_path / "model", device="cpu")
    assert made.info["validation_loss"] < 1.5  # ln 300 = 5.7 before
    (tmp_path / "short.txt").write_text("a b")
    short = tokenize(str(tmp_path / "short.txt"), tokenizer="bpe:300", out=tmp_path / "short")
    assert validation_loss(Gpt(GptShape(300, 256, 1, 16, 2)), short) is None


def test_settings_that_make_no_sense_are_explained(tokens: TokenStore, tmp_path: Path) -> None:
    for options, words in (
        ({"d_model": 30, "heads": 4}, "multiple of"),
        ({"layers": 0}, "`layers`"),
        ({"lr": 2.0}, "`lr`"),
    ):
        with pytest.raises(UsageError, match=words):
            pretrain(tokens, out=tmp_path / "model", **options)


@pytest.mark.usefixtures("tokens")
def test_kill_9_and_resume_end_bit_for_bit_the_same(tmp_path: Path) -> None:
    def command(out: str) -> str:
        return f"pretrain {tmp_path}/tokens --out {tmp_path}/{out} --layers 1 --d-model 32 --heads 2 --steps 250"

    checkpoint = tmp_path / ".killed.partial/scratch/checkpoint.safetensors"
    killed_when(checkpoint.exists, command("killed"), tmp_path / "log.txt", checkpoint_every_s=0.05)
    for out in ("whole", "killed"):
        cli.main(command(out).split())
    whole, killed = load(tmp_path / "whole", "model"), load(tmp_path / "killed", "model")
    assert whole.id == killed.id
    assert _weights(whole) == _weights(killed)


def _weights(artifact: Artifact) -> bytes:
    return (artifact.path / "model.safetensors").read_bytes()

"""Text written while a feature is changed: every token against a full forward pass of the edited model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from feature_worlds import VOCAB
from network_labs import WIDTH, network_lab
from networks import CAUSAL
from torch import Tensor

from monosemy.analysis.chart import figure_of
from monosemy.analysis.intervention import Change, Intervention
from monosemy.analysis.lab import Lab
from monosemy.analysis.steering import SteeringSettings, WrittenText, steer
from monosemy.analysis.steering_agreement import steering_agreement
from monosemy.metrics.interval import Share
from monosemy.models import generation
from monosemy.models.generation import Sampling, choose, generate, stops_of
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import Progress, UsageError, generator_for, listening

PROMPT = [3, 97, 98, 5]
STEPS = 9


def write(lab: Lab, ids_BC: Tensor, sampling: Sampling, *rest: Any, **options: Any) -> list[generation.Generated]:
    with Progress("test", sampling.new_tokens) as bar:
        return generate(lab.model, ids_BC, sampling, bar, *rest, **options)


# ---- generation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CAUSAL)
def test_every_token_is_drawn_behind_all_before_it(name: str, tmp_path: Path) -> None:
    """Row by row and token by token, without a cache: p(· | tokens ≤ i) of the edited model on the whole text."""
    lab = network_lab(tmp_path, name, k=3)
    intervention = Intervention(lab, [None, Change(1, "clamp", 3.0), Change(2, "add", 2.0), Change(3, "remove")])
    ids_BC = torch.tensor([PROMPT] * 4)
    for temperature in (0.0, 1.5):
        rows = write(lab, ids_BC, Sampling(STEPS, temperature, seed=3), intervention.edits)
        draws = generator_for("generate", 3)
        texts_BC = ids_BC
        for step in range(STEPS):
            logits_BV = lab.model.logits(texts_BC, edits=intervention.edits(texts_BC))[:, -1].double()
            token_B = choose(logits_BV, temperature, draws)
            assert [row.ids[step] for row in rows] == token_B.tolist(), step
            log_p_B = logits_BV.log_softmax(dim=1)[range(4), token_B]
            assert [row.log_probs[step] for row in rows] == pytest.approx(log_p_B.tolist(), abs=1e-4)
            texts_BC = torch.cat([texts_BC, token_B[:, None]], dim=1)
        assert {row.ended for row in rows} == {"length"}
        assert rows[0].log_probs != pytest.approx(rows[1].log_probs, abs=1e-2)  # the edits change something


def test_a_model_without_a_cache_writes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, ids_BC = network_lab(tmp_path), torch.tensor([PROMPT])
    edits = Intervention(lab, [Change(1, "clamp", 3.0)]).edits
    cached = write(lab, ids_BC, Sampling(STEPS), edits)
    monkeypatch.setattr(generation, "without_cache", lambda _: {})
    cast(Any, lab.model.model).config.use_cache = False
    widths: list[int] = []

    def watched(fresh_BC: Tensor) -> Mapping[str, Callable[[Tensor], Tensor]]:
        widths.append(fresh_BC.shape[1])
        return edits(fresh_BC)

    uncached = write(lab, ids_BC, Sampling(STEPS), watched)
    assert widths == list(range(4, 4 + STEPS))  # the whole text each time
    assert uncached[0].ids == cached[0].ids
    assert uncached[0].log_probs == pytest.approx(cached[0].log_probs, abs=1e-5)


def test_choices_follow_the_distribution() -> None:
    logits_1V = torch.tensor([[0.0, 1.0, 2.0, -1.0]], dtype=torch.float64)
    draws = generator_for("draws")
    for temperature in (0.5, 1.0, 3.0):
        p_V = (logits_1V[0] / temperature).softmax(dim=0)
        found = torch.tensor([int(choose(logits_1V, temperature, draws)) for _ in range(4000)])
        share_V = torch.bincount(found, minlength=4) / 4000
        assert ((share_V - p_V).abs() < 4.5 * (p_V * (1 - p_V) / 4000).sqrt()).all()
    assert int(choose(logits_1V, 0.0, draws)) == 2


def test_a_text_ends_at_a_stop_token_and_at_the_context(tmp_path: Path) -> None:
    lab, ids_BC = network_lab(tmp_path), torch.tensor([PROMPT, PROMPT[::-1]])
    free = write(lab, ids_BC, Sampling(STEPS, seed=1))
    stop = free[0].ids[4]
    assert stop not in free[0].ids[:4]
    first, second = write(lab, ids_BC, Sampling(STEPS, seed=1), stop=[stop])
    assert (first.ids, first.ended) == (free[0].ids[:4], "stop")
    assert first.log_probs == free[0].log_probs[:4]
    kept = free[1].ids[: free[1].ids.index(stop)] if stop in free[1].ids else free[1].ids
    assert second.ids == kept  # a row goes on when another ends
    long = write(lab, ids_BC, Sampling(100))
    assert {(len(row.ids), row.ended) for row in long} == {(32 - 4, "context")}
    with pytest.raises(UsageError, match="32 tokens, all that the model takes"):
        write(lab, torch.zeros(1, 32, dtype=torch.long), Sampling(1))
    only = write(lab, ids_BC, Sampling(STEPS), n_vocab=5)
    assert {token for row in only for token in row.ids} <= set(range(5))
    assert stops_of(lab.model) == {2}  # Llama's </s>
    lab.model.model.config.eos_token_id = [2, 7]  # type: ignore[union-attr]
    assert stops_of(lab.model) == {2, 7}
    lab.model.model.config.eos_token_id = None  # type: ignore[union-attr]
    assert stops_of(lab.model) == frozenset()


def test_what_cannot_be_generated(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, "bert")
    with pytest.raises(UsageError, match="encoder"):
        steer(lab, 1, PROMPT, how="remove")
    for wrong in ({"new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Sampling(**wrong)


# ---- interventions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("target", [None, "layers.1.mlp_out"])
def test_interventions_do_what_they_say(k: int | None, target: str | None, tmp_path: Path) -> None:
    site = "layers.1.mlp_act" if target is None else "layers.1.mlp_in"
    lab = network_lab(tmp_path, site=site, target=target, k=k)
    changes = [Change(2, "add", 1.5), Change(1, "clamp", 2.5), None, Change(4, "remove"), Change(2, "clamp", -1.0)]
    ids_BC = torch.tensor([PROMPT, PROMPT[::-1], PROMPT, PROMPT[::-1], PROMPT])
    read_BCD, written_BCE = (lab.model.capture(ids_BC, [place])[place] for place in (lab.site, lab.written_site))
    found: list[Tensor] = []
    edits = dict(Intervention(lab, changes).edits(ids_BC))
    inner = edits[lab.written_site]

    def keep(x_BCE: Tensor) -> Tensor:
        found.append(inner(x_BCE))
        return found[0]

    lab.model.logits(ids_BC, edits=edits | {lab.written_site: keep})
    for row, change in enumerate(changes):
        if change is None:
            assert torch.equal(found[0][row], written_BCE[row])
            continue
        code_C = lab.dictionary.encode(read_BCD[row])[:, change.feature]
        shift_C = torch.full((4,), change.amount) if change.how == "add" else change.amount - code_C
        expected_CE = written_BCE[row] + shift_C[:, None] * lab.dictionary.W_dec_ND[change.feature]
        torch.testing.assert_close(found[0][row], expected_CE)
    with pytest.raises(UsageError, match=r"`feature` \(=8\)"):
        Intervention(lab, [Change(WIDTH, "add")])


def test_an_unseen_bos_is_left_as_it_is(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, bos="yes", skip_bos=True)
    bos = lab.tokens.edges.bos
    ids_BC = torch.tensor([[bos, 97, 98]])
    x_BCD = lab.model.capture(ids_BC, [lab.site])[lab.site].clone()
    edit = Intervention(lab, [Change(1, "add", 2.0)]).edits(ids_BC)[lab.site]
    changed_BCD = edit(x_BCD)
    assert torch.equal(changed_BCD[:, 0], x_BCD[:, 0])
    assert (changed_BCD[:, 1:] - x_BCD[:, 1:]).norm(dim=2).tolist()[0] == pytest.approx([2.0, 2.0], rel=1e-4)


# ---- steering ---------------------------------------------------------------------------------------------------


def check_reading(lab: Lab, prompt: list[int], text: WrittenText, feature: int, new: list[int]) -> None:
    """Codes and log-probabilities of the unchanged model on the whole text."""
    whole = torch.tensor([prompt + new])
    codes_C = lab.codes(lab.batch([prompt + new]), [feature])[0, :, 0]
    assert text.codes == pytest.approx(codes_C[len(prompt) :].tolist())
    log_p_CV = lab.model.logits(whole)[0].log_softmax(dim=1)
    expected = [float(log_p_CV[len(prompt) + i - 1, token]) for i, token in enumerate(new)]
    assert text.log_probs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("how", ["add", "clamp", "remove"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_steering_writes_two_texts_from_the_same_draws(name: str, how: str, tmp_path: Path) -> None:
    lab = network_lab(tmp_path, name, indexed=True)
    found = steer(lab, 3, PROMPT, how=how, strength=3.0, new_tokens=STEPS, seed=5)
    assert steer(lab, 3, PROMPT, how=how, strength=3.0, new_tokens=STEPS, seed=5) == found
    assert found.maximum == (None if how == "remove" else lab.maximum(3))
    change = Change(3, cast(Any, how), 0.0 if how == "remove" else 3.0 * lab.maximum(3))
    stop = stops_of(lab.model) | {edge for edge in (lab.tokens.edges.eos, lab.tokens.edges.bos) if edge is not None}
    for text, changed in ((found.plain, None), (found.steered, change)):
        (alone,) = write(
            lab,
            torch.tensor([PROMPT]),
            found.settings.sampling(),
            Intervention(lab, [changed]).edits,
            stop=stop,
            n_vocab=lab.vocab_size,
        )
        assert text.tokens == lab.texts.sequence(PROMPT + alone.ids)[len(PROMPT) :]
        assert text.own_log_probs == pytest.approx(alone.log_probs, abs=1e-4)
        assert text.ended == alone.ended
        check_reading(lab, PROMPT, text, 3, alone.ids)
    assert found.plain.own_log_probs == pytest.approx(found.plain.log_probs, abs=1e-4)
    assert found.prompt == lab.texts.sequence(PROMPT)
    assert found.plain != steer(lab, 3, PROMPT, how=how, new_tokens=STEPS, seed=6).plain


def test_a_change_of_nothing_writes_the_same_text(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    still = steer(lab, 3, PROMPT, strength=0.0)
    assert still.steered == still.plain
    dead = steer(lab, 0, PROMPT, how="remove")
    assert dead.steered == dead.plain
    strong = steer(lab, 3, PROMPT, strength=20.0, temperature=0.0)
    assert strong.steered.text != strong.plain.text
    assert strong.steered.text == steer(lab, 3, PROMPT, strength=20.0, temperature=0.0, seed=9).steered.text
    with pytest.raises(UsageError, match="has no maximum"):
        steer(lab, 0, PROMPT)
    with pytest.raises(UsageError, match="needs its index"):
        steer(replace(lab, index=None), 3, PROMPT)
    with pytest.raises(UsageError, match="strength"):
        steer(lab, 3, PROMPT, strength=float("inf"))
    with pytest.raises(UsageError, match="how"):
        steer(lab, 3, PROMPT, how="push")
    with pytest.raises(UsageError, match="32 tokens"):
        steer(lab, 3, [97] * 32)


def test_steering_saves_itself_and_can_be_cancelled(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    found = steer(lab, 3, "ab", new_tokens=6, how="clamp")
    assert len(found.table().rows) == len(found.plain.tokens) + len(found.steered.tokens)
    folder = found.save(tmp_path / "saved")
    assert {file.name for file in folder.iterdir()} == {
        "steering.json",
        "steering.csv",
        "steering-codes.svg",
        "steering-log-probs.svg",
    }
    seen: list[float] = []

    def stop(label: str, done: float, total: float | None) -> None:
        assert (label, total) == ("steer", 6)
        seen.append(done)
        if done == 3:
            raise InterruptedError

    with listening(stop), pytest.raises(InterruptedError):
        steer(lab, 3, "ab", new_tokens=6, how="clamp")
    assert seen == [1, 2, 3]
    assert steer(lab, 3, "ab", new_tokens=6, how="clamp") == found


# ---- agreement --------------------------------------------------------------------------------------------------


def test_steering_agreement_reads_each_text_for_the_feature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from monosemy.analysis import steering_agreement as module

    monkeypatch.setattr(module, "FEATURES_AT_ONCE", 2)
    lab = network_lab(tmp_path, indexed=True)
    assert lab.index is not None
    prompts, features = [PROMPT, [101, 102]], [3, 1, 5]
    settings = SteeringSettings(how="clamp", strength=2.0, new_tokens=5)
    alive = [row["id"] for row in lab.index.table() if not row["dead"]]
    features = [feature for feature in features if feature in alive]
    found = steering_agreement(lab, features, prompts, settings)
    again = steering_agreement(lab, features, prompts, settings)
    assert again == found
    sides: dict[int, list[tuple[float, ...]]] = {feature: [] for feature in features}
    for number, prompt in enumerate(prompts):
        for entry in found.features:
            assert entry.control in alive
            assert entry.control != entry.feature
            triple = []
            for steered in (None, entry.feature, entry.control):
                change = None if steered is None else found.settings.change(lab, steered)
                (row,) = write(
                    lab,
                    torch.tensor([prompt]),
                    found.settings.sampling(number),
                    Intervention(lab, [change]).edits,
                    stop=stops_of(lab.model) | {lab.tokens.edges.eos},
                    n_vocab=lab.vocab_size,
                )
                codes_C = lab.codes(lab.batch([prompt + row.ids]), [entry.feature])[0, len(prompt) :, 0]
                triple.append(float(codes_C.mean()))
            if not any(value != value for value in triple):  # an empty text has no mean
                sides[entry.feature].append(tuple(triple))
    for entry in found.features:
        means = torch.tensor(sides[entry.feature]).mean(dim=0)
        assert [entry.plain, entry.steered, entry.controlled] == pytest.approx(means.tolist(), abs=1e-5)
        assert entry.prompts == len(sides[entry.feature])
    fired = [e for e in found.features if e.plain + e.steered + e.controlled > 0]
    assert found.silent == len(found.features) - len(fired)
    assert found.rises == Share.of(sum(e.steered > e.plain for e in fired), len(fired))
    assert found.control_rises == Share.of(sum(e.controlled > e.plain for e in fired), len(fired))
    assert found.beats_control == Share.of(sum(e.steered > e.controlled for e in fired), len(fired))
    for chart in found.charts():
        figure_of(chart)
    assert len(found.table().rows) == len(found.features)


def test_a_feature_that_writes_its_own_tokens_agrees(tmp_path: Path) -> None:
    """Planted: the feature reads a token and writes the same one, so steering along it repeats that token."""
    lab = network_lab(tmp_path, "llama", "embed", indexed=True)
    embed_VD = cast(Any, lab.model.model).model.embed_tokens.weight
    unembed_VD = cast(Any, lab.model.model).lm_head.weight
    token = int(unembed_VD[: lab.vocab_size].norm(dim=1).argmax())  # no other row lies further along its own direction
    lab.dictionary.tensors["W_enc"][3] = 5 * embed_VD[token] / embed_VD[token].square().sum()
    lab.dictionary.tensors["b_enc"][3] = -4.0
    lab.dictionary.tensors["W_dec"][3] = 100 * unembed_VD[token]
    found = steering_agreement(lab, [3], [PROMPT, [99, 98]], new_tokens=6)
    assert found.features[0].steered > max(found.features[0].plain, found.features[0].controlled)
    assert (found.rises.count, found.beats_control.count) == (1, 1)


def test_a_feature_that_fires_on_no_text_is_in_no_share(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    lab.dictionary.tensors["b_enc"][3] = -1e3  # the index still knows a maximum
    found = steering_agreement(lab, [3, 1], [PROMPT], new_tokens=4)
    assert found.silent == 1
    assert found.rises.total == found.control_rises.total == found.beats_control.total == 1
    assert len(found.features) == 2


def test_agreement_of_steering_needs_features_prompts_and_an_index(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    for features, prompts in (([], [PROMPT]), ([3], [])):
        with pytest.raises(UsageError, match="at least one"):
            steering_agreement(lab, features, prompts)
    with pytest.raises(UsageError, match="index="):
        steering_agreement(replace(lab, index=None), [3], [PROMPT])
    with pytest.raises(UsageError, match="has no maximum"):
        steering_agreement(lab, [0], [PROMPT])


def test_padding_of_the_vocabulary_is_never_written(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    model: LanguageModel = lab.model
    assert model.vocab_size == VOCAB + 2 > lab.vocab_size
    cast(Any, model.model).lm_head.weight.data[lab.vocab_size :] = 10 * cast(Any, model.model).lm_head.weight.data[:3]
    texts = steer(lab, 3, PROMPT, how="remove", new_tokens=20, temperature=3.0)
    assert not any(token.startswith("<2") for token in texts.plain.tokens)
    own = sum(math.exp(log_p) for log_p in texts.plain.log_probs) / len(texts.plain.tokens)
    assert own < 0.5, "the padding, which is likelier, takes its part of the probability"
    assert texts.plain.own_log_probs == pytest.approx(texts.plain.log_probs, abs=1e-4)

"""What features do to predictions: logits, ablation, agreement of input and output, each against brute force."""

from __future__ import annotations

import csv
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from feature_worlds import SITE, TableModel, grid, token_store, whole_number_dictionary
from network_labs import WIDTH, network_lab
from torch import Tensor

from monosemy.analysis import agreement_ranks, attribution, meaning, meaning_bars
from monosemy.analysis.ablation import AFTER, BEFORE, TokenEffects, ablation_effect
from monosemy.analysis.ablation_control import control_change
from monosemy.analysis.agreement import input_output_agreement
from monosemy.analysis.attribution import logit_attribution, prompt_attribution
from monosemy.analysis.chart import figure_of
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.result import Result
from monosemy.metrics.interval import Share, interval
from monosemy.models.language_model import LanguageModel
from monosemy.models.path import path_scale
from monosemy.runtime import UsageError, generator_for, listening

NAMES = ["llama", "gpt2", "neox-parallel", "neox-sequential", "gemma2"]
PROMPT = [3, 97, 98, 5, 97, 100, 99, 98]


# ---- the linear path by hand ------------------------------------------------------------------------------------


def parts(name: str, model: Any) -> tuple[Tensor, Any, Tensor]:
    """The down projection [D, F] of layer 1, the final norm, the unembedding [V, D]."""
    if name == "gpt2":
        return model.transformer.h[1].mlp.c_proj.weight.T, model.transformer.ln_f, model.lm_head.weight
    if name.startswith("neox"):
        inner = model.gpt_neox
        return inner.layers[1].mlp.dense_4h_to_h.weight, inner.final_layer_norm, model.get_output_embeddings().weight
    return model.model.layers[1].mlp.down_proj.weight, model.model.norm, model.lm_head.weight


def frozen(name: str, norm: Any, v_CD: Tensor, x_CD: Tensor | None) -> Tensor:
    """What the norm makes of a change v to x, its scale held at x's (1 without an x)."""
    ones_C1 = torch.ones(len(v_CD), 1)
    if name == "gpt2" or name.startswith("neox"):
        scale_C1 = ones_C1 if x_CD is None else (x_CD.var(dim=1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        centred_CD: Tensor = v_CD - v_CD.mean(dim=1, keepdim=True)
        return centred_CD * scale_C1 * cast(Tensor, norm.weight)
    gain_D, eps = (1 + norm.weight, norm.eps) if name == "gemma2" else (norm.weight, norm.variance_epsilon)
    scale_C1 = ones_C1 if x_CD is None else (x_CD.square().mean(dim=1, keepdim=True) + eps).rsqrt()
    return v_CD * scale_C1 * cast(Tensor, gain_D)


@torch.inference_mode()
def at_final(lab: Lab, name: str, ids_1C: Tensor, change_CF: Tensor, real: bool = True) -> Tensor:
    """What a change at layers.1.mlp_act becomes at the unembedding; `real`: with the norms' scales at these tokens."""
    down_DF, norm, _ = parts(name, lab.model.model)
    seen = lab.model.capture(ids_1C, ["layers.1.mlp_out", "layers.2.resid_post"])
    written_CD = change_CF @ down_DF.T
    if name == "gemma2":
        branch = cast(Any, lab.model.model).model.layers[1].post_feedforward_layernorm
        written_CD = frozen(name, branch, written_CD, seen["layers.1.mlp_out"][0] if real else None)
    return frozen(name, norm, written_CD, seen["layers.2.resid_post"][0] if real else None)


@torch.inference_mode()
def effects_by_hand(
    lab: Lab, name: str, ids: list[int], feature: int, removed_CF: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Changes of log p, direct and full, `[C, V]` each, with hooks and formulas of this file alone; `removed_CF` goes
    out in the place of the feature's contribution."""
    ids_1C = torch.tensor([ids])
    model: Any = lab.model.model
    x_CF = lab.model.capture(ids_1C, ["layers.1.mlp_act"])["layers.1.mlp_act"][0]
    contribution_CF = lab.dictionary.encode(x_CF)[:, feature, None] * lab.dictionary.W_dec_ND[feature]
    contribution_CF = contribution_CF if removed_CF is None else removed_CF
    before_CV = shown(lab, model(ids_1C).logits[0])
    down_DF, _, unembed_VD = parts(name, model)
    final_CD = lab.model.capture(ids_1C, ["final"])["final"][0]
    logits_CV = (final_CD - at_final(lab, name, ids_1C, contribution_CF)) @ unembed_VD.T
    direct_CV = shown(lab, 30 * torch.tanh(logits_CV / 30) if name == "gemma2" else logits_CV)
    down = next(m for m in model.modules() if getattr(m, "weight", None) is not None
                and m.weight.data_ptr() == down_DF.data_ptr())  # fmt: skip
    hook = down.register_forward_pre_hook(lambda _, args: (args[0] - contribution_CF,))
    full_CV = shown(lab, model(ids_1C).logits[0])
    hook.remove()
    return direct_CV - before_CV, full_CV - before_CV


def shown(lab: Lab, logits_CV: Tensor) -> Tensor:
    return logits_CV.log_softmax(dim=1)[:, : lab.vocab_size]


def check_effects(found: TokenEffects, change_CV: Tensor, next_ids: list[int | None]) -> None:
    for place, token in enumerate(next_ids):
        value = found.next_token[place]
        if token is None:
            assert value is None
        else:
            assert value == pytest.approx(float(change_CV[place, token]), abs=3e-5)
        assert found.suppressed[place] == pytest.approx(min(0.0, float(change_CV[place].min())), abs=3e-5)


# ---- logits of a direction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_logit_attribution_is_the_linear_path(name: str, tmp_path: Path) -> None:
    from scipy import stats

    lab = network_lab(tmp_path, name)
    found = logit_attribution(lab, 3, n_tokens=7)
    direction_1F = lab.dictionary.W_dec_ND[3][None]
    down_DF, _, unembed_VD = parts(name, lab.model.model)
    folded_V = (at_final(lab, name, torch.tensor([PROMPT]), direction_1F, real=False) @ unembed_VD.T)[0]
    plain_1D = direction_1F @ down_DF.T
    if name == "gemma2":
        branch = cast(Any, lab.model.model).model.layers[1].post_feedforward_layernorm
        plain_1D = frozen(name, branch, plain_1D, None)
    for side, logits_V in ((found.with_norm, folded_V), (found.without_norm, (plain_1D @ unembed_VD.T)[0])):
        logits_V = logits_V[: lab.vocab_size].detach()
        order = logits_V.argsort(descending=True).tolist()
        assert [token.id for token in side.top] == order[:7]
        assert [token.id for token in side.bottom] == order[::-1][:7]
        assert [token.text for token in side.top] == [lab.texts.of(i) for i in order[:7]]
        assert [token.logit for token in side.top] == pytest.approx(logits_V[order[:7]].tolist(), rel=1e-3, abs=1e-4)
        assert side.skew == pytest.approx(stats.skew(logits_V), abs=1e-2)
        assert side.kurtosis == pytest.approx(stats.kurtosis(logits_V), abs=1e-2)
        assert side.mean == pytest.approx(float(logits_V.mean()), abs=1e-4)
        assert side.deviation == pytest.approx(float(logits_V.std(unbiased=False)), rel=1e-3)
        assert sum(side.counts) == lab.vocab_size
        inside = (logits_V >= side.edges[0] - 1e-4) & (logits_V <= side.edges[-1] + 1e-4)
        assert bool(inside.all())


@pytest.mark.parametrize("site", ["embed", "layers.1.attn_out", "layers.0.resid_post", "layers.2.mlp_out", "final"])
def test_path_scale_makes_the_path_exact_at_every_site(site: str, tmp_path: Path) -> None:
    """A step so small that the norms' scales stay: the model's own logits move by scale × direction logits."""
    lab = network_lab(tmp_path, "gpt2", site)
    model, ids_1C = lab.model, torch.tensor([PROMPT])
    v_1D = lab.dictionary.W_dec_ND[2][None]
    unit_1V = model.direction_logits(site, v_1D)
    assert unit_1V is not None
    predicted_CV = path_scale(model, site, ids_1C)[0, :, None] * unit_1V
    x = model.capture(ids_1C, ["layers.2.resid_post"])["layers.2.resid_post"][0]
    norm = cast(Any, model.model).transformer.ln_f
    moved_CD = v_1D if site == "final" else frozen("gpt2", norm, v_1D.expand(len(x), -1), x)
    torch.testing.assert_close(predicted_CV, moved_CD.expand(len(x), -1) @ cast(Any, model.model).lm_head.weight.T)


def test_a_direction_that_writes_nothing_has_no_shape(tmp_path: Path) -> None:
    lab = network_lab(tmp_path)
    lab.dictionary.tensors["W_dec"][2] = 0
    found = logit_attribution(lab, 2)
    assert found.with_norm.skew is None
    assert found.with_norm.kurtosis is None
    assert found.with_norm.deviation == 0
    assert sum(found.with_norm.counts) == lab.vocab_size


@pytest.mark.parametrize(
    ("name", "site", "why"),
    [
        ("llama", "layers.1.mlp_in", "non-linearity"),
        ("bert", "layers.1.mlp_act", "norms lie on this model's residual stream"),
        ("opt-post-norm", "layers.1.mlp_act", "norms lie on this model's residual stream"),
        ("bert-headless", "layers.1.mlp_act", "no unembedding"),
    ],
)
def test_without_a_linear_path_the_error_says_why(name: str, site: str, why: str, tmp_path: Path) -> None:
    lab = network_lab(tmp_path, name, site)
    with pytest.raises(UsageError, match=why):
        logit_attribution(lab, 2)
    with pytest.raises(UsageError, match=why):
        prompt_attribution(lab, PROMPT)


def test_a_transcoder_writes_where_its_target_is(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, "llama", "layers.1.mlp_in", target="layers.1.mlp_out")
    found = logit_attribution(lab, 4)
    assert found.site == "layers.1.mlp_out"
    logits_V = lab.model.direction_logits("layers.1.mlp_out", lab.dictionary.W_dec_ND[4][None])
    assert logits_V is not None
    assert found.with_norm.top[0].id == int(logits_V[0, : lab.vocab_size].argmax())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_prompt_attribution_is_what_each_feature_adds(
    name: str, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attribution, "BLOCK_LOGITS", at_once)
    lab = network_lab(tmp_path, name)
    ids_1C = torch.tensor([PROMPT])
    found = prompt_attribution(lab, PROMPT, target=101)
    unembed_VD = parts(name, lab.model.model)[2][: lab.vocab_size]

    def centred(change_F: Tensor) -> float:
        change_CF = torch.zeros(len(PROMPT), len(change_F))
        change_CF[-1] = change_F
        logits_V = (at_final(lab, name, ids_1C, change_CF) @ unembed_VD.T)[-1]
        return float(logits_V[101] - logits_V.mean())

    x_F = lab.x(lab.batch([PROMPT]))[0, -1]
    code_N = lab.dictionary.encode(x_F[None])[0]
    expected = {n: centred(code_N[n] * lab.dictionary.W_dec_ND[n]) for n in range(WIDTH) if code_N[n] > 0}
    assert {c.feature for c in found.contributions} == set(expected)
    for contribution in found.contributions:
        assert contribution.logit == pytest.approx(expected[contribution.feature], rel=1e-3, abs=1e-4)
        assert contribution.code == pytest.approx(float(code_N[contribution.feature]))
    sizes = [abs(c.logit) for c in found.contributions]
    assert sizes == sorted(sizes, reverse=True)
    assert found.n_active == len(expected)
    assert found.features == pytest.approx(sum(expected.values()), rel=1e-3, abs=1e-3)
    assert found.features + found.rest == pytest.approx(centred(x_F), rel=1e-3, abs=1e-3)


def test_the_target_of_a_prompt_is_a_token_or_the_likeliest(tmp_path: Path) -> None:
    lab = network_lab(tmp_path)
    odds_V = lab.model.logits(torch.tensor([PROMPT]))[0, -1].softmax(dim=0)[: lab.vocab_size]
    likeliest = prompt_attribution(lab, PROMPT)
    assert likeliest.target == int(odds_V.argmax())
    assert float(odds_V.sum()) < 1 - 1e-3, "the vocabulary is padded, and the padding takes its part"
    assert likeliest.target_probability == pytest.approx(float(odds_V.max()))
    named = prompt_attribution(lab, PROMPT, target="b")
    assert lab.texts.of(named.target) == named.target_text == "b"
    with pytest.raises(UsageError, match="is 2 tokens"):
        prompt_attribution(lab, PROMPT, target="hb")
    with pytest.raises(UsageError, match=r"`target` \(=999\)"):
        prompt_attribution(lab, PROMPT, target=999)
    lab.dictionary.tensors["b_enc"].fill_(-1e3)
    nothing = prompt_attribution(lab, PROMPT)
    assert (nothing.contributions, nothing.n_active, nothing.features) == ([], 0, 0)
    with pytest.raises(UsageError, match="n_tokens"):
        logit_attribution(lab, 2, n_tokens=0)
    with pytest.raises(UsageError, match=r"`feature` \(=8\)"):
        logit_attribution(lab, 8)


# ---- ablation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_ablation_equals_hooks_by_hand(name: str, tmp_path: Path) -> None:
    lab = network_lab(tmp_path, name)
    found = ablation_effect(lab, 1, PROMPT)
    (text,) = found.texts
    direct_CV, full_CV = effects_by_hand(lab, name, PROMPT, 1)
    following = [*PROMPT[1:], None]
    assert text.direct is not None
    check_effects(text.direct, direct_CV, following)
    check_effects(text.full, full_CV, following)
    assert full_CV.abs().max() > 0.05 < direct_CV.abs().max()
    assert (full_CV - direct_CV).abs().max() > 0.01
    worst = direct_CV.argmin(dim=1).tolist()
    assert text.direct.suppressed_token == [lab.texts.of(i) for i in worst]
    assert text.codes == pytest.approx(lab.codes(lab.batch([PROMPT]))[0, :, 1].tolist())
    assert text.tokens == lab.texts.sequence(PROMPT)
    assert found.no_direct is None


def test_topk_features_are_removed_where_they_win(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, k=2)
    codes_CN = lab.codes(lab.batch([PROMPT]))[0]
    feature = int((codes_CN[:, 2:] > 0).sum(dim=0).argmax()) + 2
    (text,) = ablation_effect(lab, feature, PROMPT).texts
    direct_CV, full_CV = effects_by_hand(lab, "llama", PROMPT, feature)
    assert text.direct is not None
    check_effects(text.direct, direct_CV, [*PROMPT[1:], None])
    check_effects(text.full, full_CV, [*PROMPT[1:], None])
    silent = codes_CN[:, feature] == 0
    assert 0 < int(silent.sum()) < len(PROMPT)
    assert [text.direct.suppressed[c] for c in silent.nonzero()[:, 0].tolist()] == [0.0] * int(silent.sum())


def test_a_dead_feature_and_a_single_token(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    dead = ablation_effect(lab, 0, PROMPT)
    assert dead.texts[0].full.next_token == [0.0] * 7 + [None]
    assert dead.texts[0].full.suppressed_token == [None] * 8
    assert set(dead.means.values()) == {None}
    single = ablation_effect(lab, 1, [97])
    assert single.texts[0].full.next_token == [None]
    assert single.texts[0].full.suppressed[0] < 0
    assert single.means["full next_token"] is None
    assert single.means["full suppressed"] is not None
    assert single.means["full suppressed"].low is None
    with pytest.raises(UsageError, match="never fires"):
        ablation_effect(lab, 0)
    with pytest.raises(UsageError, match="index="):
        ablation_effect(replace(lab, index=None), 1)
    with pytest.raises(UsageError, match="examples"):
        ablation_effect(lab, 1, examples=0)


def test_examples_are_read_again_from_their_rows(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    assert lab.index is not None
    examples = lab.index.feature(3).examples["top"]
    found = ablation_effect(lab, 3, examples=3)
    assert len(found.texts) == min(3, len(examples)) >= 2
    store, means = lab.tokens, []
    for text, example in zip(found.texts, examples, strict=False):
        row = max(r for r in range(store.n_rows) if int(store.row_starts_R[r]) <= example.offset)
        start, length = int(store.row_starts_R[row]), int(store.row_lengths_R[row])
        ids, peak = store.tokens_T[start : start + length].tolist(), example.offset - start
        first, end = max(0, peak - BEFORE), min(length, peak + 1 + AFTER)
        direct_CV, full_CV = effects_by_hand(lab, "llama", ids, 3)
        following = [*ids[1:], None][first:end]
        assert text.direct is not None
        check_effects(text.direct, direct_CV[first:end], following)
        check_effects(text.full, full_CV[first:end], following)
        assert text.codes[peak - first] == pytest.approx(example.values[example.peak], rel=1e-4)
        firing = [v for v, c in zip(text.full.next_token, text.codes, strict=True) if c > 0 and v is not None]
        means += [sum(firing) / len(firing)] if firing else []
    average = found.means["full next_token"]
    assert average is not None
    assert average.mean == pytest.approx(sum(means) / len(means))
    assert (average.low, average.high) == pytest.approx(interval(means))
    assert average.texts == len(means)
    differences = []
    for text in found.texts:
        columns = zip(text.codes, text.full.suppressed, text.full.control_suppressed, strict=True)
        differences.append([own - other for code, own, other in columns if code > 0 and other is not None])
    excess = found.excess["full suppressed"]
    assert excess is not None
    by_text = [sum(each) / len(each) for each in differences if each]
    assert excess.mean == pytest.approx(sum(by_text) / len(by_text))
    assert (excess.low, excess.high) == pytest.approx(interval(by_text))


@pytest.mark.parametrize("name", NAMES)
def test_the_control_takes_out_another_active_feature_of_the_same_size(name: str, tmp_path: Path) -> None:
    """With one other feature active everywhere the control is known: its direction, at the norm of the removal."""
    lab = network_lab(tmp_path, name)
    lab.dictionary.tensors["b_enc"][2:] = -1e3
    lab.dictionary.tensors["b_enc"][4] = 30.0
    lab.dictionary.tensors["W_dec"][1] *= 3
    found = ablation_effect(lab, 1, PROMPT, draws=2)
    code_C = lab.codes(lab.batch([PROMPT]))[0, :, 1]
    assert bool((code_C > 0).all())
    direction_D = 3 * torch.nn.functional.normalize(lab.dictionary.W_dec_ND[4], dim=0)
    direct_CV, full_CV = effects_by_hand(lab, name, PROMPT, 1, code_C[:, None] * direction_D)
    (text,) = found.texts
    assert text.direct is not None
    for effects, change_CV in ((text.direct, direct_CV), (text.full, full_CV)):
        at_next = [float(change_CV[c, token]) for c, token in enumerate(PROMPT[1:])]
        assert effects.control_next_token == pytest.approx([*at_next, None], abs=3e-5)
        assert effects.control_suppressed == pytest.approx(change_CV.amin(dim=1).clamp_max(0).tolist(), abs=3e-5)
    for kind, effects in (("direct", text.direct), ("full", text.full)):
        means = [found.means[f"{kind} suppressed"], found.controls[f"{kind} suppressed"]]
        excess = found.excess[f"{kind} suppressed"]
        assert excess is not None
        expected = [sum(cast(list[float], column)) / 8 for column in (effects.suppressed, effects.control_suppressed)]
        assert [mean.mean for mean in means if mean is not None] == pytest.approx(expected)
        assert excess.mean == pytest.approx(expected[0] - expected[1])
        assert excess.mean != pytest.approx(0, abs=1e-3)
    again = ablation_effect(lab, 1, PROMPT, draws=2, seed=5)
    assert again.controls == pytest.approx(found.controls)


def test_controls_are_drawn_evenly_from_what_else_is_active(tmp_path: Path) -> None:
    lab = network_lab(tmp_path)
    generator = torch.Generator().manual_seed(0)
    codes_CN = torch.zeros(3000, WIDTH)
    codes_CN[:, [1, 3, 5]] = torch.rand(3000, 3, generator=generator) + 0.1
    codes_CN[:1000, 6] = -2.0  # a signed code
    codes_CN[2000:, [3, 5]] = 0
    change_CD = -codes_CN[:, 1:2] * lab.dictionary.W_dec_ND[1]
    change_CD[500:1000] = 0  # the feature is silent there
    control_CD, alone_C = control_change(lab, 1, codes_CN, change_CD, generator)
    assert torch.equal(alone_C, torch.arange(3000) >= 2000)
    assert control_CD[:2000].norm(dim=1).tolist() == pytest.approx(change_CD[:2000].norm(dim=1).tolist(), abs=1e-5)
    unit_CN = torch.nn.functional.normalize(control_CD, dim=1) @ lab.dictionary.W_dec_ND.T
    taken = [-1 if not row.any() else int(row.abs().argmax()) for row in unit_CN[:2000]]
    assert set(taken[500:1000]) == {-1}
    assert set(taken[:500]) == {3, 5, 6}
    assert all(unit_CN[c, taken[c]] * codes_CN[c, taken[c]] < 0 for c in range(500))  # taken out, not put in
    shares = [taken[:500].count(n) / 500 for n in (3, 5, 6)] + [taken[1000:].count(n) / 1000 for n in (3, 5)]
    assert shares == pytest.approx([1 / 3] * 3 + [1 / 2] * 2, abs=0.07)


def test_where_nothing_else_is_active_there_is_no_control(tmp_path: Path) -> None:
    lab = network_lab(tmp_path)
    lab.dictionary.tensors["b_enc"][2:] = -1e3
    alone = ablation_effect(lab, 1, PROMPT)
    assert alone.texts[0].full.control_suppressed == [None] * 8
    assert alone.means["full suppressed"] is not None
    assert (alone.controls["full suppressed"], alone.excess["full suppressed"]) == (None, None)
    none = ablation_effect(network_lab(tmp_path / "other"), 1, PROMPT, draws=0)
    assert none.texts[0].full.control_next_token == [None] * 8
    assert set(none.controls.values()) == {None}
    with pytest.raises(UsageError, match="`draws`"):
        ablation_effect(lab, 1, PROMPT, draws=-1)


def test_a_transcoder_is_removed_at_its_target(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, "llama", "layers.1.mlp_in", target="layers.1.mlp_out")
    (text,) = ablation_effect(lab, 1, PROMPT).texts
    ids_1C, model = torch.tensor([PROMPT]), cast(Any, lab.model.model)
    code_C = lab.dictionary.encode(lab.model.capture(ids_1C, [lab.site])[lab.site][0])[:, 1]
    with torch.inference_mode():
        before_CV = shown(lab, model(ids_1C).logits[0])
        down = model.model.layers[1].mlp.down_proj
        hook = down.register_forward_hook(lambda _, __, out: out - code_C[:, None] * lab.dictionary.W_dec_ND[1])
        after_CV = shown(lab, model(ids_1C).logits[0])
        hook.remove()
    check_effects(text.full, after_CV - before_CV, [*PROMPT[1:], None])
    assert text.direct is not None


def test_without_a_path_there_is_no_direct_effect_and_it_is_said(tmp_path: Path) -> None:
    found = ablation_effect(network_lab(tmp_path, "llama", "layers.1.mlp_in"), 1, PROMPT)
    assert found.texts[0].direct is None
    assert found.no_direct is not None
    assert "non-linearity" in found.no_direct
    assert found.means["direct next_token"] is None
    assert found.means["full next_token"] is not None
    assert found.table().rows[0][4:9] == [None] * 5
    for chart in found.charts():
        figure_of(chart)


def test_next_tokens_are_charted_only_where_one_follows_a_firing(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, "llama")
    for prompt, names in ((PROMPT, ["next-token", "suppressed", "against-code"]), (PROMPT[:1], ["suppressed"])):
        assert [chart.name for chart in ablation_effect(lab, 1, prompt).charts()] == names


def test_an_encoder_has_no_next_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="encoder"):
        ablation_effect(network_lab(tmp_path, "bert"), 1, PROMPT)


def test_a_bos_that_the_dictionary_never_saw_keeps_its_activation(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, bos="yes", skip_bos=True)
    bos = lab.tokens.edges.bos
    assert bos is not None
    (text,) = ablation_effect(lab, 1, [bos, *PROMPT]).texts
    assert text.codes[0] == 0
    assert text.full.suppressed[0] == 0
    assert text.full.suppressed[1] < 0
    seen = ablation_effect(replace(lab, skip_bos=False), 1, [bos, *PROMPT]).texts[0]
    assert seen.full.suppressed[0] < 0


def test_ablation_can_be_cancelled_between_texts(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)

    def stop(label: str, done: float, total: float | None) -> None:
        assert (label, done, total) == ("ablation", 1, 3)
        raise KeyboardInterrupt

    with listening(stop), pytest.raises(KeyboardInterrupt):
        ablation_effect(lab, 3, examples=3)
    assert len(ablation_effect(lab, 3, examples=3).texts) == 3


def test_results_save_tables_and_pictures(tmp_path: Path) -> None:
    lab = network_lab(tmp_path, indexed=True)
    results: list[Result] = [logit_attribution(lab, 3), prompt_attribution(lab, "abca"), ablation_effect(lab, 3)]
    results.append(input_output_agreement(lab, examples=2, at_least=1))
    for result in results:
        folder = result.save(tmp_path / "saved")
        lines = list(csv.reader(StringIO((folder / f"{result.name}.csv").read_text())))
        assert len(lines) == len(result.table().rows) + 1
        assert all((folder / f"{result.name}-{chart.name}.svg").exists() for chart in result.charts())
        assert result.data()["analysis"] == result.name


# ---- agreement of input and output ------------------------------------------------------------------------------


def table_lab(folder: Path, width: int = 24) -> Lab:
    """Whole-number codes over documents with a BOS each, so that rows hold the ends of some."""
    model, dictionary = TableModel(), whole_number_dictionary(width)
    model.vocab_size = 258
    store = token_store(folder, [13, 9, 30, 8, 21, 17, 40, 11, 5, 26], context=16, bos="yes")
    members, lm = grid(folder / "grid", [dictionary]), cast(LanguageModel, model)
    index = features(members, member=0, model=lm, tokens=store, out=folder / "features")
    return Lab(lm, dictionary, SITE, store, index=index)


def tokens_by_hand(lab: Lab, feature: int, examples: int) -> list[tuple[int, int | None]]:
    """The token at the peak of each example, and the one after it where that is of the same row and document."""
    assert lab.index is not None
    store, found = lab.tokens, []
    row_starts, doc_starts = set(store.row_starts_R.tolist()), set(store.doc_starts_D.tolist())
    for example in lab.index.feature(feature).examples["top"][:examples]:
        after = example.offset + 1
        outside = after in row_starts or after in doc_starts or after >= store.n_tokens
        found.append((int(store.tokens_T[example.offset]), None if outside else int(store.tokens_T[after])))
    return found


def rank_by_hand(logits_V: Tensor, tokens: list[int]) -> float:
    shares = [float((logits_V < logits_V[t]).sum() + (logits_V <= logits_V[t]).sum()) / 2 for t in tokens]
    return sum(shares) / len(shares) / len(logits_V)


@pytest.mark.parametrize("at_once", [1000, 2**24])
def test_agreement_equals_a_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(agreement_ranks, "BLOCK_LOGITS", at_once)
    monkeypatch.setattr(meaning_bars, "CHANCE", 0.5)  # a low bar, so that some pass
    lab = table_lab(tmp_path)
    found = input_output_agreement(lab, examples=6, at_least=3, controls=10, seed=4)
    logits_NV = lab.dictionary.W_dec_ND @ cast(Any, lab.model).out_DV[:, :257]
    pairs = {f: tokens_by_hand(lab, f, 6) for f in range(24)}
    alive = [f for f in range(24) if pairs[f]]
    pool = [alive[i] for i in torch.randperm(len(alive), generator=generator_for("agreement", 4))[:10]]
    chosen = [f for f in range(24) if sum(after is not None for _, after in pairs[f]) >= 3]
    assert [feature.feature for feature in found.features] == chosen
    assert found.left_out == 24 - len(chosen) > 0
    crossing = sum(after is None for f in chosen for _, after in pairs[f])
    assert crossing > 0
    for feature in found.features:
        own = [here for here, _ in pairs[feature.feature]]
        following = [after for _, after in pairs[feature.feature] if after is not None]
        for match, tokens in ((feature.own_token, own), (feature.next_token, following)):
            assert match.percentile == pytest.approx(rank_by_hand(logits_NV[feature.feature], tokens), abs=1e-5)
            others = torch.tensor([rank_by_hand(logits_NV[g], tokens) for g in pool if g != feature.feature])
            assert match.limit == pytest.approx(float(others.quantile(0.95)), abs=1e-5)
            assert match.matches == (match.percentile > match.limit)
    matching = sum(feature.next_token.matches for feature in found.features)
    assert found.next_token == Share.of(matching, len(chosen))
    assert lab.index is not None
    bands, _ = meaning.bands_of(lab, lab.index)
    sound = []
    for feature in found.features:
        row, sample = lab.index.summary(feature.feature), lab.index.offsets("quantile")[[feature.feature]]
        (places,) = meaning.places_at(lab.tokens, sample)
        assert feature.meaningful == bands.bar(row.density).meaningful(places)
        sound += [feature] if feature.meaningful else []
    assert found.meaningful is not None
    assert 0 < found.meaningful.features == len(sound) < len(chosen)
    assert found.meaningful.next_token == Share.of(sum(each.next_token.matches for each in sound), len(sound))
    assert found.meaningful.own_token == Share.of(sum(each.own_token.matches for each in sound), len(sound))
    assert found.table().columns[-1] == "meaningful"
    assert [row[-1] for row in found.table().rows] == [each.meaningful for each in found.features]
    unasked = input_output_agreement(lab, examples=6, at_least=3, controls=10, seed=4, meaningful=False)
    assert (unasked.meaningful, unasked.next_token) == (None, found.next_token)
    assert {each.meaningful for each in unasked.features} == {None}
    assert found.mean_own_token == pytest.approx(
        sum(feature.own_token.percentile for feature in found.features) / len(chosen)
    )


def test_a_feature_that_writes_what_it_reads_matches(tmp_path: Path) -> None:
    lab = table_lab(tmp_path)
    tokens = tokens_by_hand(lab, 9, 10)
    common = max({here for here, _ in tokens}, key=[here for here, _ in tokens].count)
    out_DV: Tensor = cast(Any, lab.model).out_DV
    before = input_output_agreement(lab, [9], at_least=1).features[0].own_token.percentile
    for here in {here for here, _ in tokens} | {common}:
        lab.dictionary.tensors["W_dec"][9] += 10 * out_DV[:, here] / out_DV[:, here].norm()
    planted = input_output_agreement(lab, [9], at_least=1).features[0].own_token
    assert planted.percentile > max(before, 0.8)
    assert planted.matches


def test_agreement_says_what_it_needs(tmp_path: Path) -> None:
    lab = table_lab(tmp_path)
    with pytest.raises(UsageError, match="index="):
        input_output_agreement(replace(lab, index=None))
    with pytest.raises(UsageError, match="at_least"):
        input_output_agreement(lab, [0])  # a dead feature has no examples
    with pytest.raises(UsageError, match="`feature`"):
        input_output_agreement(lab, [24])
    for wrong in ({"controls": 1}, {"at_least": 11}, {"level": 1.0}, {"examples": 0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            input_output_agreement(lab, **wrong)


def test_a_share_has_wilsons_interval() -> None:
    from scipy.stats import binomtest

    for count, total in ((0, 7), (7, 7), (3, 11), (1, 2)):
        expected = binomtest(count, total).proportion_ci(method="wilson")
        found = Share.of(count, total)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert found.share == count / total
    assert Share.of(0, 0).share is None

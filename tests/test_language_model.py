"""Sites, capture and replacement, on every supported architecture, against Hugging Face's own and manual forwards."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import shared
from networks import CAUSAL, NETWORKS, network, save_network
from safetensors.torch import load_file, save_file
from torch import Tensor

from monosemy.artifact import make
from monosemy.data.tokens import tokenize
from monosemy.models.blocks import ModulePaths
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

B, C = 3, 9
HEADED = [name for name in NETWORKS if name != "bert-headless"]
Edits = dict[str, Callable[[Tensor], Tensor]]


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    """One loaded model an architecture, kept for the whole run."""
    models: dict[str, LanguageModel] = {}

    def open_one(name: str) -> LanguageModel:
        if name not in models:
            folder = save_network(name, tmp_path_factory.mktemp(name))
            models[name] = LanguageModel.load(folder, device="cpu")
        return models[name]

    return open_one


@pytest.fixture
def ids_BC() -> Tensor:
    return torch.randint(61, (B, C), generator=torch.Generator().manual_seed(1))


# ---- sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_has_every_site(name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened(name)
    parts = ["resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_act", "mlp_out", "resid_post"]
    if name in ("neox-parallel", "phi"):
        parts.remove("resid_mid")
    expected = ["embed", *(f"layers.{i}.{part}" for i in range(3) for part in parts), "final"]
    assert lm.sites() == expected
    assert (lm.n_layers, lm.d_model, lm.vocab_size, lm.max_context) == (3, 16, 61, 32)
    assert lm.is_causal == (not name.startswith("bert"))
    found = lm.capture(ids_BC, expected)
    for site in expected:
        assert found[site].shape == (B, C, lm.width_of(site)), site
    assert lm.width_of("layers.1.mlp_act") > lm.width_of("layers.1.mlp_out") == 16


@pytest.mark.parametrize("name", NETWORKS)
def test_capture_equals_hidden_states(name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened(name)
    with torch.inference_mode():
        hidden = lm.model(input_ids=ids_BC, output_hidden_states=True).hidden_states
    found = lm.capture(ids_BC, lm.sites())
    for i in range(3):
        torch.testing.assert_close(found[f"layers.{i}.resid_pre"], hidden[i])
        if i > 0:
            assert torch.equal(found[f"layers.{i - 1}.resid_post"], found[f"layers.{i}.resid_pre"])
    if name not in ("bert", "opt-post-norm"):  # their heads change the last hidden state before the unembedding
        torch.testing.assert_close(found["final"], hidden[3])


@pytest.mark.parametrize("name", HEADED)
def test_replacing_by_itself_changes_nothing(name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened(name)
    plain = lm.logits(ids_BC)
    loss = lm.token_losses(ids_BC).mean() if lm.is_causal else None
    for site in lm.sites():
        edits: Edits = {site: lambda x_BCD: x_BCD.clone()}
        torch.testing.assert_close(lm.logits(ids_BC, edits=edits), plain, rtol=0, atol=1e-5)
        if loss is not None:
            assert abs(lm.token_losses(ids_BC, edits=edits).mean() - loss) < 1e-5


@pytest.mark.parametrize("name", HEADED)
def test_replacing_changes_something(name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened(name)
    plain = lm.logits(ids_BC)
    for site in lm.sites():
        assert (lm.logits(ids_BC, edits={site: torch.zeros_like}) - plain).abs().max() > 1e-3, site
    assert torch.equal(lm.logits(ids_BC), plain)  # no hook outlives its pass


# ---- replacement against forwards written by hand ---------------------------------------------------------------


def llama_by_hand(model: Any, ids_BC: Tensor, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    x = edit("embed", model.model.embed_tokens(ids_BC))
    rotary = model.model.rotary_emb(x, torch.arange(ids_BC.shape[1])[None])
    for i, block in enumerate(model.model.layers):
        x = edit(f"layers.{i}.resid_pre", x)
        attended, _ = block.self_attn(block.input_layernorm(x), position_embeddings=rotary, attention_mask=None)
        x = edit(f"layers.{i}.resid_mid", x + edit(f"layers.{i}.attn_out", attended))
        u = edit(f"layers.{i}.mlp_in", block.post_attention_layernorm(x))
        act = torch.nn.functional.silu(u @ block.mlp.gate_proj.weight.T) * (u @ block.mlp.up_proj.weight.T)
        out = edit(f"layers.{i}.mlp_act", act) @ block.mlp.down_proj.weight.T
        x = edit(f"layers.{i}.resid_post", x + edit(f"layers.{i}.mlp_out", out))
    return edit("final", model.model.norm(x)) @ model.lm_head.weight.T


def gpt2_by_hand(model: Any, ids_BC: Tensor, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    gpt = model.transformer
    x = edit("embed", gpt.wte(ids_BC)) + gpt.wpe.weight[: ids_BC.shape[1]]
    for i, block in enumerate(gpt.h):
        x = edit(f"layers.{i}.resid_pre", x)
        x = edit(f"layers.{i}.resid_mid", x + edit(f"layers.{i}.attn_out", block.attn(block.ln_1(x))[0]))
        u = edit(f"layers.{i}.mlp_in", block.ln_2(x))
        act = edit(f"layers.{i}.mlp_act", block.mlp.act(u @ block.mlp.c_fc.weight + block.mlp.c_fc.bias))
        out = edit(f"layers.{i}.mlp_out", act @ block.mlp.c_proj.weight + block.mlp.c_proj.bias)
        x = edit(f"layers.{i}.resid_post", x + out)
    return edit("final", gpt.ln_f(x)) @ model.lm_head.weight.T


def neox_by_hand(model: Any, ids_BC: Tensor, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    x = edit("embed", model.gpt_neox.embed_in(ids_BC))
    rotary = model.gpt_neox.rotary_emb(x, torch.arange(ids_BC.shape[1])[None])
    for i, block in enumerate(model.gpt_neox.layers):
        x = edit(f"layers.{i}.resid_pre", x)
        attended = block.attention(block.input_layernorm(x), attention_mask=None, position_embeddings=rotary)[0]
        after = x + edit(f"layers.{i}.attn_out", attended)
        seen = x if model.config.use_parallel_residual else (after := edit(f"layers.{i}.resid_mid", after))
        u = edit(f"layers.{i}.mlp_in", block.post_attention_layernorm(seen))
        act = edit(f"layers.{i}.mlp_act", torch.nn.functional.gelu(block.mlp.dense_h_to_4h(u)))
        x = edit(f"layers.{i}.resid_post", after + edit(f"layers.{i}.mlp_out", block.mlp.dense_4h_to_h(act)))
    return edit("final", model.gpt_neox.final_layer_norm(x)) @ model.get_output_embeddings().weight.T


def bert_by_hand(model: Any, ids_BC: Tensor, edit: Callable[[str, Tensor], Tensor]) -> Tensor:
    tables = model.bert.embeddings
    words = edit("embed", tables.word_embeddings(ids_BC)) + tables.token_type_embeddings.weight[0]
    x = tables.LayerNorm(words + tables.position_embeddings.weight[: ids_BC.shape[1]])
    for i, block in enumerate(model.bert.encoder.layer):
        x = edit(f"layers.{i}.resid_pre", x)
        out = block.attention.output
        attended = edit(f"layers.{i}.attn_out", out.dense(block.attention.self(x)[0]))
        x = edit(f"layers.{i}.resid_mid", out.LayerNorm(attended + x))
        act = block.intermediate(edit(f"layers.{i}.mlp_in", x))
        written = edit(f"layers.{i}.mlp_out", block.output.dense(edit(f"layers.{i}.mlp_act", act)))
        x = edit(f"layers.{i}.resid_post", block.output.LayerNorm(written + x))
    head = model.cls.predictions
    return edit("final", head.transform(x)) @ head.decoder.weight.T + head.decoder.bias


BY_HAND = {
    "llama": llama_by_hand,
    "gpt2": gpt2_by_hand,
    "neox-parallel": neox_by_hand,
    "neox-sequential": neox_by_hand,
    "bert": bert_by_hand,
}
MAKE = {"zero": torch.zeros_like, "mean": lambda x_BCD: x_BCD.mean((0, 1)).expand_as(x_BCD)}


@pytest.mark.parametrize("how", MAKE)
@pytest.mark.parametrize("name", BY_HAND)
def test_replacement_equals_a_forward_by_hand(
    name: str, how: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor
) -> None:
    lm = opened(name)
    for replaced in lm.sites():

        def edit(site: str, x_BCD: Tensor, wanted: str = replaced) -> Tensor:
            return MAKE[how](x_BCD) if site == wanted else x_BCD

        with torch.inference_mode():
            expected = BY_HAND[name](lm.model, ids_BC, edit)
        found = lm.logits(ids_BC, edits={replaced: MAKE[how]})
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=lambda m, s=replaced: f"{s}: {m}")


def test_several_edits_at_once_run_in_the_order_of_the_network(
    opened: Callable[[str], LanguageModel], ids_BC: Tensor
) -> None:
    for name in ("llama", "olmo2"):
        lm = opened(name)
        edits: Edits = {"layers.1.mlp_in": lambda x: 2 * x, "layers.1.resid_mid": lambda x: x + 1}
        backwards = dict(reversed(edits.items()))
        assert torch.equal(lm.logits(ids_BC, edits=edits), lm.logits(ids_BC, edits=backwards))
    plain = opened("olmo2").capture(ids_BC, ["layers.1.resid_mid"])["layers.1.resid_mid"]
    seen: list[Tensor] = []
    opened("olmo2").logits(ids_BC, edits=edits | {"layers.1.mlp_in": lambda x: seen.append(x.clone()) or x})
    torch.testing.assert_close(seen[0], plain + 1)


# ---- running ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "neox-parallel", "bert"])
def test_capture_stops_after_the_last_site(name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened(name)
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: ran.append(path))
        for path, module in lm.model.named_modules()
    ]
    lm.capture(ids_BC, ["layers.1.mlp_act", "layers.0.resid_pre"])
    for handle in handles:
        handle.remove()
    assert any(".1." in path for path in ran)
    assert not any(".2." in path or "head" in path or "decoder" in path or "embed_out" in path for path in ran)


@pytest.mark.parametrize("name", ["neox-parallel", "phi"])
def test_a_parallel_mlp_runs_without_its_attention(
    name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor
) -> None:
    lm = opened(name)
    whole = lm.capture(ids_BC, lm.sites())
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: ran.append(path))
        for path, module in lm.model.named_modules()
    ]
    for part in ("mlp_in", "mlp_act", "mlp_out"):
        found = lm.capture(ids_BC, ["layers.0.attn_out", f"layers.1.{part}", "layers.1.resid_pre", "embed"])
        assert all(torch.equal(x_BCD, whole[site]) for site, x_BCD in found.items())
    assert not any(".1." in path and "att" in path and "norm" not in path for path in ran)
    assert torch.equal(lm.capture(ids_BC, ["layers.1.mlp_act"])["layers.1.mlp_act"], whole["layers.1.mlp_act"])
    for handle in handles:
        handle.remove()
    both = lm.capture(ids_BC, ["layers.1.attn_out", "layers.1.mlp_act"])
    assert torch.equal(both["layers.1.attn_out"], whole["layers.1.attn_out"])


@pytest.mark.parametrize("name", CAUSAL)
def test_padding_changes_nothing(name: str, opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened(name)
    mask_BC = torch.ones(B, C, dtype=torch.bool)
    mask_BC[1, 5:] = False
    padded = lm.token_losses(torch.where(mask_BC, ids_BC, 0), mask_BC)
    assert padded.shape == (B, C - 1)
    assert not padded[1, 4:].any()
    torch.testing.assert_close(padded[1, :4], lm.token_losses(ids_BC[1:2, :5])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded[0], lm.token_losses(ids_BC[:1])[0], rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        masked = lm.model(input_ids=ids_BC, attention_mask=mask_BC.long()).logits
    torch.testing.assert_close(lm.logits(ids_BC, mask_BC)[mask_BC], masked[mask_BC], rtol=1e-4, atol=1e-5)


def test_an_encoder_does_not_see_padding(opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    mask_BC = torch.ones(B, C, dtype=torch.bool)
    mask_BC[1, 5:] = False
    alone = opened("bert").logits(ids_BC[1:2, :5])[0]
    torch.testing.assert_close(opened("bert").logits(ids_BC, mask_BC)[1, :5], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "neox-parallel", "bert"])
def test_bf16(name: str, opened: Callable[[str], LanguageModel], tmp_path: Path, ids_BC: Tensor) -> None:
    lm = LanguageModel.load(save_network(name, tmp_path), device="cpu", dtype="bf16")
    exact = opened(name).capture(ids_BC, lm.sites())
    found = lm.capture(ids_BC, lm.sites())
    assert lm.sites() == opened(name).sites()
    for site, x_BCD in found.items():
        assert x_BCD.dtype == torch.bfloat16
        assert (x_BCD - exact[site]).norm() < 0.1 * exact[site].norm(), site
    if lm.is_causal:
        assert lm.token_losses(ids_BC).dtype == torch.float32


def test_stories260k_has_its_published_loss(tmp_path: Path) -> None:
    folder, text = shared("models/stories260K"), shared("text/tinystories.jsonl.gz")
    tokens = tokenize(str(text), tokenizer=str(folder), context=512, packed=False, out=tmp_path / "tokens")
    lm = LanguageModel.load(folder)
    lm.check_tokens(tokens)
    total, count = 0.0, 0
    for rows in tokens.row_lengths_R.argsort().split(32):  # rows of about equal length: little padding
        batch = tokens.batch(rows)
        total += float(lm.token_losses(batch.ids_BC, batch.mask_BC).double().sum())
        count += int(batch.mask_BC[:, 1:].sum())
    assert count == 350_575
    assert abs(total / count - 1.6319) < 1e-3


# ---- directions to logits ---------------------------------------------------------------------------------------


def test_direction_logits_of_final_are_exact(opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    v_ND = torch.randn(2, 16)
    for name in ("llama", "gpt2", "opt", "bert"):
        lm = opened(name)
        rise = lm.logits(ids_BC, edits={"final": lambda x: x + v_ND[0]}) - lm.logits(ids_BC)
        torch.testing.assert_close(rise[0, 0], lm.direction_logits("final", v_ND)[0], rtol=1e-4, atol=1e-5)


def test_direction_logits_follow_the_weights(opened: Callable[[str], LanguageModel]) -> None:
    v_NF, v_ND = torch.randn(2, 24), torch.randn(2, 16)
    llama, gpt2, gemma = opened("llama").model, opened("gpt2").model, opened("gemma2").model
    down_ND = v_NF @ llama.model.layers[1].mlp.down_proj.weight.T
    check = torch.testing.assert_close
    found = opened("llama").direction_logits("layers.1.mlp_act", v_NF)
    check(found, (down_ND * llama.model.norm.weight) @ llama.lm_head.weight.T)
    found = opened("llama").direction_logits("layers.1.mlp_act", v_NF, fold_norm=False)
    check(found, down_ND @ llama.lm_head.weight.T)
    centred_ND = v_ND - v_ND.mean(1, keepdim=True)
    for site in ("layers.0.resid_pre", "layers.1.attn_out", "layers.2.mlp_out", "embed"):
        found = opened("gpt2").direction_logits(site, v_ND)
        check(found, (centred_ND * gpt2.transformer.ln_f.weight) @ gpt2.lm_head.weight.T, rtol=1e-4, atol=1e-5)
    gains = [gemma.model.norm.weight, gemma.model.layers[1].post_feedforward_layernorm.weight]
    at_end_ND = (v_NF @ gemma.model.layers[1].mlp.down_proj.weight.T) * (1 + gains[0]) * (1 + gains[1])
    check(opened("gemma2").direction_logits("layers.1.mlp_act", v_NF), at_end_ND @ gemma.lm_head.weight.T)


def test_the_stream_is_gemmas_scaled_embedding(opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened("gemma")
    found = lm.capture(ids_BC, ["embed", "layers.0.resid_pre"])
    scale = (found["layers.0.resid_pre"] / found["embed"]).median()
    v_ND = torch.randn(2, 16)
    stream = lm.direction_logits("layers.0.resid_pre", v_ND)
    torch.testing.assert_close(lm.direction_logits("embed", v_ND), scale * stream)


def test_direction_logits_are_none_without_a_linear_path(opened: Callable[[str], LanguageModel]) -> None:
    v_ND = torch.randn(2, 16)
    assert opened("llama").direction_logits("layers.1.mlp_in", v_ND) is None
    assert opened("bert").direction_logits("layers.1.resid_post", v_ND) is None
    assert opened("bert").direction_logits("embed", v_ND) is None
    assert opened("bert-headless").direction_logits("final", v_ND) is None
    with pytest.raises(UsageError, match=r"directions at layers.1.mlp_act are \[n, 24\]"):
        opened("llama").direction_logits("layers.1.mlp_act", v_ND)


# ---- an architecture nobody knows -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network whose modules have names that say nothing."""
    import transformers
    from transformers.modeling_outputs import CausalLMOutput

    class Config(transformers.PretrainedConfig):
        model_type = "made-up"

        def __init__(self, vocab_size: int = 61, hidden_size: int = 16, **rest: Any) -> None:
            self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, 3
            super().__init__(**rest)

    class Blob(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.alpha, self.beta = torch.nn.LayerNorm(16), torch.nn.LayerNorm(16)
            self.one, self.two, self.three = (torch.nn.Linear(*size) for size in ((16, 16), (16, 40), (40, 16)))

        def forward(self, x: Tensor) -> Tensor:
            past = self.alpha(x).cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
            x = x + self.one(past)
            return x + self.three(torch.tanh(self.two(self.beta(x))))

    class MadeUp(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            self.words = torch.nn.Embedding(61, 16)
            self.stack = torch.nn.ModuleList(Blob() for _ in range(3))
            self.out = torch.nn.Linear(16, 61, bias=False)
            self.post_init()

        def _init_weights(self, module: torch.nn.Module) -> None:
            """Leave what torch drew."""

        def forward(self, input_ids: Tensor, use_cache: bool = False) -> CausalLMOutput:
            x = self.words(input_ids)
            for block in self.stack:
                x = block(x)
            return CausalLMOutput(logits=self.out(x))

    MadeUp.__name__ = "MadeUpForCausalLM"
    transformers.AutoConfig.register("made-up", Config)
    transformers.AutoModelForCausalLM.register(Config, MadeUp)
    folder = tmp_path_factory.mktemp("made-up")
    torch.manual_seed(0)
    MadeUp(Config(architectures=["MadeUpForCausalLM"])).save_pretrained(folder)
    return folder


def test_an_unknown_architecture_says_what_to_tell_and_can_be_told(made_up: Path, ids_BC: Tensor) -> None:
    with pytest.raises(UsageError, match=r"MadeUpForCausalLM.*embedding.*ModulePaths\(embed=…\)"):
        LanguageModel.load(made_up)
    with pytest.raises(UsageError, match=r"Blob \(children: alpha .*ModulePaths\(attn_out=…, mlp_in=…, mlp_down=…\)"):
        LanguageModel.load(made_up, paths=ModulePaths(embed="words", unembed="out"))
    with pytest.raises(UsageError, match=r"names 'nine', which Blob lacks; it has alpha, beta, one, two, three"):
        LanguageModel.load(made_up, paths=ModulePaths(None, "nine", "two", "three", embed="words"))
    told = ModulePaths(attn_out="one", mlp_in="two", mlp_down="three", embed="words", unembed="out")
    lm = LanguageModel.load(made_up, paths=told)
    assert len(lm.sites()) == 23
    assert lm.max_context is None
    plain = lm.logits(ids_BC)
    for site in lm.sites():
        torch.testing.assert_close(lm.logits(ids_BC, edits={site: torch.clone}), plain)
    x = lm.capture(ids_BC, ["layers.1.resid_mid", "layers.1.mlp_out", "layers.1.resid_post"])
    torch.testing.assert_close(x["layers.1.resid_mid"] + x["layers.1.mlp_out"], x["layers.1.resid_post"])
    v_ND = torch.randn(2, 16)
    torch.testing.assert_close(lm.direction_logits("embed", v_ND), v_ND @ lm.model.out.weight.T)


def test_a_mixture_of_experts_has_its_other_sites(tmp_path: Path, ids_BC: Tensor) -> None:
    folder = save_network("mixtral", tmp_path)
    with pytest.raises(UsageError, match=r"MixtralDecoderLayer .*ModulePaths\(mlp_in=…, mlp_down=…\), or '' for what"):
        LanguageModel.load(folder)
    lm = LanguageModel.load(folder, paths=ModulePaths(mlp_in="", mlp_down=""))
    assert lm.sites()[1:4] == ["layers.0.resid_pre", "layers.0.attn_out", "layers.0.resid_post"]
    for site in lm.sites():
        torch.testing.assert_close(lm.logits(ids_BC, edits={site: torch.clone}), lm.logits(ids_BC))
    with pytest.raises(UsageError, match=r"layers.\{0..2\}.\{resid_pre,attn_out,resid_post\} and final"):
        lm.check_site("layers.0.mlp_act")


# ---- what a user gets wrong -------------------------------------------------------------------------------------


def test_bad_sites(opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    lm = opened("llama")
    with pytest.raises(UsageError, match=r"'mlp'.*embed, layers.\{0..2\}.\{resid_pre,attn_out,resid_mid,.*and final"):
        lm.check_site("mlp")
    with pytest.raises(UsageError, match=r"layers 0 to 2"):
        lm.width_of("layers.7.mlp_act")
    with pytest.raises(UsageError, match=r"layers.-1"):
        lm.capture(ids_BC, ["layers.-1.mlp_act"])
    with pytest.raises(UsageError, match=r"resid_mid'.*read the same stream"):
        opened("phi").logits(ids_BC, edits={"layers.0.resid_mid": torch.clone})
    with pytest.raises(UsageError, match=r"gave shape \[3, 9\]; it must keep"):
        lm.logits(ids_BC, edits={"layers.0.mlp_act": lambda x_BCD: x_BCD.sum(-1)})


def test_encoders_have_no_next_token(opened: Callable[[str], LanguageModel], ids_BC: Tensor) -> None:
    with pytest.raises(UsageError, match="an encoder predicts no next token"):
        opened("bert").token_losses(ids_BC)
    with pytest.raises(UsageError, match="has no unembedding"):
        opened("bert-headless").logits(ids_BC)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder; name one"):
        LanguageModel.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"'no-such/model'.*no such folder here, and the Hub cannot be reached"):
        LanguageModel.load("no-such/model")
    with pytest.raises(UsageError, match=r"no config\.json"):
        LanguageModel.load(tmp_path)
    folder = save_network("llama", tmp_path / "llama")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lack 1 of the model's tensors \(first model.layers.1.mlp.up_proj.weight"):
        LanguageModel.load(folder)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"llama: transformers cannot load it \(SafetensorError"):
        LanguageModel.load(folder)
    weights.unlink()
    with pytest.raises(UsageError, match="holds no weights"):
        LanguageModel.load(folder)
    (folder / "config.json").write_text('{"model_type": "t5", "is_encoder_decoder": true}')
    weights.write_bytes(whole)
    with pytest.raises(UsageError, match="an encoder-decoder"):
        LanguageModel.load(folder)


def test_tokens_that_do_not_fit(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and looked at the dog. " * 40)
    tokens = tokenize(str(text), tokenizer="bpe:280", context=40, out=tmp_path / "tokens")
    other = tokenize(str(text), tokenizer="bpe:281", context=8, out=tmp_path / "other")
    small = LanguageModel.load(save_network("gpt2", tmp_path / "small"))
    assert small.tokenizer_fingerprint is None
    with pytest.raises(UsageError, match=r"holds token \d+, and .*small has a vocabulary of 61"):
        small.check_tokens(tokens)
    folder = tmp_path / "model"
    model = network("gpt2")
    model.resize_token_embeddings(290)
    model.save_pretrained(folder)
    with pytest.raises(UsageError, match=r"rows of 40 tokens, and .*takes at most 32; .*--context 32"):
        LanguageModel.load(folder).check_tokens(tokens)
    tokens.tokenizer.save(str(folder / "tokenizer.json"))
    lm = LanguageModel.load(folder)
    assert lm.tokenizer_fingerprint == tokens.tokenizer_fingerprint
    with pytest.raises(UsageError, match="made with another tokenizer"):
        lm.check_tokens(other)
    lm.check_tokens(tokenize(str(text), tokenizer=str(folder), context=32, out=tmp_path / "fits"))


# ---- where a model comes from -----------------------------------------------------------------------------------


def test_parents(tmp_path: Path) -> None:
    plain = save_network("gpt2", tmp_path / "plain")
    parent = LanguageModel.load(plain).as_parent()
    assert (parent.kind, parent.path) == ("model", str(plain.resolve()))
    assert parent.id == LanguageModel.load(save_network("gpt2", tmp_path / "again")).as_parent().id
    assert parent.id != LanguageModel.load(save_network("gpt2", tmp_path / "other", seed=1)).as_parent().id

    def write(draft: Any) -> dict[str, Any]:
        save_network("gpt2", draft.path)
        return {}

    ours = make(tmp_path / "ours", "model", {"seed": 0}, {}, write)
    assert LanguageModel.load(ours.path).as_parent() == ours.as_parent()
    weights = ours.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(UsageError, match=r"model\.safetensors: its checksum"):
        LanguageModel.load(ours.path)


def test_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files lie in the cache as the Hub client leaves them."""
    cache = tmp_path / "models--someone--tiny"
    save_network("gpt2", cache / "snapshots" / ("a" * 40))
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)  # before version 5
    lm = LanguageModel.load("someone/tiny")
    assert lm.as_parent().id == "someone/tiny@" + "a" * 40
    assert lm.as_parent().path == "someone/tiny"
    assert lm.tokenizer_fingerprint is None


def test_importing_imports_no_transformers() -> None:
    code = "import sys, monosemy.models.language_model; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_uniform_model_loses_the_log_of_its_vocabulary(tmp_path: Path, ids_BC: Tensor) -> None:
    lm = LanguageModel.load(save_network("llama", tmp_path))
    losses_BC = lm.token_losses(ids_BC, edits={"final": torch.zeros_like})
    torch.testing.assert_close(losses_BC, torch.full((B, C - 1), math.log(61)))

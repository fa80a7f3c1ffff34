"""Tiny random networks of many architectures, saved as a user would have them: no download, a few milliseconds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
SMALL |= {"max_position_embeddings": 32}
GATED = SMALL | {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}
NEOX = SMALL | {"intermediate_size": 32, "rotary_pct": 0.5, "hidden_act": "gelu"}

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", GATED),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32}),
    "neox-parallel": ("GPTNeoXForCausalLM", NEOX | {"use_parallel_residual": True}),
    "neox-sequential": ("GPTNeoXForCausalLM", NEOX | {"use_parallel_residual": False}),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        {"vocab_size": 61, "hidden_size": 16, "num_layers": 3, "num_heads": 2, "max_position_embeddings": 32}
        | {"attention_types": [[["global", "local"], 1], [["global"], 1]], "window_size": 4},
    ),
    "gemma": ("GemmaForCausalLM", GATED),
    "gemma2": ("Gemma2ForCausalLM", GATED | {"sliding_window": 8}),
    "gemma3": ("Gemma3ForCausalLM", GATED | {"sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", {name: value for name, value in GATED.items() if name != "head_dim"}),
    "qwen3": ("Qwen3ForCausalLM", GATED),
    "opt": ("OPTForCausalLM", SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 16}),
    "opt-post-norm": (
        "OPTForCausalLM",
        SMALL | {"ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False},
    ),
    "phi": ("PhiForCausalLM", SMALL | {"intermediate_size": 24}),
    "olmo2": ("Olmo2ForCausalLM", {name: value for name, value in GATED.items() if name != "head_dim"}),
    "bert": ("BertForMaskedLM", SMALL | {"intermediate_size": 24}),
    "bert-headless": ("BertModel", SMALL | {"intermediate_size": 24}),
}
MIXTURES = {"mixtral": ("MixtralForCausalLM", {name: value for name, value in GATED.items() if name != "head_dim"})}
CAUSAL = [name for name in NETWORKS if not name.startswith("bert")]


def network(name: str, seed: int = 0, **changes: Any) -> Any:
    """A network of this architecture with random weights that are large enough for every site to matter."""
    import transformers

    class_name, settings = (NETWORKS | MIXTURES)[name]
    chosen = getattr(transformers, class_name)
    torch.manual_seed(seed)
    built = chosen(chosen.config_class(**(settings | changes)))
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


def save_network(name: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save such a network in transformers format; gives the folder."""
    network(name, seed, **changes).save_pretrained(folder)
    return folder

"""A small GPT of our own: what `pretrain` trains when there is no model to look into.

Pre-norm decoder blocks, learned positions, GELU, tied embedding (S4's architecture; Radford et al. 2019). Saved in the
layout of `transformers`' GPT-2, so that everything else reads it as it reads any other model. Left out: dropout (one
pass over the text does not overfit), a key-value cache (reading and generating go through `LanguageModel`).

Shapes: B rows, C context, E = d_model, H heads, V vocabulary.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from monosemy.files import save_tensors
from monosemy.runtime import UsageError

INIT_STD = 0.02


@dataclass(frozen=True)
class GptShape:
    """What fixes the network's parameters."""

    vocab_size: int
    context: int
    layers: int
    d_model: int
    heads: int

    def __post_init__(self) -> None:
        if self.d_model % self.heads:
            raise UsageError(f"`d_model` (={self.d_model}) must be a multiple of `heads` (={self.heads})")


class Attention(nn.Module):
    """Causal multi-head attention."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.c_attn = nn.Linear(shape.d_model, 3 * shape.d_model)
        self.c_proj = nn.Linear(shape.d_model, shape.d_model)

    def forward(self, x_BCE: torch.Tensor) -> torch.Tensor:
        """Mixes positions: `[B, C, E]`."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x_BCE).chunk(3, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: torch.Tensor = self.c_proj(mixed.transpose(1, 2).flatten(2))
        return projected


class Mlp(nn.Module):
    """Up by four, GELU, down. What `c_proj` takes is the site `mlp_act`."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.c_fc = nn.Linear(shape.d_model, 4 * shape.d_model)
        self.c_proj = nn.Linear(4 * shape.d_model, shape.d_model)

    def forward(self, x_BCE: torch.Tensor) -> torch.Tensor:
        """`[B, C, E]`."""
        down: torch.Tensor = self.c_proj(F.gelu(self.c_fc(x_BCE)))
        return down


class Block(nn.Module):
    """x + attention(norm(x)), then + mlp(norm(x))."""

    def __init__(self, shape: GptShape) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(shape.d_model), nn.LayerNorm(shape.d_model)
        self.attn, self.mlp = Attention(shape), Mlp(shape)

    def forward(self, x_BCE: torch.Tensor) -> torch.Tensor:
        """`[B, C, E]`."""
        x_BCE = x_BCE + self.attn(self.ln_1(x_BCE))
        out: torch.Tensor = x_BCE + self.mlp(self.ln_2(x_BCE))
        return out


class Gpt(nn.Module):
    """The network. Parameter names are those of `transformers`' GPT-2 without the `transformer.` prefix."""

    def __init__(self, shape: GptShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.wte = nn.Embedding(shape.vocab_size, shape.d_model)
        self.wpe = nn.Embedding(shape.context, shape.d_model)
        self.h = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.d_model)
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """N(0, 0.02), the projections into the residual stream smaller by √(2·layers), biases 0 (GPT-2)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif ".ln_" not in name and not name.startswith("ln_"):
                shrink = math.sqrt(2 * self.shape.layers) if name.endswith("c_proj.weight") else 1.0
                nn.init.normal_(parameter, std=INIT_STD / shrink, generator=generator)

    def forward(self, ids_BC: torch.Tensor) -> torch.Tensor:
        """Logits `[B, C, V]`."""
        x_BCE = self.wte(ids_BC) + self.wpe.weight[: ids_BC.shape[1]]
        for block in self.h:
            x_BCE = block(x_BCE)
        return F.linear(self.ln_f(x_BCE), self.wte.weight)

    def loss(self, ids_BC: torch.Tensor, mask_BC: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the next token in nats, over targets that are real tokens."""
        logits_XV = self(ids_BC[:, :-1]).flatten(0, 1)
        targets_X = torch.where(mask_BC[:, 1:], ids_BC[:, 1:], -100).flatten()
        return F.cross_entropy(logits_XV, targets_X, ignore_index=-100)


def save_as_gpt2(model: Gpt, folder: Path, bos: int | None, eos: int | None) -> None:
    """Write `config.json` and `model.safetensors` in `transformers`' layout (Conv1D: weights transposed)."""
    shape = model.shape
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": shape.vocab_size,
        "n_positions": shape.context,
        "n_embd": shape.d_model,
        "n_layer": shape.layers,
        "n_head": shape.heads,
        "activation_function": "gelu",
        "layer_norm_epsilon": model.ln_f.eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": bos,
        "eos_token_id": eos,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    tensors = {
        f"transformer.{name}": tensor.T if ".c_" in name and name.endswith("weight") else tensor
        for name, tensor in model.state_dict().items()
    }
    save_tensors(folder / "model.safetensors", tensors, ("format", "pt"))

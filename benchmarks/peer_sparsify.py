"""Dictionaries of EleutherAI's sparsify, trained as its `Trainer` trains them (see `peers.py`).

sparsify tracks dead features and normalises the decoder; it clips no gradients, unless `clip` asks for it here. Its
decoder is its Triton kernel on a GPU, and torch's embedding_bag elsewhere. Left out: signum, its default optimiser,
which is not the Adam that everybody else is measured with.

Shapes: B rows, D = d_in, N = width, K = k.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import torch
from peers import WARMUP, Foreign, Peer, quietly, recipe_of

from monosemy.dictionaries.dictionary import Dictionary


def sparsify(
    d_in: int,
    width: int,
    k: int,
    *,
    steps: int = 100_000,
    lr: float | None = None,
    seed: int = 0,
    clip: float | None = None,
    bf16: bool = False,
    device: str = "cpu",
) -> Peer:
    """sparsify's TopK with Adam (its default, signum, is another optimiser).

    Its trainer lives inside a language model's forward pass; here the same calls are made on a batch of rows: decoder
    normalised, loss and gradients by its `SparseCoder`, the part along the decoder's rows taken out, Adam and the
    schedule, dead features counted; products at "high" precision, as `fit` sets it. Its learning rate follows from the
    width where none is given. `bf16` is the autocast that its `forward` asks for on a GPU.
    """
    coders = quietly(lambda: importlib.import_module("sparsify"))
    from transformers import get_linear_schedule_with_warmup

    torch.manual_seed(seed)
    coder = coders.SparseCoder(d_in, coders.SparseCoderConfig(num_latents=width, k=k), device, dtype=torch.float32)
    rate = lr or 2e-4 / (width / 2**14) ** 0.5
    optimizer = torch.optim.Adam(coder.parameters(), lr=rate)
    scheduler = get_linear_schedule_with_warmup(optimizer, WARMUP, steps)
    since_fired_N = torch.zeros(width, dtype=torch.long, device=device)
    fired_N = torch.zeros(width, dtype=torch.bool, device=device)
    parameters, first = list(coder.parameters()), True

    def step(x_BD: torch.Tensor) -> None:
        nonlocal first
        if first:
            coder.b_dec.data = x_BD.mean(0)
            first = False
        coder.set_decoder_norm_to_unit_norm()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16), _at_least_high():
            found = coder(x=x_BD, y=x_BD, total_variance=(x_BD - x_BD.mean(0)).pow(2).sum())
            fired_N[found.latent_indices.flatten()] = True
            found.fvu.item()
            found.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        since_fired_N.add_(len(x_BD))
        since_fired_N[fired_N] = 0
        fired_N.zero_()

    def dictionary() -> Dictionary:
        return Foreign(_Dense(coder), coder.W_dec)

    return Peer("sparsify", recipe_of("topk", rate, {"k": k}), step, dictionary, coder)


class _Dense:
    """sparsify's encoder and decoder on dense codes."""

    def __init__(self, coder: Any) -> None:
        self.coder = coder

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        values_BK, indices_BK, z_BN = self.coder.encode(x_BD)
        return torch.zeros_like(z_BN).scatter_(1, indices_BK, values_BK)

    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        rec_BD: torch.Tensor = codes_BN @ self.coder.W_dec + self.coder.b_dec
        return rec_BD


@contextlib.contextmanager
def _at_least_high() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

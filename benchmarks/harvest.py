"""Tokens a second from a Pythia-70M-shaped model (random weights): a full forward, our harvest, SAELens' store.

    python benchmarks/harvest.py [--site layers.2.mlp_act] [--tokens 65536] [--rounds 3] [--clock cpu]

Every arm runs once a round, in turn, in one process, so that a machine whose speed drifts does so for all of them.
Ours includes all that a harvest does: statistics, checksums, files synced to disk. Of SAELens' store only the batches
that it takes from the model are counted: no shuffling buffer, nothing written. It runs where `sae_lens` is installed.
With `--clock cpu` processor time counts instead of the wall clock: use it with OMP_NUM_THREADS=1 on a busy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from record import table, write_record

from monosemy.data.tokens import TokenStore, tokenize
from monosemy.models.harvest import harvest
from monosemy.models.language_model import LanguageModel

CONTEXT, VOCABULARY, BATCH_ROWS = 512, 50304, 8
SHAPE = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 2048}
TLENS_HOOKS = {"mlp_act": "mlp.hook_post", "mlp_out": "hook_mlp_out", "resid_post": "hook_resid_post"}

Arm = Callable[[], int]
"""Runs once and says how many tokens it did."""


def save_model(folder: Path) -> Path:
    """Pythia-70M's shape with random weights, in transformers format."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(vocab_size=VOCABULARY, max_position_embeddings=2048, rotary_pct=0.25, **SHAPE)
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    return folder


def save_tokens(folder: Path, n_tokens: int) -> TokenStore:
    """Packed rows of made-up words."""
    words = random.Random(0)
    text = folder / "text.txt"
    letters = "abcdefghijklmnopqrstuvwxyz"
    text.write_text(" ".join("".join(words.choices(letters, k=5)) for _ in range(n_tokens)))
    return tokenize(str(text), tokenizer="bpe:300", context=CONTEXT, out=folder / "tokens")


def full_forward(lm: LanguageModel, tokens: TokenStore, n_tokens: int) -> Arm:
    """What one would write by hand: the whole network, head included."""

    def run() -> int:
        done = 0
        with torch.no_grad():
            for batch in tokens.batches(BATCH_ROWS, range(n_tokens // CONTEXT)):
                lm.model(input_ids=batch.ids_BC)
                done += batch.ids_BC.numel()
        return done

    return run


def ours(lm: LanguageModel, tokens: TokenStore, site: str, n_tokens: int, folder: Path) -> Arm:
    """Our harvest, to a finished artifact on disk."""

    def run() -> int:
        out = folder / "activations"
        store = harvest(lm, tokens, out=out, site=site, max_tokens=n_tokens)
        shutil.rmtree(out)
        return store.n_all

    return run


def saelens(tokens: TokenStore, site: str, n_tokens: int, autocast: bool) -> Arm | None:
    """SAELens' activation store over a TransformerLens model of the same shape, on the same rows."""
    if importlib.util.find_spec("sae_lens") is None:
        return None
    from datasets import Dataset
    from sae_lens import ActivationsStore
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    _, layer, part = site.split(".")
    config = HookedTransformerConfig(
        n_layers=6, d_model=512, n_ctx=2048, d_head=64, n_heads=8, d_mlp=2048, act_fn="gelu", d_vocab=VOCABULARY,
        normalization_type="LN", positional_embedding_type="rotary", rotary_dim=16, parallel_attn_mlp=True,
        device="cpu", seed=0,
    )  # fmt: skip
    rows = [batch.ids_BC[0].tolist() for batch in tokens.batches(1) if batch.ids_BC.shape[1] == CONTEXT]
    model, data = HookedTransformer(config), Dataset.from_dict({"input_ids": rows * 4})

    def run() -> int:
        store = ActivationsStore(
            model=model, dataset=data, streaming=False, hook_name=f"blocks.{layer}.{TLENS_HOOKS[part]}",
            hook_head_index=None, context_size=CONTEXT, d_in=2048 if part == "mlp_act" else 512,
            n_batches_in_buffer=4, total_training_tokens=10 * n_tokens, store_batch_size_prompts=BATCH_ROWS,
            train_batch_size_tokens=4096, prepend_bos=False, normalize_activations="none",
            device=torch.device("cpu"), dtype="float32", autocast_lm=autocast, disable_concat_sequences=True,
        )  # fmt: skip
        done = 0
        with torch.no_grad():
            while done < n_tokens:
                done += CONTEXT * BATCH_ROWS
                store.get_filtered_llm_batch()
        return done

    return run


def measure(arms: dict[str, Arm], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Tokens a second of every arm in every round; a first round, not counted, warms up."""
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            began = clock()
            done = arm()
            if turn > 0:
                rates[name].append(done / (clock() - began))
    return rates


def main() -> None:
    """Run the benchmark, print the table, write the record."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--site", default="layers.2.mlp_act")
    options.add_argument("--tokens", type=int, default=65536, help="tokens an arm and round (the full forward: 1/8)")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = options.parse_args()
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time
    warnings.simplefilter("ignore")  # the peers'; nothing of ours warns
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, tokens = save_model(folder / "model"), save_tokens(folder, 2 * chosen.tokens)
        fp32 = LanguageModel.load(model, device="cpu")
        bf16 = LanguageModel.load(model, device="cpu", dtype="bf16")
        arms: dict[str, Arm | None] = {
            "full forward fp32": full_forward(fp32, tokens, chosen.tokens // 8),
            "monosemy fp32": ours(fp32, tokens, chosen.site, chosen.tokens, folder),
            "monosemy bf16": ours(bf16, tokens, chosen.site, chosen.tokens, folder),
            "SAELens store": saelens(tokens, chosen.site, chosen.tokens, autocast=False),
            "SAELens store, autocast bf16": saelens(tokens, chosen.site, chosen.tokens, autocast=True),
        }
        rates = measure({label: arm for label, arm in arms.items() if arm is not None}, chosen.rounds, clock)
    base = statistics.median(rates["full forward fp32"])
    rows: list[dict[str, Any]] = [
        {
            "arm": label,
            "tokens/s": round(statistics.median(found)),
            "× full forward": statistics.median(found) / base,
            "lowest": round(min(found)),
            "highest": round(max(found)),
        }
        for label, found in rates.items()
    ]
    print("\n".join(table(rows)))
    print(write_record("harvest", rows, f"python {' '.join(sys.argv)}"))


if __name__ == "__main__":
    main()

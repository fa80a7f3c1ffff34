"""A feature index, ours beside SAEDashboard's, of the same features on the same tokens, model and weights.

    python benchmarks/index.py [--tokens 16384] [--features 256] [--width 16384] [--rounds 2] [--clock cpu]

The model has Pythia-70M's shape and random weights, the dictionary random directions at `layers.2.resid_post`
(d_in 512) and biases with which each feature fires on about 0.4 % of the tokens. Arms, each once a round, in turn, in
one process; a first round, not counted, warms up:

- SAEDashboard on `--features` features, as its users run it: its default layout, and its activation cache on disk,
  which the first round fills, so that the model's pass is left out of its time. No page is written;
- ours on the same features: a dictionary of these alone, to a finished index on disk;
- ours on all `--width` features, in one pass; with `--arms ours` this alone, once, without a warm-up round.

SAEDashboard takes features in batches and reads all tokens again for each, so what it needs for `--width` features is
its time for `--features`, times their number over that: said as extrapolated. Ours finds besides what SAEDashboard
has not: the tokens of features and features of tokens, examples that are checked to be silent. SAEDashboard correlates
features with neurons, which ours leaves to its other analyses. Before the clock starts both are held to equal maxima.

It runs where `sae_dashboard` is installed (`make bench-env`). The peak memory is the whole process's, so that of
`--arms ours` is ours: model, tokens and index. With `--clock cpu` processor time counts: use it with
OMP_NUM_THREADS=1 on a busy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import resource
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
from harvest import VOCABULARY, save_model
from record import table, write_record

from monosemy.analysis.index import features
from monosemy.artifact import make
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.store import member_file, save_dictionary
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import generator_for

CONTEXT, D_IN, LAYER = 128, 512, 2
WORDS = 500  # of a document
SITE, HOOK = f"layers.{LAYER}.resid_post", f"blocks.{LAYER}.hook_resid_post"
DENSITY = 0.004
THEIRS, OURS = "SAEDashboard", "monosemy"


def save_tokens(folder: Path, n_tokens: int) -> TokenStore:
    """Packed rows of documents of made-up words, a few of them frequent (Zipf)."""
    dice = random.Random(0)
    words = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=dice.randint(2, 8))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, 1 + len(words))]
    with (folder / "text.jsonl").open("w") as file:
        for _ in range(n_tokens // WORDS + 1):  # a word is at least a token
            file.write(json.dumps({"text": " ".join(dice.choices(words, weights, k=WORDS))}) + "\n")
    return tokenize(str(folder / "text.jsonl"), tokenizer="bpe:4096", context=CONTEXT, out=folder / "tokens")


def random_dictionary(model: LanguageModel, tokens: TokenStore, width: int) -> Dictionary:
    """Random directions; a bias for each with which it fires on DENSITY of some tokens."""
    W_ND = torch.randn(width, D_IN, generator=generator_for("directions"))
    W_ND /= W_ND.norm(dim=1, keepdim=True)
    batch = tokens.batch(torch.arange(16))
    x_XD = model.capture(batch.ids_BC, [SITE], batch.mask_BC)[SITE].reshape(-1, D_IN)
    rank = max(1, round(DENSITY * len(x_XD)))
    bias_N = -torch.cat([(x_XD @ W_BD.T).topk(rank, dim=0).values[-1] for W_BD in torch.split(W_ND, 2048)])
    return ReluDictionary({"W_enc": W_ND, "b_enc": bias_N, "W_dec": W_ND.clone()})


def first_features(dictionary: Dictionary, count: int) -> Dictionary:
    """A dictionary of its first `count` features alone."""
    return ReluDictionary({name: tensor[:count].clone() for name, tensor in dictionary.tensors.items()})


def save_grid(path: Path, dictionary: Dictionary) -> Path:
    """A dictionaries artifact with this one in it."""

    def write(draft: Any) -> dict[str, Any]:
        save_dictionary(draft.file(member_file(0)), dictionary)
        member = {
            "member": 0,
            "variant": "relu",
            "width": dictionary.width,
            "l1": 0.1,
            "k": None,
            "lr": 1e-3,
            "seed": 0,
        }
        return {"members": [member], "d_in": dictionary.d_in, "site": SITE}

    return make(path, "dictionaries", {"made": "at random"}, {}, write).path


def ours(
    model: LanguageModel, tokens: TokenStore, grid: Path, n_tokens: int, folder: Path
) -> Callable[[], torch.Tensor]:
    """Our index, to a finished artifact; gives the features' maxima."""

    def run() -> torch.Tensor:
        out = folder / "index"
        shutil.rmtree(out, ignore_errors=True)
        return features(grid, member=0, model=model, tokens=tokens, out=out, max_tokens=n_tokens).max_N

    return run


def theirs(
    folder: Path, model: LanguageModel, dictionary: Dictionary, tokens: TokenStore, n_tokens: int
) -> Callable[[], torch.Tensor]:
    """SAEDashboard's data of the dictionary's features; gives the features' maxima."""
    from sae_dashboard.sae_vis_data import SaeVisConfig
    from sae_dashboard.sae_vis_runner import SaeVisRunner
    from sae_lens import StandardSAE, StandardSAEConfig
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_neox_weights

    config = HookedTransformerConfig(
        n_layers=6, d_model=D_IN, n_ctx=2048, d_head=64, n_heads=8, d_mlp=2048, act_fn="gelu", d_vocab=VOCABULARY,
        normalization_type="LN", positional_embedding_type="rotary", rotary_dim=16, parallel_attn_mlp=True,
        rotary_adjacent_pairs=False, device="cpu",
    )  # fmt: skip
    lens = HookedTransformer(config)
    lens.load_state_dict(convert_neox_weights(model.model, config), strict=False)
    sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=dictionary.width, apply_b_dec_to_input=False))
    sae.cfg.metadata.hook_name = HOOK
    weights = dictionary.tensors
    sae.load_state_dict(
        {"W_enc": weights["W_enc"].T, "b_enc": weights["b_enc"], "W_dec": weights["W_dec"], "b_dec": torch.zeros(D_IN)}
    )
    ids_BC = tokens.batch(torch.arange(n_tokens // CONTEXT)).ids_BC

    def run() -> torch.Tensor:
        cache = folder / "cache"  # filled in the first round, which is not counted
        found = SaeVisRunner(
            SaeVisConfig(hook_point=HOOK, features=list(range(dictionary.width)), cache_dir=cache)
        ).run(encoder=sae, model=lens, tokens=ids_BC)
        return torch.tensor([max(0.0, data) for data in found.feature_stats.max])

    return run


def measure(
    arms: dict[tuple[str, int], Callable[[], torch.Tensor]], rounds: int, clock: Callable[[], float], warm_up: bool
) -> dict[tuple[str, int], list[float]]:
    """Seconds of every arm in every round; a warm-up round before them is not counted."""
    spent: dict[tuple[str, int], list[float]] = {name: [] for name in arms}
    for turn in range(0 if warm_up else 1, rounds + 1):
        for name, arm in arms.items():
            began = clock()
            arm()
            if turn > 0:
                spent[name].append(clock() - began)
            print(f"round {turn}, {name[0]} {name[1]}: {clock() - began:.1f} s", file=sys.stderr, flush=True)
    return spent


def row(arm: str, width: int, seconds: list[float], n_tokens: int) -> dict[str, Any]:
    """A line of the table."""
    middle = statistics.median(seconds)
    return {
        "arm": arm,
        "features": width,
        "tokens": n_tokens,
        "s": middle,
        "ms a feature": 1e3 * middle / width,
        "lowest s": min(seconds),
        "highest s": max(seconds),
    }


def main() -> None:
    """Run the benchmark, print the table, write the record."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--tokens", type=int, default=16384)
    options.add_argument("--features", type=int, default=256)
    options.add_argument("--width", type=int, default=16384)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--arms", choices=("both", "ours"), default="both")
    options.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = options.parse_args()
    clock = time.perf_counter if chosen.clock == "wall" else time.process_time
    warnings.simplefilter("ignore")  # the peer's; nothing of ours warns
    peer = chosen.arms == "both" and importlib.util.find_spec("sae_dashboard") is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = LanguageModel.load(save_model(folder / "model"), device="cpu")
        tokens = save_tokens(folder, chosen.tokens)
        large = random_dictionary(model, tokens, chosen.width)
        small = first_features(large, chosen.features)
        kinds = (small, large) if chosen.arms == "both" else (large,)
        arms: dict[tuple[str, int], Callable[[], torch.Tensor]] = {
            (OURS, kind.width): ours(model, tokens, save_grid(folder / f"{kind.width}", kind), chosen.tokens, folder)
            for kind in kinds
        }
        if peer:
            arms[THEIRS, small.width] = theirs(folder, model, small, tokens, chosen.tokens)
            torch.testing.assert_close(arms[THEIRS, small.width](), arms[OURS, small.width](), rtol=1e-3, atol=1e-4)
        spent = measure(arms, chosen.rounds, clock, warm_up=chosen.arms == "both")
    rows = [row(*arm, found, chosen.tokens) for arm, found in spent.items()]
    if peer:
        times = large.width / small.width
        guess = [times * each for each in spent[THEIRS, small.width]]
        rows.append(row(f"{THEIRS}, extrapolated", large.width, guess, chosen.tokens))
    for each in rows:
        each["peak MB of the process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print("\n".join(table(rows)))
    name = "index" if chosen.arms == "both" else "index-large"
    print(write_record(name, rows, f"python {' '.join(sys.argv)}"))


if __name__ == "__main__":
    main()

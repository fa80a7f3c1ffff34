"""Labs over tiny random networks: a dictionary of random directions, a token store of random letters, an index."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from feature_worlds import VOCAB, grid, token_store
from networks import save_network

from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.models.language_model import LanguageModel

WIDTH = 8


def random_dictionary(
    d_in: int, d_out: int | None = None, k: int | None = None, seed: int = 0, width: int = WIDTH
) -> Dictionary:
    """Feature 0 never fires, feature 1 always does, the others on some tokens; `k`: a TopK dictionary."""
    generator = torch.Generator().manual_seed(seed)
    W_enc_ND = torch.randn(width, d_in, generator=generator)
    W_dec_NE = torch.nn.functional.normalize(torch.randn(width, d_out or d_in, generator=generator), dim=1)
    b_enc_N = torch.full((width,), -0.05)
    b_enc_N[:2] = torch.tensor([-1e3, 20.0])
    tensors = {"W_enc": W_enc_ND, "b_enc": b_enc_N, "W_dec": W_dec_NE}
    return ReluDictionary(tensors) if k is None else TopKDictionary(tensors, {"k": k})


def network_lab(
    folder: Path,
    name: str = "llama",
    site: str = "layers.1.mlp_act",
    target: str | None = None,
    k: int | None = None,
    bos: str = "no",
    skip_bos: bool = False,
    indexed: bool = False,
    **changes: Any,
) -> Lab:
    """A lab on a network of this architecture; `changes` go to its config, `indexed` adds a feature index."""
    model = LanguageModel.load(save_network(name, folder / "model", vocab_size=VOCAB + 2, **changes), device="cpu")
    store = token_store(folder, [60, 9, 40, 33], context=16, bos=bos)
    dictionary = random_dictionary(model.width_of(site), None if target is None else model.width_of(target), k)
    index = None
    if indexed:
        members = grid(folder / "dictionaries", [dictionary], site=site)
        index = features(members, member=0, model=model, tokens=store, out=folder / "features", before=4, after=2)
    return Lab(model, dictionary, site, store, skip_bos, target, index)


EARLY, LATE = "layers.0.mlp_act", "layers.1.mlp_act"


def two_site_run(folder: Path) -> tuple[Lab, Lab]:
    """A run of two grids: `dictionaries` at EARLY, indexed, and `late` at LATE, its first member of two indexed, its
    second twice as wide. The labs of their first members."""
    early = network_lab(folder, site=EARLY, indexed=True)
    width = early.model.width_of(LATE)
    dictionaries = [random_dictionary(width, seed=1), random_dictionary(width, seed=2, width=2 * WIDTH)]
    late = grid(folder / "late", dictionaries, site=LATE)
    index = features(late, member=0, model=early.model, tokens=early.tokens, out=folder / "features-late")
    return early, replace(early, dictionary=dictionaries[0], site=LATE, index=index)

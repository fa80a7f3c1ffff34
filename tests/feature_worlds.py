"""Small worlds to index features in: a token store of random text, a model that is a table, whole-number codes.

Whole numbers make ties common and every sum exact, so what is found can be compared bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monosemy.artifact import Parent, make
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.store import member_file, save_dictionary
from monosemy.draft import Draft

D_IN, VOCAB, SITE = 6, 258, "layers.0.mlp_act"


def token_store(folder: Path, lengths: Sequence[int], seed: int = 0, **settings: Any) -> TokenStore:
    """Documents of these numbers of random letters, one token a byte, and an end token after each."""
    random = np.random.default_rng(seed)
    lines = [json.dumps({"text": "".join(random.choice(list("abcdefgh"), size=length))}) for length in lengths]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return tokenize(str(folder / "text.jsonl"), out=folder / "tokens", tokenizer="bpe:257", seed=seed, **settings)


class TableModel:
    """x of a token: whole numbers that depend on it and on the one before it. It stands for a `LanguageModel`."""

    vocab_size = VOCAB + 3

    def __init__(self, linear_path: bool = True, d_in: int = D_IN, device: str = "cpu") -> None:
        self.device, self.dtype = torch.device(device), torch.float32
        generator = torch.Generator().manual_seed(3)
        self.table_VD = torch.randint(-3, 4, (VOCAB, d_in), generator=generator).float().to(device)
        self.before_VD = torch.randint(-2, 3, (VOCAB, d_in), generator=generator).float().to(device)
        self.out_DV = torch.randn(d_in, VOCAB + 3, generator=generator).to(device)  # three columns of padding
        self.linear_path = linear_path
        self.passes = 0

    def capture(
        self, ids_BC: torch.Tensor, sites: Sequence[str], mask_BC: torch.Tensor | None = None
    ) -> Mapping[str, torch.Tensor]:
        """`x_BCD` of the one site."""
        assert mask_BC is not None
        self.passes += 1
        previous_BC = torch.cat([torch.zeros_like(ids_BC[:, :1]), ids_BC[:, :-1]], dim=1)
        return {sites[0]: self.table_VD[ids_BC] + self.before_VD[previous_BC]}

    def direction_logits(self, site: str, v_ND: torch.Tensor, fold_norm: bool = True) -> torch.Tensor | None:
        """v · out, or None."""
        return v_ND @ self.out_DV if self.linear_path else None

    def width_of(self, site: str) -> int:
        """D."""
        return self.table_VD.shape[1]

    def check_site(self, site: str) -> None:
        """Every site is known."""

    def check_tokens(self, tokens: TokenStore) -> None:
        """All tokens fit."""

    def as_parent(self) -> Parent:
        """A parent without files."""
        return Parent("model", "table", "nowhere")


def whole_number_dictionary(width: int, seed: int = 0) -> Dictionary:
    """Feature 0 never fires, feature 1 always does, the others with every density between."""
    generator = torch.Generator().manual_seed(seed)
    W_ND = torch.randint(-2, 3, (width, D_IN), generator=generator).float()
    b_N = torch.linspace(-30, 30, width).round()
    b_N[0], b_N[1] = -1000, 1000
    return ReluDictionary({"W_enc": W_ND, "b_enc": b_N, "W_dec": torch.randn(width, D_IN, generator=generator)})


def grid(path: Path, dictionaries: Sequence[Dictionary], site: str | None = SITE) -> Path:
    """A dictionaries artifact whose members differ in their seed."""

    def write(draft: Draft) -> dict[str, Any]:
        for number, dictionary in enumerate(dictionaries):
            save_dictionary(draft.file(member_file(number)), dictionary)
        alike = {"variant": "relu", "width": dictionaries[0].width, "l1": 0.1, "k": None, "lr": 1e-3}
        members = [{"member": number, **alike, "seed": number} for number in range(len(dictionaries))]
        return {"members": members, "d_in": dictionaries[0].d_in, "site": site}

    return make(path, "dictionaries", {"made": "by hand"}, {}, write).path

"""A small world whose neurons are independent Gaussians: what features read of them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from feature_worlds import SITE, TableModel, token_store

from monosemy.analysis.lab import Lab
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.models.language_model import LanguageModel

D_IN = 40
COPY, THREE, DENSE, DEAD, NEGATIVE, TAIL = range(6)


class GaussianModel(TableModel):
    """x of a token: Gaussian numbers, anew for every token with the three before it."""

    max_context: int | None = 64
    vocab_size = 258

    def __init__(self) -> None:
        super().__init__(d_in=D_IN)
        self.noise_KD = torch.randn(8**4, D_IN, generator=torch.Generator().manual_seed(5))

    def capture(
        self, ids_BC: torch.Tensor, sites: Sequence[str], mask_BC: torch.Tensor | None = None
    ) -> Mapping[str, torch.Tensor]:
        """`x_BCD` of the one site."""
        padded_BC = torch.nn.functional.pad(ids_BC, (3, 0))
        key_BC = torch.zeros_like(ids_BC)
        for back in range(4):
            key_BC = key_BC * 8 + padded_BC[:, back : back + ids_BC.shape[1]] % 8
        return {sites[0]: self.noise_KD[key_BC]}


def known_dictionary() -> Dictionary:
    """What each feature reads: one neuron, three neurons, all at random, never fires, one with a minus, one's tail."""
    W_ND = torch.zeros(6, D_IN)
    W_ND[COPY, 7] = 2
    W_ND[THREE, [1, 2, 3]] = 1
    W_ND[DENSE] = torch.randn(D_IN, generator=torch.Generator().manual_seed(6)) / D_IN**0.5
    W_ND[DEAD, 0] = 1
    W_ND[NEGATIVE, 11] = -1
    W_ND[TAIL, 20] = 1
    b_N = torch.tensor([0.5, 0, 0, -1000, 0, -2.0])
    return ReluDictionary({"W_enc": W_ND, "b_enc": b_N, "W_dec": W_ND.clone()})


def gaussian_lab(
    folder: Path, lengths: Sequence[int], dictionary: Dictionary | None = None, skip_bos: bool = False, **settings: Any
) -> Lab:
    """Documents of these numbers of letters in rows of 64 tokens."""
    store = token_store(folder, lengths, **({"context": 64} | settings))
    return Lab(cast(LanguageModel, GaussianModel()), dictionary or known_dictionary(), SITE, store, skip_bos)


def every_token(lab: Lab, rows: range | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`x_TD` of every token at which codes count, one row at a time, and `offset_T`."""
    found, offsets = [], []
    for row in rows or range(lab.tokens.n_rows):
        batch = lab.tokens.batch(torch.tensor([row]))
        x_CD = lab.model.capture(batch.ids_BC, [lab.site], batch.mask_BC)[lab.site][0]
        for place, token in enumerate(batch.ids_BC[0].tolist()):
            if not (lab.skip_bos and token == lab.tokens.edges.bos):
                found.append(x_CD[place].float())
                offsets.append(int(batch.offset_B[0]) + place)
    return torch.stack(found), torch.tensor(offsets)


def documents(store: TokenStore, offset_T: torch.Tensor) -> list[int]:
    """The document of each place, by looking through all starts."""
    starts = store.doc_starts_D.tolist()
    return [max(number for number, start in enumerate(starts) if start <= offset) for offset in offset_T.tolist()]

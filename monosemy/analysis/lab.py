"""One dictionary beside the model that it reads: the codes of any text, at once. Every analysis takes a `Lab`.

    lab = Lab.open("run/dictionaries", member=3, model="model/", tokens="run/tokens")
    lab.codes(lab.batch(["Once upon a time"]))       # codes_BCN

A prompt begins with the BOS token if, and only if, the documents of the token store do (SCIENCE.md §5: none is added
unless the model was trained with one). Where training left out BOS positions, every code there is 0.

Shapes: B rows, C = longest row, D = d_in, F features asked for, N width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import fitting_site
from monosemy.analysis.texts import TokenTexts
from monosemy.data.rows import checked
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, full_rate_products

Prompt = str | Sequence[int]
"""Text, to which BOS is added where the store's documents have it, or token ids, which are taken as they are."""


@dataclass(frozen=True)
class Batch:
    """Rows of token ids, padded with 0 on the right."""

    ids_BC: torch.Tensor
    mask_BC: torch.Tensor
    """True on real tokens."""

    @property
    def last_B(self) -> torch.Tensor:
        """The place of each row's last token."""
        return self.mask_BC.sum(dim=1) - 1


@dataclass(frozen=True)
class Lab:
    """A dictionary, the model and the site that it reads, and the corpus. All tensors are on the model's device."""

    model: LanguageModel
    dictionary: Dictionary
    site: str
    tokens: TokenStore
    skip_bos: bool = False
    """Codes at BOS count as 0: the dictionary never saw one."""
    target: str | None = None
    """The site that the features write to, where it is another one than they read (transcoders)."""
    index: FeatureIndex | None = field(default=None)
    """The dictionary's feature index, where one was made: maxima, densities, examples."""

    @classmethod
    def open(
        cls,
        dictionaries: str | Path | DictionaryStore,
        *,
        member: int,
        model: str | Path | LanguageModel,
        tokens: str | Path | TokenStore,
        index: str | Path | FeatureIndex | None = None,
        device: str = "auto",
    ) -> Lab:
        """Dictionary number `member` of a grid with its model and its corpus.

        Raises UsageError if there is no such member, or grid, model, tokens and index do not belong together.
        """
        grid, store = DictionaryStore.open(dictionaries), TokenStore.open(tokens)
        network = LanguageModel.load(model, device) if isinstance(model, str | Path) else model
        site = fitting_site(grid, network, store)
        opened = None if index is None else FeatureIndex.open(index)
        if opened is not None and opened.artifact.parent("dictionaries").id != grid.artifact.id:
            raise UsageError(f"{opened.artifact.path}: made of other dictionaries than {grid.artifact.path}")
        if opened is not None and opened.artifact.config["member"] != member:
            raise UsageError(
                f"`member` (={member}): {opened.artifact.path} holds the features of member "
                f"{opened.artifact.config['member']}; ask for that one, or index this one with `monosemy features`"
            )
        dictionary = grid.dictionary(member, network.device)
        return cls(network, dictionary, site, store, grid.skip_bos, grid.artifact.info.get("target_site"), opened)

    @property
    def written_site(self) -> str:
        """Where the features act: the site itself, or a transcoder's target."""
        return self.target or self.site

    @cached_property
    def texts(self) -> TokenTexts:
        """Token ids as text."""
        return TokenTexts(self.tokens.tokenizer)

    @property
    def vocab_size(self) -> int:
        """V of the tokenizer; the model's embedding may have more rows, which no text ever uses."""
        return min(self.tokens.vocab_size, self.model.vocab_size)

    def ids(self, prompt: Prompt) -> list[int]:
        """A prompt's token ids. Raises UsageError if it is empty, too long for the model, or holds unknown ids."""
        if isinstance(prompt, str):
            bos = self.tokens.edges.bos
            found = self.tokens.tokenizer.encode(prompt, add_special_tokens=False).ids
            ids = found if bos is None or not found else [bos, *found]
        else:
            ids = [int(token) for token in prompt]
        if not ids:
            raise UsageError(f"`prompt` (={prompt!r}) has no tokens; give some text")
        if (most := self.model.max_context) is not None and len(ids) > most:
            raise UsageError(f"`prompt` has {len(ids)} tokens, and the model takes at most {most}; shorten it")
        if not 0 <= min(ids) <= max(ids) < self.model.vocab_size:
            wide = self.model.vocab_size
            raise UsageError(f"`prompt` holds ids from {min(ids)} to {max(ids)}; the model knows 0 to {wide - 1}")
        return ids

    def batch(self, prompts: Sequence[Prompt]) -> Batch:
        """Prompts as rows of one batch."""
        return padded([self.ids(prompt) for prompt in prompts])

    def x(self, batch: Batch) -> torch.Tensor:
        """Activations at the site, `x_BCD` in fp32. Raises UsageError where the model gives NaN or Inf."""
        with full_rate_products(self.model.device):
            x_BCD = self.model.capture(batch.ids_BC, [self.site], batch.mask_BC)[self.site].float()
        checked(x_BCD[batch.mask_BC.to(x_BCD.device)])
        return x_BCD

    def codes(self, batch: Batch, features: Sequence[int] | None = None) -> torch.Tensor:
        """`codes_BCF` of some features (all: `codes_BCN`); 0 on padding."""
        x_BCD = self.x(batch)
        mask_BC = self.counts(batch).to(x_BCD.device)
        codes_XF = self.encode(x_BCD[mask_BC], features)
        codes_BCF = codes_XF.new_zeros(*mask_BC.shape, codes_XF.shape[1])
        codes_BCF[mask_BC] = codes_XF
        return codes_BCF

    def last_codes(self, batch: Batch, features: Sequence[int] | None = None) -> torch.Tensor:
        """f(tokens)[last]: `codes_BF` at the last token of each row."""
        x_BCD = self.x(batch)
        row_B, last_B = torch.arange(len(x_BCD)), batch.last_B
        codes_BF = self.encode(x_BCD[row_B, last_B.to(x_BCD.device)], features)
        return codes_BF * self.counts(batch)[row_B, last_B].to(codes_BF.device)[:, None]

    def encode(self, x_XD: torch.Tensor, features: Sequence[int] | None = None) -> torch.Tensor:
        """Codes of activations, `codes_XF`."""
        with torch.inference_mode(), full_rate_products(x_XD.device):
            if features is None:
                return self.dictionary.encode(x_XD) + 0.0  # no −0, which would be shown as such
            numbers = [self.checked(feature) for feature in features]
            chosen_F = torch.tensor(numbers, dtype=torch.int64, device=x_XD.device)
            return self.dictionary.encode_features(x_XD, chosen_F) + 0.0

    def counts(self, batch: Batch) -> torch.Tensor:
        """Where codes count, `mask_BC`: on real tokens, but for a BOS that the dictionary never saw."""
        if not self.skip_bos or self.tokens.edges.bos is None:
            return batch.mask_BC
        return batch.mask_BC & (batch.ids_BC != self.tokens.edges.bos)

    def checked(self, feature: int) -> int:
        """The feature's number. Raises UsageError if there is none of that number."""
        if not 0 <= feature < self.dictionary.width:
            raise UsageError(f"`feature` (={feature}) must be from 0 to {self.dictionary.width - 1}")
        return feature

    def maximum(self, feature: int) -> float:
        """The feature's largest code over the indexed corpus. Raises UsageError without an index, or for a dead one."""
        self.checked(feature)
        if self.index is None:
            raise UsageError("a feature's maximum needs its index: run `monosemy features`, open the lab with index=")
        largest = self.index.summary(feature).max
        if largest <= 0:
            raise UsageError(f"`feature` (={feature}) never fires in the indexed corpus, so it has no maximum")
        return largest


def padded(rows: Sequence[Sequence[int]]) -> Batch:
    """Rows of ids of any lengths as one batch."""
    longest = max(map(len, rows))
    lengths_B = torch.tensor([len(row) for row in rows])
    ids_BC = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return Batch(ids_BC, torch.arange(longest) < lengths_B[:, None])

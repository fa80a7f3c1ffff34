"""One pass over a corpus: the model runs up to the site, codes are made once, every collector reads them.

The model takes `batch_rows` rows at a time, codes are made for a few of these rows at a time, so memory is bounded by
one block of codes (one row's, where that is more) beside what the collectors keep.

Shapes: B rows of a batch, C = context, D = d_in, X tokens of a block, N features, E examples, W = window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from monosemy.analysis.firings import Block, Window
from monosemy.data.rows import checked
from monosemy.data.tokens import TokenBatch, TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.runtime import Progress, full_rate_products

# Codes of a block and tokens of a forward pass, by kind of device. On the CPU 16 MB: glibc takes tensors of 32 MB and
# more from the kernel anew each time, and touching the new pages costs a quarter of the encode product.
CODES_AT_ONCE = {"cpu": 2**22, "cuda": 2**25}
TOKENS_AT_ONCE = {"cpu": 2**13, "cuda": 2**16}


class ReadsActivations(Protocol):
    """A model whose activations can be read."""

    device: torch.device

    def capture(
        self, ids_BC: torch.Tensor, sites: Sequence[str], mask_BC: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """`x_BCD` of each site."""
        ...


class Collector(Protocol):
    """Takes what it needs from each block."""

    def add(self, block: Block) -> None:
        """Read one block; blocks come in the order of the tokens."""
        ...


def rows_within(store: TokenStore, max_tokens: int | None) -> range:
    """The first rows of the store that together hold at most `max_tokens` tokens; at least one row."""
    if max_tokens is None:
        return range(store.n_rows)
    return range(max(1, int((store.row_lengths_R.cumsum(0) <= max_tokens).sum())))


def tokens_around(store: TokenStore, offset_BE: torch.Tensor, window: Window) -> torch.Tensor:
    """The tokens of the window around each place, −1 outside its row and where there is no place."""
    row_BE = (torch.searchsorted(store.row_starts_R, offset_BE, right=True) - 1).clamp_min_(0)
    first_BE1 = store.row_starts_R[row_BE][..., None]
    end_BE1 = first_BE1 + store.row_lengths_R[row_BE][..., None]
    place_BEW = offset_BE[..., None] + window.steps("cpu")
    inside_BEW = (offset_BE[..., None] >= 0) & (place_BEW >= first_BE1) & (place_BEW < end_BE1)
    return store.tokens_T[torch.where(inside_BEW, place_BEW, 0)].int().masked_fill_(~inside_BEW, -1)


def scan(
    model: ReadsActivations,
    dictionary: Dictionary,
    store: TokenStore,
    site: str,
    rows: range,
    collectors: Sequence[Collector],
    batch_rows: int | None = None,
    skip: int | None = None,
) -> None:
    """Show the codes of `rows` to the collectors. `dictionary` is on the model's device.

    The codes of token `skip` (a BOS that the dictionary never saw) are set to 0: no feature fires there.

    Raises UsageError where the model gives NaN or Inf.
    """
    batch_rows = batch_rows or max(1, TOKENS_AT_ONCE[_kind(model.device)] // store.context)
    total = store.count_tokens(rows)
    with torch.no_grad(), full_rate_products(model.device), Progress("features", total, unit="tokens") as bar:
        for batch in store.batches(batch_rows, rows):
            x_BCD = model.capture(batch.ids_BC.to(model.device), [site], batch.mask_BC.to(model.device))[site]
            for block in _blocks(x_BCD, batch, dictionary, skip):
                for collector in collectors:
                    collector.add(block)
                bar.advance(len(block.offset_X))


def _blocks(x_BCD: torch.Tensor, batch: TokenBatch, dictionary: Dictionary, skip: int | None) -> Iterator[Block]:
    device = x_BCD.device
    place_BC = torch.arange(batch.mask_BC.shape[1]).expand_as(batch.mask_BC)
    length_BC = batch.mask_BC.sum(dim=1, keepdim=True).expand_as(batch.mask_BC)
    offset_BC = batch.offset_B[:, None] + place_BC
    rows_at_once = max(1, CODES_AT_ONCE[_kind(device)] // (dictionary.width * place_BC.shape[1]))
    for first in range(0, len(x_BCD), rows_at_once):
        rows = slice(first, first + rows_at_once)
        mask_BC = batch.mask_BC[rows]
        x_XD = checked(x_BCD[rows][mask_BC.to(device)].float())
        offset_X = offset_BC[rows][mask_BC]
        codes_XN = dictionary.encode(x_XD).float()
        if skip is not None:
            codes_XN = codes_XN.masked_fill((batch.ids_BC[rows][mask_BC] == skip).to(device)[:, None], 0)
        yield Block.of(
            codes_XN,
            offset_X.to(device),
            place_BC[rows][mask_BC].to(device),
            length_BC[rows][mask_BC].to(device),
        )


def _kind(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "cpu"

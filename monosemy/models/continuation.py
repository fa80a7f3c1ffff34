"""The last activation of very many variants of one prompt that differ in one token, without doing shared work twice.

A row is `before + [token] + after`; only the site's activation at the last position is wanted. Three savings:

1. What stands before the token is run once; its keys and values go into every row (transformers' own cache).
2. Of the positions between, later ones need keys and values alone: their pass ends at the last attention before the
   site, as soon as that has them. Only the last position goes on to the site.
3. In the first block, positions behind the token still have equal inputs in all rows until attention has mixed them,
   so its linear maps (and its MLP, where that reads the block's input) are computed once for those. That inputs are
   equal is looked up in the inputs themselves.

The result is that of a full forward pass up to rounding. It is compared with one on two rows; where a model has no
cache, or keeps another (encoders; a few architectures), rows run in full.
Left out: sharing keys and values between rows without copying them, which needs attention kernels of our own.

Shapes: V variants, B rows of a batch, C = tokens of a row, D = width of the site, U shared positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from monosemy.models.hooks import Stop
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import full_rate_products

# Tokens of a batch, those before the variant included, by kind of device: what bounds memory.
TOKENS_AT_ONCE = {"cpu": 2**12, "cuda": 2**16}
# Relative difference from a full forward pass up to which results count as equal: rounding alone.
ROUNDING = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 3e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Slot:
    """A place for one token in a prompt."""

    before: Sequence[int]
    after: Sequence[int]

    @property
    def length(self) -> int:
        """C, the tokens of a row."""
        return len(self.before) + 1 + len(self.after)

    def rows(self, ids_B: Tensor) -> Tensor:
        """`ids_BC`: one row for each token in the slot."""
        before, after = (torch.tensor(ids, dtype=ids_B.dtype) for ids in (self.before, self.after))
        count = len(ids_B)
        return torch.cat([before.expand(count, -1), ids_B[:, None], after.expand(count, -1)], dim=1)


def last_activations(model: LanguageModel, site: str, slot: Slot, ids_V: Tensor) -> Iterator[Tensor]:
    """The site's activation at the last position with each token of `ids_V` in the slot: `x_BD`, batch after batch.

    Rows are as long as the model takes, or shorter. Memory is bounded by one batch.
    """
    if len(ids_V) == 0:
        return
    model.check_site(site)
    reader = _reader(model, site, slot, ids_V)
    kind = "cuda" if model.device.type == "cuda" else "cpu"
    for ids_B in torch.split(ids_V, max(1, TOKENS_AT_ONCE[kind] // slot.length)):
        with torch.inference_mode(), full_rate_products(model.device):
            x_BD = _in_full(model, site, slot, ids_B) if reader is None else reader.read(ids_B)
        yield x_BD


def _in_full(model: LanguageModel, site: str, slot: Slot, ids_B: Tensor) -> Tensor:
    return model.capture(slot.rows(ids_B), [site])[site][:, -1]


@torch.inference_mode()
def _reader(model: LanguageModel, site: str, slot: Slot, ids_V: Tensor) -> _Reader | None:
    """The short way, if there is one and it gives what the long one gives; else None."""
    if slot.length == 1 or len(ids_V) == 1 or not _takes_cache(model):
        return None
    ids_2 = ids_V[[0, -1]]
    probe = _cache()
    model.capture(slot.rows(ids_2[:1]), [site], past=probe)
    if not probe.layers or any(layer.keys is None for layer in probe.layers):
        return None  # nothing before the site looks at other positions, or this model keeps another cache
    reader = _Reader(model, site, slot, depth=len(probe.layers))
    short_2D, long_2D = reader.read(ids_2).float(), _in_full(model, site, slot, ids_2).float()
    error = (short_2D - long_2D).norm() / long_2D.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return reader if bool(error <= ROUNDING[model.dtype]) else None


class _Reader:
    """Rows through the cache. `depth`: how many blocks attend before the site is reached."""

    def __init__(self, model: LanguageModel, site: str, slot: Slot, depth: int) -> None:
        self.model, self.site, self.slot, self.depth = model, site, slot, depth
        self.parts = [] if site.startswith("layers.0.") else model.pointwise(0)  # the site would be read inside them
        self.before = _cache()
        if slot.before:
            self._fill(torch.tensor([list(slot.before)]), self.before)

    def read(self, ids_B: Tensor) -> Tensor:
        """`x_BD` at the last position of the rows with these tokens."""
        rows_BC = self.slot.rows(ids_B)[:, len(self.slot.before) :]
        past = self._past(len(ids_B))
        with _equal_rows_once(self.parts):
            if rows_BC.shape[1] > 1:
                self._fill(rows_BC[:, :-1], past)
            return self.model.capture(rows_BC[:, -1:], [self.site], past=past)[self.site][:, 0]

    def _fill(self, ids_BC: Tensor, past: Any) -> None:
        """Add the keys and values of these tokens, and stop there."""
        deepest, update = self.depth - 1, past.update

        def stopping(keys: Tensor, values: Tensor, layer: int, *args: Any, **kwargs: Any) -> Any:
            updated = update(keys, values, layer, *args, **kwargs)
            if layer == deepest:
                raise Stop
            return updated

        past.update = stopping
        self.model.capture(ids_BC, [self.site], past=past)  # ends, without an error, at Stop
        del past.update  # the class's own again

    def _past(self, count: int) -> Any:
        """A cache of its own for each batch, since passes write to it; what stands before is not copied into it."""
        past = _cache()
        for number, layer in enumerate(self.before.layers):
            past.update(layer.keys, layer.values, number)
            own = past.layers[number]
            own.keys, own.values = (each.expand(count, -1, -1, -1) for each in (own.keys, own.values))
        return past


def _takes_cache(model: LanguageModel) -> bool:
    known = signature(model.model.forward).parameters
    return model.is_causal and "past_key_values" in known and "use_cache" in known


def _cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


@contextmanager
def _equal_rows_once(parts: Sequence[nn.Module]) -> Iterator[None]:
    """While this is open, `parts` compute positions at which all rows are equal for one row only."""
    with ExitStack() as hooks:
        for part in parts:
            once = _Once()
            hooks.callback(part.register_forward_pre_hook(once.before).remove)
            hooks.callback(part.register_forward_hook(once.after).remove)
        yield


class _Once:
    """Hooks around one part: it takes `[1, U + B·(C−U), D]`, shared positions first, instead of `[B, C, D]`."""

    def __init__(self) -> None:
        self.shared_C: Tensor | None = None

    def before(self, part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Put positions whose input is equal in all rows there once."""
        self.shared_C = None
        if not args or args[0].ndim != 3 or len(args[0]) < 2:
            return None
        x_BCD = args[0]
        if not bool((x_BCD[0] == x_BCD[1]).all(dim=-1).any()):  # two rows are soon compared
            return None
        shared_C = (x_BCD == x_BCD[:1]).all(dim=-1).all(dim=0)
        if not bool(shared_C.any()):
            return None
        self.shared_C, self.rows = shared_C, len(x_BCD)
        flat_XD = torch.cat([x_BCD[0, shared_C], x_BCD[:, ~shared_C].flatten(0, 1)])
        return (flat_XD[None], *args[1:])

    def after(self, part: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Give every row its positions back."""
        shared_C = self.shared_C
        if shared_C is None:
            return None
        y_XD, n_shared = output[0], int(shared_C.sum())
        y_BCD = y_XD.new_empty(self.rows, len(shared_C), y_XD.shape[1])
        y_BCD[:, shared_C] = y_XD[:n_shared]
        y_BCD[:, ~shared_C] = y_XD[n_shared:].reshape(self.rows, len(shared_C) - n_shared, y_XD.shape[1])
        return y_BCD

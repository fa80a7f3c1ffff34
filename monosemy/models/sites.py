"""Sites: one name for each place inside a transformer, whatever its architecture, found by structure.

    embed · layers.{i}.resid_pre|attn_out|resid_mid|mlp_in|mlp_act|mlp_out|resid_post · final

Instead of a class a model, two forward passes over four tokens are traced. The blocks are the list of modules as long
as the config says; a block's attention is the child called so; the linear maps outside it are the MLP: what the first
one takes is `mlp_in`, what the last one takes `mlp_act`, what that one gives `mlp_out`. `resid_mid` is the tensor that
the MLP's skip connection carries. The second pass, in which every MLP gives zero, tells which one that is:

- the input of the norm before the MLP (Llama, GPT-2, Gemma, OPT …): the block then gives that input unchanged;
- the output of that norm in post-norm blocks (BERT), where `resid_mid` and `mlp_in` are one tensor: replacing
  `resid_mid` changes MLP and skip, replacing `mlp_in` the MLP alone;
- none where attention and MLP read the same stream (GPT-NeoX, Phi): such a model has no `resid_mid`.

What cannot be read so raises an error that says which module paths to give (`ModulePaths`).
Left out: encoder–decoders, and mixtures of experts, whose MLP sites are not one activation a token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from monosemy.models.blocks import BlockSites, ModulePaths, module_at, norm_giving, unreadable
from monosemy.models.hooks import Branch, Call, Place, last_call, same, trace
from monosemy.runtime import UsageError

IN_BLOCK = ("resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_act", "mlp_out", "resid_post")


@dataclass(frozen=True)
class Sites:
    """What was found in a model. `places` and `widths` by site, in the order of the names."""

    places: dict[str, Place]
    widths: dict[str, int]
    n_layers: int
    branch_norms: dict[str, nn.Module]
    """Site → the norm between it and the residual stream, where there is one (Gemma 2 and 3)."""
    branches: dict[int, Branch]
    """Layer → its MLP, where that reads the block's input."""
    final_norm: nn.Module | None
    direct: bool
    """What is added to the residual stream reaches the unembedding through skips and the final norm alone."""
    has_unembedding: bool

    def shortcut(self, sites: Sequence[str]) -> Branch | None:
        """The MLP that is all to compute of the last block that holds any of `sites`, if that can be so."""
        if not sites or "final" in sites:
            return None
        last = max(_layer(site) for site in sites)
        there = {site.rpartition(".")[2] for site in sites if _layer(site) == last}
        return self.branches.get(last) if there <= {"resid_pre", "mlp_in", "mlp_act", "mlp_out"} else None

    def check(self, site: str) -> None:
        """Raises UsageError if there is no such site, saying which there are."""
        if site in self.places:
            return
        named = re.fullmatch(r"layers\.(\d+)\.(\w+)", site)
        if named and int(named[1]) >= self.n_layers:
            raise UsageError(f"site (={site!r}): the model has layers 0 to {self.n_layers - 1}; choose one of those")
        here = [name for name in IN_BLOCK if any(f"layers.{i}.{name}" in self.places for i in range(self.n_layers))]
        why = ", as its attention and MLP read the same stream" if site.endswith(".resid_mid") else ""
        raise UsageError(
            f"site (={site!r}): this model has none of that name{why}; it has embed, "
            f"layers.{{0..{self.n_layers - 1}}}.{{{','.join(here)}}} and final"
        )


def find_sites(model: nn.Module, n_layers: int, paths: ModulePaths) -> Sites:
    """Find every site of a Hugging Face model.

    Raises UsageError, saying which of `paths` to give, if the structure cannot be read.
    """
    embed = module_at(model, paths.embed) or _own(model, "get_input_embeddings")
    if embed is None:
        raise unreadable(model, "the token embedding", "embed")
    unembed = module_at(model, paths.unembed) if paths.unembed is not None else _own(model, "get_output_embeddings")
    first = trace(model, embed)
    blocks = [BlockSites(block, first, paths) for block in _blocks(model, n_layers, paths.layers)]
    second = trace(model, embed, silent=[block.down for block in blocks if block.down is not None])
    places = {"embed": Place((embed,), "out")}
    branch_norms: dict[str, nn.Module] = {}
    for i, block in enumerate(blocks):
        found = block.places() | block.mid(second)
        places |= {f"layers.{i}.{name}": found[name] for name in IN_BLOCK if name in found}
        branch_norms |= {f"layers.{i}.{name}": norm for name, norm in block.branch_norms().items()}
    places["final"] = _final_place(model, first, unembed)
    final = _tensor_at(first, places["final"])
    final_norm = _norm_before(first, final) if paths.final_norm is None else module_at(model, paths.final_norm)
    stream = final if final_norm is None else last_call(first, final_norm).taken
    direct = unembed is not None and same(stream, last_call(first, blocks[-1].block).given)
    return Sites(
        places=places,
        widths={name: int(_tensor_at(first, place).shape[-1]) for name, place in places.items()},
        n_layers=len(blocks),
        branch_norms=branch_norms,
        branches={i: branch for i, block in enumerate(blocks) if (branch := block.branch()) is not None},
        final_norm=final_norm,
        direct=direct and not any(block.post_norm for block in blocks),
        has_unembedding=unembed is not None,
    )


def _layer(site: str) -> int:
    return int(site.split(".")[1]) if "." in site else -1


def _blocks(model: nn.Module, n_layers: int, path: str | None) -> list[nn.Module]:
    if path is not None:
        told = module_at(model, path)
        if not isinstance(told, nn.ModuleList | nn.Sequential):
            raise UsageError(f"`paths.layers` (={path!r}) is a {type(told).__name__}; name the list of blocks")
        return list(told)
    lists = [list(m) for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    alike = [blocks for blocks in lists if len({type(block) for block in blocks}) == 1]
    if not alike:
        raise unreadable(model, f"the list of {n_layers} blocks", "layers")
    return max(alike, key=lambda blocks: sum(p.numel() for block in blocks for p in block.parameters()))


def _final_place(model: nn.Module, calls: Sequence[Call], unembed: nn.Module | None) -> Place:
    """What the unembedding takes; without one, what gives the last hidden state."""
    if unembed is not None:
        return Place((unembed,), "in")
    whole = last_call(calls, model).given
    givers = [call for call in calls if call.module is not model and same(call.given, whole)]
    if not givers:
        raise unreadable(model, "what gives the last hidden state", "unembed")
    return Place((givers[0].module,), "out")


def _norm_before(calls: Sequence[Call], final: Tensor) -> nn.Module | None:
    giver = norm_giving(calls, final)
    return None if giver is None else giver.module


def _tensor_at(calls: Sequence[Call], place: Place) -> Tensor:
    call = last_call(calls, place.modules[0])
    return call.taken if place.side == "in" else call.given


def _own(model: Any, getter: str) -> nn.Module | None:
    """The module that transformers itself names, if it does for this class."""
    try:
        found = getattr(model, getter)()
    except NotImplementedError:  # transformers' way of saying that this class names none; the trace finds it
        return None
    return found if isinstance(found, nn.Module) else None

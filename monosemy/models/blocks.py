"""One block of a transformer, read from its trace: attention, MLP, norms, and which tensor the skips carry.

See `sites.py` for the definitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monosemy.models.hooks import Branch, Call, Place, last_call, rows_of, same
from monosemy.runtime import UsageError


@dataclass(frozen=True)
class ModulePaths:
    """Where to find what structure does not tell; None: found by structure, "": the model has none.

    `layers`, `embed`, `final_norm` and `unembed` are paths from the model, the others from a block.
    """

    layers: str | None = None
    """The list of blocks."""
    attn_out: str | None = None
    """The module whose output attention adds to the stream."""
    mlp_in: str | tuple[str, ...] | None = None
    """The first linear map of the MLP; several where gate and up are apart."""
    mlp_down: str | None = None
    """The last linear map of the MLP."""
    mid_norm: str | None = None
    """The norm before the MLP, whose input the MLP's skip connection carries."""
    embed: str | None = None
    """The token embedding."""
    final_norm: str | None = None
    """The norm before the unembedding."""
    unembed: str | None = None
    """The map to the vocabulary."""


class BlockSites:
    """One block and what its trace says: attention, MLP, norms."""

    def __init__(self, block: nn.Module, calls: Sequence[Call], paths: ModulePaths) -> None:
        self.block, self.paths = block, paths
        inside = {id(module) for module in block.modules()}
        self.calls = [call for call in calls if id(call.module) in inside]
        self.post_norm = False
        linears = _unique(call.module for call in self.calls if is_linear(call.module))
        attention = {id(module) for root in _attention(block) for module in root.modules()}
        if not attention and None in (paths.attn_out, paths.mlp_in, paths.mlp_down):
            raise unreadable(block, "which part is attention", "attn_out, mlp_in, mlp_down")
        self.attn_out = self._told(paths.attn_out, [m for m in linears if id(m) in attention][-1:], "attn_out")
        mlp = [module for module in linears if id(module) not in attention]
        self.down = self._told(paths.mlp_down, mlp[-1:] if len(mlp) > 1 else [], "mlp_down")
        self.ups = self._ups(mlp[:-1])

    def places(self) -> dict[str, Place]:
        """The block's sites but `resid_mid`."""
        places = {"resid_pre": Place((self.block,), "in"), "resid_post": Place((self.block,), "out")}
        if self.attn_out is not None:
            places["attn_out"] = Place((self.attn_out,), "out")
        if self.ups:
            places["mlp_in"] = Place(self.ups, "in")
        if self.down is not None:
            places |= {"mlp_act": Place((self.down,), "in"), "mlp_out": Place((self.down,), "out")}
        return places

    def mid(self, silent: Sequence[Call]) -> dict[str, Place]:
        """`resid_mid`, if the block has it, from a trace in which the MLPs give zero."""
        if self.paths.mid_norm is not None:
            norm = module_at(self.block, self.paths.mid_norm)
            return {} if norm is None else {"resid_mid": Place((norm,), "in", shared=True)}
        if self.down is None or not self.ups:
            return {}
        whole, mlp_in = last_call(silent, self.block), last_call(silent, self.ups[0]).taken
        norm_call = norm_giving(self._inside(silent), mlp_in)
        stream = mlp_in if norm_call is None else norm_call.taken
        if same(stream, whole.taken):
            return {}
        if _close(whole.given, stream):
            module = self.ups[0] if norm_call is None else norm_call.module
            return {"resid_mid": Place((module,), "in", shared=True)}
        after = norm_giving(self._inside(silent), whole.given)
        if after is not None and norm_call is not None and _close(after.taken, mlp_in):
            self.post_norm = True
            return {"resid_mid": Place((norm_call.module,), "out")}
        raise unreadable(self.block, "the MLP, or what its skip connection carries", "mlp_in, mlp_down, mid_norm")

    def branch(self) -> Branch | None:
        """The MLP alone, if it is one part of the block and reads the block's input."""
        if self.down is None or not self.ups:
            return None
        block_in, mlp_in = last_call(self.calls, self.block).taken, last_call(self.calls, self.ups[0]).taken
        norm_call = norm_giving(self._inside(self.calls), mlp_in)
        parts = {id(self.down), *map(id, self.ups)}
        wholes = [c for c in self._inside(self.calls) if parts <= set(map(id, c.module.modules()))]
        if not wholes or not same(wholes[0].taken, mlp_in):
            return None
        if not same(mlp_in if norm_call is None else norm_call.taken, block_in):
            return None
        return Branch(self.block, None if norm_call is None else norm_call.module, wholes[0].module)

    def branch_norms(self) -> dict[str, nn.Module]:
        """The norms that take what attention or the MLP gives."""
        found: dict[str, nn.Module] = {}
        for name, module in (("attn_out", self.attn_out), ("mlp_out", self.down)):
            given = None if module is None else last_call(self.calls, module).given
            takers = [c.module for c in self.calls if given is not None and same(c.taken, given) and _is_norm_like(c)]
            if takers:
                found[name] = takers[0]
        return found

    def _inside(self, calls: Sequence[Call]) -> list[Call]:
        inside = {id(call.module) for call in self.calls} - {id(self.block)}
        return [call for call in calls if id(call.module) in inside]

    def _ups(self, mlp: list[nn.Module]) -> tuple[nn.Module, ...]:
        """The first linear map of the MLP, and the others that take the same tensor."""
        told = self.paths.mlp_in
        if isinstance(told, tuple):
            return tuple(filter(None, (module_at(self.block, path) for path in told)))
        first = self._told(told, mlp[:1], "mlp_in")
        if first is None or told is not None:
            return () if first is None else (first,)
        taken = last_call(self.calls, first).taken
        return tuple(module for module in mlp if same(last_call(self.calls, module).taken, taken))

    def _told(self, path: str | None, found: list[nn.Module], field: str) -> nn.Module | None:
        """The module at `path`, or else the one found, which must see every token once."""
        if path is not None:
            return module_at(self.block, path)
        tokens = rows_of(last_call(self.calls, self.block).given)
        if not found or rows_of(last_call(self.calls, found[0]).given) != tokens:
            raise unreadable(self.block, f"`{field}`", "mlp_in, mlp_down" if field.startswith("mlp") else field)
        return found[0]


def is_linear(module: nn.Module) -> bool:
    """A linear map: torch's, or GPT-2's, whose weight lies the other way round."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def module_at(parent: nn.Module, path: str | None) -> nn.Module | None:
    """The module at a told path; None for "" and None. Raises UsageError if there is no such module."""
    if not path:
        return None
    try:
        return parent.get_submodule(path)
    except AttributeError as error:
        children = ", ".join(name for name, _ in parent.named_children())
        raise UsageError(f"`paths` names {path!r}, which {type(parent).__name__} lacks; it has {children}") from error


def unreadable(module: nn.Module, what: str, fields: str) -> UsageError:
    """The error that says what structure did not tell, and which `fields` of ModulePaths would."""
    children = ", ".join(f"{name} ({type(child).__name__})" for name, child in module.named_children())
    return UsageError(
        f"{type(module).__name__} (children: {children}): cannot tell {what}; give the module paths with "
        f"paths=ModulePaths({', '.join(f'{field}=…' for field in fields.split(', '))}), or '' for what it has not"
    )


def norm_giving(calls: Sequence[Call], tensor: Tensor) -> Call | None:
    """The norm that gave this tensor: it took another one of the same shape, and is no linear map."""
    givers = [call for call in calls if same(call.given, tensor) and _is_norm_like(call)]
    return givers[-1] if givers else None


def _is_norm_like(call: Call) -> bool:
    leaf = next(call.module.children(), None) is None
    changed = call.given.shape == call.taken.shape and not same(call.given, call.taken)
    return leaf and changed and not is_linear(call.module)


def _attention(block: nn.Module) -> list[nn.Module]:
    """The block's children that are called attention and hold linear maps (a norm after attention does not)."""
    named = [m for name, m in block.named_children() if "att" in name.lower() or "att" in type(m).__name__.lower()]
    return [module for module in named if any(is_linear(inner) for inner in module.modules())]


def _close(a: Tensor, b: Tensor) -> bool:
    return a.numel() == b.numel() and torch.allclose(a.flatten(), b.flatten(), rtol=1e-4, atol=1e-6)


def _unique(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list(dict.fromkeys(modules))

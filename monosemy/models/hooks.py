"""Hooks: watching, stopping and changing a forward pass.

`trace` records what every part took and gave, to find out how a model is built; `hooked` reads sites and replaces
them while the model runs. Hooks never outlive the pass they were made for.

Shapes: B rows, C = context, D = width of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monosemy.runtime import UsageError

Edit = Callable[[Tensor], Tensor]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """A module and the first tensor that it took and gave."""

    module: nn.Module
    taken: Tensor
    given: Tensor


@dataclass(frozen=True)
class Place:
    """Where a site is read and replaced: what `modules` take ("in") or give ("out").

    Several modules take the same tensor (gate and up). `shared`: a skip connection holds the tensor as well, so new
    values are written into it.
    """

    modules: tuple[nn.Module, ...]
    side: Literal["in", "out"]
    shared: bool = False


class Stop(Exception):
    """Raised by a hook when everything wanted has been read: what lies behind is never computed."""


def trace(model: nn.Module, embed: nn.Module, silent: Sequence[nn.Module] = ()) -> list[Call]:
    """Every call of a part in a forward pass over four tokens, in the order they ended; `silent` parts give zeros.

    The tensors are kept, so two of them are one exactly if they lie at one address.
    """
    calls: list[Call] = []

    def record(module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> None:
        taken, given = _first_tensor((*args, *kwargs.values())), _first_tensor(output)
        if taken is not None and given is not None:
            calls.append(Call(module, taken, given))

    def silence(module: nn.Module, args: Args, output: Tensor) -> Tensor:
        del module, args
        return torch.zeros_like(output)

    weight = next(embed.parameters())
    ids_BC = (torch.arange(4, device=weight.device) % weight.shape[0])[None]
    with ExitStack() as hooks, torch.inference_mode():
        for module in silent:
            hooks.callback(module.register_forward_hook(silence).remove)
        for module in model.modules():
            if not isinstance(module, nn.ModuleList):
                hooks.callback(module.register_forward_hook(record, with_kwargs=True).remove)
        model(input_ids=ids_BC, **without_cache(model))
    return calls


def without_cache(model: nn.Module) -> dict[str, bool]:
    """The argument that keeps a model from storing keys and values, for models that know it."""
    known = signature(model.forward).parameters.values()
    takes = any(parameter.name == "use_cache" or parameter.kind == Parameter.VAR_KEYWORD for parameter in known)
    return {"use_cache": False} if takes else {}


def last_call(calls: Sequence[Call], module: nn.Module) -> Call:
    """The module's last call. Raises UsageError if it has none: a path that names a part which never ran."""
    for call in reversed(calls):
        if call.module is module:
            return call
    raise UsageError(f"a {type(module).__name__} that should be traced never ran on tokens; check `paths`")


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one (or views of one), as long as both are kept."""
    return a.data_ptr() == b.data_ptr() and a.numel() == b.numel()


def rows_of(x: Tensor) -> int:
    """How many vectors it holds."""
    return x.numel() // x.shape[-1]


@dataclass(frozen=True)
class Branch:
    """An MLP that reads the block's own input: `mlp(norm(x))` needs no attention (`norm` None: it has none)."""

    block: nn.Module
    norm: nn.Module | None
    mlp: nn.Module

    def run(self, block: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """As a hook before the block: run this branch alone; the reader of the last site ends the pass in it."""
        del block
        x = _first_tensor((*args, *kwargs.values()))
        if x is not None:
            self.mlp(x if self.norm is None else self.norm(x))


@contextmanager
def hooked(
    shape_BC: torch.Size,
    reads: Mapping[str, Place],
    edits: Sequence[tuple[str, Place, Edit]] = (),
    stop: bool = False,
    branch: Branch | None = None,
) -> Iterator[dict[str, Tensor]]:
    """While this is open, forward passes fill the dict with the sites in `reads` and go on with the edited ones.

    With `stop` the pass ends, without an error, as soon as the last of `reads` is there; with `branch` that one lies in
    it, and the rest of its block is not computed.
    """
    found: dict[str, Tensor] = {}

    def reader(name: str) -> Edit:
        def read(x_BCD: Tensor) -> Tensor:
            complete = len(found.keys() | {name}) == len(reads)
            found[name] = x_BCD.detach() if stop and complete else x_BCD.detach().clone()
            if stop and complete:
                raise Stop
            return x_BCD

        return read

    with ExitStack() as hooks:
        for name, place, edit in edits:
            for handle in _attach(name, place, edit, shape_BC):
                hooks.callback(handle.remove)
        for name, place in reads.items():
            for handle in _attach(name, place, reader(name), shape_BC):
                hooks.callback(handle.remove)
        if branch is not None:
            hooks.callback(branch.block.register_forward_pre_hook(branch.run, with_kwargs=True).remove)
        try:
            yield found
        except Stop:
            return


def _attach(name: str, place: Place, edit: Edit, shape_BC: torch.Size) -> list[Any]:
    """Put the edit where the place is; it runs once, at the first of its modules."""
    edited: list[Tensor] = []

    def apply(x: Tensor) -> Tensor:
        if not edited:
            edited.append(_edited(name, x, edit, shape_BC))
            if place.shared and edited[0] is not x:
                x.copy_(edited[0])
        return x if place.shared else edited[0]

    def before(module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        del module
        return _with_first(args, kwargs, apply)

    def after(module: nn.Module, args: Args, output: Any) -> Any:
        del module, args
        return (apply(output[0]), *output[1:]) if isinstance(output, tuple) else apply(output)

    if place.side == "in":
        return [module.register_forward_pre_hook(before, with_kwargs=True) for module in place.modules]
    return [module.register_forward_hook(after) for module in place.modules]


def _edited(name: str, x: Tensor, edit: Edit, shape_BC: torch.Size) -> Tensor:
    x_BCD = x.reshape(*shape_BC, x.shape[-1])  # some blocks flatten rows and positions
    new_BCD = edit(x_BCD)
    if new_BCD.shape != x_BCD.shape:
        raise UsageError(
            f"the edit of {name} gave shape {list(new_BCD.shape)}; it must keep the activation's {list(x_BCD.shape)}"
        )
    return x if new_BCD is x_BCD else new_BCD.to(x).reshape(x.shape)


def _with_first(args: Args, kwargs: Kwargs, change: Edit) -> tuple[Args, Kwargs]:
    """The arguments with their first tensor changed."""
    for i, value in enumerate(args):
        if isinstance(value, Tensor):
            return (*args[:i], change(value), *args[i + 1 :]), kwargs
    for key, value in kwargs.items():
        if isinstance(value, Tensor):
            return args, {**kwargs, key: change(value)}
    raise UsageError("a part of the model takes no tensor, so it cannot be a site; check `paths`")


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):  # a transformers output is an ordered one
        value = tuple(value.values())
    for item in value if isinstance(value, tuple | list) else ():
        if isinstance(item, Tensor):
            return item
    return None

"""Derivatives between two sites of a network: what a small change at an early one does to a late one.

The network runs as it is; at the early site its activation is made the start of the differentiation, at the late site
the pass ends. `pull` goes backwards: from one number of the late activations to its gradient by all of the early ones.
`push` goes forwards: from one change of the early activations to what it does, to first order, to all of the late ones.
So one `pull` serves everything that feeds one feature, one `push` everything that one feature feeds. `rerun` makes the
change and lets the network say what it really does.

The forward derivative is taken by going backwards twice: the gradient is linear in the weights of the late numbers, and
what a change of the early activations does to it has those weights as its slope (Townsend, "A new trick for calculating
Jacobian vector products", 2017). torch's own forward mode would do it in one pass and half of the memory; it compiles
itself with what torch has deprecated. Left out: gradients by the model's weights, which are constants here.

Shapes: B rows, C = context, D = width of the early site, E = width of the late one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from monosemy.models.hooks import Edit, Stop, hooked
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError


def pull(
    model: LanguageModel,
    ids_BC: Tensor,
    mask_BC: Tensor | None,
    early: str,
    late: str,
    number: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The early activation `x_BCD` and the gradient `grad_BCD` by it of `number(y_BCE)`, of the late one.

    `number` gives a scalar tensor; the gradient is in its units a unit of activation. Raises UsageError where `early`
    does not come before `late`, or nothing leads from it there.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x_BCD, y_BCE = _linked(model, ids_BC, mask_BC, early, late)
        (grad_BCD,) = torch.autograd.grad(number(y_BCE), x_BCD)
    return x_BCD.detach(), grad_BCD


def push(
    model: LanguageModel,
    ids_BC: Tensor,
    mask_BC: Tensor | None,
    early: str,
    late: str,
    change_BCD: Tensor,
    read: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """`read(y_BCE)` of the late activations, and its derivative along `change_BCD` at the early site; shapes alike.

    Raises UsageError as `pull`.
    """

    # Attention's fast kernels have a first derivative only, plain products have all.
    with torch.inference_mode(False), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x_BCD, y_BCE = _linked(model, ids_BC, mask_BC, early, late)
        value = read(y_BCE)
        weight = torch.zeros_like(value, requires_grad=True)
        (grad_BCD,) = torch.autograd.grad(value, x_BCD, weight, create_graph=True)
        (change,) = torch.autograd.grad(grad_BCD, weight, change_BCD.to(grad_BCD))
    return value.detach(), change


def rerun(model: LanguageModel, ids_BC: Tensor, mask_BC: Tensor | None, early: str, late: str, edit: Edit) -> Tensor:
    """The late activation `y_BCE` where the early one is really edited: what `push` predicts to first order.

    Raises UsageError where `early` does not come before `late`.
    """
    with torch.inference_mode():
        return _late(model, ids_BC, mask_BC, (early, edit), late)


def _linked(
    model: LanguageModel, ids_BC: Tensor, mask_BC: Tensor | None, early: str, late: str
) -> tuple[Tensor, Tensor]:
    """The early activation as what is differentiated by, and the late one as a function of it."""
    starts: list[Tensor] = []

    def start(x_BCD: Tensor) -> Tensor:
        starts.append(x_BCD.detach().clone().requires_grad_())
        return starts[0]

    y_BCE = _late(model, ids_BC, mask_BC, (early, start), late)
    if not y_BCE.requires_grad:
        raise UsageError(f"nothing leads from {early} to {late}: they lie on parallel branches; take a later site")
    return starts[0], y_BCE


def _late(model: LanguageModel, ids_BC: Tensor, mask_BC: Tensor | None, early: tuple[str, Edit], late: str) -> Tensor:
    """The late activation of a pass that the early edit begins and the late site ends."""
    _check_order(model, early[0], late)
    found: list[Tensor] = []

    def end(y_BCE: Tensor) -> Tensor:
        found.append(y_BCE)
        raise Stop

    with hooked(ids_BC.shape, {}, model._in_order({early[0]: early[1], late: end})):
        model.model(**model._inputs(ids_BC, mask_BC))
    return found[0]


def _check_order(model: LanguageModel, early: str, late: str) -> None:
    for site in (early, late):
        model.check_site(site)
    order = model.sites()
    if order.index(early) >= order.index(late):
        raise UsageError(f"`early` (={early!r}) must be a site before `late` (={late!r}); exchange them")

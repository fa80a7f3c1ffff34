"""What every implementation of the kernels is tried on, and how it is compared with the plain torch reference.

The reference runs in float64 on the same numbers. Selections must agree exactly, sums to fp32 rounding. `device` is
where the implementation's tensors are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from monosemy.kernels.contract import Kernels
from monosemy.kernels.firings import AdamStep, Extra, Firings, RowGradients, RowParams
from monosemy.kernels.reference import Reference

ORACLE = Reference()
RTOL, ATOL = 2e-5, 2e-6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def broken(z_BN: torch.Tensor, value: float) -> torch.Tensor:
    """Every third entry of every second row replaced."""
    z_BN = z_BN.clone()
    z_BN[::2, ::3] = value
    return z_BN


def negative_nan() -> float:
    return float(torch.tensor(-4194304, dtype=torch.int32).view(torch.float32))  # what 0/0 gives on x86


SELECTIONS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "random": lambda b, n: normal(b, n),
    "ties": lambda b, n: normal(b, n).mul(2).round(),
    "ones": lambda b, n: torch.ones(b, n),
    "zero rows": lambda b, n: normal(b, n) * (torch.arange(b) % 2)[:, None],
    "negative zeros": lambda b, n: -torch.zeros(b, n),
    "negative": lambda b, n: -normal(b, n).abs(),
    "duplicate rows": lambda b, n: normal(1, n).expand(b, n).contiguous(),
    "duplicate columns": lambda b, n: normal(b, 1).expand(b, n).contiguous(),
    "rising": lambda b, n: torch.arange(float(b * n)).view(b, n) - b * n / 2,
    "falling": lambda b, n: b * n / 2 - torch.arange(float(b * n)).view(b, n),
    "nan": lambda b, n: broken(normal(b, n), float("nan")),
    "negative nan": lambda b, n: broken(-normal(b, n).abs(), negative_nan()),
    "all nan": lambda b, n: torch.full((b, n), float("nan")),
    "inf": lambda b, n: broken(normal(b, n), float("inf")),
    "nan, inf and ties": lambda b, n: broken(broken(normal(b, n).round(), float("inf")).flip(1), float("nan")),
    "minus inf": lambda b, n: broken(normal(b, n), -float("inf")),
    "large and tiny": lambda b, n: torch.exp(normal(b, n) * 25) * normal(b, n, seed=1).sign(),
}
WIDTHS = (1, 5, 32, 70, 257)


def counts_of(width: int) -> list[int]:
    """The k that are tried at a width: none but one, some, all."""
    return sorted({1, max(1, width // 8), max(1, width // 2), width})


def check_topk(kernels: Kernels, z_BN: torch.Tensor, k: int, device: str = "cpu") -> None:
    """Exactly the reference's firings."""
    same_firings(kernels.topk(z_BN.to(device), k), ORACLE.topk(z_BN, k))


def check_above(kernels: Kernels, z_BN: torch.Tensor, threshold_N: torch.Tensor, device: str = "cpu") -> None:
    """Exactly the reference's firings."""
    same_firings(kernels.above(z_BN.to(device), threshold_N.to(device)), ORACLE.above(z_BN, threshold_N))


def same_firings(found: Firings, expected: Firings) -> None:
    """Equal to the last bit, NaN of any kind equal to NaN."""
    for name in ("start_B1", "feature_F", "value_F"):
        a, b = getattr(found, name).cpu(), getattr(expected, name)
        assert a.dtype == b.dtype
        assert a.is_contiguous()
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=lambda text, n=name: f"{n}: {text}")


@dataclass(frozen=True)
class Case:
    """A step in small. `codes` says which entries of the B×N codes are not 0."""

    rows: int = 19
    d_in: int = 13
    d_out: int = 13
    width: int = 37
    codes: str = "random"  # or empty, rare (rows and features without any), common (one feature in all rows), full
    ends: tuple[int, ...] = ()
    tied: bool = False
    unit: bool = False
    pull: bool = False
    extra: bool = False
    bias: bool = True
    left_alone: bool = False
    scale: float = 1.0
    step: int = 7


CASES = {
    "plain": Case(),
    "unit": Case(unit=True),
    "no bias": Case(bias=False),
    "tied": Case(tied=True),
    "tied, unit, extra, pull": Case(tied=True, unit=True, extra=True, pull=True),
    "transcoder": Case(d_in=21, d_out=6, unit=True),
    "transcoder with pull and extra": Case(d_in=5, d_out=24, pull=True, extra=True, scale=0.25),
    "vector width": Case(d_in=64, d_out=64, width=64, unit=True),
    "wide rows": Case(d_in=131, d_out=131, rows=9, unit=True),
    "one dimension": Case(d_in=1, d_out=1),
    "one feature": Case(width=1, codes="full", unit=True),
    "one row": Case(rows=1, codes="full"),
    "two levels": Case(ends=(10, 37), unit=True),
    "three levels": Case(ends=(1, 8, 37)),
    "three levels, an extra": Case(ends=(5, 30, 37), extra=True, unit=True, codes="rare"),
    "three levels, two equal": Case(ends=(9, 9, 37)),
    "no firing": Case(codes="empty", unit=True, extra=True),
    "no firing, two levels": Case(codes="empty", ends=(20, 37)),
    "rare": Case(codes="rare"),
    "a common feature": Case(codes="common", rows=70, unit=True),
    "all fire": Case(codes="full", unit=True),
    "some left alone": Case(left_alone=True, unit=True, pull=True),
    "some left alone, tied": Case(left_alone=True, tied=True, extra=True),
    "clipped, first step": Case(scale=0.3, step=1, unit=True),
}


def firings_of(case: Case) -> Firings:
    """Codes above and below 0, as the kind of case says."""
    z_BN = normal(case.rows, case.width, seed=2)
    kept_BN = normal(case.rows, case.width, seed=3) > 1
    if case.codes == "empty":
        kept_BN[:] = False
    elif case.codes == "full":
        kept_BN[:] = True
    elif case.codes == "rare":
        kept_BN &= normal(case.rows, case.width, seed=4) > 1
        kept_BN[0], kept_BN[-1], kept_BN[:, 0], kept_BN[:, -1] = False, False, False, False
    elif case.codes == "common":
        kept_BN[:, case.width // 2] = True
    codes_BN = torch.where(kept_BN, z_BN, 0.0)
    return ORACLE.above(codes_BN.abs(), torch.zeros(case.width)) if not case.pull else signed(codes_BN)


def signed(codes_BN: torch.Tensor) -> Firings:
    """Every entry that is not 0, whatever its sign."""
    firings = ORACLE.above(codes_BN.abs(), torch.zeros(codes_BN.shape[1]))
    return replace(firings, value_F=codes_BN[firings.row_F, firings.feature_F])


def ends_of(case: Case) -> tuple[int, ...]:
    return case.ends or (case.width,)


def weights(case: Case, seed: int, width: int) -> torch.Tensor:
    W_ND = normal(case.width, width, seed=seed)
    return W_ND / W_ND.norm(dim=1, keepdim=True) if case.unit else W_ND


def gradient_of(case: Case) -> RowGradients:
    """Residuals and codes' gradients of their own, so that an error in `decode` does not show here."""
    firings, ends = firings_of(case), ends_of(case)
    extra = None
    if case.extra:
        feature_U = torch.arange(case.width)[:: max(1, case.width // 5)]
        shapes = ((len(feature_U), case.d_out), (len(feature_U), case.d_in), (len(feature_U),))
        extra = Extra(feature_U, *(normal(*shape, seed=10 + i) for i, shape in enumerate(shapes)))
    return RowGradients(
        columns=ORACLE.columns(firings, case.width),
        code_F=firings.value_F,
        dz_F=normal(len(firings.feature_F), seed=5),
        x_BD=normal(case.rows, case.d_in, seed=6),
        residual_GBE=normal(len(ends), case.rows, case.d_out, seed=7),
        ends=ends,
        W_dec_NE=weights(case, 8, case.d_out),
        tied=case.tied,
        unit=case.unit,
        pull_N=normal(case.width, seed=9) if case.pull else None,
        extra=extra,
    )


def params_of(case: Case, W_dec_NE: torch.Tensor) -> RowParams:
    """Weights and moments; the second ones are large enough for a step not to be a gradient's mere sign."""

    def moments(*shape: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        return normal(*shape, seed=seed), normal(*shape, seed=seed + 1).square() + 0.1

    dec, b, enc = (case.width, case.d_out), (case.width,), (case.width, case.d_in)
    W_enc = () if case.tied else (weights(case, 30, case.d_in), *moments(*enc, seed=31))
    return RowParams(W_dec_NE, *moments(*dec, seed=20), normal(*b, seed=22), *moments(*b, seed=23), *W_enc)


def rates_of(case: Case) -> tuple[AdamStep, torch.Tensor]:
    lr_N = torch.linspace(1e-3, 1e-1, case.width)
    if case.left_alone:
        lr_N[::3] = -1.0
        lr_N[1::3] = 0.0
    return AdamStep(0.9, 0.99, 1e-8, case.step), lr_N


def check_decode(kernels: Kernels, case: Case, device: str = "cpu") -> None:
    """Residuals, squares and dots."""
    firings, ends = firings_of(case), ends_of(case)
    W_NE, target_BE = weights(case, 8, case.d_out), normal(case.rows, case.d_out, seed=9)
    b_E = normal(case.d_out, seed=10) if case.bias else None

    def decoded(on: Kernels, to: Callable[[Any], Any]) -> list[torch.Tensor]:
        residual_GBE = to(torch.full((len(ends), case.rows, case.d_out), 99.0))
        return [residual_GBE, *on.decode(to(firings), to(W_NE), to(b_E), to(target_BE), ends, residual_GBE)]

    close(decoded(kernels, moved_to(device)), decoded(ORACLE, moved_to(torch.float64)), ("residual", "square", "dots"))


def check_dots(kernels: Kernels, case: Case, device: str = "cpu") -> None:
    """One number a firing."""
    arguments = firings_of(case), normal(case.rows, case.d_in, seed=9), normal(case.width, case.d_in, seed=8)
    found = kernels.dots(*moved_to(device)(arguments))
    close([found], [ORACLE.dots(*moved_to(torch.float64)(arguments))], ("dots",))


def check_columns(kernels: Kernels, case: Case, device: str = "cpu") -> None:
    """The same places."""
    firings = firings_of(case)
    found, expected = kernels.columns(moved_to(device)(firings), case.width), ORACLE.columns(firings, case.width)
    for name in ("start_N1", "row_F", "place_F"):
        assert torch.equal(getattr(found, name).cpu(), getattr(expected, name)), name


def check_square_norms(kernels: Kernels, case: Case, device: str = "cpu") -> None:
    """A 0-d tensor."""
    gradient = gradient_of(case)
    found = kernels.square_norms(moved_to(device)(gradient))
    assert found.shape == ()
    close([found], [ORACLE.square_norms(moved_to(torch.float64)(gradient))], ("square norm",))


def check_update(kernels: Kernels, case: Case, device: str = "cpu") -> None:
    """Every tensor of `RowParams` after a step; untouched to the bit where the learning rate is negative."""
    adam, lr_N = rates_of(case)

    def updated(on: Kernels, to: Callable[[Any], Any], scale: float | torch.Tensor) -> RowParams:
        gradient = to(gradient_of(case))
        params = replace(to(params_of(case, torch.empty(0))), W_dec_NE=gradient.W_dec_NE)
        on.update(gradient, params, adam, to(lr_N), scale)
        return params

    before = params_of(case, gradient_of(case).W_dec_NE)
    expected = updated(ORACLE, moved_to(torch.float64), case.scale)
    for scale in (case.scale, torch.tensor(case.scale, device=device)):
        found = updated(kernels, moved_to(device), scale)
        names = [field.name for field in fields(RowParams) if getattr(found, field.name) is not None]
        close([getattr(found, n) for n in names], [getattr(expected, n) for n in names], names)
        for name in names:
            own, old = getattr(found, name).cpu()[lr_N < 0], getattr(before, name)[lr_N < 0]
            assert torch.equal(own, old), f"{name} of features left alone"


def check_adam(kernels: Kernels, shape: tuple[int, int], unit: bool, device: str = "cpu") -> None:
    """A dense gradient, which stays as it was."""
    case = Case(width=shape[0], d_out=shape[1], unit=unit, left_alone=shape[0] > 1)
    adam, lr_R = rates_of(case)
    W_RD, grad_RD = weights(case, 1, shape[1]), normal(*shape, seed=2)
    m_RD, v_RD = normal(*shape, seed=3), normal(*shape, seed=4).square() + 0.1

    def stepped(on: Kernels, to: Callable[[Any], Any], scale: float | torch.Tensor) -> list[torch.Tensor]:
        tensors = [to(tensor.clone()) for tensor in (W_RD, grad_RD, m_RD, v_RD)]
        on.adam(*tensors, adam, to(lr_R), unit, to(scale) if isinstance(scale, torch.Tensor) else scale)
        return tensors

    for scale in (0.5, torch.linspace(0.1, 2.0, shape[0])):
        found = stepped(kernels, moved_to(device), scale)
        close(found, stepped(ORACLE, moved_to(torch.float64), scale), ("W", "grad", "m", "v"))
        assert torch.equal(found[1].cpu(), grad_RD)
        for own, old in zip(found, (W_RD, grad_RD, m_RD, v_RD), strict=True):
            assert torch.equal(own.cpu()[lr_R < 0], old[lr_R < 0])


def check_broken(kernels: Kernels, device: str = "cpu") -> None:
    """A NaN and an infinity reach what the reference lets them reach, and nothing else."""
    case = Case(unit=True, ends=(10, 37))
    gradient = gradient_of(case)
    bad_F, dz_F = gradient.code_F.clone(), gradient.dz_F.clone()
    bad_F[5], dz_F[9] = float("nan"), float("inf")
    gradient = replace(gradient, code_F=bad_F, dz_F=dz_F)
    firings, (adam, lr_N) = replace(firings_of(case), value_F=bad_F), rates_of(case)

    def tensors(on: Kernels, to: Callable[[Any], Any]) -> list[torch.Tensor]:
        residual_GBE = to(gradient.residual_GBE)
        own = to(gradient)
        found = [residual_GBE, *on.decode(to(firings), own.W_dec_NE, None, own.residual_GBE[0], own.ends, residual_GBE)]
        params = replace(to(params_of(case, torch.empty(0))), W_dec_NE=own.W_dec_NE)
        found.append(on.square_norms(own))
        on.update(own, params, adam, to(lr_N))
        return found + [getattr(params, field.name) for field in fields(RowParams)]

    found, expected = tensors(kernels, moved_to(device)), tensors(ORACLE, moved_to("cpu"))
    assert any(tensor.isnan().any() for tensor in expected)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.cpu().isnan(), b.isnan())
        assert torch.equal(a.cpu().isinf(), b.isinf())


def moved_to(where: str | torch.dtype) -> Callable[[Any], Any]:
    """What clones tensors, and whatever has tensors in it, to a device or a floating dtype."""

    def moved(thing: Any) -> Any:
        if isinstance(thing, torch.Tensor):
            kept = isinstance(where, torch.dtype) and not thing.is_floating_point()
            return thing.clone() if kept else thing.clone().to(where)
        if isinstance(thing, tuple) and any(isinstance(part, torch.Tensor | Firings) for part in thing):
            return tuple(moved(part) for part in thing)
        if hasattr(thing, "__dataclass_fields__"):
            return replace(thing, **{field.name: moved(getattr(thing, field.name)) for field in fields(thing)})
        return thing

    return moved


def close(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    """To fp32 rounding of sums of numbers of order one."""
    for name, a, b in zip(names, found, expected, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=RTOL, atol=ATOL, msg=lambda text, n=name: f"{n}: {text}")

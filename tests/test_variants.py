"""One suite over every variant: the hand-written gradient against autograd, the constraint, the exported dictionary."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from dials import taken

from monosemy.data.rows import ArrayRows
from monosemy.dictionaries import variant as contract
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import VARIANTS
from monosemy.dictionaries.variant import (
    Centre,
    Hyper,
    Params,
    Scaling,
    Shape,
    StepStatistics,
    Variant,
    Workspace,
)  # fmt: skip
from monosemy.training.ensemble import Ensemble
from monosemy.training.frame import framed
from monosemy.training.settings import Member, TrainSettings, grid
from monosemy.training.sweep import settings_from

M, B, D, N, K = 3, 40, 12, 20, 4
UNEVEN_D = torch.logspace(-1, 1, D)  # scales of the coordinates
# In training codes depend on the other rows (the first two) or are probabilities times values; exported they do not.
EXPORTED_OTHERWISE = ("batchtopk", "matryoshka", "spikeslab")
CASES = [(name, weighted, bias) for name in VARIANTS for weighted in (False, True) for bias in (True, False)]


def rows(seed: int = 0, count: int = B) -> torch.Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) + 0.5


def stack_of(name: str, weighted: bool, bias: bool) -> tuple[Params, Hyper, Workspace]:
    mean_D = torch.randn(D, generator=torch.Generator().manual_seed(1))
    centre = Centre(mean_D, mean_D) if bias else None
    params = VARIANTS[name].init(Shape(M, D, N, B), list(range(M)), centre)
    if weighted:  # free norms: make them unequal
        params["W_dec"] *= torch.linspace(0.5, 2, N)[:, None]
    l1_M, k_M, noise_M = torch.tensor([0.0, 0.1, 0.5]), torch.tensor([K, 1, 2 * K]), torch.tensor([0.1, 0.0, 0.3])
    noise_BD = torch.randn(B, D, generator=torch.Generator().manual_seed(2))
    hyper = Hyper(l1_M, k_M, weighted, *((noise_M, noise_BD) if VARIANTS[name].noisy else ()))
    return params, hyper, Workspace.of(Shape(M, D, N, B), trained(VARIANTS[name], params))


def trained(variant: Variant, params: Params) -> Params:
    return {key: tensor for key, tensor in params.items() if key not in variant.tracked}


def gradients(
    variant: Variant, params: Params, x_BD: torch.Tensor, hyper: Hyper, work: Workspace, target: torch.Tensor | None
) -> StepStatistics:
    statistics = variant.gradients(params, x_BD, hyper, work, target)
    variant.chain(params, work.grads)
    return statistics


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("name", "weighted", "bias"), CASES)
def test_gradients_equal_autograd(name: str, weighted: bool, bias: bool, paired: bool) -> None:
    variant = VARIANTS[name]
    params, hyper, work = stack_of(name, weighted, bias)
    x_BD, target_BD = rows(), rows(7) if paired else None
    statistics = gradients(variant, params, x_BD, hyper, work, target_BD)
    for m in range(M):
        one = {key: tensor[m].clone().requires_grad_() for key, tensor in params.items()}
        reconstruction, penalty = variant.loss(one, x_BD, hyper.member(m), target_BD)
        (reconstruction + penalty).backward()
        torch.testing.assert_close(statistics.reconstruction_M[m], reconstruction.detach())
        torch.testing.assert_close(statistics.penalty_M[m], penalty.detach())
        for key, tensor in trained(variant, one).items():
            torch.testing.assert_close(work.grads[key][m], tensor.grad, rtol=1e-4, atol=1e-6, msg=f"{name} {key} {m}")


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("x_BD", [torch.zeros(B, D), torch.ones(B, D), rows()[:1].repeat(B, 1)], ids=["0", "1", "same"])
def test_gradients_equal_autograd_on_adversarial_rows(name: str, x_BD: torch.Tensor) -> None:
    variant = VARIANTS[name]
    params, hyper, work = stack_of(name, False, True)
    gradients(variant, params, x_BD, hyper, work, None)
    one = {key: tensor[1].clone().requires_grad_() for key, tensor in params.items()}
    sum(variant.loss(one, x_BD, hyper.member(1))).backward()
    for key, tensor in trained(variant, one).items():
        torch.testing.assert_close(work.grads[key][1], tensor.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("most", [1, 2])
def test_a_stack_in_parts_has_the_gradients_of_the_whole(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    variant = VARIANTS[name]
    params, hyper, whole = stack_of(name, False, True)
    monkeypatch.setattr(contract, "PART_CODES", most * B * N)
    _, _, parted = stack_of(name, False, True)
    assert (len(whole.codes_MNB), len(parted.codes_MNB)) == (M, most)
    expected, found = (variant.gradients(params, rows(), hyper, work, rows(7)) for work in (whole, parted))
    for each in fields(expected):
        if each.name != "extra":
            torch.testing.assert_close(getattr(found, each.name), getattr(expected, each.name), rtol=1e-6, atol=1e-7)
    assert found.extra.keys() == expected.extra.keys()
    for key, tensor in expected.extra.items():
        torch.testing.assert_close(found.extra[key], tensor, rtol=1e-6, atol=1e-7)
    for key, grad in whole.grads.items():
        torch.testing.assert_close(parted.grads[key], grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parted.residual_MBE, whole.residual_MBE)
    l0 = [variant.mean_l0(params, rows(), hyper, work) for work in (whole, parted)]
    assert torch.equal(*l0)
    counted_MBN = whole.codes_MNB.mT  # what `mean_l0` left of the whole stack
    torch.testing.assert_close(l0[0], (counted_MBN > 0).float().sum(dim=2).mean(dim=1))


@pytest.mark.parametrize("width", [64, 512, 4096])
def test_the_first_reconstruction_is_about_the_row(width: int) -> None:
    """x̂·x / ‖x‖² has mean 1 over rows of N(0, I): ReLU(a) = (a + |a|) / 2, of which a gives tr(W Wᵀ) / N = 1 exactly
    and |a| an odd function of x, with mean 0. Allow 0.1, over ten standard errors of 1000 rows."""
    d_in = 32
    params = VARIANTS["relu"].init(Shape(1, d_in, width, B), [0], None)
    one = {key: tensor[0] for key, tensor in params.items()}
    x_BD = torch.randn(1000, d_in, generator=torch.Generator().manual_seed(0))
    xhat_BD = torch.relu(x_BD @ one["W_enc"].T + one["b_enc"]) @ one["W_dec"]
    share_B = (xhat_BD * x_BD).sum(dim=1) / x_BD.square().sum(dim=1)
    assert share_B.mean().item() == pytest.approx(1, abs=0.1)


def ensemble(settings: TrainSettings, members: list[Member] | None = None, uneven: bool = False) -> Ensemble:
    frame = framed(ArrayRows(rows(count=500) * (UNEVEN_D if uneven else 1)), settings.frame)
    return Ensemble(members or grid(settings, D), settings, frame, torch.device("cpu"), B)


def settings_for(name: str, **options: object) -> TrainSettings:
    return settings_from(**taken(name, width=N, k=K, batch=B, device="cpu", **options))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_decoder_rows_have_norm_one_after_every_step(name: str) -> None:
    stack = ensemble(settings_for(name, seed=(0, 1), lr=(0.05,)))
    if VARIANTS[name].free_norms:
        assert not stack.unit_norm
        return
    for step in range(50):
        stack.step(rows(step))
        norms_MN = stack.params["W_dec"].norm(dim=2)
        torch.testing.assert_close(norms_MN, torch.ones_like(norms_MN), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].sparsity == "l1"])
def test_norm_weighted_leaves_norms_free_and_exports_the_same_function_with_unit_rows(name: str) -> None:
    stack = ensemble(settings_for(name, lr=(0.05,), penalty="norm-weighted"))
    for step in range(30):
        stack.step(rows(step))
    assert (stack.params["W_dec"].norm(dim=2) - 1).abs().max() > 0.01
    exported = stack.export(0)
    torch.testing.assert_close(exported.W_dec_ND.norm(dim=1), torch.ones(N))
    _assert_exported_reconstruction(stack, name)


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("scale", ["unit", "none", "whiten"])
def test_export_folds_the_scale_back(name: str, scale: str) -> None:
    stack = ensemble(settings_for(name, lr=(0.01,), scale=scale), uneven=scale == "whiten")
    for step in range(20):
        stack.step(rows(step) * (UNEVEN_D if scale == "whiten" else 1))
    scale_D = stack.frame.scaling.seen_D
    assert bool((scale_D == 1).all()) == (scale == "none")
    assert bool((scale_D == scale_D[0]).all()) == (scale != "whiten")
    _assert_exported_reconstruction(stack, name)
    raw_BD = rows(99) * (UNEVEN_D if scale == "whiten" else 1)
    folded, unfolded = stack.export(0), _unscaled(stack)
    rebuilt_BD = unfolded.reconstruct(raw_BD * scale_D) / scale_D
    torch.testing.assert_close(folded.reconstruct(raw_BD), rebuilt_BD, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(folded.W_dec_ND.norm(dim=1), torch.ones(N))
    assert torch.equal(folded.encode(raw_BD) > 0, unfolded.encode(raw_BD * scale_D) > 0)


def _unscaled(stack: Ensemble) -> Dictionary:
    """Member 0 as a dictionary for rows that are scaled already."""
    params = {key: tensor[0] for key, tensor in stack.params.items()}
    return stack.variant.export(params, stack.hyper.member(0), Scaling(torch.ones(D), torch.ones(D)))


def _assert_exported_reconstruction(stack: Ensemble, name: str) -> None:
    """x̂ of the exported dictionary on raw rows = the training formula's x̂ on scaled rows, unscaled."""
    if name in EXPORTED_OTHERWISE:
        return
    x_BD = rows(99)
    one = {key: tensor[0] for key, tensor in stack.params.items()}
    scale_D = stack.frame.scaling.seen_D
    loss, _ = VARIANTS[name].loss(one, x_BD * scale_D, stack.hyper.member(0))
    error = ((stack.export(0).reconstruct(x_BD) - x_BD) * scale_D).square().sum(dim=1).mean()
    torch.testing.assert_close(error, loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.05])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_stacked_adam_equals_torch_adam_member_by_member(name: str, clip: float) -> None:
    """The oracle: one member, autograd, clip_grad_norm_, torch.optim.Adam, and rows renormalised by hand; 3 rates."""
    settings = settings_for(name, seed=(0, 1), lr=(1e-3, 1e-2, 3e-2), l1=(0.1,), clip=clip)
    stack = ensemble(settings)
    oracles, clipped = [], 0
    for m, member in enumerate(stack.members):
        params = {key: tensor[m].clone().requires_grad_() for key, tensor in stack.trained.items()}
        oracles.append((params, torch.optim.Adam(list(params.values()), lr=member.lr)))
    for step in range(25):
        x_BD = rows(step)
        numbers = stack.hyper_now()
        set_before = {key: stack.params[key].clone() for key in stack.variant.tracked}
        stack.step(x_BD)
        for m, (params, adam) in enumerate(oracles):
            adam.zero_grad()
            # The loss as a function of the decoder's direction: normalised on the forward pass, as S4 does.
            forward = {**params, **{key: tensor[m] for key, tensor in set_before.items()}}
            if stack.unit_norm:
                forward["W_dec"] = params["W_dec"] / params["W_dec"].norm(dim=1, keepdim=True)
            sum(VARIANTS[name].loss(forward, x_BD * stack.frame.scaling.seen_D, numbers.member(m))).backward()
            if clip:
                clipped += bool(torch.nn.utils.clip_grad_norm_(params.values(), clip) > clip)
            adam.step()
            with torch.no_grad():
                if not stack.unit_norm:
                    continue
                params["W_dec"] /= params["W_dec"].norm(dim=1, keepdim=True)
    assert clipped >= 50 * bool(clip)
    for m, (params, _) in enumerate(oracles):
        for key, tensor in params.items():
            torch.testing.assert_close(stack.params[key][m], tensor.detach(), rtol=1e-3, atol=2e-5, msg=f"{key} {m}")


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_member_alone_equals_itself_inside_a_grid(name: str) -> None:
    settings = settings_for(name, seed=(0, 1, 2), l1=(0.05, 0.1), noise=(0.1, 0.3))
    together = ensemble(settings)
    alone = ensemble(settings, [together.members[1]])
    for step in range(20):
        together.step(rows(step))
        alone.step(rows(step))
    for key, tensor in alone.params.items():
        torch.testing.assert_close(together.params[key][1], tensor[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_target_is_scaled_as_the_rows_are_and_learned(name: str) -> None:
    """The target equal to the row changes nothing, to the bit; twice the rows are learned when they are the target."""
    settings = settings_for(name, lr=(0.02,), l1=(0.001,), noise=(0.01,))
    plain, same, double = ensemble(settings), ensemble(settings), ensemble(settings)
    for step in range(300):
        x_BD = rows(step % 5)
        plain.step(x_BD)
        double.step(x_BD, target_BE=2 * x_BD)
        if step < 60:
            same.step(x_BD, target_BE=x_BD)
            assert all(torch.equal(tensor, same.params[key]) for key, tensor in plain.params.items())
    x_BD = rows(0)
    error = (double.export(0).reconstruct(x_BD) - 2 * x_BD).square().sum() / (2 * x_BD).square().sum()
    # Spike and slab holds normal rows for noise more than others do: they have no features.
    assert error < (0.25 if name != "spikeslab" else 0.55)
    assert error < (plain.export(0).reconstruct(x_BD) - 2 * x_BD).square().sum() / (2 * x_BD).square().sum()


def test_noise_is_a_function_of_the_step_and_scales_with_sigma() -> None:
    stack = ensemble(settings_for("denoising", noise=(0.0, 0.1, 0.3), seed=(0, 1)))
    x_BD = rows()
    first, again = stack.hyper_now(), stack.hyper_now()
    assert torch.equal(first.noise_BD, again.noise_BD)  # type: ignore[arg-type]
    stack.step(x_BD)
    assert not torch.equal(first.noise_BD, stack.hyper_now().noise_BD)  # type: ignore[arg-type]
    seen_MBD = stack.variant.seen(x_BD, first)
    for member, seen_BD in zip(stack.members, seen_MBD, strict=True):
        assert member.noise is not None
        # 480 normal draws: their std is within 0.03 of 1 with a standard error of 0.032; allow five of them.
        assert (seen_BD - x_BD).std() == pytest.approx(member.noise, rel=0.16)


def test_denoising_without_noise_is_relu() -> None:
    clean, relu = ensemble(settings_for("denoising", noise=(0.0,))), ensemble(settings_for("relu"))
    for step in range(20):
        clean.step(rows(step))
        relu.step(rows(step))
    for key, tensor in relu.params.items():
        assert torch.equal(tensor, clean.params[key])


def test_interim_convention_is_a_rescaled_sum() -> None:
    """S4's loss, mean_D(error²) + α‖c‖₁/N, is 1/D times the "sum" loss with λ = α·D/N."""
    alpha, x_BD = 0.3, rows()
    member = Member("relu", N, alpha, None, 1e-3, 0)
    params, _, _ = stack_of("relu", False, True)
    one = {key: tensor[0] for key, tensor in params.items()}
    weight = torch.tensor(member.penalty_weight("interim", D))
    rec, penalty = VARIANTS["relu"].loss(one, x_BD, Hyper(weight, torch.tensor(0)))
    codes_BN = torch.relu(x_BD @ one["W_enc"].T + one["b_enc"])
    xhat_BD = codes_BN @ one["W_dec"] + one["b_dec"]
    interim = (x_BD - xhat_BD).square().mean() + alpha * (codes_BN.abs().sum(dim=1) / N).mean()
    torch.testing.assert_close((rec + penalty) / D, interim)

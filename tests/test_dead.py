"""Remedies for dead features: gradients against autograd, what resampling writes, revival, resume, no side effects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dials import taken
from two_sites import rows_for

from monosemy.artifact import Artifact
from monosemy.data.rows import ArrayRows
from monosemy.dictionaries.store import VARIANTS
from monosemy.dictionaries.variant import Centre, Params, Shape, Workspace
from monosemy.metrics.recovery import mmcs_to_truth
from monosemy.runtime import UsageError
from monosemy.training import loop
from monosemy.training.dead import AUXK_WEIGHT, OF_REMEDY, DeadSettings
from monosemy.training.dense_step import add_dead_gradients
from monosemy.training.ensemble import Ensemble
from monosemy.training.frame import framed
from monosemy.training.loop import train_stacks
from monosemy.training.resample import ENCODER_SHARE, copies, draw_rows, replace_features
from monosemy.training.settings import grid
from monosemy.training.sweep import fit_grid, settings_from, train

M, B, D, N, K = 3, 30, 10, 16, 4
REMEDIES = ("resample", "ghost", "auxk")
# Remedies see parameters and residuals, whatever the variant: every one on dense steps, on sparse ones and on several
# sites, and every variant with one of them.
THOROUGHLY = ("relu", "topk", "crosscoder")
REMEDIES_OF = {
    name: REMEDIES if name in THOROUGHLY else (REMEDIES[(number + 2) % 3],) for number, name in enumerate(VARIANTS)
}
PAIRS = [(name, remedy) for name, remedies in REMEDIES_OF.items() for remedy in remedies]
PER_FEATURE = ("W_enc", "b_enc", "W_dec")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stack(name: str, bias: bool = True) -> tuple[Params, Workspace, torch.Tensor]:
    """Parameters of M members, a workspace with residuals, and dead features: none, some, all but one."""
    centre = Centre(normal(D).float(), normal(D).float())
    params = VARIANTS[name].init(Shape(M, D, N, B), list(range(M)), centre if bias else None)
    params = {key: tensor.double() for key, tensor in params.items()}
    params["b_enc"] -= 1
    trained = {key: tensor for key, tensor in params.items() if key not in VARIANTS[name].tracked}
    work = Workspace.of(Shape(M, D, N, B), trained)
    work.residual_MBE.copy_(normal(M, B, D, seed=1))
    dead_MN = torch.zeros(M, N, dtype=torch.bool)
    dead_MN[1, [2, 5, 11, 12, 13]] = True
    dead_MN[2, 1:] = True
    return params, work, dead_MN


def ghost_loss(z_BU: torch.Tensor, W_dec_UD: torch.Tensor, error_BD: torch.Tensor) -> torch.Tensor:
    """Word by word: exp codes, scaled to half the error's norm, the loss scaled to the error's size."""
    out_BD = z_BU.exp() @ W_dec_UD
    q_B = error_BD.norm(dim=1) / (2 * out_BD.norm(dim=1))
    loss_B = (q_B.detach()[:, None] * out_BD - error_BD).square().sum(dim=1)
    s_B = error_BD.square().sum(dim=1) / loss_B
    return (s_B.detach() * loss_B).mean()


def auxk_loss(z_BU: torch.Tensor, W_dec_UD: torch.Tensor, error_BD: torch.Tensor) -> torch.Tensor:
    """The aux_k largest of each row, nothing else."""
    values, places = z_BU.topk(min(K, z_BU.shape[1]), dim=1)
    out_BD = torch.zeros_like(z_BU).scatter(1, places, values) @ W_dec_UD
    return AUXK_WEIGHT * (out_BD - error_BD).square().sum(dim=1).mean()


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("own_rows", [False, True], ids=["shared rows", "rows per member"])
@pytest.mark.parametrize(("remedy", "loss"), [("ghost", ghost_loss), ("auxk", auxk_loss)])
def test_gradients_equal_autograd_and_go_to_dead_features_only(
    remedy: Any, loss: Any, name: str, own_rows: bool
) -> None:
    params, work, dead_MN = stack(name)
    seen = normal(M, B, D, seed=2) if own_rows else normal(B, D, seed=2)
    for tensor in work.grads.values():
        tensor.fill_(0.5)  # what the variant left: it is added to
    settings = DeadSettings(remedy=remedy, **({"aux_k": K} if remedy == "auxk" else {}))
    add_dead_gradients(settings, params, seen, dead_MN, work)
    for m in range(M):
        one = {key: tensor[m].clone().requires_grad_() for key, tensor in params.items()}
        x_BD, dead_N = seen[m] if own_rows else seen, dead_MN[m]
        if dead_N.any():
            z_BN = x_BD @ one.get("W_enc", one["W_dec"]).T + one["b_enc"]
            loss(z_BN[:, dead_N], one["W_dec"][dead_N], -work.residual_MBE[m]).backward()
        for key in work.grads:
            tensor = one[key]
            expected = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            torch.testing.assert_close(work.grads[key][m] - 0.5, expected, rtol=1e-9, atol=1e-12)
            if key in PER_FEATURE:
                assert (work.grads[key][m][~dead_N] == 0.5).all()
                assert not dead_N.any() or (work.grads[key][m][dead_N] != 0.5).any()


def test_ghost_gradients_stay_finite_where_exp_would_not_and_without_error() -> None:
    params, work, dead_MN = stack("relu")
    params["b_enc"] += 2000
    work.residual_MBE[:, :5] = 0
    add_dead_gradients(DeadSettings(remedy="ghost"), params, normal(B, D), dead_MN, work)
    assert all(tensor.isfinite().all() for tensor in work.grads.values())


@pytest.mark.parametrize("name", list(VARIANTS))
@pytest.mark.parametrize("bias", [True, False])
def test_a_replaced_feature_points_at_a_row_and_the_others_stay(name: str, bias: bool) -> None:
    params, work, dead_MN = stack(name, bias)
    one = {key: tensor[1].clone() for key, tensor in params.items()}
    target_BD, dead_N = normal(B, D, seed=3), dead_MN[1]
    replaced_U = replace_features(one, target_BD, work.residual_MBE[1], dead_N, torch.Generator().manual_seed(0))
    assert torch.equal(replaced_U, dead_N.nonzero().flatten())
    centre_D = one.get("b_dec", torch.zeros(D, dtype=torch.float64))
    centred_BD = torch.nn.functional.normalize(target_BD - centre_D, dim=1)
    cosine_UB = one["W_dec"][dead_N] @ centred_BD.T
    rows_U = cosine_UB.argmax(dim=1)
    assert len(set(rows_U.tolist())) == len(rows_U)
    torch.testing.assert_close(one["W_dec"][dead_N], centred_BD[rows_U])
    if "W_enc" in one:
        share = ENCODER_SHARE * params["W_enc"][1][~dead_N].norm(dim=1).mean()
        torch.testing.assert_close(one["W_enc"][dead_N], share * centred_BD[rows_U])
    # The bias is the paper's 0 for an encoder that sees x − b_dec.
    encoder_ND = one.get("W_enc", one["W_dec"])
    z_BU = target_BD @ encoder_ND[dead_N].T + one["b_enc"][dead_N]
    torch.testing.assert_close(z_BU, (target_BD - centre_D) @ encoder_ND[dead_N].T)
    for key, tensor in one.items():
        alive = ~dead_N if key in PER_FEATURE else ...
        assert torch.equal(tensor[alive], params[key][1][alive])


@pytest.mark.parametrize("name", [name for name in VARIANTS if VARIANTS[name].reads == "rows"])
def test_a_replaced_feature_is_encoded_from_the_centre_and_is_its_own_average(name: str) -> None:
    """With the weights that encode: z is 0 at b_dec, though rows lie far from 0; averages hold nothing of the dead."""
    rows = ArrayRows(world()[1] + 3)
    settings = settings_from(**options(name, "resample", ema=0.99, dead_after=5))
    made = Ensemble(grid(settings, D), settings, framed(rows, settings.frame), torch.device("cpu"), settings.batch)
    kill(made.params, 0)
    stream = rows.batches(settings.batch, 0)
    for _ in range(8):
        made.step(x_BD := next(stream))
    made.resample(x_BD)
    new_N = made.resampled_MN[0] == made.step_count
    assert new_N.sum() >= N // 2
    one = made.variant.effective({key: tensor[0] for key, tensor in made.params.items()})
    z_N = one.get("W_enc", one["W_dec"]) @ one["b_dec"] + one["b_enc"]
    torch.testing.assert_close(z_N[new_N], torch.zeros(int(new_N.sum())), rtol=0, atol=1e-5)
    for key in made.trained.keys() - set(made.variant.of_member):
        assert torch.equal(made.average[key][0, new_N], made.params[key][0, new_N]), key


def test_rows_are_drawn_with_the_square_of_their_loss() -> None:
    """4,000 draws of one from three rows of losses 1, 2 and 0 and a better one that is not usable: 1/5, 4/5, 0, 0."""
    residual_BD = torch.diag(torch.tensor([1.0, 2.0, 0.0, 9.0]).sqrt())
    usable_B = torch.tensor([True, True, True, False])
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[draw_rows(residual_BD, usable_B, 1, generator)] += 1
    # Binomial, standard error 0.0063: five of them.
    torch.testing.assert_close(counts / 4000, torch.tensor([0.2, 0.8, 0, 0]), rtol=0, atol=0.032)
    assert sorted(draw_rows(residual_BD, usable_B, 4, generator).tolist()) == [0, 1]
    assert len(draw_rows(torch.zeros(4, 4), usable_B, 2, generator)) == 0


def world(rows: int = 8000) -> tuple[torch.Tensor, torch.Tensor]:
    """N true directions, and rows that are sums of about two of them."""
    g = torch.Generator().manual_seed(0)
    F_ND = torch.nn.functional.normalize(torch.randn(N, D, generator=g), dim=1)
    return F_ND, ((torch.rand(rows, N, generator=g) < 2 / N) * torch.rand(rows, N, generator=g)) @ F_ND


def options(name: str, remedy: str, **more: Any) -> dict[str, Any]:
    dials = {
        "variant": name, "width": N, "k": 2, "l1": 0.1, "lr": 3e-3, "noise": 0.05, "batch": 100, "remedy": remedy,
        "dead_after": 20, "resample_every": 40, "resample_warmup": 10, "aux_k": 8, "clip": 0.0, "device": "cpu", **more,
    }  # fmt: skip
    return taken(**{key: value for key, value in dials.items() if OF_REMEDY.get(key, remedy) == remedy})


def kill(params: Params, member: int) -> None:
    """Half of the features with weak encoders and a negative bias; with unit rows (tied) a more negative one."""
    if "W_enc" in params:
        params["W_enc"][member, N // 2 :] *= 0.05
        params["b_enc"][member, N // 2 :] = -0.3
    else:
        params["b_enc"][member, N // 2 :] -= 2


def half_dead(name: str, remedy: str, **more: Any) -> tuple[Ensemble, ArrayRows, Any]:
    """Two members (or those of `seed`): half of the first one's features cannot fire, the others are as they come."""
    settings, rows = settings_from(**options(name, remedy, **{"seed": (0, 1), **more})), ArrayRows(world()[1])
    made = Ensemble(grid(settings, D), settings, framed(rows, settings.frame), torch.device("cpu"), settings.batch)
    kill(made.params, 0)
    return made, rows, settings


@pytest.mark.parametrize("name", list(VARIANTS))
def test_dead_features_are_revived_by_remedies_and_not_without(name: str) -> None:
    """Of 8 dead ones, those not active in the second half of 240 steps: hardly fewer alone, half with any remedy."""
    left = {}
    for remedy in ("none", *REMEDIES_OF[name]):
        made, rows, settings = half_dead(name, remedy, lr=0.01, seed=0)
        train_stacks([made], rows, settings, 240, None)
        left[remedy] = int((made.last_fired_MN[0, N // 2 :] <= 120).sum())
        if made.unit_norm:
            torch.testing.assert_close(made.params["W_dec"].norm(dim=2), torch.ones(1, N), rtol=0, atol=1e-6)
    # An encoder that cannot turn away from its decoder comes back by itself, and a gate that is never quite shut too.
    if name in ("aligned", "spikeslab"):
        assert max(left.values()) <= 2
        return
    assert left.pop("none") >= 7
    assert max(left.values()) <= 4


@pytest.mark.parametrize("name", list(VARIANTS))
def test_without_dead_features_a_remedy_changes_nothing(name: str) -> None:
    """To the bit. Wide windows: the features fire often enough."""
    x = rows_for(name, world()[1])
    plain = {"width": 8, "l1": 0.001, "k": 6, "steps": 100, "dead_after": 30, "resample_every": 40}
    [(_, bare)] = fit_grid(x, **options(name, "none", **plain))
    for remedy in REMEDIES_OF[name]:
        [(_, treated)] = fit_grid(x, **options(name, remedy, **plain))
        for key, tensor in bare.tensors.items():
            assert torch.equal(tensor, treated.tensors[key]), (remedy, key)


@pytest.mark.parametrize(("name", "remedy"), [pair for pair in PAIRS if pair[0] != "spikeslab"])  # some always silent
def test_a_member_without_dead_features_is_untouched_and_one_with_them_is_as_if_alone(name: str, remedy: str) -> None:
    together, rows, settings = half_dead(name, remedy)
    alone, plain = (
        Ensemble(
            [member],
            settings_from(**options(name, kind, seed=(0, 1))),
            framed(rows, settings.frame),
            torch.device("cpu"),
            100,
        )
        for member, kind in zip(together.members, (remedy, "none"), strict=True)
    )
    kill(alone.params, 0)
    dead_of_second = 0
    for step, x_BD in zip(range(45), rows.batches(100, 0), strict=False):
        for made in (together, alone, plain):
            made.step(x_BD)
        dead_of_second += int(together.dead_MN()[1].sum())
        if settings.dead.resamples_after(step + 1, 200, 0.2):
            together.resample(x_BD)
            alone.resample(x_BD)
    assert dead_of_second == 0
    assert (together.resampled_MN[0] > 0).any() == (remedy == "resample")
    for key, tensor in together.params.items():
        # Adam makes rounding errors in gradients near 0 larger; another draw of rows would differ by 0.1.
        torch.testing.assert_close(tensor[:1], alone.params[key], rtol=0, atol=1e-5)
        torch.testing.assert_close(tensor[1:], plain.params[key], rtol=0, atol=1e-6)


def test_a_resampled_feature_starts_with_fresh_moments_and_a_small_learning_rate() -> None:
    made, rows, _ = half_dead("relu", "resample")
    stream = rows.batches(100, 0)
    for _ in range(40):
        x_BD = next(stream)
        made.step(x_BD)
    dead_N = made.dead_MN()[0]
    assert dead_N.sum() >= N // 2
    made.resample(x_BD)
    assert not made.dead_MN()[0].any()
    for name in ("W_enc", "b_enc", "W_dec"):
        assert not made.moments.mean[name][0][dead_N].any()
        assert not made.moments.square[name][0][dead_N].any()
        assert made.moments.square[name][0][~dead_N].any()
    moved = []
    for _ in range(3):
        before_ND = made.params["W_enc"][0].clone()
        made.step(next(stream))
        moved.append((made.params["W_enc"][0] - before_ND)[dead_N].abs().max())
    # Adam moves a weight by at most about 3.2, 4.3, 5.0 × lr (= 3e-3) in the steps after its moments were 0.
    for step, (most, bound) in enumerate(zip(moved, (3.2, 4.3, 5.0), strict=True)):
        assert 0 < most < 1.05 * bound * 3e-3 * (step + 1) / 10


class _Killed(Exception):
    pass


@pytest.mark.parametrize("remedy", REMEDIES)
@pytest.mark.parametrize("name", ["denoising", "topk"])
def test_a_killed_run_with_a_remedy_ends_bit_for_bit_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    from test_training import store_of

    store = store_of(tmp_path / "activations", world(3000)[1])
    asked = options(name, remedy, l1=(0.3,), k=(1,), width=(64,), lr=(3e-3, 0.02), steps=100, dead_after=5)
    whole = train(store, out=tmp_path / "whole", **asked).artifact
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY_S", 0.0)
    save = loop._save
    for fatal in (23, 40, 43):  # before a resampling, right after it, within the re-warm-up

        def dying(stacks: Any, step: int, path: Path, fatal: int = fatal) -> None:
            if step == fatal:
                save(stacks, step, path)
                assert any(stack.dead_MN().any() or (stack.resampled_MN > 0).any() for stack in stacks)
                raise _Killed

        monkeypatch.setattr(loop, "_save", dying)
        with pytest.raises(_Killed):
            train(store, out=tmp_path / "killed", **asked)
    monkeypatch.setattr(loop, "_save", save)
    killed = train(store, out=tmp_path / "killed", **asked).artifact
    assert killed.id == whole.id
    assert _digests(killed) == _digests(whole)


def _digests(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


def test_resampling_recovers_from_a_bad_start() -> None:
    """Nearly all encoders dead, as many features as there are: with resampling as good as from a fresh start."""
    F_ND, x = world(20_000)
    rows = ArrayRows(x)

    def recovered(remedy: str, lost: float) -> float:
        settings = settings_from(**options("topk", remedy, lr=0.01))
        made = Ensemble(grid(settings, D), settings, framed(rows, settings.frame), torch.device("cpu"), settings.batch)
        made.params["b_enc"][:, 2:] -= lost
        train_stacks([made], rows, settings, 600, None)
        return mmcs_to_truth(F_ND, made.export(0).W_dec_ND)

    fresh, untreated, treated = recovered("none", 0), recovered("none", 3), recovered("resample", 3)
    assert untreated < 0.7
    assert fresh > 0.9
    assert treated > fresh - 0.03


def test_a_copy_is_a_feature_with_the_direction_of_an_earlier_one() -> None:
    W_ND = normal(40, D).float()
    W_ND[7], W_ND[20], W_ND[31] = 3 * W_ND[2], W_ND[2] + 0.1 * W_ND[3], -W_ND[5]
    cosines = W_ND @ W_ND.T / (W_ND.norm(dim=1)[:, None] * W_ND.norm(dim=1))
    brute = [any(cosines[n, m] > 0.9 for m in range(n)) for n in range(40)]
    assert copies(W_ND, 0.9).tolist() == brute
    assert brute[7]
    assert brute[20]
    assert not brute[2]
    assert not brute[31]
    assert not copies(W_ND, 1.0).any()


def test_resampling_copies_finds_features_that_copies_had_kept_away() -> None:
    """As many features as there are, all on six of them: an L1 penalty leaves them there."""
    F_ND, x = world(20_000)
    rows = ArrayRows(x)

    def recovered(copy_above: float) -> float:
        settings = settings_from(**options("relu", "resample", lr=0.01, copy_above=copy_above))
        made = Ensemble(grid(settings, D), settings, framed(rows, settings.frame), torch.device("cpu"), settings.batch)
        for name in ("W_dec", "W_enc"):
            made.params[name][:] = F_ND[torch.arange(len(F_ND)) % 6]
        train_stacks([made], rows, settings, 600, None)
        return mmcs_to_truth(F_ND, made.export(0).W_dec_ND)

    assert recovered(0.9) > recovered(1.0) + 0.04


def test_when_features_are_resampled() -> None:
    settings = DeadSettings(remedy="resample", resample_every=100)
    assert [step for step in range(1001) if settings.resamples_after(step, 1000, 0.2) and step] == [
        *range(100, 701, 100)
    ]
    assert not any(DeadSettings(remedy="ghost").resamples_after(step, 1000, 0.2) for step in range(1000))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"remedy": "prayer"}, r"`remedy` \(='prayer'\) must be one of none, resample, ghost, auxk"),
        ({"dead_after": 0}, r"`dead_after` \(=0\) must be at least 1"),
        ({"aux_k": 0}, "`aux_k`"),
        ({"aux_k": 8}, r"`aux_k` \(=8\) does nothing for `remedy` \(=none\); take .*\(auxk\), or leave out aux_k"),
        ({"aux_k": 8, "remedy": "resample"}, r"`aux_k` \(=8\) does nothing for `remedy` \(=resample\)"),
        ({"resample_every": 40, "remedy": "ghost"}, r"`resample_every` \(=40\) does nothing .*\(resample\)"),
        ({"resample_warmup": 10, "remedy": "auxk"}, r"`resample_warmup` \(=10\) does nothing"),
        ({"copy_above": 0.9}, r"`copy_above` \(=0.9\) does nothing for `remedy` \(=none\)"),
        ({"remedy": "ghost", "dead_after": 60}, r"`dead_after` \(=60\) must be less than `steps` \(=60\)"),
        (
            {"remedy": "resample", "dead_after": 5, "resample_every": 40},
            r"`resample_every` \(=40\).*leave no step of 60",
        ),
    ],
)
def test_bad_requests_are_explained(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        fit_grid(world(1000)[1], **{**options("relu", "none", steps=60), **wrong})

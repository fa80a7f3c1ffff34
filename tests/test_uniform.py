"""Uniform examples against a plain computation over all firings, and their draws against what chance allows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from monosemy.analysis import uniform
from monosemy.analysis.examples import Keys, Offer
from monosemy.analysis.firings import Block, Window
from monosemy.analysis.uniform import UniformExamples
from monosemy.runtime import generator_for

CPU = torch.device("cpu")
ALONE = Window(0, 0)
N_TOKENS, WIDTH, CONTEXT = 400, 40, 20
Codes = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

WORLDS: dict[str, Codes] = {  # from uniform numbers, and places in the corpus from 0 to 1, the codes
    "even": lambda u, _: u,
    "heavy tail": lambda u, _: u**-1.5 - 1,
    "near 0": lambda u, _: -u.log() * 1e-30,
    "far from 0": lambda u, _: 1000 + u,
    "a threshold": lambda u, _: 0.5 - u.log(),
    "two heaps far apart": lambda u, _: torch.where(u < 0.5, 1 + u * 1e-3, 50 + u * 1e-3),
    "whole numbers": lambda u, _: (4 * u).ceil(),
    "one strength": lambda u, _: torch.full_like(u, 2.5),
    "ever stronger": lambda u, place: u * 2 ** (12 * place),
    "ever weaker": lambda u, place: 1 + u * 2 ** (-12 * place),
    "weaker than all before": lambda u, place: 2 - place.expand_as(u),
}


def codes_of(world: str) -> torch.Tensor:
    """`codes_TN`: feature 0 never fires, feature 1 once, feature 2 always, the others with densities between."""
    u_TN = torch.rand(N_TOKENS, WIDTH, generator=generator_for("strength")).clamp_min(1e-6)
    place_T1 = torch.arange(N_TOKENS)[:, None] / N_TOKENS
    density_N = torch.linspace(0.02, 0.9, WIDTH)
    density_N[0], density_N[2] = 0, 1
    fires_TN = torch.rand(N_TOKENS, WIDTH, generator=generator_for("fires")) < density_N
    fires_TN[:, 1] = torch.arange(N_TOKENS) == 77
    return WORLDS[world](u_TN, place_T1).float() * fires_TN


def blocks(codes_TN: torch.Tensor, at_once: int) -> list[Block]:
    found = []
    for first in range(0, len(codes_TN), at_once):
        codes_XN = codes_TN[first : first + at_once]
        offset_X = torch.arange(len(codes_XN)) + first
        place_X = offset_X % CONTEXT if at_once % CONTEXT == 0 else torch.zeros_like(offset_X)
        length_X = torch.full_like(place_X, CONTEXT if at_once % CONTEXT == 0 else 1)
        found.append(Block.of(codes_XN, offset_X, place_X, length_X))
    return found


def collected(codes_TN: torch.Tensor, bins: int, at_once: int, window: Window = ALONE) -> UniformExamples:
    collector = UniformExamples(codes_TN.shape[1], window, CPU, bins, seed=0)
    for block in blocks(codes_TN, at_once):
        collector.add(block)
    return collector


def drawn_by_hand(codes_TN: torch.Tensor, bins: int) -> torch.Tensor:
    """`offset_NK`: of all firings in a bin that with the largest key."""
    n_tokens, width = codes_TN.shape
    offset_NK = torch.full((width, bins), -1)
    keys, place_T = Keys(width, CPU, "uniform", seed=0), torch.arange(n_tokens)
    for i in range(width):
        key_T = keys.of(place_T, place_T, torch.full_like(place_T, i))
        fired_Q = codes_TN[:, i].nonzero()[:, 0]
        strength_Q = codes_TN[fired_Q, i].double()
        if len(fired_Q):
            step = (strength_Q.max() - strength_Q.min()) / bins
            number_Q = ((strength_Q - strength_Q.min()) / step).long().clamp_max(bins - 1) if step else 0 * fired_Q
            for number in sorted(set(number_Q.tolist())):
                mine = fired_Q[number_Q == number]
                offset_NK[i, number] = mine[key_T[mine].argmax()]
    return offset_NK


@pytest.mark.parametrize("bins", [1, 2, 8, 30])
@pytest.mark.parametrize("world", WORLDS)
def test_one_of_each_bin_whatever_the_cut(monkeypatch: pytest.MonkeyPatch, world: str, bins: int) -> None:
    codes_TN = codes_of(world)
    expected = drawn_by_hand(codes_TN, bins)
    for at_once in (7, 100, N_TOKENS):
        found, _ = collected(codes_TN, bins, at_once).drawn()
        assert torch.equal(found, expected)
    monkeypatch.setattr(uniform, "OFFERS_PER_SLOT", 1)  # a block's firings in many pieces
    assert torch.equal(collected(codes_TN, bins, N_TOKENS).drawn()[0], expected)


def test_windows_follow_their_firings() -> None:
    codes_TN, window = codes_of("heavy tail"), Window(3, 2)
    offset_NK, values_NKW = collected(codes_TN, 8, 100, window).drawn()
    assert (offset_NK >= 0).sum() > 100
    for i, number in (offset_NK < 0).nonzero().tolist():
        assert not values_NKW[i, number].any()
    for i, number in (offset_NK >= 0).nonzero().tolist():
        offset = int(offset_NK[i, number])
        row = offset - offset % CONTEXT
        for step in range(-3, 3):
            inside = row <= offset + step < row + CONTEXT
            assert values_NKW[i, number, step + 3] == (codes_TN[offset + step, i] if inside else 0)


def test_the_table_grows_where_a_feature_has_more_and_stays_small() -> None:
    """2k firings stay, and the logarithm of those in the last bin: 16 + 6 of 4,000. 3k slots are there at first."""
    codes_TN = torch.rand(4000, 200, generator=generator_for("many"))
    one, eight = collected(codes_TN, 1, 250), collected(codes_TN, 8, 250)
    assert 3 < one.key_NS.shape[1] < 24
    assert torch.equal(one.drawn()[0], drawn_by_hand(codes_TN, 1))
    kept_N = (eight.key_NS >= 0).sum(dim=1).double()
    assert 16 < kept_N.mean() < 22
    assert kept_N.max() < 32
    for world, most in ("one strength", 1), ("whole numbers", 4):  # of equal strengths one is enough
        few = collected(codes_of(world), 8, 100)
        assert (few.key_NS >= 0).sum(dim=1).max() == most


@pytest.mark.parametrize(("world", "share"), [("even", 0.05), ("heavy tail", 0.4), ("far from 0", 0.1)])
def test_most_firings_are_shut_out_at_once(world: str, share: float) -> None:
    u_TN = torch.rand(8000, 50, generator=generator_for("most")).clamp_min(1e-6)
    codes_TN = WORLDS[world](u_TN, torch.zeros(8000, 1)).float()
    collector = collected(codes_TN[:6000], 8, 250)
    late = Block.of(codes_TN[6000:], torch.arange(6000, 8000), torch.zeros(2000).long(), torch.ones(2000).long())
    key_P = collector._keys.of(late.offset_X, late.token_P, late.feature_P)
    passed_P = collector._may_stay(Offer(late.feature_P, late.token_P, key_P), late.value_P)
    assert float(passed_P.double().mean()) < share


def test_draws_are_uniform_within_every_bin() -> None:
    """12,000 features alike, ever stronger firings, 3 bins of 20 places: 36,000 draws, chi-squared of each bin."""
    n_features, n_places, bins = 12_000, 60, 3
    strength_X = torch.arange(1, n_places + 1).float()
    codes_XN = strength_X[:, None].expand(n_places, n_features)
    offset_NK, _ = collected(codes_XN, bins, 5).drawn()
    numbers_X = np.minimum(bins - 1, (strength_X.double().numpy() - 1) * bins / (n_places - 1)).astype(int)
    for number in range(bins):
        places = np.flatnonzero(numbers_X == number)
        counts = np.bincount(offset_NK[:, number].numpy(), minlength=n_places)
        assert counts[places].sum() == n_features
        expected = n_features / len(places)
        spread = float(((counts[places] - expected) ** 2 / expected).sum())
        assert chi2.sf(spread, len(places) - 1) > 1e-3
    assert float(np.corrcoef(offset_NK[:, 0], offset_NK[:, 1])[0, 1]) == pytest.approx(0, abs=0.04)

"""Baselines: each recovers what it is known to recover, encodes as it says, and says what it could not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from monosemy.data.rows import ArrayRows
from monosemy.dictionaries import classical
from monosemy.dictionaries.baselines import BASELINES, neuron_basis, pca, random_directions
from monosemy.dictionaries.classical import SparseCodingDictionary, dictionary_learning, ica, nmf, principal_axes
from monosemy.dictionaries.store import load_dictionary, save_dictionary
from monosemy.metrics.recovery import mcs, mmcs_to_truth
from monosemy.runtime import UsageError


def unit(directions: torch.Tensor) -> torch.Tensor:
    return directions / directions.norm(dim=1, keepdim=True)


def sparse_world(d_in: int, features: int, l0: float, rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """True directions, and rows that are sums of few of them with weights of 0 to 1."""
    g = torch.Generator().manual_seed(seed)
    truth_GD = unit(torch.randn(features, d_in, generator=g))
    codes_XG = (torch.rand(rows, features, generator=g) < l0 / features) * torch.rand(rows, features, generator=g)
    return truth_GD, codes_XG @ truth_GD


SPARSE_TRUTH, SPARSE_X = sparse_world(12, 20, 1.5, 12_000)


@pytest.fixture(scope="module")
def learned() -> SparseCodingDictionary:
    found = dictionary_learning(ArrayRows(SPARSE_X), 20)
    assert isinstance(found, SparseCodingDictionary)
    return found


def test_pca_finds_the_principal_axes_of_a_gaussian() -> None:
    """Standard deviations 8, 4, 2, 1 on turned axes. 20,000 rows: an axis errs by at most about 0.01 rad."""
    g = torch.Generator().manual_seed(0)
    axes_DD = torch.linalg.qr(torch.randn(4, 4, generator=g))[0]
    x = torch.randn(20_000, 4, generator=g) * torch.tensor([8.0, 4, 2, 1]) @ axes_DD + 3
    found = pca(ArrayRows(x))
    torch.testing.assert_close((found.W_dec_ND * axes_DD).sum(1).abs(), torch.ones(4), rtol=0, atol=1e-3)
    variance_D = principal_axes(x)[1]
    torch.testing.assert_close(variance_D.sqrt().float(), torch.tensor([8.0, 4, 2, 1]), rtol=0.03, atol=0)
    with pytest.raises(UsageError, match="from 1 to d_in"):
        pca(ArrayRows(x), 5)


def test_signs_of_pca_and_ica_follow_the_skew_of_their_codes() -> None:
    x = -torch.rand(5000, 3, generator=torch.Generator().manual_seed(0)).log() * torch.tensor([3.0, -2, 1])
    for found in (pca(ArrayRows(x)), ica(ArrayRows(x))):
        codes_XN = found.encode(x)
        assert ((codes_XN - codes_XN.mean(0)).pow(3).sum(0) > 0).all()


def test_ica_finds_independent_sources_and_their_values() -> None:
    """Four one-sided exponential sources, mixed. 20,000 rows: cosines of 0.999 and correlations of 0.999."""
    g = torch.Generator().manual_seed(1)
    sources_XG = -torch.rand(20_000, 4, generator=g).log()
    mixing_GD = torch.randn(4, 4, generator=g)
    x = sources_XG @ mixing_GD - 2
    found = ica(ArrayRows(x))
    assert mcs(mixing_GD, found.W_dec_ND).min() > 0.99
    assert found.settings["converged"] is True
    correlations_GN = torch.corrcoef(torch.cat([sources_XG, found.encode(x)], dim=1).T)[:4, 4:]
    assert correlations_GN.amax(dim=1).min() > 0.99
    torch.testing.assert_close(found.reconstruct(x), x, rtol=1e-3, atol=1e-3)  # a change of basis loses nothing
    assert mcs(mixing_GD, pca(ArrayRows(x)).W_dec_ND).min() < 0.9  # orthogonal directions cannot


def test_ica_in_rounds_equals_scikit_learns_own() -> None:
    """With as many sources as dimensions there is one solution; beyond, runs end at different ones."""
    from sklearn.decomposition import FastICA

    x = sparse_world(8, 8, 1.5, 6000, seed=7)[1]
    found = ica(ArrayRows(x))
    oracle = FastICA(random_state=0, whiten="unit-variance", max_iter=1000).fit(x.double().numpy())
    cosines = unit(torch.from_numpy(oracle.mixing_.T).float()) @ found.W_dec_ND.T
    assert cosines.abs().amax(dim=1).min() > 0.9999


def test_ica_of_flat_rows_has_only_the_dimensions_they_fill() -> None:
    x = torch.rand(2000, 3, generator=torch.Generator().manual_seed(2)) @ torch.randn(3, 6)
    found = BASELINES["ica"](ArrayRows(x), 6, 0)
    assert found.width == 3
    assert found.settings["asked_width"] == 6
    torch.testing.assert_close(found.reconstruct(x), x, rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match="all rows are alike"):
        ica(ArrayRows(torch.ones(10, 3)))
    with pytest.raises(UsageError, match="from 1 to d_in"):
        ica(ArrayRows(x), 7)


def test_ica_that_does_not_converge_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "ICA_ITERATIONS", 2)
    monkeypatch.setattr(classical, "ICA_ROUND", 2)
    gaussian = torch.randn(3000, 8, generator=torch.Generator().manual_seed(0))  # no rotation of it is special
    assert ica(ArrayRows(gaussian)).settings["converged"] is False


def test_nmf_finds_the_factors_of_a_non_negative_product() -> None:
    """Factors with zeros and rows with few factors: then the factorisation is unique (up to order and lengths)."""
    g = torch.Generator().manual_seed(3)
    factors_GD = torch.rand(6, 15, generator=g) * (torch.rand(6, 15, generator=g) < 0.5)
    codes_XG = torch.rand(4000, 6, generator=g) * (torch.rand(4000, 6, generator=g) < 0.4)
    x = codes_XG @ factors_GD
    found = nmf(ArrayRows(x), 6)
    assert mcs(factors_GD, found.W_dec_ND).min() > 0.98
    assert (found.W_dec_ND >= 0).all()
    error = (found.reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert error < 0.01
    assert mmcs_to_truth(factors_GD, random_directions(ArrayRows(x), 6).W_dec_ND) < 0.7


def test_nmf_takes_rows_of_any_sign() -> None:
    """The directions of a sparse world have both signs; NMF on [x₊, x₋] gets nearer to them than chance."""
    found = nmf(ArrayRows(SPARSE_X), 20)
    chance = mmcs_to_truth(SPARSE_TRUTH, random_directions(ArrayRows(SPARSE_X), 20).W_dec_ND)
    assert (found.W_dec_ND < 0).any()
    assert mmcs_to_truth(SPARSE_TRUTH, found.W_dec_ND) > chance + 0.1


def test_dictionary_learning_finds_a_sparse_world(learned: SparseCodingDictionary) -> None:
    chance = mmcs_to_truth(SPARSE_TRUTH, random_directions(ArrayRows(SPARSE_X), 20).W_dec_ND)
    assert chance < 0.7
    assert mmcs_to_truth(SPARSE_TRUTH, learned.W_dec_ND) > 0.93
    assert isinstance(learned.settings["converged"], bool)


def test_sparse_codes_are_scikit_learns(learned: SparseCodingDictionary) -> None:
    from sklearn.decomposition import sparse_encode

    x = SPARSE_X[:400]
    W = learned.W_dec_ND.double().numpy()
    alpha = learned.settings["alpha"]
    exact = sparse_encode(x.double().numpy(), W, algorithm="lasso_cd", alpha=alpha, positive=True, max_iter=10_000)
    codes_BN = learned.encode(x)
    torch.testing.assert_close(codes_BN, torch.from_numpy(exact).float(), rtol=0, atol=1e-4)
    assert (codes_BN >= 0).all()
    assert 0 < (codes_BN > 0).sum(dim=1).float().mean() < 4


def test_codes_without_a_price_are_non_negative_least_squares() -> None:
    from scipy.optimize import nnls

    truth_ND = unit(torch.randn(8, 12, generator=torch.Generator().manual_seed(4)))
    dictionary = SparseCodingDictionary.of(3 * truth_ND, {"alpha": 0.0})
    x = torch.randn(50, 12, generator=torch.Generator().manual_seed(5))
    exact = np.stack([nnls(truth_ND.double().numpy().T, row)[0] for row in x.double().numpy()])
    torch.testing.assert_close(dictionary.encode(x), torch.from_numpy(exact).float(), rtol=0, atol=1e-4)


def test_directions_of_no_length_are_left_out() -> None:
    W = torch.tensor([[2.0, 0], [0, 0], [0, 1]])
    found = SparseCodingDictionary.of(W, {"alpha": 0.0})
    torch.testing.assert_close(found.W_dec_ND, torch.eye(2))


def test_alpha_counts_for_rows_of_norm_1(learned: SparseCodingDictionary) -> None:
    again = dictionary_learning(ArrayRows(100 * SPARSE_X), 20)
    assert again.settings["alpha"] == pytest.approx(100 * learned.settings["alpha"], rel=1e-4)
    assert mcs(again.W_dec_ND, learned.W_dec_ND).min() > 0.999
    with pytest.raises(UsageError, match="`alpha`"):
        dictionary_learning(ArrayRows(SPARSE_X), 20, alpha=0)
    with pytest.raises(UsageError, match="all rows are 0"):
        dictionary_learning(ArrayRows(torch.zeros(10, 3)), 2)


@pytest.mark.parametrize("name", list(BASELINES))
def test_the_table_of_baselines(name: str, tmp_path: Path) -> None:
    """Same seed, same dictionary; a width it cannot have is said; it comes back from its file."""
    rows, width = ArrayRows(SPARSE_X[:3000]), 16
    found = BASELINES[name](rows, width, 3)
    assert found.settings["baseline"] == name
    assert found.width <= width
    assert found.settings.get("asked_width", found.width) == width
    again = BASELINES[name](rows, width, 3)
    assert all(torch.equal(tensor, again.tensors[key]) for key, tensor in found.tensors.items())
    if name in ("random", "nmf", "dictionary-learning"):
        assert found.width == width
        assert not torch.equal(BASELINES[name](rows, width, 4).W_dec_ND, found.W_dec_ND)
    else:
        assert found.width == rows.d_in
    save_dictionary(tmp_path / "one.safetensors", found)
    back = load_dictionary(tmp_path / "one.safetensors")
    assert type(back) is type(found)
    assert back.settings == found.settings
    assert torch.equal(back.encode(SPARSE_X[:5]), found.encode(SPARSE_X[:5]))


@pytest.mark.parametrize("method", [nmf, dictionary_learning])
def test_a_width_of_nothing_is_refused(method: object) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        method(ArrayRows(SPARSE_X), 0)  # type: ignore[operator]


def test_the_identity_is_exact() -> None:
    x = torch.randn(20, 5)
    assert torch.equal(neuron_basis(5).encode(x), x)
    assert torch.equal(neuron_basis(5).reconstruct(x), x)

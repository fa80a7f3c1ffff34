"""One contract for everything that claims to be a dictionary: trained variants and baselines alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from dials import taken
from two_sites import rows_for

from monosemy.data.rows import ArrayRows
from monosemy.dictionaries.baselines import BASELINES, neuron_basis, pca, random_directions
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.store import FORMS, VARIANTS
from monosemy.metrics.fidelity import fidelity
from monosemy.runtime import UsageError
from monosemy.training.consensus import fit_consensus
from monosemy.training.sweep import fit

D = 10
X = torch.relu(torch.randn(2000, D, generator=torch.Generator().manual_seed(0)) @ torch.randn(D, D)) + 0.1
X[5] = 0


def trained(name: str) -> Dictionary:
    """Of d_in = d_out = D: two sites of half that side by side, or x itself turned by one as another site."""
    x = X[:, : D // 2] if VARIANTS[name].reads == "sites" else X
    return fit(rows_for(name, x), **taken(name, width=16, k=4, batch=100, steps=50))


MAKERS: dict[str, Callable[[], Dictionary]] = {
    **{name: (lambda name=name: trained(name)) for name in VARIANTS},
    **{name: (lambda make=make: make(ArrayRows(X), 16, 0)) for name, make in BASELINES.items()},
    "consensus": lambda: fit_consensus(X, width=16, batch=100, steps=200, members=2, threshold=0.3).dictionary,
}


@pytest.fixture(params=list(MAKERS), scope="module")
def dictionary(request: pytest.FixtureRequest) -> Dictionary:
    return MAKERS[request.param]()


def test_shapes_and_unit_directions(dictionary: Dictionary) -> None:
    codes_BN = dictionary.encode(X)
    assert codes_BN.shape == (len(X), dictionary.width)
    assert dictionary.W_dec_ND.shape == (dictionary.width, dictionary.d_in) == (dictionary.width, D)
    assert dictionary.decode(codes_BN).shape == X.shape
    torch.testing.assert_close(dictionary.W_dec_ND.norm(dim=1), torch.ones(dictionary.width))


def test_decoding_is_the_sum_of_directions(dictionary: Dictionary) -> None:
    codes_BN = dictionary.encode(X[:20])
    expected = (codes_BN[:, :, None] * dictionary.W_dec_ND).sum(dim=1)
    bias = dictionary.tensors.get("b_dec")
    torch.testing.assert_close(
        dictionary.decode(codes_BN), expected if bias is None else expected + bias, rtol=1e-4, atol=1e-5
    )
    past_BD = X[:20] @ dictionary.tensors["W_skip"].T if "W_skip" in dictionary.tensors else 0  # a skip transcoder's
    torch.testing.assert_close(dictionary.reconstruct(X[:20]), dictionary.decode(codes_BN) + past_BD)


def test_sparse_codes_are_the_dense_ones(dictionary: Dictionary) -> None:
    codes_BN = dictionary.encode(X)
    values_BK, indices_BK = dictionary.encode_sparse(X)
    assert values_BK.shape == indices_BK.shape
    rebuilt_BN = torch.zeros_like(codes_BN).scatter_add(1, indices_BK, values_BK)
    torch.testing.assert_close(rebuilt_BN, codes_BN)
    assert (values_BK.abs().diff(dim=1) <= 1e-6).all()


def test_a_rows_codes_do_not_depend_on_its_neighbours(dictionary: Dictionary) -> None:
    torch.testing.assert_close(dictionary.encode(X[3:8]), dictionary.encode(X)[3:8], rtol=1e-4, atol=1e-5)


def test_codes_of_some_features_are_those_of_all(dictionary: Dictionary) -> None:
    chosen_F = torch.tensor([dictionary.width - 1, 0, 3, 3])
    expected_BF = dictionary.encode(X[:300])[:, chosen_F]
    torch.testing.assert_close(dictionary.encode_features(X[:300], chosen_F), expected_BF, rtol=1e-4, atol=1e-5)


def test_empty_batches_and_zero_rows(dictionary: Dictionary) -> None:
    assert dictionary.encode(X[:0]).shape == (0, dictionary.width)
    assert dictionary.reconstruct(torch.zeros(3, D)).isfinite().all()


def test_moving_keeps_everything(dictionary: Dictionary) -> None:
    moved = dictionary.to("cpu")
    assert type(moved) is type(dictionary)
    assert torch.equal(moved.encode(X), dictionary.encode(X))
    assert type(dictionary) in FORMS.values()


def test_pca_directions_are_the_principal_ones() -> None:
    from sklearn.decomposition import PCA

    found = pca(ArrayRows(X), width=4)
    oracle = PCA(4).fit(X.numpy())
    cosines = (found.W_dec_ND * torch.from_numpy(oracle.components_).float()).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones(4), rtol=0, atol=1e-4)
    scores = fidelity(found, X)
    assert scores["explained_variance"] == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-3)
    with pytest.raises(UsageError, match="from 1 to d_in"):
        pca(ArrayRows(X), width=11)


def test_pca_of_full_width_and_neurons_are_exact() -> None:
    for exact in (neuron_basis(D), pca(ArrayRows(X))):
        torch.testing.assert_close(exact.reconstruct(X), X, rtol=1e-4, atol=1e-4)


def test_random_directions_are_scaled_to_fit_best() -> None:
    found = random_directions(ArrayRows(X), 16, seed=3)
    best = fidelity(found, X)["mse"]
    for factor in (0.8, 1.25):
        tensors = {**found.tensors}
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * factor, tensors["b_enc"] * factor
        assert fidelity(type(found)(tensors), X)["mse"] > best

"""What scikit-learn learns, as dictionaries: ICA, NMF and mini-batch dictionary learning.

- ICA (FastICA, log cosh, on whitened rows): one direction an independent source, at most as many as the rows have
  dimensions. Codes are the sources, c = x W_encᵀ + b_enc, signed; the encoder is not the decoder's transpose.
- NMF needs rows ≥ 0, so it is fitted on [x₊, x₋], the positive and negative parts side by side: with rows ≥ 0 it is
  plain NMF, and otherwise a direction h₊ − h₋ may have any signs. (Subtracting each coordinate's minimum instead can
  find no direction with a negative coordinate; it recovered sparse worlds no better than chance.) Codes: least squares
  with c ≥ 0 of x itself on the directions.
- Dictionary learning (Mairal et al. 2009): min ½‖x − cW‖² + α‖c‖₁ with c ≥ 0; codes are that minimum.

Both minima are found by a fixed number of FISTA steps (Beck and Teboulle 2009) with restarts row by row (O'Donoghue and
Candès 2015), so that a row's codes depend on nothing else, on any device. With a price the minimum is met to rounding;
the near-parallel directions of a wide NMF leave a distance (in a 64-dimensional world a mean error of 0.055 where the
minimum is 0.030). NMF and dictionary learning have no mean: as in scikit-learn, rows are not centred.
`settings["converged"]` says whether scikit-learn's tolerances were met before the iterations ran out.

Shapes: X rows of the sample, B rows, D = d_in, N = width, J = dimensions the rows fill.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import numpy as np
import torch

from monosemy.data.rows import RowSource
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.runtime import Progress, UsageError, seed_for

P = ParamSpec("P")

SAMPLE_ROWS = 65536
SAMPLE_BATCH = 4096
FISTA_STEPS = 200
ICA_ITERATIONS, ICA_ROUND = 200, 10
NMF_STEPS, NMF_BATCH, NMF_FORGET = 320, 1024, 0.7
LEARNING_BATCH = 256
FLAT = 1e-10  # a direction with less than this share of the largest variance is one the rows do not fill


def one_thread(fit: Callable[P, Dictionary]) -> Callable[P, Dictionary]:
    """Fit with one thread: scikit-learn's many small products are up to 30 times slower with torch's threads beside
    those of its own BLAS."""

    @wraps(fit)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Dictionary:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):
            return fit(*args, **kwargs)

    return wrapper


class AffineDictionary(Dictionary):
    """Signed codes c = x W_encᵀ + b_enc. Tensors: W_enc [N, D], b_enc [N], W_dec [N, D], b_dec [D]."""

    name = "affine"
    separate = True

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN`, of either sign."""
        return torch.addmm(self.tensors["b_enc"], x_BD, self.tensors["W_enc"].T)


class SparseCodingDictionary(Dictionary):
    """c = argmin over c ≥ 0 of ½‖x − cW‖² + α Σ c. Tensors: W_dec [N, D], step [] (1 over the largest curvature).

    Settings: alpha (0 for plain non-negative least squares), in the units of the rows; steps.
    """

    name = "sparse-coding"

    @classmethod
    def of(cls, W_ND: torch.Tensor, settings: dict[str, Any]) -> SparseCodingDictionary:
        """From directions of any length; the step follows from them. Directions of length 0 are left out."""
        norm_N = W_ND.norm(dim=1)
        W_ND = (W_ND / norm_N[:, None])[norm_N > 1e-6 * norm_N.max()].contiguous()
        step = 1 / torch.linalg.matrix_norm(W_ND.double(), 2).square()
        return cls({"W_dec": W_ND, "step": step.float()}, {**settings, "steps": FISTA_STEPS})

    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """`codes_BN` ≥ 0."""
        W_ND, step, alpha = self.W_dec_ND, self.tensors["step"], self.settings["alpha"]
        gram_NN, pull_BN = W_ND @ W_ND.T, x_BD @ W_ND.T - alpha
        codes_BN = torch.zeros_like(pull_BN)
        ahead_BN, time_B1 = codes_BN, pull_BN.new_ones(len(pull_BN), 1)
        for _ in range(self.settings["steps"]):
            new_BN = torch.relu(ahead_BN + step * (pull_BN - ahead_BN @ gram_NN))
            # A step against the momentum means that it has overshot: this row starts its momentum anew.
            overshot_B1 = ((ahead_BN - new_BN) * (new_BN - codes_BN)).sum(dim=1, keepdim=True) > 0
            time_B1 = torch.where(overshot_B1, torch.ones_like(time_B1), time_B1)
            later_B1 = (1 + (1 + 4 * time_B1.square()).sqrt()) / 2
            ahead_BN = new_BN + (time_B1 - 1) / later_B1 * (new_BN - codes_BN)
            codes_BN, time_B1 = new_BN, later_B1
        return codes_BN


@one_thread
def ica(rows: RowSource, width: int | None = None, seed: int = 0) -> Dictionary:
    """`width` (default: all D) independent components of the largest principal ones; fewer if the rows fill fewer.

    A component's sign is the one that skews its codes to the positive. Raises UsageError if there is no variance.
    """
    width = rows.d_in if width is None else width
    if not 1 <= width <= rows.d_in:
        raise UsageError(f"`width` (={width}) of ICA must be from 1 to d_in (={rows.d_in}): there are no more sources")
    x_XD = sample(rows)
    mean_D, variance_D, axes_DD = principal_axes(x_XD)
    width = min(width, int((variance_D > FLAT * variance_D[0]).sum()))
    if width == 0:
        raise UsageError("all rows are alike; there are no independent components in them")
    scale_J, axes_JD = variance_D[:width].sqrt(), axes_DD[:width]
    white_XJ = (x_XD.double() - mean_D) @ axes_JD.T / scale_J
    unmixing_NJ, converged = _fast_ica(white_XJ.numpy(), seed)
    unmixing_NJ *= skew_sign(white_XJ @ unmixing_NJ.T)[:, None]
    W_dec_ND = (unmixing_NJ * scale_J) @ axes_JD  # rows are orthonormal over the whitened axes, so the inverse is the
    norm_N1 = W_dec_ND.norm(dim=1, keepdim=True)  # transpose
    W_enc_ND = (unmixing_NJ / scale_J) @ axes_JD * norm_N1
    tensors = {"W_enc": W_enc_ND, "b_enc": -(W_enc_ND @ mean_D), "W_dec": W_dec_ND / norm_N1, "b_dec": mean_D}
    settings = {"baseline": "ica", "seed": seed, "converged": converged}
    return AffineDictionary({name: tensor.float().contiguous() for name, tensor in tensors.items()}, settings)


def _fast_ica(white_XJ: np.ndarray, seed: int) -> tuple[torch.Tensor, bool]:
    """Orthonormal `unmixing_NJ`, in rounds that each go on where the last one stopped, so that progress can be told."""
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    width = white_XJ.shape[1]
    unmixing_NJ = np.random.default_rng(seed_for("ica", seed)).standard_normal((width, width))
    with Progress("ICA", ICA_ITERATIONS) as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said in `converged`: a round is not meant to be enough
        for _ in range(ICA_ITERATIONS // ICA_ROUND):
            model = FastICA(whiten=False, max_iter=ICA_ROUND, w_init=unmixing_NJ).fit(white_XJ)
            unmixing_NJ = model.components_
            bar.advance(ICA_ROUND)
            if model.n_iter_ < ICA_ROUND:
                return torch.from_numpy(unmixing_NJ), True
    return torch.from_numpy(unmixing_NJ), False


@one_thread
def nmf(rows: RowSource, width: int, seed: int = 0) -> Dictionary:
    """`width` non-negative factors of [x₊, x₋]. Factors that end at 0 are left out."""
    from sklearn.decomposition import MiniBatchNMF

    _at_least_one(width, "NMF")
    x_XD = sample(rows)
    parts_XD2 = torch.cat([torch.relu(x_XD), torch.relu(-x_XD)], dim=1).numpy()
    starts = range(0, len(parts_XD2), NMF_BATCH)
    # `partial_fit` forgets a whole pass at each batch, where `fit` (which tells no progress) forgets a batch's share.
    forget = NMF_FORGET ** (1 / len(starts))
    random_state = _state("nmf", seed)
    model = MiniBatchNMF(width, init="random", batch_size=NMF_BATCH, forget_factor=forget, random_state=random_state)
    converged, before, epochs = False, None, -(-NMF_STEPS // len(starts))
    with Progress("NMF", epochs * len(starts)) as bar:
        for _ in range(epochs):
            for start in starts:
                model.partial_fit(parts_XD2[start : start + NMF_BATCH])
                bar.advance()
            converged = before is not None and _change(before, model.components_) <= model.tol * len(starts)
            if converged:
                break
            before = model.components_.copy()
    factors = torch.from_numpy(model.components_).float()
    settings = {"baseline": "nmf", "seed": seed, "alpha": 0.0, "converged": converged}
    return SparseCodingDictionary.of(factors[:, : x_XD.shape[1]] - factors[:, x_XD.shape[1] :], settings)


@one_thread
def dictionary_learning(rows: RowSource, width: int, seed: int = 0, alpha: float = 0.1) -> Dictionary:
    """scikit-learn's MiniBatchDictionaryLearning with codes ≥ 0, one pass over the sample at most.

    `alpha` counts for rows of mean norm 1; it is half of the λ that training's `l1` is.
    """
    from sklearn.decomposition import MiniBatchDictionaryLearning
    from sklearn.exceptions import ConvergenceWarning

    _at_least_one(width, "dictionary learning")
    if not alpha > 0:
        raise UsageError(f"`alpha` (={alpha}) must be above 0: without a price the codes are not sparse")
    x_XD = sample(rows)
    norm = float(x_XD.norm(dim=1).mean())
    if norm == 0:
        raise UsageError("all rows are 0; there is nothing to learn a dictionary of")
    steps = -(-len(x_XD) // LEARNING_BATCH)
    with Progress("dictionary learning", steps) as bar, warnings.catch_warnings():
        # Of the codes of one batch, which coordinate descent gives up on at a duality gap near the rounding error.
        # Whether the dictionary converged is another question, and `converged` is its answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MiniBatchDictionaryLearning(
            width,
            alpha=alpha,
            max_iter=1,
            batch_size=LEARNING_BATCH,
            fit_algorithm="cd",
            positive_code=True,
            callback=lambda _: bar.advance(),
            random_state=_state("dictionary learning", seed),
        ).fit((x_XD.double() / norm).numpy())
    settings = {"baseline": "dictionary-learning", "seed": seed, "alpha": alpha * norm}
    settings["converged"] = model.n_steps_ < steps
    return SparseCodingDictionary.of(torch.from_numpy(model.components_).float(), settings)


def sample(rows: RowSource, count: int = SAMPLE_ROWS) -> torch.Tensor:
    """Up to `count` shuffled rows `x_XD`, each at most once."""
    total = count if rows.n_rows is None else min(count, rows.n_rows)
    batch = min(SAMPLE_BATCH, total)
    stream = rows.batches(batch, seed=0)
    return torch.cat([x_BD for x_BD, _ in zip(stream, range(-(-total // batch)), strict=False)])[:total]


def principal_axes(x_XD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`mean_D`, `variance_D` (largest first) and the orthonormal directions `axes_DD`, one a row; in float64.

    An axis has the sign that skews the rows' projections on it to the positive, for features are active upwards.
    """
    mean_D = x_XD.double().mean(dim=0)
    centred_XD = x_XD.double() - mean_D
    variance_D, columns_DD = torch.linalg.eigh(centred_XD.T @ centred_XD / len(x_XD))  # ascending
    axes_DD = columns_DD.flip(1).T
    axes_DD = axes_DD * skew_sign(centred_XD @ axes_DD.T)[:, None]
    return mean_D, variance_D.flip(0).clamp_min(0), axes_DD


def skew_sign(codes_XN: torch.Tensor) -> torch.Tensor:
    """−1 for columns of centred codes whose third moment is negative, else 1: `sign_N`."""
    return 1 - 2 * (codes_XN.pow(3).sum(dim=0) < 0).to(codes_XN.dtype)


def _change(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.linalg.norm(after - before) / np.linalg.norm(after))


def _at_least_one(width: int, method: str) -> None:
    if width < 1:
        raise UsageError(f"`width` (={width}) of {method} must be at least 1")


def _state(method: str, seed: int) -> int:
    return seed_for(method, seed) % 2**32

"""One pass over the corpus that gathers what predicting codes from neurons needs: means and covariances, for all
features at once.

    E[x], Cov[x], E[c], Var[c], Cov[c, x];  each neuron's maximum and quantiles;  how often each feature fires

A neuron is a coordinate of the site that the dictionary reads (a real neuron at `mlp_act`, a mere coordinate of the
stream at a residual site). Only codes that are not 0 touch Cov[c, x]. Activations are taken about the mean of the
first piece (a shift that covariances do not see), so that no digits are lost where a neuron's mean is large beside its
spread. Tokens where codes do not count (a BOS that the dictionary never saw) are left out altogether.

Work for T tokens: the model up to the site and the encode product (2·T·N·D), and beside them 2·T·D² for Cov[x] and
2·D for each firing. Memory: N·D fp32 for Cov[c, x] (134 MB for 16,384 features of 2048 neurons), 8·D² bytes for Cov[x]
(34 MB), `SAMPLE`·D fp32 for the quantiles (67 MB), and one block of codes.

Shapes: X tokens of a piece, D = d_in, N width, F features asked for, P codes of a block that are not 0, Q levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from monosemy.analysis.examples import Keys
from monosemy.analysis.firings import places_of
from monosemy.analysis.forward import whitening
from monosemy.analysis.lab import Batch, Lab
from monosemy.analysis.scan import rows_within
from monosemy.data.rows import checked
from monosemy.runtime import Progress, UsageError, full_rate_products

LEVELS = tuple(level / 10 for level in range(11))
"""The thresholds of S1, t = 0, 0.1, …, 1, and the quantiles that are kept of each neuron."""
SAMPLE = 8192  # tokens that quantiles are taken over, drawn evenly; a smaller corpus is taken whole
TOKENS_AT_ONCE = {"cpu": 2**13, "cuda": 2**16}  # of a forward pass
NUMBERS_AT_ONCE = {"cpu": 2**23, "cuda": 2**25}  # of a block of codes


@dataclass(frozen=True)
class Piece:
    """The tokens of a few whole rows at which codes count, in their order."""

    x_XD: torch.Tensor
    """fp32, at the site."""
    offset_X: torch.Tensor
    """Places in the token stream."""


@dataclass(frozen=True)
class Moments:
    """Means and covariances over `tokens` tokens (divided by their number), and the range of each neuron."""

    features_F: torch.Tensor
    """The features they are of."""
    tokens: int
    count_F: torch.Tensor
    """Tokens on which each feature fires."""
    mean_F: torch.Tensor
    variance_F: torch.Tensor
    """Of the codes, in fp64."""
    cross_FD: torch.Tensor
    """Cov[c, x], fp32."""
    covariance_DD: torch.Tensor
    """Cov[x], fp64."""
    mean_D: torch.Tensor
    """E[x], fp64."""
    max_D: torch.Tensor
    """Each neuron's largest activation."""
    quantile_QD: torch.Tensor
    """Each neuron's quantiles at LEVELS, over a sample of the tokens; the last is `max_D`."""

    @cached_property
    def whitening_DJ(self) -> torch.Tensor:
        """`forward.whitening` of Cov[x]: D³ work that is the same for every feature."""
        return whitening(self.covariance_DD)

    def of(self, features: Sequence[int] | None) -> Moments:
        """Those of some of the features (None: all). Raises UsageError for one whose moments these are not."""
        if features is None:
            return self
        place = {feature: number for number, feature in enumerate(self.features_F.tolist())}
        for feature in features:
            if feature not in place:
                raise UsageError(f"`moments` do not hold feature {feature}; gather those of all features")
        chosen = torch.tensor([place[feature] for feature in features], device=self.features_F.device)
        names = ("features_F", "count_F", "mean_F", "variance_F", "cross_FD")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})


def feature_moments(
    lab: Lab, features: Sequence[int] | None = None, max_tokens: int | None = None, seed: int = 0
) -> Moments:
    """The moments of some features (default: all) over the first rows with at most `max_tokens` tokens (default: all).

    `seed` draws the tokens of the quantiles. Raises UsageError for an unknown feature or activations with NaN or Inf.
    """
    chosen = list(range(lab.dictionary.width)) if features is None else [lab.checked(feature) for feature in features]
    rows = rows_within(lab.tokens, max_tokens)
    with Progress("moments", lab.tokens.count_tokens(rows), unit="tokens") as bar:
        gathering = _Gathering(lab, chosen, features is None, seed)
        for piece in pieces(lab, rows):
            gathering.add(piece, bar)
    return gathering.moments()


def pieces(lab: Lab, rows: Sequence[int]) -> Iterator[Piece]:
    """The activations of some rows of the corpus, a forward pass at a time.

    Raises UsageError where the model gives NaN or Inf, or codes count on no token of the rows.
    """
    device, counted = lab.model.device, 0
    batch_rows = max(1, TOKENS_AT_ONCE[kind_of(device)] // lab.tokens.context)
    for batch in lab.tokens.batches(batch_rows, rows):
        with full_rate_products(device):
            x_BCD = lab.model.capture(batch.ids_BC.to(device), [lab.site], batch.mask_BC.to(device))[lab.site]
        counts_BC = lab.counts(Batch(batch.ids_BC, batch.mask_BC))
        offset_BC = batch.offset_B[:, None] + torch.arange(counts_BC.shape[1])
        x_XD = checked(x_BCD[counts_BC.to(device)].float())
        if len(x_XD):
            yield Piece(x_XD, offset_BC[counts_BC].to(device))
        counted += len(x_XD)
    if not counted:
        raise UsageError(f"{lab.tokens.artifact.path}: every token looked at is BOS, which the dictionary never saw")


class _Gathering:
    """The sums while pieces go by."""

    def __init__(self, lab: Lab, features: Sequence[int], all_of_them: bool, seed: int) -> None:
        self._lab, self._features, self._all = lab, list(features), all_of_them
        n, d_in, device = len(self._features), lab.model.width_of(lab.site), lab.model.device
        self._block = max(1, NUMBERS_AT_ONCE[kind_of(device)] // max(1, lab.dictionary.width if all_of_them else n))
        self._shift_D: torch.Tensor | None = None
        self._x_D, self._xx_DD = (torch.zeros(*s, dtype=torch.float64, device=device) for s in ((d_in,), (d_in, d_in)))
        self._c_F, self._cc_F = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
        self._cx_FD = torch.zeros(n, d_in, device=device)
        self._count_F = torch.zeros(n, dtype=torch.int64, device=device)
        self._tokens, self._range = 0, NeuronRange(d_in, device, seed)

    def add(self, piece: Piece, bar: Progress) -> None:
        """Count a piece's tokens in."""
        if self._shift_D is None:
            self._shift_D = piece.x_XD.mean(dim=0)
        shifted_XD = piece.x_XD - self._shift_D
        self._tokens += len(shifted_XD)
        self._x_D += shifted_XD.double().sum(dim=0)
        with full_rate_products(shifted_XD.device):
            self._xx_DD += (shifted_XD.T @ shifted_XD).double()
        self._range.add(piece)
        blocks = zip(torch.split(piece.x_XD, self._block), torch.split(shifted_XD, self._block), strict=True)
        for x_XD, shift_XD in blocks:
            self._add_codes(self._lab.encode(x_XD, None if self._all else self._features), shift_XD)
            bar.advance(len(x_XD))

    def _add_codes(self, codes_XF: torch.Tensor, x_XD: torch.Tensor) -> None:
        codes_FX = codes_XF.T.contiguous()
        flat_P, tokens = places_of(codes_FX != 0), codes_FX.shape[1]
        feature_P = torch.div(flat_P, tokens, rounding_mode="trunc")
        token_P, value_P = flat_P - feature_P * tokens, codes_FX.view(-1).take(flat_P)
        self._count_F += (codes_FX > 0).sum(dim=1)
        self._c_F.index_add_(0, feature_P, value_P.double())
        self._cc_F.index_add_(0, feature_P, value_P.double().square())
        place_2P = torch.stack([feature_P, token_P])
        sparse_FX = torch.sparse_coo_tensor(
            place_2P, value_P, tuple(codes_FX.shape), is_coalesced=True, check_invariants=False
        )
        self._cx_FD.addmm_(sparse_FX, x_XD)

    def moments(self) -> Moments:
        """What was gathered."""
        assert self._shift_D is not None, "`pieces` gives at least one"
        mean_D, mean_F = self._x_D / self._tokens, self._c_F / self._tokens
        cross_FD = self._cx_FD.div_(self._tokens).sub_(torch.outer(mean_F.float(), mean_D.float()))
        return Moments(
            torch.tensor(self._features, device=mean_D.device),
            self._tokens,
            self._count_F,
            mean_F,
            (self._cc_F / self._tokens - mean_F.square()).clamp_min_(0),
            cross_FD,
            self._xx_DD / self._tokens - torch.outer(mean_D, mean_D),
            mean_D + self._shift_D.double(),
            self._range.max_D,
            self._range.quantiles(),
        )


class NeuronRange:
    """Each neuron's maximum over all tokens, and its quantiles over an even sample of them."""

    def __init__(self, d_in: int, device: torch.device, seed: int) -> None:
        self.max_D = torch.full((d_in,), -torch.inf, device=device)
        self.sample = TokenSample(SAMPLE, d_in, device, "neuron range", seed)

    def add(self, piece: Piece) -> None:
        """Look at a piece."""
        self.max_D = torch.maximum(self.max_D, piece.x_XD.amax(dim=0))
        self.sample.add(piece.x_XD, piece.offset_X)

    def quantiles(self) -> torch.Tensor:
        """`quantile_QD` at LEVELS: the order statistics nearest to them; at 1 the maximum over all tokens."""
        sorted_XD = self.sample.x_XD.sort(dim=0).values
        places = [round(level * (len(sorted_XD) - 1)) for level in LEVELS]
        return torch.cat([sorted_XD[places[:-1]], self.max_D[None]])


class TokenSample:
    """At most `size` of the tokens that go by, drawn evenly; the same ones however the corpus is cut into pieces."""

    def __init__(self, size: int, d_in: int, device: torch.device, purpose: str, seed: int) -> None:
        self._size, self._keys = size, Keys(1, device, purpose, seed)
        self.key_X = torch.empty(0, dtype=torch.int64, device=device)
        self.offset_X = torch.empty(0, dtype=torch.int64, device=device)
        self.x_XD = torch.empty(0, d_in, device=device)
        self.seen = 0

    def add(self, x_XD: torch.Tensor, offset_X: torch.Tensor) -> None:
        """Draw from these too."""
        self.seen += len(x_XD)
        token_X = torch.arange(len(x_XD), device=x_XD.device)
        key_X = torch.cat([self.key_X, self._keys.of(offset_X, token_X, torch.zeros_like(token_X))])
        kept_X = key_X.topk(min(self._size, len(key_X))).indices.sort().values
        kept_old, kept_new = kept_X[kept_X < len(self.x_XD)], kept_X[kept_X >= len(self.x_XD)] - len(self.x_XD)
        self.key_X = key_X[kept_X]
        self.offset_X = torch.cat([self.offset_X[kept_old], offset_X[kept_new]])
        self.x_XD = torch.cat([self.x_XD[kept_old], x_XD[kept_new]])


def kind_of(device: torch.device) -> str:
    """Which limits hold there: those of "cuda" or "cpu"."""
    return "cuda" if device.type == "cuda" else "cpu"

"""One block of codes as the list of its firings, and what can be counted over them.

A feature fires on a token where its code is above 0. Well-trained codes are almost all 0, so a block is read once for
where it is not, and everything else (counts, histograms, examples) works on that list.

Histogram: eight bins of equal ratio an octave, from 2^-32 to 2^32, the same for every feature and corpus, found from
the bits of the number, so counts are exact and do not depend on how the corpus is cut into blocks. Smaller and larger
codes are counted in the outermost bins. Half-octave bins would take a quarter of the memory, but a feature's firings
lie in so few of those that no shape is seen.

Shapes: X tokens of a block, N features, P firings of a block, Q places, W = window, H bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

OCTAVES = 32  # on either side of 1
PER_OCTAVE = 8
N_BINS = 2 * OCTAVES * PER_OCTAVE
MANTISSA = 0x7FFFFF  # the bits of an fp32 number that say where in its octave it is
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Window:
    """How many tokens before and after a place belong to it."""

    before: int
    after: int

    @property
    def size(self) -> int:
        """W."""
        return self.before + 1 + self.after

    def steps(self, device: torch.device | str) -> torch.Tensor:
        """−before … after, `step_W`."""
        return torch.arange(-self.before, self.after + 1, device=device)


@dataclass(frozen=True)
class Block:
    """The codes of a few whole rows, padding left out, and their firings in the order of the tokens.

    `offset_X` is a token's place in the token stream, `place_X` in its row, and `length_X` that row's length.
    """

    codes_XN: torch.Tensor
    offset_X: torch.Tensor
    place_X: torch.Tensor
    length_X: torch.Tensor
    token_P: torch.Tensor
    feature_P: torch.Tensor
    value_P: torch.Tensor

    @classmethod
    def of(cls, codes_XN: torch.Tensor, offset_X: torch.Tensor, place_X: torch.Tensor, length_X: torch.Tensor) -> Block:
        """Read the codes (fp32) for firings."""
        codes_XN = codes_XN.contiguous()
        flat_P = places_of(codes_XN > 0)
        width = codes_XN.shape[1]
        token_P = torch.div(flat_P, width, rounding_mode="trunc")
        feature_P = flat_P - token_P * width
        value_P = codes_XN.view(-1).take(flat_P)
        return cls(codes_XN, offset_X, place_X, length_X, token_P, feature_P, value_P)

    def around(self, token_Q: torch.Tensor, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens of the windows around some tokens, `token_QW`, and which of them are in the row, `inside_QW`.

        Where a window sticks out of its row the token is the window's own middle.
        """
        step_W = window.steps(token_Q.device)
        place_QW = self.place_X[token_Q][:, None] + step_W
        inside_QW = (place_QW >= 0) & (place_QW < self.length_X[token_Q][:, None])
        return token_Q[:, None] + step_W * inside_QW, inside_QW

    def values_around(self, token_Q: torch.Tensor, feature_Q: torch.Tensor, window: Window) -> torch.Tensor:
        """Each feature's codes in the window around its token, `value_QW`; 0 outside the row."""
        token_QW, inside_QW = self.around(token_Q, window)
        flat_QW = token_QW * self.codes_XN.shape[1] + feature_Q[:, None]
        return self.codes_XN.view(-1).take(flat_QW).masked_fill_(~inside_QW, 0)


class FiringCounts:
    """How often and how strongly each feature fires."""

    def __init__(self, n_features: int, device: torch.device) -> None:
        self.sum_N = torch.zeros(n_features, dtype=torch.float64, device=device)
        self._counts_NH = torch.zeros(n_features, N_BINS, dtype=torch.int64, device=device)

    def add(self, block: Block) -> None:
        """Count a block's firings."""
        self.sum_N.index_add_(0, block.feature_P, block.value_P.double())
        slot_P = block.feature_P * N_BINS + bins_of(block.value_P)
        self._counts_NH.view(-1).index_add_(0, slot_P, torch.ones_like(slot_P))

    @property
    def count_N(self) -> torch.Tensor:
        """Tokens on which each feature fires."""
        return self._counts_NH.sum(dim=1)

    def histogram(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Edges of the bins from the lowest used one to the highest, `edge_H1` (one more than bins), and `count_NH`."""
        used = self._counts_NH.sum(dim=0).nonzero().squeeze(1).tolist() or [N_BINS // 2]
        first, end = used[0], used[-1] + 1
        return bin_edges()[first : end + 1], self._counts_NH[:, first:end]


def bins_of(value_P: torch.Tensor) -> torch.Tensor:
    """The bin of each positive fp32 number: edge[bin] ≤ value < edge[bin + 1]."""
    bits_P = value_P.view(torch.int32)
    inner = (_steps()[1:].view(torch.int32) & MANTISSA).to(value_P.device)
    step_P = torch.bucketize(bits_P & MANTISSA, inner, out_int32=True, right=True)
    bin_P = ((bits_P >> 23) - (127 - OCTAVES)) * PER_OCTAVE + step_P
    return bin_P.clamp_(0, N_BINS - 1).long()


def bin_edges() -> torch.Tensor:
    """The N_BINS + 1 edges, fp32; the first is 0 and the last the largest number there is."""
    octave = torch.arange(-OCTAVES, OCTAVES, dtype=torch.float32)
    inner = torch.outer(torch.exp2(octave), _steps()).flatten()[1:]
    return torch.cat([torch.zeros(1), inner, torch.tensor([LARGEST])])


def _steps() -> torch.Tensor:
    """The edges within the octave from 1 to 2, fp32: every octave's are the same but for their exponent."""
    return torch.exp2(torch.arange(PER_OCTAVE, dtype=torch.float64) / PER_OCTAVE).float()


def places_of(mask: torch.Tensor) -> torch.Tensor:
    """Flat indices of the True places. On the CPU numpy's search is several times faster than torch's."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)

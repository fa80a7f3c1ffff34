"""What the kernels are given and give back: sparse codes of a batch, by rows and by features; a feature's tensors.

Only k of N codes of a row are not 0, so a step never needs them as a matrix. They are kept as a list of firings, row
after row (`Firings`: the CSR format), and for the weights' gradients the same list feature after feature (`Columns`:
CSC, as places in the first list). Tensors are contiguous and on one device, floating ones fp32, indices int64.

Shapes: B rows, D input width, E output width (D unless a transcoder), N width, F firings of the batch, G nested levels
(1 unless Matryoshka), U features with a dense gradient besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Firings:
    """Codes of a batch, row by row; within a row by rising feature index, no feature twice."""

    start_B1: torch.Tensor
    """int64 [B+1]: row b's firings are those from start_B1[b] up to start_B1[b+1]."""
    feature_F: torch.Tensor
    """int64: the feature that fires."""
    value_F: torch.Tensor
    """fp32: its code."""

    @property
    def rows(self) -> int:
        """B."""
        return len(self.start_B1) - 1

    @property
    def row_F(self) -> torch.Tensor:
        """int64: the row of each firing (made anew at every use)."""
        row_B = torch.arange(self.rows, device=self.start_B1.device)
        return torch.repeat_interleave(row_B, self.start_B1.diff(), output_size=len(self.feature_F))

    def dense(self, width: int) -> torch.Tensor:
        """The codes as a matrix, `codes_BN`."""
        codes_BN = self.value_F.new_zeros(self.rows, width)
        codes_BN[self.row_F, self.feature_F] = self.value_F
        return codes_BN

    @staticmethod
    def joined(parts: Sequence[Firings]) -> Firings:
        """The firings of consecutive chunks of rows as those of one batch; at least one chunk."""
        if len(parts) == 1:
            return parts[0]
        starts, before = [parts[0].start_B1], len(parts[0].feature_F)
        for part in parts[1:]:
            starts.append(part.start_B1[1:] + before)
            before += len(part.feature_F)
        feature_F = torch.cat([part.feature_F for part in parts])
        return Firings(torch.cat(starts), feature_F, torch.cat([part.value_F for part in parts]))


@dataclass(frozen=True, eq=False)
class Columns:
    """The same firings feature by feature, within a feature by rising row: a stable sort of `Firings.feature_F`."""

    start_N1: torch.Tensor
    """int64 [N+1]: feature n's firings are those from start_N1[n] up to start_N1[n+1]."""
    row_F: torch.Tensor
    """int64: the row of each."""
    place_F: torch.Tensor
    """int64: the place of each in the `Firings`."""


@dataclass(frozen=True)
class AdamStep:
    """Which step of Adam (Kingma & Ba 2015, arXiv 1412.6980), in the arrangement of torch.optim.Adam:

    m ← β₁m + (1−β₁)g,   v ← β₂v + (1−β₂)g²,   W ← W − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
    """

    beta1: float
    beta2: float
    eps: float
    step: int
    """t, counted from 1."""

    @property
    def correction1(self) -> float:
        """1 − β₁ᵗ."""
        return 1.0 - self.beta1**self.step

    @property
    def correction2(self) -> float:
        """1 − β₂ᵗ."""
        return 1.0 - self.beta2**self.step


@dataclass(frozen=True, eq=False)
class Extra:
    """Dense gradients of a few features (dead-feature remedies), added to their sparse ones before anything else."""

    feature_U: torch.Tensor
    """int64, rising, each once."""
    dec_UE: torch.Tensor
    enc_UD: torch.Tensor
    b_U: torch.Tensor


@dataclass(frozen=True, eq=False)
class RowGradients:
    """What the gradients of one member's rows are made of. For feature n of level block g(n), over its firings f:

        W_dec: (2/B) Σ_f code_f · residual[g(n), row_f] + pull_n · W_dec[n]
        W_enc: Σ_f dz_f · x[row_f],      b_enc: Σ_f dz_f

    plus what `extra` has for n. With `tied`, W_enc is W_dec and the two are summed. With `unit`, W_dec's gradient
    loses its part along the row: G − ⟨G, W_dec[n]⟩ W_dec[n]; the rows have norm 1.
    """

    columns: Columns
    code_F: torch.Tensor
    """The codes, in the order of the `Firings`."""
    dz_F: torch.Tensor
    """∂L/∂z of each firing, with every factor, in the order of the `Firings`."""
    x_BD: torch.Tensor
    """What the encoder saw."""
    residual_GBE: torch.Tensor
    """What `Kernels.decode` left."""
    ends: tuple[int, ...]
    """Where the level blocks end, rising; the last one is N. Block g is the features from ends[g−1] up to ends[g]."""
    W_dec_NE: torch.Tensor
    tied: bool
    unit: bool
    pull_N: torch.Tensor | None = None
    extra: Extra | None = None


@dataclass(frozen=True, eq=False)
class RowParams:
    """What one member has of each feature, and Adam's two running means of each; all updated in place.

    With tied weights the three of W_enc are None.
    """

    W_dec_NE: torch.Tensor
    m_W_dec_NE: torch.Tensor
    v_W_dec_NE: torch.Tensor
    b_enc_N: torch.Tensor
    m_b_enc_N: torch.Tensor
    v_b_enc_N: torch.Tensor
    W_enc_ND: torch.Tensor | None = None
    m_W_enc_ND: torch.Tensor | None = None
    v_W_enc_ND: torch.Tensor | None = None

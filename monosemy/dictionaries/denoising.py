"""Denoising ReLU dictionaries: the encoder sees the row with Gaussian noise, the clean row is reconstructed.

    c = ReLU(W_enc (x + σ g) + b_enc),   g ~ N(0, I),   x̂ = c W_dec + b_dec,   L = mean_B( ‖x − x̂‖² + λ Σ_n c_n )

Source: Sharkey et al. 2022 (S4), appendix; Vincent et al. 2008, "Extracting and composing robust features with
denoising autoencoders". σ is per coordinate, in the units of the rows as trained on: with unit scale a row has norm 1
on average. What reaches one feature through an encoder row of norm 1 then has std σ, whatever d_in is: it compares with
codes. All members see one g at a step, as they see the rows in one order. Once trained it is a plain ReLU dictionary.

Left out: noise of other kinds (masking), tied weights.

Shapes: M members, B rows, N width, D = d_in.
"""

from __future__ import annotations

import torch

from monosemy.dictionaries.relu import Relu
from monosemy.dictionaries.variant import Hyper


class Denoising(Relu):
    """Untied ReLU-L1 whose encoder sees x + σ g."""

    name = "denoising"
    noisy = True

    def seen(self, x_BD: torch.Tensor, hyper: Hyper) -> torch.Tensor:
        """x + σ g: `x_MBD`, or for one member `x_BD`; x itself at a step without noise."""
        if hyper.noise_M is None or hyper.noise_BD is None:
            return x_BD
        return x_BD + hyper.noise_M[..., None, None] * hyper.noise_BD

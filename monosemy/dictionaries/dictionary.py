"""The contract of use: a `Dictionary` is what everything downstream speaks.

A dictionary writes an activation x as codes c ≥ 0 times directions: x̂ = c · W_dec + b_dec. Every metric, analysis,
baseline and imported file speaks only `Dictionary`; how one is trained is `variant.py`.

Shapes: B rows, D = d_in, E = d_out (D unless it writes another site than it reads), N = width, F some features,
K = most active features of any row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch


class Dictionary(ABC):
    """N directions in activation space and a way to write an activation with few of them.

    Subclasses keep their tensors in `tensors` and their numbers in `settings`, so that any of them can be moved, saved
    and loaded by the same code.
    """

    name: ClassVar[str]
    separate: ClassVar[bool] = False
    """A feature's code depends on the row and on the feature's own tensors alone (not so where features compete)."""
    SHARED: ClassVar[tuple[str, ...]] = ("b_dec", "W_skip")
    """Tensors of the dictionary as a whole; every other has one row a feature."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any] | None = None) -> None:
        self.tensors = dict(tensors)
        self.settings = dict(settings or {})

    @property
    def W_dec_ND(self) -> torch.Tensor:
        """The features' directions, one a row."""
        return self.tensors["W_dec"]

    @property
    def width(self) -> int:
        """N, the number of features."""
        return self.W_dec_ND.shape[0]

    @property
    def d_in(self) -> int:
        """D, the width of the rows that are encoded."""
        return self.tensors.get("W_enc", self.W_dec_ND).shape[1]

    @property
    def d_out(self) -> int:
        """E, the width of the rows that are reconstructed: D, but for transcoders."""
        return self.W_dec_ND.shape[1]

    @abstractmethod
    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """How much of each feature is in each row: `codes_BN`."""

    def encode_features(self, x_BD: torch.Tensor, features_F: torch.Tensor) -> torch.Tensor:
        """`codes_BF` of some features; where codes are `separate`, the others are not computed."""
        if not self.separate:
            return self.encode(x_BD)[:, features_F]
        own = {name: tensor if name in self.SHARED else tensor[features_F] for name, tensor in self.tensors.items()}
        return type(self)(own, self.settings).encode(x_BD)

    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """The rows that codes stand for: `x̂_BE`."""
        bias_D = self.tensors.get("b_dec")
        product_BD = codes_BN @ self.W_dec_ND
        return product_BD if bias_D is None else product_BD + bias_D

    def encode_sparse(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The non-zero codes only: `values_BK` and `indices_BK`, largest magnitude first, padded with zero values."""
        codes_BN = self.encode(x_BD)
        most = int((codes_BN != 0).sum(dim=1).max()) if len(codes_BN) else 0
        indices_BK = codes_BN.abs().topk(most, dim=1).indices
        return codes_BN.gather(1, indices_BK), indices_BK

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """decode(encode(x)), and what else the form adds: `x̂_BE`."""
        return self.decode(self.encode(x_BD))

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary on another device."""
        return type(self)({name: tensor.to(device) for name, tensor in self.tensors.items()}, self.settings)

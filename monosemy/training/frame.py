"""The frame in which training sees the rows: their scale, and where b_dec starts.

`unit` divides all coordinates by the mean norm of the rows, so that L1 means the same anywhere. `whiten` divides each
coordinate by its own std (and by √D, so that centred rows have a mean squared norm of 1). Sites that lie side by side
are scaled one by one, and so are inputs and targets of different sites. Exported dictionaries take raw rows: scales
are folded into their weights.

b_dec starts at the mean of the rows or at their geometric median, the point with the smallest mean distance to them,
which outliers hardly move (Bricken et al. 2023); it is found by Weiszfeld's iteration. Std and median are those of the
first SAMPLE rows of training.

Shapes: X sampled rows, D = d_in, E = d_out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from monosemy.data.rows import IteratorRows, RowSource
from monosemy.dictionaries.variant import Centre, Scaling
from monosemy.runtime import check_choices

Scale = Literal["unit", "whiten", "none"]
Bias = Literal["mean", "median", "none"]

ROW_ORDER_SEED = 0
SAMPLE, SAMPLE_BATCH = 32_768, 4096
LEAST_STD = 1e-3  # of the root mean square std: what hardly varies is not blown up
WEISZFELD_ROUNDS, WEISZFELD_STILL = 100, 1e-6


@dataclass(frozen=True)
class Frame:
    """How rows are scaled for training, folded back after, and where b_dec starts."""

    scale: Scale = "unit"
    """Rescale rows to mean norm 1 (unit), each coordinate by its std (whiten), or not at all."""
    b_dec: Bias = "mean"
    """Where the decoder's bias starts: mean or geometric median of the rows; none leaves it out."""

    def __post_init__(self) -> None:
        check_choices(self, scale=get_args(Scale), b_dec=get_args(Bias))


@dataclass(frozen=True)
class Framed:
    """What a frame is for some rows. `paired`: targets have a scale and centre of their own."""

    scaling: Scaling
    centre: Centre | None
    sites: tuple[int, ...] = ()
    paired: bool = False

    @property
    def d_in(self) -> int:
        """D."""
        return len(self.scaling.seen_D)

    @property
    def d_out(self) -> int:
        """E."""
        return len(self.scaling.target_E)


def framed(rows: RowSource, frame: Frame) -> Framed:
    """Look at the rows: their statistics, and a sample where those do not say enough."""
    sites: tuple[int, ...] = getattr(rows, "sites", ())
    paired = hasattr(rows, "target_statistics")  # of another site; a clean target shares its row's frame
    need_sample = frame.scale == "whiten" or frame.b_dec == "median"
    sample_XD, sample_XE = _sample(rows, paired) if need_sample else (None, None)
    seen = rows.statistics()
    norms = [part.mean_norm for part in rows.site_statistics()] if sites else [seen.mean_norm]  # type: ignore[attr-defined]
    seen_D = _scale(frame, norms, sites or (rows.d_in,), sample_XD)
    centre_D = _centre(frame, seen.mean_D, sample_XD) * seen_D
    target_E, centre_E = seen_D, centre_D
    if paired:
        target: Any = rows.target_statistics()  # type: ignore[attr-defined]
        target_E = _scale(frame, [target.mean_norm], (len(target.mean_D),), sample_XE)
        centre_E = _centre(frame, target.mean_D, sample_XE) * target_E
    centre = None if frame.b_dec == "none" else Centre(centre_D, centre_E)
    return Framed(Scaling(seen_D, target_E), centre, sites, paired)


def geometric_median(x_XD: torch.Tensor) -> torch.Tensor:
    """The point with the smallest mean distance to the rows, by Weiszfeld's iteration from their mean."""
    x_XD = x_XD.double()
    middle_D = x_XD.mean(dim=0)
    for _ in range(WEISZFELD_ROUNDS):
        weight_X = 1 / torch.linalg.vector_norm(x_XD - middle_D, dim=1).clamp_min(1e-12)
        moved_D = (weight_X @ x_XD) / weight_X.sum()
        still = bool((moved_D - middle_D).norm() <= WEISZFELD_STILL * moved_D.norm())
        middle_D = moved_D
        if still:
            break
    return middle_D.float()


def _scale(frame: Frame, norms: Sequence[float], widths: Sequence[int], sample_XD: torch.Tensor | None) -> torch.Tensor:
    if sample_XD is not None and frame.scale == "whiten":
        return torch.cat([_whitening(std_D) for std_D in torch.split(sample_XD.double().std(dim=0), list(widths))])
    factors = [1 / norm if frame.scale == "unit" and norm > 0 else 1.0 for norm in norms]
    return torch.cat([torch.full((width,), factor) for width, factor in zip(widths, factors, strict=True)])


def _whitening(std_D: torch.Tensor) -> torch.Tensor:
    least = LEAST_STD * std_D.square().mean().sqrt().clamp_min(1e-30)
    scale_D: torch.Tensor = 1 / (std_D.clamp_min(least) * len(std_D) ** 0.5)
    return scale_D.float()


def _centre(frame: Frame, mean_D: torch.Tensor, sample_XD: torch.Tensor | None) -> torch.Tensor:
    return geometric_median(sample_XD) if sample_XD is not None and frame.b_dec == "median" else mean_D


def _sample(rows: RowSource, paired: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The first rows of training and their targets; of a stream that can be read once, what was read ahead."""
    if isinstance(rows, IteratorRows):
        x_XD = torch.cat(rows.head)[:SAMPLE]
        return x_XD, x_XD
    total = SAMPLE if rows.n_rows is None else min(SAMPLE, rows.n_rows)
    batch = min(SAMPLE_BATCH, total)
    stream: Iterator[Any] = rows.pairs(batch, ROW_ORDER_SEED) if paired else rows.batches(batch, ROW_ORDER_SEED)  # type: ignore[attr-defined]
    found = [next(stream) for _ in range(total // batch)]
    if not paired:
        return torch.cat(found), torch.cat(found)
    return torch.cat([x_BD for x_BD, _ in found]), torch.cat([target_BE for _, target_BE in found])

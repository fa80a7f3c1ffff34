"""Directions in three dimensions as arrows; and how a toy world makes its data, step by step, as pictures.

Every arrow has length 1, and a head that tells a direction from its opposite. True features are broad and light,
learned ones narrow and dark on top, so that a match shows in grey as well; dead ones are faint.
Letters: N learned features, G true ones, X rows, D = 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from monosemy.figure import GRID, INK, styled
from monosemy.report.grids import matrix
from monosemy.report.lines import bars

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUTH, LEARNED, DEAD, DATA = "#f0a830", "#123c7c", "#b4bac2", "#5b8fd0"
INCHES = 4.0
HEAD, SPREAD = 0.13, 0.055  # of an arrow: its head's length and half width


def picture_steps(
    truth_GD: Any, correlation_GG: Any, probabilities: Mapping[str, Sequence[float]], codes_XG: Any, x_XD: Any
) -> dict[str, Figure]:
    """The steps from true features to data in three dimensions, a figure each, by name.

    `probabilities`: step (drawn, decayed, rescaled) → firing probability of each feature [G]; `codes_XG`: true codes
    of a few rows; `x_XD`: many rows of data.
    """
    features = [str(feature) for feature in range(len(truth_GD))]
    return {
        "features": arrows_figure(truth_GD, title="true features"),
        "correlation": matrix(correlation_GG, "correlation", limits=(-1, 1), x_label="feature", y_label="feature"),
        "probabilities": bars(probabilities, features, "firing probability", x_label="feature"),
        "codes": matrix(codes_XG, "code", blank=0.0, x_label="feature", y_label="row"),
        "data": arrows_figure(truth_GD, points_XD=x_XD, title="data and true features"),
    }


@styled
def arrows_figure(truth_GD: Any, *, points_XD: Any = None, title: str = "") -> Figure:
    """True features as arrows in three dimensions, in a cloud of data points where given."""
    directions = np.asarray(truth_GD, dtype=float)
    figure, axes = new_space(title)
    if points_XD is not None:
        axes.plot(
            *np.asarray(points_XD, dtype=float).T,
            ".",
            color=DATA,
            markersize=2,
            alpha=0.5,
            label="data",
            rasterized=True,
        )
    draw_arrows(axes, directions, TRUTH, 4.0, f"true ({len(directions)})")
    figure.legend(loc="lower center", ncols=3)
    return figure


def arrows(directions_ND: np.ndarray) -> np.ndarray:
    """The arrows from the origin along `directions_ND`, length 1, as one line [11 N, 3] that breaks at NaN.

    Per arrow the shaft, and a head of four barbs. A direction of length 0 is not drawn.
    """
    length_N1 = np.linalg.norm(directions_ND, axis=1, keepdims=True)
    unit_ND = np.divide(directions_ND, length_N1, out=np.full(directions_ND.shape, np.nan), where=length_N1 > 0)
    least = np.eye(3)[np.argmin(np.abs(np.nan_to_num(unit_ND)), axis=1)]  # far from parallel to the arrow
    side_ND = np.cross(unit_ND, least)
    side_ND = SPREAD * side_ND / np.linalg.norm(side_ND, axis=1, keepdims=True)
    other_ND = np.cross(unit_ND, side_ND)
    neck_ND, gap_ND = (1 - HEAD) * unit_ND, np.full(unit_ND.shape, np.nan)
    barbs = [(neck_ND + side_ND, unit_ND, neck_ND - side_ND) for side_ND in (side_ND, other_ND)]
    return np.stack([0 * unit_ND, unit_ND, gap_ND, *barbs[0], gap_ND, *barbs[1], gap_ND], axis=1).reshape(-1, 3)


def new_space(title: str) -> tuple[Figure, Any]:
    """A figure of the unit sphere, seen from one fixed side, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(INCHES, INCHES))
    figure.set_layout_engine("none")
    axes: Any = figure.add_axes((0, 0.06, 1, 0.88), projection="3d", proj_type="ortho")
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1))
    axes.set_box_aspect((1, 1, 1), zoom=1.45)
    axes.view_init(elev=22, azim=35)
    axes.set_axis_off()
    axes.plot(*circles().T, color=GRID, linewidth=0.5, alpha=0.6)
    figure.text(0.03, 0.95, title, fontsize=9.5, color=INK)
    return figure, axes


def draw_arrows(axes: Any, directions_ND: np.ndarray, colour: str, width: float, name: str) -> Any:
    """Draw arrows as one line, and give it: `set_data_3d(*arrows(...).T)` moves it."""
    style = {"color": colour, "linewidth": width, "solid_capstyle": "round", "solid_joinstyle": "round", "label": name}
    return axes.plot(*arrows(directions_ND).T, **style)[0]


def circles() -> np.ndarray:
    """The three great circles of the unit sphere, as one broken line."""
    turn = np.linspace(0, 2 * np.pi, 73)
    flat = np.stack([np.cos(turn), np.sin(turn), 0 * turn], axis=1)
    gap = np.full((1, 3), np.nan)
    return np.concatenate([flat, gap, flat[:, [0, 2, 1]], gap, flat[:, [2, 0, 1]]])

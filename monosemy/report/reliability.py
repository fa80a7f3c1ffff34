"""The reliability diagram: how often features said to be present with probability p are, and how many pairs that was.

On the diagonal a probability means what it says; below it, it is over-confident. A point is a bin, at its mean
probability, with the 95 % interval of what was observed; under them the pairs of a feature and a row in each bin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from monosemy.figure import INK, palette, styled
from monosemy.metrics.calibration import Reliability
from monosemy.report.plots import LINES, MARKERS
from monosemy.runtime import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (4.8, 5.2)
FEWEST = 30  # pairs of a bin that is drawn


@styled
def reliability_diagram(series: Mapping[str, Reliability], title: str = "") -> Figure:
    """A curve a series over the bins that hold at least FEWEST pairs. Raises UsageError without any series."""
    from matplotlib.figure import Figure

    if not series:
        raise UsageError("`series` is empty, so there is no reliability to draw; give at least one")
    figure = Figure(figsize=SIZE)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=INK, linestyle=(0, (4, 3)), linewidth=0.9)
    for number, (name, colour) in enumerate(zip(series, palette(len(series)), strict=True)):
        found = series[name]
        kept_K = found.count_K >= FEWEST
        x, y = found.predicted_K[kept_K].numpy(), found.observed_K[kept_K].numpy()
        line = {"color": colour, "linestyle": LINES[number % len(LINES)]}
        above.plot(x, y, marker=MARKERS[number % len(MARKERS)], markersize=4, label=_label(name, found), **line)
        above.vlines(x, found.low_K[kept_K].numpy(), found.high_K[kept_K].numpy(), color=colour, linewidth=1.2)
        counts = found.count_K.clamp_min(0.5).tolist()
        below.stairs(counts, found.edges_K1.tolist(), color=colour, linestyle=line["linestyle"], linewidth=1.2)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="observed: present", title=title)
    above.grid(True)
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center")
    below.set(yscale="log", xlabel="predicted: probability of being present", ylabel="pairs")
    below.set_ylim(bottom=0.5)
    return figure


def _label(name: str, found: Reliability) -> str:
    unclear = f", of unclear pairs {found.ece_unclear.value:.2g}" if found.unclear else ""
    return f"{name}: ECE {found.ece.value:.2g}{unclear}"

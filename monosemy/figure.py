"""How figures look, and how one becomes part of a page.

Figures are drawn in their light colours. `svg` then turns the ink into `currentColor` and every series colour into a
CSS variable, so one figure is right on a light page, on a dark one (`dark_style`) and on paper. Series go along
viridis, which keeps its order in grey and for the colour-blind. pyplot is not used, matplotlib is imported when the
first figure is drawn, and its settings are restored after each.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from html import escape
from io import StringIO
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

INK, GRID = "#3d444d", "#8c959f"
STEPS = 10
SIZE = (4.8, 3.3)
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

STYLE: Mapping[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollars in it
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "svg.fonttype": "none",
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draw under STYLE on matplotlib's own defaults, whatever the caller's settings are; those return after."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return wrapper


def new_axes() -> tuple[Figure, Axes]:
    """An empty figure of the report's size and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE)
    return figure, figure.add_subplot()


def svg(figure: Figure, name: str, description: str) -> str:
    """The figure as an inline `<svg>`: colours follow the page, ids begin with `name`, nothing is linked."""
    return inline(svg_source(figure, name), name, description)


def svg_source(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` document in its light colours, without a background; equal figures, equal text."""
    import matplotlib

    buffer = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # Its text stays text, drawn by the viewer's fonts; that DejaVu lacks a letter matters to the layout alone.
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(buffer, format="svg", transparent=True, dpi=160, metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def svg_file(source: str) -> bytes:
    """`svg_source` as a file of its own: on white, so that its ink shows in any viewer."""
    return re.sub(r"(<svg[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', source, count=1).encode()


def inline(source: str, name: str, description: str) -> str:
    """`svg_source` for a page, see `svg`."""
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", source, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", text)
    text = re.sub(r'<svg width="[^"]*" height="[^"]*"', f'<svg role="img" aria-label="{escape(description)}"', text)
    text = re.sub(r'\bid="|(?<=url\()#|(?<=href=")#', lambda found: f"{found[0]}{name}-", text)
    text = re.sub(r"(font: [^;\"]*?px|font-family:) [^;\"]*", r"\1 system-ui, sans-serif", text)
    for number, (light, _) in enumerate(_colours()):
        text = text.replace(light, f"var(--series-{number}, {light})")
    return text.replace(INK, "currentColor")


def dark_style() -> str:
    """The CSS that gives the series their dark-page colours; without it the light ones stay."""
    colours = "".join(f"--series-{number}:{dark};" for number, (_, dark) in enumerate(_colours()))
    return f"@media screen and (prefers-color-scheme: dark){{:root{{{colours}}}}}"


def palette(n: int) -> list[str]:
    """`n` series colours in order along viridis; beyond STEPS they repeat neighbours."""
    places = np.linspace(0, STEPS - 1, n + 2)[1:-1] if n < 3 else np.linspace(0, STEPS - 1, n)
    return [_colours()[round(float(place))][0] for place in places]


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Labels for a logarithmic axis from `low` to `high`: powers of ten, or 1-2-5 on a short one; plain text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    long = high >= 80 * low
    axis.set_major_locator(LogLocator(subs=(1,) if long else (1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power(value) if long else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def power(value: float) -> str:
    """The power of ten nearest to `value`: 10⁻²."""
    return "10" + str(round(math.log10(value))).translate(SUPERSCRIPTS)


def cell_colour(cmap: str, place: float) -> str:
    """The colour of a heatmap's cell at `place` in [0, 1]: never quite a series colour, which `svg` would turn dark."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colour = to_hex(colormaps[cmap](place))
    return f"#{int(colour[1:], 16) ^ 1:06x}" if colour in {light for light, _ in _colours()} else colour


def _colours() -> list[tuple[str, str]]:
    """(light, dark) of every step: viridis without the end that is pale on white, or black on black."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    steps = np.linspace(0, 1, STEPS)
    viridis = colormaps["viridis"]
    return [(to_hex(viridis(0.78 * step)), to_hex(viridis(0.32 + 0.68 * step))) for step in steps]

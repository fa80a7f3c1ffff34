"""A dictionary learning in three dimensions: its features and the true ones as arrows, epoch by epoch.

As a GIF, seen from one side, and as a page with the same arrows to turn and a slider over the epochs (by plotly, which
lies once beside the pages; nothing is fetched). Letters: F frames, N learned features, G true ones, D = 3.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monosemy.figure import GRID, INK, styled
from monosemy.files import write_whole
from monosemy.report.payload import safe_json
from monosemy.report.space import DEAD, LEARNED, TRUTH, arrows, circles, draw_arrows, new_space
from monosemy.runtime import UsageError

TEMPLATES = Path(__file__).parent / "templates"
DPI = 96
FRAME_MS, LAST_MS = 160, 2500
SHADES = 12  # of each colour towards white, in the GIF's table of colours
PLOTLY = "plotly.min.js"


@styled
def write_gif(
    path: Path, frames_FND: Any, truth_GD: Any, epochs: Sequence[int], title: str, *, dead_FN: Any = None
) -> None:
    """Write the animation as a GIF that repeats: it rests on the last epoch, its first frame, then plays all epochs.

    Printed, or shown as a still, it is the trained dictionary.

    `frames_FND`: the learned directions [F, N, 3] of any length; `epochs`: the F epochs they belong to; `truth_GD`:
    [G, 3]; `dead_FN`: which learned features are dead [F, N]. Raises UsageError if the shapes differ.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    frames_FND, truth_GD, dead_FN = _checked(frames_FND, truth_GD, epochs, dead_FN)
    figure, axes = new_space(title)
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)
    draw_arrows(axes, truth_GD, TRUTH, 5.0, f"true ({len(truth_GD)})")
    dead = draw_arrows(axes, frames_FND[0], DEAD, 1.2, "dead" if dead_FN.any() else "_nolegend_")
    alive = draw_arrows(axes, frames_FND[0], LEARNED, 1.6, f"learned ({frames_FND.shape[1]})")
    figure.legend(loc="lower center", ncols=3)
    epoch = figure.text(0.97, 0.1, "", ha="right")
    table = _colours()
    pictures = []
    for number, frame_ND in enumerate(frames_FND):
        alive.set_data_3d(*arrows(frame_ND[~dead_FN[number]]).T)
        dead.set_data_3d(*arrows(frame_ND[dead_FN[number]]).T)
        epoch.set_text(f"epoch {epochs[number]:,}")
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())[:, :, :3])
        pictures.append(picture.quantize(palette=table, dither=Image.Dither.NONE))
    durations = [LAST_MS] + [FRAME_MS] * len(pictures)
    file = BytesIO()
    pictures[-1].save(file, format="GIF", save_all=True, append_images=pictures, duration=durations, loop=0, disposal=1)
    write_whole(path, file.getvalue())


def write_rotatable(
    path: Path, frames_FND: Any, truth_GD: Any, epochs: Sequence[int], title: str, *, dead_FN: Any = None
) -> None:
    """Write the animation as a page to turn, with a slider over the epochs, and plotly beside it unless it is there.

    Arguments and errors as in `write_gif`.
    """
    from plotly.offline import get_plotlyjs

    frames_FND, truth_GD, dead_FN = _checked(frames_FND, truth_GD, epochs, dead_FN)
    environment = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined)
    script = (TEMPLATES / "rotatable.js").read_text(encoding="utf-8")
    page = environment.get_template("rotatable.html").render(
        title=title,
        plotly=PLOTLY,
        figure=safe_json(rotatable(frames_FND, truth_GD, epochs, dead_FN)),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    write_whole(path, page.encode("utf-8", "backslashreplace"))
    library = path.with_name(PLOTLY)
    if not library.is_file():
        write_whole(library, get_plotlyjs().encode())


def rotatable(
    frames_FND: np.ndarray, truth_GD: np.ndarray, epochs: Sequence[int], dead_FN: np.ndarray
) -> dict[str, Any]:
    """The figure in plotly's format: its traces show the last frame, `frames` hold the learned traces of each."""
    import plotly.graph_objects as go

    def learned(number: int) -> list[Any]:
        alive, dead = (np.flatnonzero(kept) for kept in (~dead_FN[number], dead_FN[number]))
        frame_ND = frames_FND[number]
        return [_trace(frame_ND, alive, LEARNED, 5, "learned"), _trace(frame_ND, dead, DEAD, 3, "learned, dead")]

    frames = [go.Frame(name=str(epoch), data=learned(number), traces=[2, 3]) for number, epoch in enumerate(epochs)]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [{"label": frame.name, "method": "animate", "args": [[frame.name], at_once]} for frame in frames]
    axis = {"range": [-1.1, 1.1], "visible": False, "showspikes": False}
    truth = _trace(truth_GD, np.arange(len(truth_GD)), TRUTH, 12, "true")
    sphere = go.Scatter3d(**_columns(circles()), mode="lines", line={"color": "#d5d9de", "width": 1}, hoverinfo="skip")
    figure = go.Figure([sphere.update(showlegend=False), truth, *learned(-1)], frames=frames)
    figure.update_layout(
        template="none",
        margin={"l": 30, "r": 30, "t": 0, "b": 0},
        uirevision="kept",
        legend={"orientation": "h", "y": 1, "x": 0},
        scene={"xaxis": axis, "yaxis": axis, "zaxis": axis, "aspectmode": "cube"},
        sliders=[
            {"steps": steps, "active": len(steps) - 1, "currentvalue": {"prefix": "epoch "}, "pad": {"t": 10, "b": 30}}
        ],
    )
    found = figure.to_plotly_json()
    return {"data": found["data"], "layout": found["layout"], "frames": [frame.to_plotly_json() for frame in frames]}


def _checked(frames_FND: Any, truth_GD: Any, epochs: Sequence[int], dead_FN: Any) -> tuple[np.ndarray, ...]:
    frames_FND, truth_GD = np.asarray(frames_FND, dtype=float), np.asarray(truth_GD, dtype=float)
    if frames_FND.ndim != 3 or frames_FND.shape[2] != 3 or truth_GD.ndim != 2 or truth_GD.shape[1] != 3:
        raise UsageError(
            f"the frames (={list(frames_FND.shape)}) must be [F, N, 3] and the true features (={list(truth_GD.shape)}) "
            "[G, 3]; only dictionaries in three dimensions can be drawn"
        )
    if not len(frames_FND) == len(epochs) > 0:
        raise UsageError(
            f"`epochs` (={len(epochs)} of them) must name each of the {len(frames_FND)} frames, at least one"
        )
    dead_FN = np.zeros(frames_FND.shape[:2], dtype=bool) if dead_FN is None else np.asarray(dead_FN, dtype=bool)
    if dead_FN.shape != frames_FND.shape[:2]:
        raise UsageError(f"`dead_FN` (={list(dead_FN.shape)}) must be {list(frames_FND.shape[:2])}, as the frames are")
    return frames_FND, truth_GD, dead_FN


def _columns(line: np.ndarray) -> dict[str, list[float | None]]:
    """A broken line as plotly takes it."""
    return {
        axis: [None if np.isnan(value) else round(float(value), 4) for value in values]
        for axis, values in zip("xyz", line.T, strict=True)
    }


def _trace(directions_ND: np.ndarray, numbers: np.ndarray, colour: str, width: float, name: str) -> Any:
    """Arrows of the features `numbers`, named by them at a touch."""
    import plotly.graph_objects as go

    text = [f"{name} {number}" for number in numbers for _ in range(11)]
    line = {"color": colour, "width": width}
    found = _columns(arrows(directions_ND[numbers]))
    return go.Scatter3d(**found, mode="lines", name=name, text=text, hoverinfo="text", line=line, showlegend=True)


def _colours() -> Any:
    """The GIF's table of colours: each that is drawn, and its way to white."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    table = Image.new("P", (1, 1))
    shades = np.linspace(0, 1, SHADES)[:, None]
    ramps = [np.array(to_rgb(colour)) * (1 - shades) + shades for colour in (TRUTH, LEARNED, DEAD, INK, GRID)]
    table.putpalette([round(255 * float(part)) for ramp in ramps for part in ramp.ravel()])
    return table

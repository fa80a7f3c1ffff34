"""Studies' pages: what is on them, that nothing runs or leaves, and that figures show the data they stand for."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from monosemy.figure import cell_colour, palette, svg
from monosemy.report import cells, grids, lines
from monosemy.report.animations import write_gif, write_rotatable
from monosemy.report.space import DATA, DEAD, LEARNED, TRUTH, arrows, picture_steps
from monosemy.report.study import StudyPage, plain, shown
from monosemy.runtime import UsageError

HOSTILE = "</code></script><script>document.title='owned'</script><img src=x onerror=\"alert(1)\"> $a$ & {{ 7*7 }}"
COMMAND = "monosemy study superposition --out runs/superposition"
L1S = [10 ** (e / 4) for e in range(-8, 9)]
WIDTHS = [512 * 2**e for e in range(-2, 6)]
GRID = {
    (l1, width): None if l1 * 512 > width * 20 else math.log10(l1) + math.log2(width / 512)
    for l1 in L1S
    for width in WIDTHS
}


class Parsed(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, *names: str) -> list[str]:
        return [value for _, attributes in self.tags for name, value in attributes.items() if name in names and value]

    def policy(self) -> dict[str, str]:
        """The content security policy: directive → sources."""
        (text,) = (found["content"] for tag, found in self.tags if found.get("http-equiv") == "Content-Security-Policy")
        return {part.split()[0]: " ".join(part.split()[1:]) for part in str(text).split(";")}


def frames(epochs: int = 6, width: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Directions on their way to the true ones, the last two of them dead from the middle on: learned, truth, dead."""
    dice = np.random.default_rng(0)
    truth, start = dice.normal(size=(width - 2, 3)), dice.normal(size=(width, 3))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    goal = np.concatenate([truth, start[-2:]])
    share = np.linspace(0, 1, epochs)[:, None, None]
    dead = np.zeros((epochs, width), dtype=bool)
    dead[epochs // 2 :, -2:] = True
    return (1 - share) * start + share * goal, truth, dead


def write_study(out: Path, hostile: str = HOSTILE) -> list[Path]:
    """Two pages with every kind of block; `hostile` stands wherever a text can."""
    nav = {"index": "Overview", "picture": f"Picture {hostile}"}
    page = StudyPage(out, title=f"Superposition {hostile}", lead=f"First.\n\nSecond {hostile}.", nav=nav)
    page.section(f"Recovery {hostile}", hostile, found=f"S {hostile}", measured=f"M {hostile}", agrees=f"A {hostile}")
    heatmap = grids.grid_heatmap(GRID, f"MMCS {hostile}", advised=(L1S[4], 512), best=(L1S[5], 1024), unit=512)
    data = cells.cells_data(GRID, advised=(L1S[4], 512), best=(L1S[5], 1024))
    words = {"found": f"found {hostile}", "measured": f"measured {hostile}", "agrees": f"agrees {hostile}"}
    page.figure(heatmap, "mmcs-truth", f"MMCS {hostile}", data, f"{COMMAND} {hostile}", **words)
    curve = {f"width {hostile}": (L1S, [0.1] * 17), "b": (L1S, [0.2] * 17)}
    page.figure(lines.lines(curve, hostile, hostile, log_x=True), "curve", "Curve", curve, f"{COMMAND} --only curve")
    page.table([{"kind": hostile, "mmcs": 0.123456, "n": 12345}, {"kind": "b", "mmcs": None, "n": 7}], caption=hostile)
    second = StudyPage(out, "picture", title="Picture", nav=nav)
    learned, truth, dead = frames()
    epochs = [10 * n for n in range(6)]
    caption = f"Learning {hostile}"
    second.animation("learn", learned, truth, epochs, caption, f"{COMMAND} --only picture", dead_FN=dead, title=hostile)
    return [page.write(), second.write()]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study")
    write_study(out)
    return out


# --- pages -------------------------------------------------------------------------------------------------------


def test_a_page_has_its_figures_their_data_and_their_commands(study: Path) -> None:
    text = (study / "index.html").read_text()
    figures = {found[1]: found[0] for found in re.finditer(r'<figure id="([\w-]+)".*?</figure>', text, re.DOTALL)}
    assert list(figures) == ["mmcs-truth", "curve"]
    assert {"var(--series-3", "var(--series-6"} <= set(re.findall(r"var\(--series-\d", figures["curve"])), (
        "series have other colours on a dark page"
    )
    assert re.search(r"prefers-color-scheme: dark\){:root{--series-0:#", text)
    for name, figure in figures.items():
        assert figure.count("<svg") == 1
        assert f'href="figures/{name}.json"' in figure
        assert f'href="figures/{name}.svg"' in figure
    assert f"<code>{COMMAND} --only curve</code>" in figures["curve"]
    assert "Source" not in figures["curve"], "an empty comparison"
    found = Parsed(figures["mmcs-truth"])
    for words in ("The source found", "Measured here", f"found {HOSTILE}", f"measured {HOSTILE}", f"agrees {HOSTILE}"):
        assert words in found.text
    assert f"{COMMAND} {HOSTILE}" in found.text

    said = json.loads((study / "figures" / "mmcs-truth.json").read_text())
    assert {(row["x"], row["y"]): row["value"] for row in said["cells"]} == GRID
    assert (said["advised"], said["best"]) == ([L1S[4], 512], [L1S[5], 1024])
    alone = (study / "figures" / "mmcs-truth.svg").read_text()
    assert alone.startswith("<svg")
    assert 'xmlns="http://www.w3.org/2000/svg"' in alone
    assert 'fill="white"' in alone


def test_an_animation_has_its_picture_its_3d_page_and_its_data(study: Path) -> None:
    found = Parsed((study / "picture.html").read_text())
    links = [value for value in found.values("href", "src") if value.startswith("figures/")]
    assert links == ["figures/learn.gif", "figures/learn.html", "figures/learn.gif", "figures/learn.json"]
    assert f"{COMMAND} --only picture" in found.text
    said = json.loads((study / "figures" / "learn.json").read_text())
    learned, truth, dead = frames()
    assert np.array_equal(said["learned"], learned)
    assert np.array_equal(said["truth"], truth)
    assert np.array_equal(said["dead"], dead)
    assert said["epochs"] == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize("name", ["index.html", "picture.html", "figures/learn.html"])
def test_nothing_outside_is_referenced_and_hostile_text_stays_text(study: Path, name: str) -> None:
    """Every link leads to a file of the study; no tag, handler or script comes from a text."""
    text = (study / name).read_text()
    found = Parsed(text)
    for value in found.values("href", "src", "xlink:href", "action", "data", "poster", "srcset"):
        if value.startswith(("data:image/png;base64,", "#")):
            continue
        assert re.fullmatch(r"[\w./-]+", value), value
        assert ((study / name).parent / value).is_file(), value
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", text)
    assert not [key for _, attributes in found.tags for key in attributes if key.startswith("on")]
    images = [attributes["src"] for tag, attributes in found.tags if tag == "img"]
    assert images == (["figures/learn.gif"] if name == "picture.html" else [])
    assert "49" not in re.findall(r"<title>(.*?)</title>", text, re.DOTALL)[0]
    if name == "index.html":
        for place in ("Superposition", "Second", "Recovery", "S", "M", "A", "MMCS", "width", "Picture"):
            assert f"{place} {HOSTILE}" in found.text, place


def test_the_content_security_policy(study: Path) -> None:
    """Pages run nothing; the 3-D page runs its own script, by its hash, and the plotly that lies beside it."""
    for name in ("index.html", "picture.html"):
        page = Parsed((study / name).read_text())
        assert page.policy()["default-src"] == "'none'"
        assert "script-src" not in page.policy()
        assert "script" not in {tag for tag, _ in page.tags}
    text = (study / "figures" / "learn.html").read_text()
    page = Parsed(text)
    assert page.policy()["default-src"] == "'none'"
    assert not {"connect-src", "object-src", "frame-src"} & page.policy().keys()
    inline = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert page.policy()["script-src"] == f"'self' file: 'sha256-{hashes[0]}'"
    assert len(inline) == 1
    assert [attributes["src"] for tag, attributes in page.tags if "src" in attributes] == ["plotly.min.js"]


def test_pages_share_a_bar_that_says_where_one_is(study: Path) -> None:
    for name in ("index", "picture"):
        found = Parsed((study / f"{name}.html").read_text())
        bar = [attributes for tag, attributes in found.tags if tag == "a"][:2]
        assert [link["href"] for link in bar] == ["index.html", "picture.html"]
        assert [link["href"] for link in bar if "aria-current" in link] == [f"{name}.html"]


def test_numbers_stand_right_and_the_undefined_are_blank(study: Path) -> None:
    text = (study / "index.html").read_text()
    body = re.findall(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[0]
    rows = [re.findall(r"<td(.*?)>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)]
    assert [[html.unescape(text) for _, text in row] for row in rows] == [[HOSTILE, "0.1235", "12,345"], ["b", "", "7"]]
    number = ' class="number"'
    assert [[kind for kind, _ in row] for row in rows] == [["", number, number], ["", "", number]]
    assert re.findall(r"<th [^>]*>", text) == ['<th scope="col">'] + 2 * ['<th scope="col" class="number">']


def test_equal_input_gives_equal_bytes(study: Path, tmp_path: Path) -> None:
    write_study(tmp_path)
    names = sorted(str(path.relative_to(study)) for path in study.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert [name for name in names if (study / name).read_bytes() != (tmp_path / name).read_bytes()] == []
    assert [name for name in names if "plotly" in name] == ["figures/plotly.min.js"], "once for all"


def test_what_a_page_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'\.\./x' must be of a-z"):
        StudyPage(tmp_path, "../x", title="")
    page = StudyPage(tmp_path, title="")
    page.figure(Figure(), "one", "", {}, COMMAND)
    with pytest.raises(UsageError, match="already has a figure named 'one'"):
        page.figure(Figure(), "one", "", {}, COMMAND)
    with pytest.raises(UsageError, match="keys must be text"):
        page.figure(Figure(), "two", "", GRID, COMMAND)


def test_data_is_json() -> None:
    given = {"a": np.float32(0.5), "b": torch.tensor([1.0, math.inf]), "c": [(1, math.nan)], "d": None, "e": True}
    assert plain(given) == {"a": 0.5, "b": [1.0, None], "c": [[1, None]], "d": None, "e": True}
    with pytest.raises(UsageError, match="holds a PosixPath"):
        plain(Path("x"))


def test_numbers_in_tables() -> None:
    values = (0.123456, 12345.6, -0.5, 1e-5, 3, 16384, None, math.nan, True, "x", 1.0)
    assert [shown(value) for value in values] == (
        ["0.1235", "12,346", "−0.5", "1e−05", "3", "16,384", "", "", "yes", "x", "1"]
    )


# --- heatmaps ----------------------------------------------------------------------------------------------------


def drawn(figure: Figure, number: int = 0) -> dict[tuple[int, int], Any]:
    """The rectangles of a heatmap's cells by place (column, row from below)."""
    return {(round(patch.get_x()), round(patch.get_y())): patch for patch in figure.axes[number].patches}


def marked(figure: Figure, number: int = 0) -> dict[str, tuple[float, float]]:
    """Marker → place of every mark."""
    return {
        str(line.get_marker()): (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[number].lines
    }


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


def test_cells_have_the_colour_of_their_value_and_undefined_ones_are_blank() -> None:
    figure = grids.grid_heatmap(GRID, "MMCS", unit=512)
    patches = drawn(figure)
    assert len(patches) == len(GRID) == 17 * 8
    known = [value for value in GRID.values() if value is not None]
    assert 10 < len(known) < len(GRID) - 10
    for (l1, width), value in GRID.items():
        patch = patches[L1S.index(l1), WIDTHS.index(width)]
        if value is None:
            assert patch.get_facecolor()[3] == 0
            assert patch.get_hatch()
        else:
            place = (value - min(known)) / (max(known) - min(known))
            assert to_hex(patch.get_facecolor()) == cell_colour("viridis", place)
            assert not patch.get_hatch()
    assert legend(figure) == ["undefined"]
    assert not figure.axes[0].texts, "numbers do not fit into 136 cells"


def test_marks_stand_on_their_cells_and_are_explained() -> None:
    figure = grids.grid_heatmap(
        GRID, "MMCS", advised=(L1S[4], 512), best=(L1S[5], 1024), marks={"stickiness": (L1S[0], 128)}, unit=512
    )
    assert marked(figure) == {"o": (4.5, 2.5), "x": (5.5, 3.5), "^": (0.5, 0.5)}
    assert legend(figure) == ["advised", "best by the truth", "stickiness", "undefined"]
    assert marked(grids.grid_heatmap(GRID, "MMCS", best=(L1S[5], 1024))) == {"x": (5.5, 3.5)}, "one shape, one meaning"
    with pytest.raises(UsageError, match=r"'advised' \(=\(0.5, 512\)\) is not on the grid"):
        grids.grid_heatmap(GRID, "MMCS", advised=(0.5, 512))


def test_axes_are_in_the_sources_units() -> None:
    axes = grids.grid_heatmap(GRID, "MMCS", unit=512).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["10⁻²", "10⁻¹", "10⁰", "10¹", "10²"]
    assert list(axes.get_xticks()) == [0.5, 4.5, 8.5, 12.5, 16.5]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["¼", "½", "1", "2", "4", "8", "16", "32"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("L1 coefficient α (interim convention)", "width / G")
    noise = {(sigma, l1): sigma + l1 for sigma in (0.0, 0.05, 0.1) for l1 in L1S[::4]}
    figure = grids.grid_heatmap(noise, "loss", x_label="noise σ", y_label="α", log=True)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "0.05", "0.1"]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["0.01", "0.1", "1", "10", "100"]
    assert sorted(text.get_text() for text in figure.axes[0].texts)[:2] == ["0.01", "0.06"]


def test_panels_share_axes_and_colours() -> None:
    """Half a grid keeps its place; what it never had is left empty, not called undefined; colours mean the same."""
    coarse = {cell: value for cell, value in GRID.items() if L1S.index(cell[0]) % 2 == 0 and cell[1] >= 512}
    shown = {"toy": {"advised": (L1S[4], 512)}, "layer 1": {grids.BEST: (L1S[6], 512), "advised": None}}
    figure = grids.panel({"toy": GRID, "layer 1": coarse}, "MMCS", marks=shown, unit=512)
    toy, layer = drawn(figure), drawn(figure, 1)
    assert set(layer) == {(L1S.index(l1), WIDTHS.index(width)) for l1, width in coarse}
    assert all(patch.get_facecolor() == toy[place].get_facecolor() for place, patch in layer.items())
    assert [figure.axes[n].get_title(loc="left") for n in (0, 1)] == ["toy", "layer 1"]
    assert marked(figure) == {"o": (4.5, 2.5)}
    assert marked(figure, 1) == {"x": (6.5, 2.5)}
    assert legend(figure) == ["advised", "best by the truth", "undefined"]


def test_no_cell_turns_into_another_colour_on_a_dark_page() -> None:
    """`svg` makes series colours variables; a cell at the end of the map must not be one of them."""
    assert to_hex(to_rgb(cell_colour("viridis", 0.0))) not in palette(10)
    figure = grids.grid_heatmap({(1, 1): 0.0, (2, 1): 1.0}, "x")
    assert "var(--series" not in svg(figure, "x", "x")


def test_cells_come_from_rows() -> None:
    rows = [
        {"l1": 0.1, "width": 512, "seed": 0, "mmcs": 0.5},
        {"l1": 0.1, "width": 512, "seed": 1, "mmcs": 0.7},
        {"l1": 0.1, "width": 512, "seed": 2, "mmcs": None},
        {"l1": 0.2, "width": 512, "seed": 0, "mmcs": math.nan},
    ]
    assert cells.cells_of(rows, "mmcs") == {(0.1, 512): pytest.approx(0.6), (0.2, 512): None}
    with pytest.raises(UsageError, match="undefined in every cell"):
        grids.grid_heatmap({(0.2, 512): None}, "mmcs")
    with pytest.raises(UsageError, match=r"`dead` \(=0\) must be positive on a logarithmic scale"):
        grids.grid_heatmap({(0.2, 512): 0, (0.2, 1): 3}, "dead", log=True)


def test_whole_numbers_have_no_decimals() -> None:
    def written(values: list[float]) -> list[str]:
        return [text.get_text() for text in grids.matrix([values], "dead features").axes[0].texts]

    assert written([3.0, 0.0, 12.0, 1234.0]) == ["3", "0", "12", "1,234"]
    assert written([3.0, 0.5, 12.0]) == ["3.00", "0.50", "12"]


@pytest.mark.parametrize("rows", [3, 8])
@pytest.mark.parametrize(
    "label", ["slope of learned on true codes (1 = no shrinkage)", "features shared with the next larger width", "MMCS"]
)
def test_the_label_of_the_colours_is_on_the_figure(label: str, rows: int) -> None:
    figure = grids.grid_heatmap({(l1, y): l1 * y for l1 in L1S for y in WIDTHS[:rows]}, label, unit=512)
    figure.savefig("/dev/null", format="png")
    name = figure.axes[1].yaxis.label
    box, page = name.get_window_extent(), figure.bbox
    assert name.get_text().split() == label.split()
    assert (box.x0 > page.x0, box.x1 < page.x1, box.y0 > page.y0, box.y1 < page.y1) == (True,) * 4


def test_a_matrix_reads_from_the_top_and_leaves_what_is_blank_empty() -> None:
    figure = grids.matrix([[0.0, 0.2], [0.3, 0.0], [0.0, 0.0]], "code", blank=0.0, x_label="feature", y_label="row")
    assert set(drawn(figure)) == {(1, 2), (0, 1)}
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["2", "1", "0"]


# --- curves ------------------------------------------------------------------------------------------------------


def test_curves_have_gaps_where_undefined_and_the_zone_where_it_is() -> None:
    x = [0.01, 0.1, 1.0]
    series = {"a": (x, [0.1, None, 0.3], [0.0, None, 0.2], [0.2, None, 0.4]), "b": (x, [0.2, 0.3, 0.4])}
    figure = lines.lines(series, "α", "MMCS", log_x=True, zone=(0.03, 0.3, "Goldilocks zone"), references={"PCA": 0.42})
    axes = figure.axes[0]
    y = np.array(axes.lines[0].get_ydata(), dtype=float)
    assert np.array_equal(y, [0.1, np.nan, 0.3], equal_nan=True)
    assert [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches] == [
        pytest.approx((0.03, 0.3))
    ]
    assert {text.get_text() for text in axes.texts} == {"Goldilocks zone", "PCA", "a", "b"}
    assert [
        list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2
    ]
    with pytest.raises(UsageError, match="undefined everywhere"):
        lines.lines({"a": (x, [None] * 3)}, "α", "MMCS")


def test_every_baseline_is_a_line_across_with_its_name_and_names_do_not_overlap() -> None:
    levels = {"PCA": 0.42, "ICA": 0.43, "NMF": 0.425, "dictionary learning": 0.8, "random": 0.2, "identity": 0.41}
    figure = lines.bars({"ReLU": [0.9, None], "tied": [0.8, 0.7]}, ["3-D", "noisy"], "MMCS", references=levels)
    axes = figure.axes[0]
    across = [float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert across == list(levels.values())
    assert [bar.get_height() for bar in axes.patches] == [0.9, 0, 0.8, 0.7]
    figure.savefig("/dev/null", format="png")
    boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert boxes.keys() == levels.keys()
    order = sorted(boxes, key=lambda name: boxes[name].y0)
    assert order == sorted(levels, key=lambda name: levels[name])
    assert all(boxes[low].y1 <= boxes[high].y0 + 1 for low, high in pairwise(order))


def test_points_hold_every_value() -> None:
    dice = np.random.default_rng(0)
    x, y = dice.uniform(0.001, 1, 300), dice.random(300)
    axes = lines.scatter({"features": (list(x), list(y))}, "firing probability", "MCS", log_x=True).axes[0]
    assert np.array_equal(axes.lines[0].get_xdata(), x)
    assert np.array_equal(axes.lines[0].get_ydata(), y)


def test_widths_are_named_as_multiples() -> None:
    widths = [0.25, 0.5, 1, 2, 4]
    figure = lines.lines({"": (widths, [0.1] * 5)}, "width / G", "MMCS", log_x=True, x_ticks=widths)
    figure.savefig("/dev/null", format="png")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["¼", "½", "1", "2", "4"]
    assert list(axes.get_xticks()) == widths
    assert not list(axes.get_xticks(minor=True))


# --- three dimensions --------------------------------------------------------------------------------------------


def test_arrows_have_length_one_and_a_head_at_their_tip() -> None:
    learned, _, _ = frames()
    lines_ND = arrows(learned[0] * 7).reshape(len(learned[0]), 11, 3)
    unit = learned[0] / np.linalg.norm(learned[0], axis=1, keepdims=True)
    assert np.allclose(lines_ND[:, 0], 0)
    for tip in (1, 4, 8):
        assert np.allclose(lines_ND[:, tip], unit)
    for barb in (3, 5, 7, 9):
        assert np.all(np.linalg.norm(lines_ND[:, barb] - unit, axis=1) < 0.2)
        assert np.all((lines_ND[:, barb] * unit).sum(axis=1) < 0.9), "behind the tip"
    assert np.isnan(lines_ND[:, [2, 6, 10]]).all()
    assert np.isnan(arrows(np.zeros((1, 3)))).all(), "a direction of length 0 is not drawn"
    assert np.isfinite(arrows(np.eye(3)).reshape(3, 11, 3)[:, [0, 1, 3, 4, 5, 7, 8, 9]]).all()


def test_the_gif_has_every_epoch_after_the_last_and_both_kinds_of_arrow(tmp_path: Path) -> None:
    learned, truth, dead = frames()
    write_gif(tmp_path / "a.gif", learned, truth, range(0, 60, 10), "width 8", dead_FN=dead)
    assert (tmp_path / "a.gif").stat().st_size < 100_000
    with Image.open(tmp_path / "a.gif") as picture:
        assert picture.n_frames == 7
        assert picture.info["loop"] == 0
        shares = []
        still = np.asarray(picture.convert("RGB"))
        for number in range(1, 7):
            picture.seek(number)
            shown = np.asarray(picture.convert("RGB"))
            assert np.array_equal(shown, still) == (number == 6), "a still is the last epoch"
            pixels = shown.reshape(-1, 3)[: 384 * 330]  # above the legend
            colours = [np.round(255 * np.array(to_rgb(colour))) for colour in (TRUTH, LEARNED, DEAD)]
            shares.append([int((np.abs(pixels - colour).max(axis=1) <= 1).sum()) for colour in colours])
    found = np.array(shares)
    assert (found[:, :2] > 50).all(), "true and learned features on every frame"
    assert (found[:3, 2] < found[3:, 2].min()).all(), "dead ones once they are dead"
    assert found[-1, 0] < found[0, 0], "learned features come to lie on the true ones"


def test_the_3d_page_holds_every_frame(tmp_path: Path) -> None:
    learned, truth, dead = frames()
    write_rotatable(tmp_path / "a.html", learned, truth, range(0, 60, 10), "width 8", dead_FN=dead)
    text = (tmp_path / "a.html").read_text()
    figure = json.loads(re.findall(r'<script type="application/json" id="figure">(.*?)</script>', text, re.DOTALL)[0])
    assert [frame["name"] for frame in figure["frames"]] == [str(epoch) for epoch in range(0, 60, 10)]
    (slider,) = figure["layout"]["sliders"]
    assert [step["args"][0] for step in slider["steps"]] == [[frame["name"]] for frame in figure["frames"]]
    for number, frame in enumerate(figure["frames"]):
        for trace, kept in zip(frame["data"], (~dead[number], dead[number]), strict=True):
            line = np.array([trace[axis] for axis in "xyz"], dtype=float).T
            assert np.allclose(line, arrows(learned[number][kept]), atol=1e-4, equal_nan=True)
    assert [figure["data"][place]["line"]["color"] for place in (1, 2, 3)] == [TRUTH, LEARNED, DEAD]
    assert [frame["traces"] for frame in figure["frames"]] == [[2, 3]] * 6
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000


def test_only_three_dimensions_can_be_drawn(tmp_path: Path) -> None:
    learned, truth, _ = frames()
    with pytest.raises(UsageError, match=r"\[6, 8, 2\].*only dictionaries in three dimensions"):
        write_gif(tmp_path / "a.gif", learned[:, :, :2], truth, range(6), "")
    with pytest.raises(UsageError, match=r"`epochs` \(=5 of them\)"):
        write_rotatable(tmp_path / "a.html", learned, truth, range(5), "")


def test_the_steps_to_data_are_five_pictures() -> None:
    _, truth, _ = frames()
    dice = np.random.default_rng(0)
    codes = dice.random((50, 6)) * (dice.random((50, 6)) < 0.3)
    chances = {"drawn": [0.5] * 6, "rescaled": [0.1] * 6}
    figures = picture_steps(truth, np.eye(6), chances, codes[:9], codes @ truth)
    assert list(figures) == ["features", "correlation", "probabilities", "codes", "data"]
    cloud = figures["data"].axes[0].lines[1].get_data_3d()
    assert np.allclose(np.array(cloud).T, codes @ truth)
    assert len(drawn(figures["codes"])) == int((codes[:9] > 0).sum())
    assert figures["data"].axes[0].lines[1].get_color() == DATA


# --- in a browser ------------------------------------------------------------------------------------------------

HARMLESS = ("GPU stall due to ReadPixels", "Canvas2D: Multiple readback operations")  # advice about speed, no fault


def browse(page: Path, profile: Path) -> tuple[list[str], str]:
    """What a browser has on its console, less what is HARMLESS, and the document. It logs errors at the level INFO."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(names)} is installed")
    flags = "--headless --no-sandbox --disable-gpu --enable-unsafe-swiftshader --disable-background-networking"
    flags += f" --enable-logging=stderr --virtual-time-budget=20000 --dump-dom --user-data-dir={profile}"
    done = subprocess.run(
        [found, *flags.split(), page.as_uri()],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return [line for line in console if not any(words in line for words in HARMLESS)], done.stdout


@pytest.mark.parametrize("name", ["index.html", "picture.html", "figures/learn.html"])
def test_pages_in_a_browser(study: Path, tmp_path: Path, name: str) -> None:
    """A clean console: no script refused, nothing missing, and on the 3-D page a figure with its slider."""
    console, document = browse(study / name, tmp_path)
    assert console == []
    assert "owned" not in re.findall(r"<title>(.*?)</title>", document)[0].split("script")[0]
    if name == "figures/learn.html":
        assert "slider-container" in document
        assert "gl-container" in document


def test_a_refused_script_is_on_the_console(study: Path, tmp_path: Path) -> None:
    """What the clean consoles above are worth."""
    page = tmp_path / "page.html"
    page.write_text((study / "index.html").read_text() + "<script>document.title = 'owned'</script>")
    console, document = browse(page, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)
    assert "<title>owned" not in document

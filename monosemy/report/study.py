"""A study's report: pages that set what a source found beside what was measured here, figure by figure.

Every figure is on its page, in `figures/NAME.svg`, and as data in `figures/NAME.json`; the command that makes it again
is printed under it. The pages open from disk with no network: no script runs on them, nothing is loaded but pictures
that lie beside them, and jinja2 escapes every text. Equal input gives equal bytes. Only the 3-D pages beside the
animations run a script, plotly's, which is written once beside them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from monosemy.figure import dark_style, inline, svg_file, svg_source
from monosemy.files import write_whole
from monosemy.report.animations import TEMPLATES, write_gif, write_rotatable
from monosemy.report.page import environment
from monosemy.runtime import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
REM_PER_INCH = 6.6  # of a figure's width on the page


@dataclass
class Section:
    """A heading, its text, and what stands under it."""

    heading: str
    text: str = ""
    comparison: tuple[str, str, str] = ("", "", "")
    """What the source found, what was measured here, and the verdict."""
    blocks: list[dict[str, Any]] = field(default_factory=list)


class StudyPage:
    """One page of a study, `name`.html in the folder `out`; the figures of all pages share `out`/figures.

    `nav`: page name → what the bar at the top calls it, the same for all pages of a study. `lead`: what the page
    is about. Texts are plain; an empty line parts paragraphs. Raises UsageError if a name is not of a-z, 0-9 and
    single hyphens.
    """

    def __init__(
        self, out: str | Path, name: str = "index", *, title: str, lead: str = "", nav: Mapping[str, str] | None = None
    ) -> None:
        self.out, self.name, self.title, self.lead = Path(out), _checked(name), title, lead
        self.nav = dict(nav or {})
        self.sections: list[Section] = []
        self.names: set[str] = set()

    def section(self, heading: str, text: str = "", *, found: str = "", measured: str = "", agrees: str = "") -> None:
        """Begin a section. `found`: what the source found; `measured`: what was seen here; `agrees`: the verdict."""
        self.sections.append(Section(heading, text, (found, measured, agrees)))

    def figure(
        self,
        figure: Figure,
        name: str,
        caption: str,
        data: Any,
        command: str,
        *,
        found: str = "",
        measured: str = "",
        agrees: str = "",
    ) -> None:
        """Show `figure`, written as `figures/name.svg`, with `data` as `figures/name.json` and `command` under it.

        `found`, `measured` and `agrees` as in `section`. `data` is of numbers, strings, lists, mappings with text keys,
        arrays and tensors; what is not finite becomes null. Raises UsageError if it is not, or `name` is taken.
        """
        self._take(name, data)
        source = svg_source(figure, name)
        write_whole(self.out / "figures" / f"{name}.svg", svg_file(source))
        self._add(
            kind="figure",
            picture=Markup(inline(source, name, caption)),
            files={"SVG": f"figures/{name}.svg", "data (JSON)": f"figures/{name}.json"},
            width=round(REM_PER_INCH * float(figure.get_figwidth()), 1),
            name=name,
            caption=caption,
            command=command,
            comparison=(found, measured, agrees),
        )

    def animation(
        self,
        name: str,
        frames_FND: Any,
        truth_GD: Any,
        epochs: Sequence[int],
        caption: str,
        command: str,
        *,
        dead_FN: Any = None,
        title: str = "",
        found: str = "",
        measured: str = "",
        agrees: str = "",
    ) -> None:
        """Show a dictionary learning: `figures/name.gif`, the same to turn in 3-D (`figures/name.html`), and data.

        Arguments as in `animations.write_gif`, `title` short; raises UsageError as that and `figure` do.
        """
        data = {"epochs": list(epochs), "truth": truth_GD, "learned": frames_FND}
        self._take(name, data if dead_FN is None else data | {"dead": dead_FN})
        file = self.out / "figures" / f"{name}.gif"
        write_gif(file, frames_FND, truth_GD, epochs, title, dead_FN=dead_FN)
        write_rotatable(file.with_suffix(".html"), frames_FND, truth_GD, epochs, title or caption, dead_FN=dead_FN)
        links = {"turn it in 3-D": "html", "GIF": "gif", "data (JSON)": "json"}
        self._add(
            kind="figure",
            picture=Markup('<img src="figures/{0}.gif" alt="{1}">').format(name, caption),
            files={label: f"figures/{name}.{ending}" for label, ending in links.items()},
            width=24,
            name=name,
            caption=caption,
            command=command,
            comparison=(found, measured, agrees),
        )

    def table(
        self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None, *, caption: str = ""
    ) -> None:
        """Show rows as a table; `columns`: field → heading, by default every field under its own name.

        Numbers stand right with up to four significant digits, the undefined stay blank.
        """
        heads = dict(columns) if columns else {name: name.replace("_", " ") for row in rows for name in row}
        lines = [[(shown(row.get(name)), _numeric(row.get(name))) for name in heads] for row in rows]
        right = [
            any(_numeric(row.get(name)) for row in rows) and not any(isinstance(row.get(name), str) for row in rows)
            for name in heads
        ]
        self._add(kind="table", heads=list(zip(heads.values(), right, strict=True)), lines=lines, caption=caption)

    def write(self) -> Path:
        """Write the page and give its path."""
        templates = environment()
        templates.filters["paragraphs"] = lambda text: [part for part in re.split(r"\n\s*\n", text.strip()) if part]
        style = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("report.css", "study.css"))
        page = templates.get_template("study.html").render(page=self, style=Markup(style + dark_style()))
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.name}.html"
        write_whole(path, page.encode("utf-8", "backslashreplace"))
        return path

    def _take(self, name: str, data: Any) -> None:
        """Claim a figure's name, and write its data."""
        if _checked(name) in self.names:
            raise UsageError(f"the page {self.name!r} already has a figure named {name!r}; name each differently")
        self.names.add(name)
        (self.out / "figures").mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False)
        write_whole(self.out / "figures" / f"{name}.json", (text + "\n").encode("utf-8", "backslashreplace"))

    def _add(self, **block: Any) -> None:
        if not self.sections:
            self.sections.append(Section(""))
        self.sections[-1].blocks.append(block)


def plain(data: Any) -> Any:
    """`data` as what JSON has: arrays and tensors become lists, numbers that are not finite null.

    Raises UsageError for anything else, such as a mapping whose keys are no text.
    """
    if isinstance(data, Mapping):
        if not all(isinstance(key, str) for key in data):
            raise UsageError(
                f"a figure's data has the keys {list(data)[:2]}; keys must be text (see report.cells.cells_data)"
            )
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if hasattr(data, "tolist"):
        return plain(data.tolist())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if data is None or isinstance(data, bool | int | str):
        return data
    raise UsageError(f"a figure's data holds a {type(data).__name__}; give numbers, text, lists, mappings or arrays")


def shown(value: Any) -> str:
    """A table's value as text: four significant digits at most, undefined blank."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        return text.replace("-", "−")
    return f"{value:,}".replace("-", "−") if isinstance(value, int) else str(value)


def _numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"the name {name!r} must be of a-z, 0-9 and single hyphens, as in mmcs-noise")
    return name

"""`report.html`: a finished run on one page that opens from disk, for years, with no network and no server.

Everything is inside: style, script, figures (SVG) and the features (JSON). Text from a corpus never becomes markup:
jinja2 escapes what it prints, the JSON has no `<` in it, the script only ever sets textContent, and a content security
policy lets nothing run but the page's own script, and nothing be fetched at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monosemy.artifact import Artifact
from monosemy.figure import dark_style, svg
from monosemy.files import write_whole
from monosemy.report import plots
from monosemy.report.fields import FIELDS, columns, identity, shown
from monosemy.report.payload import MOST_FEATURES, payload, safe_json
from monosemy.report.reliability import reliability_diagram
from monosemy.report.run import Row, Run, open_run
from monosemy.runtime import UsageError

TEMPLATES = Path(__file__).parent / "templates"
MOST_CURVES = 6
SCRIPTS = ("feature.js", "report.js")


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of the finished run in folder `run`, and give its path (default: `run`/report.html).

    Shows what there is: without scores or features the page says so. Raises UsageError if `run` is no folder or holds
    neither dictionaries nor scores nor features, or if `out` is a folder.
    """
    found = open_run(run)
    path = Path(out) if out is not None else found.path / "report.html"
    if path.is_dir():
        raise UsageError(f"`out` (={str(path)!r}) is a folder; name the file to write, as in {path / 'report.html'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render(found).encode("utf-8", "backslashreplace"))
    return path


def render(run: Run, most: int = MOST_FEATURES) -> str:
    """The whole page of a run, as HTML; `most` features are on it with their examples."""
    script = "".join(_template(name) for name in SCRIPTS)
    names, headings, undefined = columns(run.rows)
    table = run.features.table() if run.features else []
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            name=run.path.resolve().name,
            lineage=[lineage(artifact) for artifact in run.artifacts.values()],
            versions=versions(run.artifacts.values()),
            names=names,
            headings=headings,
            undefined=undefined,
            fields=FIELDS,
            shown=shown,
            chosen=identity(run.rows, run.chosen),
            indexed=identity(run.rows, run.indexed),
            grid_figures=[*grid_figures(run.rows, run.chosen), *reliability_figures(run)],
            feature_figures=feature_figures(table, run.features.detection_limit if run.features else None),
            n_alive=sum(not row["dead"] for row in table),
            most=most,
            data=safe_json(payload(run.features, most)) if run.features else None,
            style=Markup(_template("report.css") + dark_style()),
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def environment() -> Environment:
    """How all pages are made from their templates: every text is escaped, every name must be defined."""
    return Environment(
        autoescape=True,
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def lineage(artifact: Artifact) -> dict[str, Any]:
    """One line on an artifact: what it is, when it was made, from what, and how."""
    parents = artifact.manifest["parents"]
    return {
        "kind": artifact.kind,
        "folder": artifact.path.name,
        "created": str(artifact.manifest["created"]).replace("T", " ").replace("+00:00", " UTC"),
        "id": artifact.id[:12],
        "parents": [f"{name} {parent['id'][:12]}" for name, parent in parents.items()],
        "config": ", ".join(f"{name} = {_setting(value)}" for name, value in artifact.config.items()),
    }


def versions(artifacts: Any) -> list[str]:
    """The libraries that made the artifacts; several versions where stages ran under different ones."""
    found: dict[str, list[str]] = {}
    for artifact in artifacts:
        for name, version in artifact.manifest["versions"].items():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    return [f"{name} {' / '.join(versions)}" for name, versions in found.items()]


def grid_figures(rows: Sequence[Row], chosen: int | None) -> list[Markup]:
    """Fidelity against sparsity; and over L1 × width, seed agreement and dead features, one a variant."""
    figures = [
        _figure(plots.front(rows, "fvu", "FVU (fraction of variance unexplained)", chosen), "front", "FVU against L0"),
        _figure(
            plots.front(rows, "ce_recovered", "CE recovered (1 = no loss)", chosen), "ce", "CE recovered against L0"
        ),
    ]
    for variant in dict.fromkeys(str(row["variant"]) for row in rows):
        mine = [{**row, "dead_share": _dead_share(row)} for row in rows if str(row["variant"]) == variant]
        for field, label, colours in (
            ("mmcs_other_seed", "MMCS with the other seed", "viridis"),
            ("dead_share", "dead features (share of width)", "cividis"),
        ):
            drawn = plots.heatmap(mine, field, label, colours)
            figures.append(_figure(drawn, f"{variant}-{field}", f"{variant}: {label} over L1 and width"))
    return [figure for figure in figures if figure]


def reliability_figures(run: Run) -> list[Markup]:
    """Claimed beside true probabilities of presence, of the chosen member and the first of the others."""
    numbers = sorted(run.reliability, key=lambda number: (number != run.chosen, number))[:MOST_CURVES]
    if not numbers:
        return []
    drawn = reliability_diagram({f"member {number}": run.reliability[number] for number in numbers})
    left_out = f" ({len(numbers)} of {len(run.reliability)} members)" if len(numbers) < len(run.reliability) else ""
    figure = _figure(drawn, "reliability", f"Present, against the probability of being present{left_out}")
    return [figure] if figure else []


def feature_figures(table: Sequence[Mapping[str, Any]], limit: float | None) -> list[Markup]:
    """How dense the indexed dictionary's features are, and how well they come back from another seed."""
    alive = [row for row in table if not row["dead"]]
    density = [row["density"] for row in alive]
    mcs = [row["mcs_other_seed"] for row in alive]
    known = [value for value in mcs if plots.defined(value)]
    figures = [
        _figure(plots.density_histogram(density, len(table) - len(alive), limit), "density", "Features by density"),
        _figure(plots.mcs_histogram(known), "mcs", "Features by MCS with the other seed"),
        _figure(plots.mcs_against_density(density, mcs), "scatter", "MCS with the other seed against density"),
    ]
    return [figure for figure in figures if figure]


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _figure(figure: Any, name: str, description: str) -> Markup | None:
    if figure is None:
        return None
    return Markup(
        f"<figure><figcaption>{Markup.escape(description)}</figcaption>{svg(figure, name, description)}</figure>"
    )


def _dead_share(row: Row) -> float | None:
    return row["dead"] / row["width"] if plots.defined(row.get("dead")) else None


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

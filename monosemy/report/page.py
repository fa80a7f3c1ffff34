"""`report.html`: a finished run on one page that opens from disk, for years, with no network and no server.

Everything is inside: style, script, figures (SVG) and the features (JSON). Text from a corpus never becomes markup:
jinja2 escapes what it prints, the JSON has no `<` in it, the script only ever sets textContent, and a content security
policy lets nothing run but the page's own script, and nothing be fetched at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from monosemy.artifact import Artifact
from monosemy.files import write_whole
from monosemy.report import plots
from monosemy.report.figure import dark_style, svg
from monosemy.report.payload import MOST_FEATURES, payload, safe_json
from monosemy.report.run import Row, Run, open_run
from monosemy.runtime import UsageError

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("feature.js", "report.js")
IDENTITY = ("member", "variant", "width", "l1", "k", "noise", "lr", "seed")

# name: (heading, meaning). Fields that are not here are shown under their own name, after these.
FIELDS = {
    "member": ("member", "number of the dictionary in the grid"),
    "variant": ("variant", "kind of dictionary"),
    "width": ("width", "number of features"),
    "l1": ("L1", "coefficient of the L1 penalty"),
    "k": ("k", "features active per row: kept, aimed at or expected"),
    "noise": ("noise", "standard deviation of the noise that the encoder saw in training"),
    "lr": ("lr", "learning rate"),
    "seed": ("seed", "seed of the initial weights"),
    "failed": (
        "failed",
        "the step at which the loss was not finite: such a dictionary has no scores and is in no figure",
    ),
    "l0": ("L0", "features active per row, mean"),
    "fvu": ("FVU", "fraction of variance unexplained: 0 is perfect, 1 is no better than the mean"),
    "explained_variance": ("EV", "explained variance: 1 − FVU"),
    "cosine": ("cosine", "cosine of activation and reconstruction, mean"),
    "mse": ("MSE", "mean squared error"),
    "dead": ("dead", "features never active on the held-out rows"),
    "alive": ("alive", "features active at least once on the held-out rows"),
    "ce_original": ("CE", "cross-entropy of the model untouched, nats per token"),
    "ce_reconstructed": ("CE rec.", "cross-entropy with the activation replaced by its reconstruction, nats per token"),
    "ce_zero": ("CE zero", "cross-entropy with the activation replaced by zero, nats per token"),
    "ce_mean": ("CE mean", "cross-entropy with the activation replaced by its mean, nats per token"),
    "ce_recovered": ("CE recovered", "(CE zero − CE rec.) / (CE zero − CE): 1 is no loss"),
    "kl": ("KL", "KL divergence from the model's predictions to the reconstruction's, nats per token"),
    "perplexity_ratio": ("ppl ratio", "perplexity with the reconstruction over perplexity without"),
    "shrinkage": ("shrinkage", "E‖x̂‖² over E⟨x, x̂⟩: below 1 where codes undershoot"),
    "norm_ratio": ("norm ratio", "norm of the reconstruction over norm of the activation, mean"),
    "l1_norm": ("‖c‖₁", "sum of a row's codes, mean"),
    "mmcs_truth": ("MMCS", "mean largest cosine of the true features with a learned one"),
    "mcc_truth": ("MCC", "mean cosine of true and learned features matched one to one"),
    "exclusive_mmcs": ("excl. MMCS", "one-to-one cosines over the larger number of features: copies and junk cost"),
    "recovered": ("recovered", "share of the true features with a cosine above 0.9"),
    "redundancy": ("copies", "learned copies per recovered feature"),
    "f1": ("F1", "of firing, mean over matched true features"),
    "code_slope": ("slope", "learned on true codes: 1 is no shrinkage"),
    "detection_limit": ("limit", "1 / held-out rows: densities below it cannot be told from 0"),
    "mmcs_with_larger": ("MMCS larger", "mean largest cosine with the features of the larger dictionaries of equal L1"),
    "shared_with_next": ("shared", "features that the next larger width of equal L1 has too (cosine above 0.95)"),
    "mmcs_other_seed": ("MMCS seed", "mean largest cosine with the features of the same dictionary from another seed"),
}


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
            grid_figures=grid_figures(run.rows, run.chosen),
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


def columns(rows: Sequence[Row]) -> tuple[list[str], list[str], list[str]]:
    """The fields to show, their headings, and the fields left out because no member has them."""
    present = list(dict.fromkeys([name for name in FIELDS if any(name in row for row in rows)] + _extras(rows)))
    names = [name for name in present if any(row.get(name) is not None for row in rows)]
    return names, [_heading(name) for name in names], [_heading(name) for name in present if name not in names]


def shown(name: str, value: Any) -> str:
    """A field as text: settings as they were given, scores with four significant digits, undefined blank."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}" if name in IDENTITY else f"{value:#.4g}".rstrip(".")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def identity(rows: Sequence[Row], member: int | None) -> str:
    """A member in words: member 5 (relu, width 512, L1 0.3, lr 0.001, seed 0)."""
    row = next((row for row in rows if row["member"] == member), {})
    known = [f"{_heading(name)} {shown(name, row[name])}" for name in IDENTITY[2:] if row.get(name) is not None]
    return f"member {member} ({', '.join([str(row['variant']), *known])})" if row else f"member {member}"


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


def _heading(name: str) -> str:
    return FIELDS.get(name, (name.replace("_", " "),))[0]


def _extras(rows: Sequence[Row]) -> list[str]:
    return [name for row in rows for name in row if name not in (*FIELDS, "failure")]  # that is where one points


def _dead_share(row: Row) -> float | None:
    return row["dead"] / row["width"] if plots.defined(row.get("dead")) else None


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

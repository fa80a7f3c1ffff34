"""A run in one HTML file that opens from disk and can be mailed: the app's own pages, without its server.

The pages are what the app's templates make of the app's data. Only what a server decides is done in the browser
instead: which page is shown (the place after #), and order, filters and pages of the feature table. What needs the
model or all features at once is left out: live analyses, comparisons, searches by prompt and by any token. A link to
what is left out is plain text.

One file rather than an archive: packed, plotly takes 2 MB of it and a feature's page a few kB, so that a run with
several indexes stays far below what a mail takes, and one file needs no unpacking.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from monosemy.analysis.feature import FeatureIndex
from monosemy.app.feature_list import asked_for, columns_of, feature_list
from monosemy.app.feature_page import feature_data, neighbours_data
from monosemy.app.grid_page import grid_data, member_data
from monosemy.app.one_file import bound, packed, policy
from monosemy.app.query import address
from monosemy.app.review_queue import MOST, Queued, QueueSettings, queue_of
from monosemy.app.reviews import FILE, Reviews
from monosemy.app.state import State
from monosemy.files import write_whole
from monosemy.runtime import Progress, UsageError

FEATURES = 200  # of each index, with their pages
MOST_ROWS, ROWS_AT_ONCE = 50_000, 10_000  # of a feature table
LIKEST = ("neuron", "correlation")  # what a verdict's cell says besides
OWN_ADDRESS = re.compile(r' (href|action)="/')


@dataclass(frozen=True)
class Part:
    """A page in the file: its name there (see static/place.js), its HTML, and the index whose table it needs."""

    name: str
    html: bytes
    index: str | None = None


@dataclass(frozen=True)
class Offline:
    """What a template is told of a page that no server stands behind."""

    kept: str = ""
    """Which features have their page in the file, in words."""
    verdicts: Sequence[Mapping[str, Any]] = ()
    """Of the feature, by reviewers."""
    twins: Mapping[str, Any] = field(default_factory=dict)
    """By address: JSON that the page asks for."""


def export(
    run: str | Path,
    out: str | Path | None = None,
    *,
    features: int = FEATURES,
    rule: str = QueueSettings.rule,
    seed: int = QueueSettings.seed,
) -> Path:
    """Write the run in folder `run` into one file, and give its path (default: `run`/NAME.html, NAME the folder's).

    Of each feature index `features` have their page, with examples: chosen from those alive by `rule` ("top" by MCS,
    "random", or "both", half of each; random where no MCS is known), and besides those that were reviewed. The same
    run gives the same bytes. Raises UsageError if `run` is no folder or holds nothing to show, or for values that
    cannot be.
    """
    if not 1 <= features <= MOST:
        raise UsageError(f"`features` (={features}) must be from 1 to {MOST}")
    settings = QueueSettings(rule, features, seed)
    state = State(run)
    path = Path(out) if out is not None else state.path / f"{state.name}.html"
    if path.is_dir():
        raise UsageError(f"`out` (={str(path)!r}) is a folder; name the file to write, as in {path / 'run.html'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _file(_Run(state, settings)))
    return path


class _Run:
    """What of a run goes into the file."""

    def __init__(self, state: State, settings: QueueSettings) -> None:
        self.state = state
        self.sessions = _sessions(state)
        self.reviewed: dict[str, dict[int, list[Any]]] = {name: defaultdict(list) for name in state.indexes}
        for session in self.sessions:
            for verdict in session["verdicts"] if session["index"] else ():
                self.reviewed[session["index"]][verdict["feature"]].append(verdict)
        self.chosen = {name: chosen_features(index, settings) for name, index in state.indexes.items()}

    def features(self, name: str) -> list[int]:
        """Features of an index that have their page, by number."""
        return sorted({each.feature for each in self.chosen[name]} | self.reviewed[name].keys())

    def kept(self, name: str) -> str:
        """The same in words."""
        index, shown = self.state.indexes[name], self.features(name)
        counts = Counter(each.chosen for each in self.chosen[name])
        words = {"top": "of the highest MCS", "random": "drawn at random from those alive"}
        parts = [f"{counts[rule]:,} {said}" for rule, said in words.items() if counts[rule]]
        if self.reviewed[name]:
            parts.append(f"{len(self.reviewed[name]):,} reviewed")
        cut = f" The table holds the {MOST_ROWS:,} densest and these." if index.n_features > MOST_ROWS else ""
        return f"{len(shown):,} of {index.n_features:,} features have their page in this file: {', '.join(parts)}.{cut}"

    def rows(self, name: str) -> dict[str, list[Any]]:
        """The feature table by columns."""
        index, verdicts = self.state.indexes[name], self.state.verdicts[name]
        asked = asked_for({"sort": "density", "desc": "1"}, verdicts)
        rows: dict[int, Any] = {}
        while len(rows) < min(MOST_ROWS, index.n_features):
            limit = min(ROWS_AT_ONCE, MOST_ROWS - len(rows))
            rows |= {row["id"]: row for row in index.page(limit=limit, offset=len(rows), **asked)[0]}
        for i in self.features(name):
            if i not in rows:
                rows[i] = index.page(limit=1, id=i, **asked)[0][0]
        columns = [*columns_of(verdicts), *(LIKEST if verdicts is not None else ())]
        return {column: [rows[i][column] for i in sorted(rows)] for column in columns}


def chosen_features(index: FeatureIndex, settings: QueueSettings) -> list[Queued]:
    """The features of an index that get their page, and by which rule each was chosen."""
    alive = index.rows("SELECT id, mcs_other_seed FROM feature WHERE NOT dead")
    mcs = {row["id"]: row["mcs_other_seed"] for row in alive}
    known = any(value is not None for value in mcs.values())
    rule = "random" if settings.rule == "both" and not known else settings.rule
    return queue_of(mcs, QueueSettings(rule, settings.count, settings.seed))


def _sessions(state: State) -> list[dict[str, Any]]:
    """The review sessions with the verdicts that stand, each row with what its feature's page and the overview say."""
    reviews, found = Reviews(state.path / FILE), []
    indexes = {
        (index.artifact.parent("dictionaries").id, index.artifact.config["member"]): name
        for name, index in reversed(state.indexes.items())
    }
    for session in reviews.sessions():
        name = indexes.get((session.dictionaries, session.member))
        table = reviews.table(session.id)
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        for row in rows:
            href = None if name is None else address(f"/features/{row['feature']}", index=name)
            row |= {"session": session.name, "href": href}
        if rows:
            found.append({**vars(session), "index": name, "verdicts": rows})
    return found


def _parts(run: _Run) -> Iterator[Part]:
    """Every page of the file, in the order of the menu."""
    from monosemy.app.pages import runs_data

    state = run.state
    yield _part(state, "/", "", "runs.html", runs_data(state, {}))
    for name, grid in state.grids.items():
        yield _part(state, "/grid", name, "grid.html", grid_data(state, {"grid": name}))
        for row in grid.rows:
            data = member_data(state, {"grid": name}, row["member"])
            yield _part(state, f"/grid/{row['member']}", name, "member.html", data)
    for name in state.indexes:
        query = {"index": name}
        offline = Offline(kept=run.kept(name))
        yield _part(state, "/features", name, "features.html", feature_list(state, query), offline, name)
        for i in run.features(name):
            twin = address(f"/features/{i}/neighbours.json", index=name)
            offline = Offline(verdicts=run.reviewed[name].get(i, ()), twins={twin: neighbours_data(state, query, i)})
            yield _part(state, f"/features/{i}", name, "feature.html", feature_data(state, query, i), offline, name)
    if run.sessions:
        yield _part(state, "/review", "", "verdicts.html", {"sessions": run.sessions})


def _part(
    state: State,
    path: str,
    of: str,
    template: str,
    data: Mapping[str, Any],
    offline: Offline = Offline(),
    index: str | None = None,
) -> Part:
    """A page of the app as a part of the file; `of`: the grid or index that it is of."""
    return Part(f"{path} {of}".strip(), _html(state, template, data=data, layout="part.html", offline=offline), index)


def _html(state: State, template: str, **given: Any) -> bytes:
    """A template's HTML, in which the app's addresses stand after a #."""
    from monosemy.app.pages import environment

    html = environment().get_template(template).render({"state": state, "path": "", "twin": None, **given})
    return OWN_ADDRESS.sub(r' \1="#/', html).encode("utf-8", "backslashreplace")


def _file(run: _Run) -> bytes:
    """The whole file."""
    from monosemy.app.files import STATIC, plotly
    from monosemy.app.pages import NAV

    state = run.state
    total = 2 + sum(1 + len(grid.rows) for grid in state.grids.values())
    total += sum(1 + len(run.features(name)) for name in state.indexes)
    pages = {}
    with Progress("export", total, unit="pages") as bar:
        for part in _parts(run):
            pages[part.name] = {"index": part.index, "text": packed(part.html)}
            bar.advance()
    said = "This file, which holds a part of the run, has no such page."
    missing = _part(state, "", "", "error.html", {"status": 404, "error": said})

    def read(name: str) -> str:
        return (STATIC / name).read_text(encoding="utf-8")

    theme, script, library = read("theme.js"), bound("offline.js", read), plotly().read_text(encoding="utf-8")
    there = {"/": True, "/grid": state.grids, "/features": state.indexes, "/review": run.sessions}
    file = {
        "policy": policy([theme, script, library]),
        "style": Markup(read("app.css")),
        "theme": Markup(theme),
        "script": Markup(script),
        "first": {"grid": next(iter(state.grids), None), "index": next(iter(state.indexes), None)},
        "pages": pages,
        "lists": {name: packed(_json(run.rows(name))) for name in state.indexes},
        "missing": packed(missing.html),
        "plotly": packed(library.encode()),
    }
    return _html(state, "offline.html", data={}, file=file, NAV=[each for each in NAV if there.get(each[0])])


def _json(data: Any) -> bytes:
    from monosemy.app.pages import as_json

    return as_json(data)

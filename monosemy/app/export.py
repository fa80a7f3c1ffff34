"""A run in one HTML file that opens from disk and can be mailed: the app's own pages, without its server.

The pages are what the app's templates make of the app's data. Only what a server decides is done in the browser
instead: which page is shown (the place after #), and order, filters and pages of the tables. Comparisons of
dictionaries are computed while the file is written, where that is cheap (`export_across.py`). What needs the model is
left out: live analyses, circuits, search by a text. So are the pages of most features and of rare tokens. The file says
so itself, and a link to what is left out is plain text.

One file rather than an archive: packed, plotly takes 2 MB of it and a feature's page a few kB, so that a run with
several indexes stays far below what a mail takes, and one file needs no unpacking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from monosemy.app.export_across import comparisons
from monosemy.app.export_part import Offline, Part, html_of, part, served
from monosemy.app.export_run import Kept
from monosemy.app.feature_list import feature_list, token_features
from monosemy.app.feature_page import feature_data, neighbours_data
from monosemy.app.grid_page import grid_data, member_data
from monosemy.app.one_file import bound, packed, policy
from monosemy.app.query import address
from monosemy.app.review_queue import MOST, QueueSettings
from monosemy.app.state import State
from monosemy.files import write_whole
from monosemy.runtime import Progress, UsageError

FEATURES = 200  # of each index, with their pages
UNQUOTED = "!'()*"  # of ASCII's marks, as JavaScript's encodeURIComponent
FIRST = {"members": "all", "codes": "no", "level": "0"}  # of an address that does not say it


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
    write_whole(path, _file(Kept(state, settings)))
    return path


def _planned(run: Kept) -> Iterator[Callable[[], Part]]:
    """What makes each page of the file, in the order of the menu."""
    from monosemy.app.pages import runs_data

    state = run.state
    yield partial(part, state, "/", "runs.html", runs_data(state, {}))
    for name, grid in state.grids.items():
        yield partial(_grid, state, name)
        for row in grid.rows:
            yield partial(_member, state, name, row["member"])
    for name in state.indexes:
        yield partial(_list, run, name)
        for i in run.features(name):
            yield partial(_feature, run, name, i)
        for text in run.tokens(name):
            yield partial(_token, state, name, text)
    for grid in state.grids.values():
        yield from comparisons(state, grid)
    live = f"which is not in this file. With it: monosemy serve {state.name}."
    said = {
        "/circuits": ("Circuits", f"A feature's parents and children are found by running the model, {live}"),
        "/search": ("Search by text", f"A text is put through the model, {live}"),
    }
    for name, words in said.items():
        yield partial(served, state, name, *words)
    if run.sessions:
        yield partial(part, state, "/review", "verdicts.html", {"sessions": run.sessions})


def _grid(state: State, grid: str) -> Part:
    return part(state, f"/grid {grid}", "grid.html", grid_data(state, {"grid": grid}))


def _member(state: State, grid: str, member: int) -> Part:
    return part(state, f"/grid/{member} {grid}", "member.html", member_data(state, {"grid": grid}, member))


def _list(run: Kept, index: str) -> Part:
    data = feature_list(run.state, {"index": index})
    return part(run.state, f"/features {index}", "features.html", data, Offline(run.words(index)), index=index)


def _feature(run: Kept, index: str, i: int) -> Part:
    state, query = run.state, {"index": index}
    twins = {address(f"/features/{i}/neighbours.json", index=index): neighbours_data(state, query, i)}
    offline = Offline(verdicts=run.reviewed[index].get(i, ()), twins=twins)
    data = feature_data(state, query, i)
    return part(state, f"/features/{i} {index}", "feature.html", data, offline, index=index)


def _token(state: State, index: str, text: str) -> Part:
    name = f"/token {index} {quote(text, safe=UNQUOTED)}"
    return part(state, name, "token.html", token_features(state, {"index": index, "q": text}))


def _file(run: Kept) -> bytes:
    """The whole file."""
    from monosemy.app.files import STATIC, plotly
    from monosemy.app.pages import NAV

    state, planned, pages = run.state, list(_planned(run)), {}
    with Progress("export", len(planned), unit="pages") as bar:
        for made in planned:
            page = made()
            pages[page.name] = {"index": page.index, "also": page.also, "text": packed(page.html)}
            bar.advance()
    said = f"This file, which holds a part of the run, has no such page. monosemy serve {state.name} shows all."
    missing = part(state, "", "error.html", {"status": 404, "error": said})

    def read(name: str) -> str:
        return (STATIC / name).read_text(encoding="utf-8")

    theme, script, library = read("theme.js"), bound("offline.js", read), plotly().read_text(encoding="utf-8")
    grids = dict.fromkeys(("/grid", "/compare", "/circuits"), state.grids)
    there = {"/": True, **grids, "/features": state.indexes, "/review": run.sessions}
    file = {
        "policy": policy([theme, script, library]),
        "style": Markup(read("app.css")),
        "theme": Markup(theme),
        "script": Markup(script),
        "first": {**FIRST, "grid": next(iter(state.grids), None), "index": next(iter(state.indexes), None)},
        "pages": pages,
        "lists": {name: packed(_json(run.rows(name))) for name in state.indexes},
        "missing": packed(missing.html),
        "plotly": packed(library.encode()),
    }
    return html_of(state, "offline.html", data={}, file=file, NAV=[each for each in NAV if there.get(each[0])])


def _json(data: Any) -> bytes:
    from monosemy.app.pages import as_json

    return as_json(data)

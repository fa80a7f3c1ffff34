"""A page of the app as a part of one file that no server stands behind (`export.py`).

Its HTML is what the app's template makes of the app's data; the app's addresses stand after a #.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from monosemy.app.state import State

OWN_ADDRESS = re.compile(r' (href|action)="/')


@dataclass(frozen=True)
class Part:
    """A page in the file."""

    name: str
    """Its name there (see static/place.js)."""
    html: bytes
    index: str | None = None
    """The index whose table it needs."""
    also: str = ""
    """Another name of it: the page that its kind begins with."""


@dataclass(frozen=True)
class Offline:
    """What a template is told of a page that no server stands behind."""

    kept: str = ""
    """What of the run is in the file and what is not, in words."""
    verdicts: Sequence[Mapping[str, Any]] = ()
    """Of the feature, by reviewers."""
    twins: Mapping[str, Any] = field(default_factory=dict)
    """By address: JSON that the page asks for."""
    rows: Mapping[str, Any] | None = None
    """What the page's table is sorted and filtered by (static/comparisons.js)."""


def part(
    state: State,
    name: str,
    template: str,
    data: Mapping[str, Any],
    offline: Offline | None = None,
    *,
    index: str | None = None,
    also: str = "",
) -> Part:
    """A page of the app, `template` over `data`, as the part of that name."""
    html = html_of(state, template, data=data, layout="part.html", offline=offline or Offline())
    return Part(name, html, index, also)


def served(state: State, name: str, heading: str, said: str) -> Part:
    """A page that is not in the file: `said` tells why, and how to see it."""
    return part(state, name, "served.html", {"heading": heading, "said": said})


def html_of(state: State, template: str, **given: Any) -> bytes:
    """A template's HTML, in which the app's addresses stand after a #."""
    from monosemy.app.pages import environment

    html = environment().get_template(template).render({"state": state, "path": "", "twin": None, **given})
    return OWN_ADDRESS.sub(r' \1="#/', html).encode("utf-8", "backslashreplace")

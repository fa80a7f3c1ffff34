"""Results that whole pages are made of: a short one is computed while the page is made, a long one by a job first.

Such a page says `pending`: which analysis it waits for, of what. Its script asks for that job, shows its progress, and
loads the page again when it is done. A result is kept under the id of its job.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from monosemy.app.across import ACROSS
from monosemy.app.calls import call_of, key_of
from monosemy.app.parameters import checked_values
from monosemy.app.state import State

AT_ONCE = 1 << 22  # cosines that a page computes; about a second on two cores

_working = Lock()


def result_of(state: State, name: str, given: Mapping[str, Any], cosines: float) -> Any:
    """The result of an analysis that is kept, which takes so many cosines; None where a job has to make it first.

    Raises UsageError as the analysis.
    """
    analysis = ACROSS[name]
    values = checked_values({**analysis.common, **analysis.parameters}, given)
    key = key_of(name, values, state.grid(values["dictionaries"]))
    with _working:
        found = state.results.get(key)
        if found is None and cosines <= AT_ONCE:
            found = state.results.put(key, call_of(analysis, values, state).run())
    return found


def pending(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a page says that waits for a job."""
    return {"analysis": name, "label": ACROSS[name].label, "values": dict(given)}

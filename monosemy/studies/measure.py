"""A measurement of a study, kept as an artifact: made once, found again when the study is run again.

A study is a row of stages (worlds, grids, scores: artifacts already) and of small measurements that fit no stage. Those
are kept here as JSON, so that a study that was stopped goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from monosemy.artifact import Artifact, Config, make
from monosemy.draft import Draft

RESULT = "result.json"


def measured(
    path: Path, config: Config, parents: Mapping[str, Artifact], measure: Callable[[Draft], Any], version: int = 1
) -> Any:
    """What `measure` gives, as JSON would give it back; read from `path` if it was measured before in the same way.

    `version` is that of the measurement's rule: raised when the rule changes, it keeps old figures from being read as
    new ones. `measure` may leave files in the draft; they stay beside the result. Raises UsageError if `path` holds
    another measurement.
    """

    def write(draft: Draft) -> dict[str, Any]:
        draft.file(RESULT).write_text(json.dumps(measure(draft), allow_nan=False))
        return {}

    config = {**config, "version": version} if version > 1 else config
    found = make(path, "measurement", config, {name: each.as_parent() for name, each in parents.items()}, write)
    return json.loads((found.path / RESULT).read_text())

"""Where a run's metrics go besides `metrics.jsonl`: to Weights & Biases, if asked for.

Left out: other trackers. `metrics.jsonl` is complete and easy to read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monosemy.runtime import UsageError


class Wandb:
    """A run in a project of Weights & Biases: `loss`, `l0`, … of every member. One that goes on is gone on with."""

    def __init__(self, project: str, config: Mapping[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UsageError(f"`wandb` (={project}) needs the package: pip install 'monosemy[wandb]'") from error
        # The same folder and settings are the same run, however often it was killed.
        about = json.dumps([str(folder.resolve()), config], sort_keys=True, default=str)
        run_id = hashlib.sha256(about.encode()).hexdigest()[:16]
        self._run: Any = wandb.init(project=project, id=run_id, resume="allow", config=dict(config))

    def write(self, step: int, members: Sequence[Mapping[str, float | None]]) -> None:
        """The metrics of every member at a step; what is undefined is left out."""
        values = {
            f"{name}/member {number}": value
            for number, metrics in enumerate(members)
            for name, value in metrics.items()
            if value is not None
        }
        self._run.log(values, step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()

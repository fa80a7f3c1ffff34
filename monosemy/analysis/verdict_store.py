"""The stage features → verdicts: the neuron verdict of every feature of an index, kept beside it.

The verdict and its evidence are those of `verdict.py` for the numbers of neurons (1, FEW), over the first `max_tokens`
tokens of the corpus, in one pass. The artifact is `verdicts.sqlite`, whose table `verdict` has a row for each feature,
so that a page of features can be sorted and filtered by it (`FeatureIndex.page(beside=[store.beside])`).

"dead" is what it is in the index: no firing on any of its tokens. A feature that fires there, and on fewer than ENOUGH
of the tokens looked at here, is "too rare" to be told of; `firings` is its count here.

Left out: the moments that the verdicts rest on, which are N·D numbers (134 MB for 16,384 features of 2048 neurons).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.feature_query import Beside
from monosemy.analysis.feature_table import rows_of
from monosemy.analysis.lab import Lab
from monosemy.analysis.neurons import coordinates_of
from monosemy.analysis.verdict import ENOUGH, FEW, Evidence, NeuronVerdicts, neuron_verdicts
from monosemy.artifact import Artifact, load, load_parent, make
from monosemy.draft import Draft
from monosemy.files import new_database
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, settings_of

FILE, TABLE = "verdicts.sqlite", "verdict"
COLUMNS = {
    "id": "INTEGER PRIMARY KEY",
    "verdict": "TEXT NOT NULL",
    "neuron": "INTEGER NOT NULL",
    "correlation": "REAL NOT NULL",
    "r2_single": "REAL NOT NULL",
    "r2_few": "REAL NOT NULL",
    "r2_all": "REAL NOT NULL",
    "share_single": "REAL",
    "share_few": "REAL",
    "participation": "REAL NOT NULL",
    "firings": "INTEGER NOT NULL",
}
"""As in `Evidence`; `firings` is its `count`, which is of fewer tokens than the index's."""
KS = (1, FEW)


@dataclass(frozen=True)
class VerdictSettings:
    """What the verdicts are taken from."""

    max_tokens: int | None = 100_000
    """Look at no more tokens than these, in whole rows; None: all."""
    device: str = "auto"
    """Where a model that is not open yet runs: auto, cpu or cuda."""

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"`max_tokens` (={self.max_tokens}) must be at least 1")


class VerdictStore:
    """Finished verdicts. Make them with `verdicts`, open them with `VerdictStore.open`."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.tokens: int = artifact.info["tokens"]
        """Tokens looked at."""
        self.coordinates: str = artifact.info["coordinates"]
        """What the neurons are: "neurons of layers.2.mlp_act", or "coordinates of …"."""
        self.counts: dict[str, int] = artifact.info["counts"]
        """How many features have each verdict."""
        kinds = {name: "word" if "TEXT" in kind else "number" for name, kind in COLUMNS.items() if name != "id"}
        self.beside = Beside(artifact.path / FILE, TABLE, tuple(kinds.items()))
        """The table, for a page of features."""

    @classmethod
    def open(cls, path: str | Path | VerdictStore) -> VerdictStore:
        """Open and check the verdicts at `path`; what is open already is given back."""
        return path if isinstance(path, VerdictStore) else cls(load(path, "verdicts"))

    def evidence(self, feature: int) -> Evidence:
        """A feature's verdict and what it rests on, `r2` for KS. Raises UsageError if there is no such feature."""
        rows = rows_of(self.artifact.path / FILE, f"SELECT * FROM {TABLE} WHERE id = ?", feature)
        if not rows:
            raise UsageError(f"`feature` (={feature}) is not among those of {self.artifact.path}")
        (row,) = rows
        r2 = [row.pop("r2_single"), row.pop("r2_few")]
        return Evidence(feature=row.pop("id"), r2=r2, count=row.pop("firings"), **row)


def verdicts(
    features: str | Path | FeatureIndex,
    *,
    dictionaries: str | Path | None = None,
    model: str | Path | LanguageModel | None = None,
    tokens: str | Path | None = None,
    out: str | Path,
    settings: VerdictSettings | None = None,
    **options: Any,
) -> VerdictStore:
    """The neuron verdicts of the features of an index, into the artifact `out`.

    `dictionaries`, `model` and `tokens` say where those are that the index was made of, if they were moved. `options`
    are fields of VerdictSettings. Raises UsageError if they are gone or others, or tell too little of so many neurons.
    """
    settings = settings or settings_of(VerdictSettings, options)
    index = FeatureIndex.open(features)
    network = _model_of(index, model, settings.device)
    grid, store = (
        load_parent(index.artifact, name, place) for name, place in (("dictionaries", dictionaries), ("tokens", tokens))
    )
    config = {"max_tokens": settings.max_tokens, "model_dtype": str(network.dtype), "too_rare_below": ENOUGH}

    def write(draft: Draft) -> dict[str, Any]:
        member = index.artifact.config["member"]
        lab = Lab.open(grid.path, member=member, model=network, tokens=store.path, index=index)
        found = neuron_verdicts(lab, ks=KS, max_tokens=settings.max_tokens)
        _write(draft.file(FILE), found)
        about = {"tokens": found.tokens, "neurons": found.neurons, "coordinates": coordinates_of(lab)}
        return {**about, "counts": found.counts()}

    return VerdictStore(make(out, "verdicts", config, {"features": index.artifact.as_parent()}, write))


def _model_of(index: FeatureIndex, given: str | Path | LanguageModel | None, device: str) -> LanguageModel:
    """The model that the index was made with. Raises UsageError for another one."""
    made = index.artifact.parent("model")
    model = LanguageModel.load(given or made.path, device) if given is None or isinstance(given, str | Path) else given
    if model.as_parent().id != made.id:
        raise UsageError(
            f"model (={model.as_parent().path}): not the one that {index.artifact.path} was made with; name that one "
            f"with --model"
        )
    return model


def _write(path: Path, found: NeuronVerdicts) -> None:
    with new_database(path) as connection:
        connection.execute(f"CREATE TABLE {TABLE} ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
        marks = ", ".join(f":{name}" for name in COLUMNS)
        connection.executemany(f"INSERT INTO {TABLE} VALUES ({marks})", map(_row, found.evidence))
        for name in COLUMNS:
            if name != "id":
                connection.execute(f"CREATE INDEX {TABLE}_{name} ON {TABLE} ({name})")


def _row(evidence: Evidence) -> dict[str, Any]:
    row = asdict(evidence)
    r2_single, r2_few = row.pop("r2")
    names = {"id": row.pop("feature"), "firings": row.pop("count")}
    return {**row, **names, "r2_single": r2_single, "r2_few": r2_few}

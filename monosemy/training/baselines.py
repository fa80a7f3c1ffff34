"""The `baselines` stage: what a trained dictionary must beat, as dictionaries in the same kind of artifact.

So whatever scores, compares or shows a grid does the same with the neuron basis, random directions, PCA, ICA, NMF and
scikit-learn's dictionary learning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from monosemy.artifact import make
from monosemy.data.rows import ArrayRows
from monosemy.data.source import Source, open_source, origin_of
from monosemy.dictionaries.baselines import BASELINES
from monosemy.dictionaries.classical import SAMPLE_ROWS, sample
from monosemy.dictionaries.store import DictionaryStore, member_file, save_dictionary
from monosemy.draft import Draft
from monosemy.runtime import Progress, UsageError, settings_of
from monosemy.training.settings import WIDTH_OVER_D_IN


@dataclass(frozen=True)
class BaselineSettings:
    """Which baselines, and how wide."""

    names: tuple[str, ...] = tuple(BASELINES)
    """Of neurons, random, pca, ica, nmf, dictionary-learning."""
    width: int | None = None
    """Features of each that can have any number (default: twice the width of the activations)."""
    rows: int = SAMPLE_ROWS
    """Rows they are fitted to, at most 65,536."""
    seed: int = 0
    """Of those that draw at random."""

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in BASELINES:
                raise UsageError(f"`names` (={name}) must be of {', '.join(BASELINES)}")
        if not self.names:
            raise UsageError(f"`names` is empty; name at least one of {', '.join(BASELINES)}")
        for field in ("width", "rows"):
            if (value := getattr(self, field)) is not None and value < 1:
                raise UsageError(f"`{field}` (={value}) must be at least 1")
        if self.rows > SAMPLE_ROWS:
            raise UsageError(
                f"`rows` (={self.rows}) must be at most {SAMPLE_ROWS}, which is enough to fit them; lower rows"
            )


def baselines(
    activations: str | Path | Source, *, out: str | Path, settings: BaselineSettings | None = None, **options: Any
) -> DictionaryStore:
    """Fit the baselines on the training rows of `activations` (or of a saved world), into `out`.

    `options` are fields of BaselineSettings.
    """
    settings = settings or settings_of(BaselineSettings, options)
    source = open_source(activations)
    parent, origin = origin_of(source)
    width = settings.width or WIDTH_OVER_D_IN * source.d_in

    def write(draft: Draft) -> dict[str, Any]:
        some = ArrayRows(sample(source, settings.rows))
        rows = []
        with Progress("baselines", len(settings.names), unit="baselines") as bar:
            for number, name in enumerate(settings.names):
                dictionary = BASELINES[name](some, width, settings.seed)
                save_dictionary(draft.file(member_file(number)), dictionary)
                identity = {"l1": None, "k": None, "noise": None, "lr": None, "seed": settings.seed}
                rows.append({"member": number, "variant": name, "width": dictionary.width, **identity})
                bar.advance(note=name)
        return {"members": rows, "d_in": source.d_in, **origin}

    config = {**asdict(settings), "names": list(settings.names), "width": width}
    return DictionaryStore(make(out, "dictionaries", config, {parent.kind: parent.as_parent()}, write))

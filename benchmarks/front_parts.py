"""Where `fronts.py` trains: two models' activations and two worlds, and how a dictionary is scored on each.

Shapes: B rows, D = d_in, N = width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from monosemy.data.activations import ActivationStore
from monosemy.data.hierarchy import Hierarchy
from monosemy.data.rows import RowSource
from monosemy.data.synthetic import World, WorldSettings
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.metrics.downstream import replacement, splice
from monosemy.metrics.fidelity import Fidelity
from monosemy.metrics.scoring import fidelity_of
from monosemy.metrics.truth import truth_scores_of
from monosemy.models.harvest import harvest
from monosemy.models.language_model import LanguageModel
from monosemy.models.pretrain import pretrain
from monosemy.studies.demo import DemoSettings

ROOT = Path(__file__).resolve().parents[1]
SHARED, RUN = ROOT.parent / "shared" / "data", ROOT / "runs" / "fronts"
STORIES, STORIES_TEXT = SHARED / "models" / "stories260K", SHARED / "text" / "tinystories.jsonl.gz"
SITE, CONTEXT = "layers.2.resid_post", 256
HELD_OUT, TOKEN_ROWS, CHUNK = 32_768, 48, 4096


@dataclass(frozen=True)
class Part:
    """Rows, how long and how wide dictionaries are trained on them, and at which sparsities."""

    name: str
    width: int
    batch: int
    steps: int
    k: tuple[int, ...]
    l1: tuple[float, ...]


PARTS = {
    part.name: part
    for part in (
        Part("stories", 256, 512, 500, (4, 10, 28), (0.05, 0.12, 0.3)),
        Part("gpt", 512, 512, 120, (8, 24), (0.08, 0.3)),
        Part("world", 128, 256, 400, (4, 6), (0.06, 0.12)),
        Part("hierarchy", 128, 256, 400, (4, 6), (0.06, 0.12)),
    )
}
TEXT_PARTS = ("stories", "gpt")
WORLDS = {
    "world": WorldSettings(d_in=64, features=128, l0=5, decay=0.97),
    "hierarchy": WorldSettings(
        d_in=64, features=128, l0=5, decay=0.97, correlation="none", hierarchy=Hierarchy(depth=2, branching=4)
    ),
}


class Scored(Protocol):
    """The rows of a part, and how dictionaries are scored on them."""

    rows: RowSource

    def score(self, dictionaries: Sequence[Dictionary]) -> list[dict[str, Any]]:
        """The scores of each."""
        ...


def here(part: str) -> bool:
    """Whether this part's data are on this machine."""
    return part != "stories" or STORIES.exists()


def prepare(part: str) -> None:
    """Make what a text part's jobs read; finished artifacts are reused."""
    if part not in TEXT_PARTS:
        return
    folder = RUN / part
    if part == "stories":
        model = STORIES
        tokens = tokenize(str(STORIES_TEXT), tokenizer=str(model), context=CONTEXT, out=folder / "tokens")
    else:
        demo = DemoSettings()
        tokens = tokenize(demo.source, tokenizer="bpe:4096", context=CONTEXT, out=folder / "tokens")
        model = pretrain(tokens, steps=demo.pretrain_steps, out=folder / "model").path
    harvest(model, tokens, site=SITE, max_tokens=600_000, skip_bos=part == "stories", out=folder / "activations")


class TextRows:
    """Activations of a model; FVU on held-out rows, and what the model loses with x̂ in place of x."""

    def __init__(self, part: str) -> None:
        self.folder = RUN / part
        self.model = STORIES if part == "stories" else self.folder / "model"
        self.rows = ActivationStore.open(self.folder / "activations")

    def score(self, dictionaries: Sequence[Dictionary]) -> list[dict[str, Any]]:
        """Fidelity, and what the part has beside it."""
        found = fidelity_of(dictionaries, self.rows, HELD_OUT, torch.device("cpu"))
        network, text = LanguageModel.load(self.model, device="cpu"), TokenStore.open(self.folder / "tokens")
        edits = {str(number): replacement(dictionary, [SITE]) for number, dictionary in enumerate(dictionaries)}
        spliced = splice(
            network, text, edits, text.spread(text.holdout_rows, TOKEN_ROWS),
            keep_bos=self.rows.artifact.config["skip_bos"],
        )  # fmt: skip
        lost = [spliced[name].cross_entropy - spliced["original"].cross_entropy for name in edits]
        return [{**fidelity_row(each), "ce_lost": ce} for each, ce in zip(found, lost, strict=True)]


class WorldRows:
    """A world; FVU, and what of its features was found."""

    def __init__(self, part: str) -> None:
        self.world = World(WORLDS[part])
        self.rows = cast(RowSource, self.world)

    def score(self, dictionaries: Sequence[Dictionary]) -> list[dict[str, Any]]:
        """Fidelity, and what the part has beside it."""
        found = [Fidelity(dictionary) for dictionary in dictionaries]
        for start in range(0, HELD_OUT, CHUNK):
            x_BD = self.world.sample(CHUNK, start).x_XD
            for each in found:
                each.add(x_BD)
        truths = truth_scores_of(dictionaries, self.world, rows=HELD_OUT)
        names = {"mmcs": "mmcs_truth", "mcc": "mcc_truth", "f1": "f1"}
        known = [{name: truth.scores[key] for name, key in names.items()} for truth in truths]
        return [{**fidelity_row(each), **truth} for each, truth in zip(found, known, strict=True)]


def source_of(part: str) -> Scored:
    """The part's rows, opened."""
    return TextRows(part) if part in TEXT_PARTS else WorldRows(part)


def fidelity_row(collector: Fidelity) -> dict[str, Any]:
    """What is kept of how well rows are rebuilt."""
    scores = collector.scores()
    return {name: scores[name] for name in ("l0", "fvu", "dead")}

"""S1, "(tentatively) Found 600+ Monosemantic Features in a Small LM Using SAEs" (July 2023), from start to end.

Dictionaries of one site from two seeds, and a third of twice the width (all members of one grid); how alike their
features are (MCS); how many are found twice (MCS > 0.9) and how many look as if they meant something, beside directions
that mean nothing (random) and the neurons themselves (identity); one feature looked at with every plot of the source;
the features against the neuron basis; the table of the first seventy; what features of every MCS look like, and the
dead ones.

Every finished stage and every measurement is an artifact in the study's folder: stopped and run again, the study goes
on. Without a model a small GPT is trained first, on the source text of this Python's standard library. S1's own:

    monosemy study six-hundred-features --model EleutherAI/pythia-70m-deduped --site layers.2.mlp_act --source TEXT

Left out: the minutes that S1's author looked at each of seventy features; `monosemy serve`'s review pages are for that.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from monosemy.analysis.chart import Chart, chart_of
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.result import Result, as_plain
from monosemy.artifact import Artifact
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.dictionaries.store import DictionaryStore
from monosemy.metrics.evaluate import evaluate
from monosemy.models.harvest import harvest
from monosemy.models.language_model import LanguageModel
from monosemy.models.pretrain import pretrain
from monosemy.runtime import UsageError
from monosemy.studies.measure import measured
from monosemy.training.settings import takers
from monosemy.training.sweep import train

OWN_STEPS, OWN_VOCABULARY = 1200, 4096  # of the small GPT that stands in where no model is named
CONTEXT = 256
VERSIONS = {"mcs-table": 3, "probe": 3, "ablation": 2} | {
    f"vocabulary-{where}": 2 for where in ("prepend", "append", "alone")
}
"""Of the rules of measurements that have changed since the first."""
FIRST, OTHER, WIDE = 0, 1, 2  # members: the one studied, its other seed, and its own seed at twice the width


@dataclass(frozen=True)
class SixHundredSettings:
    """Of which model, on which text, and how wide."""

    model: str | None = None
    """A folder or a Hub name; without one a small GPT is trained on the standard library's source text."""
    source: str = "stdlib"
    """Text, as `monosemy tokenize` takes it."""
    site: str = "layers.2.mlp_act"
    """Where in the model."""
    width: int | None = None
    """Features of the first two dictionaries; the wider have twice as many (default: twice the site's width)."""
    l1: float | None = 0.2
    """L1 coefficient: above relu's usual 0.06, for features that fire seldom; not for kinds that have none."""
    variant: str = "relu"
    """Kind of dictionary; S1's is relu."""
    steps: int | None = None
    """Steps of training (default: follow from the data)."""
    max_tokens: int = 500_000
    """Activations to train on, and tokens to search: S1's."""
    feature: int | None = None
    """The feature of the case study (default: the one with the largest MCS that is no single neuron)."""
    text: tuple[str, ...] = ()
    """Texts of your own for the case study (S1's "created examples")."""


@dataclass(frozen=True)
class Kept:
    """What an analysis found, as it was kept."""

    data: Mapping[str, Any]
    columns: list[str]
    rows: list[list[Any]]
    charts: list[Chart]


@dataclass
class Stages:
    """The artifacts of the study."""

    out: Path
    settings: SixHundredSettings
    model: LanguageModel
    tokens: TokenStore
    grid: DictionaryStore
    """Both seeds at both widths: FIRST, OTHER, WIDE and the last."""
    lab: Lab
    """Of FIRST, with its index."""
    found: dict[str, Kept] = field(default_factory=dict)

    @property
    def index(self) -> FeatureIndex:
        """The index of the lab's dictionary."""
        assert self.lab.index is not None, "the study opens its lab with one"
        return self.lab.index

    @property
    def model_name(self) -> str:
        """What the model is called."""
        source = self.settings.source
        text = "the standard library's source text" if source == "stdlib" else source
        return self.settings.model or f"a small GPT trained on {text}"

    @property
    def command(self) -> str:
        """What makes the study again."""
        words = ["monosemy", "study", "six-hundred-features", "--out", str(self.out)]
        given = {field.name: getattr(self.settings, field.name) for field in fields(SixHundredSettings)}
        for name, value in given.items():
            if value != SixHundredSettings.__dataclass_fields__[name].default:
                words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(words)

    def analyse(self, command: str, *words: str, out: str) -> str:
        """The command that makes the figures of one analysis again, into the folder `out`."""
        return shlex.join(["monosemy", "analyse", command, str(self.out), *words, "--out", out])

    def keep(self, name: str, analysis: Callable[[], Result], **config: Any) -> Kept:
        """What `analysis` finds; read again where it was found before. `config`: what it depends on besides."""
        index = self.lab.index
        assert index is not None
        parents: dict[str, Artifact] = {"features": index.artifact, "dictionaries": self.grid.artifact}

        def measure(_: Any) -> Any:
            result = analysis()
            return {
                "data": result.data(), "table": as_plain(result.table()), "charts": as_plain(list(result.charts())),
            }  # fmt: skip

        version = VERSIONS.get(name.split("-", 2)[2] if name.startswith("case-") else name, 1)
        found = measured(self.out / "measurements" / name, {"analysis": name, **config}, parents, measure, version)
        charts = [chart_of(chart) for chart in found["charts"]]
        self.found[name] = Kept(found["data"], found["table"]["columns"], found["table"]["rows"], charts)
        return self.found[name]


def six_hundred_features(out: Path, settings: SixHundredSettings) -> Path:
    """Run the study into the folder `out` (finished parts are reused); the path of its first page.

    Raises UsageError for a model, site or text that cannot be had.
    """
    from monosemy.studies.six_hundred_pages import write_pages

    began = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {what}", flush=True)

    stages = made(out, settings, say)
    say("pages")
    page = write_pages(stages, say)
    say(f"done; open {page}, or run: monosemy serve {out}")
    return page


def made(out: Path, settings: SixHundredSettings, say: Callable[[str], None]) -> Stages:
    """Every artifact of the study."""
    say(f"tokens of {settings.source}")
    tokens = tokenize(
        settings.source, tokenizer=settings.model or f"bpe:{OWN_VOCABULARY}", context=CONTEXT, out=out / "tokens"
    )
    place: str | Path = settings.model or pretrain(tokens, steps=OWN_STEPS, out=out / "model").path
    model = LanguageModel.load(place)
    model.check_site(settings.site)
    say(f"activations of {settings.site}")
    activations = harvest(model, tokens, site=settings.site, max_tokens=settings.max_tokens, out=out / "activations")
    width = settings.width or 2 * activations.d_in
    dials: dict[str, Any] = {"variant": settings.variant, "steps": settings.steps}
    if settings.l1 is not None and settings.variant in takers("l1"):
        dials["l1"] = settings.l1
    say(f"two dictionaries of {width:,} features, and two of {2 * width:,}")
    grid = train(activations, width=(width, 2 * width), seed=(0, 1), out=out / "dictionaries", **dials)
    evaluate(grid, activations, model=model, out=out / "scores")
    say("an index of the first one's features")
    index = features(
        grid, member=FIRST, model=model, tokens=tokens, out=out / "features", max_tokens=settings.max_tokens
    )
    lab = Lab.open(grid, member=FIRST, model=model, tokens=tokens, index=index)
    if settings.feature is not None:
        lab.checked(settings.feature)
        if index.summary(settings.feature).dead:
            raise UsageError(f"`feature` (={settings.feature}) fires nowhere in these tokens; choose another")
    return Stages(out, settings, model, tokens, grid, lab)

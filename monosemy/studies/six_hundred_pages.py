"""The pages of the six-hundred-features study: what S1 shows, in its order, from what was measured here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from monosemy.analysis.chart import figure_of
from monosemy.analysis.feature import Feature
from monosemy.analysis.mcs_table import RARE, mcs_table
from monosemy.analysis.neuron_curves import neuron_curves
from monosemy.analysis.result import Table, as_plain
from monosemy.analysis.verdict import neuron_verdicts
from monosemy.dictionaries.baselines import neuron_basis
from monosemy.files import write_whole
from monosemy.metrics.recovery import RECOVERED, mcs
from monosemy.metrics.scores import Scores
from monosemy.report.run import without_failed
from monosemy.report.study import StudyPage
from monosemy.runtime import generator_for
from monosemy.studies.six_hundred import FIRST, OTHER, WIDE, Kept, Stages
from monosemy.studies.six_hundred_case import case_page, line_of

NAV = {"index": "MCS", "table": "Table", "case": "Case study", "basis": "Neuron basis", "range": "Range and dead"}
SEVENTY = 70  # features of S1's table
BANDS = (0.95, 0.9, 0.8, 0.7, 0.5, 0.3)  # what features of each MCS look like
SHOWN = ("feature", "mcs", "partner", "wide", "count", "density", "max", "verdict", "meaningful", "example")
BESIDE = (
    "Features beside directions that know nothing of features. The random directions are two sets: for the MCS as many "
    "as the other seed has features, and for what looks meaningful others, drawn to fire about as often as features do."
)


def write_pages(stages: Stages, say: Callable[[str], None]) -> Path:
    """Write all pages; the path of the first."""
    say("MCS: each feature's largest cosine with the other seed's and with the wider dictionary's")
    grid, index = stages.grid, stages.index
    others = [(grid, OTHER), (grid, WIDE)]
    found = stages.keep("mcs-table", lambda: mcs_table((grid, FIRST), others, index=index, lab=stages.lab))
    say("the neurons: a verdict on every feature")
    verdicts = stages.keep("neuron-verdicts", lambda: neuron_verdicts(stages.lab))
    say("the neuron basis beside the fifty first features")
    curves = stages.keep("neuron-curves", lambda: neuron_curves(stages.lab))
    rows = ranked(found, verdicts)
    table_page(stages, rows, found)
    basis_page(stages, curves, verdicts)
    range_page(stages, rows)
    case_page(page_of(stages, "case", "One feature, every plot", ""), stages, rows, say)
    return index_page(stages, found, rows)


def page_of(stages: Stages, name: str, title: str, lead: str) -> StudyPage:
    """One page of this study."""
    return StudyPage(stages.out, name, title=title, lead=lead, nav=NAV)


def ranked(found: Kept, verdicts: Kept) -> list[dict[str, Any]]:
    """A row a feature, largest MCS to the other seed first; dead ones last."""
    said = {entry["feature"]: entry["verdict"] for entry in verdicts.data["evidence"]}
    rows = []
    for row in found.data["rows"]:
        seed, wide = row["matches"]
        rows.append(
            {"feature": row["feature"], "mcs": seed["mcs"], "partner": seed["nearest"], "wide": wide["mcs"]}
            | {name: row[name] for name in ("count", "density", "max", "dead", "meaningful", "example")}
            | {"verdict": said.get(row["feature"])}
        )
    return sorted(rows, key=lambda row: (row["dead"], -row["mcs"]))


def index_page(stages: Stages, found: Kept, rows: Sequence[dict[str, Any]]) -> Path:
    """How alike two seeds' features are."""
    page = page_of(
        stages,
        "index",
        "Six hundred features",
        f"S1 (July 2023) again, on {stages.model_name}, {stages.settings.site}: two dictionaries from different seeds, "
        "and a third of twice the width; a fourth is that from the other seed.",
    )
    alive = [row for row in rows if not row["dead"]]
    twice = [row for row in alive if row["mcs"] > RECOVERED]
    high, low = (in_words(found.data[f"meaningful_share{which}"]) for which in ("_high", ""))
    page.section(
        "How many features are found twice",
        f"MCS: a feature's largest cosine with any of the other dictionary. Of {len(rows):,} features "
        f"{len(rows) - len(alive):,} fire nowhere in {stages.index.n_tokens:,} tokens (detection limit "
        f"{stages.index.detection_limit:.1e}). A feature looks meaningful where its firings share their token or the "
        "tokens before it more than those of 97.5 % of random directions that fire about as often (docs/lab.md).",
        found="More than 600 features with a high MCS, most of which had a plain meaning.",
        measured=f"{len(twice):,} of {len(alive):,} living features have MCS > {RECOVERED:g}. Of those with MCS > "
        f"{RECOVERED:g} to one of the two others {high} look meaningful, of the rest {low}. "
        f"{by_mcs_in_words(found.data['by_mcs'])}",
    )
    page.table(_counts(stages, found, alive), caption=BESIDE)
    for chart, caption in zip(found.charts, ("Distribution of MCS.", "Share that looks meaningful."), strict=True):
        page.figure(figure_of(chart), chart.name, caption, as_plain(chart), stages.command)
    scores = Scores.open(stages.out / "scores")
    page.section("The dictionaries", "Scores on held-out rows and tokens.")
    columns = ("variant", "width", "l1", "k", "seed", "l0", "fvu", "dead", "ce_recovered", "mmcs_other_seed")
    page.table([{name: row.get(name) for name in columns} for row in without_failed(scores.rows)])
    return page.write()


def _counts(stages: Stages, found: Kept, alive: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Features, neurons and random directions: how many have a twin in the other seed's dictionary."""
    other_ND, controls = stages.grid.directions(OTHER).float(), found.data["controls"]
    wide = other_ND.shape[1]
    chance_ND = torch.randn(other_ND.shape, generator=generator_for("six hundred"))
    sound = found.data["meaningful_share_all"]
    rows = [("features", torch.tensor([row["mcs"] for row in alive]), sound)]
    rows.append(("neurons", mcs(neuron_basis(wide).W_dec_ND, other_ND), controls["neurons"]))
    rows.append(("random directions", mcs(chance_ND, other_ND), controls["random"]))
    return [
        {"directions": name, "count": len(mcs_N), "MCS > 0.9": int((mcs_N > RECOVERED).sum()),
         "median MCS": float(mcs_N.median()) if len(mcs_N) else None, "look meaningful": in_words(share)}
        for name, mcs_N, share in rows
    ]  # fmt: skip


def table_page(stages: Stages, rows: Sequence[dict[str, Any]], found: Kept) -> None:
    """S1's table, and all of it as files."""
    page = page_of(
        stages,
        "table",
        f"The first {SEVENTY}",
        "Sorted by MCS to the other seed, the dead last. All features, in this order: table.csv in this folder.",
    )
    page.section("Features by MCS", "The example is the strongest one, its peak in «».")
    page.table([{name: row[name] for name in SHOWN} for row in rows[:SEVENTY]])
    whole = {row[0]: row for row in found.rows}
    table = Table(found.columns, [whole[row["feature"]] for row in rows])
    write_whole(stages.out / "table.csv", table.csv().encode())
    page.write()


def basis_page(stages: Stages, curves: Kept, verdicts: Kept) -> None:
    """Do features say more than neurons?"""
    page = page_of(stages, "basis", "Against the neuron basis", "Could single neurons have told the same?")
    page.section(
        "Neurons above thresholds",
        "For each feature its top ten examples, and how many neurons are above t on all of them; beside an identity "
        "dictionary (neurons), principal directions and random directions.",
        found="S1 asks whether a feature nets us anything over the neuron basis.",
        measured=_verdicts_in_words(verdicts),
    )
    for chart in curves.charts:
        command = stages.analyse("neuron-curves", out="curves")
        page.figure(figure_of(chart), f"curves-{chart.name}", chart.title, as_plain(chart), command)
    page.section("A verdict on each feature", "How well the best one, or the best few, neurons tell its code.")
    for chart in verdicts.charts:
        command = stages.analyse("verdicts", out="verdicts")
        page.figure(figure_of(chart), f"verdicts-{chart.name}", chart.title, as_plain(chart), command)
    page.write()


def _verdicts_in_words(verdicts: Kept) -> str:
    said = [entry["verdict"] for entry in verdicts.data["evidence"]]
    counts = {word: said.count(word) for word in dict.fromkeys(said)}
    return "Of the features: " + ", ".join(f"{count:,} {word}" for word, count in sorted(counts.items())) + "."


def range_page(stages: Stages, rows: Sequence[dict[str, Any]]) -> None:
    """What features of every MCS look like, and the dead ones."""
    page = page_of(stages, "range", "From high to low MCS", "The three features nearest below each MCS.")
    alive = [row for row in rows if not row["dead"]]
    for band in BANDS:
        below = [row for row in alive if row["mcs"] <= band][:3]
        page.section(f"MCS {band:g}", "" if below else "No living feature is below it.")
        for row in below:
            page.table(
                [line_of(example) for example in stages.index.feature(row["feature"]).examples["top"][:3]],
                caption=_caption(stages.index.feature(row["feature"]), row),
            )
    dead = [row for row in rows if row["dead"]]
    rare = sum(row["count"] < RARE for row in rows)
    tokens = f"{stages.index.n_tokens:,}"
    page.section(
        "The dead",
        f"{len(dead):,} of {len(rows):,} features fire on none of {tokens} tokens, {rare:,} on fewer than {RARE} (the "
        f"dead among them), which is what S1 calls dead; one that fires on fewer than one "
        f"token in {tokens} cannot be told from a dead one.",
    )
    if dead:
        page.table([{name: row[name] for name in ("feature", "mcs", "wide")} for row in dead[:20]])
    page.write()


def _caption(feature: Feature, row: dict[str, Any]) -> str:
    return f"Feature {feature.id}: MCS {row['mcs']:.2f}, fires on {feature.density:.2%} of tokens, {row['verdict']}"


def in_words(share: Mapping[str, Any]) -> str:
    """A share with its 95 % interval."""
    if not share["total"]:
        return "none (there are none)"
    low, high = f"{share['low']:.1%}", f"{share['high']:.1%}"
    return f"{share['count']:,} of {share['total']:,} ({share['share']:.1%}, {low} to {high})"


def by_mcs_in_words(groups: Sequence[Mapping[str, Any]]) -> str:
    """How the share that looks meaningful goes from the group of the lowest MCS to that of the highest."""
    if len(groups) < 2:
        return ""
    first, last = groups[0], groups[-1]
    return (
        f"In {len(groups)} groups of equal number by their larger MCS, the share goes from {in_words(first['share'])}, "
        f"MCS up to {first['high']:.3f}, to {in_words(last['share'])}, MCS from {last['low']:.3f}."
    )

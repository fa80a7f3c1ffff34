"""What the page of one feature holds: its numbers, what it writes, when it fires, and what lies beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monosemy.analysis.chart import Chart, Histogram
from monosemy.analysis.feature import Example, Feature, FeatureIndex
from monosemy.analysis.feature_tokens import entries
from monosemy.analysis.neighbours import nearest_features
from monosemy.analysis.result import as_plain
from monosemy.analysis.verdict import FEW
from monosemy.analysis.verdict_store import VerdictStore
from monosemy.app.feature_list import beside, list_state
from monosemy.app.query import Query, address
from monosemy.app.said import BY, choices, explained, explanations_of
from monosemy.app.state import State

NEIGHBOURS = 10
TOKENS = "tokens.safetensors"  # of an index
UNIFORM = "uniform"  # setting of an index
DIGITS = 7  # of the codes on tokens: what fp32 holds


def feature_data(state: State, query: Query, i: int) -> dict[str, Any]:
    """Everything about feature `i` of the index that the address names, with the explanations that it names. Raises
    NotFound."""
    name, index = state.index(query.get("index") or None)
    feature = state.feature(index, i)
    grid, member = state.member_of(index)
    verdicts, explanations = state.verdicts[name], explanations_of(state, name, query)
    before, after = beside(index, verdicts, i, query, explanations)
    lists = token_shares(index, feature)
    kept = {"index": name, **list_state(query), "at": query.get("at")}
    return {
        "feature": i,
        "index": name,
        "n_features": index.n_features,
        "n_tokens": index.n_tokens,
        "dictionaries": None if grid is None else grid.name,
        "member": member,
        "site": index.artifact.info["site"],
        "top_token": feature.top_token,
        "density": feature.density,
        "count": feature.count,
        "max": feature.max,
        "mean": feature.mean,
        "dead": feature.dead,
        "mcs_other_seed": feature.mcs_other_seed,
        "neurons": None if verdicts is None else neurons(verdicts, i),
        "explanations": explained(explanations, i),
        "by": query.get(BY) or None,
        "stores": choices(state, name, explanations, f"/features/{i}", kept),
        "detection_limit": index.detection_limit,
        "has_logits": index.has_logits,
        "top_logits": feature.top_logits,
        "bottom_logits": feature.bottom_logits,
        "histogram": as_plain(histogram(feature)),
        "fires_on": lists["frequent"],
        "followed_by": lists["next"],
        "groups": groups(feature),
        "never_silent": not feature.examples["random"],
        "not_kept": not_kept(index),
        "previous": before,
        "next": after,
    }


def neurons(verdicts: VerdictStore, i: int) -> dict[str, Any]:
    """The neuron verdict of a feature, with what it rests on."""
    evidence = verdicts.evidence(i)
    return {**as_plain(evidence), "few": FEW, "tokens": verdicts.tokens, "coordinates": verdicts.coordinates}


def neighbours_data(state: State, query: Query, i: int) -> dict[str, Any]:
    """The features of the same dictionary whose directions are nearest to feature `i`'s. Raises NotFound."""
    name, index = state.index(query.get("index") or None)
    state.checked(index, i)
    grid, member = state.member_of(index)
    found = []
    if grid is not None:
        near = nearest_features(state.directions(grid, member), i, NEIGHBOURS)
        for j, cosine in zip(near.ids, near.cosines, strict=True):
            row = index.summary(j)
            known = {"top_token": row.top_token, "density": row.density, "max": row.max}
            href = address(f"/features/{j}", index=name, by=query.get(BY))
            found.append({"feature": j, "cosine": cosine, **known, "href": href})
    return {"feature": i, "index": name, "neighbours": found}


def token_shares(index: FeatureIndex, feature: Feature) -> dict[str, list[tuple[str, float]]]:
    """The tokens that a feature fires on most often and those that come next, each with its share of the firings;
    empty where the index was made before it counted them."""
    if TOKENS not in index.artifact.manifest["files"]:
        return {"frequent": [], "next": []}
    return {
        key: [
            (index.texts.of(token), count / feature.count)
            for token, count, _ in entries(index, f"{key}_token", feature.id)[:NEIGHBOURS]
        ]
        for key in ("frequent", "next")
    }


def not_kept(index: FeatureIndex) -> list[str]:
    """What an index has nothing of, because it was made before that was kept."""
    uniform = [] if UNIFORM in index.artifact.config else ["examples at equal steps of activation"]
    tokens = [] if TOKENS in index.artifact.manifest["files"] else ["the tokens that features fire on"]
    return [*uniform, *tokens]


def histogram(feature: Feature) -> Chart:
    """Firings by activation, without the empty bins at both ends, whose edges are those of all features together."""
    edges, counts = feature.histogram
    used = [place for place, count in enumerate(counts) if count]
    first, end = (used[0], used[-1] + 1) if used else (0, 0)
    mark = Histogram(edges[first : end + 1], counts[first:end], "tokens")
    log = bool(used) and edges[first] > 0
    return Chart("activations", "Activations", "activation", "tokens", [mark], log_x=log)


def groups(feature: Feature) -> list[dict[str, Any]]:
    """The examples by group: the strongest; one of each equal step of activation and quantiles of a sample, both with
    the strongest first; where it does not fire."""
    found = [
        _group("top", "Top activations", feature.examples["top"]),
        _group("uniform", "Equal steps of activation", feature.examples["uniform"][::-1]),
    ]
    sampled = feature.examples["quantile"]
    numbers = sorted({example.group for example in sampled}, reverse=True)
    for place, wanted in enumerate(numbers):
        mine = [example for example in reversed(sampled) if example.group == wanted]
        found.append(_group("quantile", f"Quantile {place + 1} of {len(numbers)}", mine))
    found.append(_group("silent", "Not activating", feature.examples["random"]))
    return [group for group in found if group["examples"]]


def _group(kind: str, heading: str, examples: Sequence[Example]) -> dict[str, Any]:
    peaks = [example.values[example.peak] for example in examples]
    return {
        "kind": kind,
        "heading": heading,
        "low": min(peaks, default=None),
        "high": max(peaks, default=None),
        "examples": [
            {
                "document": example.document,
                "position": example.position,
                "peak": example.peak,
                "tokens": example.tokens,
                "values": [_short(value) if value else 0 for value in example.values],
            }
            for example in examples
        ],
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")

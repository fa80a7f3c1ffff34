"""The analyses of more than one feature that a browser may ask for: of a member, of circuits, of several members."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from monosemy.analysis.atlas import atlas
from monosemy.analysis.circuits import CircuitEdges, CircuitSettings, children, parents
from monosemy.analysis.lab import Lab
from monosemy.analysis.mcs_table import mcs_table
from monosemy.analysis.pairs import feature_pairs
from monosemy.analysis.search import PromptFeatures, features_of_prompt
from monosemy.analysis.splitting import splitting_tree
from monosemy.app.member_analyses import OF_MEMBER
from monosemy.app.offered import GRID, MEMBER, PROMPT, Analysis, Arguments, Values
from monosemy.app.parameters import LARGEST, Choice, Name, Parameter, Real, Whole
from monosemy.app.query import address
from monosemy.app.references import IndexesOf, IndexOf, LabOf, MemberOf, MembersOf, RowsOf
from monosemy.metrics.recovery import RECOVERED
from monosemy.runtime import UsageError

ALL = "all"  # members


def members_of(said: str) -> list[int] | None:
    """Members by their numbers, `0,2,3`; None for all. Raises UsageError."""
    if said == ALL:
        return None
    if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", said, re.ASCII):
        raise UsageError(f"`members` (={said[:40]!r}) must be {ALL}, or numbers with commas between, as 0,2,3")
    return [int(number) for number in said.split(",")]


def feature_address(lab: Lab, feature: int) -> str | None:
    """The page of a feature, where its dictionary is indexed."""
    return None if lab.index is None else address(f"/features/{feature}", index=lab.index.artifact.path.name)


def _connected(side: str) -> Any:
    def arguments(values: Values) -> Arguments:
        other = LabOf(values["other"], values["other_member"], side)
        return [values["feature"], other], {name: values[name] for name in ("top", "rows", "silent")}

    return arguments


def _ends(given: Sequence[Any], result: CircuitEdges) -> Mapping[str, Any]:
    """The features at the other ends: where their pages are, the token they fire on most, and what the edge does."""
    other: Lab = given[2]
    return {
        "direction": result.direction,
        "ends": [
            {
                "href": feature_address(other, edge.feature),
                "top_token": None if other.index is None else other.index.summary(edge.feature).top_token,
                "how": edge.how,
            }
            for edge in result.edges
        ],
        "edges": result.edges,
    }


def _found(given: Sequence[Any], result: PromptFeatures) -> Mapping[str, Any]:
    """The features of a text with all that a line a feature needs."""
    lab: Lab = given[0]
    index = lab.index
    assert index is not None  # the search refused it
    return {
        "tokens": result.tokens,
        "features": [
            {
                "feature": each.feature,
                "href": feature_address(lab, each.feature),
                "strength": each.strength,
                "code": each.code,
                "max": index.summary(each.feature).max,
                "top_token": index.summary(each.feature).top_token,
                "place": each.place,
                "values": each.values,
            }
            for each in result.features
        ],
    }


def _pair(values: Values) -> Arguments:
    return [values["a"], values["b"]], {}


def _splitting(values: Values) -> Arguments:
    members = members_of(values["members"])
    return [], {} if members is None else {"members": members}


def _atlas(values: Values) -> Arguments:
    rows = {"rows": RowsOf(values["dictionaries"])} if values["codes"] == "yes" else {}
    indexes = IndexesOf(values["dictionaries"], members_of(values["members"]))
    return [], {**_splitting(values)[1], **rows, "indexes": indexes}


def _mcs(values: Values) -> Arguments:
    grid, a = values["dictionaries"], values["a"]
    others = members_of(values["others"])
    if others is None:
        raise UsageError("`others` must be numbers here, with commas between, as 1,2")
    known = {"lab": LabOf(grid, a)} if values["meaningful"] == "yes" else {"index": IndexOf(grid, a)}
    return [MembersOf(grid, others, "others")], {**known, "low": values["low"]}


CIRCUIT: Mapping[str, Parameter] = {
    "other": Name("a grid of this run, of the same model"),
    "other_member": Whole("its member", 0, LARGEST),
    "top": Whole("connections shown, the strongest", 1, 100, CircuitSettings.top),
    "rows": Whole("rows of the corpus in which it fires", 1, 500, CircuitSettings.rows),
    "silent": Whole(
        "connections besides in which the earlier feature keeps the later one silent; 0: none",
        0,
        100,
        CircuitSettings.silent,
    ),
}
MEMBERS = Name(f"numbers with commas between, or {ALL}")

ACROSS: Mapping[str, Analysis] = {
    **OF_MEMBER,
    "parents": Analysis(
        "Parents",
        "Which features of an earlier site drive this one",
        parents,
        CIRCUIT,
        _connected("early"),
        also=_ends,
        page="/circuits",
    ),
    "children": Analysis(
        "Children",
        "Which features of a later site this one drives",
        children,
        CIRCUIT,
        _connected("late"),
        also=_ends,
        page="/circuits",
    ),
    "search": Analysis(
        "Search by text",
        "The features that are strongest in a text",
        features_of_prompt,
        {"prompt": PROMPT, "n": Whole("features shown", 1, 200, 20)},
        lambda values: ([values["prompt"]], {"n": values["n"]}),
        common=MEMBER,
        also=_found,
        page="/search",
        quick=True,
    ),
    "pairs": Analysis(
        "Compare",
        "Each feature of a member beside another member's",
        feature_pairs,
        {"a": Whole("a member", 0, LARGEST), "b": Whole("another", 0, LARGEST)},
        _pair,
        common=GRID,
        page="/compare",
        kept=True,
    ),
    "mcs": Analysis(
        "MCS table",
        "Every feature of a member beside other members, nearest and one-to-one: S1's spreadsheet",
        mcs_table,
        {
            "a": Whole("a member", 0, LARGEST),
            "others": Name("those beside it: numbers with commas between"),
            "low": Real("what is called a low MCS, at most", -1.0, 1.0, RECOVERED),
            "meaningful": Choice("whether it says which features look meaningful", ("no", "yes"), "no"),
        },
        _mcs,
        common=GRID,
        of=lambda values: MemberOf(values["dictionaries"], values["a"], "reference"),
        page="/mcs",
        kept=True,
    ),
    "splitting": Analysis(
        "Splitting",
        "What features become in the next larger dictionary",
        splitting_tree,
        {"members": MEMBERS},
        _splitting,
        common=GRID,
        page="/splitting",
        kept=True,
    ),
    "atlas": Analysis(
        "Atlas",
        "The same feature in several dictionaries",
        atlas,
        {"members": MEMBERS, "codes": Choice("whether codes on the activations are compared", ("no", "yes"), "no")},
        _atlas,
        common=GRID,
        page="/atlas",
        kept=True,
    ),
}

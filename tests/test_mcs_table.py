"""The MCS table, its spreadsheet read back by hand, and the rule for what looks meaningful, against brute force."""

from __future__ import annotations

import io
import math
import zipfile
from itertools import combinations
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
import torch
from feature_worlds import D_IN, SITE, TableModel, grid, token_store, whole_number_dictionary
from scipy.optimize import linear_sum_assignment

from monosemy.analysis import meaning, meaning_bars
from monosemy.analysis.chart import Bars
from monosemy.analysis.feature import FeatureIndex
from monosemy.analysis.index import features
from monosemy.analysis.lab import Batch, Lab
from monosemy.analysis.mcs_table import McsTable, mcs_table
from monosemy.analysis.meaning_bars import Bands, Bar, Place, agreement
from monosemy.analysis.meaning_by_mcs import Group, chart_of_shares, equal_groups
from monosemy.analysis.result import Table
from monosemy.analysis.spreadsheet import xlsx
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.store import DictionaryStore
from monosemy.metrics.interval import Share
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[DictionaryStore, FeatureIndex, Lab]:
    """A grid of three dictionaries, the index of the first, and its lab."""
    folder = tmp_path_factory.mktemp("made")
    store = token_store(folder, [40] * 12, context=16)
    sides = [whole_number_dictionary(9, 0), whole_number_dictionary(14, 1), whole_number_dictionary(5, 2)]
    opened = DictionaryStore.open(grid(folder / "grid", sides))
    model = cast(LanguageModel, TableModel())
    index = features(opened, member=0, model=model, tokens=store, out=folder / "features", before=8, after=2)
    return opened, index, Lab(model, sides[0], SITE, store, index=index)


def read_back(file: bytes) -> tuple[list[list[Any]], ElementTree.Element]:
    """The cells of the first sheet, missing ones as None, and the sheet itself."""
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        assert archive.testzip() is None
        roots = {name: ElementTree.fromstring(archive.read(name)) for name in archive.namelist()}
    sheet = roots["xl/worksheets/sheet1.xml"]
    rows = []
    for row in sheet.iter(f"{MAIN}row"):
        cells: dict[int, Any] = {}
        for cell in row:
            column = 0
            for letter in cell.attrib["r"].rstrip("0123456789"):
                column = 26 * column + ord(letter) - 64
            assert cell.attrib["r"].endswith(row.attrib["r"])
            kind = cell.attrib.get("t", "n")
            if kind == "inlineStr":
                cells[column] = cell.findtext(f"{MAIN}is/{MAIN}t")
            else:
                value = float(cell.findtext(f"{MAIN}v") or "nan")
                cells[column] = bool(value) if kind == "b" else value
        rows.append([cells.get(column) for column in range(1, max(cells, default=0) + 1)])
    return rows, sheet


def test_a_spreadsheet_holds_the_table() -> None:
    hard = ["=1+1", "<script>&amp;", " two  blanks ", "line\nend\ttab", "日本 🙂 ‏عربي", "_x0041_", "+", "@x", "a\rb"]
    rows: list[list[Any]] = [
        [1, 0.1, True, hard[0]],
        [-2, 1e-300, False, hard[1]],
        [None, math.nan, None, "\x00\x0b\ud800"],
    ]
    rows += [[1, math.inf, True, text] for text in hard]
    found, sheet = read_back(xlsx(Table(("n", "x", "is", "text"), rows), 'a "b" & c'))
    assert found[0] == ["n", "x", "is", "text"]
    assert found[1] == [1.0, 0.1, True, "=1+1"]
    assert found[2] == [-2.0, 1e-300, False, "<script>&amp;"]
    assert found[3] == [None, None, None, "\ufffd\ufffd\ufffd"]
    for row, text in zip(found[4:], hard, strict=True):
        assert row[:3] == [1.0, None, True]
        assert row[3] == text.replace("_x0041_", "_x005F_x0041_")  # how the format writes that text
    assert not list(sheet.iter(f"{MAIN}f"))  # no formula
    (pane,) = sheet.iter(f"{MAIN}pane")
    assert (pane.attrib["ySplit"], pane.attrib["state"]) == ("1", "frozen")
    (sorting,) = sheet.iter(f"{MAIN}autoFilter")
    assert sorting.attrib["ref"] == f"A1:D{len(rows) + 1}"


def test_a_spreadsheet_has_the_parts_that_name_each_other() -> None:
    file = xlsx(Table(tuple(f"c{i}" for i in range(60)), [list(range(60)), ["x" * 40_000] + [None] * 59]), "s")
    rows, sheet = read_back(file)
    assert rows[1] == [float(i) for i in range(60)]
    assert len(rows[2][0]) == 32_767
    assert [cell.attrib["r"] for cell in sheet.iter(f"{MAIN}c")][25:28] == ["Z1", "AA1", "AB1"]
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        names = set(archive.namelist())
        types = ElementTree.fromstring(archive.read("[Content_Types].xml"))
        told = {each.attrib["PartName"].lstrip("/") for each in types if "PartName" in each.attrib}
        (workbook,) = ElementTree.fromstring(archive.read("_rels/.rels"))
        (first,) = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
        (listed,) = ElementTree.fromstring(archive.read("xl/workbook.xml")).iter(f"{MAIN}sheet")
    assert told == {name for name in names if name.endswith(".xml") and "Types" not in name}
    assert workbook.attrib["Target"] in names
    assert f"xl/{first.attrib['Target']}" in names
    assert first.attrib["Id"] in listed.attrib.values()
    assert xlsx(Table(("a",), [[1]]), "s") == xlsx(Table(("a",), [[1]]), "s")


def test_an_empty_table_is_a_header() -> None:
    rows, _ = read_back(xlsx(Table(("a", "b"), []), "s"))
    assert rows == [["a", "b"]]


def test_the_table_equals_brute_force(made: tuple[DictionaryStore, FeatureIndex, Lab]) -> None:
    opened, index, _ = made
    found = mcs_table((opened, 0), [(opened, 1), (opened, 2)], index=index)
    unit = [torch.nn.functional.normalize(opened.directions(member), dim=1) for member in range(3)]
    table = index.table()
    for number, other in enumerate(unit[1:]):
        cosines = unit[0] @ other.T
        rows, columns = linear_sum_assignment(-cosines.numpy())
        partner = dict(zip(rows.tolist(), columns.tolist(), strict=True))
        for feature, row in enumerate(found.rows):
            match = row.matches[number]
            assert match.mcs == pytest.approx(float(cosines[feature].max()), abs=1e-6)
            assert match.nearest == int(cosines[feature].argmax())
            assert match.partner == partner.get(feature)
            if match.partner is None:
                assert match.one_to_one is None
            else:
                assert match.one_to_one == pytest.approx(float(cosines[feature, match.partner]), abs=1e-6)
    assert sum(row.matches[1].partner is None for row in found.rows) == 4  # nine features, five to pair with
    for feature, row in enumerate(found.rows):
        told = table[feature]
        assert (row.count, row.density, row.max) == (told["count"], told["density"], told["max"])
        assert row.dead == (told["count"] == 0)
        top = index.feature(feature).examples["top"]
        assert (row.example is None) == (not top)
        if top and row.example is not None:
            assert f"«{top[0].tokens[top[0].peak]}»" in row.example
            assert row.example.replace("«", "").replace("»", "") == "".join(top[0].tokens).strip()
    assert found.rows[0].dead is True
    assert found.n_rare == sum(told["count"] < 10 for told in table)
    assert {row.meaningful for row in found.rows} == {None}  # a lab is needed for that


def test_rare_features_are_counted_apart_from_the_dead(
    made: tuple[DictionaryStore, FeatureIndex, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, index, _ = made
    counts = sorted(row["count"] for row in index.table())
    monkeypatch.setattr("monosemy.analysis.mcs_table.RARE", counts[-2])
    rare = mcs_table((opened, 0), [(opened, 1)], index=index).n_rare
    assert rare == sum(count < counts[-2] for count in counts)
    assert rare != counts.count(0)


def test_shares_count_living_features_on_either_side_of_low(
    made: tuple[DictionaryStore, FeatureIndex, Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monosemy.analysis.meaning_by_mcs.FEWEST", 3)
    opened, index, lab = made
    values = sorted(max(m.mcs for m in row.matches) for row in mcs_table((opened, 0), [(opened, 1)]).rows)
    found = mcs_table((opened, 0), [(opened, 1)], lab=lab, low=values[4])
    living = [row for row in found.rows if not row.dead]
    low = [row.meaningful for row in living if row.matches[0].mcs <= values[4]]
    high = [row.meaningful for row in living if row.matches[0].mcs > values[4]]
    assert found.n_low == len(low)
    groups = {"meaningful_share": low, "meaningful_share_high": high, "meaningful_share_all": low + high}
    for name, group in groups.items():
        share = getattr(found, name)
        assert (share.count, share.total) == (sum(map(bool, group)), len(group))
        assert share.low <= share.share == share.count / share.total <= share.high
    assert found.controls is not None
    assert found.rows[0].meaningful is False  # dead
    assert_groups_hold_their_shares(found, index, lab)
    bare = mcs_table((opened, 0), [(opened, 1)])
    assert (bare.by_mcs, len(bare.charts())) == ((), 1)
    assert {bare.meaningful_share_all, bare.meaningful_share, bare.meaningful_share_high, bare.controls} == {None}
    assert bare.rows[0].dead is bare.rows[0].count is bare.n_rare is None
    assert bare.rows[0].example is None
    assert mcs_table((opened, 0), [(opened, 1)], index=index, lab=lab, low=-2).meaningful_share == Share.of(0, 0)


def assert_groups_hold_their_shares(found: McsTable, index: FeatureIndex, lab: Lab) -> None:
    """Each group's share is that of the rule, with the interval that holds its bars' chance; the chart shows both."""
    bands, _ = meaning.bands_of(lab, index)
    living = sorted((row.matches[0].mcs, row.feature) for row in found.rows if not row.dead)
    assert len(living) == 7
    for number, (group, part) in enumerate(zip(found.by_mcs, (living[:3], living[3:]), strict=True)):
        seen = meaning.looked_at(lab, index, bands, [feature for _, feature in part])
        assert group == Group(part[0][0], part[-1][0], bands.share(seen, "mcs", number))
        assert group.share.count == sum(found.rows[feature].meaningful is True for _, feature in part)
    (bars,) = found.charts()[1].marks
    assert isinstance(bars, Bars)
    assert list(bars.labels) == [f"{group.low:.2f} to {group.high:.2f} ({group.share.total})" for group in found.by_mcs]
    told = [(group.share.share, group.share.low, group.share.high) for group in found.by_mcs]
    assert list(zip(bars.values, bars.low, bars.high, strict=True)) == told
    assert all(low is not None and high is not None and low < high for _, low, high in told)


def test_it_sorts_saves_and_opens_as_a_spreadsheet(
    made: tuple[DictionaryStore, FeatureIndex, Lab], tmp_path: Path
) -> None:
    opened, index, _ = made
    found: McsTable = mcs_table((opened, 0), [(opened, 2)], index=index)
    ordered = [row[1] for row in found.sorted_by("mcs").rows]
    assert found.sorted_by("mcs").rows == found.ordered("mcs").table().rows
    assert ordered == sorted(ordered, reverse=True)
    partners = [row[4] for row in found.sorted_by("partner", descending=False).rows]
    assert partners == [0, 1, 2, 3, 4, None, None, None, None]
    both = mcs_table((opened, 0), [(opened, 2), (opened, 1)], index=index)
    assert both.ordered().rows == both.ordered(str(both.table().columns[1])).rows
    assert [row.matches[0].mcs for row in both.ordered("mcs").rows] == ordered
    assert [row.count for row in both.ordered("count", False).rows] == sorted(row["count"] for row in index.table())
    with pytest.raises(UsageError, match="`column`"):
        found.sorted_by("size")
    names = {path.name for path in found.ordered().save(tmp_path).iterdir()}
    assert names >= {"mcs-table.csv", "mcs-table.xlsx", "mcs-table.json", "mcs-table-distribution.svg"}
    rows, _ = read_back((tmp_path / "mcs-table.xlsx").read_bytes())
    assert rows[0] == list(found.table().columns)
    assert [row[1] for row in rows[1:]] == ordered
    mark: Any = found.charts()[0].marks[0]
    assert sum(mark.counts) == 9


@pytest.mark.parametrize("count", [0, 1, 19, 43, 344])
def test_groups_by_mcs_are_of_equal_numbers(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    values = (1 - torch.rand(count, generator=generator) ** 4).tolist()  # crowded at the top, as MCS are
    groups = equal_groups(values)
    numbers = [len(group) for group in groups]
    assert [values[place] for group in groups for place in group] == sorted(values)
    assert len(numbers) == {0: 0, 1: 1, 19: 1, 43: 2, 344: 8}[count]
    assert not numbers or max(numbers) - min(numbers) <= 1


@pytest.mark.parametrize(
    ("edges", "labels"),
    [
        ([(0.1, 0.5), (0.6, 1.0)], ["0.10 to 0.50 (4)", "0.60 to 1.00 (4)"]),
        ([(0.2, 0.9981), (0.9983, 0.9991), (0.9992, 0.9998)], ["0.200 to 0.998", "0.998 to 0.999", "0.999 to 1.000"]),
        ([(0.2, 0.9976), (0.9977, 0.9983)], ["0.2000 to 0.9976", "0.9977 to 0.9983"]),
        ([(0.991, 0.991), (0.994, 0.994)], ["0.991 to 0.991", "0.994 to 0.994"]),
        ([(1.0, 1.0), (1.0, 1.0)], ["1.00 to 1.00", "1.00 to 1.00"]),  # truly the same
        ([], []),
    ],
)
def test_bars_by_mcs_can_be_told_apart(edges: list[tuple[float, float]], labels: list[str]) -> None:
    share = Share.of(1, 4)
    bars = chart_of_shares([Group(low, high, share) for low, high in edges]).marks[0]
    assert isinstance(bars, Bars)
    assert list(bars.labels) == [label if "(" in label else f"{label} (4)" for label in labels]


def test_what_does_not_fit_is_refused(made: tuple[DictionaryStore, FeatureIndex, Lab]) -> None:
    opened, index, _ = made
    with pytest.raises(UsageError, match="`others` is empty"):
        mcs_table((opened, 0), [])
    with pytest.raises(UsageError, match="index of 9 features"):
        mcs_table((opened, 1), [(opened, 0)], index=index)


# ---- what looks meaningful --------------------------------------------------------------------------------------


def places_of(*firings: tuple[str, str]) -> list[Place]:
    """Firings as "token" after "context letters", each in its own document."""
    return [Place(ord(peak), frozenset(map(ord, context)), number) for number, (peak, context) in enumerate(firings)]


def test_agreement_equals_brute_force() -> None:
    places = places_of(("a", "xy"), ("a", "yz"), ("b", "xyy"), ("a", ""))
    pairs = list(combinations(places, 2))
    overlap = [len(p.context & q.context) / max(1, len(p.context | q.context)) for p, q in pairs]
    peaks, contexts = agreement(places)
    assert peaks == sum(p.peak == q.peak for p, q in pairs) / 6 == 0.5
    assert contexts == pytest.approx(sum(overlap) / 6)
    assert agreement(places[:1]) == agreement([]) == (0, 0)


def test_random_firings_rarely_pass_and_agreeing_ones_do() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(65, 85, (800, meaning_bars.EXAMPLES, 9), generator=generator)
    random = [places_of(*((chr(row[0]), "".join(map(chr, row[1:]))) for row in own)) for own in drawn.tolist()]
    bar = Bar(random[:399])
    for count in (5, 15):
        passed = [bar.meaningful(own[:count]) for own in random[400:]]
        assert 0 < sum(passed) / len(passed) < 2 * meaning_bars.CHANCE
        reached = sorted((agreement(own[:count])[0] for own in random[:399]), reverse=True)
        assert bar.limits(count)[0] == reached[9]  # the tenth of 399: 10 / 400 is CHANCE / 2
    one_token = [Place(1, place.context, place.document) for place in random[0]]
    one_context = [Place(place.peak, frozenset((1, 2)), place.document) for place in random[0]]
    assert bar.meaningful(one_token)
    assert bar.meaningful(one_context)
    assert not bar.meaningful([Place(1, place.context, 0) for place in random[0]])  # one document
    assert not bar.meaningful([])
    assert not Bar([]).meaningful(one_token)  # nothing to hold it against
    assert not Bar(random[:38]).meaningful(one_token)  # too little: of 38 none is exceeded with CHANCE / 2 only
    many = [place for place in one_token for _ in range(4)]
    assert bar.meaningful(many)  # every fourth of them
    assert not bar.meaningful([*random[0], *one_token][: meaning_bars.EXAMPLES])


def test_a_density_has_the_bar_of_its_band() -> None:
    bars = [Bar([]), Bar([]), Bar([])]
    bands = Bands([0.1, 0.2, 0.5], bars)
    found = [next(number for number, bar in enumerate(bars) if bar is bands.bar(d)) for d in (0, 0.1, 0.15, 0.5, 0.9)]
    assert found == [0, 0, 1, 2, 2]


def test_features_are_held_against_their_bands_bar(made: tuple[DictionaryStore, FeatureIndex, Lab]) -> None:
    _, index, lab = made
    bands, held = meaning.bands_of(lab, index)
    living = sorted(row["density"] for row in index.table() if not row["dead"])
    assert bands.largest == living  # eight living features, eight bands
    assert [len(bar.of_random) for bar in bands.bars] == [meaning.SET] * len(living)
    assert held.random.total == meaning.HELD * len(living)
    assert held.neurons.total == D_IN  # each once
    assert held.random.share is not None
    assert held.random.share < 0.2
    sound = [bands.passes(seen) for seen in meaning.looked_at(lab, index, bands)]
    examples = meaning.strongest(index)
    assert meaning.looked_at(lab, index, bands, [4, 0]) == [meaning.looked_at(lab, index, bands)[n] for n in (4, 0)]
    for number, row in enumerate(index.table()):
        sample, top = (index.feature(number).examples[group] for group in ("quantile", "top"))
        (places,) = meaning.places_at(lab.tokens, torch.tensor([[each.offset for each in sample]], dtype=torch.int64))
        assert sound[number] == (not row["dead"] and bands.bar(row["density"]).meaningful(places))
        assert (examples[number] is None) == (not top)
        for example, place in zip(sample, places, strict=True):
            before = example.tokens[max(0, example.peak - meaning.REACH) : example.peak]  # the index has 8 before
            assert {lab.texts.of(token) for token in place.context} == set(before)
            assert lab.texts.of(place.peak) == example.tokens[example.peak]
            assert lab.tokens.document_names()[place.document] == example.document


def test_contexts_do_not_depend_on_the_window_of_the_index(
    made: tuple[DictionaryStore, FeatureIndex, Lab], tmp_path: Path
) -> None:
    opened, index, lab = made
    short = features(opened, member=0, model=lab.model, tokens=lab.tokens, out=tmp_path / "short", before=0, after=0)
    bands, _ = meaning.bands_of(lab, index)
    assert meaning.looked_at(lab, short, bands) == meaning.looked_at(lab, index, bands)


def test_an_index_of_dead_features_has_no_bars(made: tuple[DictionaryStore, FeatureIndex, Lab], tmp_path: Path) -> None:
    _, _, lab = made
    weights = {"W_enc": torch.zeros(3, D_IN), "b_enc": -torch.ones(3), "W_dec": torch.eye(3, D_IN)}
    dead = ReluDictionary(weights)
    opened = DictionaryStore.open(grid(tmp_path / "grid", [dead, dead]))
    index = features(opened, member=0, model=lab.model, tokens=lab.tokens, out=tmp_path / "features")
    found = mcs_table((opened, 0), [(opened, 1)], lab=Lab(lab.model, dead, SITE, lab.tokens, index=index))
    assert [row.meaningful for row in found.rows] == [False] * 3
    assert found.controls is not None
    assert found.controls.random == found.controls.neurons == Share.of(0, 0)


def test_directions_fire_as_often_as_they_are_told(made: tuple[DictionaryStore, FeatureIndex, Lab]) -> None:
    """Against every code of the corpus: the places are firings of the direction at its own density."""
    _, _, lab = made
    rows = lab.tokens.batch(torch.arange(lab.tokens.n_rows))
    x_XD = lab.x(Batch(rows.ids_BC, rows.mask_BC))[rows.mask_BC]
    W_ND = torch.randn(4, x_XD.shape[1], generator=torch.Generator().manual_seed(1))
    densities = [0.1, 0.02, 0.5, 0.0]
    found = meaning.firings(lab, W_ND, x_XD, densities, lab.tokens.n_tokens)
    for along_X, places, density in zip(W_ND @ x_XD.T, found, densities, strict=True):
        threshold = along_X.sort(descending=True).values[int(density * len(along_X))]
        fires = (along_X > threshold).nonzero().flatten().tolist()
        assert len(places) == min(len(fires), meaning_bars.EXAMPLES)
        assert (len(places) > 5) == (density > 0.02)
        tokens = rows.ids_BC[rows.mask_BC]
        assert {place.peak for place in places} <= {int(tokens[place]) for place in fires}

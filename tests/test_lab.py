"""A dictionary beside its model: prompts as ids, codes of padded batches, and what results do alike."""

from __future__ import annotations

import csv
import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import pytest
import torch
from feature_worlds import SITE, TableModel, grid, token_store, whole_number_dictionary
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from monosemy.analysis.chart import Bars, Chart, Curve, Heat, Histogram, Points, chart_of, figure_of, visible
from monosemy.analysis.index import features
from monosemy.analysis.lab import Lab
from monosemy.analysis.result import Result, Table, as_plain
from monosemy.data.tokens import TokenStore
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.figure import svg_source
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError

WIDTH = 12


class SmallModel(TableModel):
    """The table with what a lab asks of a model besides."""

    max_context: int | None = 9
    vocab_size = 258


def lab_of(folder: Path, dictionary: Dictionary, bos: str = "no", skip_bos: bool = False) -> Lab:
    store = token_store(folder, [60, 9], context=8, bos=bos)
    return Lab(cast(LanguageModel, SmallModel()), dictionary, SITE, store, skip_bos)


def by_hand(lab: Lab, ids: list[int]) -> torch.Tensor:
    """codes_CN of one row alone."""
    ids_1C = torch.tensor([ids])
    return lab.dictionary.encode(lab.model.capture(ids_1C, [SITE], torch.ones_like(ids_1C).bool())[SITE][0])


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_codes_of_a_padded_batch_are_those_of_each_row_alone(tmp_path: Path, kind: str) -> None:
    plain = whole_number_dictionary(WIDTH)
    lab = lab_of(tmp_path, plain if kind == "relu" else TopKDictionary(plain.tensors, {"k": 3}))
    prompts = ["abca", "h", "ffgabc"]
    batch = lab.batch(prompts)
    codes_BCN, last_BF = lab.codes(batch), lab.last_codes(batch, [7, 1])
    for row, prompt in enumerate(prompts):
        ids = lab.ids(prompt)
        assert torch.equal(codes_BCN[row, : len(ids)], by_hand(lab, ids))
        assert not codes_BCN[row, len(ids) :].any()
        assert torch.equal(last_BF[row], by_hand(lab, ids)[-1, [7, 1]])
    assert torch.equal(lab.codes(batch, [5, 0]), codes_BCN[:, :, [5, 0]])
    assert lab.codes(batch, []).shape == (*batch.ids_BC.shape, 0)  # of no features
    assert lab.last_codes(batch, []).shape == (len(prompts), 0)


def test_bos_comes_where_documents_have_it_and_counts_only_where_it_was_trained_on(tmp_path: Path) -> None:
    dictionary = whole_number_dictionary(WIDTH)
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    without = lab_of(tmp_path / "without", dictionary)
    assert without.texts.sequence(without.ids("ab")) == ["a", "b"]
    with_bos = lab_of(tmp_path / "with", dictionary, bos="yes")
    bos = with_bos.tokens.edges.bos
    assert bos is not None
    ids = with_bos.ids("ab")
    assert ids[0] == bos
    assert with_bos.ids(ids[1:]) == ids[1:]  # ids are taken as they are
    assert with_bos.codes(with_bos.batch(["ab"]))[0, 0, 1] > 0  # feature 1 always fires
    skipping = Lab(with_bos.model, dictionary, SITE, with_bos.tokens, skip_bos=True)
    codes_1CN = skipping.codes(skipping.batch(["ab"]))
    assert not codes_1CN[0, 0].any()
    assert torch.equal(codes_1CN[0, 1:], with_bos.codes(with_bos.batch(["ab"]))[0, 1:])
    assert not skipping.last_codes(skipping.batch([[bos]])).any()


def test_prompts_and_features_that_cannot_be_are_refused(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, whole_number_dictionary(WIDTH))
    for prompt, why in (("", "no tokens"), ("abcdefghab", "at most 9"), ([5, 999], "0 to 257"), ([], "no tokens")):
        with pytest.raises(UsageError, match=why):
            lab.ids(prompt)
    for feature in (-1, WIDTH):
        with pytest.raises(UsageError, match=f"from 0 to {WIDTH - 1}"):
            lab.codes(lab.batch(["a"]), [feature])
    with pytest.raises(UsageError, match="needs its index"):
        lab.maximum(1)


def test_opening_one_refuses_what_does_not_belong_together(tmp_path: Path) -> None:
    model = cast(LanguageModel, SmallModel())
    two = grid(tmp_path / "two", [whole_number_dictionary(WIDTH), whole_number_dictionary(WIDTH, seed=1)])
    other = grid(tmp_path / "other", [whole_number_dictionary(WIDTH, seed=2)])
    store: TokenStore = token_store(tmp_path, [60, 9], context=8)
    index = features(two, member=1, model=model, tokens=store, out=tmp_path / "features")
    lab = Lab.open(two, member=1, model=model, tokens=store, index=index)
    assert lab.site == lab.written_site == SITE
    assert lab.maximum(1) == index.summary(1).max > 0
    with pytest.raises(UsageError, match="never fires"):
        lab.maximum(0)
    with pytest.raises(UsageError, match="features of member 1"):
        Lab.open(two, member=0, model=model, tokens=store, index=index)
    with pytest.raises(UsageError, match="other dictionaries"):
        Lab.open(other, member=0, model=model, tokens=store, index=index)


@dataclass(frozen=True)
class Tried(Result):
    """A result with something of everything."""

    name: ClassVar[str] = "tried"
    text: str
    values_2: torch.Tensor

    def table(self) -> Table:
        """Two rows."""
        return Table(["token", "value"], [[self.text, 1.5], ["b,\n", None]])

    def charts(self) -> list[Chart]:
        """Every mark."""
        return [
            Chart(
                "bars",
                "t",
                "x",
                "y",
                [
                    Bars([" a", "$\n"], [1.0, None], "one"),
                    Bars([" a", "$\n"], [2.0, 3.0], "two", [1.5, None], [4.0, None]),
                ],
            ),
            Chart("curves", "t", "x", "y", [Curve([1, 2], [1, None], low=[0, 0], high=[2, 2])], log_x=True),
            Chart("rest", "t", "x", "y", [Points([1], [2]), Histogram([0, 1, 2], [3, 4])]),
            Chart("heat", "t", "x", "y", [Heat([[1, None], [2, 3]], ["r", "s"], ["c", "d"])]),
        ]


def test_a_result_saves_its_numbers_its_table_and_its_pictures(tmp_path: Path) -> None:
    result = Tried("=1+1", torch.tensor([1.0, float("nan")]))
    folder = result.save(tmp_path / "out")
    assert json.loads((folder / "tried.json").read_text()) == {
        "analysis": "tried",
        "text": "=1+1",
        "values_2": [1.0, None],
    }
    with (folder / "tried.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["token", "value"], ["'=1+1", "1.5"], ["b,\n", ""]]
    for chart in result.charts():
        assert (folder / f"tried-{chart.name}.svg").read_text().startswith("<svg")
    axes = result.plot(0).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["␣a", "$⏎"]
    assert axes.patches[0].get_extents().height > 0
    (whiskers,) = [each for each in axes.collections if isinstance(each, LineCollection)]  # of the second bars alone
    first, second = whiskers.get_segments()
    bar = axes.patches[2]
    assert isinstance(bar, Rectangle)
    assert first[:, 0].tolist() == pytest.approx([bar.get_x() + bar.get_width() / 2] * 2)
    assert first[:, 1].tolist() == [1.5, 4.0]
    assert not second.size  # there is no interval
    assert figure_of(result.charts()[1]).axes[0].get_xscale() == "log"


def test_a_chart_survives_json() -> None:
    for chart in Tried("", torch.zeros(2)).charts():
        assert as_plain(chart_of(json.loads(json.dumps(as_plain(chart))))) == as_plain(chart)


def test_blanks_and_line_ends_can_be_seen() -> None:
    assert [visible(text) for text in ("a b", " a", "a  ", "  ", "\n\t", "")] == ["a b", "␣a", "a␣␣", "␣␣", "⏎⇥", ""]


def test_plain_values_are_those_of_json() -> None:
    value = {1: (2.5, float("inf")), "t": torch.tensor([[1, 2]]), "r": range(2), "table": Table(["a"], [[1]])}
    plain = as_plain(value)
    assert json.loads(json.dumps(plain)) == plain
    assert plain == {"1": [2.5, None], "t": [[1, 2]], "r": [0, 1], "table": {"columns": ["a"], "rows": [[1]]}}


def test_pictures_of_letters_that_the_font_lacks_are_written_without_a_warning() -> None:
    chart = Chart("cats", "猫", "token", "code", [Bars(["猫", "แมว"], [1.0, 2.0])])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        source = svg_source(figure_of(chart), "cats")
        assert not [each for each in told if "Glyph" in str(each.message)]
        figure = figure_of(chart)
        figure.savefig(io.BytesIO(), format="svg")
        assert [each for each in told if "missing from font" in str(each.message)], "matplotlib would say so"
    assert "猫" in source

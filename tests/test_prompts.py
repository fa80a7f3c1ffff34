"""Vocabulary scans, context ablation and created examples against one plain pass per variant, by `Lab.codes`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
from feature_worlds import token_store
from networks import save_network

from monosemy.analysis import vocabulary
from monosemy.analysis.chart import Bars
from monosemy.analysis.context import context_ablation
from monosemy.analysis.created import created_examples
from monosemy.analysis.lab import Lab, Prompt
from monosemy.analysis.vocabulary import VocabularyScan, Where, vocabulary_scan
from monosemy.dictionaries.dictionary import Dictionary
from monosemy.dictionaries.relu import ReluDictionary
from monosemy.dictionaries.topk import TopKDictionary
from monosemy.models import continuation
from monosemy.models.language_model import LanguageModel
from monosemy.runtime import UsageError, listening

VOCAB, WIDTH, DEAD = 257, 40, 3
SITE = "layers.1.mlp_act"
Opener = Callable[..., Lab]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """A lab of random weights: architecture, with BOS or without, kind of dictionary. What is slow is kept."""
    models: dict[str, LanguageModel] = {}
    stores = {
        bos: token_store(tmp_path_factory.mktemp(f"tokens-{bos}"), [60, 9], context=8, bos=bos) for bos in ("yes", "no")
    }

    def open_one(name: str = "llama", bos: str = "yes", kind: str = "relu", skip_bos: bool = False) -> Lab:
        if name not in models:
            folder = save_network(name, tmp_path_factory.mktemp(name), vocab_size=VOCAB)
            models[name] = LanguageModel.load(folder, device="cpu")
        dictionary = dictionary_for(models[name].width_of(SITE), kind)
        return Lab(models[name], dictionary, SITE, stores[bos], skip_bos)

    return open_one


def dictionary_for(d_in: int, kind: str) -> Dictionary:
    """Random features, of which one never fires."""
    generator = torch.Generator().manual_seed(5)
    W_ND = torch.randn(WIDTH, d_in, generator=generator)
    b_N = torch.zeros(WIDTH)
    b_N[DEAD] = -1e6
    tensors = {"W_enc": W_ND, "b_enc": b_N, "W_dec": W_ND}
    return ReluDictionary(tensors) if kind == "relu" else TopKDictionary(tensors, {"k": 6})


def at_last(lab: Lab, rows: list[list[int]], feature: int) -> torch.Tensor:
    """The feature's code at the last token of each row: plain passes over whole rows, all codes made."""
    codes_BCN = lab.codes(lab.batch(rows))
    return torch.stack([codes_CN[len(row) - 1, feature] for codes_CN, row in zip(codes_BCN, rows, strict=True)])


def lively(lab: Lab, rows: list[list[int]]) -> int:
    """The feature that varies most between the ends of these rows."""
    return int(lab.codes(lab.batch(rows))[:, -1].std(dim=0).argmax())


# ---- vocabulary scans -------------------------------------------------------------------------------------------


def variants(ids: list[int], where: Where, bos: int | None, position: int | None) -> list[list[int]]:
    """Every row of a scan, written out."""
    if where == "alone":
        return [[token] if bos is None else [bos, token] for token in range(VOCAB)]
    if where == "append":
        return [[*ids, token] for token in range(VOCAB)]
    if where == "prepend":
        return [[token, *ids] if bos is None else [ids[0], token, *ids[1:]] for token in range(VOCAB)]
    assert position is not None
    return [[*ids[:position], token, *ids[position + 1 :]] for token in range(VOCAB)]


@pytest.mark.parametrize("kind", ["relu", "topk"])
@pytest.mark.parametrize("bos", ["yes", "no"])
@pytest.mark.parametrize("name", ["llama", "neox-parallel", "gpt2", "bert"])
def test_a_scan_is_one_plain_pass_per_token(name: str, bos: str, kind: str, opened: Opener) -> None:
    lab = opened(name, bos, kind)
    ids = lab.ids("abcahgf")
    for where in get_args(Where):
        position = 2 if where == "replace" else None
        rows = variants(ids, where, lab.tokens.edges.bos, position)
        feature = lively(lab, rows)
        found = vocabulary_scan(lab, feature, "abcahgf", where, position=position)
        expected_V = at_last(lab, rows, feature)
        scale = float(expected_V.max())
        torch.testing.assert_close(found.value_V, expected_V, rtol=1e-4, atol=1e-4 * scale)
        base = 0.0 if where == "alone" else float(at_last(lab, [ids], feature)[0])
        assert found.base == pytest.approx(base, rel=1e-4, abs=1e-4 * scale)
        assert found.ids_V.tolist() == list(range(VOCAB))
        assert rows[7][found.place] == 7
        noise = 1e-4 * max(scale, base)
        change_V = expected_V - base
        sure_V = (change_V.abs() - noise).abs() > 0.1 * noise  # not so near to the limit that rounding decides
        assert abs(found.n_increase - int((change_V > noise).sum())) <= int((~sure_V).sum())
        assert abs(found.n_decrease - int((change_V < -noise).sum())) <= int((~sure_V).sum())
        assert found.n_increase + found.n_decrease + found.n_unchanged == VOCAB == found.n_tokens
        assert found.value_V.std() > 0.01 * scale


def test_the_most_extreme_tokens_are_named_in_order(opened: Opener) -> None:
    lab = opened("neox-parallel", "no")
    rows = variants(lab.ids("abcahgf"), "prepend", None, None)
    feature = max(range(WIDTH), key=lambda n: at_last(lab, [lab.ids("abcahgf")], n)[0])
    found = vocabulary_scan(lab, feature, "abcahgf", "prepend", top=5)
    assert found.n_decrease > 5
    assert found.n_increase > 5
    order_V = (at_last(lab, rows, feature) - found.base).argsort()
    assert [token.id for token in found.decreasing] == order_V[:5].tolist()
    assert [token.id for token in found.increasing] == order_V.flip(0)[:5].tolist()
    for token in (*found.increasing, *found.decreasing):
        assert token.text == lab.texts.of(token.id)
        assert token.change == pytest.approx(token.value - found.base, abs=1e-6)
    assert found.summary().startswith(f"{found.n_increase} tokens increase feature {feature}, {found.n_decrease} decr")


def test_where_the_base_is_high_the_strongest_tokens_are_named_all_the_same(opened: Opener) -> None:
    lab = opened("neox-parallel", "no")
    prompt = lab.ids("abcahgf")
    codes_VN = torch.stack([at_last(lab, variants(prompt, "append", None, None), n) for n in range(WIDTH)], dim=1)
    best_V = codes_VN.max(dim=1).values
    assert float(best_V.max()) > 0
    token, feature = divmod(int(codes_VN.argmax()), WIDTH)  # the largest code of all is the base
    found = vocabulary_scan(lab, feature, [*prompt, token], "append", top=5)
    expected_V = at_last(lab, variants([*prompt, token], "append", None, None), feature)
    order = expected_V.argsort(descending=True).tolist()
    assert found.n_increase < 5 < found.n_fires
    assert [each.id for each in found.strongest] == order[:5]
    assert [each.value for each in found.strongest] == pytest.approx(expected_V[order[:5]].tolist(), rel=1e-3)
    assert found.n_fires == int((expected_V > 1e-4 * max(found.base, float(expected_V.max()))).sum())
    assert f"it fires with {found.n_fires}, most with {found.strongest[0].text!r} (" in found.summary()
    (chart,) = (chart for chart in found.charts() if chart.name == "strongest")
    (bars,) = chart.marks
    assert isinstance(bars, Bars)
    assert bars.labels == [each.text for each in found.strongest]
    assert bars.values == [each.value for each in found.strongest]


def test_a_dead_feature_changes_with_no_token(opened: Opener) -> None:
    found = vocabulary_scan(opened(), DEAD, "abc", "append")
    assert (found.n_increase, found.n_decrease, found.n_unchanged) == (0, 0, VOCAB)
    assert found.increasing == found.decreasing == found.strongest == []
    assert found.summary().endswith("it fires with 0")
    assert found.base == 0
    assert not found.value_V.any()


def test_codes_at_a_bos_that_was_not_trained_on_are_nothing(opened: Opener) -> None:
    lab = opened("llama", "yes", skip_bos=True)
    bos = lab.tokens.edges.bos
    assert bos is not None
    rows = variants(lab.ids("ab"), "append", bos, None)
    feature = int(opened("llama").codes(lab.batch([rows[bos]]))[0, -1].argmax())
    assert vocabulary_scan(opened("llama"), feature, "ab", "append").value_V[bos] > 0
    assert vocabulary_scan(lab, feature, "ab", "append").value_V[bos] == 0
    ending = [5, 6, bos]  # the last token is a BOS whatever stands before
    assert not vocabulary_scan(lab, feature, ending, "replace", position=1).value_V.any()


def test_a_prompt_of_one_token(opened: Opener) -> None:
    for name in ("llama", "bert"):
        lab = opened(name, "no")
        for where in ("append", "prepend", "replace"):
            position = 0 if where == "replace" else None
            rows = variants([66], where, None, position)
            feature = lively(lab, rows)
            found = vocabulary_scan(lab, feature, [66], where, position=position)
            expected_V = at_last(lab, rows, feature)
            torch.testing.assert_close(found.value_V, expected_V, rtol=1e-4, atol=1e-4 * float(expected_V.max()))


def test_ids_without_bos_are_prepended_to_at_the_start(opened: Opener) -> None:
    lab = opened("llama", "yes")
    found = vocabulary_scan(lab, 1, [70, 71], "prepend")
    torch.testing.assert_close(found.value_V[80], at_last(lab, [[80, 70, 71]], 1)[0], rtol=1e-4, atol=1e-5)
    assert found.place == 0


def test_only_plausible_tokens(opened: Opener) -> None:
    lab = opened("gpt2", "yes")
    ids = lab.ids("abcahgf")
    for where, before in (("append", ids), ("prepend", ids[:1]), ("replace", ids[:3]), ("alone", ids[:1])):
        assert where in get_args(Where)
        probability_V = lab.model.logits(torch.tensor([before]))[0, -1].softmax(dim=0)
        least = float(probability_V.sort().values[-20:-18].mean())
        position = 3 if where == "replace" else None
        whole = vocabulary_scan(lab, 1, "abcahgf", where, position=position)  # type: ignore[arg-type]
        some = vocabulary_scan(lab, 1, "abcahgf", where, position=position, plausible=least)  # type: ignore[arg-type]
        assert some.ids_V.tolist() == (probability_V >= least).nonzero()[:, 0].tolist()
        assert len(some.ids_V) == 19
        torch.testing.assert_close(some.value_V, whole.value_V[some.ids_V], rtol=1e-4, atol=1e-5)
        assert (some.n_tokens, some.n_implausible) == (19, VOCAB - 19)
        assert f"{VOCAB - 19} less probable than" in some.summary()
        assert (whole.plausible, whole.n_implausible) == (None, 0)


def test_scans_that_cannot_be_are_refused(opened: Opener) -> None:
    lab, longest = opened("llama", "no"), [65] * 32
    assert vocabulary_scan(lab, 1, longest[:31], "append").place == 31
    assert vocabulary_scan(lab, 1, longest, "replace", position=31).place == 31
    refused: list[tuple[Lab, int, Prompt | None, str, dict[str, object], str]] = [
        (lab, 1, longest, "append", {}, "at most 32: there is no room to append one"),
        (lab, 1, longest, "prepend", {}, "no room to prepend"),
        (lab, WIDTH, "a", "append", {}, f"from 0 to {WIDTH - 1}"),
        (lab, 1, "", "append", {}, "no tokens"),
        (lab, 1, None, "prepend", {}, "no tokens"),
        (lab, 1, "a", "between", {}, "must be one of append, prepend, replace, alone"),
        (lab, 1, "a", "replace", {}, "needs it"),
        (lab, 1, "a", "append", {"position": 0}, "goes with where='replace'"),
        (lab, 1, "ab", "replace", {"position": 2}, "from 0 to 1"),
        (lab, 1, "ab", "replace", {"position": -1}, "from 0 to 1"),
        (lab, 1, "ab", "append", {"top": 0}, "at least 1"),
        (lab, 1, "ab", "append", {"plausible": 0.0}, "above 0 and below 1"),
        (lab, 1, "ab", "append", {"plausible": 0.999}, "the most probable token there has"),
        (lab, 1, "ab", "prepend", {"plausible": 0.01}, "nothing stands before"),
        (lab, 1, None, "alone", {"plausible": 0.01}, "nothing stands before"),
        (opened("bert", "no"), 1, "ab", "append", {"plausible": 0.01}, "an encoder"),
    ]
    for where_lab, feature, prompt, where, options, why in refused:
        with pytest.raises(UsageError, match=why):
            vocabulary_scan(where_lab, feature, prompt, where, **options)  # type: ignore[arg-type]


def test_a_running_scan_tells_what_it_has_and_can_be_stopped(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(continuation.TOKENS_AT_ONCE, "cpu", 8 * 20)  # a batch has 20 rows
    lab, parts = opened("llama", "no"), list[VocabularyScan]()
    monkeypatch.setattr(vocabulary, "EACH_S", 0.0)
    whole = vocabulary_scan(lab, 1, "abcahgf", "prepend", each=parts.append)
    assert [len(part.ids_V) for part in parts] == list(range(20, VOCAB, 20))
    for part in parts:  # earlier ones are not written to later
        assert torch.equal(part.value_V, whole.value_V[: len(part.ids_V)])
        assert part.n_tokens == VOCAB
        assert part.n_increase + part.n_decrease + part.n_unchanged == len(part.ids_V) == len(part.texts_V)
    seen: list[tuple[str, float, float | None]] = []

    def listener(label: str, done: float, total: float | None) -> None:
        seen.append((label, done, total))
        if done >= 60:
            raise KeyboardInterrupt

    parts.clear()
    monkeypatch.setattr(vocabulary, "EACH_S", 3600.0)
    with listening(listener), pytest.raises(KeyboardInterrupt):
        vocabulary_scan(lab, 1, "abcahgf", "prepend", each=parts.append)
    assert seen == [("vocabulary scan", done, VOCAB) for done in (20, 40, 60)]
    assert parts == []
    assert torch.equal(vocabulary_scan(lab, 1, "abcahgf", "prepend").value_V, whole.value_V)


def test_a_scan_tabulates_plots_and_saves_itself(opened: Opener, tmp_path: Path) -> None:
    lab = opened("llama", "no")
    found = vocabulary_scan(lab, 1, "abc", "append")
    folder = found.save(tmp_path)
    with (folder / "vocabulary.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "token", "value", "change"]
    assert len(rows) == VOCAB + 1
    assert {row[1] for row in rows} > {"'\r", "'=", ",", '"'}  # what could break a line, a cell, a spreadsheet
    changes = [float(row[3]) for row in rows[1:]]
    assert changes == sorted(changes, reverse=True)
    assert float(rows[1][2]) == pytest.approx(float(found.value_V[int(rows[1][0])]))
    data = json.loads((folder / "vocabulary.json").read_text())
    assert data["analysis"] == "vocabulary"
    assert data["value_V"] == found.value_V.tolist()
    assert {file.name for file in folder.glob("*.svg")} == {f"vocabulary-{c.name}.svg" for c in found.charts()}
    histogram = found.charts()[3].marks[0]
    assert sum(histogram.counts) == VOCAB  # type: ignore[union-attr,arg-type]
    vocabulary_scan(lab, DEAD, "abc", "append").save(tmp_path / "dead")  # nothing fires: nothing breaks


# ---- context ablation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "topk"])
@pytest.mark.parametrize("name", ["llama", "gpt-neo", "bert"])
def test_each_token_is_really_taken_out(name: str, kind: str, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(context_ablation.__globals__["TOKENS_AT_ONCE"], "cpu", 30)
    for bos in ("yes", "no"):
        lab = opened(name, bos, kind)
        ids = lab.ids("abcahgf")
        feature = int(lab.codes(lab.batch([ids]))[0, -1].argmax())
        found = context_ablation(lab, feature, "abcahgf")
        first = 1 if bos == "yes" else 0
        assert found.base == pytest.approx(float(at_last(lab, [ids], feature)[0]), rel=1e-4)
        assert found.base > 0
        assert found.ids == ids
        assert found.change[-1] is None
        assert found.change[:first] == [None] * first
        for i in range(first, len(ids) - 1):
            without = float(at_last(lab, [[*ids[:i], *ids[i + 1 :]]], feature)[0])
            assert found.change[i] == pytest.approx(without - found.base, abs=1e-4 * found.base), i
        assert max(abs(change) for change in found.change if change is not None) > 0.01 * found.base


def test_context_of_short_prompts_and_dead_features(opened: Opener, tmp_path: Path) -> None:
    assert context_ablation(opened("llama", "no"), 1, [66]).change == [None]
    assert context_ablation(opened("llama", "yes"), 1, [0]).change == [None]
    assert context_ablation(opened("llama", "yes"), 1, [0, 66]).change == [None, None]
    dead = context_ablation(opened("llama", "no"), DEAD, "abc")
    assert dead.base == 0
    assert list(dead.change) == [0, 0, None]
    folder = dead.save(tmp_path)
    assert (folder / "context.csv").read_text().splitlines()[3].endswith(",c,")
    assert json.loads((folder / "context.json").read_text())["change"] == [0, 0, None]
    with pytest.raises(UsageError, match="no tokens"):
        context_ablation(opened(), 1, "")
    with pytest.raises(UsageError, match="from 0 to"):
        context_ablation(opened(), WIDTH, "a")


# ---- created examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_created_texts_and_the_search_by_prompt(kind: str, opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(created_examples.__globals__["CODES_AT_ONCE"], "cpu", 3 * WIDTH)  # three tokens at a time
    lab = opened("llama", "yes", kind)
    prompts: list[Prompt] = ["abcahgf", "h", [9, 8, 7]]
    found = created_examples(lab, prompts, top=4)
    chosen = created_examples(lab, prompts, [7, DEAD, 0, 7], top=4)
    for text, picked, prompt in zip(found.texts, chosen.texts, prompts, strict=True):
        codes_CN = lab.codes(lab.batch([prompt]))[0]
        assert text.ids == lab.ids(prompt)
        assert text.tokens == lab.texts.sequence(text.ids)
        for ranked, codes_N in ((text.by_maximum, codes_CN.amax(dim=0)), (text.at_last, codes_CN[-1])):
            assert list(ranked) == codes_N.argsort(descending=True, stable=True)[:4].tolist()
        assert set(text.values) == {*text.by_maximum, *text.at_last}
        assert list(picked.values) == [7, DEAD, 0]
        assert set(picked.by_maximum) == {n for n in (7, 0) if codes_CN[:, n].any()}
        for values in (text.values, picked.values):
            for feature, values_C in values.items():
                torch.testing.assert_close(torch.tensor(values_C), codes_CN[:, feature])


def test_created_examples_where_nothing_fires(opened: Opener, tmp_path: Path) -> None:
    silent = created_examples(opened(skip_bos=True), [[0]], top=3)
    assert silent.texts[0].by_maximum == silent.texts[0].at_last == []
    assert silent.charts() == []
    dead = created_examples(opened(), ["ab"], [DEAD])
    assert dead.texts[0].by_maximum == []
    assert dead.texts[0].values == {DEAD: [0.0, 0.0, 0.0]}
    folder = dead.save(tmp_path)
    assert (folder / "created.csv").read_text().splitlines()[1].startswith(f"0,{DEAD},0.0,0,")
    assert (folder / "created-text-0.svg").exists()
    assert created_examples(opened(), []).table().rows == []
    for texts, features, why in (("ab", None, "one text"), ([""], None, "no tokens"), (["a"], [WIDTH], "from 0 to")):
        with pytest.raises(UsageError, match=why):
            created_examples(opened(), texts, features)
    with pytest.raises(UsageError, match="at least 1"):
        created_examples(opened(), ["a"], top=0)


def test_all_three_tell_their_progress(opened: Opener) -> None:
    """So that a server can show it, and stop them."""
    lab, told = opened(), dict[str, tuple[float, float | None]]()

    def listener(label: str, done: float, total: float | None) -> None:
        told[label] = (done, total)

    with listening(listener):
        vocabulary_scan(lab, 1, "ab")
        context_ablation(lab, 1, "ab")
        created_examples(lab, ["ab", "c"])
    assert told == {
        "vocabulary scan": (VOCAB, VOCAB),
        "context ablation": (2, 2),  # the prompt itself, and without "a"
        "created examples": (2, 2),
    }

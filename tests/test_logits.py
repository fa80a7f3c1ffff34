"""What features write, how they compare with another seed's, and how tokens read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import shared
from feature_worlds import SITE, TableModel, grid, token_store, whole_number_dictionary
from tokenizers import Tokenizer

from monosemy.analysis import logits
from monosemy.analysis.index import FeatureIndex, features
from monosemy.analysis.logits import extreme_tokens
from monosemy.analysis.texts import TokenTexts
from monosemy.data.tokenizer import train_bpe
from monosemy.files import load_tensors
from monosemy.metrics.recovery import mcs
from monosemy.models.language_model import LanguageModel


def index_of(folder: Path, model: TableModel, dictionaries: Path, member: int = 0) -> FeatureIndex:
    store = token_store(folder, [60, 9], context=16)
    out = folder / f"features-{member}"
    return features(dictionaries, member=member, model=cast(LanguageModel, model), tokens=store, out=out, n_logits=5)


@pytest.mark.parametrize("at_once", [1, 1000, 2**24])
def test_extreme_tokens_equal_a_full_sort(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(logits, "BLOCK_LOGITS", at_once)
    model, dictionary = TableModel(), whole_number_dictionary(11)
    found = extreme_tokens(model, SITE, dictionary.W_dec_ND, 7, vocab_size=200)
    assert found is not None
    full_NV = (dictionary.W_dec_ND @ model.out_DV)[:, :200]  # what lies behind is no token
    ordered = full_NV.sort(dim=1)
    torch.testing.assert_close(found["top_values"], ordered.values.flip(1)[:, :7])
    assert torch.equal(found["top_ids"], ordered.indices.flip(1)[:, :7].int())
    torch.testing.assert_close(found["bottom_values"], ordered.values[:, :7])
    assert torch.equal(found["bottom_ids"], ordered.indices[:, :7].int())


def test_no_more_logits_are_held_than_the_block_says_where_the_model_pads_its_vocabulary(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, sizes = TableModel(), []
    monkeypatch.setattr(logits, "BLOCK_LOGITS", 3 * model.vocab_size)
    plain = model.direction_logits

    def counted(site: str, v_ND: torch.Tensor, fold_norm: bool = True) -> torch.Tensor | None:
        found = plain(site, v_ND, fold_norm)
        assert found is not None
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(model, "direction_logits", counted)
    extreme_tokens(model, SITE, whole_number_dictionary(11).W_dec_ND, 2, vocab_size=5)
    assert max(sizes) == 3 * model.vocab_size
    assert sum(sizes) == 11 * model.vocab_size


def test_a_vocabulary_smaller_than_asked_for_is_shown_whole() -> None:
    found = extreme_tokens(TableModel(), SITE, whole_number_dictionary(3).W_dec_ND, 10, vocab_size=4)
    assert found is not None
    assert found["top_ids"].sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 3


def test_the_index_holds_them_as_text(tmp_path: Path) -> None:
    model, dictionary = TableModel(), whole_number_dictionary(6)
    index = index_of(tmp_path, model, grid(tmp_path / "grid", [dictionary]))
    raw = load_tensors(index.artifact.path / "logits.safetensors")
    for i in range(6):
        top, bottom = index.feature(i).top_logits, index.feature(i).bottom_logits
        assert [text for text, _ in top] == [index.texts.of(token_id) for token_id in raw["top_ids"][i].tolist()]
        assert [value for _, value in bottom] == raw["bottom_values"][i].tolist()
        assert top[0][1] > top[-1][1] > bottom[-1][1] > bottom[0][1]
    assert index.artifact.info["logits"] is True


def test_a_site_without_a_linear_path_has_none(tmp_path: Path) -> None:
    index = index_of(tmp_path, TableModel(linear_path=False), grid(tmp_path / "grid", [whole_number_dictionary(6)]))
    assert index.artifact.info["logits"] is False
    assert not (index.artifact.path / "logits.safetensors").exists()
    assert index.feature(2).top_logits == index.feature(2).bottom_logits == []


def test_mcs_is_with_the_first_other_seed_and_null_without(tmp_path: Path) -> None:
    seeds = [whole_number_dictionary(6, seed) for seed in range(3)]
    three, alone = grid(tmp_path / "three", seeds), grid(tmp_path / "alone", seeds[:1])
    index = index_of(tmp_path, TableModel(), three, member=2)
    expected_N = mcs(seeds[2].W_dec_ND, seeds[0].W_dec_ND)
    assert [row["mcs_other_seed"] for row in index.table()] == expected_N.tolist()
    assert index.artifact.info["mcs_sibling"] == 0
    lonely = index_of(tmp_path, TableModel(), alone)
    assert {row["mcs_other_seed"] for row in lonely.table()} == {None}
    assert lonely.feature(0).mcs_other_seed is None
    assert lonely.artifact.info["mcs_sibling"] is None


def test_the_index_needs_nothing_but_itself(tmp_path: Path) -> None:
    index = index_of(tmp_path, TableModel(), grid(tmp_path / "grid", [whole_number_dictionary(6)]))
    moved = tmp_path / "elsewhere"
    index.artifact.path.rename(moved)
    (tmp_path / "tokens").rename(tmp_path / "gone")
    (tmp_path / "grid").rename(tmp_path / "gone too")
    again = FeatureIndex.open(moved)
    assert FeatureIndex.open(again) is again
    assert again.tokenizer.get_vocab_size() == 257
    example = again.feature(1).examples["top"][0]
    assert set("".join(example.tokens).replace("<|endoftext|>", "")) <= set("abcdefgh")
    assert example.document.startswith("text.jsonl:")
    json.dumps(again.table())


def spelled(tokenizer: Tokenizer, text: str) -> list[str]:
    return TokenTexts(tokenizer).sequence(tokenizer.encode(text, add_special_tokens=False).ids)


def test_texts_of_a_byte_level_tokenizer() -> None:
    tokenizer = train_bpe(["the cat sat on the mat " * 20], 280)
    texts = spelled(tokenizer, " the cat")
    assert "".join(texts) == " the cat"
    assert all(texts)
    sentence = "naïve 猫 🙂!"
    joined = spelled(tokenizer, sentence)
    assert "".join(joined) == sentence
    assert joined.count("猫") == 1
    half = tokenizer.encode("猫x", add_special_tokens=False).ids[1:]  # a window may begin inside a character
    assert TokenTexts(tokenizer).sequence(half)[-1] == "x"
    assert "\ufffd" in TokenTexts(tokenizer).sequence(half)[0]
    special = tokenizer.token_to_id("<|endoftext|>")
    assert TokenTexts(tokenizer).of(special) == "<|endoftext|>"
    assert TokenTexts(tokenizer).of(100_000) == "<100000>"
    bytes_of = {tokenizer.id_to_token(number): number for number in range(tokenizer.get_vocab_size())}
    alone = {letter: TokenTexts(tokenizer).of(bytes_of[letter]) for letter in ("â", "Ā", "Ċ", "Ġ", "a")}
    assert alone == {"â": "<E2>", "Ā": "<00>", "Ċ": "\n", "Ġ": " ", "a": "a"}
    every = [TokenTexts(tokenizer).of(number) for number in range(tokenizer.get_vocab_size())]
    assert not any("\ufffd" in text or "\x00" in text for text in every)
    assert len(set(every)) == len(every)
    assert TokenTexts(tokenizer).sequence([]) == []


def test_texts_of_a_byte_fallback_tokenizer_keep_their_blanks() -> None:
    tokenizer = Tokenizer.from_file(str(shared("models/stories260K") / "tokenizer.json"))
    texts = spelled(tokenizer, "One day 猫 sat\ndown")
    assert "".join(texts) == " One day 猫 sat\ndown"  # the tokenizer itself puts a blank first
    assert "猫" in texts
    assert TokenTexts(tokenizer).of(1) == "<s>"
    ids = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in (0, 0x1B, 0x0A, 0x41, 0xE2, 0xFF)]
    assert [TokenTexts(tokenizer).of(number) for number in ids] == ["<00>", "<1B>", "\n", "A", "<E2>", "<FF>"]
    assert not any("\ufffd" in TokenTexts(tokenizer).of(number) for number in range(512))
    assert TokenTexts(tokenizer).sequence(ids[-2:-1]) == ["\ufffd"]  # in a text it may be part of a character

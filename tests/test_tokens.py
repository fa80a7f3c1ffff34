"""The token store: rows, documents, edges, the held-out share; tokenizers found and trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import shared

from monosemy.data.tokenizer import edges_of, open_tokenizer, train_bpe
from monosemy.data.tokens import TokenStore, tokenize
from monosemy.runtime import UsageError

TEXTS = ["alpha beta gamma " * 9, "delta epsilon", "zeta " * 30, "eta", "theta iota kappa " * 4]


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def test_packed_rows_are_the_stream_cut_every_context_tokens(source: str, tmp_path: Path) -> None:
    store = tokenize(source, tokenizer="bpe:300", context=16, out=tmp_path / "tokens")
    assert store.row_starts_R.tolist() == list(range(0, store.n_tokens - 1, 16))
    batches = list(store.batches(3))
    flat = torch.cat([batch.ids_BC[batch.mask_BC] for batch in batches])
    assert torch.equal(flat, store.tokens_T[: len(flat)].long())
    for batch in batches:
        assert (batch.ids_BC[~batch.mask_BC] == 0).all()


def test_every_document_is_there_once_with_its_name_and_its_end(source: str, tmp_path: Path) -> None:
    store = tokenize(source, tokenizer="bpe:300", context=16, out=tmp_path / "tokens")
    end = store.tokenizer.token_to_id("<|endoftext|>")
    assert store.edges.eos == end
    names = store.document_names()
    starts = [*store.doc_starts_D.tolist(), store.n_tokens]
    found = {}
    for number, name in enumerate(names):
        ids = store.tokens_T[starts[number] : starts[number + 1]].tolist()
        assert ids[-1] == end
        found[name] = store.tokenizer.decode(ids[:-1])
        offsets = torch.arange(starts[number], starts[number + 1])
        assert (store.documents_of(offsets) == number).all()
    assert found == {f"text.jsonl:{line}": text for line, text in enumerate(TEXTS, start=1)}


def test_the_order_of_documents_follows_the_seed(source: str, tmp_path: Path) -> None:
    orders = [
        tokenize(source, tokenizer="bpe:300", seed=seed, out=tmp_path / f"{seed}-{copy}").document_names()
        for seed, copy in [(0, "a"), (0, "b"), (1, "a"), (2, "a")]
    ]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) > 1


def test_unpacked_rows_are_documents_cut_at_context(source: str, tmp_path: Path) -> None:
    store = tokenize(source, tokenizer="bpe:300", context=8, packed=False, out=tmp_path / "tokens")
    assert store.n_rows == len(TEXTS)
    assert store.row_lengths_R.tolist() == [
        min(8, len(store.tokenizer.encode(TEXTS[int(name.split(":")[1]) - 1]).ids) + 1)
        for name in store.document_names()
    ]
    assert torch.equal(store.row_starts_R, store.doc_starts_D)


def test_the_held_out_rows_are_the_last_ones(source: str, tmp_path: Path) -> None:
    store = tokenize(source, tokenizer="bpe:300", context=8, holdout=0.25, out=tmp_path / "tokens")
    assert store.train_rows == range(store.n_rows - store.n_rows // 4)
    assert store.holdout_rows == range(len(store.train_rows), store.n_rows)
    assert store.spread(range(10, 30), 5) == [10, 14, 18, 22, 26]
    assert store.spread(range(3), 5) == [0, 1, 2]
    assert max(store.spread(range(127), 64)) > 120
    assert store.count_tokens(store.train_rows) + store.count_tokens(store.holdout_rows) == store.count_tokens()


def test_stores_open_again_and_are_reused(source: str, tmp_path: Path) -> None:
    made = tokenize(source, tokenizer="bpe:300", out=tmp_path / "tokens")
    again = tokenize(source, tokenizer="bpe:300", out=tmp_path / "tokens")
    assert again.artifact.id == made.artifact.id == TokenStore.open(tmp_path / "tokens").artifact.id
    Path(source).write_text('{"text": "another text"}\n')
    with pytest.raises(UsageError, match="`text`"):
        tokenize(source, tokenizer="bpe:300", out=tmp_path / "tokens")


def test_bos_goes_where_the_tokenizer_itself_puts_it_and_an_id_of_0_is_a_token() -> None:
    tokenizer, folder = open_tokenizer(str(shared("models/stories260K")))
    assert edges_of(tokenizer, folder, "auto", "auto").bos == 1
    assert edges_of(tokenizer, folder, "auto", "auto").eos is None
    assert edges_of(tokenizer, folder, "no", "no").bos is None
    assert edges_of(tokenizer, folder, "yes", "yes").eos == 2
    gpt2, folder = open_tokenizer(str(shared("tokenizers/gpt2")))
    assert edges_of(gpt2, folder, "auto", "auto").bos is None
    assert edges_of(gpt2, folder, "auto", "auto").eos == 50256
    own = train_bpe(["some text"], 300)
    assert edges_of(own, None, "yes", "auto").bos == 0  # the end-of-text token, whose id is 0
    assert edges_of(own, None, "yes", "auto").eos is None


def test_documents_begin_with_bos(tmp_path: Path) -> None:
    tokenizer = str(shared("models/stories260K"))
    store = tokenize(
        str(shared("text/tinystories.jsonl.gz")), tokenizer=tokenizer, context=512, packed=False, out=tmp_path / "t"
    )
    assert (store.tokens_T[store.row_starts_R] == 1).all()
    assert store.n_tokens - store.n_rows == 350_575  # predicted tokens, as published with the model's loss


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer": "bpe:10"}, "at least 257"),
        ({"tokenizer": "bpe:many"}, "whole number"),
        ({"tokenizer": "nobody/nothing"}, "not to be had from the Hub.*bpe:SIZE"),
        ({"context": 1}, "at least 2"),
        ({"holdout": 1.0}, "below 1"),
    ],
)
def test_bad_settings_are_explained(source: str, tmp_path: Path, options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tokenize(source, out=tmp_path / "tokens", **{"tokenizer": "bpe:300", **options})


@pytest.mark.parametrize("text", ["", " \n\t "])
def test_a_source_without_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(UsageError, match="holds no text"):
        tokenize(str(tmp_path / "x.txt"), tokenizer="bpe:300", out=tmp_path / "tokens")


def test_a_folder_without_a_tokenizer_and_a_file_that_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        open_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match="not a tokenizer"):
        open_tokenizer(str(tmp_path))


def test_yes_to_a_token_that_the_tokenizer_does_not_have_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(tmp_path / "tokenizer.json"))
    tokenizer, folder = open_tokenizer(str(tmp_path))
    with pytest.raises(UsageError, match="names no BOS"):
        edges_of(tokenizer, folder, "yes", "auto")


def test_truncation_padding_and_the_names_of_special_tokens_do_not_touch_the_text(source: str, tmp_path: Path) -> None:
    tokenizer, _ = open_tokenizer(str(shared("models/stories260K")))
    plain = tokenize(source, tokenizer=str(shared("models/stories260K")), out=tmp_path / "plain")
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    cut = tokenize(source, tokenizer=str(tmp_path / "tokenizer.json"), out=tmp_path / "cut")
    assert torch.equal(cut.tokens_T, plain.tokens_T)
    (tmp_path / "s.txt").write_text("<s> a <s> b </s>")
    named = tokenize(str(tmp_path / "s.txt"), tokenizer=str(shared("models/stories260K")), out=tmp_path / "named")
    assert (named.tokens_T == 1).sum() == 1
    assert (named.tokens_T == 2).sum() == 0

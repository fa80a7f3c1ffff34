"""Finding a tokenizer, training one, and which special tokens it puts around a document."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from monosemy.runtime import UsageError

END_OF_TEXT = "<|endoftext|>"
Edge = Literal["auto", "yes", "no"]


@dataclass(frozen=True)
class Edges:
    """Token ids put before and after every document; None means none (an id of 0 is a token like any other)."""

    bos: int | None
    eos: int | None


def open_tokenizer(name: str) -> tuple[Tokenizer, Path | None]:
    """A fast tokenizer and its folder, from a folder, a `tokenizer.json`, or a Hub name.

    Raises UsageError if there is none, or it cannot be had offline.
    """
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            return _whole(Tokenizer.from_file(str(file))), file.parent
        except Exception as error:  # the Rust side raises bare Exception
            raise UsageError(f"{file}: not a tokenizer in `tokenizers` format ({error})") from error
    if path.exists():
        raise UsageError(f"tokenizer (={name!r}): the folder has no tokenizer.json; save the tokenizer as a fast one")
    return _hub_tokenizer(name)


def _hub_tokenizer(name: str) -> tuple[Tokenizer, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        folder = Path(hf_hub_download(name, "tokenizer.json")).parent
        with contextlib.suppress(EntryNotFoundError):  # it only names the special tokens
            hf_hub_download(name, "tokenizer_config.json")
        return _whole(Tokenizer.from_file(str(folder / "tokenizer.json"))), folder
    except Exception as error:  # hub, network and naming errors alike: the way out is the same
        raise UsageError(
            f"tokenizer (={name!r}): no such folder here, and not to be had from the Hub "
            f"({type(error).__name__}); name a local folder, a tokenizer.json, or bpe:SIZE to train one"
        ) from error


def _whole(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without the truncation and padding that many files carry: a document is encoded whole, and a
    special token's name inside a text is text."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def train_bpe(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level byte-pair tokenizer of `size` tokens with one special token that ends a document."""
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if size < 257:
        raise UsageError(f"tokenizer (=bpe:{size}): a byte-level vocabulary needs at least 257 tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _whole(tokenizer)


def edges_of(tokenizer: Tokenizer, folder: Path | None, bos: Edge, eos: Edge) -> Edges:
    """Which tokens go around a document.

    `auto` puts a BOS where the tokenizer itself does, and an EOS after each document where there is no BOS (so that
    packed documents stay apart); `yes` demands the tokenizer's own, `no` leaves it out.
    """
    own = tokenizer.encode("a", add_special_tokens=True).ids
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    automatic = own[0] if own and own[0] != bare[0] else None
    named = {name: _named_id(tokenizer, folder, name) for name in ("bos_token", "eos_token")}
    first = {"auto": automatic, "yes": automatic if automatic is not None else named["bos_token"], "no": None}[bos]
    last = {"auto": named["eos_token"] if first is None else None, "yes": named["eos_token"], "no": None}[eos]
    for flag, wanted, found in (("bos", bos, first), ("eos", eos, last)):
        if wanted == "yes" and found is None:
            raise UsageError(f"`{flag}` (=yes): the tokenizer names no {flag.upper()} token; use auto or no")
    return Edges(first, last)


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash of the vocabulary: two tokenizers with the same one give ids that mean the same."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def _named_id(tokenizer: Tokenizer, folder: Path | None, name: str) -> int | None:
    config = folder / "tokenizer_config.json" if folder is not None else None
    if config is not None and config.is_file():
        try:
            token = json.loads(config.read_text()).get(name)
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{config}: damaged ({error}); mend it, or name the tokenizer.json alone") from error
        token = token.get("content") if isinstance(token, dict) else token
        return tokenizer.token_to_id(token) if token else None
    return tokenizer.token_to_id(END_OF_TEXT)

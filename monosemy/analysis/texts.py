"""Token ids → what a reader sees for each: leading blanks kept, characters that several tokens make joined.

A token's text depends on what stands before it: at the start of a text some tokenizers strip the blank that the token
carries. So every token is decoded behind a letter, and the letter is taken off again.

Alone, a byte that is no character decodes to U+FFFD, as every other such byte does: it is named by its number, <E2>,
and so is a control character, <00>, which no table or picture can show. In a text such bytes may make a character with
their neighbours, so `sequence` leaves them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from tokenizers import Tokenizer

BROKEN = "\ufffd"  # what a byte that is no character alone decodes to
CHARACTERS = 2**15  # that several tokens make, kept with the tokens that make none
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # those but tab and line ends, which are shown as marks
FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")  # the name of a byte's token where a vocabulary falls back to bytes


class _Known(dict[int, str]):
    """What is known by id; what is not is found out first."""

    def __init__(self, find: Callable[[int], str]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, token_id: int) -> str:
        text = self[token_id] = self._find(token_id)
        return text


class TokenTexts:
    """Texts of tokens under one tokenizer; each token is decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._letter = tokenizer.encode("a", add_special_tokens=False).ids
        self._letter_text = str(tokenizer.decode(self._letter, skip_special_tokens=False))
        self._known = _Known(self._decoded)
        self._named = _Known(self._alone)
        self._together = lru_cache(CHARACTERS)(self._behind_letter)

    def of(self, token_id: int) -> str:
        """One token's text alone; <E2> for a byte that is no character and <00> for a control character; <id> for an id
        that means nothing."""
        return self._named[token_id]

    def sequence(self, ids: Sequence[int]) -> list[str]:
        """One text a token. Where tokens make a character together, the first has its text and the others have ""."""
        texts = list(map(self._known.__getitem__, ids))  # a page has over a thousand tokens
        if BROKEN not in "".join(texts):
            return texts
        start = 0
        while start < len(texts):
            end = self._end_of_character(ids, texts, start)
            if end > start + 1:
                texts[start:end] = [self._together(tuple(ids[start:end]))] + [""] * (end - start - 1)
            start = end
        return texts

    def _end_of_character(self, ids: Sequence[int], texts: list[str], start: int) -> int:
        """Where the tokens end that complete the character begun at `start`; start + 1 where none do."""
        end = start + 1
        while BROKEN in texts[start] and end < len(texts) and BROKEN in texts[end]:
            end += 1
            if BROKEN not in self._together(tuple(ids[start:end])):
                return end
        return start + 1

    def _decoded(self, token_id: int) -> str:
        name = self._tokenizer.id_to_token(token_id)
        return f"<{token_id}>" if name is None else self._behind_letter((token_id,)) or name

    def _alone(self, token_id: int) -> str:
        text = self._known[token_id]
        if BROKEN in text:
            text = _bytes_named(str(self._tokenizer.id_to_token(token_id))) or text
        return CONTROL.sub(lambda found: f"<{ord(found[0]):02X}>", text)

    def _behind_letter(self, ids: tuple[int, ...]) -> str:
        both = str(self._tokenizer.decode([*self._letter, *ids], skip_special_tokens=False))
        if both.startswith(self._letter_text):
            return both[len(self._letter_text) :]
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))


def _bytes_named(name: str) -> str | None:
    """The bytes that a token stands for, from its name: what they say as text, and <E2> for a byte of no character.

    None where the name says no bytes. Byte-level vocabularies write each byte as one letter (GPT-2's table).
    """
    if found := FALLBACK.fullmatch(name):
        raw = bytes.fromhex(found[1])
    elif all(letter in _letters() for letter in name):
        raw = bytes(_letters()[letter] for letter in name)
    else:
        return None
    text = raw.decode("utf-8", "surrogateescape")  # a byte of no character is U+DC00 + its number
    return "".join(f"<{ord(letter) - 0xDC00:02X}>" if "\udc80" <= letter <= "\udcff" else letter for letter in text)


@lru_cache(1)
def _letters() -> dict[str, int]:
    """Letter → byte: printable bytes of Latin-1 are themselves, the others follow from U+0100 on."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + place): byte for place, byte in enumerate(others)}

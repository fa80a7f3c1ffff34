"""Token ids → what a reader sees for each: leading blanks kept, characters that several tokens make joined.

A token's text depends on what stands before it: at the start of a text some tokenizers strip the blank that the token
carries. So every token is decoded behind a letter, and the letter is taken off again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from tokenizers import Tokenizer

BROKEN = "\ufffd"  # what a byte that is no character alone decodes to
CHARACTERS = 2**15  # that several tokens make, kept with the tokens that make none


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
        self._together = lru_cache(CHARACTERS)(self._behind_letter)

    def of(self, token_id: int) -> str:
        """One token's text; U+FFFD for a byte that is no character alone, <id> for an id that means nothing."""
        return self._known[token_id]

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

    def _behind_letter(self, ids: tuple[int, ...]) -> str:
        both = str(self._tokenizer.decode([*self._letter, *ids], skip_special_tokens=False))
        if both.startswith(self._letter_text):
            return both[len(self._letter_text) :]
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

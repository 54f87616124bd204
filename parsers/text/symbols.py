"""One alphabet for text and special tokens, so that everything behind it is about strings: a
special token is one character that no text can have. UTF-8 has no surrogates, so these are the
characters that stand for special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from formgate.parsers.text.events import Piece

_FIRST, _LAST = 0xD800, 0xDFFF
_SURROGATE = re.compile("[\ud800-\udfff]")
SYMBOL_RANGE = "\ud800-\udfff"  # for character classes that must leave special tokens out


class Marker(NamedTuple):
    """A special token by its text; the text itself where the tokenizer has no such token."""

    text: str


Written = Marker | str


def text_of(parts: Iterable[Written]) -> str:
    """Literals as people read them, special tokens or not."""
    return "".join(part.text if isinstance(part, Marker) else part for part in parts)


class Alphabet:
    """Symbols of one tokenizer's special tokens, handed out as they are first met."""

    __slots__ = ("_by_id", "_special_ids", "_texts")

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._special_ids = special_ids
        self._by_id: dict[int, str] = {}
        self._texts: dict[str, str] = {}

    def written(self, parts: Iterable[Written]) -> str:
        """What the stream holds where these literals were written."""
        return "".join(map(self._one, parts))

    @staticmethod
    def begins_with_token(written: str) -> bool:
        return _SURROGATE.match(written) is not None

    def encode(self, pieces: Iterable[Piece]) -> str:
        return "".join([self._piece(piece) for piece in pieces])

    def decode(self, symbols: str) -> str:
        """Text for people: a special token is its own text again."""
        if not self._texts or symbols.isascii():
            return symbols
        return _SURROGATE.sub(lambda found: self._texts[found[0]], symbols)

    def _one(self, part: Written) -> str:
        if isinstance(part, str):
            return part
        token_id = self._special_ids.get(part.text)
        return part.text if token_id is None else self._symbol(token_id, part.text)

    def _piece(self, piece: Piece) -> str:
        if piece.special_id is not None:
            return self._symbol(piece.special_id, piece.text)
        return piece.text if piece.text.isascii() else _SURROGATE.sub("\ufffd", piece.text)

    def _symbol(self, token_id: int, text: str) -> str:
        symbol = self._by_id.get(token_id)
        if symbol is None:
            if _FIRST + len(self._by_id) > _LAST:
                return _SURROGATE.sub("\ufffd", text)  # all are in use: this one is plain text
            symbol = chr(_FIRST + len(self._by_id))
            self._by_id[token_id] = symbol
            self._texts[symbol] = text
        return symbol

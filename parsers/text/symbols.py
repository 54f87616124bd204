"""One alphabet for text and special tokens, so that all later code works on strings. Each special
token is represented by a surrogate code point, which valid UTF-8 text cannot contain.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from formgate.parsers.text.events import Piece

_FIRST, _LAST = 0xD800, 0xDFFF
_SURROGATE = re.compile("[\ud800-\udfff]")
SYMBOL_RANGE = "\ud800-\udfff"  # special tokens in a regex character class


class Marker(NamedTuple):
    """The text of a special token. If the tokenizer has no such token, it is plain text."""

    text: str


Written = Marker | str


def text_of(parts: Iterable[Written]) -> str:
    """The literals as plain text, special tokens included."""
    return "".join(part.text if isinstance(part, Marker) else part for part in parts)


class Alphabet:
    """Maps one tokenizer's special tokens to symbols, assigned at first use."""

    __slots__ = ("_by_id", "_special_ids", "_texts")

    def __init__(self, special_ids: Mapping[str, int]) -> None:
        self._special_ids = special_ids
        self._by_id: dict[int, str] = {}
        self._texts: dict[str, str] = {}

    def encode_literals(self, parts: Iterable[Written]) -> str:
        """The string that the stream holds for these literals."""
        return "".join(map(self._one, parts))

    @staticmethod
    def begins_with_token(symbols: str) -> bool:
        return _SURROGATE.match(symbols) is not None

    def encode(self, pieces: Iterable[Piece]) -> str:
        """The pieces as one string. A surrogate in ordinary text becomes U+FFFD."""
        return "".join([self._piece(piece) for piece in pieces])

    def decode(self, symbols: str) -> str:
        """The inverse of `encode`, with special tokens as their texts."""
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
                return _SURROGATE.sub("\ufffd", text)  # no symbol is left: treat it as text
            symbol = chr(_FIRST + len(self._by_id))
            self._by_id[token_id] = symbol
            self._texts[symbol] = text
        return symbol

"""Indexes of a vocabulary by the bytes of its tokens, for the guards."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Ids = NDArray[np.int64]

_FEW = 8  # up to this number of tokens, numpy does not pay off

_STRING = rb'"(?:[^"\\]|\\.)*"'
_BETWEEN = rb"[\]\[{}\s,:0-9.eE+\-a-z]"  # a byte outside of strings
# A name, or a string up to a Unicode escape, which may be the beginning of one.
_NAME = rb"(?:" + _STRING + rb'\s*(?::|$)|"[^"]*\\u)'
_WHOLE_NAME = re.compile(rb'\s*"((?:[^"\\]|\\[^u])*)"\s*(?::\s*)?', re.DOTALL)
_TO_QUOTE = re.compile(rb'(?:[^"\\]|\\.)*"', re.DOTALL)


class TokenSet:
    """A set of tokens, with their places in masks."""

    def __init__(self, ids: Sequence[int] | Ids) -> None:
        self.ids: Ids = np.asarray(ids, dtype=np.int64)
        self._none = self.ids[:0]
        self._words = self.ids >> 5
        self._bits = np.uint32(1) << (self.ids & 31).astype(np.uint32)

    def __len__(self) -> int:
        return len(self.ids)

    def allowed(self, words: Words) -> Ids:
        held = words.take(self._words) & self._bits
        if not np.count_nonzero(held):
            return self._none
        return self.ids[np.flatnonzero(held)]

    def forbid(self, words: Words) -> None:
        np.bitwise_and.at(words, self._words, ~self._bits)


def forbid(words: Words, ids: Sequence[int] | Ids) -> None:
    if len(ids) > _FEW:
        TokenSet(ids).forbid(words)
        return
    for token_id in map(int, ids):
        words[token_id >> 5] &= 0xFFFFFFFF ^ (1 << (token_id & 31))


class TokenBytes:
    """`token_bytes` of a special token are those of its name."""

    def __init__(self, token_bytes: Sequence[bytes], special_ids: frozenset[int]) -> None:
        self.of_token = token_bytes
        self.special_ids = special_ids
        order = sorted(range(len(token_bytes)), key=token_bytes.__getitem__)
        self._ids = np.array(order, dtype=np.int64)
        self._sorted = [token_bytes[i] for i in order]
        self.single = {token[0]: i for i, token in enumerate(token_bytes) if len(token) == 1}
        self.first = np.array([token[0] if token else 0 for token in token_bytes], dtype=np.uint8)
        text = [i for i in range(len(token_bytes)) if i not in special_ids]
        # Tokens that move nothing within a string except its length.
        self.is_plain = bytearray(len(token_bytes))
        for i in text:
            self.is_plain[i] = b'"' not in token_bytes[i] and b"\\" not in token_bytes[i]
        quoted = [i for i in text if b'"' in token_bytes[i]]
        self.unicode_escape = [i for i in text if b"\\u" in token_bytes[i]]
        # Tokens that may end one element and lead to the next.
        self.crossing_string = self._matching(rb'"\s*[,\]}]', quoted)
        self.crossing = self._matching(rb",", text)
        # Tokens with an array of which more than one item begins.
        self.items_within = self._matching(rb"\[.+,", text)
        # Tokens with a name in them, after the rest of a value or of a string.
        after_start = rb"(?:" + _STRING + rb"|" + _BETWEEN + rb")*[,{]\s*" + _NAME
        self.name_after_value = self._matching(rb"^" + after_start, quoted)
        self.name_after_string = self._matching(rb'"\s*' + after_start, quoted)
        # For positions before a name: tokens that are one name, by its text, and others.
        self.whole_name: dict[bytes, list[int]] = {}
        others = []
        due = rb"^\s*(?:\}" + _BETWEEN + rb"*)?" + _NAME
        for token_id in self._matching(due, quoted).ids.tolist():
            whole = _WHOLE_NAME.fullmatch(token_bytes[token_id])
            if whole is None:
                others.append(token_id)
            else:
                self.whole_name.setdefault(whole[1], []).append(token_id)
        self.name_due = TokenSet(others)
        # Tokens that end a string, by their bytes before the quote.
        self.ending: dict[bytes, list[int]] = {}
        for token_id in quoted:
            if (end := _TO_QUOTE.match(token_bytes[token_id])) is not None:
                self.ending.setdefault(end[0][:-1], []).append(token_id)

    def _matching(self, pattern: bytes, among: Sequence[int]) -> TokenSet:
        search = re.compile(pattern, re.DOTALL).search
        return TokenSet([i for i in among if search(self.of_token[i])])

    def beginning_with(self, prefix: bytes) -> Ids:
        start = bisect_left(self._sorted, prefix)
        end = (
            bisect_left(self._sorted, prefix[:-1] + bytes((prefix[-1] + 1,)))
            if (prefix[-1] < 0xFF)
            else len(self._sorted)
        )
        return self._ids[start:end]

    def exactly(self, text: bytes) -> Ids:
        start = bisect_left(self._sorted, text)
        end = start
        while end < len(self._sorted) and self._sorted[end] == text:
            end += 1
        return self._ids[start:end]

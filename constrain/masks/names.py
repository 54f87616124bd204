"""The guard that the names of an object differ. A name has one spelling, without needless escapes,
so that names are equal if their texts are, and no name of the schema appears in disguise.

The guard enters no dead end if every prefix of a name is a prefix of infinitely many names (see
`open_names`). The sibling guard handles the other objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.masks.json_position import JsonPosition
from formgate.constrain.masks.token_bytes import Ids, TokenBytes, TokenSet, Words, forbid

# The escapes with four digits that a name may have: of characters without a shorter escape, and of
# DEL, which llguidance's own rules do not let through as it is. The others' do not let its escape
# through, so that it has one spelling in any object.
_ESCAPED = [code for code in range(0x20) if code not in (8, 9, 10, 12, 13)] + [0x7F]
_ESCAPES = [b"\\u%04x" % code for code in _ESCAPED]
_NO_ESCAPE = re.compile(rb"\\u[0-9A-Fa-f]{0,3}[^0-9A-Fa-f]")
_BEGUN = re.compile(rb"(?:[^\\]|\\[^u]|\\u[0-9A-Fa-f]{4})*(\\(?:u[0-9A-Fa-f]{0,3})?)?", re.DOTALL)


class NameGuard:
    """Holds indexes of a vocabulary, and no state of a sequence."""

    def __init__(self, tokens: TokenBytes) -> None:
        self.tokens = tokens
        ill = [
            token_id
            for token_id in tokens.unicode_escape
            if not _NO_ESCAPE.search(text := tokens.of_token[token_id].partition(b'"')[0])
            and not _is_spelled_well(text)
        ]
        self._ill_spelled = TokenSet(ill)
        self._whole_names = frozenset(tokens.whole_name)
        self._endings = frozenset(tokens.ending)
        # True if no token leads from a value into a name, as in most vocabularies.
        self.only_names = not len(tokens.name_after_string) and not len(tokens.name_after_value)

    def narrow(self, row: NDArray[np.int32], position: JsonPosition) -> None:
        """Forbid the tokens that would repeat a name, or misspell one."""
        tokens, frame = self.tokens, position.frames[-1]
        if not frame.at_key:
            behind = tokens.name_after_string if position.in_string else tokens.name_after_value
            self._try(row.view(np.uint32), position, behind)
        elif not position.in_string:
            words = row.view(np.uint32)
            if not frame.names.isdisjoint(self._whole_names):
                for name in frame.names & self._whole_names:
                    forbid(words, tokens.whole_name[name])
            self._try(words, position, tokens.name_due)
        else:
            if position.has_escape or frame.names or self._ill_spelled:
                self._narrow_name(row.view(np.uint32), position)
            if not self.only_names:
                self._try(row.view(np.uint32), position, tokens.name_after_string)

    def breaks(self, position: JsonPosition, text: bytes) -> bool:
        """True if `text`, which the grammar allows next, repeats or misspells a name."""
        position = position.copy()
        for byte in text:
            if position.ended:
                return False
            position.feed(byte)
            if position.wrong_name:
                return True
        return position.in_name and not _is_spelled_well(position.name_text)

    def _try(self, words: Words, position: JsonPosition, tokens: TokenSet) -> None:
        if len(tokens) and len(allowed := tokens.allowed(words)):
            wrong = [
                token_id
                for token_id in allowed.tolist()
                if self.breaks(position, self.tokens.of_token[token_id])
            ]
            forbid(words, wrong)

    def _narrow_name(self, words: Words, position: JsonPosition) -> None:
        tokens = self.tokens
        if position.has_escape:
            text = position.name_text
            if (begun := _BEGUN.fullmatch(text)) is not None and begun[1]:
                for name in position.rivals():
                    forbid(words, tokens.beginning_with(name[len(text) :] + b'"'))
                self._narrow_escape(words, begun[1])
                return
        if self._ill_spelled:
            self._ill_spelled.forbid(words)
        names, at = position.frames[-1].names, position.name_length
        if not names or (not at and names.isdisjoint(self._endings)):
            return
        for name in position.rivals():
            if (ids := tokens.ending.get(name[at:])) is not None:
                forbid(words, ids)

    def _narrow_escape(self, words: Words, begun: bytes) -> None:
        kept = [ids for rest in _rests(begun) for ids in self._leading_to(rest)]
        right = np.unique(np.concatenate(kept)) if kept else np.array([], dtype=np.int64)
        if begun == b"\\":
            forbid(words, np.setdiff1d(self.tokens.beginning_with(b"u"), right))
            return
        only = np.zeros_like(words)
        np.bitwise_or.at(only, right >> 5, np.uint32(1) << (right & 31).astype(np.uint32))
        words &= only

    def _leading_to(self, rest: bytes) -> Iterator[Ids]:
        for end in range(1, len(rest)):
            yield self.tokens.exactly(rest[:end])
        yield self.tokens.beginning_with(rest)


def _rests(begun: bytes) -> list[bytes]:
    return [escape[len(begun) :] for escape in _ESCAPES if escape.startswith(begun)]


def _is_spelled_well(text: bytes) -> bool:
    """True if the escapes in a prefix of a name are allowed ones."""
    at = text.find(b"\\")
    while at >= 0:
        escape = text[at : at + 6]
        if escape[1:2] == b"u" and not any(one.startswith(escape) for one in _ESCAPES):
            return False
        at = text.find(b"\\", at + 2)
    return True

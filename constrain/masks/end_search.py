"""A greedy search for a short token sequence ("way") from a state of a constraint to an accepting
one. It goes byte by byte, takes the likeliest byte to lead there, and does not backtrack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.grammar.shortest import ending_order
from formgate.constrain.masks.matcher import Prepared

LONGEST = 8_192  # tokens of a way to the end
MASKS = 2_048  # of one search
_LOOKS = 16  # calls of `follows` for each of its masks
_IN_TEXT = b"abcdeghijk"  # outside of strings JSON has none of these
_OFTEN = 8  # first bytes of a string; its ending is tried after each of them
_SELDOM = 4  # bytes between two tries after that
_KINDS = (b"0123456789-", b'"', b"tfn", b"[", b"{", b"")  # of values by their first byte
_DIGITS = frozenset(b"0123456789")
_IN_NUMBER = _DIGITS | frozenset(b".eE+-")
_TURN = 64  # uses of one kind's bytes before another kind is tried
_TRIES = 64  # uses of each ending of a free text
_SUFFIXES = 16  # suffixes of a known way that are tried from one state


class Closable(Protocol):
    """The interface of a constraint that can be searched for its end."""

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool: ...
    def prepared(self) -> Prepared | None: ...
    def finish_bitmask(self, row: NDArray[np.int32]) -> bool: ...
    def accept(self, token_id: int) -> None: ...
    def forced_tokens(self) -> list[int]: ...
    def rollback(self, num_tokens: int) -> None: ...
    def is_terminated(self) -> bool: ...

    def copy(self) -> Closable:
        """An independent constraint in the same state."""
        ...

    def follows(self, token_ids: list[int]) -> bool:
        """True if these tokens, in sequence, may come next. False may be wrong where the exact
        answer is costly.
        """
        ...


class EndSearch:
    """Finds a short token sequence from a constraint's state to its end. Holds single-byte tokens,
    and the suffixes that end free text and patterned strings, which a mask alone does not reveal.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        special_ids: frozenset[int],
        eos_ids: Sequence[int],
        encode: Callable[[bytes], list[int]],
    ) -> None:
        self.token_bytes = token_bytes
        self._encode = encode
        self.words = -(-len(token_bytes) // 32)
        self.eos_ids = tuple(eos_ids)
        self.specials = tuple(sorted(special_ids - set(eos_ids)))
        self.endings: list[list[int]] = []
        self.strings: list[list[int]] = []
        self.rests: list[list[int]] = []  # suffixes of `strings`, the shortest first
        self.items: list[list[int]] = []
        self.single: dict[int, int] = {}
        for token_id, token in enumerate(token_bytes):
            if len(token) == 1 and token_id not in special_ids:
                self.single.setdefault(token[0], token_id)
        self.single_bytes = np.array(list(self.single), dtype=np.int64)
        self.single_ids = np.array(list(self.single.values()), dtype=np.int64)

    def with_endings(self, free: Iterable[str], strings: Iterable[str]) -> EndSearch:
        """A copy for a grammar with these endings of free texts and of patterned strings."""
        search = copy(self)
        search.endings = list(self._spelled(free))
        search.strings = list(self._spelled(text for text in strings if text.endswith('"')))
        rests = {tuple(one[at:]) for one in search.strings for at in range(len(one))}
        search.rests = [list(rest) for rest in sorted(rests, key=len)]
        search.items = list(self._spelled(text for text in strings if text.endswith("]")))
        return search

    def _spelled(self, texts: Iterable[str]) -> Iterator[list[int]]:
        for text in texts:
            if all(byte in self.single for byte in text.encode()):
                yield [self.single[byte] for byte in text.encode()]

    def leads(self, constraint: Closable, way: Sequence[int]) -> bool:
        """True if a way leads from the constraint's state to the end. Computes a mask for each
        token, so it is exact, unlike `follows`, but costly. `constraint` moves along.
        """
        row = np.zeros(self.words, dtype=np.int32)
        for at, token_id in enumerate(way):
            if constraint.is_terminated():
                return at == len(way) - 1  # only the end token is left
            try:
                constraint.fill_bitmask(row)
            except ValueError:
                return False
            if not _holds(row, token_id):
                return False
            constraint.accept(token_id)
        return True

    def to_end(
        self,
        constraint: Closable,
        most: int = LONGEST,
        *,
        known: Sequence[int] = (),
        steps: int = MASKS,
    ) -> list[int]:
        """The tokens of a short way from the constraint's state to the end, end token included;
        empty if none is found within `most` tokens and `steps` masks, so that a search takes a
        bounded time. It stops early where a suffix of `known`, a way from an earlier state, may
        come next.
        """
        walk = Walk(self, constraint.copy(), _LOOKS * steps)
        path: list[int] = []
        for _ in range(steps):
            if len(path) >= most:
                break
            tokens, is_end = walk.next(known)
            if not tokens:
                return []
            if is_end:
                return self._in_long_tokens(constraint, path, tokens)
            walk.take(tokens)
            path += tokens
        return []

    def _in_long_tokens(self, constraint: Closable, path: list[int], rest: list[int]) -> list[int]:
        """The same text in the tokenizer's own tokens, if that is shorter and allowed."""
        way = [*path, *rest]
        written: list[int] = []
        specials = {*self.specials, *self.eos_ids}
        for is_special, tokens in groupby(way, key=specials.__contains__):
            if is_special:
                written += tokens
            else:
                written += self._encode(b"".join(self.token_bytes[token] for token in tokens))
        return written if len(written) < len(way) and constraint.follows(written) else way


class Walk:
    """One greedy walk to the end. The caller advances `constraint` by `take`, or by itself and then
    calls `took`. The walk may call `follows` so many times, if `looks` are limited.
    """

    def __init__(self, search: EndSearch, constraint: Closable, looks: int | None = None) -> None:
        self._looks = looks
        self._search = search
        self._constraint = constraint
        self._row = np.zeros(search.words, dtype=np.int32)
        self._used = [0] * 256
        self._turns = dict.fromkeys(search.specials, 0)
        self._endings = search.endings * _TRIES
        self._begun = False  # the current string began on this walk
        self._written = 0  # its bytes so far
        self._last: list[int] = []

    def next(self, known: Sequence[int] = ()) -> tuple[list[int], bool]:
        """The next tokens, and whether they reach the end; no tokens if the grammar exceeds a
        limit. Computes one mask.
        """
        constraint, row, search = self._constraint, self._row, self._search
        if constraint.is_terminated():
            return list(search.eos_ids[:1]), True  # a way ends with an end token
        try:
            constraint.fill_bitmask(row)
        except ValueError:
            return [], False
        for end in search.eos_ids:
            if _holds(row, end):
                return [end], True
        if known and (rest := self._joined(known)):
            return rest, True
        if forced := constraint.forced_tokens():
            return forced, False
        if specials := [token_id for token_id in search.specials if _holds(row, token_id)]:
            # Opening and closing markers take turns.
            return [min(specials, key=self._turns.__getitem__)], False
        if self._endings and self._is_free() and self._follows(self._endings[0]):
            ending, *self._endings = self._endings
            return ending, False
        if ending := self._string_ending() or []:
            return ending, False
        stuck = self._last[-2:] == [search.single.get(0x22)] * 2
        return [self._byte(stuck=stuck)], False

    def take(self, tokens: Sequence[int]) -> None:
        for token_id in tokens:
            self._constraint.accept(token_id)
        self.took(tokens)

    def took(self, tokens: Sequence[int]) -> None:
        self._last = [*self._last, *tokens][-2:]
        for token_id in tokens:
            if token_id in self._turns:
                self._turns[token_id] += 1
            # A forced token may hold a quote and the beginning of its string.
            token = self._search.token_bytes[token_id]
            _, quote, more = token.rpartition(b'"')
            self._begun = self._begun or bool(quote)
            self._written = len(more) if quote else self._written + len(more)

    def _follows(self, token_ids: list[int]) -> bool:
        if self._looks is not None:
            if not self._looks:
                return False
            self._looks -= 1
        return self._constraint.follows(token_ids)

    def _joined(self, known: Sequence[int]) -> list[int] | None:
        """The first of the likeliest suffixes of `known` that may come next: the shortest are tried
        first.
        """
        ids = np.array(known, dtype=np.int64)
        starts = np.flatnonzero((self._row[ids >> 5] >> (ids & 31)) & 1).tolist()
        for start in [*reversed(starts[-_SUFFIXES:]), *starts[:1]]:
            if self._follows(rest := list(known[start:])):
                return rest
        return None

    def _string_ending(self) -> list[int] | None:
        """An ending of the current string, which may not end yet, or another item of the current
        array; None if none may come next.
        """
        search, row, written = self._search, self._row, self._written
        quote, letter, comma = (search.single.get(byte) for byte in b'"b,')
        if quote is None or letter is None or comma is None:
            return None
        if not (_holds(row, letter) or _holds(row, comma)):  # a value may begin
            fitting = search.items
        elif _holds(row, quote) or (written >= _OFTEN and written % _SELDOM):
            return None
        elif not self._begun:
            fitting = search.rests
        else:
            # The string may already hold the beginning of an ending.
            fitting = [*search.strings, *(one[written:] for one in search.strings if one[written:])]
        return next((one for one in fitting if _holds(row, one[0]) and self._follows(one)), None)

    def _byte(self, *, stuck: bool) -> int:
        """The likeliest byte's token. `stuck`: double quotes lead nowhere, so try a single one."""
        search, row, used = self._search, self._row, self._used
        held = (row[search.single_ids >> 5] >> (search.single_ids & 31)) & 1
        allowed = search.single_bytes[np.flatnonzero(held)].tolist()
        if not allowed:  # no single-byte token is allowed
            bits = np.unpackbits(row.view(np.uint8), bitorder="little")
            return int(np.flatnonzero(bits)[0])
        there = set(allowed)
        if stuck and 0x27 in there:
            byte = 0x27
        elif not there.isdisjoint(_IN_TEXT):
            byte = min(allowed, key=lambda byte: ending_order(byte, used, b"x"))
        else:
            for closing in b"}]":
                if closing in there:
                    return search.single[closing]
            if 0x2C in there and used[0x2C] // _TURN % 2 == 0:
                byte = 0x2C  # end the number; if that leads nowhere, the next turn lengthens it
            elif 0x2C in there:
                byte = min(allowed, key=lambda byte: ending_order(byte, used, b"x"))
            else:
                byte = self._last_digit(allowed) or self._value_start(allowed)
        used[byte] += 1
        return search.single[byte]

    def _last_digit(self, allowed: list[int]) -> int | None:
        """A digit after which the current number may end, for numbers such as multiples."""
        if not _IN_NUMBER.issuperset(allowed):
            return None
        search, follows = self._search, self._follows
        ends = [*search.eos_ids, *(search.single[byte] for byte in b",]}" if byte in search.single)]
        digits = (byte for byte in allowed if byte in _DIGITS)
        return next(
            (byte for byte in digits if any(follows([search.single[byte], end]) for end in ends)),
            None,
        )

    def _value_start(self, allowed: list[int]) -> int:
        """The first byte of the simplest kind of value. Kinds take turns: one may lead nowhere."""
        used = self._used
        turns = {kind: sum(used[byte] for byte in kind) // _TURN for kind in _KINDS}

        def order(byte: int) -> tuple[int, int, int, int]:
            at, kind = next((i, kind) for i, kind in enumerate(_KINDS) if not kind or byte in kind)
            return turns[kind], at, used[byte], byte

        return min(allowed, key=order)

    def _is_free(self) -> bool:
        """True in free text: neither JSON nor a usual pattern allows the control character BEL."""
        bell = self._search.single.get(0x07)
        return bell is not None and _holds(self._row, bell)


def _holds(row: NDArray[np.int32], token_id: int) -> bool:
    return bool(int(row[token_id >> 5]) >> (token_id & 31) & 1)

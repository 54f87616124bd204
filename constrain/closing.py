"""Answers that end within their budget: once the tokens left just suffice, only those on a short
way to the end stay allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.matcher import Prepared
from formgate.constrain.shortest import ending_order

_LONGEST = 8_192  # tokens of a way to the end
_IN_TEXT = b"abcdeghijk"  # outside of strings JSON has none of these
_MARGIN = 8
_OFTEN = 8  # bytes of a string behind each of which its ending is looked for
_SELDOM = 4  # bytes between two such looks behind them
_BYTES = 4  # of a token on such a way, often
_PAUSE = 16  # tokens, where no way to the end was found
_KINDS = (b"0123456789-", b'"', b"tfn", b"[", b"{", b"")  # of values by their first byte
_TURN = 64  # uses of the bytes of one kind
_TRIES = 64  # for each ending of a free text


class Closable(Protocol):
    """What a constraint must offer to be closed."""

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool: ...
    def prepared(self) -> Prepared | None: ...
    def finish_bitmask(self, row: NDArray[np.int32]) -> bool: ...
    def accept(self, token_id: int) -> None: ...
    def forced_tokens(self) -> list[int]: ...
    def rollback(self, num_tokens: int) -> None: ...
    def is_terminated(self) -> bool: ...

    def copy(self) -> Closable:
        """Another one in the same state."""
        ...

    def follows(self, token_ids: list[int]) -> bool:
        """Whether these tokens may come next, in a row. False also where it is costly to say."""
        ...


class Ways:
    """A vocabulary as a walk to the end needs it, and what nothing in a mask tells it of: the texts
    that end a free text, and those that end a string under a pattern.
    """

    def __init__(
        self,
        token_bytes: Sequence[bytes],
        special_ids: frozenset[int],
        eos_ids: Sequence[int],
        encode: Callable[[bytes], list[int]],
    ) -> None:
        self._token_bytes = token_bytes
        self._encode = encode
        self._words = -(-len(token_bytes) // 32)
        self._eos_ids = tuple(eos_ids)
        self._specials = tuple(sorted(special_ids - set(eos_ids)))
        self._endings: list[list[int]] = []
        self._strings: list[list[int]] = []
        self._items: list[list[int]] = []
        self._single: dict[int, int] = {}
        for token_id, token in enumerate(token_bytes):
            if len(token) == 1 and token_id not in special_ids:
                self._single.setdefault(token[0], token_id)
        self._single_bytes = np.array(list(self._single), dtype=np.int64)
        self._single_ids = np.array(list(self._single.values()), dtype=np.int64)

    def through(self, free: Iterable[str], strings: Iterable[str]) -> Ways:
        """The same for a grammar whose free texts and strings end so."""
        ways = copy(self)
        ways._endings = list(self._spelled(free))
        ways._strings = list(self._spelled(text for text in strings if text.endswith('"')))
        ways._items = list(self._spelled(text for text in strings if text.endswith("]")))
        return ways

    def _spelled(self, texts: Iterable[str]) -> Iterator[list[int]]:
        for text in texts:
            if all(byte in self._single for byte in text.encode()):
                yield [self._single[byte] for byte in text.encode()]

    def leads(self, constraint: Closable, way: list[int]) -> bool:
        """Whether a way goes from a state to the end. `constraint` is moved along."""
        row = np.zeros(self._words, dtype=np.int32)
        for at, token_id in enumerate(way):
            if constraint.is_terminated():
                return at == len(way) - 1  # its end token needs not be written
            try:
                constraint.fill_bitmask(row)
            except ValueError:
                return False
            if not _holds(row, token_id):
                return False
            constraint.accept(token_id)
        return True

    def to_end(self, constraint: Closable, most: int = _LONGEST) -> list[int]:
        """The tokens of a short way from a state to the end, end token included; empty if none was
        found within so many bytes.
        """
        way = self._in_bytes(constraint.copy(), most)
        long = self._in_long_tokens(way)
        return long if len(long) < len(way) and self.leads(constraint.copy(), long) else way

    def _in_long_tokens(self, way: list[int]) -> list[int]:
        """The same text as the tokenizer writes it."""
        written: list[int] = []
        specials = {*self._specials, *self._eos_ids}
        for is_special, tokens in groupby(way, key=specials.__contains__):
            if is_special:
                written += tokens
            else:
                written += self._encode(b"".join(self._token_bytes[token] for token in tokens))
        return written

    def _in_bytes(self, constraint: Closable, most: int) -> list[int]:
        row = np.zeros(self._words, dtype=np.int32)
        path: list[int] = []
        used = [0] * 256
        endings = self._endings * _TRIES
        begun, written = False, 0  # bytes of the string in hand, if it was begun on this way
        while len(path) < most:
            if constraint.is_terminated():
                return [*path, self._eos_ids[0]]  # by which a way is known to lead to the end
            try:
                constraint.fill_bitmask(row)
            except ValueError:
                return []
            if (end := self._first_allowed(row, self._eos_ids)) is not None:
                return [*path, end]
            forced = constraint.forced_tokens()
            if not forced:
                specials = [token_id for token_id in self._specials if _holds(row, token_id)]
                if specials:
                    # Of those that open and those that end something, each has its turn.
                    turns = {token_id: path.count(token_id) for token_id in specials}
                    forced = [min(specials, key=turns.__getitem__)]
                elif endings and self._is_free(row) and constraint.follows(endings[0]):
                    forced, endings = endings[0], endings[1:]
                elif ending := self._string_ending(constraint, row, written, begun=begun):
                    forced = ending
                else:
                    stuck = path[-2:] == [self._single.get(0x22)] * 2
                    forced = [self._next(row, used, stuck=stuck)]
            for token_id in forced:
                constraint.accept(token_id)
            path += forced
            for token in map(self._token_bytes.__getitem__, forced):
                # What is forced may be a quote and the beginning of its string.
                _, quote, more = token.rpartition(b'"')
                begun = begun or bool(quote)
                written = len(more) if quote else written + len(more)
        return []

    def _string_ending(
        self, constraint: Closable, row: NDArray[np.int32], written: int, *, begun: bool
    ) -> list[int] | None:
        """For a string that may not end yet, `written` bytes behind its beginning, or if that is
        not known (`begun` is False) behind where it was found; for an array that may not, one item
        more.
        """
        quote, letter, comma = (self._single.get(byte) for byte in b'"b,')
        if quote is None or letter is None or comma is None:
            return None
        if not (_holds(row, letter) or _holds(row, comma)):  # a value may begin
            fitting = self._items
        elif _holds(row, quote) or (written >= _OFTEN and written % _SELDOM):
            return None
        elif not begun:  # the shortest rest that fits
            rests = {tuple(one[at:]) for one in self._strings for at in range(len(one))}
            fitting = [list(rest) for rest in sorted(rests, key=len)]
        else:
            # Of one that has begun as they do, their rest.
            fitting = [*self._strings, *(one[written:] for one in self._strings if one[written:])]
        return next(
            (one for one in fitting if _holds(row, one[0]) and constraint.follows(one)), None
        )

    def _next(self, row: NDArray[np.int32], used: list[int], *, stuck: bool) -> int:
        """`stuck`: double quotes end nothing here, so single ones may."""
        held = (row[self._single_ids >> 5] >> (self._single_ids & 31)) & 1
        allowed = self._single_bytes[np.flatnonzero(held)].tolist()
        if not allowed:  # a text that the tokenizer writes in one way only
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
                    return self._single[closing]
            if 0x2C in there and used[0x2C] // _TURN % 2 == 0:
                byte = 0x2C  # the end of a number, unless numbers so short lead nowhere
            elif 0x2C in there:
                byte = min(allowed, key=lambda byte: ending_order(byte, used, b"x"))
            else:
                byte = self._value_start(allowed, used)
        used[byte] += 1
        return self._single[byte]

    def _value_start(self, allowed: list[int], used: list[int]) -> int:
        """The simplest kind of value first; but where one kind does not lead on, others must have
        their turn.
        """
        turns = {kind: sum(used[byte] for byte in kind) // _TURN for kind in _KINDS}

        def order(byte: int) -> tuple[int, int, int, int]:
            at, kind = next((i, kind) for i, kind in enumerate(_KINDS) if not kind or byte in kind)
            return turns[kind], at, used[byte], byte

        return min(allowed, key=order)

    def _is_free(self, row: NDArray[np.int32]) -> bool:
        """No JSON has a control character like this, nor what a pattern is likely to mean."""
        return (bell := self._single.get(0x07)) is not None and _holds(row, bell)

    def _first_allowed(self, row: NDArray[np.int32], ids: Sequence[int]) -> int | None:
        return next((token_id for token_id in ids if _holds(row, token_id)), None)


def _holds(row: NDArray[np.int32], token_id: int) -> bool:
    return bool(int(row[token_id >> 5]) >> (token_id & 31) & 1)


@dataclass(frozen=True, slots=True)
class Budget:
    tokens: int  # that the answer may have, its end included
    largest_part: int  # tokens that one token more may cost at the most
    endings: tuple[str, ...] = ()  # that strings under a pattern may need
    text: str = ""  # a short answer, if one is known

    def dumps(self) -> str:
        """One line of JSON."""
        return json.dumps([self.tokens, self.largest_part, self.endings, self.text])

    @classmethod
    def loads(cls, text: str) -> Self:
        tokens, largest_part, endings, short = json.loads(text)
        return cls(tokens, largest_part, tuple(endings), short)


class ClosingConstraint:
    """Satisfies the engine's `TokenConstraint` around another one."""

    def __init__(self, inner: Closable, ways: Ways, budget: Budget, way: list[int]) -> None:
        """`way`: of a short answer, if one is known."""
        self._inner = inner
        self._ways = ways
        self._budget = budget
        self._accepted = 0
        self._path: list[int] = []  # that is left to go, once the answer is being closed
        self._way = way  # to the end, from where it was last looked for
        self._looked_at = 0
        self.closed = False

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        if not self._path:
            self._close_if_due()
        return self._only_way(row) if self._path else self._inner.fill_bitmask(row)

    def prepared(self) -> Prepared | None:
        if not self._path:
            self._close_if_due()
        return None if self._path else self._inner.prepared()

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        return self._only_way(row) if self._path else self._inner.finish_bitmask(row)

    def _only_way(self, row: NDArray[np.int32]) -> bool:
        row[:] = 0
        token_id = self._path[0]
        row.view(np.uint32)[token_id >> 5] = np.uint32(1 << (token_id & 31))
        return True

    def _close_if_due(self) -> None:
        left = self._budget.tokens - self._accepted
        step = self._budget.largest_part + _MARGIN
        # The way to the end can have grown by so much since it was looked for.
        longest = len(self._way) + step * (self._accepted - self._looked_at + 1)
        if self._looked_at and left > longest:
            return
        if self._looked_at and not self._way and self._accepted < self._looked_at + _PAUSE:
            return
        self._look(left)
        if self._way and left <= len(self._way) + step:
            self._path = self._way
            self.closed = len(self._path) > 1

    def _look(self, left: int) -> None:
        """For the way to the end. One that is known stays, unless there is a shorter one."""
        inner = self._inner
        known = self._way
        if not known or not (inner.follows(known) or self._ways.leads(inner.copy(), known)):
            known = []
        most = len(known) - 1 if known else min(_BYTES * left, _LONGEST)
        if not known or self._accepted == 0:
            known = self._ways.to_end(inner, most) or known
        self._way = known if len(known) <= left else []
        self._looked_at = max(self._accepted, 1)

    def accept(self, token_id: int) -> None:
        self._inner.accept(token_id)
        self._accepted += 1
        if self._way and token_id == self._way[0]:
            self._way = self._way[1:]
        if self._path:
            self._path = self._path[1:] if token_id == self._path[0] else []

    def forced_tokens(self) -> list[int]:
        return [] if self._path else self._inner.forced_tokens()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)
        self._accepted -= num_tokens
        self._path, self._way, self._looked_at = [], [], 0

    def is_terminated(self) -> bool:
        return self._inner.is_terminated()

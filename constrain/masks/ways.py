"""Short ways from a state of a constraint to its end, found byte by byte: each byte is the
likeliest to lead there, and none is taken back.
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
_IN_TEXT = b"abcdeghijk"  # outside of strings JSON has none of these
_OFTEN = 8  # bytes of a string behind each of which its ending is looked for
_SELDOM = 4  # bytes between two such looks behind them
_KINDS = (b"0123456789-", b'"', b"tfn", b"[", b"{", b"")  # of values by their first byte
_DIGITS = frozenset(b"0123456789")
_IN_NUMBER = _DIGITS | frozenset(b".eE+-")
_TURN = 64  # uses of the bytes of one kind
_TRIES = 64  # for each ending of a free text
_SUFFIXES = 16  # of a known way that are tried from one state


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
        self.rests: list[list[int]] = []  # of them, the shortest first
        self.items: list[list[int]] = []
        self.single: dict[int, int] = {}
        for token_id, token in enumerate(token_bytes):
            if len(token) == 1 and token_id not in special_ids:
                self.single.setdefault(token[0], token_id)
        self.single_bytes = np.array(list(self.single), dtype=np.int64)
        self.single_ids = np.array(list(self.single.values()), dtype=np.int64)

    def through(self, free: Iterable[str], strings: Iterable[str]) -> Ways:
        """The same for a grammar whose free texts and strings end so."""
        ways = copy(self)
        ways.endings = list(self._spelled(free))
        ways.strings = list(self._spelled(text for text in strings if text.endswith('"')))
        rests = {tuple(one[at:]) for one in ways.strings for at in range(len(one))}
        ways.rests = [list(rest) for rest in sorted(rests, key=len)]
        ways.items = list(self._spelled(text for text in strings if text.endswith("]")))
        return ways

    def _spelled(self, texts: Iterable[str]) -> Iterator[list[int]]:
        for text in texts:
            if all(byte in self.single for byte in text.encode()):
                yield [self.single[byte] for byte in text.encode()]

    def leads(self, constraint: Closable, way: Sequence[int]) -> bool:
        """Whether a way goes from a state to the end, by a mask for each of its tokens: exact where
        `follows` is too careful, and costly. `constraint` is moved along.
        """
        row = np.zeros(self.words, dtype=np.int32)
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

    def to_end(
        self,
        constraint: Closable,
        most: int = LONGEST,
        *,
        known: Sequence[int] = (),
        steps: int | None = None,
    ) -> list[int]:
        """The tokens of a short way from a state to the end, end token included; empty if none was
        found within `most` bytes and so many steps. A way that was `known` from an earlier state is
        joined where it, or its suffix, may come next.
        """
        walk = Walk(self, constraint.copy())
        path: list[int] = []
        while len(path) < most and steps != 0:
            tokens, is_end = walk.next(known)
            if not tokens:
                return []
            if is_end:
                return self._in_long_tokens(constraint, path, tokens)
            walk.take(tokens)
            path += tokens
            steps = None if steps is None else steps - 1
        return []

    def _in_long_tokens(self, constraint: Closable, path: list[int], rest: list[int]) -> list[int]:
        """The same text as the tokenizer writes it, if that is shorter and allowed."""
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
    """One walk to the end, a few bytes at a time. `constraint` is moved along by `take`, or by its
    owner, who then calls `took`.
    """

    def __init__(self, ways: Ways, constraint: Closable) -> None:
        self._ways = ways
        self._constraint = constraint
        self._row = np.zeros(ways.words, dtype=np.int32)
        self._used = [0] * 256
        self._turns = dict.fromkeys(ways.specials, 0)
        self._endings = ways.endings * _TRIES
        self._begun = False  # the string in hand was begun on this way
        self._written = 0  # bytes of it
        self._last: list[int] = []

    def next(self, known: Sequence[int] = ()) -> tuple[list[int], bool]:
        """The next tokens, and whether they lead to the end; none where the grammar ran into a
        limit. Looks at the constraint once.
        """
        constraint, row, ways = self._constraint, self._row, self._ways
        if constraint.is_terminated():
            return list(ways.eos_ids[:1]), True  # by which a way is known to lead to the end
        try:
            constraint.fill_bitmask(row)
        except ValueError:
            return [], False
        for end in ways.eos_ids:
            if _holds(row, end):
                return [end], True
        if known and (rest := self._joined(known)):
            return rest, True
        if forced := constraint.forced_tokens():
            return forced, False
        if specials := [token_id for token_id in ways.specials if _holds(row, token_id)]:
            # Of those that open and those that end something, each has its turn.
            return [min(specials, key=self._turns.__getitem__)], False
        if self._endings and self._is_free() and constraint.follows(self._endings[0]):
            ending, *self._endings = self._endings
            return ending, False
        if ending := self._string_ending() or []:
            return ending, False
        stuck = self._last[-2:] == [ways.single.get(0x22)] * 2
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
            # What is forced may be a quote and the beginning of its string.
            token = self._ways.token_bytes[token_id]
            _, quote, more = token.rpartition(b'"')
            self._begun = self._begun or bool(quote)
            self._written = len(more) if quote else self._written + len(more)

    def _joined(self, known: Sequence[int]) -> list[int] | None:
        """The shortest of its suffixes that may come next, among the likeliest."""
        ids = np.array(known, dtype=np.int64)
        starts = np.flatnonzero((self._row[ids >> 5] >> (ids & 31)) & 1).tolist()
        for start in [*reversed(starts[-_SUFFIXES:]), *starts[:1]]:
            if self._constraint.follows(rest := list(known[start:])):
                return rest
        return None

    def _string_ending(self) -> list[int] | None:
        """For a string that may not end yet, behind its beginning, or if that is not known behind
        where it was found; for an array that may not, one item more.
        """
        ways, row, written = self._ways, self._row, self._written
        quote, letter, comma = (ways.single.get(byte) for byte in b'"b,')
        if quote is None or letter is None or comma is None:
            return None
        if not (_holds(row, letter) or _holds(row, comma)):  # a value may begin
            fitting = ways.items
        elif _holds(row, quote) or (written >= _OFTEN and written % _SELDOM):
            return None
        elif not self._begun:
            fitting = ways.rests
        else:
            # Of one that has begun as they do, their rest.
            fitting = [*ways.strings, *(one[written:] for one in ways.strings if one[written:])]
        follows = self._constraint.follows
        return next((one for one in fitting if _holds(row, one[0]) and follows(one)), None)

    def _byte(self, *, stuck: bool) -> int:
        """`stuck`: double quotes end nothing here, so single ones may."""
        ways, row, used = self._ways, self._row, self._used
        held = (row[ways.single_ids >> 5] >> (ways.single_ids & 31)) & 1
        allowed = ways.single_bytes[np.flatnonzero(held)].tolist()
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
                    return ways.single[closing]
            if 0x2C in there and used[0x2C] // _TURN % 2 == 0:
                byte = 0x2C  # the end of a number, unless numbers so short lead nowhere
            elif 0x2C in there:
                byte = min(allowed, key=lambda byte: ending_order(byte, used, b"x"))
            else:
                byte = self._last_digit(allowed) or self._value_start(allowed)
        used[byte] += 1
        return ways.single[byte]

    def _last_digit(self, allowed: list[int]) -> int | None:
        """One behind which a number may end that may not end yet, such as a multiple."""
        if not _IN_NUMBER.issuperset(allowed):
            return None
        ways, follows = self._ways, self._constraint.follows
        ends = [*ways.eos_ids, *(ways.single[byte] for byte in b",]}" if byte in ways.single)]
        digits = (byte for byte in allowed if byte in _DIGITS)
        return next(
            (byte for byte in digits if any(follows([ways.single[byte], end]) for end in ends)),
            None,
        )

    def _value_start(self, allowed: list[int]) -> int:
        """The simplest kind of value first; but where one kind does not lead on, others must have
        their turn.
        """
        used = self._used
        turns = {kind: sum(used[byte] for byte in kind) // _TURN for kind in _KINDS}

        def order(byte: int) -> tuple[int, int, int, int]:
            at, kind = next((i, kind) for i, kind in enumerate(_KINDS) if not kind or byte in kind)
            return turns[kind], at, used[byte], byte

        return min(allowed, key=order)

    def _is_free(self) -> bool:
        """No JSON has a control character like this, nor what a pattern is likely to mean."""
        bell = self._ways.single.get(0x07)
        return bell is not None and _holds(self._row, bell)


def _holds(row: NDArray[np.int32], token_id: int) -> bool:
    return bool(int(row[token_id >> 5]) >> (token_id & 31) & 1)

"""Answers that end within their budget: once the tokens left just suffice, only those on a short
way to the end stay allowed. A step does a bounded part of the search for that way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.masks.matcher import Prepared
from formgate.constrain.masks.ways import LONGEST, Closable, Walk, Ways

_MARGIN = 8
_BYTES = 4  # of a token on a way to the end, often
_PAUSE = 16  # tokens, where no way to the end was found
_STEPS = 16  # of a search: as many masks of one row, in one step of all rows
_EARLY = 3  # tokens before it has to be closed for which a way is looked for


@dataclass(frozen=True, slots=True)
class Budget:
    tokens: int  # that the answer may have, its end included
    largest_part: int  # tokens that one token more may cost at the most
    endings: tuple[str, ...] = ()  # that strings under a pattern may need
    way: tuple[int, ...] = ()  # tokens of a short answer, its end included, if one is known


class ClosingConstraint:
    """Satisfies the engine's `TokenConstraint` around another one.

    How long the way to the end is, is known from where it was last found: it has grown by at most
    `largest_part` and a margin with each token since. Where that might no longer fit, a few steps
    of a search mostly lead back to the way that is known. If they do not, the answer is closed
    without knowing its end: each token is the likeliest to lead there.
    """

    def __init__(self, inner: Closable, ways: Ways, budget: Budget) -> None:
        self._inner = inner
        self._ways = ways
        self._budget = budget
        self._accepted = 0
        self._path: list[int] = []  # that is left to go, once the answer is being closed
        self._walk: Walk | None = None  # that closes it where the end of the path is not known
        self._way = list(budget.way)  # to the end, from where it was last found
        self._length: int | None = len(budget.way) or None  # of it
        self._found_at = 0  # tokens accepted then
        self._looked_at = -_PAUSE
        self.closed = False

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        self._close_if_due()
        return self._only_way(row) if self._path else self._inner.fill_bitmask(row)

    def prepared(self) -> Prepared | None:
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
        if self._path:
            return
        left = self._budget.tokens - self._accepted
        if self._walk is not None:
            self._look(left)
            known = self._found_at == self._accepted
            self._path = self._way if known else self._walk.next()[0]
            return
        step = self._budget.largest_part + _MARGIN
        longest = self._longest(step)
        if longest is None:
            if self._accepted < self._looked_at + _PAUSE:
                return
        elif left > longest + _EARLY * step:
            return
        self._look(left)
        longest = self._longest(step)
        if longest is None or left > longest + step:
            return
        if self._found_at == self._accepted:
            self._path = self._way
            self.closed = len(self._path) > 1
        else:
            self._walk = Walk(self._ways, self._inner)
            self._path, _ = self._walk.next()
            self.closed = True

    def _longest(self, step: int) -> int | None:
        """What the way to the end can have grown to since it was found."""
        if self._length is None:
            return None
        return self._length + step * (self._accepted - self._found_at)

    def _look(self, left: int) -> None:
        """For the way to the end from here."""
        self._looked_at = self._accepted
        way = self._way
        if not (way and self._inner.follows(way)):
            most = min(_BYTES * left, LONGEST)
            way = self._ways.to_end(self._inner, most, known=way, steps=_STEPS)
        if way and len(way) <= left:
            self._way, self._length, self._found_at = way, len(way), self._accepted

    def accept(self, token_id: int) -> None:
        self._inner.accept(token_id)
        self._accepted += 1
        if self._way and token_id == self._way[0]:
            self._way = self._way[1:]
        if self._walk is not None:
            self._walk.took([token_id])
        if self._path:
            self._path = self._path[1:] if token_id == self._path[0] else []

    def forced_tokens(self) -> list[int]:
        return [] if self._path else self._inner.forced_tokens()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)
        self._accepted -= num_tokens
        self._path, self._walk = [], None
        if self._length is not None:
            self._length += num_tokens  # it leads through what was taken back
            self._found_at = min(self._found_at, self._accepted)

    def is_terminated(self) -> bool:
        return self._inner.is_terminated()

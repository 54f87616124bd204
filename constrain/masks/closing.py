"""Ends an answer within its token budget: once the remaining tokens just suffice, only tokens on a
short way to the end are allowed. Each step does a bounded part of the search for that way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.masks.end_search import LONGEST, Closable, EndSearch, Walk
from formgate.constrain.masks.matcher import Prepared

_MARGIN = 8
_BYTES = 4  # typical bytes per token on a way to the end
_PAUSE = 16  # tokens between two searches if no way was found
_STEPS = 16  # masks that one row's search may compute in a step
_EARLY = 3  # tokens before closing is due from which a way is searched for


@dataclass(frozen=True, slots=True)
class Budget:
    tokens: int  # that the answer may have, its end included
    largest_part: int  # tokens that one token more may cost at the most
    endings: tuple[str, ...] = ()  # that strings under a pattern may need
    way: tuple[int, ...] = ()  # tokens of a short answer, its end included, if one is known


class ClosingConstraint:
    """Satisfies the engine's `TokenConstraint` around another one.

    The length of the way to the end is bounded: since a way was last found, each token lengthened
    it by at most `largest_part` and a margin. When that bound may no longer fit, a few steps of a
    search usually rejoin the known way. If they do not, the answer is closed by a greedy walk whose
    end is not known in advance.
    """

    def __init__(self, inner: Closable, search: EndSearch, budget: Budget) -> None:
        self._inner = inner
        self._search = search
        self._budget = budget
        self._accepted = 0
        self._path: list[int] = []  # remaining tokens once the answer is being closed
        self._walk: Walk | None = None  # closes the answer if no way to the end is known
        self._way = list(budget.way)  # the last way found, without tokens accepted since
        self._length: int | None = len(budget.way) or None  # of the way when it was found
        self._found_at = 0  # tokens accepted when it was found
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
            self._walk = Walk(self._search, self._inner)
            self._path, _ = self._walk.next()
            self.closed = True

    def _longest(self, step: int) -> int | None:
        """Upper bound on the length of the way to the end; None if no way was found."""
        if self._length is None:
            return None
        return self._length + step * (self._accepted - self._found_at)

    def _look(self, left: int) -> None:
        """Search for a way to the end from the current state."""
        self._looked_at = self._accepted
        way = self._way
        if not (way and self._inner.follows(way)):
            most = min(_BYTES * left, LONGEST)
            way = self._search.to_end(self._inner, most, known=way, steps=_STEPS)
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
            self._length += num_tokens  # the way first repeats the tokens taken back
            self._found_at = min(self._found_at, self._accepted)

    def is_terminated(self) -> bool:
        return self._inner.is_terminated()

"""A limit on the tokens of an answer's reasoning. Once they are spent, only the marker that ends
the reasoning is allowed. The grammar must allow that marker anywhere in the reasoning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from formgate.constrain.masks.end_search import Closable
from formgate.constrain.masks.matcher import Prepared
from formgate.constrain.masks.vocabulary import Vocabulary

Part = int | str  # a special token's id, or text


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """`tokens`: the limit between the markers. `opening` is empty if the prompt ends with the
    opening marker; otherwise there is reasoning only if the answer begins with `opening`.
    """

    tokens: int
    opening: tuple[Part, ...]
    closing: tuple[Part, ...]


class ThinkingTokens:
    """The markers of a budget in one vocabulary, as bytes. A special token is written with 0xFF,
    which UTF-8 does not have, so that no text looks like one.
    """

    def __init__(
        self,
        budget: ThinkingBudget,
        vocabulary: Vocabulary,
        encode: Callable[[str], list[int]],
    ) -> None:
        self._special = vocabulary.special_ids
        self._token_bytes = vocabulary.token_bytes
        self.limit = budget.tokens
        self.opening = b"".join(map(self._written, budget.opening))
        self.closing = b"".join(map(self._written, budget.closing))
        self.closing_ids: list[int] = []
        for part in budget.closing:
            self.closing_ids += [part] if isinstance(part, int) else encode(part)

    def of(self, token_id: int) -> bytes:
        return self._symbol(token_id) if token_id in self._special else self._token_bytes[token_id]

    def _written(self, part: Part) -> bytes:
        return self._symbol(part) if isinstance(part, int) else part.encode()

    @staticmethod
    def _symbol(token_id: int) -> bytes:
        return b"\xff%d\xff" % token_id


class ThinkingConstraint:
    """Satisfies the engine's `TokenConstraint` around another one."""

    closed = False  # it never ends an answer early

    def __init__(self, inner: Closable, tokens: ThinkingTokens) -> None:
        self._inner = inner
        self._tokens = tokens
        self._accepted: list[int] = []  # until the reasoning is over
        self._num_after = 0  # tokens after the reasoning
        self._begin()

    def _begin(self) -> None:
        self._inside = not self._tokens.opening
        self._over = False
        self._tail = b""  # suffix that may hold the beginning of a marker
        self._spent = 0
        self._path: list[int] = []  # remaining tokens of the closing marker, once it is due

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        return self._only_way(row) if self._due() else self._inner.fill_bitmask(row)

    def prepared(self) -> Prepared | None:
        return None if self._due() else self._inner.prepared()

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        return self._only_way(row) if self._due() else self._inner.finish_bitmask(row)

    def _only_way(self, row: NDArray[np.int32]) -> bool:
        row[:] = 0
        token_id = self._path[0]
        row.view(np.uint32)[token_id >> 5] = np.uint32(1 << (token_id & 31))
        return True

    def _due(self) -> bool:
        # The marker may not be allowed yet: a partial UTF-8 character is completed first.
        if (
            not self._path
            and self._inside
            and self._spent >= self._tokens.limit
            and self._inner.follows(self._tokens.closing_ids)
        ):
            self._path = list(self._tokens.closing_ids)
        return bool(self._path)

    def accept(self, token_id: int) -> None:
        self._inner.accept(token_id)
        if self._over:
            self._num_after += 1
            return
        self._accepted.append(token_id)
        self._follow(token_id)
        if self._path:
            self._path = self._path[1:] if self._inside and token_id == self._path[0] else []

    def _follow(self, token_id: int) -> None:
        tokens = self._tokens
        self._tail += tokens.of(token_id)
        if self._inside:
            self._spent += 1
        elif self._tail.startswith(tokens.opening):
            self._inside = True
            self._tail = self._tail[len(tokens.opening) :]
        elif not tokens.opening.startswith(self._tail):
            self._over = True
            return
        if self._inside:
            if tokens.closing in self._tail:
                self._inside, self._over = False, True
            else:
                self._tail = self._tail[max(0, len(self._tail) - len(tokens.closing) + 1) :]

    def forced_tokens(self) -> list[int]:
        return list(self._path) if self._due() else self._inner.forced_tokens()

    def rollback(self, num_tokens: int) -> None:
        self._inner.rollback(num_tokens)
        num_after = min(self._num_after, num_tokens)
        self._num_after -= num_after
        if num_tokens == num_after:
            return
        kept = self._accepted[: len(self._accepted) - (num_tokens - num_after)]
        self._accepted = []
        self._begin()
        for token_id in kept:
            self._accepted.append(token_id)
            self._follow(token_id)

    def copy(self) -> ThinkingConstraint:
        new = ThinkingConstraint(self._inner.copy(), self._tokens)
        new._accepted = self._accepted[:]
        new._num_after = self._num_after
        new._inside, new._over = self._inside, self._over
        new._tail, new._spent, new._path = self._tail, self._spent, self._path[:]
        return new

    def follows(self, token_ids: Sequence[int]) -> bool:
        return self._inner.follows(list(token_ids))

    def is_terminated(self) -> bool:
        return self._inner.is_terminated()

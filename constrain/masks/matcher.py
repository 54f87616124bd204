"""One sequence's state in its grammar, over llguidance's matcher: an Earley parser whose lexer uses
derivatives of regexes (docs/optimizations.md of llguidance describes the method).
"""

from __future__ import annotations

from ctypes import addressof, c_char

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from formgate.constrain.library_errors import failed, is_limit

# The id of a matcher's lexer, and the matcher.
Prepared = tuple[int, LLMatcher]


def address_of(row: NDArray[np.int32]) -> int:
    """Of the first word. Four times faster than `row.ctypes.data`, which a mask would notice."""
    # numpy's stubs know of buffers from Python 3.12 on.
    return addressof(c_char.from_buffer(row))  # type: ignore[arg-type, unused-ignore]


class Lexer:
    """What the copies of one matcher share. Only one thread may use it at a time.

    `exhausted`: one of them has exceeded a limit. The lexer then refuses valid texts of all of
    them, and no error tells of it before the next mask: it must not be used again.
    """

    exhausted = False


class GrammarConstraint:
    """Satisfies the engine's `TokenConstraint`. Cheap to make, for one sequence only."""

    __slots__ = ("__weakref__", "_lexer", "mask_bytes", "matcher")

    closed = False  # it never ends an answer early

    def __init__(self, matcher: LLMatcher, mask_bytes: int, lexer: Lexer) -> None:
        self.matcher = matcher
        self._lexer = lexer
        self.mask_bytes = mask_bytes

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Write the allowed tokens into `row`, whose words past the vocabulary become 0. Releases
        the GIL. Raises ValueError if the grammar exceeds a limit.
        """
        self.matcher.unsafe_compute_mask_ptr(address_of(row), self.mask_bytes)
        return self.finish_bitmask(row)

    def prepared(self) -> Prepared:
        return id(self._lexer), self.matcher

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        if row.nbytes > self.mask_bytes:
            row[self.mask_bytes // 4 :] = 0
        if self.matcher.is_error():
            raise self._failed()
        return True

    def _failed(self) -> ValueError:
        message = self.matcher.get_error()
        self._lexer.exhausted |= is_limit(message)
        return failed(message)

    def accept(self, token_id: int) -> None:
        """Raises ValueError if the grammar exceeds a limit, and RuntimeError if it does not allow
        the token.
        """
        if not self.matcher.consume_token(token_id):
            raise self.refused(token_id)

    def refused(self, token_id: int) -> ValueError | RuntimeError:
        """The error of a token that was not accepted."""
        if is_limit(self.matcher.get_error()):
            return self._failed()
        return RuntimeError(f"token {token_id} doesn't satisfy the grammar")

    def forced_tokens(self) -> list[int]:
        """The tokens that must come next. Raises ValueError if the grammar exceeds a limit."""
        if self.matcher.is_stopped():
            return []
        forced: list[int] = self.matcher.compute_ff_tokens()
        if not forced and self.matcher.is_error():
            raise self._failed()
        return forced

    def rollback(self, num_tokens: int) -> None:
        if not self.matcher.rollback(num_tokens):
            raise ValueError(self.matcher.get_error())

    def copy(self) -> GrammarConstraint:
        return self.with_matcher(self.matcher.deep_copy())

    def with_matcher(self, matcher: LLMatcher) -> GrammarConstraint:
        """`matcher` is a copy of this one's."""
        return GrammarConstraint(matcher, self.mask_bytes, self._lexer)

    def follows(self, token_ids: list[int]) -> bool:
        """True if these tokens, in sequence, may come next."""
        return bool(self.matcher.validate_tokens(token_ids) == len(token_ids))

    def is_terminated(self) -> bool:
        stopped: bool = self.matcher.is_stopped()
        return stopped

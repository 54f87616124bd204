"""One sequence's state in its grammar, over llguidance's matcher: an Earley parser whose lexer uses
derivatives of regexes (docs/optimizations.md of llguidance describes the method).
"""

from __future__ import annotations

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from formgate.constrain.library_errors import failed, is_limit

# The id of a matcher's lexer, and the matcher.
Prepared = tuple[int, LLMatcher]


class GrammarConstraint:
    """Satisfies the engine's `TokenConstraint`. Cheap to make, for one sequence only."""

    __slots__ = ("__weakref__", "_lexer", "_matcher", "mask_bytes")

    closed = False  # it never ends an answer early

    def __init__(self, matcher: LLMatcher, mask_bytes: int, *, lexer: int = 0) -> None:
        """`lexer` identifies the lexer, which only one thread may use at a time."""
        self._matcher = matcher
        self._lexer = lexer
        self.mask_bytes = mask_bytes

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Write the allowed tokens into `row`, whose words past the vocabulary become 0. Releases
        the GIL. Raises ValueError if the grammar exceeds a limit.
        """
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, self.mask_bytes)
        return self.finish_bitmask(row)

    def prepared(self) -> Prepared:
        return self._lexer, self._matcher

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        row[self.mask_bytes // 4 :] = 0
        if self._matcher.is_error():
            raise failed(self._matcher.get_error())
        return True

    def accept(self, token_id: int) -> None:
        """Raises ValueError if the grammar exceeds a limit, and RuntimeError if it does not allow
        the token.
        """
        if not self._matcher.consume_token(token_id):
            message = self._matcher.get_error()
            if is_limit(message):
                raise failed(message)
            raise RuntimeError(f"token {token_id} doesn't satisfy the grammar")

    def forced_tokens(self) -> list[int]:
        """The tokens that must come next. Raises ValueError if the grammar exceeds a limit."""
        if self._matcher.is_stopped():
            return []
        forced: list[int] = self._matcher.compute_ff_tokens()
        if not forced and self._matcher.is_error():
            raise failed(self._matcher.get_error())
        return forced

    def rollback(self, num_tokens: int) -> None:
        if not self._matcher.rollback(num_tokens):
            raise ValueError(self._matcher.get_error())

    def copy(self) -> GrammarConstraint:
        return GrammarConstraint(self._matcher.deep_copy(), self.mask_bytes, lexer=self._lexer)

    def follows(self, token_ids: list[int]) -> bool:
        """True if these tokens, in sequence, may come next."""
        return bool(self._matcher.validate_tokens(token_ids) == len(token_ids))

    def is_terminated(self) -> bool:
        stopped: bool = self._matcher.is_stopped()
        return stopped

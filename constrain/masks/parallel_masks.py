"""Computes the masks of one step: llguidance fills its rows on several threads, without the GIL,
and each constraint then finishes its own row.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
from llguidance import LLExecutor, LLMatcher
from numpy.typing import NDArray

from formgate.constrain.masks.matcher import Prepared, address_of

FEW = 4  # below this number of rows, other threads do not pay off


class Fillable(Protocol):
    """A constraint that can be filled in two steps."""

    def prepared(self) -> Prepared | None:
        """The matcher that fills the row first; None if none does."""
        ...

    def finish_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Complete a row that was filled from `prepared`. Returns and raises as `fill_bitmask` of
        the engine's `TokenConstraint`.
        """
        ...


class ParallelFiller:
    """`words`: number of 32-bit words of llguidance's masks."""

    def __init__(self, words: int, *, num_threads: int) -> None:
        self._words = words
        self._executor = LLExecutor(num_threads) if num_threads > 1 else None
        self._unpadded: NDArray[np.int32] | None = None

    def __call__(
        self, constraints: Sequence[Any], rows: Sequence[int], bitmask: NDArray[np.int32]
    ) -> list[bool | Exception]:
        """Fill `rows` of `bitmask` [max_num_seqs, ceil(padded_vocab / 32)], each by its constraint.
        Returns for each row the result or the exception of `fill_bitmask`. Constraints are
        Fillable; their type is Any because the engine's protocol is narrower.
        """
        assert bitmask.flags["C_CONTIGUOUS"]
        results: list[bool | Exception] = [True] * len(rows)
        prepared: list[tuple[int, int, LLMatcher]] = []
        fillable: Sequence[Fillable] = constraints
        for at, constraint in enumerate(fillable):
            try:
                begun = constraint.prepared()
            except Exception as error:
                results[at] = error
            else:
                if begun is not None:
                    prepared.append((begun[0], rows[at], begun[1]))
        # A thread takes adjacent rows, and only one thread may use a lexer at a time.
        prepared.sort(key=itemgetter(0))
        self._compute([(matcher, row) for _, row, matcher in prepared], bitmask)
        for at, constraint in enumerate(fillable):
            if results[at] is True:
                try:
                    results[at] = constraint.finish_bitmask(bitmask[rows[at]])
                except Exception as error:
                    results[at] = error
        return results

    def _compute(self, masked: Sequence[tuple[LLMatcher, int]], bitmask: NDArray[np.int32]) -> None:
        if self._executor is None or len(masked) < FEW:
            for matcher, row in masked:
                words = bitmask[row, : self._words]
                matcher.unsafe_compute_mask_ptr(address_of(words), words.nbytes)
            return
        target = bitmask
        if bitmask.shape[1] != self._words:  # the executor does not support padded rows
            if self._unpadded is None or len(self._unpadded) != len(bitmask):
                self._unpadded = np.empty((len(bitmask), self._words), dtype=np.int32)
            target = self._unpadded
        self._executor.unsafe_compute_mask_ptr(
            list(masked), target.ctypes.data, 4 * self._words, len(target)
        )
        if target is not bitmask:
            for _, row in masked:
                bitmask[row, : self._words] = target[row]

"""Fills the bitmasks of a step's constrained rows, on the CPU, while the device computes. It knows
the hook and numpy, neither logits nor grammars.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from formgate.engine.hooks import TokenConstraint
from formgate.engine.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepMasks:
    """Rows are the logits' rows; a row that is not among `masked_rows` holds anything."""

    masked_rows: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)  # row -> what to tell its client
    seconds: float = 0.0


NOTHING_MASKED = StepMasks()


class MaskFiller:
    def __init__(self, bitmask: NDArray[np.int32]) -> None:
        self._bitmask = bitmask  # [max_num_seqs, ceil(padded_vocab / 32)], pinned on CUDA

    def fill(self, sequences: ReadSequence[Sequence]) -> StepMasks:
        """One row for each sequence. A constraint that fails takes down its own row only."""
        constrained = [
            (row, constraint)
            for row, sequence in enumerate(sequences)
            if (constraint := sequence.constraint) is not None
        ]
        if not constrained:
            return NOTHING_MASKED
        start = time.perf_counter()
        masked_rows: list[int] = []
        failed: dict[int, str] = {}
        for row, constraint in constrained:
            try:
                if self._fill_row(row, constraint):
                    masked_rows.append(row)
            except Exception as error:
                logger.exception("bug: the mask of %s failed", sequences[row].request_id)
                failed[row] = f"The constraint failed: {error}"
        return StepMasks(masked_rows, failed, time.perf_counter() - start)

    def _fill_row(self, row: int, constraint: TokenConstraint) -> bool:
        words = self._bitmask[row]
        words.fill(0)
        if not constraint.fill_bitmask(words):
            return False
        if not words.any():
            raise RuntimeError("it allows no token at all")
        return True

"""Fills the bitmasks of a step's constrained rows on the CPU while the device computes. It knows
`TokenConstraint` and numpy, neither logits nor grammars.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as ReadSequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from formgate.engine.hooks import FillMasks, TokenConstraint
from formgate.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class StepMasks:
    """The result of filling the bitmask, whose rows are those of the logits."""

    masked_rows: list[int] = field(default_factory=list)  # the contents of other rows are undefined
    failed: dict[int, Exception] = field(default_factory=dict)  # by row
    seconds: float = 0.0  # spent filling


NOTHING_MASKED = StepMasks()


def one_by_one(
    constraints: ReadSequence[TokenConstraint],
    rows: ReadSequence[int],
    bitmask: NDArray[np.int32],
) -> list[bool | Exception]:
    """A `FillMasks` that fills the rows in this thread, one after the other."""
    results: list[bool | Exception] = []
    for constraint, row in zip(constraints, rows, strict=True):
        try:
            results.append(constraint.fill_bitmask(bitmask[row]))
        except Exception as error:
            results.append(error)
    return results


class MaskFiller:
    def __init__(self, bitmask: NDArray[np.int32], fill_masks: FillMasks) -> None:
        self._bitmask = bitmask  # [max_num_seqs, ceil(padded_vocab / 32)], pinned on CUDA
        self._fill_masks = fill_masks

    def fill(self, sequences: ReadSequence[Sequence]) -> StepMasks:
        """Fill row `i` for `sequences[i]`. A constraint that fails affects its own row only."""
        constrained = [
            (row, constraint)
            for row, sequence in enumerate(sequences)
            if (constraint := sequence.constraint) is not None
        ]
        if not constrained:
            return NOTHING_MASKED
        start = time.perf_counter()
        rows = [row for row, _ in constrained]
        constraints = [constraint for _, constraint in constrained]
        masked_rows: list[int] = []
        failed: dict[int, Exception] = {}
        results = self._fill_masks(constraints, rows, self._bitmask)
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, Exception):
                failed[row] = result
            elif result:
                masked_rows.append(row)
        return StepMasks(masked_rows, failed, time.perf_counter() - start)

"""The interface between the engine and constraints. The engine owns this protocol;
`formgate.constrain` satisfies it structurally and the gateway connects the two. Nothing here knows
grammars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class ConstraintTooComplex(ValueError):
    """The request's constraint exceeds a limit, so that the request fails by its own fault."""


class TokenConstraint(Protocol):
    """The grammar state of one sequence. The engine only moves it forward.

    Bitmask contract: a row is int32 [ceil(padded_vocab / 32)]; bit `i & 31` of word `i >> 5` stands
    for token `i`, 1 = allowed. Bits past the tokenizer's vocabulary are 0, because padded logits
    leak otherwise. EOS is allowed only in accepting states. An all-zero row is a bug: the engine
    ends that request with an error.
    """

    closed: bool
    """True once the constraint forces the shortest ending, so that the answer fits its budget."""

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Overwrite every word of the row with the tokens allowed next and return True. Return
        False if every token is allowed; the row is then ignored. Raises ValueError if the request's
        constraint exceeds a limit.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Advance by one token that the last mask allowed. Raises ValueError as `fill_bitmask`
        does.
        """
        ...

    def forced_tokens(self) -> list[int]:
        """The only possible next tokens, as the tokenizer itself splits them; may be empty. Raises
        ValueError as `fill_bitmask` does.
        """
        ...

    def is_terminated(self) -> bool:
        """True once the grammar has ended and no token may follow."""
        ...


@contextmanager
def raise_too_complex() -> Iterator[None]:
    """Turn the ValueError of a constraint at its limit into ConstraintTooComplex."""
    try:
        yield
    except ValueError as error:
        raise ConstraintTooComplex(*error.args) from error


ConstraintFactory = Callable[[str], TokenConstraint]
"""Builds a constraint in its initial state from a request's opaque text. May raise ValueError."""


class FillMasks(Protocol):
    """Fills all rows of a step in one call."""

    def __call__(
        self,
        constraints: Sequence[TokenConstraint],
        rows: Sequence[int],
        bitmask: NDArray[np.int32],
    ) -> list[bool | Exception]:
        """The result of `fill_bitmask`, or the exception it raised, for each constraint and row."""
        ...

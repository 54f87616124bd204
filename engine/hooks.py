"""What a constraint must offer the engine. The engine owns this protocol; `formgate.constrain`
satisfies it structurally and the gateway introduces the two. Nothing here knows what a grammar is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TooMuchAsked(ValueError):
    """A constraint cannot go on, because of what the request has asked for."""


class TokenConstraint(Protocol):
    """The state of one sequence inside its grammar.

    Bitmask contract: a row is int32 words `[ceil(padded_vocab / 32)]`; bit `i & 31` of word
    `i >> 5` stands for token `i`, 1 = allowed. Bits past the tokenizer's vocabulary are 0, because
    padded logits leak otherwise. EOS is allowed only where the grammar may end. An all-zero row is
    a bug: the engine ends that request with an error.
    """

    closed: bool
    """True once the constraint leaves nothing but the end, so that the answer fits its budget."""

    def fill_bitmask(self, row: NDArray[np.int32]) -> bool:
        """Write the tokens that may come next into every word of the row, which holds anything
        before. False: anything goes, and the row is not looked at. Raises ValueError where the
        constraint, as the request has it, is too much to go on with.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Advance by one sampled token, which the last mask allowed. Raises ValueError as
        `fill_bitmask` does.
        """
        ...

    def forced_tokens(self) -> list[int]:
        """The tokens that must come next, in the tokenizer's own tokenization; may be empty. Raises
        ValueError as `fill_bitmask` does.
        """
        ...

    def rollback(self, num_tokens: int) -> None:
        """Take back the last `num_tokens` accepted tokens."""
        ...

    def is_terminated(self) -> bool:
        """True once the grammar has ended and nothing more may be generated."""
        ...


@contextmanager
def too_much_asked() -> Iterator[None]:
    """Turn the ValueError of a constraint at its limit into TooMuchAsked."""
    try:
        yield
    except ValueError as error:
        raise TooMuchAsked(*error.args) from error


ConstraintFactory = Callable[[str], TokenConstraint]
"""Builds a fresh constraint from the opaque text that came with a request. May raise ValueError."""


class FillMasks(Protocol):
    """Fills the rows of one step together."""

    def __call__(
        self,
        constraints: Sequence[TokenConstraint],
        rows: Sequence[int],
        bitmask: NDArray[np.int32],
    ) -> list[bool | Exception]:
        """For each constraint and its row what `fill_bitmask` would return or raise."""
        ...

"""Finish rules: append each new token to its sequence and constraint, and decide whether it ends
the sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from formgate.engine.hooks import raise_too_complex
from formgate.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Finish:
    reason: Literal["stop", "length"]
    stop_token_id: int | None = None
    closed: bool = False  # the constraint ended the answer to fit the length limit


@dataclass(frozen=True, slots=True)
class FinishRules:
    eos_token_ids: frozenset[int]
    max_model_len: int

    def accept(self, sequence: Sequence, token_id: int) -> Finish | None:
        """Append a token. Returns None if the sequence goes on. Raises what the constraint raises.

        "stop" takes precedence over "length". The constraint does not see an EOS or stop token,
        which need not be in its grammar.
        """
        sequence.token_ids.append(token_id)
        params = sequence.params
        if token_id in params.stop_token_ids or (
            token_id in self.eos_token_ids and not params.ignore_eos
        ):
            return self._stopped(sequence, token_id)
        constraint = sequence.constraint
        if constraint is not None:
            with raise_too_complex():
                constraint.accept(token_id)
            if constraint.is_terminated():
                # EOS ends the grammar with `ignore_eos` too, and is no part of the answer.
                return self._stopped(sequence, token_id if token_id in self.eos_token_ids else None)
        return self.limit_reached(sequence)

    def _stopped(self, sequence: Sequence, token_id: int | None = None) -> Finish:
        if sequence.constraint is not None and sequence.constraint.closed:
            return Finish("length", token_id, closed=True)
        return Finish("stop", token_id)

    def limit_reached(self, sequence: Sequence) -> Finish | None:
        """A "length" finish if the sequence has reached `max_tokens` or the context length."""
        if (
            sequence.num_output_tokens >= sequence.params.max_tokens
            or sequence.num_tokens >= self.max_model_len
        ):
            return Finish("length")
        return None

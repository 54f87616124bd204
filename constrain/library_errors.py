"""Translates llguidance's errors, which name internals that no client has written."""

from __future__ import annotations

from formgate.constrain.errors import ConstraintError

_NOTHING = ("NoExtensionBias", "unsatisfiable", "Unsatisfiable")
_LIMITS = (
    "too large",
    "limit",
    "fuel",
    "too many",
    "Too many",
    "too complex",
    "too deep",
    "; max is",
)

TOO_MUCH = (
    "there are too many ways to go on at one position of the answer, or too long a forced text. "
    "Lower the counts in its patterns, lengths and items, or list fewer values"
)


def refused(message: str) -> ConstraintError:
    """The refusal of a grammar for which llguidance reports `message`."""
    if any(word in message for word in _NOTHING):
        return ConstraintError(
            "No text at all satisfies the constraint.", code="unsupported_schema"
        )
    if is_limit(message):
        return ConstraintError(
            f"The constraint is too complex: {TOO_MUCH}.", code="schema_too_complex"
        )
    first = message.partition("\n")[0].partition(" at ")[0].strip()
    return ConstraintError(f"The constraint is not valid: {first[:200]}", code="invalid_grammar")


def is_limit(message: str) -> bool:
    return any(word in message for word in _LIMITS)


def failed(message: str) -> ValueError:
    """The error of a sequence for which llguidance can no longer compute masks."""
    if any(word in message for word in _NOTHING):
        return ValueError("no text that satisfies it continues from here")
    return ValueError(TOO_MUCH)

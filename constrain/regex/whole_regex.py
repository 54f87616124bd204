"""A regex of a request, which is to match the whole answer, with or without anchors of its own."""

from __future__ import annotations

from formgate.constrain.errors import ConstraintError
from formgate.constrain.regex.regex_terms import Term, pattern_term
from formgate.constrain.regex.regex_tree import RegexError


def regex_term(pattern: str) -> Term:
    """The texts that the pattern matches as a whole, as a terminal. Raises ConstraintError."""
    try:
        return pattern_term(pattern, search=False, in_json=False)
    except RegexError as error:
        raise ConstraintError(f"The regex has {error}.", code="invalid_grammar") from None

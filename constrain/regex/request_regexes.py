"""The regexes of a request that are no part of a schema: that of a whole answer, and that of the
white space in a JSON text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from llguidance import LLMatcher

from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.constrain.regex.regex_terms import Term, pattern_term
from formgate.constrain.regex.regex_tree import RegexError

_ANY_SPACE = re.compile(r"(?<!\\)((?:\\\\)*)\\s")


def regex_term(pattern: str) -> Term:
    """A terminal for the texts that the pattern matches as a whole. Raises ConstraintError."""
    try:
        return pattern_term(pattern, search=False, in_json=False)
    except RegexError as error:
        raise ConstraintError(f"The regex has {error}.", code="invalid_grammar") from None


@lru_cache(maxsize=256)
def white_space(pattern: str) -> str:
    r"""The pattern, with `\s` as JSON's white space. Raises ConstraintError if it matches any other
    text, with which the answer would not be JSON.
    """
    pattern = _ANY_SPACE.sub(r"\1[ \\t\\r\\n]", pattern)
    slashed = re.sub(r"(?<!\\)((?:\\\\)*)/", r"\1\\/", pattern).replace("\n", "\\n")
    grammar = f"start: T\nT: /(?:{slashed})/ & ~/[ \\t\\r\\n]*/\n"
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(grammar), log_level=0)
    if matcher.is_error():
        raise ConstraintError("`whitespace_pattern` is not a regex.", code="invalid_grammar")
    if any(matcher.compute_bitmask()[:32]):  # some byte begins another text
        raise ConstraintError(
            "`whitespace_pattern` matches other text than white space.", code="unsupported_schema"
        )
    return slashed

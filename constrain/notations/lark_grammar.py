"""Checks a user's Lark grammar on its own, so that errors have the user's line numbers."""

from __future__ import annotations

import re

from llguidance import LLMatcher

from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import byte_tokenizer

_START = re.compile(r"(?m)^\s*[?!]?start\b[^\n:]*:")
_PLACE = re.compile(r"(?:at )?(\d+)\(\d+\): ([^\n]*)")
_SPECIAL = re.compile(r"<[\[|\w]")


def check_lark(source: str) -> None:
    """Raises ConstraintError if the grammar is invalid. Errors about special tokens are ignored,
    because they depend on the model's tokenizer.
    """
    if not source.strip():
        raise _invalid("it is empty")
    if _START.search(source) is None:
        raise _invalid("it has no rule 'start' (Lark) and no rule 'root ::=' (GBNF)")
    matcher = LLMatcher(byte_tokenizer(), LLMatcher.grammar_from_lark(source), log_level=0)
    if not matcher.is_error():
        return
    message = matcher.get_error()
    if "token" in message.partition("\n")[0] and _SPECIAL.search(source):
        return
    place = _PLACE.search(message)
    if place is None:
        raise _invalid(" ".join(message.split())[:200])
    raise _invalid(place[2][:200], int(place[1]))


def _invalid(why: str, line: int | None = None) -> ConstraintError:
    where = "" if line is None else f"line {line}: "
    return ConstraintError(f"The grammar is not valid: {where}{why}.", code="invalid_grammar")

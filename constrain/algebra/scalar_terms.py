"""Sets of numbers and strings as terminals of llguidance's Lark dialect, in JSON's spelling."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from functools import lru_cache, partial

from formgate.constrain.algebra.scalars import Numbers, Strings, is_empty_terminal
from formgate.constrain.errors import Unplaced
from formgate.constrain.grammar.cfg import Token
from formgate.constrain.grammar.terminal_samples import sample_texts
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.number_regex import integer_range, integer_regex, number_regex
from formgate.constrain.regex.regex_terms import (
    JSON_STRING,
    Term,
    both,
    either,
    length_term,
    literal_term,
    pattern_term,
    term,
    without,
)

_encode = json.JSONEncoder(ensure_ascii=False).encode  # `dumps` makes an encoder for each text

MAX_STEP = 100_000  # the lexer has a state for each remainder

# A number in its shortest spelling: no exponent, no trailing zeros, no "-0".
_CANONICAL = r"(?:0|-?[1-9][0-9]{0,99}|-?(?:0|[1-9][0-9]{0,99})\.[0-9]{0,40}[1-9])"
# Neither an integer nor a number that a 64-bit float rounds to one.
_FRACTIONAL = r"-?(?:0|[1-9][0-9]{0,7})\.[0-9]{0,5}[1-9]"
# A character of an unconstrained string, which may have any escape, surrogate pairs included.
_FREE_CHAR = (
    r'(?:[^"\\\x00-\x1F]|\\["\\\/bfnrt]|\\u(?:[0-9A-Fa-ce-f][0-9A-Fa-f]{3}|[dD][0-7][0-9A-Fa-f]{2}'
    r"|[dD][89abAB][0-9A-Fa-f]{2}\\u[dD][c-fC-F][0-9A-Fa-f]{2}))"
)


_LOOKS_ABOUT = re.compile(r"\(\?[=!<]|\\[bB]|.\^|\$.")


def string_token(
    strings: Strings, *, prefix: str = "", suffix: str = "", canonical: bool = False
) -> Token | None:
    """The terminal of a set of strings between `prefix` and `suffix`, which stand outside of the
    quotes; None if the set is found to be empty.
    """
    holds = partial(_holds, strings, prefix, suffix)
    if strings.values is not None:
        if len(strings.values) == 1:
            return Token(literal(prefix + quoted(strings.values[0]) + suffix))
        options = "|".join(_regex_of(value) for value in strings.values)
        return Token(f"/{_escaped(prefix)}(?:{options}){_escaped(suffix)}/", holds)
    if strings == Strings():
        string = JSON_STRING if canonical else f'"{_FREE_CHAR}*"'
        return Token(f"/{_escaped(prefix)}{string}{_escaped(suffix)}/", holds)
    kept = _kept(strings)
    taken = _taken(strings)
    several = len(kept) + len(taken) > 1 or any(map(may_contradict, strings.patterns))
    if several and _surely_empty(strings, kept, taken):
        return None
    # The affixes stand in each operand, not around the whole: what follows an intersection keeps
    # llguidance from using its precomputed slices of the vocabulary, and a mask takes 1 ms.
    whole = both([_between(prefix, part, suffix) for part in kept])
    if taken:
        whole = without(whole, either([_between(prefix, part, suffix) for part in taken]))
    return Token(whole.text, holds)


def _between(prefix: str, part: Term, suffix: str) -> Term:
    if not prefix and not suffix:
        return part
    if part.regex is not None:
        return term(f"{_escaped(prefix)}{part.regex}{_escaped(suffix)}")
    texts = (prefix and literal(prefix), part.text, suffix and literal(suffix))
    return Term("(" + " ".join(text for text in texts if text) + ")")


def _holds(strings: Strings, prefix: str, suffix: str, text: str) -> bool:
    """A quick membership test for printable ASCII texts in the shortest spelling, which all regex
    engines match alike. False may be wrong.
    """
    if not (text.startswith(prefix) and text.endswith(suffix) and text.isascii()):
        return False
    try:
        value = json.loads(text[len(prefix) : len(text) - len(suffix)])
    except ValueError:
        return False
    if not isinstance(value, str) or text != prefix + quoted(value) + suffix:
        return False
    return value.isprintable() and strings.holds(value)


def _kept(strings: Strings) -> list[Term]:
    kept = [
        pattern_term(pattern, search=True, in_json=True) for pattern in sorted(strings.patterns)
    ]
    kept += [
        pattern_term(FORMATS[name].narrow, search=False, in_json=True)
        for name in sorted(strings.formats)
    ]
    if strings.least or strings.most is not None:
        kept.append(length_term(strings.least, strings.most))
    return kept or [term(JSON_STRING)]


def _taken(strings: Strings) -> list[Term]:
    taken = [
        pattern_term(pattern, search=True, in_json=True) for pattern in sorted(strings.not_patterns)
    ]
    taken += [
        pattern_term(FORMATS[name].wide, search=False, in_json=True)
        for name in sorted(strings.not_formats)
    ]
    if strings.without:
        options = "|".join(_regex_of(value) for value in sorted(strings.without))
        taken.append(term(f"(?:{options})"))
    return taken


def may_contradict(pattern: str) -> bool:
    """True if a pattern alone may match nothing: it has a look-around or an inner anchor."""
    return _LOOKS_ABOUT.search(pattern) is not None


def _surely_empty(strings: Strings, kept: list[Term], taken: list[Term]) -> bool:
    if not any(part.text != f"/{JSON_STRING}/" for part in kept):
        return False  # all strings except some
    whole = both(kept)
    terminal = (without(whole, either(taken)) if taken else whole).text
    if any(_holds(strings, "", "", text) for text in sample_texts(terminal)):
        return False
    return is_empty_terminal(terminal)


def number_tokens(numbers: Numbers, *, canonical: bool) -> list[Token]:
    """The terminals of a set of numbers; none if the set is found to be empty. Raises
    ConstraintError.
    """
    if numbers.values is not None:
        return [
            Token(literal(text))
            for value in sorted(numbers.values)
            for text in _spellings(value, canonical)
        ]
    if numbers.multiple_of is not None:
        return _multiples(numbers)
    in_bounds = integer_regex if numbers.integer else number_regex
    regex = in_bounds(numbers.bounds)
    if regex is None:
        return []
    parts = [term(regex)]
    if numbers.integer is False:
        parts.append(term(_FRACTIONAL))
    elif canonical or numbers.without:
        parts.append(term(_CANONICAL))
    whole = both(parts)
    if numbers.without:
        spelled = [text for value in sorted(numbers.without) for text in _spellings(value, True)]
        whole = without(whole, either([term(_escaped(text)) for text in spelled]))
        if is_empty_terminal(whole.text):
            return []
    return [Token(whole.text)]


def _multiples(numbers: Numbers) -> list[Token]:
    assert numbers.multiple_of is not None
    if numbers.integer is False or numbers.without:
        raise Unplaced(
            "it cannot be enforced beside numbers that `not` or a similar keyword excludes. List "
            "the numbers in an `enum`, or exclude numbers by bounds only",
            code="unsupported_schema",
            keywords=("multipleOf",),
        )
    step = numbers.multiple_of
    whole = step == step.to_integral_value()
    schema: dict[str, object] = {"type": "integer" if numbers.integer or whole else "number"}
    if schema["type"] == "integer":
        low, high = integer_range(numbers.bounds)
        scale = 10 ** max(-int(step.as_tuple().exponent), 0)
        # An integer is a multiple of p/q in lowest terms if it is one of p.
        numerator = int(step * scale)
        schema["multipleOf"] = _countable(numerator // _gcd(numerator, scale))
        schema |= {"minimum": low} if low is not None else {}
        schema |= {"maximum": high} if high is not None else {}
    else:
        _countable(int(step.scaleb(-int(step.as_tuple().exponent))))
        schema["multipleOf"] = float(step)
        bounds = numbers.bounds
        if bounds.least is not None:
            schema["exclusiveMinimum" if bounds.above else "minimum"] = float(bounds.least)
        if bounds.most is not None:
            schema["exclusiveMaximum" if bounds.below else "maximum"] = float(bounds.most)
    return [Token("%json " + json.dumps(schema))]


def _countable(step: int) -> int:
    if step > MAX_STEP:
        raise Unplaced(
            f"a step of more than {MAX_STEP} (without its decimal point) cannot be enforced. Ask "
            "for the number of steps instead, as an `integer`",
            code="schema_too_complex",
            keywords=("multipleOf",),
        )
    return step


def _gcd(one: int, two: int) -> int:
    while two:
        one, two = two, one % two
    return one


def _spellings(value: Decimal, canonical: bool) -> list[str]:
    if value == value.to_integral_value() and abs(value) < Decimal(10) ** 40:
        whole = str(int(value))
        return [whole] if canonical else [whole, f"{whole}.0"]
    if abs(value.adjusted()) > 40:
        return [json.dumps(float(value))]
    return [format(value.normalize(), "f")]


def quoted(text: str) -> str:
    return _encode(text)


def literal(text: str) -> str:
    """The text as a Lark string literal."""
    return _encode(text).replace("\x7f", "\\u007f")


@lru_cache(maxsize=1 << 13)
def _regex_of(value: str) -> str:
    regex = literal_term(value).regex
    assert regex is not None
    return regex


def _escaped(text: str) -> str:
    return "".join(char if char.isalnum() or char in ' ,:"' else f"\\{char}" for char in text)

"""Runs ECMA-262 patterns in an engine that counts its steps: `jsonschema-rs`, whose regexes are
Rust's. No pattern of a client runs in a regex engine without a bound.
"""

from __future__ import annotations

import re
from functools import lru_cache

import jsonschema_rs

# Limits: steps of one regex on one string, and bytes of one compiled regex.
PATTERN_OPTIONS = jsonschema_rs.FancyRegexOptions(
    backtrack_limit=200_000, size_limit=1 << 20, dfa_size_limit=1 << 20
)


def found(pattern: str, text: str) -> bool | None:
    """True if an ECMA-262 pattern matches anywhere in a text; None if the engine cannot read the
    pattern, or gave up.
    """
    try:
        wrong = next(_validator(pattern).iter_errors(text), None)
    except ValueError:
        return None
    return None if wrong is not None and gave_up(wrong) else wrong is None


def gave_up(error: jsonschema_rs.ValidationError) -> bool:
    """True if a regex exceeded its steps. The validator reports this error for a regex at any depth
    of the schema.
    """
    return type(error.kind).__name__ == "BacktrackLimitExceeded"


@lru_cache(maxsize=1 << 8)
def _validator(pattern: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        {"pattern": rust_regex(pattern)}, pattern_options=PATTERN_OPTIONS
    )


_SPACE = r"\t-\r \u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}"
_NO_SPACE = (
    r"\x00-\x08\x0e-\x1f!-\u{9f}\u{a1}-\u{167f}\u{1681}-\u{1fff}\u{200b}-\u{2027}\u{202a}-\u{202e}"
    r"\u{2030}-\u{205e}\u{2060}-\u{2fff}\u{3001}-\u{fefe}\u{ff00}-\u{10ffff}"
)
_WORD = "A-Za-z0-9_"
_INSIDE = {  # of a class
    r"\d": "0-9",
    r"\D": r"\x00-\/:-\u{10ffff}",
    r"\w": _WORD,
    r"\W": r"\x00-\/:-@\[-\^`{-\u{10ffff}",
    r"\s": _SPACE,
    r"\S": _NO_SPACE,
    r"\b": r"\x08",
    r"\0": r"\x00",
}
_OUTSIDE = {name: f"[{characters}]" for name, characters in _INSIDE.items()} | {
    ".": r"[^\n\r\u{2028}\u{2029}]",
    r"\b": f"(?:(?<=[{_WORD}])(?![{_WORD}])|(?<![{_WORD}])(?=[{_WORD}]))",
    r"\B": f"(?:(?<=[{_WORD}])(?=[{_WORD}])|(?<![{_WORD}])(?![{_WORD}]))",
    "[]": "(?!)",
    "[^]": r"[\x00-\u{10ffff}]",
}
_TOKEN = re.compile(r"\\.|\[\^?\]|.", re.DOTALL)


def rust_regex(pattern: str) -> str:
    """Translate an ECMA-262 pattern for `jsonschema-rs`, which otherwise reads character classes,
    `.` and word boundaries as Unicode's.
    """
    parts: list[str] = []
    in_class = False
    for token in _TOKEN.findall(pattern):
        if in_class and token[0] == "[":  # not a class, but characters of one
            in_class = not token.endswith("]")
            parts.append(token)
            continue
        parts.append((_INSIDE if in_class else _OUTSIDE).get(token, token))
        if token in ("[", "]"):
            in_class = token == "["
    return "".join(parts)

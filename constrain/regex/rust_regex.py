"""Translates the Rust regexes of llguidance's grammars to ECMA-262. They differ in the dot, and in
classes that are Unicode in Rust and ASCII in ECMA-262.
"""

from __future__ import annotations

import re

from formgate.constrain.regex.regex_tree import RegexError

_IGNORES_CASE = re.compile(r"\(\?[a-z]*i")
_DOT_ALL = re.compile(r"\(\?[a-z]*s")
_WORD = (
    r"\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\u{200C}\u{200D}\u{24B6}-\u{24E9}\u{1F130}-\u{1F149}"
    r"\u{1F150}-\u{1F169}\u{1F170}-\u{1F189}"
)
_SPACE = r"\t-\r \u{85}\u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}"
_INSIDE = {"d": r"\p{Nd}", "D": r"\P{Nd}", "w": _WORD, "s": _SPACE}
_OUTSIDE = {**_INSIDE, "w": f"[{_WORD}]", "W": f"[^{_WORD}]", "s": f"[{_SPACE}]"}
_OUTSIDE["S"] = f"[^{_SPACE}]"


def as_ecma(pattern: str) -> str:
    """Translate a pattern. Raises RegexError for classes of classes, for negated classes with case
    ignored, and for `\\W` and `\\S` inside of a class.
    """
    ignores_case = _IGNORES_CASE.search(pattern) is not None
    dot = "." if _DOT_ALL.search(pattern) else r"[^\n]"
    written: list[str] = []
    in_class = False
    at = 0
    while at < len(pattern):
        char, following = pattern[at], pattern[at + 1 : at + 2]
        if char == "\\":
            written.append(_escape(following, in_class, ignores_case))
            at += 2
            continue
        at += 1
        if in_class:
            if char == "[" or (char in "&-~" and following == char):
                raise RegexError("a class made of other classes")
            in_class = char != "]"
        elif char == "[":
            in_class = True
            if following == "^":
                char += "^"
                at += 1
            if pattern[at : at + 1] == "]":  # a bracket that comes first is a member
                char += r"\]"
                at += 1
        elif char == ".":
            char = dot
        written.append(char)
    return "".join(written)


def _escape(char: str, in_class: bool, ignores_case: bool) -> str:
    if char not in "dDwWsS" or not char:
        return "\\" + char
    if ignores_case:
        if char.isupper():
            raise RegexError(f"\\{char} where case is ignored")
        return "\\" + char  # ASCII's, which are some of Unicode's
    written = (_INSIDE if in_class else _OUTSIDE).get(char)
    if written is None:
        raise RegexError(f"\\{char} in a class")
    return written

"""Writes regex trees as terminals of llguidance's Lark dialect, for plain text and for the content
of a JSON string.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from formgate.constrain.regex.regex_assertions import without_look
from formgate.constrain.regex.regex_classes import ascii_with
from formgate.constrain.regex.regex_syntax import parse
from formgate.constrain.regex.regex_tree import (
    ANY_CHAR,
    ANY_TEXT,
    EMPTY,
    EVERY,
    Alt,
    And,
    Chars,
    Not,
    Ranges,
    Regex,
    RegexError,
    Repeat,
    Seq,
    beyond,
    common,
    factors,
    holds_any,
    meet,
    merged,
)

# One character of a JSON string in its only allowed spelling: itself, or its shortest escape.
JSON_CHAR = r'(?:[^"\\\x00-\x1F]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))'
JSON_STRING = f'"{JSON_CHAR}*"'

_ESCAPED = {0x22: r"\\\x22", 0x5C: r"\\\\", 8: r"\\b", 9: r"\\t", 10: r"\\n", 12: r"\\f"}
_ESCAPED[13] = r"\\r"
_UNSAFE = (*range(0x20), 0x22, 0x5C)
_SAFE = beyond(merged((code, code) for code in _UNSAFE))
_CONTROLS = frozenset(range(0x20))
_LINE_SPACES = frozenset(range(9, 14))
_NO_CHAR = r"[^\x00-\u{10FFFF}]"
_LONGEST = 200_000  # characters of a terminal
_AROUND = 5  # characters that a group takes around its parts


@dataclass(frozen=True, slots=True)
class Term:
    """An expression for a Lark terminal. `regex` is set if it is a single regex."""

    text: str
    regex: str | None = None


def term(regex: str) -> Term:
    return Term(f"/{regex}/", regex)


def both(terms: list[Term]) -> Term:
    return terms[0] if len(terms) == 1 else Term("(" + " & ".join(t.text for t in terms) + ")")


def either(terms: list[Term]) -> Term:
    return terms[0] if len(terms) == 1 else Term("(" + " | ".join(t.text for t in terms) + ")")


def without(kept: Term, taken: Term) -> Term:
    return Term(f"({kept.text} & ~{taken.text})")


def quoted(text: str) -> str:
    """A JSON string in the spelling that masks allow."""
    return json.dumps(text, ensure_ascii=False)


def literal_term(text: str) -> Term:
    """A term for the JSON string `text`, quotes included."""
    return term('"' + "".join(map(_one_char_in_json, text)) + '"')


@lru_cache(maxsize=4096)
def pattern_term(pattern: str, *, search: bool, in_json: bool) -> Term:
    """A term for the texts that `pattern` matches anywhere (`search`) or as a whole. With
    `in_json`, for their JSON strings, quotes included. Raises RegexError.
    """
    return _TermWriter(in_json=in_json).whole(_asserting_nothing(pattern, search))


@lru_cache(maxsize=4096)
def native_regex(pattern: str, *, search: bool) -> str | None:
    """A regex for llguidance's JSON compiler, which adds the escapes itself. None if one regex does
    not suffice, or if llguidance would widen one of its classes. Raises RegexError.
    """
    tree = _asserting_nothing(pattern, search)
    if _is_extended(tree) or holds_any(tree, _is_mistaken):
        return None
    return _TermWriter(in_json=False).whole(tree).regex


def _is_mistaken(part: Regex) -> bool:
    if not isinstance(part, Chars) or (not part.properties and part.ranges[0][0] > 0x1F):
        return False
    return _is_mistaken_class(part)


@lru_cache(maxsize=1 << 12)
def _is_mistaken_class(part: Chars) -> bool:
    """True if llguidance may add the quote and the backslash to a class. It does so for a class, or
    a union of classes, with all control characters, or with all except the line feed.
    """
    if part == ANY_CHAR:
        return False
    held = {code for code in _UNSAFE if all(_has(one, code) for one in factors(part))}
    return not (held <= _LINE_SPACES or held >= {0x22, 0x5C} or held.isdisjoint(_CONTROLS))


@lru_cache(maxsize=1024)
def _asserting_nothing(pattern: str, search: bool) -> Regex:
    try:
        return without_look(parse(pattern), search=search)
    except RecursionError:
        raise RegexError("parts that are nested too deeply") from None


def inside_json(tree: Regex) -> str:
    """A regex for a tree's texts as content of a JSON string. The tree has no `And` or `Not`."""
    return _TermWriter(in_json=True)._regex(tree)


def escapes_of(chars: Chars) -> str:
    """A regex for the escapes of a class's characters in a JSON string; empty if none needs one."""
    unsafe = [code for code in _UNSAFE if all(_has(one, code) for one in factors(chars))]
    return _escapes(unsafe) if unsafe else ""


def plain_part(chars: Chars) -> str:
    """A regex for a class's characters that need no escape in a JSON string."""
    return _TermWriter(in_json=False)._chars(meet(chars, Chars(_SAFE)))


def plain_ranges(chars: Chars) -> Ranges:
    """A superset of these characters as ranges; exact for a class without properties."""
    found = _SAFE
    for one in factors(chars):
        found = found if one.properties else common(found, one.ranges)
    return found


def length_term(least: int, most: int | None) -> Term:
    return term(f'"{JSON_CHAR}{{{least},{"" if most is None else most}}}"')


class _TermWriter:
    def __init__(self, *, in_json: bool) -> None:
        self._in_json = in_json
        self._quote = '"' if in_json else ""
        self._length = 0

    def whole(self, tree: Regex) -> Term:
        """A term for a whole text, with quotes in JSON."""
        if not _is_extended(tree):
            return term(f"{self._quote}{self._regex(tree)}{self._quote}" or "(?:)")
        match tree:
            case And(parts):
                kept = [self.whole(part) for part in parts if not isinstance(part, Not)]
                taken = [self.whole(part.part) for part in parts if isinstance(part, Not)]
                return (
                    without(both(kept or [self._every()]), either(taken)) if taken else both(kept)
                )
            case Alt(options):
                return either([self.whole(option) for option in options])
            case Not(part):
                return without(self._every(), self.whole(part))
        quote = term(self._quote).text
        return Term(f"({quote} {self._term(tree)} {quote})" if self._quote else self._term(tree))

    def _every(self) -> Term:
        return term(JSON_STRING if self._in_json else r"(?s:.*)")

    def _term(self, tree: Regex) -> str:
        """The tree as a Lark expression: a regex if one suffices."""
        if not _is_extended(tree):
            return f"/{self._regex(tree) or '(?:)'}/"
        match tree:
            case Seq(parts):
                text = " ".join(map(self._term, _with_plain_runs(parts)))
            case Alt(options):
                text = " | ".join(map(self._term, options))
            case And(parts):
                kept = [self._term(part) for part in parts if not isinstance(part, Not)]
                taken = [f"~{self._term(part.part)}" for part in parts if isinstance(part, Not)]
                text = " & ".join([*(kept or [self._term(ANY_TEXT)]), *taken])
            case Not(part):
                text = f"{self._term(ANY_TEXT)} & ~{self._term(part)}"
            case Repeat(part, least, most):
                times = f"{{{least},{'' if most is None else most}}}"
                text = f"{self._term(part)}{_TIMES.get((least, most), times)}"
            case _:
                raise AssertionError(tree)
        self._count(_AROUND)
        return f"({text})"

    def _regex(self, tree: Regex) -> str:
        match tree:
            case Chars():
                text = self._chars(tree)
                self._count(len(text))
                return text
            case Seq(parts):
                text = "".join(map(self._regex, parts))
            case Alt(options):
                if not options:
                    return _NO_CHAR
                some = "|".join(self._regex(option) for option in options if option != EMPTY)
                text = f"(?:{some})" + ("?" if EMPTY in options else "")
            case Repeat(part, least, most):
                inner = self._regex(part)
                if not inner:
                    return ""
                times = f"{{{least},{'' if most is None else most}}}"
                times = _TIMES.get((least, most), times)
                return f"(?:{inner}){times}" if len(inner) > 1 else inner + times
            case _:
                raise AssertionError(tree)
        self._count(_AROUND)
        return text

    def _count(self, characters: int) -> None:
        """Each character counts once, however deeply it is nested."""
        self._length += characters
        if self._length > _LONGEST:
            raise RegexError(f"a written-out form of more than {_LONGEST} characters")

    def _chars(self, chars: Chars) -> str:
        if not chars.properties:
            return self._plain_class(chars.ranges)
        whole = "&&".join(map(_class_text, factors(chars)))
        if not self._in_json:
            return f"[{whole}]"
        unsafe = [code for code in _UNSAFE if all(_has(one, code) for one in factors(chars))]
        safe = rf'[{whole}&&[^"\\\x00-\x1F]]'
        return f"(?:{safe}|{_escapes(unsafe)})" if unsafe else safe

    def _plain_class(self, ranges: Ranges) -> str:
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            return self._one_char(ranges[0][0])
        return _class_in_json(ranges) if self._in_json else _class_alone(ranges)

    def _one_char(self, code: int) -> str:
        return _one_char_in_json(chr(code)) if self._in_json else _code_text(code)


_TIMES: dict[tuple[int, int | None], str] = {(0, None): "*", (1, None): "+", (0, 1): "?"}


@lru_cache(maxsize=1024)
def _one_char_in_json(char: str) -> str:
    code = ord(char)
    return _escape_of(code) if code in _UNSAFE else _code_text(code)


@lru_cache(maxsize=1 << 12)
def _class_in_json(ranges: Ranges) -> str:
    if ranges == EVERY:
        return JSON_CHAR
    safe = common(ranges, _SAFE)
    unsafe = [code for code in _UNSAFE if _is_in(ranges, code)]
    options = [f"[{_ranges_text(safe)}]"] if safe else []
    options += [_escapes(unsafe)] if unsafe else []
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


@lru_cache(maxsize=1 << 12)
def _class_alone(ranges: Ranges) -> str:
    return r"(?s:.)" if ranges == EVERY else f"[{_ranges_text(ranges)}]"


def _escape_of(code: int) -> str:
    return _ESCAPED.get(code, f"\\\\u00{code:02x}")


def _escapes(codes: list[int]) -> str:
    """One regex for the escapes of several characters."""
    if len(codes) == 1:
        return _escape_of(codes[0])
    options = []
    short = "".join(_ESCAPED[code][2:] for code in codes if code in _ESCAPED)
    if short:
        options.append(f"\\\\[{short}]")
    for high in (0, 1):
        low = "".join(
            f"{code & 15:x}" for code in codes if code >> 4 == high and code not in _ESCAPED
        )
        if low:
            options.append(f"\\\\u00{high}[{low}]")
    return options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"


def _is_extended(tree: Regex) -> bool:
    """True if a regex does not suffice."""
    return holds_any(tree, lambda part: isinstance(part, And | Not))


def _with_plain_runs(parts: tuple[Regex, ...]) -> list[Regex]:
    runs: list[list[Regex]] = []
    for part in parts:
        if runs and not _is_extended(part) and not _is_extended(runs[-1][-1]):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [run[0] if len(run) == 1 else Seq(tuple(run)) for run in runs]


def _code_text(code: int) -> str:
    char = chr(code)
    if (char.isascii() and char.isalnum()) or char in '"_':
        return char
    return f"\\x{code:02X}" if code < 0x80 else f"\\u{{{code:X}}}"


def _ranges_text(ranges: Ranges) -> str:
    text = "".join(
        _code_text(low) if low == high else f"{_code_text(low)}-{_code_text(high)}"
        for low, high in ranges
    )
    return text.replace(r"-\u{D7FF}\u{E000}-", "-")  # surrogates are not characters


def _class_text(chars: Chars) -> str:
    inside = _ranges_text(chars.ranges) + "".join(f"\\{one}" for one in chars.properties)
    return f"[{'^' if chars.negated else ''}{inside}]"


def _has(chars: Chars, code: int) -> bool:
    """True if a class holds the ASCII character `code`; its `within` is ignored."""
    held = _is_in(chars.ranges, code) or any(
        _is_in(ascii_with(one), code) for one in chars.properties
    )
    return held != chars.negated


def _is_in(ranges: Ranges, code: int) -> bool:
    return any(low <= code <= high for low, high in ranges)

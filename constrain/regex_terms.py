"""From regex trees to terminals of llguidance's Lark dialect, for plain text and for text inside a
JSON string. Where ECMA-262, Python and Unicode disagree about a class, a term is narrow (matches
what all of them match) or, to be taken away from something, wide (matches what any of them does),
so that no reader's validator refuses what a mask has let through.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache

from formgate.constrain.regex_anchors import no_edges, searching, trail, whole
from formgate.constrain.regex_syntax import (
    ANY_TEXT,
    NOTHING,
    Alt,
    Chars,
    ClassItem,
    Look,
    Regex,
    RegexError,
    Repeat,
    Seq,
    parse,
)

# One character of a JSON string in its only spelling: itself, or its shortest escape.
JSON_CHAR = r'(?:[^"\\\x00-\x1F]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f]))'
JSON_STRING = f'"{JSON_CHAR}*"'

_NARROW = {
    "d": "0-9",
    "w": "0-9A-Za-z_",
    "s": (
        r"\t\n\x0B\x0C\r\x20\u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}"
        r"\u{3000}"
    ),
    ".": r"\x00-\x09\x0B\x0C\x0E-\u{2027}\u{202A}-\u{10FFFF}",
}
_WIDE = {
    "d": r"\p{Nd}",
    "w": r"\w",
    "s": _NARROW["s"] + r"\x1C-\x1F\u{85}\u{FEFF}",
    ".": r"\x00-\x09\x0B-\u{10FFFF}",
}
_ESCAPED = {0x22: r"\\\x22", 0x5C: r"\\\\", 8: r"\\b", 9: r"\\t", 10: r"\\n", 12: r"\\f"}
_ESCAPED[13] = r"\\r"
_UNSAFE = (*range(0x20), 0x22, 0x5C)
_SPACES = frozenset((9, 10, 11, 12, 13, 0x20))


@dataclass(frozen=True, slots=True)
class Term:
    """An expression that may stand in a Lark terminal. `regex` is set if it is one regex."""

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
    """A string as the mask lets it be written."""
    return json.dumps(text, ensure_ascii=False)


def literal_term(text: str) -> Term:
    """The JSON string `text`, quotes included."""
    return term('"' + "".join(map(_one_char_in_json, text)) + '"')


@lru_cache(maxsize=4096)
def pattern_term(pattern: str, *, search: bool, in_json: bool, wide: bool) -> Term:
    """The texts in which `pattern` is found (search) or which it matches as a whole. In JSON, with
    their quotes. Raises RegexError.
    """
    quote = '"' if in_json else ""
    tree = _searching_or_whole(pattern, search)
    return _Writer(in_json=in_json, wide=wide).written(tree, quote, quote)


@lru_cache(maxsize=1024)
def _searching_or_whole(pattern: str, search: bool) -> Regex:
    tree = parse(pattern)
    return searching(tree) if search else whole(tree)


def length_term(least: int, most: int | None) -> Term:
    return term(f'"{JSON_CHAR}{{{least},{"" if most is None else most}}}"')


class _Writer:
    def __init__(self, *, in_json: bool, wide: bool) -> None:
        self._in_json = in_json
        self._wide = wide

    def written(self, tree: Regex, before: str, after: str) -> Term:
        if not _has_look(tree):
            return term(f"{before}{self._regex(tree)}{after}")
        return Term(self._ahead([tree], term(after).text if after else "", before))

    def _ahead(self, parts: list[Regex], end: str, before: str = "") -> str:
        """The text of a terminal for `parts` in a row and then `end`, lookaheads being met by all
        that follows them.
        """
        plain = before
        for at, part in enumerate(parts):
            if not _has_look(part):
                plain += self._regex(part)
                continue
            rest = parts[at + 1 :]
            match part:
                case Look(inner, negated):
                    seen, ends = trail(inner)[::-1]
                    writer = _Writer(in_json=self._in_json, wide=self._wide != negated)
                    options = [
                        writer._ahead([no_edges(option), *more], end)
                        for option, more in ((seen, [ANY_TEXT]), (ends, []))
                        if option != NOTHING
                    ]
                    met = f"({' | '.join(options)})" if options else "/[^\\x00-\\u{10FFFF}]/"
                    tail = f"({'~' if negated else ''}{met} & {self._ahead(rest, end)})"
                case Seq(inner_parts):
                    tail = self._ahead([*inner_parts, *rest], end)
                case Alt(options_):
                    tail = "(" + " | ".join(self._ahead([o, *rest], end) for o in options_) + ")"
                case Repeat(inner, 0, 1):
                    with_it = self._ahead([inner, *rest], end)
                    tail = f"({with_it} | {self._ahead(rest, end)})"
                case Repeat(inner, least, most) if least == most and least <= 8:
                    tail = self._ahead([inner] * least + rest, end)
                case _:
                    raise RegexError("a lookahead inside a repetition, which cannot be enforced")
            return f"/{plain}/ {tail}" if plain else tail
        if plain and end:
            return f"(/{plain}/ {end})"
        return f"/{plain}/" if plain else end or "/(?:)/"

    def _regex(self, tree: Regex) -> str:
        match tree:
            case Chars(items, negated):
                return self._chars(items, negated)
            case Seq(parts):
                return "".join(
                    f"(?:{self._regex(part)})" if isinstance(part, Alt) else self._regex(part)
                    for part in parts
                )
            case Alt(options):
                if not options:
                    return "[^\\x00-\\u{10FFFF}]"
                return "(?:" + "|".join(self._regex(option) for option in options) + ")"
            case Repeat(part, least, most):
                times = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get(
                    (least, most), f"{{{least},{'' if most is None else most}}}"
                )
                inner = self._regex(part)
                if not inner:
                    return ""
                return f"(?:{inner}){times}" if len(inner) > 1 else inner + times
        raise AssertionError(tree)

    def _chars(self, items: tuple[ClassItem, ...], negated: bool) -> str:
        if not negated and len(items) == 1 and isinstance(items[0], tuple):
            low, high = items[0]
            if low == high:
                return self._one_char(low)
            if (low, high) == (0, 0x10FFFF):
                return JSON_CHAR if self._in_json else r"(?s:.)"
        wide = self._wide != negated
        body = "".join(_class_text(item, wide) for item in items)
        whole = f"[{'^' if negated else ''}{body}]" if body else r"[\x00-\u{10FFFF}]"
        if not self._in_json:
            return whole
        escapes = [
            _ESCAPED.get(code, f"\\\\u00{code:02x}")
            for code in _UNSAFE
            if _holds(items, code, wide) != negated
        ]
        safe = f'[{whole}&&[^"\\\\\\x00-\\x1F]]'
        if not negated and all(
            isinstance(i, tuple)
            and i[0] > 0x1F
            and not i[0] <= 0x22 <= i[1]
            and not i[0] <= 0x5C <= i[1]
            for i in items
        ):
            return whole
        if (
            not negated
            and not any(
                (isinstance(item, str) and item not in ("d", "s"))
                or (isinstance(item, tuple) and (item[1] > 0x22 or item[0] in (0x20, 0x21)))
                for item in items
            )
            and not any(i in ("d", "s") for i in items)
        ):
            return "(?:" + "|".join(escapes) + ")"  # nothing but characters that are escaped
        return "(?:" + "|".join([safe, *escapes]) + ")" if escapes else safe

    def _one_char(self, code: int) -> str:
        return _one_char_in_json(chr(code)) if self._in_json else _code_text(code)


@lru_cache(maxsize=1024)
def _one_char_in_json(char: str) -> str:
    code = ord(char)
    if code in _UNSAFE:
        return _ESCAPED.get(code, f"\\\\u00{code:02x}")
    return _code_text(code)


def _has_look(tree: Regex) -> bool:
    match tree:
        case Look():
            return True
        case Seq(parts):
            return any(map(_has_look, parts))
        case Alt(options):
            return any(map(_has_look, options))
        case Repeat(part, _, _):
            return _has_look(part)
    return False


def _code_text(code: int) -> str:
    char = chr(code)
    if (char.isascii() and char.isalnum()) or char in '"_':
        return char
    return f"\\x{code:02X}" if code < 0x80 else f"\\u{{{code:X}}}"


def _class_text(item: ClassItem, wide: bool) -> str:
    if isinstance(item, tuple):
        low, high = item
        return _code_text(low) if low == high else f"{_code_text(low)}-{_code_text(high)}"
    table, opposite = (_WIDE, _NARROW) if wide else (_NARROW, _WIDE)
    if item in table:
        return table[item]
    if item.lower() in opposite:
        return f"[^{opposite[item.lower()]}]"
    return "\\" + item


def _holds(items: tuple[ClassItem, ...], code: int, wide: bool) -> bool:
    """Whether a class holds the ASCII character `code`."""
    for item in items:
        if isinstance(item, tuple):
            if item[0] <= code <= item[1]:
                return True
        elif item[0] in "pP":
            # Of the ASCII characters in question, controls and punctuation have these only.
            names = {"C", "Cc", "Any", "ASCII"} if code < 0x20 else {"P", "Po", "Any", "ASCII"}
            if (item[2:-1] in names) == (item[0] == "p"):
                return True
        else:
            space = code in _SPACES or (wide != item.isupper() and 0x1C <= code <= 0x1F)
            held = {"d": False, "w": False, "s": space, ".": code not in (10, 13)}[item.lower()]
            if item == "." and wide and code == 13:
                held = True
            if held != item.isupper():
                return True
    return False

"""Parses the regular expressions of schemas and requests: ECMA-262 under the `u` flag. Syntax that
is an error only under that flag (`{` and `]` as text, `\\-` outside of a class) keeps its meaning
without it. Of Python's and PCRE's additions, those with one meaning everywhere are accepted:
`(?P<name>..)`, `(?i)`, `(?s)`, `\\A`, `\\Z` and `\\z`.
"""

from __future__ import annotations

import re
from typing import TypeGuard

from formgate.constrain.regex.regex_classes import (
    ESCAPES,
    NO_LINE_END,
    property_of,
    with_other_cases,
)
from formgate.constrain.regex.regex_tree import (
    ANY_CHAR,
    EMPTY,
    NOTHING,
    WORD,
    Alt,
    Boundary,
    Chars,
    Edge,
    Look,
    Ranges,
    Regex,
    RegexError,
    Repeat,
    Seq,
    beyond,
    merged,
    one_char,
)

# One member of a character class: ranges, or a property as in `Chars`.
ClassItem = Ranges | str

MAX_REPEAT = 100_000
_NESTING = 200
_CONTROL = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_COUNTED = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
_UPPERLESS = re.compile(r"\{,[0-9]+\}")
_FLAGS = re.compile(r"([siu]*)(?:-([siu]+))?([:)])")
_TWO = re.compile("([0-9A-Fa-f]{2})")
_FOUR = re.compile("([0-9A-Fa-f]{4})")
_BRACED = re.compile(r"\{0*([0-9A-Fa-f]{1,6})\}")
_LOW = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")
_CANNOT = "which cannot be enforced"


def parse(pattern: str) -> Regex:
    """Parse a pattern. Raises RegexError with the fault and its position."""
    return _Parser(pattern).all()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._dot_all = False
        self._ignore_case = False
        self._names: set[str] = set()
        self._has_empty_class = False

    def all(self) -> Regex:
        tree = self._alternatives()
        if self._at < len(self._text):
            raise self._error("an unbalanced ')'")
        return tree

    def _error(self, what: str) -> RegexError:
        return RegexError(f"{what} (at character {self._at})")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _eat(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _match(self, regex: re.Pattern[str]) -> re.Match[str] | None:
        found = regex.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def _alternatives(self) -> Regex:
        self._depth += 1
        if self._depth > _NESTING:
            raise self._error("groups that are nested too deeply")
        options = [self._sequence()]
        while self._eat("|"):
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Regex:
        parts: list[Regex] = []
        while (char := self._peek()) and char not in "|)":
            parts.append(self._quantified())
        return parts[0] if len(parts) == 1 else Seq(tuple(parts))

    def _quantified(self) -> Regex:
        start = self._at
        part = self._atom()
        grouped = self._text[start] == "("
        bounds = self._quantifier()
        if bounds is None:
            return part
        if isinstance(part, Edge | Boundary) and not grouped:
            raise self._error("nothing to repeat: an anchor takes no text")
        if self._quantifier() is not None:
            raise self._error("nothing to repeat: a quantifier follows another")
        least, most = bounds
        if isinstance(part, Edge | Boundary | Look):
            return part if least else EMPTY
        return Repeat(part, least, most)

    def _quantifier(self) -> tuple[int, int | None] | None:
        bounds: tuple[int, int | None]
        if self._eat("*"):
            bounds = (0, None)
        elif self._eat("+"):
            bounds = (1, None)
        elif self._eat("?"):
            bounds = (0, 1)
        elif self._peek() == "{":
            if _UPPERLESS.match(self._text, self._at):
                raise self._error(
                    "'{,n}', which is text in ECMA-262 and a repetition in Python; use {0,n}"
                )
            counted = self._match(_COUNTED)
            if counted is None:
                return None  # a literal brace
            low, comma, high = counted.groups()
            if max(len(low), len(high)) > len(str(MAX_REPEAT)) + 9:
                raise self._error(f"a repetition of more than {MAX_REPEAT}")
            bounds = (int(low), int(high) if high else None if comma else int(low))
            if bounds[1] is not None and bounds[0] > bounds[1]:
                raise self._error("a repetition whose bounds are out of order")
            if max(bounds[0], bounds[1] or 0) > MAX_REPEAT:
                raise self._error(f"a repetition of more than {MAX_REPEAT}")
        else:
            return None
        if self._eat("+"):
            raise self._error(f"possessive quantifiers, {_CANNOT}")
        self._eat("?")  # lazy and greedy quantifiers match the same texts
        return bounds

    def _atom(self) -> Regex:
        char = self._text[self._at]
        self._at += 1
        match char:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return ANY_CHAR if self._dot_all else Chars(NO_LINE_END)
            case "^":
                return Edge(start=True)
            case "$":
                return Edge(start=False)
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                self._at -= 1
                raise self._error("nothing to repeat")
            case "{":
                self._at -= 1
                if self._quantifier() is not None:
                    raise self._error("nothing to repeat")
                self._at += 1
            case "]" if self._has_empty_class:
                raise self._error(
                    "']' after '[]', which is no character in ECMA-262 and part of a class in "
                    "Python; write '\\]'"
                )
        return self._char(ord(char))

    def _char(self, code: int) -> Regex:
        if self._ignore_case:
            return Chars(with_other_cases(((code, code),)))
        return one_char(code)

    def _group(self) -> Regex:
        dot_all, ignore_case = self._dot_all, self._ignore_case
        look: bool | None = None
        if self._eat("?"):
            if self._eat("="):
                look = False
            elif self._eat("!"):
                look = True
            elif self._eat("<=") or self._eat("<!"):
                raise self._error(f"a look-behind, {_CANNOT}")
            elif self._eat(">"):
                raise self._error(f"atomic groups, {_CANNOT}")
            elif self._eat("P<") or self._eat("<"):
                self._name()
            elif self._eat("P="):
                raise self._error(f"back references, {_CANNOT}")
            elif self._flags():  # flags without a group hold to the end of the enclosing group
                return EMPTY
        part = self._alternatives()
        if not self._eat(")"):
            raise self._error("a missing ')'")
        self._dot_all, self._ignore_case = dot_all, ignore_case
        return part if look is None else Look(part, look)

    def _name(self) -> None:
        end = self._text.find(">", self._at)
        name = self._text[self._at : max(end, 0)]
        if end < 0 or not name.replace("$", "_").isidentifier():
            raise self._error("an unfinished group name")
        if name in self._names:
            raise self._error(f"two groups of the name {name!r}")
        self._names.add(name)
        self._at = end + 1

    def _flags(self) -> bool:
        """Read flags. True if they stand without a group."""
        flags = self._match(_FLAGS)
        if flags is None:
            raise self._error(f"the group flag {self._peek()!r}, {_CANNOT}")
        for letters, on in ((flags[1], True), (flags[2] or "", False)):
            if len(set(letters)) < len(letters):
                raise self._error("a group flag that comes twice")
            self._dot_all = on if "s" in letters else self._dot_all
            self._ignore_case = on if "i" in letters else self._ignore_case
        return flags[3] == ")"

    def _escape(self) -> Regex:
        char = self._peek()
        if char in ("A", "Z", "z"):
            self._at += 1
            return Edge(start=char == "A")
        if char in ("b", "B"):
            if self._ignore_case:
                raise self._error(f"a word boundary where case is ignored, {_CANNOT}")
            self._at += 1
            return Boundary(negated=char == "B")
        if char == "k":
            raise self._error(f"back references, {_CANNOT}")
        item = self._escaped_item()
        if isinstance(item, str):
            return Chars((), (item,))
        return self._char(item[0][0]) if _one_code(item) else Chars(item)

    def _escaped_item(self) -> ClassItem:
        char = self._peek()
        self._at += 1
        if char == "":
            raise self._error("an unfinished escape")
        if char in "wW" and self._ignore_case:
            word = with_other_cases(WORD)
            return word if char == "w" else beyond(word)
        if char in ESCAPES:
            return ESCAPES[char]
        if char in "pP":
            return self._property(char)
        if char == "x":
            code = self._code_point(_TWO)
        elif char == "u":
            code = self._unicode()
        elif char == "c" and self._peek().isascii() and self._peek().isalpha():
            code = ord(self._peek()) % 32
            self._at += 1
        elif char.isdecimal() and (char != "0" or self._peek().isdecimal()):
            raise self._error(f"back references or octal escapes, {_CANNOT}")
        elif char.isascii() and char.isalpha() and char not in _CONTROL:
            self._at -= 1
            raise self._error(f"the unknown escape '\\{char}'")
        else:
            code = _CONTROL.get(char, ord(char))
        return ((code, code),)

    def _property(self, sign: str) -> str:
        end = self._text.find("}", self._at)
        if self._peek() != "{" or end < 0:
            raise self._error("an unfinished \\p{...}")
        name = self._text[self._at + 1 : end]
        if self._ignore_case:
            raise self._error(f"a Unicode property where case is ignored, {_CANNOT}")
        found = property_of(name)
        if found is None:
            raise self._error(f"the unknown Unicode property {name[:40]!r}")
        self._at = end + 1
        return f"{sign}{{{found}}}"

    def _code_point(self, digits: re.Pattern[str]) -> int:
        found = self._match(digits)
        code = -1 if found is None else int(found[1], 16)
        if not 0 <= code <= 0x10FFFF:
            raise self._error("an unfinished code point")
        return code

    def _unicode(self) -> int:
        """Read `\\u{..}` or `\\uXXXX`; a high and a low surrogate form one character."""
        if self._peek() == "{":
            return self._code_point(_BRACED)
        code = self._code_point(_FOUR)
        if 0xD800 <= code < 0xDC00 and (low := _LOW.match(self._text, self._at)):
            self._at = low.end()
            code = 0x10000 + ((code - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        return code

    def _class(self) -> Regex:
        negated = self._eat("^")
        ranges: list[tuple[int, int]] = []
        properties: list[str] = []
        if self._peek() == "]" and not negated:
            self._has_empty_class = True
        while not self._eat("]"):
            item = self._class_item()
            if self._is_range():
                self._at += 1
                high = self._class_item()
                if _one_code(item) and _one_code(high):
                    if high[0][0] < item[0][0]:
                        raise self._error("a range out of order")
                    item = ((item[0][0], high[0][0]),)
                else:
                    ranges.append((0x2D, 0x2D))
                    _add(high, ranges, properties)
            _add(item, ranges, properties)
        whole = with_other_cases(merged(ranges)) if self._ignore_case else merged(ranges)
        if properties:
            return Chars(whole, tuple(dict.fromkeys(properties)), negated)
        whole = beyond(whole) if negated else whole
        return Chars(whole) if whole else NOTHING

    def _is_range(self) -> bool:
        return self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "")

    def _class_item(self) -> ClassItem:
        if self._peek() == "":
            raise self._error("a missing ']'")
        if self._text.startswith("[:", self._at) and ":]" in self._text[self._at + 2 :]:
            raise self._error("a POSIX class, which is not part of ECMA-262")
        if self._eat("\\"):
            return ((8, 8),) if self._eat("b") else self._escaped_item()
        code = ord(self._text[self._at])
        self._at += 1
        return ((code, code),)


def _one_code(item: ClassItem) -> TypeGuard[Ranges]:
    return not isinstance(item, str) and len(item) == 1 and item[0][0] == item[0][1]


def _add(item: ClassItem, ranges: list[tuple[int, int]], properties: list[str]) -> None:
    if isinstance(item, str):
        properties.append(item)
    else:
        ranges += item

"""Regular expressions as JSON Schema and users write them (ECMA-262, with the additions of Python
and PCRE that mean the same everywhere), as a syntax tree. It knows no engine: what a tree means
for a mask is said in `regex_terms`.
"""

from __future__ import annotations

from dataclasses import dataclass

# One member of a character class: a range of code points, or a class escape such as "d" or
# "P{Lu}"; "." is every character but a line end.
ClassItem = tuple[int, int] | str

MAX_REPEAT = 100_000
_NESTING = 200
_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0", "a": "\a"}
_DOT_ALL: tuple[ClassItem, ...] = ((0, 0x10FFFF),)


class RegexError(ValueError):
    """Not a regular expression, or one that no automaton can decide."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of a class."""

    items: tuple[ClassItem, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Regex, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    options: tuple[Regex, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    part: Regex
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Edge:
    """`^` or `$`."""

    start: bool


@dataclass(frozen=True, slots=True)
class Look:
    """A lookahead."""

    part: Regex
    negated: bool


Regex = Chars | Seq | Alt | Repeat | Edge | Look
EMPTY = Seq(())
NOTHING = Alt(())
ANY_TEXT = Repeat(Chars(_DOT_ALL), 0, None)


def parse(pattern: str) -> Regex:
    """Raises RegexError, whose message says what and where."""
    return _Parser(pattern).all()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._dot_all = False
        self._ignore_case = False

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
        part = self._atom()
        while True:
            bounds = self._quantifier()
            if bounds is None:
                return part
            least, most = bounds
            if isinstance(part, Edge | Look):
                part = part if least else EMPTY
            else:
                part = Repeat(part, least, most)

    def _quantifier(self) -> tuple[int, int | None] | None:
        bounds: tuple[int, int | None]
        if self._eat("*"):
            bounds = (0, None)
        elif self._eat("+"):
            bounds = (1, None)
        elif self._eat("?"):
            bounds = (0, 1)
        elif self._peek() == "{":
            end = self._text.find("}", self._at)
            low, comma, high = self._text[self._at + 1 : max(end, 0)].partition(",")
            if comma and not low and high.isdecimal():
                raise self._error(
                    "'{,n}' is text in ECMA-262 and a repetition in Python; use {0,n}"
                )
            if end < 0 or not low.isdecimal() or (high and not high.isdecimal()):
                return None  # a literal brace
            self._at = end + 1
            bounds = (int(low), int(high) if high else None if comma else int(low))
            if bounds[1] is not None and bounds[0] > bounds[1]:
                raise self._error("a repetition whose bounds are out of order")
            if max(bounds[0], bounds[1] or 0) > MAX_REPEAT:
                raise self._error(f"a repetition of more than {MAX_REPEAT}")
        else:
            return None
        if self._eat("+"):
            raise self._error("possessive quantifiers, which cannot be enforced")
        self._eat("?")  # lazy or greedy, the language is the same
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
                return Chars(_DOT_ALL) if self._dot_all else Chars((".",))
            case "^":
                return Edge(start=True)
            case "$":
                return Edge(start=False)
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                self._at -= 1
                raise self._error("nothing to repeat")
        return self._char(char)

    def _char(self, char: str) -> Chars:
        both = {char.lower(), char.upper()} if self._ignore_case and char.isascii() else {char}
        return Chars(tuple((ord(one), ord(one)) for one in sorted(both)))

    def _group(self) -> Regex:
        dot_all, ignore_case = self._dot_all, self._ignore_case
        look: bool | None = None
        if self._eat("?"):
            if self._eat("="):
                look = False
            elif self._eat("!"):
                look = True
            elif self._eat("<=") or self._eat("<!"):
                raise self._error("lookbehind, which cannot be enforced")
            elif self._eat(">"):
                raise self._error("atomic groups, which cannot be enforced")
            elif self._eat("P<") or self._eat("<"):
                end = self._text.find(">", self._at)
                if end < 0:
                    raise self._error("an unfinished group name")
                self._at = end + 1
            elif self._eat("P="):
                raise self._error("backreferences, which cannot be enforced")
            elif self._flags():  # flags without a group hold to the end of the group around them
                return EMPTY
        part = self._alternatives()
        if not self._eat(")"):
            raise self._error("a missing ')'")
        self._dot_all, self._ignore_case = dot_all, ignore_case
        return part if look is None else Look(part, look)

    def _flags(self) -> bool:
        on = True
        while True:
            char = self._peek()
            self._at += 1
            match char:
                case ":":
                    return False
                case ")":
                    return True
                case "-":
                    on = False
                case "s":
                    self._dot_all = on
                case "i":
                    self._ignore_case = on
                case "u":
                    pass
                case _:
                    self._at -= 1
                    raise self._error(f"the group flag {char!r}, which cannot be enforced")

    def _escape(self) -> Regex:
        char = self._peek()
        if char in ("A", "Z", "z"):
            self._at += 1
            return Edge(start=char == "A")
        if char in ("b", "B"):
            raise self._error("word boundaries, which cannot be enforced")
        if char.isdecimal() and char != "0":
            raise self._error("backreferences, which cannot be enforced")
        if self._eat("k<"):
            raise self._error("backreferences, which cannot be enforced")
        item = self._escaped_item()
        if isinstance(item, str):
            return Chars((item,))
        return self._char(chr(item[0]))

    def _escaped_item(self) -> ClassItem:
        char = self._peek()
        self._at += 1
        if char == "":
            raise self._error("an unfinished escape")
        if char in "dDwWsS":
            return char
        if char in "pP":
            end = self._text.find("}", self._at)
            if self._peek() != "{" or end < 0:
                raise self._error("an unfinished \\p{...}")
            name = self._text[self._at + 1 : end]
            self._at = end + 1
            # ECMA's long form of the two properties that matter; Rust has the value alone.
            return f"{char}{{{name.split('=')[-1]}}}"
        if char == "x":
            return self._code_point(2)
        if char == "u":
            if self._eat("{"):
                end = self._text.find("}", self._at)
                return self._code_point(max(end, 0) - self._at, skip=1)
            return self._surrogates()
        if char == "c" and self._peek().isalpha():
            code = ord(self._peek()) % 32
            self._at += 1
            return (code, code)
        if char.isascii() and char.isalpha() and char not in _CONTROL:
            self._at -= 1
            raise self._error(f"the unknown escape '\\{char}'")
        code = ord(_CONTROL.get(char, char))
        return (code, code)

    def _code_point(self, digits: int, skip: int = 0) -> tuple[int, int]:
        text = self._text[self._at : self._at + max(digits, 0)]
        try:
            code = int(text, 16)
        except ValueError:
            code = -1
        if len(text) != digits or not 0 <= code <= 0x10FFFF:
            raise self._error("an unfinished code point")
        self._at += digits + skip
        return (code, code)

    def _surrogates(self) -> tuple[int, int]:
        """A `\\uXXXX`; a high and a low surrogate are one character."""
        high, _ = self._code_point(4)
        if 0xD800 <= high < 0xDC00 and self._eat("\\u"):
            low, _ = self._code_point(4)
            if 0xDC00 <= low < 0xE000:
                code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                return (code, code)
        if 0xD800 <= high < 0xE000:
            raise self._error("half a surrogate pair, which no valid text holds")
        return (high, high)

    def _class(self) -> Regex:
        negated = self._eat("^")
        items: list[ClassItem] = []
        first = True
        while True:
            char = self._peek()
            if char == "":
                raise self._error("a missing ']'")
            if char == "]" and (not first or self._closes_empty_class()):
                self._at += 1
                break
            first = False
            low = self._class_item()
            if isinstance(low, tuple) and self._is_range():
                self._at += 1
                high = self._class_item()
                if isinstance(high, str):
                    items += [low, (0x2D, 0x2D), high]
                    continue
                if high[0] < low[0]:
                    raise self._error("a range out of order")
                items.append((low[0], high[0]))
            else:
                items.append(low)
        if self._ignore_case:
            items += _other_case(items)
        return Chars(tuple(items), negated) if items or negated else NOTHING

    def _closes_empty_class(self) -> bool:
        """ECMA's `[]` is an empty class; Python's `[]a]` holds a bracket. Empty only if so."""
        return "]" not in self._text[self._at + 1 :]

    def _is_range(self) -> bool:
        return self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", "")

    def _class_item(self) -> ClassItem:
        if self._eat("[:"):
            raise self._error("a POSIX class, which is not part of ECMA-262")
        if self._eat("\\"):
            if self._eat("b"):
                return (8, 8)
            return self._escaped_item()
        code = ord(self._text[self._at])
        self._at += 1
        return (code, code)


def _other_case(items: list[ClassItem]) -> list[ClassItem]:
    other: list[ClassItem] = []
    for item in items:
        if isinstance(item, tuple):
            for first, last, shift in ((65, 90, 32), (97, 122, -32)):
                low, high = max(item[0], first), min(item[1], last)
                if low <= high:
                    other.append((low + shift, high + shift))
    return other

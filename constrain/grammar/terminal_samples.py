"""Sample texts of a terminal of llguidance's Lark dialect, read off its regexes, and the longest
suffix that may be needed from a position inside of it. It understands all terminals that formgate
writes, and most of users'. Samples may be wrong or missing, so the caller checks them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

_MOST = 8  # samples per part
_LONGEST = 20_000  # characters of a text
_ORDER = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" + "".join(
    map(chr, (*range(0x20, 0x30), *range(0x3A, 0x41), *range(0x5B, 0x61), *range(0x7B, 0x7F)))
)
_RARE = "".join(map(chr, range(0x20))) + "\x7f\x85éßЖ中\u2028\ud7ff\ufeff😀"
_NAMED = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}

# A part of a terminal: a regex, a literal, or another character.
_PART = re.compile(r"""/(?:[^/\\]|\\.)*+/|"(?:[^"\\]|\\.)*+"|[^/"]""", re.DOTALL)

# Characters of a regex that match themselves and have no quantifier.
_PLAIN = re.compile(r"[^\\\[\](){}|.^$*+?]+(?![*+?{])")

Test = Callable[[str], bool]


class _NotUnderstood(Exception):
    pass


def sample_texts(terminal: str) -> list[str]:
    """Samples, the shortest first; empty if the terminal is not understood."""
    found = _read(terminal)
    return [] if found is None else sorted(dict.fromkeys(found.texts), key=len)


def longest_suffix(terminal: str) -> int:
    """Bytes of the longest suffix that may be needed from a position inside the terminal, if each
    alternative is completed in its shortest way. 0 if the terminal is not understood.
    """
    found = _read(terminal)
    return 0 if found is None else found.rest


@dataclass(frozen=True, slots=True)
class _Found:
    texts: list[str]
    rest: int  # bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a regex: its shortest text, some texts of other alternatives, and the bytes of the
    longest suffix that may be needed inside of it.
    """

    text: str
    rest: int
    others: tuple[str, ...] = ()

    def then(self, after: _Piece) -> _Piece:
        rest = max(self.rest + len(after.text.encode()), after.rest)
        others = (
            *(text + after.text for text in self.others),
            *(self.text + t for t in after.others),
        )
        return _Piece(self.text + after.text, rest, others[:_MOST])

    def times(self, times: int) -> _Piece:
        again = self.text * max(0, times - 1)
        others = tuple(text + again for text in self.others) if times else ()
        return _Piece(self.text * times, self.rest + len(again.encode()), others)


_NOTHING = _Piece("", 0)


@lru_cache(maxsize=1 << 12)  # schemas repeat formats and patterns
def _read(terminal: str) -> _Found | None:
    try:
        return _Terms(terminal).parsed()
    except (_NotUnderstood, IndexError, ValueError):
        return None


class _Terms:
    """Reads literals, regexes, and `&`, `|`, `~` over them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def parsed(self) -> _Found:
        found = self._either()
        if self._peek():
            raise _NotUnderstood
        return found

    def _peek(self) -> str:
        while self._text[self._at : self._at + 1] == " ":
            self._at += 1
        return self._text[self._at : self._at + 1]

    def _either(self) -> _Found:
        parts = [self._both()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._both())
        texts = sorted({text: None for part in parts for text in part.texts}, key=len)
        return _Found(texts[:_MOST], max(part.rest for part in parts))

    def _both(self) -> _Found:
        parts = [self._row()]
        while self._peek() == "&":
            self._at += 1
            parts.append(self._row())
        rest = sum(part.rest for part in parts)
        texts = [part.texts for part in parts if part.texts]
        if len(texts) < 2:
            return _Found(texts[0] if texts else [], rest)
        least = max(min(map(len, part)) for part in texts)
        found = [text for part in texts for text in part]
        found += [longer for text in found for longer in _padded(text, least)]
        return _Found(list(dict.fromkeys(found))[: 4 * _MOST], rest)

    def _row(self) -> _Found:
        found = [""]
        rest = 0
        unknown = True
        while (char := self._peek()) and char not in "|&)":
            if char == "~":
                self._skip()
                continue
            unknown = False
            atom = self._atom()
            least = min((len(text.encode()) for text in atom.texts), default=0)
            rest = max(rest + least, atom.rest)
            found = ["".join(pair) for pair in product(found, atom.texts)][:_MOST]
        return _Found([] if unknown else found, rest)

    def _atom(self) -> _Found:
        match self._peek():
            case "(":
                self._at += 1
                found = self._either()
                if self._peek() != ")":
                    raise _NotUnderstood
                self._at += 1
                return found
            case "/":
                piece = _regex_sample(self._until_slash())
                return _Found([piece.text, *piece.others], piece.rest)
            case '"':
                text, end = json.JSONDecoder().raw_decode(self._text, self._at)
                self._at = end
                return _Found([text], len(text.encode()))
        raise _NotUnderstood

    def _until_slash(self) -> str:
        start = self._at
        self._at = self._end_of_part()
        return self._text[start + 1 : self._at - 1]

    def _skip(self) -> None:
        """Skip a negated operand, which yields no samples."""
        self._at += 1
        self._peek()
        depth = 0
        while True:
            start, self._at = self._at, self._end_of_part()
            depth += {"(": 1, ")": -1}.get(self._text[start], 0)
            if depth == 0:
                return

    def _end_of_part(self) -> int:
        part = _PART.match(self._text, self._at)
        if part is None:
            raise _NotUnderstood
        return part.end()


def _padded(text: str, length: int) -> Iterator[str]:
    """The JSON string, lengthened to `length` characters."""
    more = "a" * (length - len(text))
    if more and text.endswith('"'):
        yield text[:-1] + more + '"'
        yield '"' + more + text[1:]


@lru_cache(maxsize=1 << 12)
def _regex_sample(pattern: str) -> _Piece:
    reader = _Regex(pattern)
    piece = reader.alternatives()
    if reader.at < len(pattern):
        raise _NotUnderstood
    return piece


class _Regex:
    """Reads the syntax of Rust's regexes without look-around and anchors."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self.at = 0

    def _next(self) -> str:
        return self._pattern[self.at : self.at + 1]

    def _take(self, text: str) -> bool:
        if self._pattern.startswith(text, self.at):
            self.at += len(text)
            return True
        return False

    def alternatives(self) -> _Piece:
        found = self._row()
        if not self._take("|"):
            return found
        rows = [found, self._row()]
        while self._take("|"):
            rows.append(self._row())
        texts = sorted(dict.fromkeys(t for row in rows for t in (row.text, *row.others)), key=len)
        return _Piece(texts[0], max(row.rest for row in rows), tuple(texts[1 : _MOST + 1]))

    def _row(self) -> _Piece:
        row = _NOTHING
        while self._next() not in ("", "|", ")"):
            if (plain := _PLAIN.match(self._pattern, self.at)) is not None:
                self.at = plain.end()
                row = row.then(_Piece(plain[0], len(plain[0].encode())))
            else:
                atom = self._atom()
                row = row.then(atom.times(self._times()))
            if len(row.text) > _LONGEST:
                raise _NotUnderstood
        return row

    def _times(self) -> int:
        times = 1
        while True:
            if self._take("*") or self._take("?"):
                times = 0
            elif self._take("+"):
                continue
            elif self._next() == "{":
                end = self._pattern.index("}", self.at)
                times *= int(self._pattern[self.at + 1 : end].partition(",")[0])
                self.at = end + 1
            else:
                return times

    def _atom(self) -> _Piece:
        if self._take("("):
            if self._take("?"):
                end = self._pattern.index(":", self.at)
                if not all(flag in "simuxU-" for flag in self._pattern[self.at : end]):
                    raise _NotUnderstood
                self.at = end + 1
            piece = self.alternatives()
            if not self._take(")"):
                raise _NotUnderstood
            return piece
        char = self._character()
        return _Piece(char, len(char.encode()))

    def _character(self) -> str:
        if self._next() == "[":
            return _first(self._members())
        if self._take("."):
            return "0"
        if self._next() in "^$":
            raise _NotUnderstood
        if self._next() == "\\":
            return _first(self._escape())
        self.at += 1
        return self._pattern[self.at - 1]

    def _escape(self) -> Test:
        self.at += 1
        char = self._next()
        self.at += 1
        match char:
            case "d":
                return lambda c: c in "0123456789"
            case "w":
                return lambda c: c.isalnum() or c == "_"
            case "s":
                return str.isspace
            case "D":
                return lambda c: not c.isdecimal()
            case "W":
                return lambda c: not (c.isalnum() or c == "_")
            case "S":
                return lambda c: not c.isspace()
            case "x" | "u":
                if self._take("{"):
                    end = self._pattern.index("}", self.at)
                    digits, self.at = self._pattern[self.at : end], end + 1
                else:
                    length = 2 if char == "x" else 4
                    digits = self._pattern[self.at : self.at + length]
                    self.at += length
                return _Code(int(digits, 16))
        if char.isalnum() and char not in _NAMED:
            raise _NotUnderstood
        return _Code(ord(_NAMED.get(char, char)))

    def _members(self) -> Test:
        self.at += 1
        negated = self._take("^")
        sets: list[list[Test]] = [[]]
        while True:
            if self._take("]") and (sets != [[]] or self._next() != "]"):
                break
            if self._take("&&"):
                sets.append([])
            elif self._next() == "[":
                sets[-1].append(self._members())
            else:
                sets[-1].append(self._range())
        whole = all_of([any_of(tests) for tests in sets])
        return (lambda c: not whole(c)) if negated else whole

    def _range(self) -> Test:
        low = self._single()
        if not isinstance(low, _Code) or self._next() != "-" or self._pattern[self.at + 1] == "]":
            return low
        self.at += 1
        high = self._single()
        if not isinstance(high, _Code):
            raise _NotUnderstood
        return _Range(low.code, high.code)

    def _single(self) -> Test:
        if self._next() == "\\":
            return self._escape()
        self.at += 1
        return _Code(ord(self._pattern[self.at - 1]))


class _Range:
    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __call__(self, char: str) -> bool:
        return self.low <= ord(char) <= self.high


class _Code(_Range):
    def __init__(self, code: int) -> None:
        super().__init__(code, code)
        self.code = code


def any_of(tests: list[Test]) -> Test:
    return lambda char: any(test(char) for test in tests)


def all_of(tests: list[Test]) -> Test:
    return lambda char: all(test(char) for test in tests)


def _first(test: Test) -> str:
    if isinstance(test, _Code):
        return chr(test.code)
    for char in _ORDER + _RARE:
        if test(char):
            return char
    raise _NotUnderstood

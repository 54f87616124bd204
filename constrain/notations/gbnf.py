"""Parses GBNF, the grammar notation of llama.cpp and xgrammar."""

from __future__ import annotations

import re
from dataclasses import dataclass

from formgate.constrain.errors import ConstraintError

_RULE = re.compile(r"(?m)^[ \t]*[A-Za-z_][\w-]*[ \t]*::=")
_NAME = re.compile(r"[A-Za-z_][\w-]*")
_SPACE = re.compile(r"(?:[ \t]|#[^\n]*)*")
_SPACES = re.compile(r"(?:\s|#[^\n]*)*")
_COUNT = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d*)\s*)?\}")
_HEX = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0", "f": "\f", "v": "\v", "b": "\b"}
_PLAIN_ESCAPES = frozenset("\\\"'[]^-/.$?*+(){}|#")
_LARGEST_COUNT = 100_000
_DEEPEST = 100
LAST_CHAR = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Chars:
    """One character of these ranges, which are sorted and disjoint."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Literal:
    text: str


@dataclass(frozen=True, slots=True)
class Ref:
    name: str


@dataclass(frozen=True, slots=True)
class Seq:
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Alt:
    parts: tuple[Expr, ...]


@dataclass(frozen=True, slots=True)
class Times:
    part: Expr
    least: int
    most: int | None


Expr = Chars | Literal | Ref | Seq | Alt | Times
Rules = dict[str, Expr]


def is_gbnf(source: str) -> bool:
    return _RULE.search(source) is not None


def read_gbnf(source: str) -> Rules:
    """Parse a grammar. Raises ConstraintError with the line at fault."""
    return _Reader(source).rules()


class _Reader:
    def __init__(self, source: str) -> None:
        self._source = source.replace("\r\n", "\n")
        self._at = 0
        self._depth = 0
        self._uses: dict[str, int] = {}  # the offset of each rule's first use

    def rules(self) -> Rules:
        rules: Rules = {}
        self._skip(_SPACES)
        while self._at < len(self._source):
            start = self._at
            name = self._name()
            self._skip(_SPACES)
            if not self._take("::="):
                raise self._error(f"'::=' is missing after {name!r:.60}")
            if name in rules:
                raise self._error(f"the rule {name!r:.60} is there already", start)
            self._skip(_SPACES)
            rules[name] = self._alternatives(nested=False)
            self._skip(_SPACE)
            if self._at < len(self._source) and self._source[self._at] != "\n":
                raise self._error(f"{self._source[self._at]!r} is not expected here")
            self._skip(_SPACES)
        for name, at in self._uses.items():
            if name not in rules:
                raise self._error(f"there is no rule {name!r:.60}", at)
        if "root" not in rules:
            raise ConstraintError("The grammar has no rule 'root'.", code="invalid_grammar")
        return rules

    def _alternatives(self, *, nested: bool) -> Expr:
        parts = [self._sequence(nested=nested)]
        while True:
            # An alternative may begin on the next line.
            ahead = _SPACES.match(self._source, self._at)
            if ahead is None or self._source[ahead.end() : ahead.end() + 1] != "|":
                return parts[0] if len(parts) == 1 else Alt(tuple(parts))
            self._at = ahead.end() + 1
            self._skip(_SPACES)
            parts.append(self._sequence(nested=nested))

    def _sequence(self, *, nested: bool) -> Expr:
        parts: list[Expr] = []
        while True:
            self._skip(_SPACES if nested else _SPACE)
            part = self._part()
            if part is None:
                return parts[0] if len(parts) == 1 else Seq(tuple(parts))
            parts.append(self._repeated(part))

    def _part(self) -> Expr | None:
        char = self._source[self._at : self._at + 1]
        start = self._at
        if char in ('"', "'") and char:
            return self._literal(char)
        if char == "[":
            return self._chars()
        if char == ".":
            self._at += 1
            return Chars(((0, LAST_CHAR),))
        if char == "(":
            self._at += 1
            self._depth += 1
            if self._depth > _DEEPEST:
                raise self._error("brackets are nested too deeply")
            inside = self._alternatives(nested=True)
            self._skip(_SPACES)
            if not self._take(")"):
                raise self._error("the '(' is not closed", start)
            self._depth -= 1
            return inside
        if _NAME.match(char):
            name = self._name()
            self._uses.setdefault(name, start)
            return Ref(name)
        return None

    def _repeated(self, part: Expr) -> Expr:
        while True:
            if self._take("*"):
                part = Times(part, 0, None)
            elif self._take("+"):
                part = Times(part, 1, None)
            elif self._take("?"):
                part = Times(part, 0, 1)
            elif self._source.startswith("{", self._at):
                found = _COUNT.match(self._source, self._at)
                if found is None:
                    raise self._error("a repetition is written {n}, {n,} or {n,m}")
                least = int(found[1])
                most = least if found[2] is None else int(found[3]) if found[3] else None
                if most is not None and most < least:
                    raise self._error(f"at most {most} is less than at least {least}")
                if max(least, most or 0) > _LARGEST_COUNT:
                    raise self._error(f"a repetition has at most {_LARGEST_COUNT}")
                self._at = found.end()
                part = Times(part, least, most)
            else:
                return part

    def _literal(self, quote: str) -> Expr:
        start = self._at
        self._at += 1
        text = []
        while not self._take(quote):
            if self._source[self._at : self._at + 1] in ("", "\n"):
                raise self._error("the text is not closed", start)
            text.append(self._char())
        return Literal("".join(text))

    def _chars(self) -> Expr:
        start = self._at
        self._at += 1
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            if self._source[self._at : self._at + 1] in ("", "\n"):
                raise self._error("the '[' is not closed", start)
            first = last = ord(self._char())
            if self._source[self._at : self._at + 1] == "-" and not self._source.startswith(
                "-]", self._at
            ):
                self._at += 1
                if self._source[self._at : self._at + 1] in ("", "\n"):
                    raise self._error("the '[' is not closed", start)
                last = ord(self._char())
                if last < first:
                    raise self._error(f"the range {chr(first)!r}-{chr(last)!r} is the wrong way")
            ranges.append((first, last))
        found = Chars(_merged(ranges, negated=negated))
        if not found.ranges:
            raise self._error("the class holds no character", start)
        return found

    def _char(self) -> str:
        start = self._at
        char = self._source[start]
        self._at += 1
        if char != "\\":
            return char
        escape = self._source[self._at : self._at + 1]
        self._at += 1
        if escape in _HEX:
            digits = self._source[self._at : self._at + _HEX[escape]]
            if not re.fullmatch(f"[0-9a-fA-F]{{{_HEX[escape]}}}", digits):
                raise self._error(f"\\{escape} takes {_HEX[escape]} hexadecimal digits", start)
            self._at += len(digits)
            if (code := int(digits, 16)) > LAST_CHAR or 0xD800 <= code <= 0xDFFF:
                raise self._error(f"\\{escape}{digits} is no character", start)
            return chr(code)
        if escape in _ESCAPES:
            return _ESCAPES[escape]
        if escape in _PLAIN_ESCAPES and escape:
            return escape
        raise self._error(f"the escape \\{escape} is not known", start)

    def _name(self) -> str:
        found = _NAME.match(self._source, self._at)
        if found is None:
            raise self._error(f"a name is expected, not {self._source[self._at]!r}")
        self._at = found.end()
        return found[0]

    def _take(self, text: str) -> bool:
        found = self._source.startswith(text, self._at)
        if found:
            self._at += len(text)
        return found

    def _skip(self, space: re.Pattern[str]) -> None:
        if (found := space.match(self._source, self._at)) is not None:
            self._at = found.end()

    def _error(self, why: str, at: int | None = None) -> ConstraintError:
        line = self._source.count("\n", 0, self._at if at is None else at) + 1
        return ConstraintError(
            f"The grammar is not valid: line {line}: {why}.", code="invalid_grammar"
        )


def _merged(ranges: list[tuple[int, int]], *, negated: bool) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    if not negated:
        return tuple(merged)
    starts = [0, *(last + 1 for _, last in merged)]
    ends = [*(first - 1 for first, _ in merged), LAST_CHAR]
    return tuple((a, b) for a, b in zip(starts, ends, strict=True) if a <= b)

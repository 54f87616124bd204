"""The syntax tree of a regular expression, and sets of characters. `regex_assertions` rewrites a
tree with assertions (anchors, word boundaries, look-aheads) to one without, which may hold `And`
and `Not`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

# Sorted ranges of code points with gaps between them. Surrogates are excluded: no text has them.
Ranges = tuple[tuple[int, int], ...]

DIGITS: Ranges = ((0x30, 0x39),)
WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
EVERY: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))


class Before(Enum):
    """The class of the character before a position, on which assertions depend."""

    NONE = 0
    WORD = 1
    OTHER = 2


class RegexError(ValueError):
    """Not a regular expression, or one that cannot be enforced."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character that is in `ranges` or has one of `properties` ("p{L}", "P{Lu}"); if `negated`,
    one that is and has none of them. In both cases, all of `within` hold it too.
    """

    ranges: Ranges
    properties: tuple[str, ...] = ()
    negated: bool = False  # only with properties
    within: tuple[Chars, ...] = ()


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
class Boundary:
    """`\\b`, or `\\B` if negated."""

    negated: bool


@dataclass(frozen=True, slots=True)
class Look:
    """A look-ahead."""

    part: Regex
    negated: bool


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple[Regex, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """All texts that `part` does not match as a whole."""

    part: Regex


Regex = Chars | Seq | Alt | Repeat | Edge | Boundary | Look | And | Not

EMPTY = Seq(())
NOTHING = Alt(())
ANY_CHAR = Chars(EVERY)
ANY_TEXT = Repeat(ANY_CHAR, 0, None)
SOME_TEXT = Repeat(ANY_CHAR, 1, None)
WORD_CHAR = Chars(WORD)


@lru_cache(maxsize=1 << 10)
def one_char(code: int) -> Regex:
    """The tree of one character; `NOTHING` for a surrogate, which no text has."""
    return NOTHING if 0xD800 <= code <= 0xDFFF else Chars(((code, code),))


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    whole: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if whole and low <= whole[-1][1] + 1:
            whole[-1] = (whole[-1][0], max(high, whole[-1][1]))
        else:
            whole.append((low, high))
    return _without_surrogates(whole)


def _without_surrogates(ranges: Iterable[tuple[int, int]]) -> Ranges:
    return common(tuple(ranges), EVERY)


def common(one: Ranges, two: Ranges) -> Ranges:
    """The intersection."""
    found = []
    first = second = 0
    while first < len(one) and second < len(two):
        low, high = max(one[first][0], two[second][0]), min(one[first][1], two[second][1])
        if low <= high:
            found.append((low, high))
        if one[first][1] < two[second][1]:
            first += 1
        else:
            second += 1
    return tuple(found)


def beyond(ranges: Ranges) -> Ranges:
    """The complement."""
    gaps, at = [], 0
    for low, high in ranges:
        if at < low:
            gaps.append((at, low - 1))
        at = high + 1
    if at <= 0x10FFFF:
        gaps.append((at, 0x10FFFF))
    return _without_surrogates(gaps)


OTHER_CHAR = Chars(beyond(WORD))


def complement(chars: Chars) -> Chars:
    assert not chars.within
    if chars.properties:
        return Chars(chars.ranges, chars.properties, not chars.negated)
    return Chars(beyond(chars.ranges))


def meet(one: Chars, two: Chars) -> Chars:
    """The intersection of two classes."""
    parts = [*factors(one), *factors(two)]
    ranges = EVERY
    others = []
    for part in dict.fromkeys(parts):
        if part.properties:
            others.append(part)
        else:
            ranges = common(ranges, part.ranges)
    if not others or not ranges:
        return Chars(ranges)
    first, *more = others
    if ranges != EVERY:
        more.append(Chars(ranges))
    return Chars(first.ranges, first.properties, first.negated, tuple(more))


def factors(chars: Chars) -> list[Chars]:
    """Classes without `within` whose intersection is `chars`."""
    alone = Chars(chars.ranges, chars.properties, chars.negated)
    return [alone, *chars.within]


def seq(*parts: Regex) -> Regex:
    flat: list[Regex] = []
    for part in parts:
        if part == NOTHING:
            return NOTHING
        for each in part.parts if isinstance(part, Seq) else (part,):
            if not (each is ANY_TEXT and flat and flat[-1] is ANY_TEXT):
                flat.append(each)
    return flat[0] if len(flat) == 1 else Seq(tuple(flat))


def alt(*options: Regex) -> Regex:
    flat: dict[Regex, None] = {}
    for option in options:
        flat |= dict.fromkeys(option.options if isinstance(option, Alt) else (option,))
    if ANY_TEXT in flat:
        return ANY_TEXT
    found = tuple(flat)
    return found[0] if len(found) == 1 else Alt(found)


def both(*parts: Regex) -> Regex:
    flat: dict[Regex, None] = {}
    for part in parts:
        flat |= dict.fromkeys(part.parts if isinstance(part, And) else (part,))
    if NOTHING in flat:
        return NOTHING
    if EMPTY in flat:
        return EMPTY if all(map(nullable, flat)) else NOTHING
    found = [part for part in flat if part != ANY_TEXT] or [ANY_TEXT]
    return found[0] if len(found) == 1 else And(tuple(found))


def negation(part: Regex) -> Regex:
    if part == NOTHING:
        return ANY_TEXT
    return NOTHING if part == ANY_TEXT else Not(part)


def nullable(tree: Regex) -> bool:
    """True if a tree without assertions matches the empty text."""
    match tree:
        case Chars():
            return False
        case Seq(parts) | And(parts):
            return all(map(nullable, parts))
        case Alt(options):
            return any(map(nullable, options))
        case Repeat(part, least, _):
            return least == 0 or nullable(part)
        case Not(part):
            return not nullable(part)
    raise AssertionError(tree)


def asserts(tree: Regex) -> bool:
    """True if the tree has an assertion."""
    match tree:
        case Chars():
            return False
        case Seq(parts) | Alt(parts):
            return any(map(asserts, parts))
        case Repeat(part, _, _):
            return asserts(part)
    return isinstance(tree, Edge | Boundary | Look)


def holds_any(tree: Regex, test: Callable[[Regex], bool]) -> bool:
    """True if `test` is true of the tree or of a part of it."""
    if test(tree):
        return True
    match tree:
        case Seq(parts) | Alt(parts) | And(parts):
            return any(holds_any(part, test) for part in parts)
        case Repeat(part, _, _) | Not(part) | Look(part, _):
            return holds_any(part, test)
    return False


def chars_of_both(one: Chars, two: Chars) -> Regex:
    found = meet(one, two)
    return found if found.ranges or found.properties else NOTHING

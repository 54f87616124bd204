"""Sets of numbers and of strings, as JSON Schema's keywords describe them. They are closed under
intersection; the complement of each keyword's set is a union of such sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor, lcm

from llguidance import LLMatcher, LLTokenizer

from formgate.constrain.errors import Unplaced
from formgate.constrain.regex.ecma_regex import found
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.number_regex import ALL, Bounds, integer_range
from formgate.constrain.regex.regex_terms import pattern_term


@dataclass(frozen=True, slots=True)
class Numbers:
    """`integer`: True for integers only, False for other numbers only. If `values` is given, it
    lists the whole set, and the other fields have been applied to it.
    """

    integer: bool | None = None
    bounds: Bounds = ALL
    multiple_of: Decimal | None = None
    without: frozenset[Decimal] = frozenset()
    values: frozenset[Decimal] | None = None

    def meet(self, other: Numbers) -> Numbers | None:
        """The intersection; None if it is found to be empty."""
        if self.values is not None or other.values is not None:
            one, two = (self, other) if self.values is not None else (other, self)
            assert one.values is not None
            kept = frozenset(value for value in one.values if two.holds(value))
            return replace(one, values=kept) if kept else None
        if self.integer is not None and other.integer is not None and self.integer != other.integer:
            return None
        met = Numbers(
            self.integer if self.integer is not None else other.integer,
            self.bounds.meet(other.bounds),
            _multiple_of_both(self.multiple_of, other.multiple_of),
            self.without | other.without,
        )
        return None if met.is_empty() else met

    def is_empty(self) -> bool:
        """True only if the set is empty. Exact for integers and bounds."""
        if self.values is not None:
            return not self.values
        if self.bounds.empty or self._between_multiples():
            return True
        if self.integer:
            low, high = integer_range(self.bounds)
            if low is not None and high is not None:
                if low > high:
                    return True
                if high - low <= 64:
                    return not any(self.holds(Decimal(n)) for n in range(low, high + 1))
        return False

    def _between_multiples(self) -> bool:
        """True if no multiple of the step is within the bounds."""
        least, most = self.bounds.least, self.bounds.most
        if self.multiple_of is None or least is None or most is None:
            return False
        step = Fraction(self.multiple_of)
        if self.integer:
            step = Fraction(step.numerator)
        first, last = ceil(Fraction(least) / step), floor(Fraction(most) / step)
        first += self.bounds.above and first * step == Fraction(least)
        last -= self.bounds.below and last * step == Fraction(most)
        return first > last

    def holds(self, value: Decimal) -> bool:
        whole = value == value.to_integral_value()
        return (
            (self.values is None or value in self.values)
            and (self.integer is None or self.integer == whole)
            and self.bounds.holds(value)
            and (self.multiple_of is None or value % self.multiple_of == 0)
            and value not in self.without
        )


def _multiple_of_both(one: Decimal | None, two: Decimal | None) -> Decimal | None:
    if one is None or two is None:
        return one if two is None else two
    scale = 10 ** max(-int(one.as_tuple().exponent), -int(two.as_tuple().exponent), 0)
    return Decimal(lcm(int(one * scale), int(two * scale))) / Decimal(scale)


@dataclass(frozen=True, slots=True)
class Strings:
    """Lengths are in code points. If `values` is given, it lists the whole set, and the other
    fields have been applied to it.
    """

    least: int = 0
    most: int | None = None
    patterns: frozenset[str] = frozenset()  # each matches anywhere in the string
    not_patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()  # names
    not_formats: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()
    values: tuple[str, ...] | None = None

    def meet(self, other: Strings) -> Strings | None:
        """The intersection; None if it is found to be empty. Patterns are not looked into."""
        if self.values is not None or other.values is not None:
            one, two = (self, other) if self.values is not None else (other, self)
            assert one.values is not None
            kept = tuple(value for value in one.values if two.holds(value))
            return replace(one, values=kept) if kept else None
        most = self.most if other.most is None else other.most
        if self.most is not None and other.most is not None:
            most = min(self.most, other.most)
        met = Strings(
            max(self.least, other.least),
            most,
            self.patterns | other.patterns,
            self.not_patterns | other.not_patterns,
            self.formats | other.formats,
            self.not_formats | other.not_formats,
            self.without | other.without,
        )
        if most is not None and met.least > most:
            return None
        if met.patterns & met.not_patterns or met.formats & met.not_formats:
            return None
        if most == 0:
            return Strings(values=("",)) if met.holds("") else None
        return met

    def holds(self, value: str) -> bool:
        return (
            (self.values is None or value in self.values)
            and len(value) >= self.least
            and (self.most is None or len(value) <= self.most)
            and value not in self.without
            and all(matches(pattern, value) for pattern in self.patterns)
            and not any(matches(pattern, value) for pattern in self.not_patterns)
            and all(matches(FORMATS[name].narrow, value, whole=True) for name in self.formats)
            and not any(matches(FORMATS[name].wide, value, whole=True) for name in self.not_formats)
        )


@lru_cache(maxsize=1 << 14)
def matches(pattern: str, value: str, *, whole: bool = False) -> bool:
    """True if an ECMA-262 pattern matches anywhere in a string, or with `whole` the whole string.
    Raises RegexError if the pattern cannot be enforced.
    """
    term = pattern_term(pattern, search=not whole, in_json=False)
    if (answer := found(f"^(?:{pattern})$" if whole else pattern, value)) is not None:
        return answer
    return text_matches(term.text, value)


@lru_cache(maxsize=1)
def _bytes_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def text_matches(terminal: str, text: str) -> bool:
    """True if a terminal of llguidance's Lark dialect matches the whole text. Raises Unplaced."""
    matcher = _known_matcher(terminal)
    if matcher.is_error():
        raise Unplaced(
            "a pattern is too large to match it with a value. Lower the counts in it",
            keywords=("pattern", "patternProperties"),
            code="schema_too_complex",
        )
    matcher.reset()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and bool(matcher.is_accepting())


@lru_cache(maxsize=64)
def _known_matcher(terminal: str) -> LLMatcher:
    return _matcher(f"start: T\nT: {terminal}\n")


_LOOKS = 100  # states of a terminal that are visited before it counts as not empty


@lru_cache(maxsize=1 << 12)
def is_empty_terminal(terminal: str) -> bool:
    """True only if a terminal matches no text. Visits at most `_LOOKS` states; False may be
    wrong.
    """
    matcher = _matcher(f"start: T\nT: {terminal}\n")
    if matcher.is_error():
        return False  # too large; the whole grammar reports it
    looks = _LOOKS

    def finds_text() -> bool:
        nonlocal looks
        looks -= 1
        if matcher.is_accepting():
            return True
        mask = matcher.compute_bitmask()
        following = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        for byte in sorted(following, key=_likely_end):
            if looks <= 0:
                return True
            matcher.consume_token(byte)
            found = finds_text()
            matcher.rollback(1)
            if found:
                return True
        return False

    return not finds_text()


@lru_cache(maxsize=1 << 10)
def num_texts(terminal: str, most: int) -> int:
    """Number of texts that a terminal matches, counted up to `most`; `most` also if the terminal is
    too large to count.
    """
    matcher = _matcher(f"start: T\nT: {terminal}\n")
    if matcher.is_error():
        return most
    found, looks = 0, _LOOKS + 4 * most

    def count() -> None:
        nonlocal found, looks
        looks -= 1
        found += matcher.is_accepting()
        mask = matcher.compute_bitmask()
        following = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        for byte in sorted(following, key=_likely_end):
            if looks <= 0 or found >= most:
                return
            if matcher.consume_token(byte):
                count()
                matcher.rollback(1)

    count()
    return most if looks <= 0 else min(found, most)


def _likely_end(byte: int) -> int:
    return 0 if byte == ord('"') else 1


def _matcher(lark: str) -> LLMatcher:
    return LLMatcher(_bytes_tokenizer(), LLMatcher.grammar_from_lark(lark), log_level=0)


def decimals(values: Iterable[float]) -> frozenset[Decimal]:
    return frozenset(Decimal(str(value)).normalize() for value in values)

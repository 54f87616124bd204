"""Terminals for ECMA-262 patterns, with Python's own engine as the oracle."""

from __future__ import annotations

import json
import re
from itertools import product
from random import Random

import pytest
from llguidance import LLMatcher

from formgate.constrain.algebra.scalars import text_matches
from formgate.constrain.grammar.shortest import byte_tokenizer
from formgate.constrain.regex.regex_terms import Term, length_term, literal_term, pattern_term
from formgate.constrain.regex.regex_tree import RegexError

ALPHABET = 'ab01 -_"\\\n'


def pattern(r: Random, depth: int = 0) -> str:
    """In the syntax that ECMA-262 and Python share."""
    pick = r.random()
    if depth > 2 or pick < 0.4:
        return r.choice(
            (
                *("a", "b", "0", "-", "_", " ", ".", r"\d", r"\w", r"\s", r"\W", '"', r"\\"),
                *("[ab]", "[^a]", "[a-b0]", r"[^\d]", r"[\w-]", r"\n", r"[^\s\\]"),
            )
        )
    if pick < 0.6:
        return pattern(r, depth + 1) + pattern(r, depth + 1)
    if pick < 0.75:
        return f"({pattern(r, depth + 1)}|{pattern(r, depth + 1)})"
    return f"(?:{pattern(r, depth + 1)})" + r.choice(["*", "+", "?", "{2}", "{1,2}", "{0,1}"])


def anchored(r: Random) -> str:
    return r.choice(["", "^"]) + pattern(r) + r.choice(["", "$"])


def text(r: Random) -> str:
    return "".join(r.choices(ALPHABET, k=r.randint(0, 4)))


class Matching:
    """Whether a terminal is all of a text."""

    def __init__(self, term: Term) -> None:
        grammar = f"start: T\nT: {term.text}\n"
        self._matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
        assert not self._matcher.is_error()

    def __call__(self, value: str) -> bool:
        matcher = self._matcher.deep_copy()
        data = list(value.encode())
        return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def found(regex: str, value: str) -> bool:
    # Without MULTILINE, Python's `$` also stands before a last line feed; ECMA-262's does not.
    exact = re.sub(r"(?<!\\)\$$", r"\\Z", regex)
    return re.search(exact, value, re.ASCII) is not None


@pytest.mark.parametrize("batch", range(4))
def test_a_pattern_finds_what_python_finds(batch: int) -> None:
    seen = {True: 0, False: 0}
    for seed in range(batch * 20, batch * 20 + 20):
        r = Random(seed)
        regex = anchored(r)
        plain = Matching(pattern_term(regex, search=True, in_json=False))
        quoted = Matching(pattern_term(regex, search=True, in_json=True))
        for value in {text(r) for _ in range(25)}:
            expected = found(regex, value)
            seen[expected] += 1
            assert plain(value) == expected, (regex, value)
            assert quoted(json.dumps(value)) == expected, (regex, value)
    assert min(seen.values()) > 40


def test_the_whole_text_and_a_part_of_it() -> None:
    whole = Matching(pattern_term("b+", search=False, in_json=False))
    part = Matching(pattern_term("b+", search=True, in_json=False))
    assert [whole(one) for one in ("bb", "abb", "")] == [True, False, False]
    assert [part(one) for one in ("bb", "abba", "")] == [True, True, False]


@pytest.mark.parametrize(("least", "most"), [(0, None), (0, 0), (1, 3), (2, None), (3, 3)])
def test_a_length_counts_code_points(least: int, most: int | None) -> None:
    matching = Matching(length_term(least, most))
    for value in ("", "a", "é😀", '"\\\n', "abcd", "😀😀😀"):
        fits = len(value) >= least and (most is None or len(value) <= most)
        assert matching(json.dumps(value, ensure_ascii=False)) == fits, value


@pytest.mark.parametrize("value", ["", "a.b*", 'say "\\"', "\n\t\x01\x7f", "é😀", "[x]{2}|/"])
def test_a_literal_is_itself_alone(value: str) -> None:
    matching = Matching(literal_term(value))
    assert matching(json.dumps(value, ensure_ascii=False))
    for other in (value + "a", "b" + value, value[:-1] or "c"):
        assert not matching(json.dumps(other, ensure_ascii=False))


@pytest.mark.parametrize("regex", [r"(a)\1", "(?<=a)b(?!c)d", "(", "[b-a]", "a{2,1}"])
def test_what_cannot_be_enforced_is_an_error(regex: str) -> None:
    with pytest.raises(RegexError):
        pattern_term(regex, search=True, in_json=True)


@pytest.mark.parametrize(
    "pattern",
    ["^$[ab]*$", "$ab?b$", "(?:^a*)^b", "(?:^a?)^b$", "$b$$", "^$a*b?$", "a(?:)*b", "^^a$$"],
)
def test_between_two_anchors_of_a_kind_is_no_text(pattern: str) -> None:
    searched = re.compile(pattern)
    found = pattern_term(pattern, search=True, in_json=False).text
    for length in range(4):
        for text in map("".join, product("ab", repeat=length)):
            assert text_matches(found, text) == bool(searched.search(text)), text

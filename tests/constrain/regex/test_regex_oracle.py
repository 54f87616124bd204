"""Patterns against V8: `benchmarks/regex_oracle.py` with few patterns, and single ones."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from formgate.constrain.algebra.scalars import text_matches
from formgate.constrain.errors import ConstraintError
from formgate.constrain.regex.regex_classes import with_other_cases
from formgate.constrain.regex.regex_terms import native_regex, pattern_term
from formgate.constrain.regex.regex_tree import RegexError

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

ENFORCED = [
    r"^(?!^a)[ab]{1,3}$",
    r"^(?=^b)[ab]$",
    r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$",
    r"(?=.*a$)^b",
    r"^((?!ab).)*$",
    r"^(?:(?!aa)[ab])+b$",
    r"(^|\s)b($|\s)",
    r"^(\/?(a|b-)($|\/))*$",
    r"(?:^a|b)+$",
    r"\bab?\b",
    r"^\B|\B$",
    r"(?:\ba\b *)+$",
    r"^(?=(?!b)[^]{2}$|b)\w+",
    r"(?!(?!^a))b|a$",
    r"(?:(?=a)){2,3}a|(?:^)*b",
    r"(?:^^){1,}b",
    r"\p{Lu}|[^\P{L}a]$",
    r"^[\p{L}\d_]{1,3}$",
    r"^[^\p{L}\s]+$",
    r"[\b]|[^]|[]",
    r"^\S\W\D.$",
    r"^\s+$",
    r"[\uD83D\uDE00]|😀?b$",
    r"^\u{1F600}{2}|\cJ\x61",
    r"(?<name>a)|(b)|(?:)",
    r"^(?i:AB|é)$",
    r"|^$",
    r"a{2}?b|b{1,}?$",
    '^[^"]+$',
    r"^[^\\]+$",
    r"[\x00- ]{2}",
]
# Not under the u flag, but without it.
TOLERATED = [r"^a{b$", r"^]a}$", r"a\-b\_", r"^[\w-b]+$", r"(?=a)*b", r"{a}|{,b}"]
REFUSED = {
    r"^+[a-z]$": "nothing to repeat",
    r"^{2}times$": "nothing to repeat",
    r"^*": "nothing to repeat",
    r"\b?a": "nothing to repeat",
    r"a{2}{3}": "nothing to repeat",
    r"a**": "nothing to repeat",
    r"{2}": "nothing to repeat",
    r"a++": "possessive",
    r"(a)\1": "back references",
    r"(?<a>.)\k<a>": "back references",
    r"[\1]": "octal",
    r"\00": "octal",
    r"(?<=a)b": "look-behind",
    r"\p{Latin}": "'Latin'",
    r"\p{sc=Nonsense}": "'sc=Nonsense'",
    r"\e": r"'\e'",
    r"\cé": r"'\c'",
    r"\u{110000}": "code point",
    r"\x+1": "code point",
    r"a{,2}": "{0,n}",
    r"[]a]": "'[]'",
    r"(?<a>b)(?<a>c)": "two groups",
    r"(?m:^a)": "'m'",
    "(?:" * 300: "nested",
}


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        module = importlib.import_module("regex_oracle")
    made = module.Oracle()
    yield module, made
    made.close()


@pytest.mark.parametrize("seed", [1, 2])
def test_random_patterns_find_what_v8_finds(oracle: Any, seed: int) -> None:
    module, made = oracle
    r = Random(seed)
    verdicts: dict[str, list[str]] = {}
    for _, pattern in islice(module.Patterns(seed), 150):
        verdicts.setdefault(made.compare(pattern, r).verdict, []).append(pattern)
    assert "different" not in verdicts
    assert len(verdicts["equal"]) > 120


@pytest.mark.parametrize("pattern", ENFORCED)
def test_patterns_find_what_v8_finds(oracle: Any, pattern: str) -> None:
    judged = oracle[1].compare(pattern, Random(pattern))
    assert judged.verdict == "equal", judged.detail


@pytest.mark.parametrize("pattern", TOLERATED)
def test_what_is_an_error_under_the_u_flag_alone_means_what_it_does_without(
    oracle: Any, pattern: str
) -> None:
    judged = oracle[1].compare(pattern, Random(pattern))
    assert judged.verdict == "equal", judged.detail


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_refused_names_keyword_place_and_reason(masks: Any, pattern: str) -> None:
    schema = {"properties": {"a/b": {"pattern": pattern}}}
    with pytest.raises(ConstraintError) as caught:
        masks.compiler.compile(masks.spec({"kind": "json", "schema": schema}))
    assert (caught.value.keyword, caught.value.pointer) == ("pattern", "/properties/a~1b/pattern")
    assert REFUSED[pattern] in caught.value.message


@pytest.mark.parametrize(
    "pattern",
    [
        "^" + "(?=.*a)" * 100 + "b$",
        r"^(?:\b|a)" + r"(?:\b|a)" * 40,
        "^(?:(?!" + "|".join(f"{n:x}" for n in range(0, 99_999, 37)) + ").)*$",
        "(?:(?=a{0,900})a|b){0,900}$",
        "(?:^|a){0,90000}b",
    ],
)
def test_what_explodes_is_enforced_or_refused_soon(pattern: str) -> None:
    try:
        pattern_term(pattern, search=True, in_json=True)
    except RegexError as error:
        refusal = str(error)
    else:
        refusal = "not too large"
    assert "too" in refusal


def test_a_regex_for_the_whole_text_may_still_look_and_anchor() -> None:
    for pattern, good, bad in (
        (r"^a|b", ["a", "b"], ["ab", "ba", ""]),
        (r"(?=.*b$)a.*", ["ab", "acb"], ["a", "abc", "bab"]),
        (r"(?:\bab\b ?)+", ["ab", "ab ab "], ["abab", "ab ", ""][::2]),
        (r"\Aa\Z", ["a"], ["aa"]),
    ):
        term = pattern_term(pattern, search=False, in_json=False).text
        assert [text for text in good + bad if text_matches(term, text)] == good, pattern


def test_characters_of_other_cases_are_those_of_v8(oracle: Any) -> None:
    judge = oracle[1]._v8.eval(
        "(codes) => JSON.stringify(JSON.parse(codes).map(([a, b]) => "
        "new RegExp(`^\\\\u{${a.toString(16)}}$`, 'iu').test(String.fromCodePoint(b))))"
    )
    r = Random(1)
    codes = [*range(0x250), 0x1E9E, 0x212A, 0x17F, 0x3C2, 0x1F88, 0x10400, 0x13A0, 0xAB70]
    pairs = [
        (code, other)
        for code in [*codes, *r.sample(range(0x250, 0x1E944), 1000)]
        for other in {code, r.choice(codes), *map(ord, chr(code).upper() + chr(code).lower())}
        if not 0xD800 <= code < 0xE000
    ]
    wanted = json.loads(str(judge(json.dumps(pairs))))
    for (code, other), same in zip(pairs, wanted, strict=True):
        found = any(low <= other <= high for low, high in with_other_cases(((code, code),)))
        assert found == same, (hex(code), hex(other))


def test_classes_that_llguidance_mistakes_are_not_left_to_it() -> None:
    for pattern in ('[^"]', r"[\x00-\x1f]", r"[\x00-\x09\x0b-\x1f]", r"[\p{C}]", r"(?=a)b"):
        assert native_regex(pattern, search=True) is None, pattern
    for pattern in (r"[^\n]", r"\s", ".", r'["\\]', r"[\p{L}]", "a"):
        assert native_regex(pattern, search=True) is not None, pattern


FAMILIES = ("plain", "anchors", "looks", "boundaries", "classes")


@pytest.mark.parametrize("seed", range(3))
def test_patterns_beside_lengths_other_patterns_and_as_names(oracle: Any, seed: int) -> None:
    module, made = oracle
    r = Random(seed)
    pool = (p for family, p in module.Patterns(seed) if family in FAMILIES)
    tried = 0
    for one, two in islice(zip(pool, pool, strict=True), 25):
        texts = module.texts_for(one + two, r)[:700]
        found = [made.found(pattern, texts) for pattern in (one, two)]
        least, most = r.randint(0, 2), r.randint(2, 4)
        joint = {"allOf": [{"pattern": one}, {"pattern": two}], "type": "string"}
        apart = {"pattern": one, "not": {"pattern": two}, "type": "string"}
        sized = {"pattern": one, "minLength": least, "maxLength": most, "type": "string"}
        of_name = {"patternProperties": {one: {"const": 1}}, "additionalProperties": False}
        names = {"propertyNames": {"pattern": one}, "additionalProperties": {"const": 1}}
        shapes = [
            (joint, '"', '"', [a and b for a, b in zip(*found, strict=True)]),
            (apart, '"', '"', [a and not b for a, b in zip(*found, strict=True)]),
            (
                sized,
                *('"', '"'),
                [a and least <= len(t) <= most for a, t in zip(found[0], texts, strict=True)],
            ),
            ({**of_name, "type": "object"}, '{"', '": 1}', found[0]),
            ({**names, "type": "object"}, '{"', '": 1}', found[0]),
        ]
        for schema, before, behind, wanted in shapes:
            tree = {"kind": "json", "schema": schema}
            try:
                taken = made.taken(tree, texts, before, behind)
            except ConstraintError as refusal:
                taken = None if refusal.pointer.strip("/") else set()  # nothing at all satisfies it
            except module.LimitHit:
                taken = None
            if taken is None:
                continue
            tried += 1
            assert taken == {t for t, want in zip(texts, wanted, strict=True) if want}, schema
    assert tried > 60


@pytest.mark.parametrize("seed", range(2))
def test_a_regex_for_the_whole_answer(oracle: Any, seed: int) -> None:
    module, made = oracle
    r = Random(seed)
    pool = (p for family, p in module.Patterns(seed + 50) if family in FAMILIES)
    for pattern in islice(pool, 40):
        texts = module.texts_for(pattern, r)[:700]
        wanted = {
            text
            for text, found in zip(texts, made.found(f"^(?:{pattern})$", texts), strict=True)
            if found
        }
        try:
            taken = made.taken({"kind": "regex", "pattern": pattern}, texts, "", "")
        except ConstraintError as refusal:
            taken = wanted if refusal.message.startswith("The regex has") else set()
        assert taken == wanted, pattern

"""The validator of finished answers: exact where it speaks, silent where it cannot know, and never
long about it.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from py_mini_racer import MiniRacer

from formgate.constrain.answer_check import AnswerCheck, Unchecked
from formgate.constrain.regex.ecma_regex import found
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.schema.validate import validate_json

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"


def outcome(schema: Any, text: str) -> str:
    """`valid`, `invalid`, or why nothing is known."""
    try:
        failure = AnswerCheck(json.dumps(schema)).failure(text)
    except Unchecked as unchecked:
        return unchecked.reason
    return "valid" if failure is None else "invalid"


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        # Numbers are what their digits say, however many.
        ({"type": "integer"}, ["1.0", "1e400", "-0.0"], ["1.5", "1e-400"]),
        ({"maximum": 9007199254740992}, ["9007199254740992.0"], ["9007199254740993"]),
        ({"multipleOf": 0.01}, ["19.99", "1e30"], ["19.995"]),
        ({"const": 0.1}, ["0.10", "1e-1"], ["0.1000000000000000000001"]),
        ({"uniqueItems": True}, ["[1, 2]"], ["[1, 1.0]", '[{"a": 1, "b": 2}, {"b": 2, "a": 1}]']),
        # Patterns are those of ECMA-262.
        ({"pattern": r"^\p{L}+$"}, ['"aé"'], ['"a1"']),
        ({"pattern": r"^(?!^a)[ab]{1,3}$"}, ['"ba"'], ['"a"', '"ab"']),
        ({"pattern": r"^(?:(?:a|aa)+b|a+c)$"}, [json.dumps("a" * 60 + "c")], ['"ad"']),
        ({"pattern": "^.$"}, ['"x"'], [r'"\r"', r'"\u2028"']),
        ({"patternProperties": {r"^\w$": False}}, ['{"é": 1}'], ['{"e": 1}']),
        (
            {"properties": {"pattern": {"pattern": "[^]"}}},
            ['{"pattern": "a"}'],
            ['{"pattern": ""}'],
        ),
        ({"const": {"pattern": r"\d"}}, [r'{"pattern": "\\d"}'], ['{"pattern": "[0-9]"}']),
        # Formats are asserted; what the standard calls annotations is not.
        ({"format": "ipv4"}, ['"1.2.3.4"'], ['"1.2.3"']),
        ({"format": "unheard-of"}, ['"x"'], []),
        ({"$schema": DRAFT_7, "contentEncoding": "base64"}, ['"?"'], []),
        ({"$schema": DRAFT_7, "contentMediaType": "application/json"}, ['"{"'], []),
        # Each draft's own reading.
        ({"$schema": DRAFT_4, "minimum": 1, "exclusiveMinimum": True}, ["2"], ["1"]),
        ({"$schema": DRAFT_7, "$ref": "#/definitions/a", "type": "null",
          "definitions": {"a": {"type": "integer"}}}, ["1"], ["null"]),
        ({"$schema": "https://example.com/mine", "prefixItems": [{"type": "null"}]},
         ["[null]"], ["[1]"]),
    ],
)  # fmt: skip
def test_what_is_valid(schema: Any, valid: list[str], invalid: list[str]) -> None:
    assert [outcome(schema, text) for text in valid] == ["valid"] * len(valid)
    assert [outcome(schema, text) for text in invalid] == ["invalid"] * len(invalid)


BACKTRACKS = r"^((a|aa)+)\1b$"
MANY_A = json.dumps("a" * 60)


@pytest.mark.parametrize(
    ("schema", "text", "reason"),
    [
        ({"pattern": BACKTRACKS}, MANY_A, "pattern"),
        ({"not": {"pattern": BACKTRACKS}}, MANY_A, "pattern"),
        ({"oneOf": [{"type": "string"}, {"pattern": BACKTRACKS}]}, MANY_A, "pattern"),
        ({"contains": {"pattern": BACKTRACKS}}, f"[{MANY_A}]", "pattern"),
        ({"patternProperties": {BACKTRACKS: False}}, f"{{{MANY_A}: 1}}", "pattern"),
        ({"propertyNames": {"pattern": BACKTRACKS}}, f"{{{MANY_A}: 1}}", "pattern"),
        (
            {"anyOf": [{"patternProperties": {BACKTRACKS: True}}], "unevaluatedProperties": False},
            f"{{{MANY_A}: 1}}",
            "pattern",
        ),
        ({"pattern": "("}, '"a"', "schema"),
        ({"$ref": "https://example.com/other"}, "1", "schema"),
        ({"$ref": "file:///etc/hostname"}, "1", "schema"),
        ({}, "1" * 5000, "answer"),
        ({}, "[" * 100_000 + "]" * 100_000, "answer"),
        ({"type": "string"}, r'"\ud800"', "answer"),
    ],
)
def test_what_is_not_known_is_no_failure(schema: Any, text: str, reason: str) -> None:
    assert outcome(schema, text) == reason


def test_a_failure_quotes_nothing_and_is_one_line() -> None:
    schema = {"properties": {"a\nb": {"enum": ["hidden"]}}}
    failure = AnswerCheck(json.dumps(schema)).failure(r'{"a\nb": "secret"}')
    assert failure == r"the keyword at '/properties/a\nb/enum'"
    assert AnswerCheck("{}").failure("secret") == "not JSON: Expecting value"


ALPHABET = ("a", "b", "1", "_", " ", "\n", "\r", "\u2028", "é", "\u00a0", "\ufeff", "-", "👍")
WORDS = ["", *("".join(word) for n in (1, 2) for word in itertools.product(ALPHABET, repeat=n))]
ATOMS = (
    *("a", "b", "1", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\b", r"\B", "^", "$"),
    *("[ab]", "[^a]", r"[\w-]", r"[^\s]", r"[\d\s]", r"[^\W]", r"[\S1]", r"[\D]", r"[^\D]", "[.]"),
    *(r"\p{L}", r"\P{L}", r"[\p{L}\d]", r"\n", r"\u0061", r"\u{1F44D}", r"\.", "👍", "é"),
    *("[^]", "[]", r"\0", r"[\b]", r"\cA", r"\t", "[&&a]", "[a~~b]", "[[a]", r"\p{Lu}"),
)
OPENINGS = ("(", "(?:", "(?=", "(?!")
REPEATS = ("*", "+", "?", "{2}", "{1,2}", "*?", "+?", "??")


def random_pattern(chance: random.Random, depth: int = 2) -> str:
    text = ""
    for _ in range(chance.choice((0, 1, 1, 2, 2, 3))):
        opening = chance.choice(OPENINGS) if depth and chance.random() < 0.25 else ""
        text += (
            opening + random_pattern(chance, depth - 1) + ")" if opening else chance.choice(ATOMS)
        )
        if chance.random() < 0.3:
            text += chance.choice(REPEATS)
    if depth and chance.random() < 0.2:
        text += "|" + random_pattern(chance, depth - 1)
    return text


@pytest.mark.parametrize("seed", range(4))
def test_patterns_find_what_v8_finds(seed: int) -> None:
    chance = random.Random(seed)
    v8 = MiniRacer()
    v8.eval(
        "function tests(pattern, texts) { try { const regex = new RegExp(pattern, 'u');"
        "return JSON.stringify(texts.map(text => regex.test(text))) } catch { return 'null' } }"
    )
    num_read = 0
    for _ in range(300):
        pattern = random_pattern(chance)
        texts = chance.sample(WORDS, 25)
        wanted = json.loads(v8.call("tests", pattern, texts))
        if wanted is None:
            continue
        for text, is_found in zip(texts, wanted, strict=True):
            answer = found(pattern, text)
            assert answer in (None, is_found), (pattern, text)
            num_read += answer is not None
    assert num_read > 4000


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_no_stricter_than_the_masks(name: str, masks: Any) -> None:
    """What a mask lets through must not count as a failure."""
    schema = {"type": "string", "format": name, "maxLength": 60}
    tree = {"kind": "json", "schema": schema}
    texts = [text for seed in range(30) if (text := masks.walk(tree, random.Random(seed)))]
    assert len(texts) > 10
    assert {text: outcome(schema, text) for text in texts} == dict.fromkeys(texts, "valid")


VALUES = (
    *("null", "true", "0", "1", "2.0", "3.5", "-1", '"a"', '"ab"', '"abc"', "[]", "[1]", "[1, 1]"),
    *('["a", 1]', "{}", '{"a": 1}', '{"a": "a", "b": 2}', '{"b": [1]}', '{"ab": null}'),
)


TYPES = ("integer", "number", "string", "array", "object", ["null", "string"])


def random_schema(chance: random.Random, depth: int = 3) -> Any:
    if chance.random() < 0.1:
        return chance.random() < 0.7
    inner = (lambda: random_schema(chance, depth - 1)) if depth else (lambda: True)
    return {
        keyword: value
        for keyword, value in {
            "type": chance.choice(TYPES),
            "const": json.loads(chance.choice(VALUES)),
            "enum": [json.loads(chance.choice(VALUES)) for _ in range(4)],
            "minimum": chance.choice((0, 1, 2.5)),
            "multipleOf": chance.choice((1, 2, 0.5)),
            "maxLength": chance.choice((1, 2)),
            "pattern": chance.choice(("^a", "b$", "[ab]{2}")),
            "items": inner(),
            "prefixItems": [inner(), inner()],
            "contains": inner(),
            "uniqueItems": True,
            "minItems": 1,
            "properties": {"a": inner(), "b": inner()},
            "patternProperties": {"^a": inner()},
            "additionalProperties": inner(),
            "required": chance.choice((["a"], ["a", "b"])),
            "propertyNames": inner(),
            "dependentSchemas": {"a": inner()},
            "dependentRequired": {"b": ["a"]},
            "unevaluatedProperties": inner(),
            "unevaluatedItems": inner(),
            "allOf": [inner(), inner()],
            "anyOf": [inner(), inner()],
            "oneOf": [inner(), inner()],
            "not": inner(),
            "if": inner(),
            "then": inner(),
            "else": inner(),
        }.items()
        if chance.random() < 0.12
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_it_agrees_with_the_oracle(seed: int) -> None:
    chance = random.Random(seed)
    seen = {"valid": 0, "invalid": 0}
    for _ in range(50):
        schema = random_schema(chance)
        for text in chance.sample(VALUES, 4):
            wanted = "valid" if validate_json(text, schema) is None else "invalid"
            assert outcome(schema, text) == wanted, (schema, text)
            seen[wanted] += 1
    assert min(seen.values()) > 30

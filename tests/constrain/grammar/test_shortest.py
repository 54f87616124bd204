"""The shortest document of a schema: a validator takes it, the masks let it through, and every text
that is shorter is looked at, byte by byte.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from llguidance import LLMatcher

from formgate.constrain.answer_tree import to_lark
from formgate.constrain.errors import ConstraintError
from formgate.constrain.grammar.shortest import byte_tokenizer, terminal_text
from formgate.constrain.grammar.terminal_samples import sample_texts
from formgate.constrain.rules.grammar_builder import Spacing
from formgate.constrain.rules.json_schema import ReadSchemas, shortest_instance

BYTES = [bytes((byte,)) for byte in range(256)]
NUMBERS = {"type": "integer", "minimum": 95, "maximum": 120}
SCHEMAS: tuple[Any, ...] = (
    {"const": "abc"},
    {"enum": ["long", [1, 2], 77, True]},
    {"type": "boolean"},
    {"type": "integer", "minimum": 17, "maximum": 29},
    {"type": "integer", "multipleOf": 7, "minimum": 3},
    {"type": "integer", "exclusiveMaximum": -9},
    {"type": "number", "exclusiveMinimum": 0.5, "maximum": 0.75},
    {"type": "array", "items": NUMBERS, "minItems": 2, "maxItems": 3},
    {"type": "array", "prefixItems": [{"const": 1}, {"enum": [22, 333]}], "minItems": 2},
    {"type": "array", "contains": {"const": 55}, "items": {"enum": [1, 55]}, "minItems": 2},
    {"type": "object", "properties": {"a": NUMBERS, "b": {"const": 1}}, "required": ["b"]},
    {"type": "object", "required": ["a"], "additionalProperties": {"type": "null"}},
    {"type": "object", "properties": {"a": {"const": 1}}, "dependentRequired": {"b": ["a"]}},
    {"anyOf": [{"const": "five"}, {"type": "array", "items": {"const": 1}, "minItems": 1}]},
    {"oneOf": [{"type": "integer", "minimum": 40}, {"type": "integer", "maximum": 70}]},
    {"allOf": [{"type": ["integer", "null"]}, {"not": {"type": "null"}}, {"minimum": 1000}]},
    {"$defs": {"n": {"anyOf": [{"const": 12345}, {"items": {"$ref": "#/$defs/n"}}]}}}
    | {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1, "maxItems": 2},
)
# With strings, which have too many short ones to look at all: the shortest is known.
KNOWN: tuple[tuple[Any, int], ...] = (
    ({"type": "string"}, 2),
    ({"type": "string", "minLength": 3}, 5),
    ({"type": "string", "pattern": "^a.c$"}, 5),
    ({"type": "string", "pattern": "[0-9]{4}|x{7}"}, 6),
    ({"type": "string", "pattern": "b", "minLength": 4}, 6),
    ({"type": "string", "format": "ipv6"}, 4),
    ({"type": "string", "format": "date"}, 12),
    ({"type": "string", "format": "uuid"}, 38),
    ({"type": "object", "patternProperties": {"^ab": {"const": 1}}, "minProperties": 1}, 7),
    ({"type": "object", "properties": {"s": {"pattern": "^q+$", "type": "string"}}}, 2),
)


def matcher_of(schema: Any) -> LLMatcher:
    source = to_lark({"kind": "json", "schema": schema}, BYTES, native=False).source
    return LLMatcher(byte_tokenizer(), source, log_level=0)


def shorter(matcher: LLMatcher, length: int) -> str | None:
    """A text of at most so many bytes, if there is one."""
    level = [("", matcher)]
    for _ in range(length):
        longer = []
        for text, there in level:
            mask = there.compute_bitmask()
            for byte in range(256):
                if mask[byte >> 3] >> (byte & 7) & 1:
                    behind = there.deep_copy()
                    behind.consume_token(byte)
                    if behind.is_accepting():
                        return text + chr(byte)
                    longer.append((text + chr(byte), behind))
        assert len(longer) < 20_000, "too many to look at"
        level = longer
    return None


def assert_is_one(text: str, schema: Any) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    matcher = matcher_of(schema)
    assert matcher.try_consume_tokens(list(text.encode())) == len(text.encode())
    assert matcher.is_accepting()


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
def test_no_document_is_shorter(schema: Any) -> None:
    text = shortest_instance(schema, Spacing(), ReadSchemas()).text
    assert_is_one(text, schema)
    assert shorter(matcher_of(schema), len(text) - 1) is None


@pytest.mark.parametrize(("schema", "length"), KNOWN)
def test_documents_with_strings(schema: Any, length: int) -> None:
    text = shortest_instance(schema, Spacing(), ReadSchemas()).text
    assert_is_one(text, schema)
    assert len(text) == length


def test_the_largest_part_is_no_longer_than_the_text_that_needs_it() -> None:
    schema = {"type": "array", "items": {"const": "0123456789"}, "minItems": 3}
    found = shortest_instance(schema, Spacing(), ReadSchemas())
    assert len('"0123456789"') <= found.largest_part <= len(found.text)


@pytest.mark.parametrize(
    "terminal",
    [
        '"text"',
        "/a{3}b+|cc/",
        r'/"[^"]{2,}"/',
        r"(/[0-9]+/ & /(?s:.{3})/)",
        '(/"[a-z]*"/ & ~/"a?"/)',
        '("x, " /[1-3]{2}/ ": ")',
        r"/\x{41}[\d&&[^0-8]]\//",
    ],
)
def test_a_terminal_has_a_text_of_its_own(terminal: str) -> None:
    text = terminal_text(terminal)
    assert text is not None
    assert sample_texts(terminal)
    grammar = f"start: T\nT: {terminal}\n"
    matcher = LLMatcher(byte_tokenizer(), grammar, log_level=0)
    assert matcher.deep_copy().try_consume_tokens(list(text.encode())) == len(text)
    assert shorter(matcher, min(len(text) - 1, 2)) is None


@pytest.mark.parametrize("terminal", [r"/(?=a)b/", "/^a$/", "@other", "/[/", "(/a/"])
def test_what_is_not_understood_has_no_witness(terminal: str) -> None:
    assert sample_texts(terminal) == []


def test_a_schema_that_allows_nothing_has_none() -> None:
    schema = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}}}
    with pytest.raises(ConstraintError):
        matcher_of(schema | {"$ref": "#/$defs/n"})

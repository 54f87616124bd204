"""Instances that are found at once, and what is enough for an answer."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from formgate.constrain.answer_size import quick_answer
from formgate.constrain.errors import ConstraintError
from formgate.constrain.rules.json_schema import ReadSchemas

NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
    "required": ["next"],
}
FOUND: tuple[Any, ...] = (
    True,
    {"const": {"a": [1, "é"]}},
    {"enum": ["long", [1, 2], 77, True]},
    {"type": ["string", "null"], "minLength": 3},
    {"type": "string", "pattern": "^[a-z]+-[0-9]{2}$"},
    {"type": "string", "format": "date-time"},
    {"type": "integer", "minimum": 17, "multipleOf": 5},
    {"type": "number", "exclusiveMaximum": -9.5},
    {"type": "integer", "exclusiveMinimum": 4, "maximum": 5},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
    {"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3},
    {"type": "object", "properties": {"b": {"type": "null"}, "a": True}, "required": ["a", "b"]},
    {"type": "object", "required": ["a"], "additionalProperties": {"type": "null"}},
    {"anyOf": [{"const": "five"}, {"type": "array", "items": {"const": 1}, "minItems": 1}]},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "string"}}}]},
    {"$defs": {"node": NODE}, "$ref": "#/$defs/node"},
    {"$schema": "http://json-schema.org/draft-04/schema#"}
    | {"type": "integer", "minimum": 3, "exclusiveMinimum": True},
    {"$schema": "http://json-schema.org/draft-07/schema#"}
    | {"type": "array", "items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 2},
)
LONG = {
    "$defs": {
        f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}, "minItems": 9}
        for n in range(9)
    }
    | {"d9": {"const": 1}},
    "$ref": "#/$defs/d0",
}


def spec(schema: Any) -> str:
    return json.dumps({"tree": {"kind": "json", "schema": schema}})


@pytest.mark.parametrize("white_space", [None, r"[ \n]*"])
@pytest.mark.parametrize("schema", FOUND, ids=json.dumps)
def test_an_instance_is_valid_and_let_through(masks, schema: Any, white_space: str | None) -> None:
    node = {"kind": "json", "schema": schema}
    if white_space is not None:
        node["whitespace_pattern"] = white_space
    text = quick_answer(node, ReadSchemas())
    assert text is not None
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator(schema).validate(json.loads(text))
    assert masks.accepts(node, text)


@pytest.mark.parametrize("schema", FOUND, ids=json.dumps)
def test_what_is_enough_is_no_less_than_the_shortest(masks, schema: Any) -> None:
    _, enough = masks.compiler.fitting_blueprint(spec(schema))
    assert enough >= masks.compiler.num_tokens(masks.compiler.shortest(spec(schema)).text)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 2, "pattern": "^a*$", "not": {"const": "aa"}},
        {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 2, "uniqueItems": True},
        {"type": "object", "minProperties": 2},
        {"anyOf": [{"type": "integer", "multipleOf": 7}], "minimum": 20},
        {"type": "object", "required": ["x"], "patternProperties": {"^x": {"const": "yes"}}},
    ],
    ids=json.dumps,
)
def test_where_the_grammar_refuses_it_the_shortest_is_looked_for(masks, schema: Any) -> None:
    _, enough = masks.compiler.fitting_blueprint(spec(schema))
    assert enough == masks.compiler.num_tokens(masks.compiler.shortest(spec(schema)).text)


def test_a_text_that_references_double_is_not_written(masks) -> None:
    assert quick_answer({"kind": "json", "schema": LONG}, ReadSchemas()) is None
    with pytest.raises(ConstraintError, match=r"has [0-9]{9,} bytes"):
        masks.compiler.fitting_blueprint(spec(LONG))


def test_other_answers_than_of_one_schema(masks) -> None:
    node = {"kind": "regex", "pattern": "a{3}"}
    assert quick_answer(node, ReadSchemas()) is None
    assert masks.compiler.fitting_blueprint(json.dumps({"tree": node}))[1] == 3

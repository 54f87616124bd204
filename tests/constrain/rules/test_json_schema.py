"""JSON Schema against the `jsonschema` package: the mask lets an instance through exactly if it is
valid, what it lets through at random is valid, and what it cannot hold to is refused.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema.validate import validate_json

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
# (schema, instances); an instance's keys stand in the schema's order, as the mask wants them.
CASES: list[tuple[Any, list[Any]]] = [
    (
        PERSON,
        [{"name": "a", "age": 3}, {"name": "a"}, {"name": "a", "age": -1}, {"name": 1, "age": 2}],
    ),
    ({"type": "integer", "minimum": -3, "maximum": 12}, [-4, -3, 0, 12, 13, 120]),
    ({"type": "integer", "exclusiveMinimum": 9}, [8, 9, 10, 99]),
    ({"type": "number", "minimum": 0.5, "maximum": 1.5}, [0.4, 0.5, 1, 1.25, 1.5, 1.51, 2]),
    (
        {"type": "string", "minLength": 2, "maxLength": 3},
        ["a", "ab", "世界", "世界杯", "世界杯赛", "abcd"],
    ),
    ({"type": "string", "pattern": "^[a-c]+$"}, ["", "abc", "abd"]),
    ({"type": "string", "pattern": "b"}, ["", "abc", "cb", "a"]),
    ({"type": "string", "format": "date"}, ["2024-02-01", "2024-13-01", "today"]),
    ({"enum": ["red", 3, None]}, ["red", 3, None, "green", 4, False]),
    ({"const": {"a": [1]}}, [{"a": [1]}, {"a": [2]}, {}]),
    ({"type": ["string", "null"]}, ["x", None, 1]),
    (
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 2},
        [[], [True], [True, False], [True] * 3, [1]],
    ),
    (
        {
            "prefixItems": [{"const": 1}, {"const": "b"}],
            "items": False,
            "type": "array",
            "minItems": 2,
        },
        [[1, "b"], [1], [1, "b", 2], ["b", 1]],
    ),
    (
        {"type": "object", "additionalProperties": {"type": "integer"}},
        [{}, {"a": 1, "b": 2}, {"a": "x"}],
    ),
    (
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        [{"a": 1}, {"a": 1, "z": "more"}, {}],
    ),
    ({"anyOf": [{"type": "integer"}, PERSON]}, [4, {"name": "n", "age": 1}, "x", {"name": "n"}]),
    ({"allOf": [{"type": "integer", "minimum": 2}, {"maximum": 4}]}, [1, 2, 4, 5]),
    (
        TREE,
        [{"value": 1, "next": {"value": 2, "next": None}}, {"value": 1}, {"value": 1, "next": 2}],
    ),
    ({}, [1, "x", None, True, [1, {"a": []}], {"k": {"l": 1.5}}]),
]


def node(schema: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "json", "schema": schema} | more


@pytest.mark.parametrize(("schema", "instances"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_the_mask_agrees_with_jsonschema(masks, schema, instances) -> None:
    checker = jsonschema.FormatChecker()
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    found = [masks.accepts(node(schema), json.dumps(x, ensure_ascii=False)) for x in instances]
    assert found == [validator.is_valid(x) for x in instances]
    assert any(found)


@pytest.mark.parametrize(
    "schema", [case[0] for case in CASES], ids=[str(i) for i in range(len(CASES))]
)
def test_random_walks_are_valid(longer_masks, schema) -> None:
    r = Random(7)
    texts = [longer_masks.walk(node(schema), r) for _ in range(20)]
    finished = [text for text in texts if text is not None]
    assert finished
    for text in finished:
        assert validate_json(text, schema) is None, text


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"not": {"type": "array", "uniqueItems": True}}, "uniqueItems", "/not/uniqueItems"),
        (
            {"properties": {"a": {"not": {"multipleOf": 3}}}},
            "multipleOf",
            "/properties/a/not/multipleOf",
        ),
        (
            {"properties": {"d": {"type": "string", "pattern": r"(a)\1"}}},
            "pattern",
            "/properties/d/pattern",
        ),
        ({"patternProperties": {r"(x)\1": {}}}, "patternProperties", r"/patternProperties/(x)\1"),
        ({"$defs": {"a": {}}, "$ref": "other.json"}, "$ref", "/$ref"),
        ({"extends": {"type": "object"}}, "extends", "/extends"),
        ({"type": "strin"}, "type", "/type"),
        (
            {"properties": {"n": {"type": "integer", "minimum": "1"}}},
            "minimum",
            "/properties/n/minimum",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(masks, schema, keyword, pointer) -> None:
    with pytest.raises(ConstraintError) as caught:
        masks.start(node(schema))
    assert caught.value.keyword == keyword
    assert caught.value.pointer == pointer
    assert caught.value.code in ("unsupported_schema", "invalid_schema")


@pytest.mark.parametrize(
    "schema", ["x", 3, None, [], {"$ref": "http://127.0.0.1/s"}, {"$ref": "#/nope"}, False]
)
def test_no_schema_at_all(masks, schema) -> None:
    with pytest.raises(ConstraintError):
        masks.start(node(schema))


def test_white_space_is_bounded(masks) -> None:
    assert masks.accepts(node(PERSON), '{"name": "a", "age": 3}')
    assert not masks.accepts(node(PERSON), '{"name":"a","age":3}')
    assert not masks.accepts(node(PERSON), '{"name":  "a", "age": 3}')
    assert not masks.accepts(node(PERSON), '{\n"name": "a", "age": 3}')


def test_white_space_as_asked_for(masks) -> None:
    loose = node(PERSON, whitespace_pattern=r"[ \n]?")
    assert masks.accepts(loose, '{\n"name":"a", "age":3\n}')
    assert not masks.accepts(loose, '{\n\n"name":"a", "age":3}')


def test_a_schema_cannot_loosen_its_own_enforcement(masks) -> None:
    schema = PERSON | {"x-guidance": {"lenient": True, "whitespace_flexible": True}}
    assert not masks.accepts(node(schema), '{ "name": "a", "age": 3}')


def test_json_object(masks) -> None:
    assert masks.accepts({"kind": "json_object"}, '{"a": [1, {"b": null}]}')
    assert not masks.accepts({"kind": "json_object"}, "[1]")


def test_validation_is_independent_and_never_raises() -> None:
    assert validate_json('{"name": "a", "age": 3}', PERSON) is None
    assert "age" in (validate_json('{"name": "a", "age": "3"}', PERSON) or "")
    assert "not JSON" in (validate_json('{"name": ', PERSON) or "")
    deep = "[" * 100_000
    assert validate_json(deep, PERSON) in (None, validate_json(deep, {}))

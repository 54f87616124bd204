"""A schema without a keyword allows all that it did, and forbids what its other keywords forbid."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest

from formgate.gateway.protocol.loosening import without_keyword

TEXT = {"type": "string", "pattern": "(?<=a)b", "maxLength": 3}

# schema, pointer of the refusal, pointer of what is removed, instances that are right then, and
# ones that are still wrong
LOOSENED: list[tuple[dict[str, Any], str, str, list[Any], list[Any]]] = [
    (
        {"properties": {"a/b": TEXT}, "required": ["a/b"]},
        "/properties/a~1b/pattern",
        "/properties/a~1b/pattern",
        [{"a/b": "xyz"}],
        [{}, {"a/b": "long"}, {"a/b": 1}],
    ),
    ({"items": TEXT}, "/items/pattern", "/items/pattern", [["x"]], [["long"], [1]]),
    (
        {"anyOf": [{"type": "integer"}, TEXT]},
        "/anyOf/1/pattern",
        "/anyOf/1/pattern",
        [1, "x"],
        ["long", None],
    ),
    (
        {"properties": {"x": {"type": "integer", "not": {"anyOf": [{"multipleOf": 3}]}}}},
        "/properties/x/not/anyOf/0/multipleOf",
        "/properties/x/not",
        [{"x": 3}],
        [{"x": "3"}],
    ),
    (
        {"oneOf": [TEXT, {"type": "string", "minLength": 2}], "type": "string"},
        "/oneOf/0/pattern",
        "/oneOf",
        ["x", "xyz"],
        [1],
    ),
    (
        {"$defs": {"d": TEXT}, "properties": {"a": {"$ref": "#/$defs/d"}}},
        "/$defs/d/pattern",
        "/$defs/d/pattern",
        [{"a": "x"}],
        [{"a": "long"}],
    ),
    (
        {"patternProperties": {"(?<=a)b": {}}, "additionalProperties": False, "minProperties": 1},
        "/patternProperties",
        "/patternProperties",
        [{"b": 1}],
        [{}],
    ),
    (
        {"if": {"pattern": "(?<=a)b"}, "then": {"minLength": 5}, "maxLength": 6},
        "/if/pattern",
        "/if",
        ["ab", "abcdef"],
        ["abcdefg"],
    ),
    (
        {"$ref": "http://x/y", "unevaluatedProperties": False, "required": ["a"]},
        "/$ref",
        "/$ref",
        [{"a": 1}],
        [{}],
    ),
    (
        {"prefixItems": [TEXT], "items": {"type": "integer"}, "maxItems": 2},
        "/prefixItems",
        "/prefixItems",
        [["x", 1], ["x", "y"]],
        [[1, 2, 3]],
    ),
    (
        {"items": [{"type": "string"}], "additionalItems": False, "maxItems": 2},
        "/items",
        "/items",
        [["x", "y"], [1]],
        [[1, 2, 3]],
    ),
]


@pytest.mark.parametrize(
    ("schema", "pointer", "removed", "right", "wrong"),
    LOOSENED,
    ids=[f"{i}-{each[2]}" for i, each in enumerate(LOOSENED)],
)
def test_the_rest_of_the_schema_holds(
    schema: dict[str, Any], pointer: str, removed: str, right: list[Any], wrong: list[Any]
) -> None:
    before = copy.deepcopy(schema)
    found = without_keyword(schema, pointer)
    assert schema == before
    assert found is not None
    assert found[1] == removed
    validator = jsonschema.Draft202012Validator(found[0])
    assert all(map(validator.is_valid, right))
    assert not any(map(validator.is_valid, wrong))


@pytest.mark.parametrize(
    "pointer",
    [
        "",
        "/type",
        "/properties",
        "/properties/a",
        "/properties/a/nothing",
        "/properties/b/pattern",
        "/anyOf/7/type",
        "/anyOf/x/type",
        "/required",
    ],
)
def test_what_is_no_keyword_or_carries_the_schema_stays(pointer: str) -> None:
    schema = {
        "type": "object",
        "title": "t",
        "properties": {"a": {"type": "string"}},
        "anyOf": [{"type": "object"}],
        "required": ["a"],
    }
    assert without_keyword(schema, pointer) is None

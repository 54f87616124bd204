"""Whether schemas allow nothing: "empty" is always right, and is found where it is plain."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from formgate.constrain.algebra.algebra import Algebra
from formgate.constrain.schema.dialect import Draft
from formgate.constrain.schema.resources import Resources

LEAVES: tuple[Any, ...] = (
    *({"type": "integer"}, {"type": "string"}, {"type": "null"}, {"const": 1}, {"const": "a"}),
    *({"minimum": 2}, {"exclusiveMaximum": 2}, {"maxLength": 0}, {"minLength": 1}, True, False),
    *({"type": ["string", "number"]}, {"enum": [1, "a", None]}, {"pattern": "^a"}),
    *({"type": "object", "required": ["a"]}, {"type": "array", "minItems": 1}),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, 2, 1.5, 3, "", "a", "b", "ab"),
    *([], [1], ["a"], [None, 1], {}, {"a": 1}, {"a": "a"}, {"a": None, "b": 1}, {"b": 1}),
)


def schema(r: Random, depth: int = 0) -> Any:
    if depth > 1 or r.random() < 0.25:
        return r.choice(LEAVES)
    makers: dict[str, Any] = {
        "allOf": lambda: [schema(r, depth + 1) for _ in range(2)],
        "anyOf": lambda: [schema(r, depth + 1) for _ in range(2)],
        "oneOf": lambda: [schema(r, depth + 1) for _ in range(2)],
        "not": lambda: schema(r, depth + 1),
        "items": lambda: schema(r, depth + 1),
        "properties": lambda: {"a": schema(r, depth + 1)},
        "additionalProperties": lambda: schema(r, depth + 1),
        "type": lambda: r.choice(["object", "array", "integer", "string"]),
        "required": lambda: ["a"],
        "minItems": lambda: 1,
        "maxProperties": lambda: r.randint(0, 1),
    }
    return {keyword: makers[keyword]() for keyword in r.sample(sorted(makers), r.randint(1, 4))}


def is_empty(one: Any) -> bool:
    resources = Resources(one, 50)
    return Algebra(resources, Draft.D2020).is_empty(((resources.root, True),))


@pytest.mark.parametrize("batch", range(4))
def test_what_is_empty_allows_no_value(batch: int) -> None:
    found = allows = 0
    for seed in range(batch * 100, batch * 100 + 100):
        one = schema(Random(seed))
        oracle = jsonschema.Draft202012Validator(one)
        valid = [value for value in VALUES if oracle.is_valid(value)]
        empty = is_empty(one)
        assert not (empty and valid), (seed, one, valid)
        found += empty
        allows += bool(valid)
    assert found > 5
    assert allows > 50


@pytest.mark.parametrize(
    "one",
    [
        False,
        {"not": {}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"type": "integer", "minimum": 1, "maximum": 6, "multipleOf": 7},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "string", "const": "ab", "pattern": "^b"},
        {"type": "array", "minItems": 1, "items": False},
        {"type": "array", "contains": {"not": True}},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"type": "object", "required": ["a", "b"], "maxProperties": 1},
        {"type": "object", "required": ["a"], "properties": {"a": {"required": ["b"]}}}
        | {"allOf": [{"properties": {"a": {"type": "object", "properties": {"b": False}}}}]},
        {"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}
        | {"properties": {"a": False, "b": False}},
    ],
    ids=json.dumps,
)
def test_plain_contradictions_are_found(one: Any) -> None:
    assert is_empty(one)

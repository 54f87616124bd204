"""`unevaluated*` over what the keywords beside it evaluate, against an independent validator."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from formgate.constrain.errors import ConstraintError

ARRAYS: dict[str, Any] = {
    "what two contains match": {
        "allOf": [{"contains": {"multipleOf": 2}}, {"contains": {"multipleOf": 3}}],
        "unevaluatedItems": {"multipleOf": 5},
    },
    "what the contains of the branch that holds matches": {
        "anyOf": [{"contains": {"type": "string"}}, {"contains": {"const": 5}}],
        "unevaluatedItems": {"minimum": 4},
    },
    "contains beside anyOf of its own": {
        "contains": {"const": 1},
        "unevaluatedItems": {"anyOf": [{"type": "string"}, {"const": 2}]},
    },
    "conditions inside conditions": {
        "if": {"contains": {"const": "a"}},
        "then": {"if": {"contains": {"const": "b"}}, "then": {"if": {"contains": {"const": 2}}}},
        "unevaluatedItems": False,
    },
    "contains that asks for nothing": {
        "contains": {"type": "string"},
        "minContains": 0,
        "unevaluatedItems": {"const": 2},
    },
    "items by their place": {
        "prefixItems": [{"type": "string"}],
        "allOf": [{"prefixItems": [True, {"type": "integer"}]}],
        "unevaluatedItems": {"const": "b"},
    },
}
OBJECTS: dict[str, Any] = {
    "several branches that hold together": {
        "properties": {"a": {"type": "string"}},
        "anyOf": [
            {"properties": {"b": {"const": 1}}, "required": ["b"]},
            {"properties": {"c": {"const": 1}}, "required": ["c"]},
            {"properties": {"d": {"const": 1}}, "required": ["d"]},
        ],
        "unevaluatedProperties": False,
    },
    "a branch that says more than another": {
        "anyOf": [
            {"properties": {"a": True}},
            {"properties": {"a": True, "b": {"type": "integer"}}, "required": ["b"]},
        ],
        "unevaluatedProperties": {"type": "string"},
    },
    "what allows all below a negation": {
        "oneOf": [
            {"required": ["a"], "unevaluatedProperties": True},
            {"required": ["b"], "properties": {"b": True}},
        ],
        "unevaluatedProperties": False,
    },
    "a condition": {
        "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
        "then": {"properties": {"b": True}},
        "else": {"properties": {"c": True}},
        "unevaluatedProperties": False,
    },
    "a dependent schema": {
        "properties": {"a": True},
        "dependentSchemas": {"a": {"properties": {"b": {"type": "integer"}}}},
        "unevaluatedProperties": {"type": "string"},
    },
}


def assert_agree(masks, schema: Any, instances: list[Any]) -> None:
    tree = {"kind": "json", "schema": schema}
    oracle = jsonschema.Draft202012Validator(schema)
    seen = {True: 0, False: 0}
    for instance in instances:
        valid = oracle.is_valid(instance)
        seen[valid] += 1
        assert masks.accepts(tree, json.dumps(instance)) == valid, instance
    assert min(seen.values()) > 2, "the instances tell valid from invalid"


@pytest.mark.parametrize("name", ARRAYS)
def test_items(masks, name: str) -> None:
    r = Random(name)
    pool = [1, 2, 3, 5, 6, "a", "b"]
    instances = [r.choices(pool, k=r.randint(0, 4)) for _ in range(60)]
    instances += [r.choices(r.sample(pool, 2), k=r.randint(1, 4)) for _ in range(60)]
    instances += [["a"] * 3, ["a", "b", "a"], ["b", 2, "a"], [1, 1, 2]]
    assert_agree(masks, {"type": "array", **ARRAYS[name]}, instances)


@pytest.mark.parametrize("name", OBJECTS)
def test_members(masks, name: str) -> None:
    r = Random(name)
    names = [letter for letter in "abcd" if f'"{letter}"' in json.dumps(OBJECTS[name])]
    instances = [
        {one: r.choice((1, 1, 2, "x")) for one in names if r.random() < 0.6} for _ in range(60)
    ]
    instances += [one | {"z": r.choice((1, "x"))} for one in instances[:20]]
    assert_agree(masks, {"type": "object", **OBJECTS[name]}, instances)


def test_a_negation_that_could_fail_is_refused_at_its_place(masks) -> None:
    schema = {"not": {"properties": {"a": True}, "unevaluatedProperties": {"type": "string"}}}
    with pytest.raises(ConstraintError) as caught:
        masks.compiler.compile(masks.spec({"kind": "json", "schema": schema}))
    assert caught.value.pointer == "/not/unevaluatedProperties"

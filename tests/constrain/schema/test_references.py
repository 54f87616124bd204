"""References; `$dynamicRef` and `$recursiveRef` among them, which lead to the outermost of the
resources that one has come through: against an independent validator.
"""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

LIST = {
    "$id": "list",
    "type": "object",
    "properties": {"item": {"$dynamicRef": "#item"}, "next": {"$ref": "list"}},
    "additionalProperties": False,
    "$defs": {"item": {"$dynamicAnchor": "item", "type": "null"}},
}
NUMBERS = {
    "$id": "numbers",
    "$defs": {"item": {"$dynamicAnchor": "item", "type": "number"}},
    "$ref": "list",
}
STRINGS = {
    "$id": "strings",
    "$defs": {"item": {"$dynamicAnchor": "item", "type": "string"}},
    "$ref": "list",
}
TREE = {
    "$id": "tree",
    "$dynamicAnchor": "node",
    "type": "object",
    "properties": {"data": True, "children": {"type": "array", "items": {"$dynamicRef": "#node"}}},
}
OLD_TREE = {
    "$id": "tree",
    "$recursiveAnchor": True,
    "type": "object",
    "properties": {"data": True, "children": {"type": "array", "items": {"$recursiveRef": "#"}}},
}

# Each with instances, valid and not.
CASES: dict[str, tuple[Any, list[Any]]] = {
    "two lists of one kind": (
        {
            "$id": "https://example.com/both",
            "type": "object",
            "properties": {"n": {"$ref": "numbers"}, "s": {"$ref": "strings"}},
            "required": ["n", "s"],
            "$defs": {"numbers": NUMBERS, "strings": STRINGS, "list": LIST},
        },
        [
            {"n": {"item": 1}, "s": {"item": "a"}},
            {"n": {"item": "a"}, "s": {"item": "a"}},
            {"n": {"item": 1}, "s": {"item": 1}},
            {"n": {"item": 1, "next": {"item": 2}}, "s": {"next": {"next": {"item": "a"}}}},
            {"n": {"item": 1, "next": {"item": "a"}}, "s": {}},
            {"n": {}, "s": {"next": {"next": {"item": 1}}}},
        ],
    ),
    "the outermost counts": (
        {
            "$id": "https://example.com/outer",
            "$ref": "numbers",
            "$defs": {
                "own": {"$dynamicAnchor": "item", "type": "boolean"},
                "numbers": NUMBERS,
                "list": LIST,
            },
        },
        [{"item": True}, {"item": 1}, {"next": {"item": True}}, {"next": {"item": None}}],
    ),
    "none but its own": (
        {
            "$id": "https://example.com/own",
            "$ref": "list",
            "$defs": {"numbers": NUMBERS, "list": LIST},
        },
        [{"item": None}, {"item": 1}, {"next": {"item": None}}],
    ),
    "by way of the branch that holds": (
        {
            "$id": "https://example.com/either",
            "type": "object",
            "anyOf": [
                {"properties": {"l": {"$ref": "numbers"}}},
                {"properties": {"l": {"$ref": "strings"}}},
            ],
            "required": ["l"],
            "$defs": {"numbers": NUMBERS, "strings": STRINGS, "list": LIST},
        },
        [
            {"l": {"item": 1, "next": {"item": 2}}},
            {"l": {"item": "a", "next": {"item": "b"}}},
            {"l": {"item": "a", "next": {"item": 1}}},
        ],
    ),
    "a tree that is made strict": (
        {
            "$id": "https://example.com/strict",
            "$dynamicAnchor": "node",
            "$ref": "tree",
            "unevaluatedProperties": False,
            "$defs": {"tree": TREE},
        },
        [
            {"data": 1, "children": [{"data": 2}]},
            {"data": 1, "children": [{"daat": 2}]},
            {"daat": 1},
            {"children": [{"children": [{"data": 1}]}]},
            {"children": [{"children": [{"daat": 1}]}]},
        ],
    ),
    "a tree of draft 2019-09 that is made strict": (
        {
            "$schema": "https://json-schema.org/draft/2019-09/schema",
            "$id": "https://example.com/strict",
            "$recursiveAnchor": True,
            "$ref": "tree",
            "unevaluatedProperties": False,
            "$defs": {"tree": OLD_TREE},
        },
        [
            {"data": 1, "children": [{"data": 2}]},
            {"data": 1, "children": [{"daat": 2}]},
            {"daat": 1},
            {"children": [{"children": [{"data": 1}]}]},
            {"children": [{"children": [{"daat": 1}]}]},
        ],
    ),
    "an anchor that is not dynamic": (
        {
            "$id": "https://example.com/plain",
            "$ref": "list",
            "$defs": {
                "own": {"$dynamicAnchor": "item", "type": "boolean"},
                "numbers": NUMBERS,
                "list": LIST
                | {
                    "$defs": {
                        "item": {"$anchor": "item", "type": "null"},
                    }
                },
            },
        },
        [{"item": None}, {"item": True}],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_dynamic_references_lead_where_the_validator_says(masks, name: str) -> None:
    schema, instances = CASES[name]
    tree = {"kind": "json", "schema": schema}
    oracle = jsonschema.validators.validator_for(schema)(schema)
    verdicts = [oracle.is_valid(instance) for instance in instances]
    assert set(verdicts) == {True, False}
    assert [masks.accepts(tree, json.dumps(one)) for one in instances] == verdicts


def test_a_pointer_starts_from_the_resource_whatever_the_form_of_its_uri(masks) -> None:
    urn = "urn:uuid:1f7c0ab1-6f2c-4b2e-9d50-2b1f2f0e2a11"
    schema = {
        "$ref": urn,
        "$defs": {"a": {"$id": urn, "$defs": {"b": {"type": "null"}}, "$ref": "#/$defs/b"}},
    }
    tree = {"kind": "json", "schema": schema}
    oracle = jsonschema.Draft202012Validator(schema)
    for instance in (None, 1):
        assert masks.accepts(tree, json.dumps(instance)) == oracle.is_valid(instance)

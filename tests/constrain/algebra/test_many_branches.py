"""Large unions and conditions whose branches are told apart one by one: by a constant, by members,
by types, nested in one another.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

CLOSED = {"type": "object", "additionalProperties": False}


def conditions(number: int) -> dict[str, Any]:
    """One `if` for each kind, which need not be there."""
    return {
        "type": "object",
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": f"k{i}"}}},
                "then": {"properties": {"value": {"const": i} if i % 2 else {"type": "integer"}}},
            }
            for i in range(number)
        ],
    }


def one_member_each(number: int) -> dict[str, Any]:
    return {
        "oneOf": [
            {"properties": {f"m{i}": {"type": "integer"}}, "additionalProperties": False}
            for i in range(number)
        ],
        "type": "object",
    }


def marks(number: int, depth: int) -> dict[str, Any]:
    """As in vega-lite: layers of marks, whose encodings are unions themselves."""
    below = {"$ref": f"#/$defs/u{depth - 1}"} if depth else {"type": ["number", "null"]}
    union = {
        "oneOf": [
            {
                **CLOSED,
                "properties": {"mark": {"const": f"m{i}"}, "inner": below, f"p{i}": True},
                "required": ["mark"],
            }
            for i in range(number)
        ]
    }
    definitions = marks(number, depth - 1)["$defs"] if depth else {}
    return {"$ref": f"#/$defs/u{depth}", "$defs": {**definitions, f"u{depth}": union}}


SCHEMAS: dict[str, tuple[Any, list[Any]]] = {
    "conditions": (
        conditions(30),
        [
            {"kind": "k3", "value": 3},
            {"kind": "k3", "value": 4},
            {"kind": "k4", "value": 9},
            {"kind": "k4", "value": "x"},
            {"kind": "other", "value": "x"},
            {"value": 3},
            {"kind": "k3"},
            {},
        ],
    ),
    "one member each": (
        one_member_each(16),
        [{}, {"m3": 1}, {"m3": "x"}, {"m3": 1, "m4": 1}, {"other": 1}],
    ),
    "marks": (
        marks(120, 2),
        [
            {"mark": "m7", "inner": {"mark": "m9", "inner": {"mark": "m1", "inner": 1}}, "p7": 0},
            {"mark": "m7", "inner": {"mark": "m9", "p8": 1}},
            {"mark": "m120"},
            {"inner": None},
        ],
    ),
    "types": (
        {"oneOf": [{"type": "string"}, {"type": "integer"}, {**CLOSED}, {"type": "array"}]},
        ["x", 1, {}, [], 1.5, {"a": 1}, None],
    ),
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_masks_let_through_what_is_valid(masks, name: str) -> None:
    schema, instances = SCHEMAS[name]
    validator = Draft202012Validator(schema)
    for instance in instances:
        tree = {"kind": "json", "schema": schema}
        accepted = masks.accepts(tree, json.dumps(instance))
        assert accepted is validator.is_valid(instance), instance

"""What a guard watches beside the mask: every walk is valid, and the mask lets an instance through
exactly where it is valid, as `jsonschema` sees it.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from formgate.constrain.schema.validate import validate_json

DIFFERENT = {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", 1, 2]}}
SCHEMAS: dict[str, Any] = {
    "counted": {
        "type": "object",
        "additionalProperties": {"type": "integer", "maximum": 9, "minimum": 0},
        "minProperties": 2,
        "maxProperties": 3,
        "propertyNames": {"maxLength": 1, "pattern": "^[a-c]$"},
    },
    "different lists": {
        "type": "array",
        "uniqueItems": True,
        "items": {**DIFFERENT, "maxItems": 2},
        "maxItems": 3,
    },
    "different within members": {
        "type": "object",
        "properties": {"p": {**DIFFERENT, "minItems": 2}, "q": {"type": "boolean"}},
        "required": ["p"],
        "additionalProperties": False,
    },
    "different objects": {
        "type": "array",
        "uniqueItems": True,
        "maxItems": 3,
        "items": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2]}, "b": {"enum": ["x"]}},
            "required": ["a"],
            "additionalProperties": False,
        },
    },
    "a list or counted": {
        "oneOf": [
            {**DIFFERENT, "maxItems": 3},
            {
                "type": "object",
                "minProperties": 1,
                "maxProperties": 2,
                "additionalProperties": {"type": "null"},
                "propertyNames": {"enum": ["a", "b", "c"]},
            },
        ]
    },
}


def instance(r: Random, depth: int = 0) -> Any:
    kind = r.random()
    if depth < 2 and kind < 0.4:
        return [instance(r, depth + 1) for _ in range(r.randint(0, 3))]
    if depth < 2 and kind < 0.8:
        names = sorted(r.sample("abcpq", r.randint(1, 3)))
        of_one = r.choice([None, 1, None])
        return {
            name: instance(r, 1) if name == "p" else r.choice([of_one, of_one, True, "x"])
            for name in names
        }
    return r.choice(["a", "b", "x", 1, 2, True, None])


@pytest.mark.parametrize("name", SCHEMAS)
def test_walks_are_valid(masks, longer_masks, name: str) -> None:
    schema = SCHEMAS[name]
    written = set()
    for seed in range(25):
        text = either(masks, longer_masks, seed).walk(
            {"kind": "json", "schema": schema}, Random(seed)
        )
        if text is not None:
            assert validate_json(text, schema) is None, text
            written.add(text)
    assert len(written) > 5


def either(masks: Any, longer_masks: Any, seed: int) -> Any:
    return longer_masks if seed % 2 else masks


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_instance_passes_where_it_is_valid(masks, name: str) -> None:
    schema = SCHEMAS[name]
    r = Random(name)
    both = {True: 0, False: 0}
    for _ in range(3_000):
        text = json.dumps(instance(r))
        valid = validate_json(text, schema) is None
        if both[valid] < 25:
            both[valid] += 1
            assert masks.accepts({"kind": "json", "schema": schema}, text) is valid, text
    assert both[False] == 25
    assert both[True] > 3


def test_other_names_may_come_before_listed_ones_are_left_out(masks) -> None:
    """A lexer stayed with `, "a": ` once a comma and a quote stood there."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "null"}, "a": {"type": "null"}},
        "additionalProperties": {"type": "boolean"},
        "propertyNames": {"maxLength": 2},
    }
    tree = {"kind": "json", "schema": schema}
    for text in ('{"n": null, "b": true}', '{"n": null, "a": null, "b": true}', '{"ab": true}'):
        assert masks.accepts(tree, text), text
    assert not masks.accepts(tree, '{"n": null, "a": true}')


def test_an_enum_of_many_numbers_is_followed(masks) -> None:
    """A row of the parser holds one item for each."""
    schema = {"type": "array", "uniqueItems": True, "items": {"enum": list(range(2_500))}}
    tree = {"kind": "json", "schema": schema}
    assert masks.accepts(tree, "[2499, 1, 24]")
    assert not masks.accepts(tree, "[24, 1, 24]")

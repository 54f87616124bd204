"""`oneOf` and `not` over objects whose branches overlap, against an independent validator."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

NAMES = [f"k{at}" for at in range(12)]


def bounded(name: str, least: int, *more: str) -> Any:
    return {"properties": {name: {"minimum": least}}, "required": [name, *more]}


def tagged(*tags: str, **more: Any) -> Any:
    return {"properties": {"k0": {"enum": list(tags)}, **more}, "required": ["k0"]}


SCHEMAS: dict[str, Any] = {
    "told apart by one member": {
        "oneOf": [tagged("a", k1={"minimum": 3}), tagged("b", "c"), tagged("d")]
    },
    "told apart by one member but for a branch": {
        "oneOf": [tagged("a", k1={"minimum": 3}), tagged("b", "a"), bounded("k2", 2)]
    },
    "twelve that all overlap": {"oneOf": [bounded(name, at) for at, name in enumerate(NAMES)]},
    "none of twelve": {"not": {"anyOf": [bounded(name, 3) for name in NAMES]}},
    "not all of two": {"not": {"allOf": [bounded(name, 3) for name in NAMES[:2]]}},
    "not one of four": {"not": {"oneOf": [bounded(name, 3) for name in NAMES[:4]]}},
    "with another member": {"oneOf": [bounded("k0", 2, "k1"), bounded("k1", 4), bounded("k2", 1)]},
    "a member of two schemas": {
        "not": {
            "properties": {"k0": {"minimum": 2}, "k1": {"maximum": 5}},
            "allOf": [{"properties": {"k0": {"maximum": 6}}}],
            "required": ["k0"],
        }
    },
    "a negated reference": {
        "$defs": {"a": bounded("k0", 4, "k1")},
        "not": {"$ref": "#/$defs/a"},
        "properties": {"k1": {"type": "integer"}},
    },
    "in an array": {
        "items": {"oneOf": [bounded(name, 2) for name in NAMES[:6]]},
        "maxItems": 2,
    },
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_gets_through_is_what_is_valid(masks, name: str) -> None:
    r = Random(name)
    schema = SCHEMAS[name] | {"type": "array" if "items" in SCHEMAS[name] else "object"}
    # So that members have one order.
    ordered: Any = {"properties": dict.fromkeys(NAMES, True)}
    schema = {"allOf": [ordered | {"items": ordered}, schema]} | {
        "$defs": schema.get("$defs", {}),
    }
    tree = {"kind": "json", "schema": schema}
    oracle = jsonschema.Draft202012Validator(schema)
    seen = {True: 0, False: 0}
    for _ in range(120):
        chosen = [one for one in NAMES if r.random() < r.choice((0.1, 0.3, 0.7))]
        instance: Any = {one: r.choice((0, 1, 2, 3, 4, 5, 11, "a", "b")) for one in chosen}
        if "items" in SCHEMAS[name]:
            instance = [instance] * r.randint(1, 2)
        valid = oracle.is_valid(instance)
        seen[valid] += 1
        assert masks.accepts(tree, json.dumps(instance)) == valid, instance
    assert min(seen.values()) > 1
    for _ in range(5):
        text = masks.walk(tree, r, 200)
        assert text is None or oracle.is_valid(json.loads(text)), text

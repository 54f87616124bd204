"""Random schemas, with the `jsonschema` package as the oracle: what the masks let through is valid,
what is valid gets through in the order that formgate writes, and no walk ends in a dead end.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from formgate.constrain.errors import ConstraintError

NAMES = ("a", "b", "c")
LEAVES: tuple[Any, ...] = (
    True,
    {"type": "integer"},
    {"type": "string"},
    {"type": "boolean"},
    {"const": 1},
    {"enum": ["a", "b", 2]},
    {"type": "null"},
    {"minimum": 2},
    {"maxLength": 1},
    {"pattern": "^a"},
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, 6, -1, 1.5, 2.5),
    *("", "a", "b", "ab", "axb", "7"),
)


def schema(r: Random, depth: int = 0) -> Any:
    if depth > 2 or r.random() < 0.1:
        return r.choice(LEAVES)
    built: dict[str, Any] = {}
    if r.random() < 0.6:
        built["type"] = r.choice(
            ["object", "object", "array", "string", "integer", "number", ["object", "array"]]
        )
    for keyword in r.sample(sorted(MAKERS), r.randint(1, 4)):
        built[keyword] = MAKERS[keyword](r, depth + 1)
    return built


def _some(r: Random, depth: int) -> list[Any]:
    return [schema(r, depth) for _ in range(r.randint(1, 3))]


def _count(r: Random, _: int) -> int:
    return r.randint(0, 3)


MAKERS: dict[str, Any] = {
    "properties": lambda r, d: {n: schema(r, d) for n in NAMES if r.random() < 0.6},
    "required": lambda r, _: [n for n in NAMES if r.random() < 0.4],
    "additionalProperties": lambda r, d: r.choice([False, {"type": "integer"}, schema(r, d)]),
    "patternProperties": lambda r, d: {r.choice(["^a", "b", "^x", "."]): schema(r, d)},
    "propertyNames": lambda r, _: r.choice([{"pattern": "^[a-c]"}, {"maxLength": 1}]),
    "minProperties": _count,
    "maxProperties": _count,
    "dependentRequired": lambda r, _: {r.choice(NAMES): [r.choice(NAMES)]},
    "dependentSchemas": lambda r, d: {r.choice(NAMES): schema(r, d)},
    "items": schema,
    "prefixItems": _some,
    "minItems": _count,
    "maxItems": _count,
    "uniqueItems": lambda *_: True,
    "contains": schema,
    "minLength": _count,
    "maxLength": _count,
    "pattern": lambda r, _: r.choice(["^a", "b$", "a.b", "[0-9]", "^(a|b)*$"]),
    "minimum": lambda r, _: r.choice([0, 1, 2, 1.5, -1]),
    "maximum": lambda r, _: r.choice([0, 1, 2, 1.5, -1]),
    "multipleOf": lambda r, _: r.choice([2, 3]),
    "enum": lambda r, _: r.choice([[1, "a", None], [[], 1, "b"], [{"a": 1}, 2]]),
    "const": lambda r, _: r.choice([1, "a", [1, 2], {"a": 1}]),
    "allOf": _some,
    "anyOf": _some,
    "oneOf": _some,
    "not": schema,
    "if": schema,
    "then": schema,
    "else": schema,
    "unevaluatedProperties": lambda r, d: r.choice([False, {"type": "integer"}]),
    "unevaluatedItems": lambda r, d: r.choice([False, {"type": "integer"}]),
}


def value(r: Random, depth: int = 0) -> Any:
    if depth > 2 or r.random() < 0.4:
        return r.choice(VALUES)
    if r.random() < 0.5:
        return [value(r, depth + 1) for _ in range(r.randint(0, 3))]
    names = sorted(r.sample(("a", "b", "c", "x", "zz"), r.randint(0, 3)))
    return {name: value(r, depth + 1) for name in names}


@pytest.mark.parametrize("batch", range(6))
def test_random_schemas_agree_with_an_independent_validator(masks, batch: int) -> None:
    accepted = refused = missed = walked = 0
    for seed in range(batch * 25, batch * 25 + 25):
        r = Random(seed)
        tree = {"kind": "json", "schema": schema(r)}
        oracle = jsonschema.Draft202012Validator(tree["schema"])
        try:
            masks.compiler.compile(masks.spec(tree))
        except ConstraintError as error:
            refused += 1
            if "allows no value" in error.message:
                assert not any(oracle.is_valid(value(r)) for _ in range(60)), (seed, tree)
            continue
        for _ in range(12):
            instance = value(r)
            got = masks.accepts(tree, json.dumps(instance))
            valid = oracle.is_valid(instance)
            assert valid or not got, (seed, tree, instance)
            accepted += got
            missed += valid and not got
        for _ in range(2):
            text = masks.walk(tree, r, 200)  # asserts that it never runs into a dead end
            if text is not None:
                walked += 1
                assert oracle.is_valid(json.loads(text)), (seed, tree, text)
    assert walked > 15
    assert accepted > 30
    assert missed <= accepted // 10, "key order apart, nearly all that is valid gets through"
    assert refused <= 12

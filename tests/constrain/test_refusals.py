"""Every refusal names the keyword, its JSON Pointer, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from formgate.constrain.errors import ConstraintError
from formgate.constrain.rules import grammar_rules, object_rules
from formgate.constrain.schema.schema_check import MAX_DEPTH
from formgate.constrain.schema_report import schema_report

ROWS = 70  # objects in an `enum`, none of which may come


def nested(levels: int, around: Callable[[Any], Any]) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(levels - 1):
        schema = around(schema)
    return schema


def at_p(schema: Any) -> Any:
    return {"type": "object", "properties": {"p": schema}}


def tagged(branch: int, way: int) -> Any:
    name = f"m{branch}_{way}"
    return {"type": "object", "properties": {name: {"minLength": way}}, "required": [name]}


def one_of_ways(branches: int, ways: int) -> list[Any]:
    return [{"anyOf": [tagged(at, way) for way in range(ways)]} for at in range(branches)]


def both_of(branch: int) -> Any:
    names = [f"a{branch}", f"b{branch}"]
    return {"properties": {name: {"minimum": branch} for name in names}, "required": names}


# (schema, pointer, keyword, a word of the remedy)
REFUSED: dict[str, tuple[Any, str, str, str]] = {
    "too many ways through allOf": (
        at_p({"allOf": one_of_ways(9, 4)}),
        "/properties/p/allOf",
        "allOf",
        "fewer branches",
    ),
    "too many ways behind a reference": (
        {"$defs": {"a": {"allOf": one_of_ways(9, 4)}}, "items": {"$ref": "#/$defs/a"}},
        "/$defs/a/allOf",
        "allOf",
        "fewer branches",
    ),
    "too many ways to differ from constants": (
        at_p({"not": {"enum": [{"a": {"b": at, "c": [at]}} for at in range(ROWS)]}}),
        "/properties/p/not/enum",
        "enum",
        "fewer branches",
    ),
    "alternatives that take too long": (
        at_p({"allOf": [{"anyOf": [tagged(at, way) for way in range(250)]} for at in range(2)]}),
        "/properties/p/allOf",
        "allOf",
        "fewer branches",
    ),
    "several members of any name that must be there, and many that they may be": (
        at_p(
            {
                "type": "object",
                "properties": {f"k{at}": {} for at in range(12)},
                "allOf": [{"not": {"additionalProperties": {"minLength": at}}} for at in (1, 2, 3)],
            }
        ),
        "/properties/p/allOf",
        "allOf",
        "fewer branches",
    ),
    "many branches of several members, which all overlap": (
        at_p({"oneOf": [both_of(at) for at in range(60)]}),
        "/properties/p/oneOf",
        "oneOf",
        "fewer branches",
    ),
    "many branches of arrays, which all overlap": (
        at_p({"oneOf": [{"items": {"minimum": at, "maximum": at + 1}} for at in range(60)]}),
        "/properties/p/oneOf",
        "oneOf",
        "fewer things",
    ),
    "many branches of patterns, which all overlap": (
        at_p({"oneOf": [{"patternProperties": {f"a{at}": {"minimum": 1}}} for at in range(30)]}),
        "/properties/p/oneOf",
        "oneOf",
        "`properties`",
    ),
    "many counts in one array": (
        at_p({"allOf": [{"contains": {"const": at}, "maxContains": 3} for at in range(9)]}),
        "/properties/p/allOf/0/contains",
        "contains",
        "fewer things",
    ),
    "a count that is too deep for items": (
        at_p({"type": "array", "contains": {"const": 1}, "minItems": 5000}),
        "/properties/p/minItems",
        "minItems",
        "Lower its counts",
    ),
    "a count that is too deep for members": (
        at_p({"type": "object", "minProperties": 5000}),
        "/properties/p/minProperties",
        "minProperties",
        "Lower its counts",
    ),
    "a step that is too large": (
        at_p({"type": "integer", "multipleOf": 1_000_000}),
        "/properties/p/multipleOf",
        "multipleOf",
        "number of steps",
    ),
    "a step beside what is excluded": (
        at_p({"allOf": [{"type": "integer", "multipleOf": 3}, {"not": {"const": 6}}]}),
        "/properties/p/allOf/0/multipleOf",
        "multipleOf",
        "enum",
    ),
    "the negation of multipleOf": (
        at_p({"not": {"multipleOf": 3}}),
        "/properties/p/not/multipleOf",
        "multipleOf",
        "which numbers may come",
    ),
    "the negation of uniqueItems": (
        at_p({"not": {"uniqueItems": True}}),
        "/properties/p/not/uniqueItems",
        "uniqueItems",
        "how many items",
    ),
    "the negation of unevaluatedProperties": (
        at_p({"not": {"type": "object", "unevaluatedProperties": False}}),
        "/properties/p/not/unevaluatedProperties",
        "unevaluatedProperties",
        "additionalProperties",
    ),
    "the negation of unevaluatedItems": (
        at_p({"not": {"type": "array", "unevaluatedItems": False}}),
        "/properties/p/not/unevaluatedItems",
        "unevaluatedItems",
        "`items`",
    ),
    "one level too many": (
        nested(MAX_DEPTH + 1, lambda schema: {"items": schema}),
        "/items" * MAX_DEPTH,
        "items",
        "$defs",
    ),
    "one level too many, by names": (
        nested(MAX_DEPTH + 1, lambda schema: {"properties": {"items": schema}}),
        "/properties/items" * MAX_DEPTH,
        "properties",
        "$defs",
    ),
    "bounds that leave nothing": (
        at_p({"type": "string", "minLength": 5, "maxLength": 3}) | {"required": ["p"]},
        "/properties/p/minLength",
        "minLength",
        "contradict",
    ),
    "an enum that leaves nothing": (
        {"type": "integer", "enum": ["a"]},
        "/enum",
        "enum",
        "contradict",
    ),
    "references to each other": (
        {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            "items": {"$ref": "#/$defs/a"},
        },
        "/$defs/a/$ref",
        "$ref",
        "below `properties`",
    ),
    "a reference to itself": ({"$ref": "#"}, "/$ref", "$ref", "below `properties`"),
}


def refusal(masks, tree: Any) -> ConstraintError:
    with pytest.raises(ConstraintError) as caught:
        masks.compiler.blueprint(masks.spec(tree))
    return caught.value


def assert_is(error: ConstraintError, pointer: str, keyword: str, remedy: str) -> None:
    assert (error.pointer, error.keyword) == (pointer, keyword)
    assert remedy in error.message
    assert pointer in error.message


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_place_and_remedy(masks, name) -> None:
    schema, *expected = REFUSED[name]
    assert_is(refusal(masks, {"kind": "json", "schema": schema}), *expected)


@pytest.mark.parametrize(
    ("module", "limit", "schema", "pointer", "keyword", "remedy"),
    [
        (
            object_rules,
            "MAX_STATES",
            at_p(
                {
                    "properties": {f"a{at}": {"type": "integer"} for at in range(16)},
                    "dependentRequired": {f"a{at}": [f"a{15 - at}"] for at in range(8)},
                }
            ),
            "/properties/p/dependentRequired",
            "dependentRequired",
            "`required`",
        ),
        (
            object_rules,
            "MAX_STATES",
            at_p({"type": "object", "minProperties": 120}),
            "/properties/p/minProperties",
            "minProperties",
            "lower the count",
        ),
        (
            grammar_rules,
            "MAX_RULES",
            at_p({"type": "array", "contains": {"const": 1}, "maxContains": 110}),
            "/properties/p/maxContains",
            "maxContains",
            "Lower its counts",
        ),
        (
            grammar_rules,
            "MAX_RULES",
            at_p({"const": [[at] for at in range(110)]}),
            "/properties/p/const",
            "const",
            "nest less",
        ),
    ],
)
def test_a_limit_names_place_and_remedy(
    masks, monkeypatch, module, limit, schema, pointer, keyword, remedy
) -> None:
    """With the limit lowered: to reach the real one takes seconds."""
    monkeypatch.setattr(module, limit, 100)
    assert_is(refusal(masks, {"kind": "json", "schema": schema}), pointer, keyword, remedy)


def test_a_guard_behind_text_of_any_kind(masks) -> None:
    schema = at_p({"type": "array", "uniqueItems": True})
    name = {"kind": "regex", "pattern": "[a-z]+"}
    error = refusal(masks, {"kind": "seq", "items": [name, {"kind": "json", "schema": schema}]})
    assert_is(error, "/properties/p/uniqueItems", "uniqueItems", "`begin`")


@pytest.mark.parametrize("keyword", ["items", "properties", "not"])
def test_as_many_levels_as_are_allowed(masks, keyword) -> None:
    around = {
        "items": lambda schema: {"items": schema},
        "properties": lambda schema: {"properties": {"a": schema}},
        "not": lambda schema: {"not": schema},
    }[keyword]
    schema = nested(MAX_DEPTH - 1, around)
    masks.start({"kind": "json", "schema": around(schema)})
    error = refusal(masks, {"kind": "json", "schema": around(around(schema))})
    assert error.keyword == keyword


def test_the_report_lists_the_limits(masks) -> None:
    limits = schema_report({}, masks.compiler)["limits"]
    assert limits["max_depth"] == MAX_DEPTH
    room = limits["max_spec_bytes"] - len(json.dumps({"tree": {"kind": "json", "schema": ""}}))
    for too_many in (0, 1):
        filled = {"description": "x" * (room - len('{"description": ""}') + 2 + too_many)}
        report = schema_report(filled, masks.compiler)
        assert report["supported"] is (too_many == 0)
    assert "$defs" in report["refused"]["message"]

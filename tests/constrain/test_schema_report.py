"""The report of a schema: every keyword, how it is held, and a shortest document."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from formgate.constrain.schema.ledger import LEDGER, How
from formgate.constrain.schema_report import LIMITS, schema_report

ORDER = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "title": "Order",
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "color": {"type": "string", "format": "color"},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True},
    },
    "required": ["id"],
    "additionalProperties": False,
    "x-of-ours": 1,
}
HELD = {
    "/title": How.ANNOTATION,
    "/x-of-ours": How.ANNOTATION,
    "/properties": How.MASK,
    "/properties/id/format": How.MASK,
    "/properties/color/format": How.ANNOTATION,
    "/properties/tags/uniqueItems": How.GUARD,
    "/properties/tags/items/enum": How.MASK,
}


def test_every_keyword_with_its_place(masks) -> None:
    report = schema_report(ORDER, masks.compiler)
    held = {entry["pointer"]: entry["how"] for entry in report["keywords"]}
    assert held.items() >= HELD.items()
    for entry in report["keywords"]:
        assert entry["pointer"].endswith("/" + entry["keyword"])
        if entry["how"] != How.ANNOTATION:
            assert entry["how"] == LEDGER[entry["keyword"]].how
            assert entry["note"] == LEDGER[entry["keyword"]].note
    assert report["supported"] is True
    assert report["draft"] == "7"
    assert report["guarded"] is True
    assert report["grammar_bytes"] > 0
    assert report["limits"] == LIMITS


@pytest.mark.parametrize(
    "schema",
    [
        ORDER,
        {"type": "integer", "multipleOf": 7, "minimum": 1},
        {"type": "array", "items": {"type": "string", "minLength": 2}, "minItems": 2},
        {"type": "object", "required": ["a"], "maxProperties": 1},
        True,
    ],
    ids=json.dumps,
)
def test_the_shortest_document_is_valid_and_counted(masks, schema: Any) -> None:
    shortest = schema_report(schema, masks.compiler)["shortest"]
    validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    validator(schema).validate(shortest["value"])
    assert json.loads(shortest["text"]) == shortest["value"]
    assert shortest["tokens"] == len(shortest["text"].encode())  # a token per byte
    assert masks.accepts({"kind": "json", "schema": schema}, shortest["text"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "uniqueItems": True},
        {"type": "object", "minProperties": 2},
    ],
    ids=json.dumps,
)
def test_no_shortest_document_is_told_where_a_guard_would_not_let_it_through(
    masks, schema: Any
) -> None:
    report = schema_report(schema, masks.compiler)
    assert report["supported"] is True
    assert report["guarded"] is True
    assert report["shortest"] is None


@pytest.mark.parametrize(
    ("schema", "pointer", "keyword", "code"),
    [
        ({"properties": {"a": {"extends": {}}}}, "/properties/a/extends", "extends", None),
        ({"items": {"type": "text"}}, "/items/type", "type", "invalid_schema"),
        ({"$ref": "other.json"}, "/$ref", "$ref", None),
        ({"type": "string", "pattern": "(a)\\1"}, "/pattern", "pattern", None),
        (7, "", None, "invalid_schema"),
    ],
)
def test_what_is_refused_is_said_in_the_report(
    masks, schema: Any, pointer: str, keyword: str | None, code: str | None
) -> None:
    report = schema_report(schema, masks.compiler)
    assert report["supported"] is False
    refused = report["refused"]
    assert (refused["pointer"], refused["keyword"]) == (pointer, keyword)
    assert refused["code"] == (code or "unsupported_schema")
    assert refused["message"]
    assert (report["guarded"], report["grammar_bytes"], report["shortest"]) == (None, None, None)

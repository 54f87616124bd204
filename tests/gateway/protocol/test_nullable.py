"""`nullable: true` offers null, as OpenAPI 3.0 means it, and changes nothing else."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest

from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.constraints import content_constraint
from formgate.gateway.protocol.nullable import offering_null
from formgate.gateway.protocol.parse import parse_object

NULLABLE: list[tuple[dict[str, Any], Any]] = [
    ({"type": "string", "minLength": 2}, "ab"),
    ({"type": ["string", "integer"]}, 1),
    ({"type": "string", "enum": ["a", "b"]}, "a"),
    ({"enum": ["a", "b"]}, "b"),
    ({"type": "string", "const": "a"}, "a"),
    ({"allOf": [{"$ref": "#/$defs/part"}], "description": "d"}, "part"),
    ({"$ref": "#/$defs/part"}, "part"),
    ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, 3),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "x"),
]


def within(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": schema, "nullable": {"type": "integer"}},
        "$defs": {"part": {"const": "part"}},
    }


@pytest.mark.parametrize(("schema", "value"), NULLABLE, ids=[str(each) for each, _ in NULLABLE])
def test_null_joins_what_the_schema_allows(schema: dict[str, Any], value: Any) -> None:
    before = jsonschema.Draft202012Validator(within(schema))
    after = jsonschema.Draft202012Validator(offering_null(within({**schema, "nullable": True})))
    for tried in (value, "", 2.5, [], {}, "c"):
        assert after.is_valid({"a": tried}) == before.is_valid({"a": tried}), tried
    assert after.is_valid({"a": None})
    assert not before.is_valid({"a": None})


@pytest.mark.parametrize(
    "schema",
    [
        within({"type": "string"}),
        within({"type": "string", "nullable": False}),
        within({"nullable": True}),
        {"enum": [{"type": "string", "nullable": True}]},
        True,
    ],
)
def test_other_schemas_stay_as_they_are(schema: Any) -> None:
    before = copy.deepcopy(schema)
    made = offering_null(schema)
    assert jsonschema.Draft202012Validator(made).is_valid({"nullable": None}) == (
        jsonschema.Draft202012Validator(before).is_valid({"nullable": None})
    )
    assert schema == before


def test_the_keywords_keep_their_places() -> None:
    schema = {"type": "array", "items": {"type": "string", "nullable": True, "pattern": "("}}
    made = offering_null(schema)
    assert made["items"] == {"type": ["string", "null"], "nullable": True, "pattern": "("}


def test_a_schema_too_deep_for_a_walk_is_left_to_the_compiler() -> None:
    schema: dict[str, Any] = {"type": "string", "nullable": True}
    for _ in range(5_000):
        schema = {"items": schema}
    assert offering_null(schema) is schema


def test_requests_are_read_so() -> None:
    schema = within({"type": "string", "nullable": True})
    body = {"messages": [{"role": "user", "content": "x"}], "json_schema": schema}
    constraint = content_constraint(parse_object(ChatCompletionRequest, body))
    assert constraint is not None
    assert constraint.value["properties"]["a"]["type"] == ["string", "null"]
    with pytest.raises(ApiError):
        content_constraint(parse_object(ChatCompletionRequest, {**body, "format": "json"}))

"""Whatever looks like a constraint is enforced or refused, at every depth of every body whose
answer could be constrained.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from formgate.gateway.apis.anthropic_request import chat_request_of as messages_chat
from formgate.gateway.apis.responses_request import chat_request_of as responses_chat
from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.constraints import content_constraint
from formgate.gateway.protocol.fields import GenerationRequest, RequestBody
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.protocol.responses import ResponsesRequest
from formgate.gateway.protocol.schema_check import SchemaCheckRequest

Path = tuple[str | int, ...]


def dotted(path: Path) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


LOOK_LIKE_CONSTRAINTS = [
    "schema", "json_schema", "json_object", "regex", "pattern", "grammar", "ebnf", "lark", "choice",
    "enum", "guided_json", "guided_regex", "guided_else", "structural_tag", "structured_output",
    "format", "response_schema", "output_schema", "constraint",
]  # fmt: skip
SCHEMA_KEYWORDS = ["type", "properties", "required", "items", "anyOf", "maxLength", "$ref", "const"]

SCHEMA = {"type": "object"}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA}
NAMED = {"type": "function", "function": {"name": "f"}}
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {}}
CHAT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "x"}],
    "tools": [{"type": "function", "function": FUNCTION}],
    **STREAMED,
}
RESPONSE: dict[str, Any] = {
    "input": "x",
    "tools": [{"type": "function", **FUNCTION}],
    "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
    "reasoning": {},
    "stream_options": {},
}
MESSAGE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 1,
    "tools": [{"name": "f", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "f"},
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    "thinking": {"type": "disabled"},
}
OLDER_MESSAGE = {key: value for key, value in MESSAGE.items() if key != "output_config"} | {
    "output_format": {"type": "json_schema", "schema": SCHEMA}
}
FORMATS = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "text"}},
    {"structured_outputs": {"json": SCHEMA}},
]
ALLOWED = {"mode": "auto", "tools": [NAMED]}
GRAMMAR = {"syntax": "lark", "definition": 'start: "x"'}
CUSTOM = {
    "type": "custom",
    "custom": {"name": "f", "format": {"type": "grammar", "grammar": GRAMMAR}},
}
NAMED_CUSTOM = {"type": "custom", "custom": {"name": "f"}}
RESPONSE_CUSTOM = {"type": "custom", "name": "f", "format": {"type": "grammar", **GRAMMAR}}
SOUND: list[tuple[type[RequestBody], dict[str, Any]]] = [
    *[(ChatCompletionRequest, CHAT | wanted) for wanted in FORMATS],
    *[(CompletionRequest, {"prompt": "x", **STREAMED, **wanted}) for wanted in FORMATS],
    (ChatCompletionRequest, CHAT | {"tool_choice": NAMED}),
    (
        ChatCompletionRequest,
        CHAT | {"tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}},
    ),
    (ChatCompletionRequest, CHAT | {"tools": [CUSTOM], "tool_choice": NAMED_CUSTOM}),
    (
        ChatCompletionRequest,
        CHAT
        | {
            "tools": [CUSTOM],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [NAMED_CUSTOM]},
            },
        },
    ),
    (ResponsesRequest, RESPONSE | {"tools": [RESPONSE_CUSTOM]}),
    (
        ResponsesRequest,
        RESPONSE | {"tools": [{"type": "namespace", "name": "n", "tools": [RESPONSE_CUSTOM]}]},
    ),
    (ResponsesRequest, RESPONSE | {"tool_choice": {"type": "function", "name": "f"}}),
    (
        ResponsesRequest,
        RESPONSE
        | {
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f"}],
            }
        },
    ),
    (MessagesRequest, MESSAGE),
    (MessagesRequest, OLDER_MESSAGE),
    (
        CountTokensRequest,
        {key: value for key, value in OLDER_MESSAGE.items() if key != "max_tokens"},
    ),
    (CountTokensRequest, {key: value for key, value in MESSAGE.items() if key != "max_tokens"}),
    (SchemaCheckRequest, {"schema": SCHEMA}),
    (SchemaCheckRequest, {"type": "json_schema", "json_schema": {"schema": SCHEMA}}),
]
# What is said to the model or kept with a request is data, and a schema is a language of its own.
NOT_FIELDS = {"messages", "input", "system", "documents", "metadata"} | {
    "schema",
    "json",
    "parameters",
    "input_schema",
}


def objects(value: object, path: Path = ()) -> Iterator[Path]:
    """Where the objects are that have fields."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            if key not in NOT_FIELDS:
                yield from objects(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from objects(item, (*path, i))


OBJECTS = [(body, whole, path) for body, whole in SOUND for path in objects(whole)]


def models(annotation: Any, path: Path = ()) -> Iterator[tuple[Path, type[BaseModel]]]:
    """The objects that a type describes."""
    if get_origin(annotation) in (Annotated, list):
        inner = (*path, 0) if get_origin(annotation) is list else path
        yield from models(get_args(annotation)[0], inner)
    elif get_origin(annotation) in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from models(each, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, annotation
        for name, info in annotation.model_fields.items():
            if name not in NOT_FIELDS:
                yield from models(info.annotation, (*path, info.alias or name))


def fields_at(body: type[RequestBody], path: Path) -> set[str]:
    return {
        info.alias or name
        for found, model in models(body)
        if found == path
        for name, info in model.model_fields.items()
    }


def with_field(whole: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    more: dict[str, Any] = copy.deepcopy(whole)
    target: Any = more
    for key in path:
        target = target[key]
    target[name] = {"type": "string"}
    return more


def ask(body: type[RequestBody], whole: dict[str, Any]) -> None:
    """All that an endpoint does before it looks at its model. Raises ApiError."""
    request = parse_object(body, whole)
    if isinstance(request, SchemaCheckRequest):
        request.asked()
        return
    if isinstance(request, ResponsesRequest):
        request, *_ = responses_chat(request)
    elif isinstance(request, CountTokensRequest):
        request, _ = messages_chat(request)
    assert isinstance(request, GenerationRequest)
    content_constraint(request)


def test_every_object_that_has_fields_is_tried() -> None:
    tried = {(body, path) for body, _, path in OBJECTS}
    bodies = {body for body, _ in SOUND}
    missing = {(body, path) for body in bodies for path, _ in models(body)} - tried
    assert not missing


@pytest.mark.parametrize(
    ("body", "whole", "path"),
    OBJECTS,
    ids=[f"{body.__name__}.{dotted(path)}-{i}" for i, (body, _, path) in enumerate(OBJECTS)],
)
def test_what_looks_like_a_constraint_is_read_or_refused(
    body: type[RequestBody], whole: dict[str, Any], path: Path
) -> None:
    ask(body, whole)
    if path != ("structured_outputs",):
        ask(body, with_field(whole, path, "some_extension"))
    known = fields_at(body, path)
    if not path and body in (ResponsesRequest, MessagesRequest, CountTokensRequest):
        known |= fields_at(ChatCompletionRequest, ())  # vLLM's extensions work there too
    names = [*LOOK_LIKE_CONSTRAINTS]
    if path and path[-1] in ("response_format", "json_schema", "format", "output_format"):
        names += SCHEMA_KEYWORDS
    is_tool = "tools" in path and "tool_choice" not in path
    for name in names:
        if name in known or (is_tool and name == "output_schema"):  # of what the tool answers
            continue
        with pytest.raises(ApiError) as refused:
            ask(body, with_field(whole, path, name))
        assert (refused.value.status, refused.value.param) == (400, dotted((*path, name)))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"type": "json_object", "schema": SCHEMA}, "response_format.schema"),
        ({"type": "json_schema", "schema": SCHEMA}, "response_format.schema"),
    ],
)
def test_a_schema_beside_the_type_is_the_constraint(fields: dict[str, Any], param: str) -> None:
    constraint = content_constraint(
        parse_object(CompletionRequest, {"prompt": "x", "response_format": fields})
    )
    assert constraint is not None
    assert (constraint.kind, constraint.value, constraint.param) == ("json", SCHEMA, param)


@pytest.mark.parametrize("schema", [None, {}, True])
def test_a_json_object_of_any_schema_is_any_object(schema: object) -> None:
    fields = {"type": "json_object", "schema": schema}
    constraint = content_constraint(
        parse_object(CompletionRequest, {"prompt": "x", "response_format": fields})
    )
    assert constraint is not None
    assert constraint.kind == "json_object"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"type": "text", "schema": SCHEMA}, "schema"),
        ({"type": "text", "json_schema": {"schema": SCHEMA}}, "json_schema"),
        ({"type": "json_object", "json_schema": {"schema": SCHEMA}}, "json_schema"),
        ({"type": "json_schema", "schema": {}, "json_schema": {"schema": {}}}, "schema"),
        ({"type": "structural_tag", "structures": [], "triggers": [], "schema": {}}, "schema"),
    ],
)
def test_a_schema_that_its_type_does_not_read_is_refused(
    fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(ApiError) as refused:
        ask(ChatCompletionRequest, CHAT | {"response_format": fields})
    assert refused.value.param == f"response_format.{param}"


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_responses_read_a_schema_beside_the_type_too(kind: str) -> None:
    text = {"format": {"type": kind, "schema": SCHEMA}}
    request = parse_object(ResponsesRequest, {"input": "x", "text": text})
    chat, _, places = responses_chat(request)
    if kind == "json_object":
        constraint = content_constraint(chat)
        assert constraint is not None
        assert constraint.value == SCHEMA
        return
    with pytest.raises(ApiError) as refused, places.in_errors():
        content_constraint(chat)
    assert refused.value.param == "text.format.schema"
    assert "response_format" not in refused.value.message

"""Every field of every body that an endpoint takes, nested ones too: what is no number, a million
bad members, a text without end, and a constraint that nobody reads are each one clear error.
"""

from __future__ import annotations

import json
import tracemalloc
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError

from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.fields import RequestBody
from formgate.gateway.protocol.parse import parse_body, parse_object
from formgate.gateway.protocol.responses import ResponsesRequest
from formgate.gateway.protocol.schema_check import SchemaCheckRequest
from formgate.gateway.protocol.tokenize import DetokenizeRequest, TokenizeRequest

BODIES: tuple[type[RequestBody], ...] = (
    ChatCompletionRequest,
    CompletionRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
    TokenizeRequest,
    DetokenizeRequest,
    SchemaCheckRequest,
)

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    body: type[RequestBody]
    path: Path
    accepts: Any  # the types that may stand here, without `Annotated` and unions
    models: tuple[type[BaseModel], ...]  # that the path leads through, the body first

    def __str__(self) -> str:
        return f"{self.body.__name__}.{dotted(self.path)}"

    def holding(self, value: object) -> dict[str, Any]:
        """A body that is sound but for `value` at this place."""
        return object_with(self.models, self.path, value)


def dotted(path: Path) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def places() -> Iterator[Place]:
    for body in BODIES:
        yield from _fields(body, body, (), ())


def _fields(
    body: type[RequestBody], model: type[BaseModel], path: Path, above: tuple[type[BaseModel], ...]
) -> Iterator[Place]:
    for name, info in model.model_fields.items():
        here = (*path, info.alias or name)
        yield from _types(body, info.annotation, here, (*above, model))


def _types(
    body: type[RequestBody], annotation: Any, path: Path, above: tuple[type[BaseModel], ...]
) -> Iterator[Place]:
    members = tuple(_members(annotation))
    yield Place(body, path, members, above)
    for member in members:
        if get_origin(member) is list:
            yield from _types(body, get_args(member)[0], (*path, 0), above)
        elif isinstance(member, type) and issubclass(member, BaseModel):
            yield from _fields(body, member, path, above)


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _members(each)
    else:
        yield annotation


def object_with(models: tuple[type[BaseModel], ...], path: Path, value: object) -> dict[str, Any]:
    model, *further = models
    whole = {
        info.alias or name: example(info.annotation)
        for name, info in model.model_fields.items()
        if info.is_required()
    }
    name, *rest = path
    whole[str(name)] = _inside(tuple(further), tuple(rest), value)
    return whole


def _inside(models: tuple[type[BaseModel], ...], path: Path, value: object) -> object:
    if not path:
        return value
    if path[0] == 0:
        return [_inside(models, path[1:], value)]
    return object_with(models, path, value)


def example(annotation: Any) -> Any:
    first = next(_members(annotation))
    origin = get_origin(first)
    if origin is Literal:
        return get_args(first)[0]
    if origin is list:
        return [example(get_args(first)[0])]
    if origin is dict or first is dict:
        return {}
    if isinstance(first, type) and issubclass(first, BaseModel):
        return {
            info.alias or name: example(info.annotation)
            for name, info in first.model_fields.items()
            if info.is_required()
        }
    return {str: "x", int: 1, float: 1.0, bool: True}[first]


ALL = list(places())
NUMBERS = [place for place in ALL if {int, float} & set(place.accepts)]
LISTS = [place for place in ALL if any(get_origin(each) is list for each in place.accepts)]
TEXTS = [place for place in ALL if str in place.accepts]
HOMOGENEOUS = [
    place
    for place in ALL
    if any(get_origin(each) is dict and get_args(each)[1] is not Any for each in place.accepts)
]

DIGITS = "9" * 4300
# By name, as JSON text. None of them is a number that any field takes.
NO_NUMBERS = {
    "4300 digits": DIGITS,
    "4300 digits below zero": "-" + DIGITS,
    "5000 digits": "9" * 5000,
    "1e400": "1e400",
    "NaN": "NaN",
    "Infinity": "Infinity",
    "-Infinity": "-Infinity",
    "1e308": "1e308",
    "-1e308": "-1e308",
    "true": "true",
    "text": '"1"',
}


def ids(some: list[Place]) -> list[str]:
    return [str(place) for place in some]


def refusal(place: Place, text: str) -> ApiError:
    body = json.dumps(place.holding("@here")).replace('"@here"', text)
    with pytest.raises(ApiError) as refused:
        parse_body(place.body, body)
    return refused.value


def test_the_walk_comes_upon_nested_fields() -> None:
    found = set(ids(ALL))
    assert "ChatCompletionRequest.messages[0].content[0].text" in found
    assert "ChatCompletionRequest.tool_choice.allowed_tools.tools[0].function.name" in found
    assert "CompletionRequest.prompt[0][0]" in found
    assert "MessagesRequest.thinking.budget_tokens" in found
    assert len(NUMBERS) > 40
    assert len(LISTS) > 40


@pytest.mark.parametrize("place", NUMBERS, ids=ids(NUMBERS))
@pytest.mark.parametrize("text", NO_NUMBERS.values(), ids=NO_NUMBERS)
def test_what_is_no_number_of_the_field_is_a_400_that_names_it(place: Place, text: str) -> None:
    if text == '"1"' and place.path == ("prompt", 0):
        return  # a list of texts
    error = refusal(place, text)
    assert (error.status, error.param) == (400, dotted(place.path))
    assert len(error.message) < 300


@pytest.mark.parametrize("place", LISTS, ids=ids(LISTS))
def test_a_million_bad_members_are_one_error(place: Place) -> None:
    """An object for each would take hundreds of megabytes."""
    whole = place.holding([-1.5] * 1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(ApiError) as refused:
            parse_object(place.body, whole)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
    assert refused.value.status == 400
    assert (refused.value.param or "").startswith(dotted(place.path))
    with pytest.raises(ValidationError) as found:
        place.body.model_validate(whole)
    assert len(found.value.errors()) <= 4  # one for each type that may stand there


@pytest.mark.parametrize("place", HOMOGENEOUS, ids=ids(HOMOGENEOUS))
def test_a_hundred_thousand_bad_members_of_an_object_are_one_error(place: Place) -> None:
    with pytest.raises(ValidationError) as found:
        place.body.model_validate(place.holding({str(i): "bad" for i in range(100_000)}))
    assert len(found.value.errors()) == 1


# Texts that may be as long as a body: they become tokens, or are read by what has its own limit.
UNBOUNDED = {
    "arguments", "content", "description", "input", "instructions", "output", "prompt",
    "reasoning", "reasoning_content", "refusal", "suffix", "system", "text", "thinking",
}  # fmt: skip
# Those of a constraint are bounded by the compiler's own limit.
CONSTRAINTS = {
    "definition",
    "json",
    "guided_json",
    "json_schema",
    "format",
    "regex",
    "pattern",
    "grammar",
    "ebnf",
    "guided_regex",
    "guided_grammar",
}


@pytest.mark.parametrize("place", TEXTS, ids=ids(TEXTS))
def test_a_text_is_bounded_or_becomes_tokens(place: Place) -> None:
    names = [key for key in place.path if isinstance(key, str)]
    if names[-1] in UNBOUNDED or ("choice" in names[-1] and place.path[-1] == 0):
        return
    size = 2_000_001 if CONSTRAINTS & set(names) or "whitespace" in names[-1] else 4_097
    error = refusal(place, json.dumps("x" * size))
    assert (error.status, error.param) == (400, dotted(place.path))

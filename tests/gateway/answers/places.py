"""Every field of every body that an endpoint takes, nested ones too: where a value of some type is
expected, and a whole body that has a given value there.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.fields import RequestBody
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
        return _object(self.models, self.path, value)


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


def _object(models: tuple[type[BaseModel], ...], path: Path, value: object) -> dict[str, Any]:
    model, *further = models
    whole = {
        info.alias or name: _example(info.annotation)
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
    return _object(models, path, value)


def _example(annotation: Any) -> Any:
    first = next(_members(annotation))
    origin = get_origin(first)
    if origin is Literal:
        return get_args(first)[0]
    if origin is list:
        return [_example(get_args(first)[0])]
    if origin is dict or first is dict:
        return {}
    if isinstance(first, type) and issubclass(first, BaseModel):
        return {
            info.alias or name: _example(info.annotation)
            for name, info in first.model_fields.items()
            if info.is_required()
        }
    return {str: "x", int: 1, float: 1.0, bool: True}[first]

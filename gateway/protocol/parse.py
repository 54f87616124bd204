"""Parses a body to a request, or to one error that names the field at fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from formgate.gateway.errors import ApiError, bad_request
from formgate.gateway.protocol.fields import RequestBody
from formgate.gateway.protocol.json_text import read_json

Request = TypeVar("Request", bound=RequestBody)

_ABSENT = object()


def parse_body(model: type[Request], body: bytes | str) -> Request:
    """Raises ApiError 400; `param` is a path such as `messages[0].content`."""
    return parse_object(model, read_json(body), num_bytes=len(body))


def parse_object(model: type[Request], value: object, *, num_bytes: int = 0) -> Request:
    """As `parse_body`, for a parsed body of `num_bytes` bytes."""
    try:
        request = model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
    else:
        request._num_bytes = num_bytes
        return request
    raise _api_error(details, value)


def _api_error(details: Sequence[Any], data: object) -> ApiError:
    # A union reports the errors of each member. The intended member is the one that found too many
    # items, as it accepted all before, or else the one whose error is deepest.
    details = [detail for detail in details if detail["type"] == "too_long"] or details
    located = [(_path(detail["loc"], detail["type"], data), detail) for detail in details]
    path, detail = max(located, key=lambda item: len(item[0]))
    same = [d for p, d in located if p == path]
    param = _dotted(path)
    said = [str(d["msg"]).replace(" after validation", "") for d in same]
    message = " or ".join(dict.fromkeys(map(_lower_first, said)))
    if detail["type"] == "missing":
        return bad_request(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    if not param:
        return bad_request(f"Invalid body: {message}.")
    return bad_request(f"Invalid value for '{param}': {message}.", param, _code(detail["type"]))


def _path(loc: Sequence[str | int], kind: str, data: object) -> tuple[str | int, ...]:
    """`loc` without the tags of union members, which are not part of the body."""
    path: list[str | int] = []
    for position, key in enumerate(loc):
        inner = _item(data, key)
        if inner is not _ABSENT:
            data = inner
        elif not (kind == "missing" and position == len(loc) - 1):
            continue
        path.append(key)
    return tuple(path)


def _item(data: object, key: str | int) -> object:
    if isinstance(data, dict):
        return data.get(key, _ABSENT)
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        return data[key]
    return _ABSENT


def _dotted(path: Sequence[str | int]) -> str:
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _code(kind: str) -> str:
    return "invalid_type" if kind.endswith("_type") else "invalid_value"

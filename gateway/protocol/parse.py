"""From the bytes of a body to a request, or to the one error that names the field at fault."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from formgate.gateway.errors import ApiError, bad_request

Request = TypeVar("Request", bound=BaseModel)

_ABSENT = object()


def parse_body(model: type[Request], body: bytes | str) -> Request:
    """Raises ApiError 400; `param` is a path such as `messages[0].content`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    raise _api_error(details, body)


def parse_object(model: type[Request], value: object) -> Request:
    """The same for a body that is already parsed."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    raise _api_error(details, value)


def _api_error(details: Sequence[Any], body: object) -> ApiError:
    if details[0]["type"] == "json_invalid":
        reason = str(details[0]["msg"]).removeprefix("Invalid JSON: ")
        return bad_request(f"The body of the request is not valid JSON: {reason}")
    data = json.loads(body) if isinstance(body, bytes | str) else body
    # A union tries each of its types, and the one that was meant got furthest.
    located = [(_path(detail["loc"], detail["type"], data), detail) for detail in details]
    path, detail = max(located, key=lambda item: len(item[0]))
    same = [d for p, d in located if p == path]
    param = _dotted(path)
    message = " or ".join(dict.fromkeys(_lower_first(str(d["msg"])) for d in same))
    if detail["type"] == "missing":
        return bad_request(
            f"Missing required parameter: '{param}'.", param, "missing_required_parameter"
        )
    if not param:
        return bad_request(f"Invalid body: {message}.")
    return bad_request(f"Invalid value for '{param}': {message}.", param, _code(detail["type"]))


def _path(loc: Sequence[str | int], kind: str, data: object) -> tuple[str | int, ...]:
    """`loc` without the names of union members, which are no part of the body."""
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

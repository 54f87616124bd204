"""Bounded JSON parsing: the number of objects is counted in the bytes before any is created.
Writing what was parsed, in a few milliseconds too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.limits import (
    MAX_JSON_CONTAINERS,
    MAX_JSON_LONG_DIGITS,
    MAX_JSON_MEMBERS,
    MAX_JSON_STRINGS,
    MAX_JSON_VALUES,
)
from formgate.gateway.protocol.surrogates import check_utf8, without_lone_surrogates

# Any text of this size is parsed within a few milliseconds.
SMALL_TEXT = 64 * 1024
_SLICE = 128 * 1024  # counted in one go
_MAX_DIGITS = 4_300  # Python's limit for an integer
_MEMBER_VALUES = 5  # a member takes as long to read as so many values
_TO_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_DIGITS = b"0" * 64


def read_json(text: bytes | str) -> Any:
    """The parsed value. Raises ApiError 400 for invalid JSON, or for too many values."""
    body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(body) > SMALL_TEXT:
        _check_size(body)
    try:
        return from_json(body, cache_strings="keys")
    except ValueError as error:
        reason = str(error)
    if reason.startswith("number out of range"):
        _refuse_long_integer(body)
    check_utf8(body)
    whole = without_lone_surrogates(body)
    if whole != body:
        return read_json(whole)
    raise bad_request(f"The body of the request is not valid JSON: {reason}")


@dataclass
class _Size:
    containers: int = 0
    members: int = 0
    strings: int = 0
    values: int = 0
    long_digits: int = 0  # of numbers, in blocks of 64


def _check_size(body: bytes) -> None:
    size = _Size()
    for outside, num_quotes in _outside_strings(body):
        size.containers += outside.count(b"{") + outside.count(b"[")
        size.members += outside.count(b":")
        size.strings += num_quotes
        size.values += outside.count(b",") + _MEMBER_VALUES * outside.count(b":")
        blocks = outside.translate(_TO_ZEROS).count(_LONG_DIGITS)
        size.long_digits += blocks * len(_LONG_DIGITS)
        for found, limit, what in (
            (size.containers, MAX_JSON_CONTAINERS, "objects and arrays"),
            (size.members, MAX_JSON_MEMBERS, "members of objects"),
            (size.strings // 2, MAX_JSON_STRINGS, "strings"),
            (size.values, MAX_JSON_VALUES, "values"),
            (size.long_digits, MAX_JSON_LONG_DIGITS, "digits in long numbers"),
        ):
            if found > limit:
                raise bad_request(
                    f"The body of the request has more than {limit} {what}.",
                    None,
                    "request_too_complex",
                )


def _outside_strings(body: bytes) -> Iterator[tuple[bytes, int]]:
    """For each slice: the bytes outside of strings, and the number of quotation marks."""
    inside = 0
    start = 0
    while start < len(body):
        end = min(start + _SLICE, len(body))
        while end < len(body) and body[end - 1] == 0x5C:  # do not split an escape
            end = min(end + _SLICE, len(body))
        # A run of backslashes begins in this slice, so its pairs are escaped backslashes.
        plain = body[start:end].replace(rb"\\", b"").replace(rb"\"", b"")
        parts = plain.split(b'"')
        yield b"".join(parts[inside::2]), len(parts) - 1
        inside ^= (len(parts) - 1) & 1
        start = end


def write_json(value: Any) -> str:
    """The compact JSON text of a parsed value. Raises ValueError for NaN and Infinity, which JSON
    lacks. `json.dumps` takes five times as long: 120 ms for a million numbers, with the GIL held.
    """
    try:
        text = to_json(value)
    except PydanticSerializationError:  # nested beyond its limit, or half of a surrogate pair
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    may_hold = b"NaN" in text or b"Infinity" in text
    if may_hold and any(b"N" in part or b"I" in part for part, _ in _outside_strings(text)):
        raise ValueError("NaN and Infinity are no JSON")
    return text.decode()


def _refuse_long_integer(body: bytes) -> None:
    """Raises ApiError 400 that names an integer with too many digits, if there is one."""
    try:
        data = json.loads(body, parse_int=_LongInteger.of)
    except (ValueError, RecursionError):
        return
    path = _path_of_long_integer(data)
    if path is not None:
        raise bad_request(
            f"Invalid value for '{path}': an integer has at most {_MAX_DIGITS} digits.",
            path,
            "invalid_value",
        )


class _LongInteger:
    @classmethod
    def of(cls, digits: str) -> _LongInteger | None:
        """None for an integer that may be read: its value does not matter here."""
        return cls() if len(digits.removeprefix("-")) > _MAX_DIGITS else None


def _path_of_long_integer(data: object) -> str | None:
    waiting: list[tuple[str, object]] = [("", data)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, _LongInteger):
            return path
        if isinstance(value, dict):
            waiting += [(f"{path}.{key}" if path else key, item) for key, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    return None

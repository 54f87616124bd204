"""Bodies with lone surrogates or invalid UTF-8."""

from __future__ import annotations

import re

from formgate.gateway.errors import bad_request

MAX_FIELD_SEARCH = 1_000_000  # bytes before the invalid one
# An escaped surrogate: a high one with or without its low one, or a low one alone. Matches a whole
# run of backslashes, since only an odd run ends in an escape.
_SURROGATES = re.compile(
    rb"(?<!\\)(\\+)u(?:([dD][89abAB][0-9a-fA-F]{2})(\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    rb"|([dD][c-fC-F][0-9a-fA-F]{2}))"
)
_REPLACEMENT = rb"\ufffd"
_NAME = re.compile(rb'"([A-Za-z_][A-Za-z0-9_]{0,63})"\s*:')


def without_lone_surrogates(body: bytes) -> bytes:
    """JSON with each lone surrogate escape replaced by U+FFFD. Clients send them if they cut a text
    inside an emoji.
    """
    return _SURROGATES.sub(_whole_characters, body)


def _whole_characters(found: re.Match[bytes]) -> bytes:
    backslashes, high, low, lone = found.groups()
    if len(backslashes) % 2 == 0:  # no escape, but its low half may be one
        return backslashes + b"u" + (high or lone) + (_REPLACEMENT if low else b"")
    return found[0] if low else backslashes[:-1] + _REPLACEMENT


def check_utf8(body: bytes) -> None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise bad_request(
            f"The body of the request is not valid UTF-8: byte {error.start} is no character.",
            _field_before(body[: error.start]),
            "invalid_value",
        ) from None


def _field_before(text: bytes) -> str | None:
    """The last member name before an invalid byte."""
    names = _NAME.findall(text[-MAX_FIELD_SEARCH:])
    return names[-1].decode("utf-8", "replace") if names else None

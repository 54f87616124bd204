"""Bodies that hold half a character, or bytes that are none."""

from __future__ import annotations

import re

from formgate.gateway.errors import bad_request

MAX_FIELD_SEARCH = 1_000_000  # bytes in front of one that is wrong
# An escape of half a character: high and perhaps its low one, or a low one alone. A run of
# backslashes is taken whole, since only an odd one ends in an escape.
_SURROGATES = re.compile(
    rb"(?<!\\)(\\+)u(?:([dD][89abAB][0-9a-fA-F]{2})(\\u[dD][c-fC-F][0-9a-fA-F]{2})?"
    rb"|([dD][c-fC-F][0-9a-fA-F]{2}))"
)
_REPLACEMENT = rb"\ufffd"
_NAME = re.compile(rb'"([A-Za-z_][A-Za-z0-9_]{0,63})"\s*:')


def without_lone_surrogates(body: bytes) -> bytes:
    """JSON in which every escape of half a character is one of U+FFFD. Clients that cut a text
    between the halves of an emoji send such escapes.
    """
    return _SURROGATES.sub(_whole_characters, body)


def _whole_characters(found: re.Match[bytes]) -> bytes:
    backslashes, high, low, lone = found.groups()
    if len(backslashes) % 2 == 0:  # none of an escape, but perhaps in front of one
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
    """The last member's name in front of a value that is no text."""
    names = _NAME.findall(text[-MAX_FIELD_SEARCH:])
    return names[-1].decode("utf-8", "replace") if names else None

"""Ids of tool calls, in the shape that a family's chat template expects in the next turn."""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable

from formgate.parsers.formats.format import Format

_ALPHANUMERIC = string.ascii_letters + string.digits


def mistral_call_id() -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))


def openai_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def call_id_maker(format: Format | None) -> Callable[[], str]:
    """A maker of ids for calls whose id is not part of the answer."""
    return (
        mistral_call_id if format is not None and format.call_ids == "mistral" else openai_call_id
    )

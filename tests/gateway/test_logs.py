"""Log lines that nobody outside can forge, and that quote nothing."""

from __future__ import annotations

import json
import logging
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from formgate.gateway.logs import JsonFormatter, TextFormatter, printable

SECRET = "the answer to it all"
HOSTILE = "a\nINFO\r\x1b[2J\u2028\u202e\u2066\ud800\x00\x85\u200b b"


def record(message: str, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("name", logging.ERROR, "file", 1, "%s", (message,), info)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None)))  # lone surrogates too
def test_what_is_shown_is_one_line_of_printable_text(text: str) -> None:
    shown = printable(text)
    assert all(unicodedata.category(one)[0] not in "C" for one in shown)
    assert len(f"x{shown}x".splitlines()) == 1
    shown.encode()
    assert printable(shown) == shown
    line = TextFormatter().format(record(text))
    assert len(line.splitlines()) == 1
    told = JsonFormatter().format(record(text))
    assert told.isascii()
    assert len(told.splitlines()) == 1
    assert json.loads(told)["message"] == text


class Body(BaseModel):
    number: int


def failures() -> list[BaseException]:
    found: list[BaseException] = []
    for action in (
        lambda: {}[SECRET],
        lambda: Body.model_validate({"number": SECRET}),
        lambda: int(SECRET),
        lambda: json.loads('{"' + SECRET),
    ):
        try:
            try:
                action()
            except (KeyError, ValueError) as error:
                raise RuntimeError(SECRET) from error
        except RuntimeError as error:
            found.append(error)
    return found


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_an_exception_is_shown_without_what_it_quotes(formatter: type[logging.Formatter]) -> None:
    for error in failures():
        text = formatter().format(record("failed", error))
        assert SECRET not in text
        assert "RuntimeError" in text
        assert type(error.__cause__).__name__ in text
    assert isinstance(failures()[1].__cause__, ValidationError)


def test_level_debug_shows_messages_too() -> None:
    text = TextFormatter(with_messages=True).format(record("failed", failures()[0]))
    assert f"RuntimeError: {SECRET}" in text


def test_the_systems_errors_are_shown_whole() -> None:
    text = TextFormatter().format(record("failed", OSError(28, "No space left on device")))
    assert text.endswith("    OSError: [Errno 28] No space left on device")


def test_no_line_of_a_stack_looks_like_one_of_the_log() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        text = TextFormatter(with_messages=True).format(record(HOSTILE, error))
    first, *rest = text.split("\n")
    assert first.startswith("ERROR ")
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert len(text.splitlines()) == len(rest) + 1

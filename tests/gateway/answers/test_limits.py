"""Limits on what a body may hold, for every field of every endpoint at once."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any, get_args, get_origin

import pytest
from pydantic import ValidationError

from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.json_text import read_json
from formgate.gateway.protocol.limits import (
    MAX_JSON_CONTAINERS,
    MAX_JSON_STRINGS,
    MAX_JSON_VALUES,
    MAX_METADATA,
)
from formgate.gateway.protocol.parse import parse_body, parse_object
from tests.gateway.answers.places import Place, dotted, places

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
    assert len(LISTS) > 50


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
CONSTRAINTS = {"json", "guided_json", "regex", "grammar", "guided_regex", "guided_grammar"}


@pytest.mark.parametrize("place", TEXTS, ids=ids(TEXTS))
def test_a_text_is_bounded_or_becomes_tokens(place: Place) -> None:
    names = [key for key in place.path if isinstance(key, str)]
    if names[-1] in UNBOUNDED or ("choice" in names[-1] and place.path[-1] == 0):
        return
    size = 2_000_001 if CONSTRAINTS & set(names) or "whitespace" in names[-1] else 4_097
    error = refusal(place, json.dumps("x" * size))
    assert (error.status, error.param) == (400, dotted(place.path))


def body_with(text: str) -> str:
    return '{"messages": [{"role": "user", "content": "x"}], "unknown": ' + text + "}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" + ",".join(["[]"] * (MAX_JSON_CONTAINERS + 1)) + "]", "objects and arrays"),
        ("[" + ",".join(["{}"] * (MAX_JSON_CONTAINERS + 1)) + "]", "objects and arrays"),
        ("[" + ",".join(['""'] * (MAX_JSON_STRINGS + 1)) + "]", "strings"),
        (
            "{" + ",".join(f'"{i}":0' for i in range(MAX_JSON_STRINGS + 1)) + "}",
            "strings",
        ),
        ("[" + ",".join(["0"] * (MAX_JSON_VALUES + 1)) + "]", "values"),
    ],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_read(text: str, what: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_body(ChatCompletionRequest, body_with(text))
    assert refused.value.status == 400
    assert what in refused.value.message


@pytest.mark.parametrize(
    "content",
    [
        "[{,:" * 200_000,
        '"' * 300_000,
        "\\" * 400_000,
        '\\"[' * 200_000,
        "\\" * 131_071 + '"' + "[" * 200_000,
        '"' + "\\" * 131_072 + '",[' * 60_000,
    ],
    ids=["structure", "quotes", "backslashes", "both", "over a slice", "quoted"],
)
def test_what_stands_in_a_text_is_not_counted(content: str) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": content}]})
    assert parse_body(ChatCompletionRequest, body).messages[0].content == content


def test_metadata_is_bounded() -> None:
    user = [{"role": "user", "content": "x"}]
    given = {str(i): "x" for i in range(MAX_METADATA + 1)}
    with pytest.raises(ApiError) as refused:
        parse_object(ChatCompletionRequest, {"messages": user, "metadata": given})
    assert refused.value.param == "metadata"
    assert str(MAX_METADATA) in refused.value.message


def test_an_integer_too_long_for_any_reader_is_named_where_it_stands() -> None:
    with pytest.raises(ApiError) as refused:
        read_json('{"a": [1, {"b": ' + "1" * 10_000 + "}]}")
    assert refused.value.param == "a[1].b"

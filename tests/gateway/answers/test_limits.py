"""What a body may hold, counted before it is read; and what several fields ask for together."""

from __future__ import annotations

import json

import pytest

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

"""What a body may hold, counted before it is read; and what several fields ask for together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.answers.engine_requests import engine_requests
from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.completion import CompletionRequest
from formgate.gateway.protocol.json_text import read_json, write_json
from formgate.gateway.protocol.limits import (
    MAX_ALTERNATIVES,
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORDS,
    MAX_JSON_CONTAINERS,
    MAX_JSON_LONG_DIGITS,
    MAX_JSON_MEMBERS,
    MAX_JSON_STRINGS,
    MAX_JSON_VALUES,
    MAX_LOGIT_BIAS,
    MAX_METADATA,
    MAX_SEQUENCES,
    MAX_STOP_CHARS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
    MAX_STOPS_CHARS,
    MAX_TOKEN_IDS,
)
from formgate.gateway.protocol.parse import parse_body, parse_object
from formgate.gateway.protocol.rules import check_chat, check_completion
from formgate.gateway.protocol.tokenize import DetokenizeRequest


def body_with(text: str) -> str:
    return '{"messages": [{"role": "user", "content": "x"}], "unknown": ' + text + "}"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" + ",".join(["[]"] * (MAX_JSON_CONTAINERS + 1)) + "]", "objects and arrays"),
        ("[" + ",".join(["{}"] * (MAX_JSON_CONTAINERS + 1)) + "]", "objects and arrays"),
        ("[" + ",".join(['""'] * (MAX_JSON_STRINGS + 1)) + "]", "strings"),
        (
            "{" + ",".join(f'"{i}":0' for i in range(MAX_JSON_MEMBERS + 1)) + "}",
            "members",
        ),
        ("[" + ",".join(["0"] * (MAX_JSON_VALUES + 1)) + "]", "values"),
        (
            "[{" + ",".join([f'"{i}":0' for i in range(MAX_JSON_MEMBERS - 10)]) + "}"
            ",0" * (MAX_JSON_VALUES // 2) + "]",
            "values",
        ),
        (
            "[" + ",".join(["12345678901234567890" * 200] * (MAX_JSON_LONG_DIGITS // 3_900)) + "]",
            "digits in long numbers",
        ),
        ("[" + ",".join(["-" + "9" * 100] * 100_000) + "]", "digits in long numbers"),
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


def test_a_list_may_have_all_ids_that_its_limit_allows() -> None:
    ids = [5] * MAX_TOKEN_IDS
    body = json.dumps({"model": "m", "tokens": ids})
    assert parse_body(DetokenizeRequest, body).tokens == ids


def test_long_texts_of_digits_and_many_short_numbers_are_no_long_numbers() -> None:
    for unknown in (["9" * 3_000_000], [123_456_789] * 300_000):
        body = body_with(json.dumps(unknown))
        assert parse_body(ChatCompletionRequest, body).model_extra == {"unknown": unknown}


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
    with pytest.raises(ApiError) as refused:
        read_json(f'{{"a": -{"1" * 4_300}, "b": [-{"1" * 4_301}]}}')
    assert refused.value.param == "b[0]"


def refused_chat(**fields: Any) -> ApiError:
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    with pytest.raises(ApiError) as refused:
        check_chat(parse_object(ChatCompletionRequest, body), max_logprobs=20)
    return refused.value


def refused_completion(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        check_completion(
            parse_object(CompletionRequest, {"prompt": "x", **fields}), max_logprobs=20
        )
    return refused.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop": "x" * (MAX_STOP_CHARS + 1)}, "stop"),
        ({"stop": ["x", "x" * (MAX_STOP_CHARS + 1)]}, "stop[1]"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop"),
        ({"stop": ["x" * MAX_STOP_CHARS] * (MAX_STOPS_CHARS // MAX_STOP_CHARS + 1)}, "stop"),
        ({"stop_token_ids": [1] * (MAX_STOP_TOKEN_IDS + 1)}, "stop_token_ids"),
        ({"bad_words": ["x"] * (MAX_BAD_WORDS + 1)}, "bad_words"),
        ({"bad_words": ["x" * (MAX_BAD_WORD_CHARS + 1)]}, "bad_words[0]"),
        ({"bad_words": ["x" * MAX_BAD_WORD_CHARS] * 65}, "bad_words"),
        ({"logit_bias": {str(i): 1.0 for i in range(MAX_LOGIT_BIAS + 1)}}, "logit_bias"),
        ({"allowed_token_ids": [1] * (MAX_TOKEN_IDS + 1)}, "allowed_token_ids"),
        ({"guided_choice": ["x"] * (MAX_ALTERNATIVES + 1)}, "guided_choice"),
    ],
)
def test_each_limit_is_a_400_that_names_the_field(fields: dict[str, Any], param: str) -> None:
    for error in (refused_chat(**fields), refused_completion(**fields)):
        assert (error.status, error.param) == (400, param)
        assert any(digit in error.message for digit in "123456789"), error.message


def test_sequences_are_bounded_by_their_product() -> None:
    error = refused_completion(prompt=["x"] * 17, n=128)
    assert (error.param, str(MAX_SEQUENCES) in error.message) == ("n", True)
    assert refused_completion(prompt=["x"] * 17, best_of=128).param == "best_of"
    assert refused_completion(prompt=["x"] * (MAX_SEQUENCES + 1)).param == "prompt"


@pytest.mark.parametrize(("count", "param"), [(1, "prompt"), (128, "n")])
def test_the_ids_of_all_sequences_are_bounded_together(count: int, param: str) -> None:
    prompts = [[1]] * (2_048 // count)
    params = [SamplingParams(allowed_token_ids=(7,) * 2_000)] * len(prompts)
    request = parse_object(CompletionRequest, {"prompt": "x"})
    with pytest.raises(ApiError) as refused:
        engine_requests(request, "id", prompts, params, count=count)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert len(engine_requests(request, "id", prompts[:8], params[:8], count=count)) == 8 * count


@pytest.mark.parametrize(
    "text",
    [
        '{"a":[1,-0.0,1.5,true,null,"\\u2028é\\"NaN\\"",[],{}],"":{"b":123456789012345678901}}',
        "[" * 199 + "]" * 199,
        '"Infinity"',
        "5e-324",
    ],
)
def test_what_was_read_is_written_again(text: str) -> None:
    value = read_json(text)
    written = write_json(value)
    assert read_json(written) == value
    assert json.loads(written) == value
    assert "\n" not in written


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999", "-1" + "0" * 400 + ".0"])
def test_a_number_that_json_lacks_is_not_written(number: str) -> None:
    value = read_json('{"enum": ["' + "x" * 200_000 + '", ' + number + "]}")
    with pytest.raises(ValueError, match="NaN"):
        write_json(value)


def test_values_beyond_a_body_are_written_too() -> None:
    deep: Any = "\ud800"
    for _ in range(300):
        deep = [deep]
    assert json.loads(write_json(deep)) == deep
    with pytest.raises(ValueError, match="JSON"):
        write_json([deep, float("nan")])

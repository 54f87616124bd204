from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.metrics import Metrics
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object

USER = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
            "required": ["city"],
        },
    },
}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
ONE_CALL = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
TWO_CALLS = (
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
    '{"name": "get_weather", "arguments": {"city": "Par}]\\"is", "unit": "kelvin"}}]'
)
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}

Serve = Callable[..., ChatService]


def request_of(**fields: Any) -> ChatCompletionRequest:
    return parse_object(ChatCompletionRequest, {"model": "tiny", "messages": [USER], **fields})


def complete(service: ChatService, **fields: Any) -> dict[str, Any]:
    async def validated() -> Any:
        answer = await service.complete(request_of(**fields))
        await service._planner.last_validation.idle()
        return answer

    answer = asyncio.run(validated())
    ChatCompletion.model_validate(answer)
    return json.loads(json.dumps(answer))


def stream(service: ChatService, **fields: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        async with aclosing(service.stream(request_of(stream=True, **fields))) as steps:
            chunks = [chunk async for chunks in steps for chunk in chunks]
        await service._planner.last_validation.idle()
        return chunks

    chunks = json.loads(json.dumps(asyncio.run(collect())))
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks


def folded(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """What an SDK makes of a stream: strings are joined, and a role, id or name comes once."""
    message: dict[str, Any] = {"content": "", "reasoning": "", "calls": [], "finish_reason": None}
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning"] += delta.get("reasoning") or ""
            assert delta.get("reasoning") == delta.get("reasoning_content")
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    assert call["index"] == len(message["calls"])
                    message["calls"].append({"id": call["id"], **call["function"]})
                else:
                    message["calls"][call["index"]]["arguments"] += call["function"]["arguments"]
                    assert set(call["function"]) == {"arguments"}
            if choice["finish_reason"] is not None:
                assert message["finish_reason"] is None, "one finish_reason for each choice"
                message["finish_reason"] = choice["finish_reason"]
    return message


def whole(answer: dict[str, Any], index: int = 0) -> dict[str, Any]:
    choice = answer["choices"][index]
    message = choice["message"]
    calls = [{"id": call["id"], **call["function"]} for call in message.get("tool_calls", ())]
    return {
        "content": message["content"] or "",
        "reasoning": message["reasoning_content"] or "",
        "calls": calls,
        "finish_reason": choice["finish_reason"],
    }


def num_invalid(metrics: Metrics) -> float | None:
    name = "formgate:structured_answers_invalid_total"
    return metrics.registry.get_sample_value(name, {"model_name": "tiny", "engine": "0"})


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "calls": [{**call, "id": ""} for call in message["calls"]]}


def test_a_whole_answer_has_every_field_of_openai(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay("Hello, world! 你好")))
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["model"] == "tiny"
    assert answer["system_fingerprint"].startswith("fp_")
    assert answer["service_tier"] is None
    choice = answer["choices"][0]
    assert choice["message"]["content"] == "Hello, world! 你好"
    assert choice["message"]["role"] == "assistant"
    assert "tool_calls" not in choice["message"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 0


def test_what_a_choice_finds_of_another_was_not_cached(serve: Serve, replay: Any) -> None:
    engine = replay("Hello")
    engine.cached = [1, 4, 4]
    usage = complete(serve(engine), n=3)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 1


ANSWERS = [
    pytest.param("Hello, world! 你好 \U0001f600", {}, id="text"),
    pytest.param(ONE_CALL, {"tools": [WEATHER]}, id="call"),
    pytest.param(TWO_CALLS, {"tools": [WEATHER]}, id="calls"),
    pytest.param("Let me see. " + ONE_CALL, {"tools": [WEATHER]}, id="text and call"),
    pytest.param("It is 18 / 2.\n</think>\n\nIt is 9.", THINKING, id="reasoning"),
    pytest.param("hm\n</think>\n\n" + ONE_CALL, {**THINKING, "tools": [WEATHER]}, id="all"),
    pytest.param("one two three four", {"stop": ["thr", "x"]}, id="stop"),
    pytest.param("one two three four", {"max_tokens": 3}, id="length"),
    pytest.param("never ends", {**THINKING, "max_tokens": 3}, id="reasoning only"),
]


@pytest.mark.parametrize(("text", "fields"), ANSWERS)
@pytest.mark.parametrize("burst", [1, 3, 100])
def test_the_stream_folds_to_the_whole_answer(
    serve: Serve, replay: Any, text: str, fields: dict[str, Any], burst: int
) -> None:
    whole_answer = complete(serve(replay(text)), **fields)
    chunks = stream(
        serve(replay(text, burst=burst)), stream_options={"include_usage": True}, **fields
    )
    assert without_ids(folded(chunks)) == without_ids(whole(whole_answer))
    usage = chunks[-1]["usage"]
    assert chunks[-1]["choices"] == []
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    if "stop" not in fields:  # a burst may bring tokens after the stop string
        assert usage == whole_answer["usage"]
    assert [c["choices"][0]["delta"].get("role") for c in chunks[:2]] == ["assistant", None]
    for chunk in chunks[1:-1]:  # no empty deltas, but that of the finish_reason
        choice = chunk["choices"][0]
        assert choice["delta"] or choice["finish_reason"]


def test_a_call(serve: Serve, replay: Any) -> None:
    message = complete(serve(replay(ONE_CALL)), tools=[WEATHER])["choices"][0]
    assert message["finish_reason"] == "tool_calls"
    assert message["message"]["content"] is None
    (call,) = message["message"]["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}
    assert len(call["id"]) == 9
    assert call["id"].isalnum()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"tool_choice": NAMED}, "stop"),
        ({"tool_choice": "required"}, "tool_calls"),
        ({"tool_choice": NAMED, "max_tokens": 5}, "length"),
    ],
)
def test_finish_reasons_of_calls(
    serve: Serve, replay: Any, fields: dict[str, Any], reason: str
) -> None:
    answer = complete(serve(replay(ONE_CALL)), tools=[WEATHER], **fields)
    assert answer["choices"][0]["finish_reason"] == reason


def test_reasoning_is_split_and_counted(serve: Serve, replay: Any, tokenizer: Tokenizer) -> None:
    text = "It is 18 / 2.\n</think>\n\nIt is 9."
    answer = complete(serve(replay(text)), **THINKING)
    message = answer["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == "It is 18 / 2."
    assert message["content"] == "It is 9."
    reasoned = tokenizer.encode("It is 18 / 2.\n</think>", add_special_tokens=False)
    details = answer["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == len(reasoned)
    hidden = complete(serve(replay(text)), include_reasoning=False, **THINKING)
    assert hidden["choices"][0]["message"]["reasoning_content"] is None
    assert hidden["usage"] == answer["usage"]


def test_without_an_end_everything_is_reasoning(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay("never ends at all")), **THINKING, max_tokens=4)
    assert answer["choices"][0]["message"]["content"] is None
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 4


def test_a_stop_string_ends_the_engine_request(serve: Serve, replay: Any) -> None:
    engine = replay("one two three four")
    choice = complete(serve(engine), stop="three")["choices"][0]
    assert choice["message"]["content"] == "one two "
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "three")
    assert engine.closed == [engine.requests[0].request_id]
    included = complete(
        serve(replay("one two three four")), stop="three", include_stop_str_in_output=True
    )
    assert included["choices"][0]["message"]["content"] == "one two three"


def test_a_stop_string_never_cuts_arguments(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay(TWO_CALLS)), tools=[WEATHER], stop=["Paris", "]"])
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert [json.loads(call["function"]["arguments"])["city"] for call in calls] == [
        "Paris",
        'Par}]"is',
    ]


def test_several_choices(serve: Serve, replay: Any) -> None:
    engine = replay("Hello", "world", burst=1)
    chunks = stream(serve(engine), n=3, seed=5)
    assert [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 2]
    assert all(chunk["choices"][0]["delta"]["role"] for chunk in chunks[:3])
    assert [folded(chunks, i)["content"] for i in range(3)] == ["Hello", "world", "Hello"]
    assert [request.params.seed for request in engine.requests] == [5, 6, 7]
    assert [request.request_id[-2:] for request in engine.requests] == ["-0", "-1", "-2"]
    answer = complete(serve(replay("Hello", "world")), n=2)
    assert [whole(answer, i)["content"] for i in range(2)] == ["Hello", "world"]


def test_logprobs(serve: Serve, replay: Any, tokenizer: Tokenizer) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True}
    choice = complete(serve(replay("Hello 你")), **fields)["choices"][0]
    content = choice["logprobs"]["content"]
    spelled = b"".join(bytes(entry["bytes"]) for entry in content)
    assert spelled.decode() == "Hello 你"
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    assert content[0]["logprob"] == -9999.0
    ids = tokenizer.encode("Hello 你", add_special_tokens=False)
    assert choice["token_ids"] == [*ids, 2]
    chunks = stream(serve(replay("Hello 你")), **fields)
    parts = [chunk["choices"][0] for chunk in chunks]
    entries = [e for part in parts if part["logprobs"] for e in part["logprobs"]["content"]]
    assert entries == content
    assert [i for part in parts for i in part.get("token_ids", ())] == choice["token_ids"]
    assert chunks[0]["prompt_token_ids"][0] == 1


def test_usage_in_every_chunk(serve: Serve, replay: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(serve(replay("one two three")), stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] > counts[0] > 0


def test_a_call_that_max_tokens_cuts_is_the_same_streamed_or_not(serve: Serve, replay: Any) -> None:
    text = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
    fields: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "get_weather"}}]}
    seen: set[str] = set()
    for fields["max_tokens"] in range(1, 32):
        streamed = folded(stream(serve(replay(text)), **fields))
        told = whole(complete(serve(replay(text)), **fields))
        assert all(call.pop("id") for call in (*streamed["calls"], *told["calls"]))
        assert streamed == told
        seen |= {call["arguments"] for call in told["calls"] if not told["content"]}
    assert {"", '{"', '{"city": "Paris"}'} <= seen


def test_a_call_that_a_stop_token_cuts_is_none_that_was_made(
    serve: Serve, replay: Any, tokenizer: Tokenizer, metrics: Metrics
) -> None:
    """The client's own stop token ends an answer anywhere, as a stop string would."""
    text = 'So: [TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
    fields: dict[str, Any] = {"tools": [WEATHER]}
    cut: set[str] = set()
    for token_id in set(tokenizer.encode(text, add_special_tokens=False)[1:]):
        fields["stop_token_ids"] = [token_id]
        answer = complete(serve(replay(text)), **fields)
        told = whole(answer)
        assert without_ids(folded(stream(serve(replay(text)), **fields))) == without_ids(told)
        assert told["finish_reason"] == "stop"
        assert answer["choices"][0]["stop_reason"] == token_id
        assert "TOOL_CALLS" not in told["content"]
        assert "name" not in told["content"]
        cut |= {call["arguments"] for call in told["calls"]}
    assert {"", '{"'} <= cut
    eos = {**fields, "stop_token_ids": list(tokenizer.eos_ids)}
    assert whole(complete(serve(replay(text)), **eos))["finish_reason"] == "tool_calls"
    assert num_invalid(metrics) == 0


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def test_a_constraint_goes_with_the_request(serve: Serve, replay: Any) -> None:
    engine = replay('{"a": 1}')
    complete(serve(engine), response_format=FORMAT)
    blueprint = json.loads(engine.requests[0].constraint)["blueprint"]
    assert '"properties": {"a": {"type": "integer"}}' in blueprint["source"]
    complete(serve(engine))
    assert engine.requests[1].constraint is None


def test_auto_is_constrained_after_the_marker_only(serve: Serve, replay: Any) -> None:
    engine = replay("Hello")
    complete(serve(engine), tools=[WEATHER])
    assert engine.requests[0].constraint is not None
    complete(serve(engine), tools=[WEATHER], tool_choice="none")
    assert '"token"' not in (engine.requests[1].constraint or "")


def test_an_invalid_structured_answer_is_counted(
    serve: Serve, replay: Any, metrics: Metrics
) -> None:
    complete(serve(replay('{"a": 1}')), response_format=FORMAT)
    complete(serve(replay('{"a": 123456789')), response_format=FORMAT, max_tokens=6)
    assert num_invalid(metrics) == 0
    complete(serve(replay('{"a": "x"}')), response_format=FORMAT)
    complete(serve(replay("no call")), tools=[WEATHER], tool_choice="required")
    assert num_invalid(metrics) == 2


def test_echo_and_prompt_logprobs(serve: Serve, replay: Any) -> None:
    assistant = {"role": "assistant", "content": "Hello, "}
    answer = complete(
        serve(replay("world")),
        messages=[USER, assistant],
        continue_final_message=True,
        echo=True,
        prompt_logprobs=1,
    )
    assert answer["choices"][0]["message"]["content"] == "Hello, world"
    assert answer["prompt_logprobs"][0] is None
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]

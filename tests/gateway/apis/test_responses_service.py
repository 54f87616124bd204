"""Responses over a replayed engine: items and events are read back with the SDK's own types, and
its own accumulator must make of a stream what the whole response says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from formgate.constrain.masks.blueprint import Blueprint
from formgate.constrain.masks.constraint import Constraint
from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.apis.responses_service import ResponsesService
from formgate.gateway.errors import ApiError, engine_died, queue_full
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.protocol.responses import ResponsesRequest

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {
        "type": "grammar",
        "syntax": "lark",
        "definition": 'start: "*** " /[a-z]+/ LF "\\"end\\""\n%import common.LF\n',
    },
}
ONE_CALL = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
TWO_CALLS = (
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
    '{"name": "get_weather", "arguments": {"city": "Par}]\\"is"}}]'
)
THINKING = {"reasoning": {"effort": "medium"}}
EVENT = TypeAdapter(ResponseStreamEvent)

Serve = Callable[..., ResponsesService]


@pytest.fixture
def serve(profile: ModelProfile, planner: AnswerPlanner) -> Serve:
    return lambda engine: ResponsesService(ChatService(profile, engine, planner), profile)


def request_of(**fields: Any) -> ResponsesRequest:
    return parse_object(ResponsesRequest, {"input": "What is the weather in Paris?", **fields})


def complete(service: ResponsesService, **fields: Any) -> dict[str, Any]:
    answer = json.loads(json.dumps(asyncio.run(service.complete(request_of(**fields)))))
    Response.model_validate(answer)
    return answer


def stream(service: ResponsesService, **fields: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        async with aclosing(service.stream(request_of(stream=True, **fields))) as steps:
            return [json.loads(json.dumps(event)) async for events in steps for event in events]

    events = asyncio.run(collect())
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
    return events


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(item) for item in value]
    if isinstance(value, dict):
        hidden = {"id", "item_id", "call_id", "created_at", "completed_at"}
        return {key: without_ids(item) for key, item in value.items() if key not in hidden}
    return value


def test_a_whole_response_has_every_field_of_openai(serve: Serve, replay: Any) -> None:
    answer = complete(
        serve(replay("Hello, world! 你好")),
        instructions="Be kind.",
        metadata={"a": "b"},
        max_output_tokens=50,
        temperature=0.5,
    )
    assert answer["id"].startswith("resp_")
    assert (answer["object"], answer["status"], answer["model"]) == (
        "response",
        "completed",
        "tiny",
    )
    assert (answer["error"], answer["incomplete_details"]) == (None, None)
    assert (answer["instructions"], answer["metadata"]) == ("Be kind.", {"a": "b"})
    assert (answer["max_output_tokens"], answer["temperature"]) == (50, 0.5)
    assert (answer["store"], answer["tools"], answer["tool_choice"]) == (False, [], "auto")
    (message,) = answer["output"]
    assert message["id"].startswith("msg_")
    assert (message["role"], message["status"]) == ("assistant", "completed")
    (part,) = message["content"]
    assert (part["type"], part["text"]) == ("output_text", "Hello, world! 你好")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["input_tokens_details"]["cached_tokens"] == 3
    assert usage["output_tokens_details"]["reasoning_tokens"] == 0


ANSWERS = [
    pytest.param("Hello, world! 你好 \U0001f600", {}, ["message"], id="text"),
    pytest.param(ONE_CALL, {"tools": [WEATHER]}, ["function_call"], id="call"),
    pytest.param(TWO_CALLS, {"tools": [WEATHER]}, ["function_call"] * 2, id="calls"),
    pytest.param(
        "Let me see. " + ONE_CALL,
        {"tools": [WEATHER]},
        ["message", "function_call"],
        id="text and call",
    ),
    pytest.param(
        "It is 18 / 2.\n</think>\n\nIt is 9.", THINKING, ["reasoning", "message"], id="reasoning"
    ),
    pytest.param(
        "hm\n</think>\n\n" + ONE_CALL,
        {**THINKING, "tools": [WEATHER]},
        ["reasoning", "function_call"],
        id="reasoning and call",
    ),
    pytest.param("one two three four", {"max_output_tokens": 3}, ["message"], id="length"),
    pytest.param(
        "never ends", {**THINKING, "max_output_tokens": 3}, ["reasoning"], id="reasoning only"
    ),
    pytest.param("", {}, ["message"], id="nothing"),
    pytest.param("one two", {"top_logprobs": 2}, ["message"], id="logprobs"),
]


@pytest.mark.parametrize(("text", "fields", "kinds"), ANSWERS)
@pytest.mark.parametrize("burst", [1, 3, 100])
def test_the_stream_ends_with_the_whole_response(
    serve: Serve, replay: Any, text: str, fields: dict[str, Any], kinds: list[str], burst: int
) -> None:
    whole = complete(serve(replay(text)), **fields)
    events = stream(serve(replay(text, burst=burst)), **fields)
    last = events[-1]
    assert last["type"] == f"response.{whole['status']}"
    assert without_ids(last["response"]) == without_ids(whole)
    assert [item["type"] for item in whole["output"]] == kinds

    state = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        state.handle_event(EVENT.validate_python(event))
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    texts = [
        item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        for item in whole["output"]
    ]
    assert "".join(deltas) == "".join(texts)


def test_events_come_in_the_order_of_openai(serve: Serve, replay: Any) -> None:
    events = stream(
        serve(replay("hm\n</think>\n\nLet me see. " + ONE_CALL, burst=100)),
        tools=[WEATHER],
        **THINKING,
    )
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert events[0]["response"]["output"] == []
    assert events[2]["item"]["content"] == []
    added = [e["item"] for e in events if e["type"] == "response.output_item.added"]
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert [item["status"] for item in done] == ["completed"] * 3
    assert len({item["id"] for item in done}) == 3


def test_a_call(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay(ONE_CALL)), tools=[WEATHER])
    (call,) = answer["output"]
    assert call["name"] == "get_weather"
    assert json.loads(call["arguments"]) == {"city": "Paris"}
    assert call["call_id"] != call["id"]
    assert answer["tools"][0]["parameters"] == PARAMETERS


def test_a_cut_answer_is_incomplete(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay("one two three four")), max_output_tokens=3)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    assert answer["output"][0]["status"] == "incomplete"


def test_reasoning_is_an_item_and_counted(serve: Serve, replay: Any, tokenizer: Tokenizer) -> None:
    answer = complete(serve(replay("It is 18 / 2.\n</think>\n\nIt is 9.")), **THINKING)
    reasoning, message = answer["output"]
    assert reasoning["content"] == [{"type": "reasoning_text", "text": "It is 18 / 2."}]
    assert message["content"][0]["text"] == "It is 9."
    reasoned = tokenizer.encode("It is 18 / 2.\n</think>", add_special_tokens=False)
    details = answer["usage"]["output_tokens_details"]
    assert details["reasoning_tokens"] == len(reasoned)


def test_logprobs_lie_with_their_text(serve: Serve, replay: Any) -> None:
    answer = complete(serve(replay("Hello")), top_logprobs=2)
    logprobs = answer["output"][0]["content"][0]["logprobs"]
    assert b"".join(bytes(entry["bytes"]) for entry in logprobs) == b"Hello"
    assert all(len(entry["top_logprobs"]) == 2 for entry in logprobs)
    included = complete(serve(replay("Hello")), include=["message.output_text.logprobs"])
    assert len(included["output"][0]["content"][0]["logprobs"]) == len(logprobs)


def test_a_loop_of_calls_goes_through_the_template(serve: Serve, replay: Any) -> None:
    first = complete(serve(replay(ONE_CALL)), tools=[WEATHER])
    call = first["output"][0]
    engine = replay("It is sunny.")
    items = [
        {"role": "user", "content": "What is the weather in Paris?"},
        *first["output"],
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"},
    ]
    answer = complete(serve(engine), input=items, tools=[WEATHER])
    assert answer["output"][0]["content"][0]["text"] == "It is sunny."


def test_a_schema_is_the_engines_constraint(serve: Serve, replay: Any) -> None:
    engine = replay('{"city": "Paris"}')
    text = {"format": {"type": "json_schema", "name": "x", "schema": PARAMETERS}}
    answer = complete(serve(engine), text=text)
    constraint = Constraint.loads(engine.requests[0].constraint)
    assert json.dumps(PARAMETERS)[:-1] in Blueprint.loads(constraint.blueprint_text).source
    assert answer["text"]["format"]["schema"] == PARAMETERS


BAD = [
    ({"input": []}, "input"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
    ({"input": [{"type": "compaction", "encrypted_content": "x"}]}, "input[0].type"),
    ({"input": [{"type": "mesage", "id": "x"}]}, "input[0].type"),
    ({"input": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "input[0].input"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input[0].content[0].type",
    ),
    ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    (
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        "tool_choice.type",
    ),
    ({"tools": [{"type": "web_search"}, {"type": "function", "name": "!"}]}, "tools[1].name"),
    ({"tools": [{"type": "namespace", "name": "n"}]}, "tools[0].tools"),
    (
        {"tools": [{"type": "namespace", "name": "n", "tools": [WEATHER, WEATHER]}]},
        "tools[0].tools[1].name",
    ),
    (
        {"tools": [{"type": "custom", "name": "x", "format": {"type": "grammar"}}]},
        "tools[0].format.syntax",
    ),
    (
        {
            "tools": [
                {"type": "web_search"},
                {**PATCH, "format": {**PATCH["format"], "definition": "x"}},
            ]
        },
        "tools[1].format.definition",
    ),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "not a name"}]}, "tools[0].name"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "file_search"}}, "tool_choice.type"),
    (
        {
            "tools": [WEATHER],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "web_search"}, {"type": "function", "name": "g"}],
            },
        },
        "tool_choice.tools[1].name",  # a hosted tool, which is left out, counts
    ),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "strin"}}}},
        "text.format.schema#/type",
    ),
    (
        {"tools": [{**WEATHER, "parameters": {"type": "array"}}]},
        "tools[0].parameters#/type",
    ),
    ({"max_output_tokens": 5000}, "input"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"messages": []}, "messages"),
    ({"n": 2}, "n"),
    ({"output_config": {"format": {}}}, "output_config"),
    ({"top_k": "many"}, "top_k"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[str(case[0])[:40] for case in BAD])
def test_errors_name_the_fields_of_responses(
    serve: Serve, replay: Any, fields: dict[str, Any], param: str
) -> None:
    engine = replay("Hello")
    for ask in (complete, stream):
        with pytest.raises(ApiError) as refused:
            ask(serve(engine), **fields)
        assert (refused.value.status, refused.value.param) == (400, param), refused.value.message
        for foreign in ("response_format.", ".function", "messages["):
            assert foreign not in refused.value.message
    assert not engine.requests


def test_other_errors_come_before_the_first_event(serve: Serve, replay: Any) -> None:
    engine = replay("Hello")
    engine.admission = queue_full(1)
    with pytest.raises(ApiError) as full:
        stream(serve(engine))
    assert full.value.status == 429
    assert full.value.headers["Retry-After"] == "1"


def test_an_engine_that_dies_fails_the_response(serve: Serve, replay: Any) -> None:
    engine = replay("one two three four")
    engine.failure = engine_died()
    with pytest.raises(ApiError) as died:
        complete(serve(engine))
    assert died.value.status == 503
    failing = replay("one two three four")
    failing.failure = engine_died()
    last = stream(serve(failing))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert last["response"]["output"][0]["status"] == "incomplete"


def test_a_client_that_leaves_aborts_its_request(serve: Serve, replay: Any) -> None:
    engine = replay("a long answer that nobody will read to its end")

    async def leave() -> None:
        steps = serve(engine).stream(request_of(stream=True))
        await anext(steps)
        await steps.aclose()

    asyncio.run(leave())
    assert engine.closed == [engine.requests[0].request_id]

"""Anthropic's Messages over a replayed engine: what a client folds the events to is the whole
message, and what it sends back becomes the conversation that it was."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from formgate.constrain.masks.blueprint import Blueprint
from formgate.constrain.masks.constraint import Constraint
from formgate.gateway.answers.answer_plan import AnswerPlanner
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.apis.anthropic_service import MessagesService
from formgate.gateway.errors import ApiError, engine_died, queue_full
from formgate.gateway.model.model_profile import ModelProfile
from formgate.gateway.protocol.anthropic import CountTokensRequest, MessagesRequest
from formgate.gateway.protocol.parse import parse_object

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": PARAMETERS}
USER = {"role": "user", "content": "What is the weather in Paris?"}
ONE_CALL = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
TWO_CALLS = (
    '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, '
    '{"name": "get_weather", "arguments": {"city": "Par}]\\"is"}}]'
)
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}

Serve = Callable[..., MessagesService]


@pytest.fixture
def serve(profile: ModelProfile, planner: AnswerPlanner) -> Serve:
    return lambda engine: MessagesService(ChatService(profile, engine, planner), profile)


def request_of(**fields: Any) -> MessagesRequest:
    return parse_object(MessagesRequest, {"max_tokens": 100, "messages": [USER], **fields})


def complete(service: MessagesService, **fields: Any) -> dict[str, Any]:
    return json.loads(json.dumps(asyncio.run(service.complete(request_of(**fields)))))


def stream(service: MessagesService, **fields: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        async with aclosing(service.stream(request_of(stream=True, **fields))) as steps:
            return [json.loads(json.dumps(event)) async for events in steps for event in events]

    return asyncio.run(collect())


def folded(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What the SDK makes of a stream, with each rule of the order of events checked."""
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    message: dict[str, Any] = events[0]["message"]
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    is_open = False
    for event in events[1:-1]:
        match event["type"]:
            case "ping":
                assert not blocks
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append(event["content_block"])
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                delta, block = event["delta"], blocks[-1]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        inputs[event["index"]] = (
                            inputs.get(event["index"], "") + delta["partial_json"]
                        )
            case "content_block_stop":
                assert event["index"] == len(blocks) - 1
                if event["index"] in inputs:
                    blocks[-1]["input"] = json.loads(inputs[event["index"]])
                is_open = False
            case "message_delta":
                assert not is_open
                message |= event["delta"]
                message["usage"] |= event["usage"]
    return {**message, "content": blocks}


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    content = [{**block, "id": ""} for block in message["content"]]
    return {**message, "id": "", "content": content}


def test_a_whole_message_has_every_field(serve: Serve, replay: Any) -> None:
    message = complete(serve(replay("Hello, world! 你好")))
    assert message.pop("id").startswith("msg_")
    usage = message.pop("usage")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [{"type": "text", "text": "Hello, world! 你好"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
    }
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (3, 0)
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0


ANSWERS = [
    pytest.param("Hello \U0001f600", {}, ["text"], "end_turn", id="text"),
    pytest.param(ONE_CALL, {"tools": [WEATHER]}, ["tool_use"], "tool_use", id="call"),
    pytest.param(TWO_CALLS, {"tools": [WEATHER]}, ["tool_use"] * 2, "tool_use", id="calls"),
    pytest.param(
        ONE_CALL,
        {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}},
        ["tool_use"],
        "tool_use",
        id="named",
    ),
    pytest.param(
        "Let me see. " + ONE_CALL,
        {"tools": [WEATHER]},
        ["text", "tool_use"],
        "tool_use",
        id="text and call",
    ),
    pytest.param(
        "It is 18 / 2.\n</think>\n\nIt is 9.",
        THINKING,
        ["thinking", "text"],
        "end_turn",
        id="thinking",
    ),
    pytest.param(
        "hm\n</think>\n\n" + ONE_CALL,
        {"thinking": {"type": "adaptive"}, "tools": [WEATHER]},
        ["thinking", "tool_use"],
        "tool_use",
        id="thinking and call",
    ),
    pytest.param("one two three", {"max_tokens": 2}, ["text"], "max_tokens", id="length"),
    pytest.param(
        "one two three", {"stop_sequences": ["thr"]}, ["text"], "stop_sequence", id="stop"
    ),
    pytest.param("", {}, [], "end_turn", id="nothing"),
]


@pytest.mark.parametrize(("text", "fields", "kinds", "reason"), ANSWERS)
@pytest.mark.parametrize("burst", [1, 100])
def test_the_stream_folds_to_the_whole_message(
    serve: Serve,
    replay: Any,
    text: str,
    fields: dict[str, Any],
    kinds: list[str],
    reason: str,
    burst: int,
) -> None:
    whole = complete(serve(replay(text)), **fields)
    message = folded(stream(serve(replay(text, burst=burst)), **fields))
    if reason == "stop_sequence":  # a burst may bring tokens after the stop string
        message["usage"] = whole["usage"]
        assert whole["stop_sequence"] == "thr"
    assert without_ids(message) == without_ids(whole)
    assert [block["type"] for block in whole["content"]] == kinds
    assert whole["stop_reason"] == reason


def test_a_call_has_an_input_and_an_id(serve: Serve, replay: Any) -> None:
    calls = complete(serve(replay(TWO_CALLS)), tools=[WEATHER])["content"]
    assert [call["input"]["city"] for call in calls] == ["Paris", 'Par}]"is']
    assert len({call["id"] for call in calls}) == 2


def test_a_call_cut_short_has_no_input(serve: Serve, replay: Any, profile: ModelProfile) -> None:
    begun = profile.tokenizer.encode(ONE_CALL.split("Paris")[0], add_special_tokens=False)
    whole = complete(serve(replay(ONE_CALL)), tools=[WEATHER], max_tokens=len(begun))
    assert whole["stop_reason"] == "max_tokens"
    assert whole["content"][-1]["input"] == {}


def test_thinking_is_signed_and_can_be_hidden(serve: Serve, replay: Any) -> None:
    text = "It is 18 / 2.\n</think>\n\nIt is 9."
    thinking = complete(serve(replay(text)), **THINKING)["content"][0]
    assert thinking["thinking"] == "It is 18 / 2."
    assert thinking["signature"]
    assert complete(serve(replay(text)), **THINKING)["usage"]["output_tokens_details"] == {
        "thinking_tokens": 12
    }
    omitted = {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}
    shown = complete(serve(replay(text)), thinking=omitted)["content"]
    assert [block["type"] for block in shown] == ["text"]


def test_the_first_event_tells_the_prompts_tokens(serve: Serve, replay: Any) -> None:
    events = stream(serve(replay("one two three four")))
    first = events[0]["message"]
    assert (first["content"], first["stop_reason"]) == ([], None)
    assert first["usage"]["cache_read_input_tokens"] == 3
    counted = asyncio.run(
        serve(replay()).count_tokens(parse_object(CountTokensRequest, {"messages": [USER]}))
    )
    assert first["usage"]["input_tokens"] + 3 == counted


def test_a_schema_is_the_engines_constraint(serve: Serve, replay: Any) -> None:
    engine = replay('{"city": "Paris"}')
    output = {"format": {"type": "json_schema", "schema": PARAMETERS}}
    complete(serve(engine), output_config=output)
    constraint = Constraint.loads(engine.requests[0].constraint)
    assert json.dumps(PARAMETERS)[:-1] in Blueprint.loads(constraint.blueprint_text).source


def test_a_last_message_of_the_assistant_is_continued(
    serve: Serve, replay: Any, profile: ModelProfile
) -> None:
    engine = replay(" sunny.")
    begun = {"role": "assistant", "content": "It is"}
    message = complete(serve(engine), messages=[USER, begun])
    assert message["content"] == [{"type": "text", "text": " sunny."}]
    prompt = profile.tokenizer.decode(engine.requests[0].prompt_token_ids)
    assert prompt.endswith("It is")


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
BAD_SCHEMA = {"type": "array"}
AS_OBJECT = {"type": "json_schema", "schema": {"type": "object"}}

BAD = [
    ({"messages": []}, "messages"),
    ({"thread": {"id": "x"}}, "thread"),
    ({"container": "c"}, "container"),
    ({"mcp_servers": [{"url": "x"}]}, "mcp_servers"),
    (
        {"messages": [USER, {"role": "user", "content": [{"type": "tool_result"}]}]},
        "messages[1].content[0].tool_use_id",
    ),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}]},
        "messages[0].content[0].input",
    ),
    ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "tool_choice"),
    ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [SEARCH, {"name": "f"}]}, "tools[1].input_schema"),
    ({"tools": [SEARCH, {**WEATHER, "input_schema": BAD_SCHEMA}]}, "tools[1].input_schema#/type"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"name": "not a name", "input_schema": {}}]}, "tools[0].name"),
    ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
    ({"tools": [{**WEATHER, "input_schema": {"type": "array"}}]}, "tools[0].input_schema#/type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "strin"}}}},
        "output_config.format.schema#/type",
    ),
    ({"max_tokens": 5000}, "messages"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"output_format": {"type": "json_schema"}}, "output_format.schema"),
    (
        {"output_format": {"type": "json_schema", "schema": {"type": "strin"}}},
        "output_format.schema#/type",
    ),
    (
        {"output_format": AS_OBJECT, "output_config": {"format": AS_OBJECT}},
        "output_format",
    ),
    ({"n": 2}, "n"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[str(case[0])[:40] for case in BAD])
def test_errors_name_the_fields_of_anthropic(
    serve: Serve, replay: Any, fields: dict[str, Any], param: str
) -> None:
    engine = replay("Hello")
    for ask in (complete, stream):
        with pytest.raises(ApiError) as refused:
            ask(serve(engine), **fields)
        assert (refused.value.status, refused.value.param) == (400, param), refused.value.message
        for foreign in ("response_format.", ".function"):
            assert foreign not in refused.value.message
    assert not engine.requests


def test_tools_of_other_servers_are_left_out(serve: Serve, replay: Any) -> None:
    call = '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]'
    message = complete(serve(replay(call)), tools=[SEARCH, WEATHER], tool_choice={"type": "any"})
    assert message["content"][0]["name"] == "get_weather"
    assert complete(serve(replay("Hello")), tools=[SEARCH])["content"][0]["text"] == "Hello"


def test_the_older_name_of_the_format_is_enforced(serve: Serve, replay: Any) -> None:
    engine = replay("{}")
    complete(serve(engine), output_format=AS_OBJECT)
    assert engine.requests[0].constraint is not None


def test_tokens_are_counted_with_system_tools_and_thinking(serve: Serve, replay: Any) -> None:
    service = serve(replay())

    def count(**fields: Any) -> int:
        request = parse_object(CountTokensRequest, {"messages": [USER], **fields})
        return asyncio.run(service.count_tokens(request))

    plain = count()
    assert count(system="Be kind.") > plain
    assert count(tools=[WEATHER]) > plain
    assert count(tools=[WEATHER], tool_choice={"type": "none"}) == plain
    assert count(**THINKING) > plain
    with pytest.raises(ApiError) as refused:
        count(tools=[WEATHER, WEATHER])
    assert refused.value.param == "tools[1].name"


def test_other_errors_come_before_the_first_event(serve: Serve, replay: Any) -> None:
    engine = replay("Hello")
    engine.admission = queue_full(1)
    with pytest.raises(ApiError) as full:
        stream(serve(engine))
    assert full.value.status == 429


def test_an_engine_that_dies_ends_the_message_with_its_error(serve: Serve, replay: Any) -> None:
    engine = replay("one two three four")
    engine.failure = engine_died()
    with pytest.raises(ApiError) as died:
        stream(serve(engine))
    assert died.value.status == 503


def test_a_client_that_leaves_aborts_its_request(serve: Serve, replay: Any) -> None:
    engine = replay("a long answer that nobody will read to its end")

    async def leave() -> None:
        steps = serve(engine).stream(request_of(stream=True))
        await anext(steps)
        await steps.aclose()

    asyncio.run(leave())
    assert engine.closed == [engine.requests[0].request_id]

"""Tools as coding agents send them: texts held to a grammar, names in namespaces, tools of other
servers; and histories with calls of all of these.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from formgate.constrain.masks.blueprint import Blueprint
from formgate.constrain.masks.constraint import Constraint
from formgate.gateway.answers.chat_service import ChatService
from formgate.gateway.answers.custom_calls import InputText, input_text
from formgate.gateway.apis.responses_service import ResponsesService
from formgate.gateway.errors import ApiError
from formgate.gateway.protocol.chat import ChatCompletionRequest
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.protocol.responses import ResponsesRequest
from formgate.gateway.protocol.tool_names import ToolNames

TEXT = '*** a\n"end"'
CALL = f'[TOOL_CALLS] [{{"name": "apply_patch", "arguments": {json.dumps({"input": TEXT})}}}]'
LARK = 'start: "*** " /[a-z]+/ LF "\\"end\\""\n%import common.LF\n'
CHAT_PATCH = {
    "type": "custom",
    "custom": {
        "name": "apply_patch",
        "description": "Edits files.",
        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": LARK}},
    },
}
PATCH = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": LARK},
}
LIST = {"type": "function", "name": "list", "parameters": {"type": "object", "properties": {}}}
FILES = {"type": "namespace", "name": "mcp__files", "description": "Files.", "tools": [LIST]}
EVENT = TypeAdapter(ResponseStreamEvent)
USER = {"role": "user", "content": "Go on."}


@pytest.fixture
def chat_of(serve: Any) -> Callable[..., ChatService]:
    return serve


def chat_request(**fields: Any) -> ChatCompletionRequest:
    return parse_object(ChatCompletionRequest, {"messages": [USER], **fields})


def chunks_of(service: ChatService, **fields: Any) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        async with aclosing(service.stream(chat_request(stream=True, **fields))) as steps:
            return [chunk async for chunks in steps for chunk in chunks]

    return asyncio.run(collect())


def test_a_custom_call_is_its_text(chat_of: Callable[..., ChatService], replay: Any) -> None:
    engine = replay(CALL)
    answer = asyncio.run(chat_of(engine).complete(chat_request(tools=[CHAT_PATCH])))
    (choice,) = answer["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call == {
        "id": call["id"],
        "type": "custom",
        "custom": {"name": "apply_patch", "input": TEXT},
    }
    constraint = Constraint.loads(engine.requests[0].constraint)
    source = Blueprint.loads(constraint.blueprint_text).source
    assert "escaped-lf" in source, "the grammar is part of the mask"


def test_a_streamed_custom_call_says_the_same(
    chat_of: Callable[..., ChatService], replay: Any
) -> None:
    chunks = chunks_of(chat_of(replay(CALL)), tools=[CHAT_PATCH])
    calls = [
        call
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert calls[0]["type"] == "custom"
    assert calls[0]["custom"] == {"name": "apply_patch", "input": ""}
    assert "".join(call["custom"]["input"] for call in calls) == TEXT
    assert all("function" not in call for call in calls)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "custom", "custom": {"name": "apply_patch"}}]
)
def test_a_custom_tool_can_be_demanded(
    choice: Any, chat_of: Callable[..., ChatService], replay: Any
) -> None:
    request = chat_request(tools=[CHAT_PATCH], tool_choice=choice)
    answer = asyncio.run(chat_of(replay(CALL)).complete(request))
    assert answer["choices"][0]["message"]["tool_calls"][0]["custom"]["input"] == TEXT


@pytest.mark.parametrize(
    ("grammar", "param"),
    [
        ({"syntax": "lark", "definition": "start: ("}, "tools[0].custom.format.grammar.definition"),
        ({"syntax": "regex", "definition": "(a"}, "tools[0].custom.format.grammar.definition"),
        (
            {"syntax": "lark", "definition": "start: <|a|>"},
            "tools[0].custom.format.grammar.definition",
        ),
        ({"syntax": "gbnf", "definition": "x"}, "tools[0].custom.format.grammar.syntax"),
    ],
)
def test_a_bad_grammar_is_a_400_that_names_it(
    grammar: dict[str, str], param: str, chat_of: Callable[..., ChatService], replay: Any
) -> None:
    tool = {
        "type": "custom",
        "custom": {"name": "x", "format": {"type": "grammar", "grammar": grammar}},
    }
    with pytest.raises(ApiError) as refused:
        asyncio.run(chat_of(replay("x")).complete(chat_request(tools=[tool])))
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize(
    "text", ["", "plain", TEXT, "\\\\n \U0001f600\\", "\x00\x1f\u2028é", '"', "\\" * 9]
)
def test_the_text_of_a_call_comes_in_any_pieces(text: str, size: int) -> None:
    for ascii_only in (False, True):
        arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
        reader = InputText()
        pieces = [reader.feed(arguments[at : at + size]) for at in range(0, len(arguments), size)]
        assert "".join(pieces) == text == input_text(arguments)


# The Responses API


def respond(service: ResponsesService, **fields: Any) -> dict[str, Any]:
    request = parse_object(ResponsesRequest, {"input": "Go on.", **fields})
    return asyncio.run(service.complete(request))


def events_of(service: ResponsesService, **fields: Any) -> list[dict[str, Any]]:
    request = parse_object(ResponsesRequest, {"input": "Go on.", "stream": True, **fields})

    async def collect() -> list[dict[str, Any]]:
        async with aclosing(service.stream(request)) as steps:
            return [event async for events in steps for event in events]

    events = asyncio.run(collect())
    for event in events:
        EVENT.validate_python(json.loads(json.dumps(event)))
    return events


@pytest.fixture
def responses(serve: Any, profile: Any) -> Callable[[Any], ResponsesService]:
    return lambda engine: ResponsesService(serve(engine), profile)


def test_a_custom_call_is_an_item_of_its_own(
    responses: Callable[[Any], ResponsesService], replay: Any
) -> None:
    answer = respond(responses(replay(CALL)), tools=[PATCH])
    (item,) = answer["output"]
    assert item["id"].startswith("ctc_")
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", TEXT)
    events = events_of(responses(replay(CALL)), tools=[PATCH])
    deltas = [e["delta"] for e in events if e["type"] == "response.custom_tool_call_input.delta"]
    (done,) = [e for e in events if e["type"] == "response.custom_tool_call_input.done"]
    assert "".join(deltas) == done["input"] == TEXT
    assert events[-1]["response"]["output"][0]["input"] == TEXT


def test_a_call_comes_back_under_its_namespace(
    responses: Callable[[Any], ResponsesService], replay: Any
) -> None:
    written = '[TOOL_CALLS] [{"name": "mcp__files__list", "arguments": {}}]'
    plain = {**LIST, "name": "mcp__files__list"}
    for tools, call in (
        ([FILES], written),
        ([LIST, FILES], written),
        ([FILES, plain], written),
    ):
        events = events_of(responses(replay(call)), tools=tools)
        (item,) = events[-1]["response"]["output"]
        assert (item["type"], item["namespace"], item["name"]) == (
            "function_call",
            "mcp__files",
            "list",
        )
        (added,) = [e for e in events if e["type"] == "response.output_item.added"]
        assert (added["item"]["namespace"], added["item"]["name"]) == ("mcp__files", "list")


def test_tools_of_other_servers_are_left_out(
    responses: Callable[[Any], ResponsesService], replay: Any
) -> None:
    hosted = [
        {"type": "web_search", "external_web_access": False},
        {"type": "file_search", "vector_store_ids": ["x"]},
        {"type": "code_interpreter", "container": {"type": "auto"}},
        {"type": "mcp", "server_label": "x", "server_url": "https://x"},
        {"type": "local_shell"},
        {"type": "a_tool_of_tomorrow"},
    ]
    answer = respond(responses(replay("Hello")), tools=hosted, tool_choice="auto")
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    call = '[TOOL_CALLS] [{"name": "list", "arguments": {}}]'
    answer = respond(responses(replay(call)), tools=[*hosted, LIST], tool_choice="required")
    assert answer["output"][0]["name"] == "list"


def test_all_that_an_agent_replays_is_taken(
    responses: Callable[[Any], ResponsesService], profile: Any, replay: Any
) -> None:
    engine = replay("Hello")
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "D"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "secret"},
        {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": TEXT},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"},
        {
            "type": "function_call",
            "call_id": "c2",
            "namespace": "mcp__files",
            "name": "list",
            "arguments": "{}",
        },
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "a.py"},
                {"type": "input_file", "filename": "b.pdf", "file_data": "x"},
            ],
        },
        {
            "type": "local_shell_call",
            "call_id": "c3",
            "action": {"type": "exec", "command": ["ls"]},
            "status": "completed",
        },
        {"type": "local_shell_call_output", "id": "c3", "output": "b.py"},
        {"type": "web_search_call", "id": "w", "status": "completed", "action": {}},
        {"role": "user", "content": [{"type": "input_text", "text": "next"}]},
    ]
    respond(
        responses(engine),
        input=items,
        tools=[FILES],
        include=["reasoning.encrypted_content"],
        prompt_cache_key="k",
        client_metadata={"a": "b"},
        text={"verbosity": "low"},
        truncation="auto",
        max_tool_calls=3,
        store=False,
    )
    prompt = profile.tokenizer.decode(engine.requests[0].prompt_token_ids)
    for text in (
        "[image]",
        '"name": "apply_patch"',
        "Done",
        '"name": "mcp__files__list"',
        "a.py\n[file: b.pdf]",
        '"command": ["ls"]',
        "b.py",
        "next",
    ):
        assert text in prompt, (text, prompt)


# Names that formats cannot carry


SLASHED = "mcp/files:list"
OTHERS = ("mcp_files_list", "mcp/files/list")  # that would be written alike


def function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": LIST["parameters"]}}


def test_a_name_comes_back_as_it_was_given(
    chat_of: Callable[..., ChatService], profile: Any, replay: Any
) -> None:
    written = ToolNames([SLASHED, *OTHERS])
    assert written.written(OTHERS[0]) == OTHERS[0]
    names = [SLASHED, *OTHERS]
    assert len({written.written(name) for name in names}) == 3
    for name in names:
        call = f'[TOOL_CALLS] [{{"name": "{written.written(name)}", "arguments": {{}}}}]'
        engine = replay(call)
        tools = [function(each) for each in names]
        choice = {"type": "function", "function": {"name": name}}
        past = {"id": "123456789", "type": "function", "function": {"name": name, "arguments": ""}}
        fields: dict[str, Any] = {
            "tools": tools,
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [past]},
                {"role": "tool", "tool_call_id": "123456789", "name": name, "content": "a.py"},
            ],
        }
        for more in ({}, {"tool_choice": choice}, {"tool_choice": "required"}):
            request = parse_object(ChatCompletionRequest, {**fields, **more})
            answer = asyncio.run(chat_of(engine).complete(request))
            (made,) = answer["choices"][0]["message"]["tool_calls"]
            assert made["function"]["name"] == name
            prompt = profile.tokenizer.decode(engine.requests[-1].prompt_token_ids)
            assert prompt.count(written.written(name) + '"') == 2, "the tool, and its past call"
            blueprint = Constraint.loads(engine.requests[-1].constraint).blueprint_text
            assert "mcp/files" not in blueprint


def test_a_streamed_call_and_one_of_other_apis_have_the_name(
    chat_of: Callable[..., ChatService],
    responses: Callable[[Any], ResponsesService],
    replay: Any,
) -> None:
    call = '[TOOL_CALLS] [{"name": "mcp_files_list", "arguments": {}}]'
    chunks = chunks_of(chat_of(replay(call)), tools=[function(SLASHED)])
    called = [
        made["function"]["name"]
        for chunk in chunks
        for choice in chunk["choices"]
        for made in choice["delta"].get("tool_calls", ())
        if "name" in made["function"]
    ]
    assert called == [SLASHED]
    events = events_of(responses(replay(call)), tools=[{**LIST, "name": SLASHED}])
    assert events[-1]["response"]["output"][0]["name"] == SLASHED
    patch = CALL.replace("apply_patch", "a_patch")
    answer = respond(responses(replay(patch)), tools=[{**PATCH, "name": "a/patch"}])
    assert answer["output"][0]["type"] == "custom_tool_call"
    assert (answer["output"][0]["name"], answer["output"][0]["input"]) == ("a/patch", TEXT)
    mcp = {"type": "namespace", "name": "a/b", "tools": [LIST]}
    call = '[TOOL_CALLS] [{"name": "a_b__list", "arguments": {}}]'
    (item,) = respond(responses(replay(call)), tools=[mcp])["output"]
    assert (item["namespace"], item["name"]) == ("a/b", "list")

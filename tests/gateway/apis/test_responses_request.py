"""What a Responses request becomes as a chat request."""

from __future__ import annotations

from typing import Any

from formgate.gateway.apis.responses_request import chat_request_of
from formgate.gateway.protocol.parse import parse_object
from formgate.gateway.protocol.responses import ResponsesRequest

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}


def request_of(**fields: Any) -> ResponsesRequest:
    return parse_object(ResponsesRequest, {"input": "What is the weather in Paris?", **fields})


def chat_of(**fields: Any) -> dict[str, Any]:
    request = request_of(**fields)
    chat, *_ = chat_request_of(request)
    return chat.model_dump(exclude_unset=True)


def test_items_become_messages() -> None:
    items = [
        {"role": "user", "content": "What is the weather?"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look."}],
        },
        {"type": "function_call", "call_id": "a", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "sunny"},
        {
            "type": "function_call_output",
            "call_id": "b",
            "output": [{"type": "input_text", "text": "rain"}],
        },
        {"type": "message", "role": "assistant", "content": "Sunny."},
        {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
        {"role": "user", "content": "Thanks"},
    ]
    messages = chat_of(input=items, instructions="Be kind.")["messages"]
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
        "developer",
        "user",
    ]
    turn = messages[2]
    assert turn["reasoning_content"] == "hm"
    assert turn["content"] == [{"type": "text", "text": "I look."}]
    assert [call["id"] for call in turn["tool_calls"]] == ["a", "b"]
    assert (messages[3]["tool_call_id"], messages[3]["content"]) == ("a", "sunny")
    assert messages[4]["content"] == [{"type": "text", "text": "rain"}]


def test_fields_reach_the_chat_request() -> None:
    chat = chat_of(
        model="tiny",
        max_output_tokens=7,
        top_p=0.5,
        reasoning={"effort": "low", "summary": "auto"},
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "get_weather"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "x", "schema": PARAMETERS, "strict": True}},
        top_k=5,
        chat_template_kwargs={"a": 1},
        store=True,
        include=[],
        truncation="auto",
    )
    assert (chat["model"], chat["max_completion_tokens"], chat["top_p"]) == ("tiny", 7, 0.5)
    assert (chat["reasoning_effort"], chat["parallel_tool_calls"]) == ("low", False)
    assert chat["tool_choice"]["function"]["name"] == "get_weather"
    assert chat["tools"][0]["function"]["parameters"] == PARAMETERS
    assert chat["response_format"]["json_schema"]["json_schema"] == PARAMETERS
    assert (chat["top_k"], chat["chat_template_kwargs"]) == (5, {"a": 1})
    assert "tool_choice" not in chat_of(tools=[], tool_choice="auto")
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "get_weather"}],
    }
    chosen = chat_of(tools=[WEATHER], tool_choice=allowed)["tool_choice"]["allowed_tools"]
    assert chosen["mode"] == "required"
    assert chosen["tools"][0]["function"]["name"] == "get_weather"

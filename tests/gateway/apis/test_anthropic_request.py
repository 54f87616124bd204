"""What a request for an Anthropic message becomes as a chat request."""

from __future__ import annotations

from typing import Any

from formgate.gateway.apis.anthropic_request import chat_request_of
from formgate.gateway.protocol.anthropic import MessagesRequest
from formgate.gateway.protocol.parse import parse_object

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER = {"name": "get_weather", "description": "The weather", "input_schema": PARAMETERS}
USER = {"role": "user", "content": "What is the weather in Paris?"}


def request_of(**fields: Any) -> MessagesRequest:
    return parse_object(MessagesRequest, {"max_tokens": 100, "messages": [USER], **fields})


def chat_of(**fields: Any) -> dict[str, Any]:
    return chat_request_of(request_of(**fields))[0].model_dump(exclude_unset=True)


def test_blocks_become_messages() -> None:
    cached = {"cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", **cached}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "北京"}},
                {"type": "tool_use", "id": "b", "name": "get_weather", "input": {}, **cached},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "sunny", **cached},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "content": [{"type": "text", "text": "rain"}],
                    "is_error": True,
                },
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "text", "text": "So?"},
            ],
        },
        {"role": "system", "content": "Be brief."},
    ]
    system = [{"type": "text", "text": "Be kind.", **cached}]
    chat = chat_of(messages=messages, system=system, tools=[{**WEATHER, **cached}])
    shown = chat["messages"]
    assert [message["role"] for message in shown] == [
        *("system", "user", "assistant", "tool", "tool", "tool", "user", "system"),
    ]
    turn = shown[2]
    assert turn["reasoning_content"] == "hm"
    assert turn["content"] == [{"type": "text", "text": "I look."}]
    assert [call["id"] for call in turn["tool_calls"]] == ["a", "b"]
    assert turn["tool_calls"][0]["function"]["arguments"] == '{"city": "北京"}'
    assert [message["content"] for message in shown[3:6]] == [
        "sunny",
        [{"type": "text", "text": "rain"}],
        "",
    ]
    assert shown[3]["tool_call_id"] == "a"
    assert "continue_final_message" not in chat


def test_fields_reach_the_chat_request() -> None:
    chat = chat_of(
        model="tiny",
        temperature=0.5,
        top_k=5,
        top_p=0.9,
        stop_sequences=["x"],
        metadata={"user_id": "u"},
        thinking={"type": "enabled", "budget_tokens": 2048},
        output_config={
            "effort": "max",
            "format": {"type": "json_schema", "schema": PARAMETERS},
        },
        tools=[WEATHER],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        service_tier="auto",
        min_p=0.1,
        chat_template_kwargs={"a": 1},
    )
    assert (chat["model"], chat["max_tokens"], chat["temperature"]) == ("tiny", 100, 0.5)
    assert chat["thinking_token_budget"] == 2048
    assert (chat["top_k"], chat["top_p"], chat["min_p"]) == (5, 0.9, 0.1)
    assert (chat["stop"], chat["user"], chat["reasoning_effort"]) == (["x"], "u", "xhigh")
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == ("required", False)
    assert chat["response_format"]["json_schema"]["json_schema"] == PARAMETERS
    assert chat["tools"][0]["function"] == {
        "name": "get_weather",
        "description": "The weather",
        "parameters": PARAMETERS,
    }
    assert chat_of(thinking={"type": "disabled"})["reasoning_effort"] == "none"
    assert chat_of(tools=[WEATHER], tool_choice={"type": "none"})["tool_choice"] == "none"
    assert "tool_choice" not in chat_of(tools=[], tool_choice={"type": "auto"})

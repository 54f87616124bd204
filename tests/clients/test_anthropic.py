"""The anthropic SDK: messages, streams, tools, parsed answers, thinking and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

anthropic = pytest.importorskip("anthropic")

PERSON = "Extract the information: John Smith, 30, software engineer"
WEATHER = "What is the weather in Paris?"
SUNNY = '{"temperature": 21, "condition": "sunny"}'
TRAIN = "A train travels 120 km in 2 hours. What is its average speed?"
GREEDY = {"extra_body": {"temperature": 0}, "max_tokens": 200}
CACHED = {"cache_control": {"type": "ephemeral"}}
TOOL = {
    "name": "get_weather",
    "description": "Get the current weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
    **CACHED,
}


class Person(BaseModel):
    name: str
    age: int
    occupation: str


JOHN = Person(name="John Smith", age=30, occupation="software engineer")


@pytest.fixture(scope="module", params=["api_key", "auth_token"])
def client(request: pytest.FixtureRequest, base_url: str) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=base_url, max_retries=0, **{request.param: "none"}) as client:
        yield client


@pytest.fixture
def asked(model_name: str) -> dict[str, Any]:
    return {"model": model_name, **GREEDY}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": [{"type": "text", "text": text, **CACHED}]}]


def test_a_message_and_its_stream(client: Any, asked: dict[str, Any]) -> None:
    question = {"messages": user("What is the capital of France?"), **asked}
    message = client.messages.create(**question)
    (block,) = message.content
    assert "Paris" in block.text
    assert message.stop_reason == "end_turn"
    with client.messages.stream(**question) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == block.text
    assert [block.type for block in final.content] == ["text"]
    assert final.usage.output_tokens == message.usage.output_tokens


def test_a_loop_of_tools(client: Any, asked: dict[str, Any]) -> None:
    messages = user(WEATHER)
    with client.messages.stream(messages=messages, tools=[TOOL], **asked) as stream:
        message = stream.get_final_message()
    assert message.stop_reason == "tool_use"
    (call,) = message.content
    assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": SUNNY, **CACHED}
    messages += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    answer = client.messages.create(messages=messages, tools=[TOOL], **asked)
    assert "sunny" in answer.content[0].text


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
def test_a_required_call(client: Any, asked: dict[str, Any], choice: dict[str, Any]) -> None:
    choice = choice | {"disable_parallel_tool_use": True}
    message = client.messages.create(
        messages=user("Hello"), tools=[TOOL], tool_choice=choice, **asked
    )
    assert [block.type for block in message.content] == ["tool_use"]
    assert message.stop_reason == "tool_use"


def test_a_parsed_answer(client: Any, asked: dict[str, Any]) -> None:
    message = client.messages.parse(messages=user(PERSON), output_format=Person, **asked)
    assert message.parsed_output == JOHN


def test_thinking_can_be_sent_back(client: Any, asked: dict[str, Any]) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    question = {**asked, "max_tokens": 1500, "thinking": thinking}
    with client.messages.stream(messages=user(TRAIN), **question) as stream:
        message = stream.get_final_message()
    thought, said = message.content
    assert "120" in thought.thinking
    assert thought.signature
    assert "60" in said.text
    history = [*user(TRAIN), {"role": "assistant", "content": message.content}, *user("Hello")]
    assert client.messages.create(messages=history, **question).content


def test_stops(client: Any, asked: dict[str, Any]) -> None:
    question = {**asked, "messages": user("What is the capital of France?")}
    stopped = client.messages.create(stop_sequences=["Paris"], **question)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    cut = client.messages.create(**question | {"max_tokens": 2})
    assert cut.stop_reason == "max_tokens"


def test_tokens_are_counted(client: Any, asked: dict[str, Any]) -> None:
    messages = user(WEATHER)
    counted = client.messages.count_tokens(
        model=asked["model"], messages=messages, tools=[TOOL], system="Be kind."
    )
    usage = client.messages.create(
        messages=messages, tools=[TOOL], system="Be kind.", **asked
    ).usage
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_errors_are_the_sdks_own(client: Any, asked: dict[str, Any]) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(messages=user("x"), **asked | {"model": "claude"})
    assert missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.messages.create(messages=[], **asked)
    assert "messages" in refused.value.message
    with pytest.raises(anthropic.BadRequestError) as threaded:
        client.beta.messages.create(messages=user("x"), thread={"id": "x"}, **asked)
    assert threaded.value.error_code == "thread_unsupported_request"
    assert threaded.value.request_id

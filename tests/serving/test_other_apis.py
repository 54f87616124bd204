"""The Responses API and Anthropic's on a real server: they say what chat completions say, because
it is the same prompt, grammar and engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DESCRIPTION = "Get the current weather in a city"


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def chat(http: httpx.Client, text: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def response(http: httpx.Client, question: str, *, stream: bool, **fields: Any) -> dict[str, Any]:
    body = {"input": question, "temperature": 0, "stream": stream, **fields}
    answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    return events(answer.text)[-1]["response"] if stream else answer.json()


def message(http: httpx.Client, text: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 300, **fields}
    answer = http.post("/v1/messages", json=body | {"temperature": 0})
    assert answer.status_code == 200, answer.text
    return answer.json()


def events(text: str) -> list[dict[str, Any]]:
    """The payloads of named events, each under the name that it says itself."""
    payloads = []
    for event in text.removesuffix("\n\n").split("\n\n"):
        name, data = event.split("\n")
        payloads.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {payloads[-1]['type']}"
    return payloads


@pytest.mark.parametrize("stream", [False, True])
def test_text_and_its_cost(http: httpx.Client, stream: bool) -> None:
    text = "What is the capital of France?"
    wanted = chat(http, text)
    answer = response(http, text, stream=stream)
    said = wanted["choices"][0]["message"]["content"]
    assert answer["output"][0]["content"][0]["text"] == said
    assert answer["usage"]["total_tokens"] == wanted["usage"]["total_tokens"]
    anthropic = message(http, text)
    assert anthropic["content"] == [{"type": "text", "text": said}]
    assert anthropic["usage"]["output_tokens"] == wanted["usage"]["completion_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema(http: httpx.Client, stream: bool) -> None:
    text = "Extract the information: John Smith, 30, software engineer"
    form = {"type": "json_schema", "name": "person", "schema": PERSON}
    answer = response(http, text, stream=stream, text={"format": form})
    person = {"name": "John Smith", "age": 30}
    assert json.loads(answer["output"][0]["content"][0]["text"]) == person
    config = {"format": {"type": "json_schema", "schema": PERSON}}
    anthropic = message(http, text, output_config=config)
    assert json.loads(anthropic["content"][0]["text"]) == person


@pytest.mark.parametrize("stream", [False, True])
def test_a_call(http: httpx.Client, stream: bool) -> None:
    text = "What is the weather in Paris?"
    named = {"name": "get_weather", "description": DESCRIPTION}
    tool = {"type": "function", **named, "parameters": CITY}
    (call,) = response(http, text, stream=stream, tools=[tool])["output"]
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Paris"})
    anthropic = message(http, text, tools=[{**named, "input_schema": CITY}])
    assert anthropic["stop_reason"] == "tool_use"
    assert anthropic["content"][0]["input"] == {"city": "Paris"}


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning(http: httpx.Client, stream: bool) -> None:
    text = "A train travels 120 km in 2 hours. What is its average speed?"
    answer = response(http, text, stream=stream, reasoning={"effort": "medium"})
    reasoning, said = answer["output"]
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] > 0
    thought, block = message(http, text, thinking={"type": "adaptive"})["content"]
    assert thought["thinking"] == reasoning["content"][0]["text"]
    assert block["text"] == said["content"][0]["text"]


def test_the_schema_of_a_refused_request_is_named(http: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "strin"}}}
    form = {"type": "json_schema", "name": "x", "schema": schema}
    refused = http.post("/v1/responses", json={"input": "x", "text": {"format": form}})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "text.format.schema#/properties/a/type"
    tools = [{"name": "f", "input_schema": schema}]
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "tools": tools}
    error = http.post("/v1/messages", json=body).json()["error"]
    assert "tools[0].input_schema#/properties/a/type" in error["message"]

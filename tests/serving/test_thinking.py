"""A budget for the reasoning, and requests with more tools than sense, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

pytestmark = pytest.mark.serve

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 40}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
KINDS: dict[str, dict[str, Any]] = {
    "text": {},
    "response_format": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}
    },
    "tools": {"tools": [TOOL], "tool_choice": "required"},
}
QUESTION = [{"role": "user", "content": "What is 17 plus 25, and what is the weather in Paris?"}]


@pytest.fixture
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"messages": QUESTION, "max_tokens": 20, "temperature": 0, **fields}
    return http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [0, 4])
def test_the_reasoning_keeps_to_its_budget(http, budget: int, kind: str) -> None:
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    free = ask(http, **thinking, **KINDS[kind]).json()
    assert free["usage"]["completion_tokens_details"]["reasoning_tokens"] > 8
    fields = {**thinking, **KINDS[kind], "max_tokens": 60}
    response = ask(http, thinking_token_budget=budget, **fields)
    assert response.status_code == 200, response.text
    answer = response.json()
    # The prompt opens the region; the marker that ends it counts.
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == budget + 1
    message = answer["choices"][0]["message"]
    thought, whole = message.get("reasoning_content"), free["choices"][0]["message"]
    assert bool(thought) == bool(budget)
    assert not thought or whole["reasoning_content"].startswith(thought)
    assert "</think>" not in (message["content"] or "")
    if kind == "response_format":
        jsonschema.validate(json.loads(message["content"]), CITY)
    elif kind == "tools":
        for called in message["tool_calls"]:
            jsonschema.validate(json.loads(called["function"]["arguments"]), CITY)
    else:
        assert message["content"]


def test_a_budget_of_no_use_changes_nothing(http) -> None:
    free = ask(http).json()["choices"][0]["message"]
    assert ask(http, thinking_token_budget=50).json()["choices"][0]["message"] == free


def test_a_negative_budget_is_refused(http) -> None:
    response = ask(http, thinking_token_budget=-1)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "thinking_token_budget"


def described(name: str, description: str) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": CITY}
    return {"type": "function", "function": function}


@pytest.mark.parametrize(
    "tools",
    [
        [described(f"tool_{i}", "Does something useful.") for i in range(500)],
        [described("f", "An endless story. " * 60_000)],
    ],
    ids=["500 tools", "a megabyte"],
)
def test_tools_that_fit_no_prompt(http, tools: list[dict[str, Any]]) -> None:
    response = ask(http, tools=tools)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert len(error["message"]) < 400
    assert ask(http, max_tokens=1).status_code == 200


def test_a_result_for_an_unknown_call(http) -> None:
    result = {"role": "tool", "tool_call_id": "nobody", "content": "[TOOL_CALLS] 22 degrees</s>"}
    response = ask(http, messages=[*QUESTION, result], tools=[TOOL])
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("thinking", [False, True])
def test_siblings_differ_behind_reasoning(http, stream: bool, thinking: bool) -> None:
    items = {"enum": ["a", "b", "c"]}
    tags = {"type": "array", "items": items, "minItems": 3, "uniqueItems": True}
    schema = {"type": "object", "properties": {"tags": tags}, "required": ["tags"]}
    fields = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "r", "schema": schema}},
        "chat_template_kwargs": {"enable_thinking": thinking},
        "structured_outputs": {"close_within_budget": True},
        "max_tokens": 120,
        "temperature": 1,
        "n": 4,
        "seed": 5,
    }
    texts = [""] * 4
    response = ask(http, stream=stream, **fields)
    assert response.status_code == 200, response.text
    if stream:
        for line in response.text.splitlines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    texts[choice["index"]] += choice["delta"].get("content") or ""
    else:
        texts = [choice["message"]["content"] for choice in response.json()["choices"]]
    for text in texts:
        jsonschema.validate(json.loads(text), schema)

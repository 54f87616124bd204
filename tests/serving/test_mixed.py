"""Many different requests at once, as a server sees them: each gets what it would get alone, and
nothing is left behind.
"""

from __future__ import annotations

import concurrent.futures
import json
import time
from typing import Any

import httpx
import jsonschema
import pytest

pytestmark = pytest.mark.serve

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city"],
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "occupation": {"type": "string"},
    },
    "required": ["name", "age", "occupation"],
    "additionalProperties": False,
}
PEOPLE = ["John Smith, 30, software engineer", "Mary Jones, 41, dentist", "张伟，28岁，教师"]
CITIES = ["Paris", "Tokyo", "Berlin", "Madrid"]


def request_of(kind: str, i: int) -> dict[str, Any]:
    body: dict[str, Any] = {"temperature": 0, "max_tokens": 120}
    if kind == "chat":
        text = f"What is the capital of {('France', 'Japan', 'Italy', 'Egypt')[i % 4]}?"
    elif kind == "json":
        text = f"Extract the information: {PEOPLE[i % len(PEOPLE)]}"
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "person", "schema": PERSON, "strict": True},
        }
    elif kind == "tools":
        text = f"What is the weather in {CITIES[i % len(CITIES)]}?"
        body |= {"tools": [WEATHER], "tool_choice": ("auto", "required")[i % 2]}
    else:
        text = f"A train travels {100 + 20 * i} km in 2 hours. What is its average speed?"
        body["chat_template_kwargs"] = {"enable_thinking": True}
        body["max_tokens"] = 300
    return body | {"messages": [{"role": "user", "content": text}]}


def fold(lines: Any) -> dict[str, Any]:
    """A streamed answer as the message it amounts to."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "calls": [], "finish": None}
    for line in lines:
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        for choice in json.loads(line[6:])["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                if call["index"] == len(message["calls"]):
                    message["calls"].append([call["function"]["name"], ""])
                message["calls"][call["index"]][1] += call["function"].get("arguments") or ""
            message["finish"] = choice["finish_reason"] or message["finish"]
    return message


def ask(url: str, body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    with httpx.Client(base_url=url, timeout=120) as client:
        if stream:
            with client.stream(
                "POST", "/v1/chat/completions", json=body | {"stream": True}
            ) as response:
                assert response.status_code == 200, response.read()
                return fold(response.iter_lines())
        response = client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        choice = response.json()["choices"][0]
        message = choice["message"]
        return {
            "content": message["content"] or "",
            "reasoning_content": message.get("reasoning_content") or "",
            "calls": [
                [call["function"]["name"], call["function"]["arguments"]]
                for call in message.get("tool_calls") or []
            ],
            "finish": choice["finish_reason"],
        }


def leave_early(url: str, body: dict[str, Any], *, stream: bool) -> None:
    """A client that goes away in the middle of its answer."""
    body = body | {"max_tokens": 1500, "ignore_eos": True}
    with httpx.Client(base_url=url) as client:
        if stream:
            with client.stream(
                "POST", "/v1/chat/completions", json=body | {"stream": True}, timeout=120
            ) as response:
                for _ in zip(range(5), response.iter_lines(), strict=False):
                    pass
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=body, timeout=httpx.Timeout(120, read=0.4))


def test_mixed_requests_at_once_equal_the_same_alone(server) -> None:
    kinds = ("chat", "json", "tools", "reasoning")
    requests = [(request_of(kinds[i % 4], i // 4), i % 3 == 0) for i in range(26)]
    alone = [ask(server.url, body, stream=False) for body, _ in requests]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        leavers = [
            pool.submit(leave_early, server.url, request_of("chat", i), stream=bool(i % 2))
            for i in range(6)
        ]
        together = list(pool.map(lambda item: ask(server.url, item[0], stream=item[1]), requests))
        for leaver in leavers:
            leaver.result()

    assert together == alone
    for (body, _), answer in zip(requests, together, strict=True):
        if "response_format" in body:
            jsonschema.validate(json.loads(answer["content"]), PERSON)
        if "tools" in body:
            assert answer["finish"] == "tool_calls"
            assert [name for name, _ in answer["calls"]] == ["get_weather"]
            parameters = WEATHER["function"]["parameters"]
            jsonschema.validate(json.loads(answer["calls"][0][1]), parameters)
    server.wait_until_idle()
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    assert server.metric("formgate:structured_answers_invalid_total") == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_request(server, stream: bool) -> None:
    server.wait_until_idle()
    aborted = server.metric("formgate:requests_aborted_by_disconnect_total")
    leave_early(server.url, request_of("chat", 0), stream=stream)
    deadline = time.monotonic() + 60
    while server.metric("vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline, "the request goes on without its client"
        time.sleep(0.02)
    assert server.metric("formgate:requests_aborted_by_disconnect_total") == aborted + 1
    assert server.metric("vllm:kv_cache_usage_perc") == 0

"""`structured_outputs.trace` on a real server: an entry for each generated token, the same streamed
as whole, and nothing else of the answer changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
def http(float32_server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=float32_server.url, timeout=120) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Extract: John Smith, a new customer."}]
    return {"messages": messages, "temperature": 0, "max_tokens": 120, **fields}


def whole(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json=body(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(http: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    answer = http.post("/v1/chat/completions", json=body(stream=True, **fields))
    assert answer.status_code == 200, answer.text
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    return [choice for line in lines for choice in json.loads(line)["choices"]]


def assert_is_trace(trace: list[dict[str, Any]]) -> None:
    for entry in trace:
        assert set(entry) == {"token", "pointer", "allowed", "masked", "forced"}
        assert entry["allowed"] >= 1
        assert 0.0 <= entry["masked"] <= 1.0
        assert entry["forced"] is (entry["allowed"] == 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT, "structured_outputs": {"trace": True}},
        {"structured_outputs": {"json": PERSON, "trace": True}},
        {"guided_json": PERSON, "structured_outputs": {"trace": True}},
    ],
    ids=["response_format", "structured_outputs", "guided_json"],
)
def test_each_token_of_a_json_answer(http, fields: dict[str, Any]) -> None:
    answer = whole(http, **fields)
    choice = answer["choices"][0]
    text, trace = choice["message"]["content"], choice["trace"]
    value = json.loads(text)
    assert_is_trace(trace)
    assert len(trace) == answer["usage"]["completion_tokens"]
    shown = [entry for entry in trace if entry["pointer"] is not None]
    assert "".join(entry["token"] for entry in shown) == text
    of_name = "".join(entry["token"] for entry in shown if entry["pointer"] == "/name")
    assert value["name"] in of_name
    assert {entry["pointer"] for entry in shown} >= {"", "/name", "/tags/0"}
    # The keys are forced, and the model has a choice in the name.
    assert any(entry["forced"] for entry in shown)
    assert any(entry["allowed"] > 100 for entry in shown if entry["pointer"] == "/name")
    assert any(entry["masked"] > 0 for entry in shown)

    plain = {**fields, "structured_outputs": {**fields["structured_outputs"], "trace": False}}
    without = whole(http, **plain)["choices"][0]
    assert without["message"]["content"] == text
    assert "trace" not in without

    chunks = streamed(http, **fields)
    pieces = [entry for chunk in chunks for entry in chunk.get("trace", ())]
    assert [entry | {"masked": 0} for entry in pieces] == [e | {"masked": 0} for e in trace]
    # Another batch, another rounding.
    assert [e["masked"] for e in pieces] == pytest.approx([e["masked"] for e in trace], abs=1e-4)
    assert "".join(chunk["delta"].get("content") or "" for chunk in chunks) == text
    for chunk in chunks:  # an entry comes with the text of its token, or before it
        if chunk["delta"].get("content") and chunk.get("trace"):
            assert chunk["trace"][-1]["token"].endswith(chunk["delta"]["content"][-1])


def test_a_chosen_token_is_of_the_mass_that_was_left(http) -> None:
    choice = whole(http, response_format=FORMAT, structured_outputs={"trace": True}, logprobs=True)[
        "choices"
    ][0]
    probabilities = [math.exp(entry["logprob"]) for entry in choice["logprobs"]["content"]]
    assert len(probabilities) >= 10
    for entry, probability in zip(choice["trace"], probabilities, strict=False):
        assert probability <= 1 - entry["masked"] + 1e-3
        if entry["forced"]:
            assert probability == pytest.approx(1 - entry["masked"], abs=1e-3)


@pytest.mark.parametrize(
    "outputs",
    [{"regex": "[a-f]{3,5}"}, {"choice": ["yes", "no"]}, {"grammar": 'root ::= "a" [0-9]{2}'}],
)
def test_other_kinds_have_no_pointers(http, outputs: dict[str, Any]) -> None:
    choice = whole(http, structured_outputs={**outputs, "trace": True})["choices"][0]
    assert_is_trace(choice["trace"])
    assert all(entry["pointer"] is None for entry in choice["trace"])
    shown = "".join(entry["token"] for entry in choice["trace"])
    assert shown.startswith(choice["message"]["content"])


def test_tool_calls_are_traced(http) -> None:
    answer = whole(
        http, tools=[WEATHER], tool_choice="required", structured_outputs={"trace": True}
    )
    choice = answer["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert_is_trace(choice["trace"])
    assert len(choice["trace"]) == answer["usage"]["completion_tokens"]


def test_reasoning_has_no_pointers(http) -> None:
    choice = whole(
        http,
        response_format=FORMAT,
        structured_outputs={"trace": True},
        chat_template_kwargs={"enable_thinking": True},
        max_tokens=600,
    )["choices"][0]
    assert choice["finish_reason"] == "stop"
    shown = "".join(e["token"] for e in choice["trace"] if e["pointer"] is not None)
    assert shown.strip() == choice["message"]["content"].strip()


def test_completions_and_several_choices(http) -> None:
    asked = {"prompt": "A person: ", "max_tokens": 100, "n": 2, "seed": 5, "guided_json": PERSON}
    answer = http.post("/v1/completions", json={**asked, "structured_outputs": {"trace": True}})
    assert answer.status_code == 200, answer.text
    for choice in answer.json()["choices"]:
        assert_is_trace(choice["trace"])
        shown = [entry["token"] for entry in choice["trace"] if entry["pointer"] is not None]
        assert "".join(shown) == choice["text"]


def test_a_trace_of_nothing_is_refused(http) -> None:
    for path, fields in (
        ("/v1/chat/completions", body()),
        ("/v1/chat/completions", body(response_format={"type": "text"})),
        ("/v1/completions", {"prompt": "x", "max_tokens": 5}),
    ):
        answer = http.post(path, json={**fields, "structured_outputs": {"trace": True}})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "structured_outputs.trace"
    answer = http.post("/v1/chat/completions", json=body(structured_outputs={"trace": "yes"}))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "structured_outputs.trace"

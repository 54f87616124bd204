"""Schemas that the last validation of an answer could choke on: the answer comes, everyone else is
served, and only metrics know of it.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.serve

HELLO = [{"role": "user", "content": "x"}]
BACKTRACKS = "^(?:(?:a|aa)+b|a+c)$"  # in an engine that tries one way after the other
ENDLESS = "a" * 80 + "c"


def doubling(levels: int) -> dict[str, Any]:
    """A string, which a validator may look at `2 ** levels` times."""
    defs: dict[str, Any] = {
        f"a{i}": {"allOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(levels)
    }
    return {
        "$ref": "#/$defs/a0",
        "$defs": defs | {f"a{levels}": {"type": "string", "maxLength": 4}},
    }


SCHEMAS: dict[str, Any] = {
    "backtracking": {"const": ENDLESS, "pattern": BACKTRACKS},
    "backtracking in a name": {
        "type": "object",
        "properties": {ENDLESS: {"type": "null"}},
        "patternProperties": {BACKTRACKS: {"type": "null"}},
        "required": [ENDLESS],
        "additionalProperties": False,
    },
    "doubling": doubling(40),
    "class of Unicode": {"type": "string", "pattern": r"^\p{L}{1,8}$"},
}


def chat(schema: Any, **fields: Any) -> dict[str, Any]:
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "schema": schema}}
    return {"messages": HELLO, "max_tokens": 200, "response_format": wanted, **fields}


def call(schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    parameters |= {"additionalProperties": False, "$defs": schema.get("$defs", {})}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    return {"messages": HELLO, "max_tokens": 200, "tools": [tool], "tool_choice": "required"}


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_comes_whatever_its_validation_would_cost(server: Any, name: str) -> None:
    schema = SCHEMAS[name]
    with httpx.Client(base_url=server.url, timeout=120) as client:
        for body in (chat(schema, n=2, stream=True), call(schema)):
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            assert '"error"' not in response.text
            assert client.get("/health").status_code == 200
    server.wait_until_idle()
    assert server.metric("formgate:structured_answers_invalid_total") == 0


def test_a_regex_and_a_grammar(server: Any) -> None:
    wanted = [
        {"regex": "(?:(?:a|aa)+b|a{60}c)"},
        {"regex": r"\p{L}{3}"},
        {"grammar": 'root ::= "ab" | "cd"'},
        {"choice": ["ab", "cd"]},
    ]
    before = sum(map(server.metric, COUNTED))
    for outputs in wanted:
        body = {"prompt": "x", "max_tokens": 100, "structured_outputs": outputs, "temperature": 0}
        response = httpx.post(server.url + "/v1/completions", json=body, timeout=120)
        assert response.status_code == 200, response.text
    server.wait_until_idle()
    assert server.metric("formgate:structured_answers_invalid_total") == 0
    assert sum(map(server.metric, COUNTED)) == before + len(wanted)


COUNTED = (
    "formgate:structured_answers_checked_total",
    "formgate:structured_answers_unchecked_total",
)


def test_what_is_too_costly_is_counted(server: Any) -> None:
    unchecked = server.metric("formgate:structured_answers_unchecked_total")
    body = chat(doubling(40))
    response = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=120)
    assert response.json()["choices"][0]["finish_reason"] == "stop"
    server.wait_until_idle()
    assert server.metric("formgate:structured_answers_unchecked_total") == unchecked + 1
